package wechat

import (
	"bytes"
	"unicode/utf8"
)

// Bounds of a document, far above what WeChat sends and far below what costs us anything.
const (
	maxDepth    = 16   // nested elements, the root included
	maxElements = 1024 // in the whole document
	maxName     = 64   // bytes of an element's name
)

// element is one element of a document in XML, or one member of a document in JSON.
type element struct {
	name       []byte
	value      []byte // the text of a leaf; it may be part of the document itself
	depth      int    // 1 for the root, 2 for its fields
	leaf       bool   // no elements inside
	pieces     int    // of text and CDATA that value was put together from
	start, end int    // where the content stands in the document
}

var byteOrderMark = []byte("\uFEFF")

// walk reads doc, XML with the root "xml" or a JSON object, in one pass and calls visit at the end of each element.
// Whatever it accepts, encoding/xml or encoding/json reads in the same way. It returns the first
// refusal, its own or visit's, and whether doc is JSON; visit may have seen elements before a refusal.
func walk(doc []byte, visit func(*element) error) (isJSON bool, err error) {
	text := bytes.TrimPrefix(doc, byteOrderMark)
	start := bytes.TrimLeft(text, xmlSpace)
	if len(start) == 0 {
		return false, refuse(ReasonEmpty, "nothing but white space")
	}
	switch start[0] {
	case '<':
		s := xmlScanner{doc: doc, pos: len(doc) - len(text), visit: visit}
		return false, s.scan()
	case '{':
		return true, walkJSON(doc, len(doc)-len(text), visit)
	}
	return false, refuse(ReasonXML, "neither XML nor a JSON object")
}

// checkCharacters refuses bytes that are no UTF-8 and characters that XML excludes.
func checkCharacters(doc []byte) error {
	for i := 0; i < len(doc); {
		c := doc[i]
		if c < utf8.RuneSelf {
			if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
				return refuse(ReasonXML, "control character at byte %d", i)
			}
			i++
			continue
		}
		r, size := utf8.DecodeRune(doc[i:])
		if r == utf8.RuneError && size == 1 {
			return refuse(ReasonXML, "not UTF-8 at byte %d", i)
		}
		if !inXMLRange(r) {
			return refuse(ReasonXML, "character outside XML's range at byte %d", i)
		}
		i += size
	}
	return nil
}

// inXMLRange reports whether XML 1.0 allows r.
func inXMLRange(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' ||
		' ' <= r && r <= 0xD7FF || 0xE000 <= r && r <= 0xFFFD || 0x10000 <= r && r <= utf8.MaxRune
}
