package console

import (
	"errors"
	"strings"
	"unicode"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client/document"
	"wxtoken/internal/wechat"
)

// Document is what WeChat wrote, as far as it may be shown.
type Document struct {
	Hidden string  `json:"hidden,omitempty"` // why nothing of it is shown
	Fields []Field `json:"fields"`
	Text   string  `json:"text,omitempty"` // as it lies there, secrets blanked
	Cut    bool    `json:"cut,omitempty"`  // there is more of it
}

// Field is a text of a document.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

const (
	// maxFields and maxDocument bound what is shown of a document; the latter in bytes.
	maxFields, maxDocument = 200, 16 << 10
	// maxGist bounds what a list shows of one, in characters.
	maxGist = 80
)

// hiddenSecret is why a document is not shown.
const hiddenSecret = "secret"

// decode reads a document. What is secret is blanked before anything of it is looked at; where that
// can't be told from the rest, nothing is shown.
func decode(data []byte) Document {
	d := Document{Fields: []Field{}}
	blanked := wechat.Redact(data)
	if blanked == nil {
		d.Hidden = hiddenSecret
		return d
	}
	_, err := document.Read(blanked, func(e document.Element) {
		if e.Leaf && e.Depth > 1 && len(d.Fields) < maxFields {
			d.Fields = append(d.Fields, Field{string(e.Name), strings.ToValidUTF8(string(e.Value), "\uFFFD")})
		}
	})
	if err != nil {
		d.Fields, d.Hidden = []Field{}, hiddenSecret
		return d
	}
	d.Text, d.Cut = strings.ToValidUTF8(string(blanked[:min(len(blanked), maxDocument)]), "\uFFFD"), len(blanked) > maxDocument
	return d
}

// gistFields are those that tell most of a message, the first that is there.
var gistFields = []string{"Content", "EventKey", "Recognition", "Label", "Title", "PicUrl", "MediaId", "msg", "reason", "Reason", "status"}

// gist says in one line what a message says.
func (d Document) gist() string {
	for _, name := range gistFields {
		for _, f := range d.Fields {
			if text := strings.Join(strings.Fields(f.Value), " "); f.Name == name && text != "" {
				if runes := []rune(text); len(runes) > maxGist {
					text = string(runes[:maxGist]) + "…"
				}
				return printable(text)
			}
		}
	}
	return ""
}

// NameText and ValueText are what can be shown of foreign texts.
func (f Field) NameText() string { return printable(f.Name) }

// ValueText is the value on one line.
func (f Field) ValueText() string { return printable(f.Value) }

// Shown is the text as it can be shown.
func (d Document) Shown() string { return shownWhole(d.Text) }

// shownWhole takes out of a text what a terminal would obey and what turns a line around, and
// leaves its lines.
func shownWhole(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, text)
}

// noMessage reports whether a message is not there, and not only out of reach.
func noMessage(err error) bool { return errors.Is(err, jetstream.ErrMsgNotFound) }
