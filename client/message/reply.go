package message

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Reply starts a reply to m: sender and receiver are swapped, now becomes its CreateTime, and it is
// XML or JSON as m is. Each method of Reply returns a whole document: the answer to a request on
// wechat.reply.>.
func (m Message) Reply(now time.Time) Reply {
	return Reply{json: m.JSON, head: []field{
		{name: "ToUserName", text: m.FromUserName},
		{name: "FromUserName", text: m.ToUserName},
		{name: "CreateTime", number: now.Unix()},
	}}
}

// Reply writes passive replies ("Passive_user_reply_message"). Texts may contain anything; a
// character that XML does not allow becomes U+FFFD.
type Reply struct {
	head []field
	json bool
}

// maxArticles is how many articles a reply may have ("Passive_user_reply_message").
const maxArticles = 8

// Text returns the document of a text reply.
func (r Reply) Text(content string) []byte {
	return r.document("text", field{name: "Content", text: content})
}

// Image returns the document of an image reply. The image was uploaded as media.
func (r Reply) Image(mediaID string) []byte {
	return r.document("image", field{name: "Image", fields: []field{{name: "MediaId", text: mediaID}}})
}

// Voice returns the document of a voice reply. The voice message was uploaded as media.
func (r Reply) Voice(mediaID string) []byte {
	return r.document("voice", field{name: "Voice", fields: []field{{name: "MediaId", text: mediaID}}})
}

// Video is a video that was uploaded as media. Title and Description may be empty.
type Video struct{ MediaID, Title, Description string }

// Video returns the document of a video reply.
func (r Reply) Video(v Video) []byte {
	return r.document("video", field{name: "Video", fields: withoutEmpty(
		field{name: "MediaId", text: v.MediaID}, field{name: "Title", text: v.Title}, field{name: "Description", text: v.Description},
	)})
}

// Music is a piece of music. All but ThumbMediaID may be empty.
type Music struct{ Title, Description, MusicURL, HQMusicURL, ThumbMediaID string }

// Music returns the document of a music reply.
func (r Reply) Music(m Music) []byte {
	return r.document("music", field{name: "Music", fields: withoutEmpty(
		field{name: "Title", text: m.Title}, field{name: "Description", text: m.Description},
		field{name: "MusicUrl", text: m.MusicURL}, field{name: "HQMusicUrl", text: m.HQMusicURL},
		field{name: "ThumbMediaId", text: m.ThumbMediaID},
	)})
}

// Article is one entry of News.
type Article struct{ Title, Description, PicURL, URL string }

// News returns the document of a reply of 1 to 8 articles, and an error for another number of them.
// In reply to most messages WeChat shows only the first one.
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
	return r.document("news",
		field{name: "ArticleCount", number: int64(len(articles))},
		field{name: "Articles", fields: items, list: true},
	), nil
}

// TransferCustomerService hands the conversation to WeChat's customer service, or to the one
// account of it that kfAccount names; empty for any.
func (r Reply) TransferCustomerService(kfAccount string) []byte {
	if kfAccount == "" {
		return r.document("transfer_customer_service")
	}
	account := []field{{name: "KfAccount", text: kfAccount}}
	return r.document("transfer_customer_service", field{name: "TransInfo", fields: account})
}

// field is one field of a reply: a text, a number that is not 0, or fields.
type field struct {
	name   string
	text   string
	number int64
	fields []field
	list   bool // fields are the items of a list
}

// withoutEmpty returns the fields that have a text.
func withoutEmpty(all ...field) []field {
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
		// An end of CDATA within the text is split between two CDATA sections.
		b.WriteString("<![CDATA[" + strings.ReplaceAll(strings.Map(xmlRune, f.text), "]]>", "]]]]><![CDATA[>") + "]]>")
	}
	b.WriteString("</" + f.name + ">")
}

// xmlRune replaces a character that XML 1.0 does not allow with U+FFFD.
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
		text, _ := json.Marshal(f.text) // never fails for a string
		b.Write(text)
	}
}
