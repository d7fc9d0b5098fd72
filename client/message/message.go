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

// ErrUnreadable is returned by Parse for a text that is no message.
var ErrUnreadable = errors.New("unreadable message")

// ReplySubject returns the subject to subscribe to for answering the messages and events of one
// account: wechat.reply.<component>.<authorizer>.>, where the tail is <msgtype>[.<event>]. Give "*"
// as authorizer for all accounts of the component.
//
// A service that listens there is asked while WeChat waits: data is the document, the answer is the
// document of a reply, and nothing, or the text success, when there is none. It counts within 4
// seconds of the message's arrival. Subscribe in a queue group, so that one instance of a service
// answers. The header ce-id is the same when WeChat sends a message again.
func ReplySubject(component, authorizer string) string {
	return "wechat.reply." + component + "." + authorizer + ".>"
}

// Message is a message of a user, or an event, as it lies on wechat.message.> and is asked about on
// wechat.reply.>. Fields that a document does not have are empty.
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
	JSON         bool      // the document is JSON, so its reply has to be
}

// Parse reads a document of a message or event, XML or JSON. Fields that it does not know are
// ignored; there are many more than Message has. It returns an error that wraps ErrUnreadable when
// the document can't be read or has no MsgType; the error never shows the document.
//
// WeChat writes a user's text as it was typed: there may be control characters, half a character
// (read as U+FFFD) or tags in it. A field that such a text could have made is not believed: it is
// empty then. All but Content and EventKey are without white space around them.
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

// From returns the fields of a message from a document that was read already: for those who want
// more fields of it than a Message has, by [document.Document.Field], and for what may be no
// message at all. MsgType is empty then.
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
	// Bounds that RFC 3339 can write.
	if n, err := strconv.ParseUint(d.Field("CreateTime"), 10, 64); err == nil && n > 0 && n < 1e11 {
		m.CreateTime = time.Unix(int64(n), 0).UTC()
	}
	return m
}
