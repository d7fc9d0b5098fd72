package wechat

import (
	"bytes"
	"strconv"
	"strings"
)

const xmlSpace = " \t\r\n"

// xmlScanner reads the XML that WeChat sends: elements, text, CDATA, the five predefined entities and
// numeric references, and one declaration at the start. There are no attributes, comments, processing
// instructions or document types in it: each of them is refused where it stands, so nothing is ever
// expanded or fetched.
type xmlScanner struct {
	doc      []byte
	pos      int
	visit    func(*element) error
	open     []openElement
	backing  [4]openElement // of open: most documents are not deeper
	elements int            // seen so far
	element  element
}

// openElement is an element whose end has not come yet.
type openElement struct {
	name   []byte
	start  int // of its content
	value  []byte
	pieces int
	owned  bool // value is a copy, not part of the document
	parent bool // has elements inside
}

func (s *xmlScanner) scan() error {
	s.open = s.backing[:0]
	if err := checkCharacters(s.doc[s.pos:]); err != nil {
		return err
	}
	if err := s.declaration(); err != nil {
		return err
	}
	for {
		length := bytes.IndexByte(s.doc[s.pos:], '<')
		if length < 0 {
			break
		}
		if err := s.text(s.doc[s.pos : s.pos+length]); err != nil {
			return err
		}
		s.pos += length
		var err error
		switch rest := s.doc[s.pos+1:]; {
		case bytes.HasPrefix(rest, []byte("/")):
			err = s.endTag()
		case bytes.HasPrefix(rest, []byte("![CDATA[")):
			err = s.cdata()
		case bytes.HasPrefix(rest, []byte("!--")):
			err = refuse(ReasonXMLShape, "comment at byte %d: WeChat sends none", s.pos)
		case bytes.HasPrefix(rest, []byte("!")):
			err = refuse(ReasonXML, "document type or declaration at byte %d: WeChat sends none", s.pos)
		case bytes.HasPrefix(rest, []byte("?")):
			err = refuse(ReasonXML, "processing instruction at byte %d: WeChat sends none", s.pos)
		default:
			err = s.startTag()
		}
		if err != nil {
			return err
		}
	}
	if len(s.open) > 0 || s.elements == 0 {
		return refuse(ReasonXML, "the document ends inside an element")
	}
	return s.text(s.doc[s.pos:])
}

// declaration reads an optional <?xml version="1.0" encoding="UTF-8" standalone="yes"?>.
func (s *xmlScanner) declaration() error {
	rest := s.doc[s.pos:]
	if !bytes.HasPrefix(rest, []byte("<?xml")) {
		return nil
	}
	end := bytes.Index(rest, []byte("?>"))
	if end < 0 || end > 128 || strings.IndexByte(xmlSpace, rest[len("<?xml")]) < 0 {
		return refuse(ReasonXML, "the XML declaration can't be read")
	}
	for i, attribute := range strings.Fields(string(rest[len("<?xml"):end])) {
		name, value, _ := strings.Cut(attribute, "=")
		if len(value) < 2 || value[0] != value[len(value)-1] || value[0] != '"' && value[0] != '\'' {
			return refuse(ReasonXML, "the XML declaration can't be read")
		}
		value = value[1 : len(value)-1]
		known := name == "version" && value == "1.0" && i == 0 ||
			name == "encoding" && strings.EqualFold(value, "utf-8") && i == 1 ||
			name == "standalone" && (value == "yes" || value == "no") && i > 0
		if !known {
			return refuse(ReasonXML, "the XML declaration is not of XML 1.0 in UTF-8")
		}
	}
	s.pos += end + len("?>")
	return nil
}

func (s *xmlScanner) startTag() error {
	at := s.pos
	name, err := s.tagName(at + 1)
	if err != nil {
		return err
	}
	empty := bytes.HasPrefix(s.doc[s.pos:], []byte("/>"))
	switch {
	case empty:
		s.pos += 2
	case s.doc[s.pos] == '>':
		s.pos++
	default:
		return refuse(ReasonXMLShape, "attribute in the element at byte %d: WeChat sends none", at)
	}

	if len(s.open) == 0 {
		if s.elements > 0 {
			return refuse(ReasonXMLShape, "second root at byte %d", at)
		}
		if string(name) != "xml" {
			return refuse(ReasonXML, "the root is not xml")
		}
	} else {
		parent := s.innermost()
		if len(bytes.Trim(parent.value, xmlSpace)) > 0 {
			return refuse(ReasonXMLShape, "text beside the element at byte %d", at)
		}
		parent.parent = true
	}
	if len(s.open) == maxDepth {
		return refuse(ReasonXMLShape, "more than %d nested elements at byte %d", maxDepth, at)
	}
	if s.elements == maxElements {
		return refuse(ReasonXMLShape, "more than %d elements", maxElements)
	}
	s.elements++
	s.open = append(s.open, openElement{name: name, start: s.pos})
	if empty {
		return s.close(s.pos)
	}
	return nil
}

func (s *xmlScanner) endTag() error {
	at := s.pos
	name, err := s.tagName(at + 2)
	if err != nil {
		return err
	}
	if s.doc[s.pos] != '>' {
		return refuse(ReasonXML, "the end tag at byte %d can't be read", at)
	}
	s.pos++
	if len(s.open) == 0 || !bytes.Equal(name, s.innermost().name) {
		return refuse(ReasonXML, "the end tag at byte %d has no start tag", at)
	}
	return s.close(at)
}

// tagName reads the name at pos and the white space after it. There is another byte at s.pos afterwards.
func (s *xmlScanner) tagName(pos int) ([]byte, error) {
	end := pos
	for end < len(s.doc) && isNameByte(s.doc[end], end == pos) {
		end++
	}
	name := s.doc[pos:end]
	if len(name) == 0 {
		return nil, refuse(ReasonXML, "no name in the tag at byte %d", pos)
	}
	if len(name) > maxName {
		return nil, refuse(ReasonXMLShape, "name of more than %d bytes at byte %d", maxName, pos)
	}
	for end < len(s.doc) && strings.IndexByte(xmlSpace, s.doc[end]) >= 0 {
		end++
	}
	if end == len(s.doc) {
		return nil, refuse(ReasonXML, "the document ends inside a tag")
	}
	s.pos = end
	return name, nil
}

// isNameByte leaves out the colon: a prefix would make two names of one element.
func isNameByte(c byte, first bool) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' ||
		!first && ('0' <= c && c <= '9' || c == '-' || c == '.')
}

func (s *xmlScanner) innermost() *openElement { return &s.open[len(s.open)-1] }

// close ends the innermost element, whose content ends before end.
func (s *xmlScanner) close(end int) error {
	o := s.innermost()
	s.element = element{
		name: o.name, depth: len(s.open), leaf: !o.parent, pieces: o.pieces,
		start: o.start, end: end,
	}
	if !o.parent {
		s.element.value = o.value
	}
	s.open = s.open[:len(s.open)-1]
	return s.visit(&s.element)
}

func (s *xmlScanner) cdata() error {
	at := s.pos
	if len(s.open) == 0 {
		return refuse(ReasonXMLShape, "CDATA outside the root at byte %d", at)
	}
	start := at + len("<![CDATA[")
	length := bytes.Index(s.doc[start:], []byte("]]>"))
	if length < 0 {
		return refuse(ReasonXML, "the CDATA at byte %d has no end", at)
	}
	piece := s.doc[start : start+length]
	s.pos = start + length + len("]]>")
	if bytes.IndexByte(piece, '\r') >= 0 {
		piece = normalizeLines(piece)
	}
	return s.piece(piece)
}

// text takes the characters between two tags.
func (s *xmlScanner) text(run []byte) error {
	if len(run) == 0 {
		return nil
	}
	if len(s.open) == 0 {
		if len(bytes.Trim(run, xmlSpace)) > 0 {
			return refuse(ReasonXMLShape, "text outside the root")
		}
		return nil
	}
	if bytes.Contains(run, []byte("]]>")) {
		return refuse(ReasonXML, "]]> outside CDATA before byte %d", s.pos+len(run))
	}
	if bytes.IndexByte(run, '&') >= 0 {
		var err error
		if run, err = s.unescape(run); err != nil {
			return err
		}
	} else if bytes.IndexByte(run, '\r') >= 0 {
		run = normalizeLines(run)
	}
	return s.piece(run)
}

// piece adds text to the innermost element.
func (s *xmlScanner) piece(text []byte) error {
	o := s.innermost()
	if o.parent {
		if len(bytes.Trim(text, xmlSpace)) > 0 {
			return refuse(ReasonXMLShape, "text beside an element before byte %d", s.pos)
		}
		return nil
	}
	switch {
	case o.pieces == 0:
		o.value = text
	case o.owned:
		o.value = append(o.value, text...)
	default: // never append to a part of the document
		o.value = append(bytes.Clone(o.value), text...)
		o.owned = true
	}
	o.pieces++
	return nil
}

// normalizeLines turns every kind of line end into a line feed, as XML 1.0 wants it (section 2.11).
func normalizeLines(text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(text, []byte("\r"), []byte("\n"))
}

// unescape resolves references in text and normalizes line ends outside them.
func (s *xmlScanner) unescape(text []byte) ([]byte, error) {
	resolved := make([]byte, 0, len(text))
	for {
		i := bytes.IndexByte(text, '&')
		if i < 0 {
			return append(resolved, normalizeLines(text)...), nil
		}
		resolved = append(resolved, normalizeLines(text[:i])...)
		text = text[i+1:]
		end := bytes.IndexByte(text, ';')
		if end < 0 || end > 10 {
			return nil, refuse(ReasonXML, "reference without an end after byte %d", s.pos)
		}
		r, ok := reference(string(text[:end]))
		if !ok {
			return nil, refuse(ReasonXML, "unknown reference after byte %d: only the predefined ones and characters of XML", s.pos)
		}
		resolved = append(resolved, string(r)...)
		text = text[end+1:]
	}
}

// reference returns the character that &name; stands for.
func reference(name string) (rune, bool) {
	switch name {
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "amp":
		return '&', true
	case "apos":
		return '\'', true
	case "quot":
		return '"', true
	}
	digits, numeric := strings.CutPrefix(name, "#")
	base := 10
	if hex, ok := strings.CutPrefix(digits, "x"); ok {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if !numeric || err != nil || n > 0x10FFFF || !inXMLRange(rune(n)) {
		return 0, false
	}
	return rune(n), true
}
