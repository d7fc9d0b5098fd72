// Package message reads the messages and events that WeChat sends to an account, and writes the
// replies to them.
//
// ingest asks services for the reply while WeChat waits. A service listens on [ReplySubject] in a
// queue group, so that one of its instances is asked:
//
//	nc.QueueSubscribe(message.ReplySubject(component, "*"), "shop", func(m *nats.Msg) {
//		received, err := message.Parse(m.Data)
//		if err != nil || received.MsgType != "text" {
//			_ = m.Respond(nil) // no reply
//			return
//		}
//		_ = m.Respond(received.Reply(time.Now()).Text("you said: " + received.Content))
//	})
//
// Package wxtokentest has this as an example that runs. Nothing here does I/O, and all of it may be
// used by several goroutines at a time.
package message

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"wxtoken/client/document"
)

// ErrUnreadable is returned by Parse for a text that is not a message.
var ErrUnreadable = errors.New("unreadable message")

// ReplySubject returns the subject to subscribe to for answering the messages and events of one
// account: wechat.reply.<component>.<authorizer>.>, where the tail is <msgtype>[.<event>]. Give "*"
// as authorizer for all accounts of the component.
//
// A service that listens there is asked while WeChat waits. The request's data is the document; the
// answer is the document of a reply, or empty, or the text success, for no reply. It must come
// within 4 seconds of the message's arrival. Subscribe in a queue group, so that one instance of a
// service answers. The header ce-id is the same when WeChat sends a message again.
func ReplySubject(component, authorizer string) string {
	return "wechat.reply." + component + "." + authorizer + ".>"
}

// Message is a message of a user, or an event, as it is published on wechat.message.> and sent as a
// request on wechat.reply.>. Fields that a document does not have are empty.
type Message struct {
	ToUserName   string    // the account's gh_ id
	FromUserName string    // the user's openid
	CreateTime   time.Time // UTC, to the second; zero when it can't be read
	MsgType      string    // text, image, event, ...
	MsgID        string    // empty for most events
	Content      string    // of a text
	MediaID      string    // of an image, voice or video
	Event        string    // of an event, as WeChat spells it: subscribe, CLICK, ...
	EventKey     string    // of an event: the key of the menu, the scene of the QR code
	JSON         bool      // the document is JSON, so the reply must be too
}

// Parse reads a document of a message or event, XML or JSON. Other fields than those of Message are
// ignored; there are many. It returns an error that wraps ErrUnreadable when the document can't be
// read or has no MsgType; the error never quotes the document.
//
// WeChat writes a user's text as it was typed: it may contain control characters, half a character
// (read as U+FFFD) or tags. A field that such a text could have forged is not trusted, and is
// empty. White space around all fields but Content and EventKey is removed.
func Parse(text []byte) (Message, error) {
	d, err := document.Read(text, nil)
	if err != nil || d == nil {
		return Message{}, fmt.Errorf("%w: neither the XML nor the JSON of one", ErrUnreadable)
	}
	m := From(d)
	if m.MsgType == "" {
		return Message{}, fmt.Errorf("%w: MsgType is missing, or in doubt", ErrUnreadable)
	}
	return m, nil
}

// From returns the message in a document that was read already: for callers that need more fields
// than Message has ([document.Document.Field]), or have a document that may not be a message.
// MsgType is empty then.
func From(d *document.Document) Message {
	m := Message{
		ToUserName: d.Field("ToUserName"), FromUserName: d.Field("FromUserName"), MsgType: d.Field("MsgType"),
		MsgID: d.Field("MsgId"), Content: d.Text("Content"), MediaID: d.Field("MediaId"), JSON: d.JSON,
	}
	if m.MsgID == "" {
		m.MsgID = d.Field("MsgID") // the spelling of TEMPLATESENDJOBFINISH
	}
	if m.MsgType == "event" {
		m.Event, m.EventKey = d.Field("Event"), d.Text("EventKey")
	}
	// Bounded to times that RFC 3339 can express.
	if n, err := strconv.ParseUint(d.Field("CreateTime"), 10, 64); err == nil && n > 0 && n < 1e11 {
		m.CreateTime = time.Unix(int64(n), 0).UTC()
	}
	return m
}
