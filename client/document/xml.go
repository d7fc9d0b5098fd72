package document

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

var (
	cdataStart = []byte("<![CDATA[")
	cdataEnd   = []byte("]]>")
)

// xmlScanner walks through XML: elements, text, CDATA, references. Attributes, comments and
// instructions are skipped. It stops where tags don't match.
type xmlScanner struct {
	d        *Document
	text     []byte
	pos      int
	visit    func(Element)
	open     []openElement
	backing  [4]openElement // of open: most documents are not deeper
	elements int            // seen so far
	element  Element
	rooted   bool // the root is xml
	declared bool // there is a document type where no user can have put one
}

// openElement is an element whose end tag has not come yet.
type openElement struct {
	name   []byte // with its prefix
	start  int    // of its content
	value  []byte
	pieces int16 // that are not blank
	owned  bool  // value is a copy, not part of the document
	parent bool  // has elements inside
}

func (s *xmlScanner) scan() {
	s.open = s.backing[:0]
	for s.d.Whole {
		length := bytes.IndexByte(s.text[s.pos:], '<')
		if length < 0 {
			break
		}
		if s.charData(s.text[s.pos : s.pos+length]); !s.d.Whole {
			return
		}
		s.pos += length
		switch rest := s.text[s.pos+1:]; {
		case bytes.HasPrefix(rest, []byte("/")):
			s.endTag()
		case bytes.HasPrefix(rest, []byte("![CDATA[")):
			s.cdata()
		case bytes.HasPrefix(rest, []byte("!--")):
			s.skip("comment", "-->")
		case bytes.HasPrefix(rest, []byte("!")):
			s.declaration()
		case bytes.HasPrefix(rest, []byte("?")):
			s.instruction()
		default:
			s.startTag()
		}
	}
	if !s.d.Whole {
		return
	}
	if len(s.open) > 0 || s.elements == 0 {
		s.d.abort(Structure, "the document ends inside an element")
		return
	}
	s.charData(s.text[s.pos:])
}

// declaration handles a document type, or something like it. Inside a user's text it is only text.
func (s *xmlScanner) declaration() {
	s.declared = len(s.open) < 2 && !s.d.holdsText()
	s.d.abort(Structure, "document type or declaration at byte %d", s.pos)
}

// instruction skips <?...?>. An XML declaration at the start is not odd.
func (s *xmlScanner) instruction() {
	at := s.pos
	rest := s.text[at:]
	end := bytes.Index(rest, []byte("?>"))
	if !s.rooted && bytes.HasPrefix(rest, []byte("<?xml ")) && end >= 0 && end < maxTag &&
		plainDeclaration(rest[len("<?xml"):end]) {
		s.pos += end + len("?>")
		return
	}
	s.d.Foreign = s.d.Foreign || !s.rooted
	s.skip("instruction", "?>")
}

// plainDeclaration reports whether an XML declaration names no encoding but UTF-8.
func plainDeclaration(attributes []byte) bool {
	if bytes.IndexByte(attributes, '<') >= 0 {
		return false
	}
	_, encoding, named := bytes.Cut(attributes, []byte("encoding="))
	return !named || len(encoding) > 6 && bytes.EqualFold(encoding[1:6], []byte("utf-8"))
}

// skip skips what ends with end. If there were a tag inside, it could hide the end of a text.
func (s *xmlScanner) skip(what, end string) {
	at := s.pos
	length := bytes.Index(s.text[at:], []byte(end))
	if length < 0 || bytes.IndexByte(s.text[at+1:at+length], '<') >= 0 {
		s.d.abort(Structure, "%s with a tag inside, or without an end, at byte %d", what, at)
		return
	}
	s.d.Odd(Markup, "%s at byte %d", what, at)
	s.pos = at + length + len(end)
}

func (s *xmlScanner) startTag() {
	at := s.pos
	name := s.tagName(at + 1)
	if name == nil {
		return
	}
	empty, ok := s.attributes(at)
	if !ok {
		return
	}
	if len(s.open) == 0 {
		if s.elements > 0 {
			s.d.Outside = true
			s.d.abort(Structure, "second root at byte %d", at)
			return
		}
		if s.rooted = string(localName(name)) == "xml"; !s.rooted {
			s.d.abort(Structure, "the root is not xml")
			return
		}
		if len(name) > len("xml") {
			s.d.Odd(Markup, "the root has a prefix")
		}
		s.d.root = s.pos
	} else {
		parent := s.innermost()
		if parent.pieces > 0 && !parent.parent {
			s.d.Odd(Beside, "text beside the element at byte %d", at)
		}
		parent.parent = true
	}
	if len(s.open) == maxDepth || s.elements == maxElements {
		s.d.abort(Bounds, "more than %d nested elements, or %d in all, at byte %d", maxDepth, maxElements, at)
		return
	}
	s.elements++
	s.open = append(s.open, openElement{name: name, start: s.pos})
	if empty {
		s.close(s.pos)
	}
}

// attributes skips what follows the name in a start tag, up to its end.
func (s *xmlScanner) attributes(at int) (empty, ok bool) {
	for i := s.pos; i < len(s.text) && i-at < maxTag; {
		switch c := s.text[i]; c {
		case '>':
			s.pos = i + 1
			return false, true
		case '/':
			if i+1 < len(s.text) && s.text[i+1] == '>' {
				s.pos = i + 2
				return true, true
			}
			i++
		case ' ', '\t', '\r', '\n':
			i++
			continue
		case '"', '\'':
			length := bytes.IndexByte(s.text[i+1:], c)
			if length < 0 || bytes.IndexByte(s.text[i+1:i+1+length], '<') >= 0 {
				s.d.abort(Structure, "the attributes of the element at byte %d have no end", at)
				return false, false
			}
			i += length + 2
		case '<':
			s.d.abort(Structure, "a tag inside the tag at byte %d", at)
			return false, false
		default:
			i++
		}
		s.d.Odd(Markup, "attribute in the element at byte %d", at)
	}
	s.d.abort(Bounds, "the tag at byte %d does not end within %d bytes", at, maxTag)
	return false, false
}

func (s *xmlScanner) endTag() {
	at := s.pos
	if len(s.open) > 0 { // as nearly always
		name := s.innermost().name
		if rest := s.text[at+2:]; len(rest) > len(name) && rest[len(name)] == '>' && bytes.HasPrefix(rest, name) {
			s.pos = at + 2 + len(name) + 1
			s.close(at)
			return
		}
	}
	name := s.tagName(at + 2)
	if name == nil {
		return
	}
	fits := len(s.open) > 0 && bytes.Equal(name, s.innermost().name)
	if !fits && len(s.open) == 1 && isBlank(s.text[s.pos+1:]) { // nothing comes after it: it ends the root
		s.d.Odd(Structure, "the last end tag, at byte %d, is not the root's", at)
		fits = true
	}
	if fits && s.text[s.pos] == '>' {
		s.pos++
		s.close(at)
		return
	}
	s.d.Outside = s.d.Outside || len(s.open) == 0
	s.d.abort(Structure, "the end tag at byte %d matches no start tag", at)
}

// tagName reads the name at pos and the white space after it. It returns nil where there is no
// name; otherwise there is another byte at s.pos afterwards.
func (s *xmlScanner) tagName(pos int) []byte {
	end := pos
	for end < len(s.text) && !endsName[s.text[end]] {
		if s.text[end] >= utf8.RuneSelf {
			s.d.Odd(Markup, "name that is not ASCII at byte %d", pos)
		}
		end++
	}
	name := s.text[pos:end]
	for end < len(s.text) && isSpace(s.text[end]) {
		end++
	}
	switch {
	case len(name) == 0 || end == len(s.text):
		s.d.abort(Structure, "no name in the tag at byte %d, or no end", pos)
		return nil
	case len(name) > maxName:
		s.d.abort(Bounds, "name of more than %d bytes at byte %d", maxName, pos)
		return nil
	}
	s.pos = end
	return name
}

// endsName tells which bytes can't be part of a name.
var endsName = func() (ends [256]bool) {
	for c := range byte(' ') {
		ends[c] = true
	}
	for _, c := range []byte(" />=\"'&!?[]{}(),;<") {
		ends[c] = true
	}
	return ends
}()

// localName returns a name without its prefix.
func localName(name []byte) []byte { return name[bytes.LastIndexByte(name, ':')+1:] }

func (s *xmlScanner) innermost() *openElement { return &s.open[len(s.open)-1] }

// close ends the innermost element, whose content ends before end.
func (s *xmlScanner) close(end int) {
	o := s.innermost()
	name := localName(o.name)
	s.element = Element{Name: name, Depth: int16(len(s.open)), Leaf: !o.parent, Pieces: o.pieces, Start: o.start, End: end}
	if !o.parent {
		s.element.Value = o.value
	}
	s.open = s.open[:len(s.open)-1]
	switch {
	case s.element.Depth == 2:
		s.d.fields = append(s.d.fields, s.element)
	case s.element.Depth > 2:
		s.d.inner = append(s.d.inner, name)
	}
	if s.visit != nil {
		s.visit(s.element)
	}
}

func (s *xmlScanner) cdata() {
	at := s.pos
	start := at + len(cdataStart)
	length := bytes.Index(s.text[start:], cdataEnd)
	if length < 0 || len(s.open) == 0 {
		s.d.abort(Structure, "the CDATA at byte %d has no end, or stands outside the root", at)
		return
	}
	piece := s.text[start : start+length]
	s.pos = start + length + len(cdataEnd)
	s.addText(normalizeLines(piece))
}

// charData handles the characters between two tags.
func (s *xmlScanner) charData(text []byte) {
	if len(text) == 0 {
		return
	}
	if bytes.IndexByte(text, ']') >= 0 && bytes.Contains(text, cdataEnd) {
		s.d.abort(Structure, "]]> outside CDATA before byte %d", s.pos+len(text))
		return
	}
	if len(s.open) == 0 {
		if !isBlank(text) {
			s.d.Outside = true
			s.d.Odd(Beside, "text outside the root before byte %d", s.pos+len(text))
		}
		return
	}
	if bytes.IndexByte(text, '&') >= 0 {
		text = s.unescape(text)
	} else {
		text = normalizeLines(text)
	}
	s.addText(text)
}

// addText adds text to the innermost element.
func (s *xmlScanner) addText(text []byte) {
	o := s.innermost()
	blank := isBlank(text)
	if o.parent {
		if !blank {
			s.d.Odd(Beside, "text beside an element before byte %d", s.pos)
		}
		return
	}
	if !blank {
		o.pieces = min(o.pieces+1, 2) // one, or more
	}
	switch {
	case o.value == nil:
		o.value = text
	case o.owned:
		o.value = append(o.value, text...)
	default: // never append to a part of the document
		o.value = append(bytes.Clone(o.value), text...)
		o.owned = true
	}
}

// isBlank reports whether a text is only white space.
func isBlank(text []byte) bool {
	for _, c := range text {
		if !isSpace(c) {
			return false
		}
	}
	return true
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// normalizeLines turns every kind of line end into a line feed, as XML 1.0 requires (section 2.11).
func normalizeLines(text []byte) []byte {
	if bytes.IndexByte(text, '\r') < 0 {
		return text
	}
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(text, []byte("\r"), []byte("\n"))
}

// unescape resolves references in text and normalizes line ends outside them. A reference that
// stands for no character stays as it is.
func (s *xmlScanner) unescape(text []byte) []byte {
	resolved := make([]byte, 0, len(text))
	for {
		i := bytes.IndexByte(text, '&')
		if i < 0 {
			return append(resolved, normalizeLines(text)...)
		}
		resolved = append(resolved, normalizeLines(text[:i])...)
		text = text[i+1:]
		end := bytes.IndexByte(text[:min(len(text), 12)], ';')
		r, ok := rune(0), false
		if end > 0 {
			r, ok = reference(string(text[:end]))
		}
		if !ok {
			s.d.Odd(Markup, "reference that stands for no character after byte %d", s.pos)
			resolved = append(resolved, '&')
			continue
		}
		if !inXMLRange(r) {
			s.d.Odd(Characters, "reference to a character outside XML's range after byte %d", s.pos)
		}
		resolved = append(resolved, string(r)...)
		text = text[end+1:]
	}
}

// inXMLRange reports whether XML 1.0 allows r.
func inXMLRange(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' ||
		' ' <= r && r <= 0xD7FF || 0xE000 <= r && r <= 0xFFFD || 0x10000 <= r && r <= utf8.MaxRune
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
	if !numeric || err != nil || n > utf8.MaxRune {
		return 0, false
	}
	return rune(n), true
}

// lastElements reads WeChat's own fields backwards from the end of the document, up to the first
// other one, and not beyond from.
func (d *Document) lastElements(from int) (found []Element) {
	end := bytes.LastIndex(d.text, []byte("</xml>"))
	if end < from || bytes.ContainsAny(d.text[end+len("</xml>"):], "<>") {
		return nil
	}
	for len(found) < maxElements {
		// Text between the fields is skipped. A comment there ends the search.
		close := bytes.LastIndexByte(d.text[from:end], '>') + from
		tag := bytes.LastIndexByte(d.text[from:max(from, close)], '<') + from
		if tag < from || !bytes.HasPrefix(d.text[tag:], []byte("</")) || bytes.ContainsAny(d.text[close+1:end], "<]") {
			return found
		}
		name := bytes.TrimSpace(d.text[tag+2 : close])
		if !ownFields[string(name)] {
			return found
		}
		start := bytes.LastIndex(d.text[from:tag], append([]byte("<"), name...)) + from
		e, ok := d.simpleElement(start, name, tag)
		if start < from || !ok {
			return found
		}
		found = append(found, e)
		end = start
	}
	return found
}

// simpleElement reads the element whose start tag begins at start and whose end tag begins at end,
// if its content is a text or CDATA without a tag inside.
func (d *Document) simpleElement(start int, name []byte, end int) (Element, bool) {
	if start < 0 || start+1+len(name) >= end {
		return Element{}, false
	}
	e := Element{Name: name, Depth: 2, Leaf: true, Pieces: 1, Start: start + 1 + len(name), End: end}
	behind := bytes.IndexByte(d.text[e.Start:end], '>')
	if behind < 0 || behind > 0 && !isSpace(d.text[e.Start]) {
		return Element{}, false
	}
	e.Start += behind + 1
	value := bytes.TrimSpace(d.text[e.Start:end])
	if inner, ok := bytes.CutPrefix(value, cdataStart); ok {
		if value, ok = bytes.CutSuffix(inner, cdataEnd); !ok {
			return Element{}, false
		}
	}
	if bytes.ContainsAny(value, "<>&") {
		return Element{}, false
	}
	e.Value = value
	return e, true
}

// sole returns the field with that name if it occurs once in the whole document, wherever it
// stands.
func (d *Document) sole(name string) (string, *Element) {
	if d.JSON {
		return d.soleMember(name)
	}
	start, end := -1, -1
	for i := 0; ; {
		next := bytes.Index(d.text[i:], []byte(name))
		if next < 0 {
			break
		}
		at := i + next
		i = at + len(name)
		switch {
		case i == len(d.text) || !endsName[d.text[i]]:
		case bytes.HasSuffix(d.text[:at], []byte("</")) && end < 0:
			end = at - 2
		case bytes.HasSuffix(d.text[:at], []byte("<")) && start < 0:
			start = at - 1
		case bytes.HasSuffix(d.text[:at], []byte("<")), bytes.HasSuffix(d.text[:at], []byte("</")):
			return "", nil
		}
	}
	if start < 0 || end < start {
		return "", nil
	}
	e, ok := d.simpleElement(start, []byte(name), end)
	if !ok {
		return "", nil
	}
	return d.valid(string(e.Value)), &e
}

// between returns what stands between the first start tag of a field and its last end tag: the text
// of a user who wrote tags into it.
func (d *Document) between(name string) string {
	text := d.text[d.root:]
	start := bytes.Index(text, []byte("<"+name+">"))
	end := bytes.LastIndex(text, []byte("</"+name+">"))
	if start < 0 || end < start {
		return ""
	}
	text = text[start+len(name)+2 : end]
	if inner, ok := bytes.CutPrefix(bytes.TrimSpace(text), cdataStart); ok {
		text = bytes.TrimSuffix(inner, cdataEnd)
	}
	return string(normalizeLines(text))
}
