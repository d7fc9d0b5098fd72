package wxtoken

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"wxtoken/client/document"
)

// ReplySubject returns the subject to subscribe to for answering the messages and events of one
// account: wechat.reply.<component>.<authorizer>.>, where the tail is <msgtype>[.<event>]. Give "*" as
// authorizer for all accounts of the component.
//
// Whoever listens there is asked while WeChat waits: data is the document, the answer is the document of a
// reply, and nothing, or the text success, when there is none. It counts within 4 seconds of
// the message's arrival. Subscribe in a queue group, so that one instance of a service answers. The header ce-id
// is the same when WeChat sends a message again.
func ReplySubject(component, authorizer string) string {
	return "wechat.reply." + component + "." + authorizer + ".>"
}

// Message is a message of a user, or an event, as it lies on wechat.message.> and is asked about on wechat.reply.>.
// Fields that a document does not have are empty.
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

// ParseMessage reads a document of a message or event, XML or JSON. Fields that it does not know are ignored;
// there are many more than Message has. It returns an error that wraps ErrBadMessage when the document can't
// be read or has no MsgType; the error never shows the document.
//
// WeChat writes a user's text as it was typed: there may be control characters, half a character (read as U+FFFD) or tags in it. A field
// that such a text could have made is not believed: it is empty then. All but Content and EventKey are without white space around them.
func ParseMessage(text []byte) (Message, error) {
	d, err := document.Read(text, nil)
	if err != nil || d == nil {
		return Message{}, fmt.Errorf("%w: neither the XML nor the JSON of one", ErrBadMessage)
	}
	m := Message{
		ToUserName: d.Field("ToUserName"), FromUserName: d.Field("FromUserName"),
		MsgType: d.Field("MsgType"), MsgID: d.Field("MsgId"), Content: d.Text("Content"), MediaID: d.Field("MediaId"), JSON: d.JSON,
	}
	if m.MsgType == "" {
		return Message{}, fmt.Errorf("%w: MsgType is missing, or in doubt", ErrBadMessage)
	}
	if m.MsgID == "" {
		m.MsgID = d.Field("MsgID") // the spelling of TEMPLATESENDJOBFINISH
	}
	if m.MsgType == "event" {
		m.Event, m.EventKey = d.Field("Event"), d.Text("EventKey")
	}
	// Bounds that RFC 3339 can write.
	if n, err := strconv.ParseInt(d.Field("CreateTime"), 10, 64); err == nil && n > 0 && n < 1e11 {
		m.CreateTime = time.Unix(n, 0).UTC()
	}
	return m, nil
}

// Reply begins the reply to m: sender and receiver change places, now becomes its CreateTime, and it is
// XML or JSON as m is. Each method of Reply returns a whole document, which is the answer on wechat.reply.>.
func (m Message) Reply(now time.Time) Reply {
	return Reply{json: m.JSON, head: []field{
		{name: "ToUserName", text: m.FromUserName},
		{name: "FromUserName", text: m.ToUserName},
		{name: "CreateTime", number: now.Unix()},
	}}
}

// Reply writes passive replies ("Passive_user_reply_message"). Texts may hold anything; a character that XML can't
// carry becomes U+FFFD.
type Reply struct {
	head []field
	json bool
}

// maxArticles is how many articles a reply may have ("Passive_user_reply_message").
const maxArticles = 8

// Text returns a text.
func (r Reply) Text(content string) []byte {
	return r.document("text", field{name: "Content", text: content})
}

// Image returns an image that was uploaded as media.
func (r Reply) Image(mediaID string) []byte {
	return r.document("image", field{name: "Image", fields: []field{{name: "MediaId", text: mediaID}}})
}

// Voice returns a voice message that was uploaded as media.
func (r Reply) Voice(mediaID string) []byte {
	return r.document("voice", field{name: "Voice", fields: []field{{name: "MediaId", text: mediaID}}})
}

// Video is a video that was uploaded as media. Title and Description may be empty.
type Video struct{ MediaID, Title, Description string }

// Video returns a video.
func (r Reply) Video(v Video) []byte {
	return r.document("video", field{name: "Video", fields: given(
		field{name: "MediaId", text: v.MediaID}, field{name: "Title", text: v.Title}, field{name: "Description", text: v.Description},
	)})
}

// Music is a piece of music. All but ThumbMediaID may be empty.
type Music struct{ Title, Description, MusicURL, HQMusicURL, ThumbMediaID string }

// Music returns a piece of music.
func (r Reply) Music(m Music) []byte {
	return r.document("music", field{name: "Music", fields: given(
		field{name: "Title", text: m.Title}, field{name: "Description", text: m.Description},
		field{name: "MusicUrl", text: m.MusicURL}, field{name: "HQMusicUrl", text: m.HQMusicURL},
		field{name: "ThumbMediaId", text: m.ThumbMediaID},
	)})
}

// Article is one entry of News.
type Article struct{ Title, Description, PicURL, URL string }

// News returns 1 to 8 articles, and an error for another number of them. WeChat shows but the first one in reply to
// most messages.
func (r Reply) News(articles ...Article) ([]byte, error) {
	if len(articles) == 0 || len(articles) > maxArticles {
		return nil, fmt.Errorf("reply with news: %d articles, want 1 to %d", len(articles), maxArticles)
	}
	items := make([]field, len(articles))
	for n, a := range articles {
		items[n] = field{name: "item", fields: []field{
			{name: "Title", text: a.Title}, {name: "Description", text: a.Description},
			{name: "PicUrl", text: a.PicURL}, {name: "Url", text: a.URL},
		}}
	}
	return r.document("news", field{name: "ArticleCount", number: int64(len(articles))}, field{name: "Articles", fields: items, list: true}), nil
}

// TransferCustomerService hands the conversation to WeChat's customer service, or to the one
// account of it that kfAccount names; empty for any.
func (r Reply) TransferCustomerService(kfAccount string) []byte {
	if kfAccount == "" {
		return r.document("transfer_customer_service")
	}
	return r.document("transfer_customer_service", field{name: "TransInfo", fields: []field{{name: "KfAccount", text: kfAccount}}})
}

// field is one field of a reply: a text, a number that is not 0, or fields.
type field struct {
	name   string
	text   string
	number int64
	fields []field
	list   bool // fields are the items of a list
}

// given leaves out the fields without a text.
func given(all ...field) []field {
	kept := all[:0]
	for _, f := range all {
		if f.text != "" {
			kept = append(kept, f)
		}
	}
	return kept
}

func (r Reply) document(msgType string, body ...field) []byte {
	fields := append(slices.Clip(r.head), field{name: "MsgType", text: msgType})
	root := field{name: "xml", fields: append(fields, body...)}
	var b bytes.Buffer
	if r.json {
		root.json(&b)
	} else {
		root.xml(&b)
	}
	return b.Bytes()
}

func (f field) xml(b *bytes.Buffer) {
	b.WriteString("<" + f.name + ">")
	switch {
	case f.fields != nil:
		for _, inner := range f.fields {
			inner.xml(b)
		}
	case f.number != 0:
		b.WriteString(strconv.FormatInt(f.number, 10))
	default:
		// The end of CDATA within the text is divided between two of them.
		b.WriteString("<![CDATA[" + strings.ReplaceAll(strings.Map(xmlRune, f.text), "]]>", "]]]]><![CDATA[>") + "]]>")
	}
	b.WriteString("</" + f.name + ">")
}

// xmlRune puts U+FFFD in the place of a character that XML 1.0 does not have.
func xmlRune(r rune) rune {
	if r == '\t' || r == '\n' || r == '\r' || ' ' <= r && r <= 0xD7FF || 0xE000 <= r && r <= 0xFFFD || r >= 0x10000 {
		return r
	}
	return '\uFFFD'
}

func (f field) json(b *bytes.Buffer) {
	switch {
	case f.fields != nil:
		ends := "{}"
		if f.list {
			ends = "[]"
		}
		b.WriteByte(ends[0])
		for n, inner := range f.fields {
			if n > 0 {
				b.WriteByte(',')
			}
			if !f.list {
				b.WriteString(`"` + inner.name + `":`) // our own names: nothing to escape
			}
			inner.json(b)
		}
		b.WriteByte(ends[1])
	case f.number != 0:
		b.WriteString(strconv.FormatInt(f.number, 10))
	default:
		text, _ := json.Marshal(f.text) // a string always has a JSON
		b.Write(text)
	}
}
