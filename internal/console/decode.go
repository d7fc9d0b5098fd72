package console

import (
	"strings"
	"unicode"

	"wxtoken/client/document"
	"wxtoken/internal/wechat"
)

// Document is what WeChat wrote, as far as it may be shown.
type Document struct {
	Hidden string  `json:"hidden,omitempty"` // why nothing of it is shown
	Fields []Field `json:"fields"`
	Text   string  `json:"text,omitempty"` // as it was stored, secrets blanked
	Cut    bool    `json:"cut,omitempty"`  // there is more of it
}

// Field is a field of a document.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

const (
	// maxFields and maxDocument bound what is shown of a document; the latter in bytes.
	maxFields, maxDocument = 200, 16 << 10
	// maxGist bounds the gist of a document, in characters.
	maxGist = 80
)

// hiddenSecret: the document is not shown because its secrets could not be blanked.
const hiddenSecret = "secret"

// decode reads a document. Secrets are blanked before anything else happens to it; if they can't be told
// apart from the rest, nothing is shown.
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

// gistFields are the fields that say most about a message: the first that is there counts.
var gistFields = []string{"Content", "EventKey", "Recognition", "Label", "Title", "PicUrl", "MediaId", "msg", "reason", "Reason", "status"}

// gist returns the content of a message in one line.
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

// NameText is the name as it can be shown.
func (f Field) NameText() string { return printable(f.Name) }

// ValueText is the value as it can be shown, on one line.
func (f Field) ValueText() string { return printable(f.Value) }

// Printable is the text as it can be shown.
func (d Document) Printable() string { return printableLines(d.Text) }

// printableLines is printable for a text of several lines, which stay, without a bound on its length.
func printableLines(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, text)
}
