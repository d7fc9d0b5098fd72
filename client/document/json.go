package document

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonScanner walks through a JSON object. Texts may contain any bytes, unescaped; it stops where
// quotes, commas and brackets don't match.
type jsonScanner struct {
	d        *Document
	text     []byte
	pos      int
	visit    func(Element)
	elements int
}

func (s *jsonScanner) scan() {
	s.value([]byte("xml"), 1)
	if !s.d.Whole {
		return
	}
	if rest := bytes.TrimLeft(s.text[s.pos:], space); len(rest) > 0 {
		s.d.Outside = true
		s.d.Odd(Beside, "text behind the object at byte %d", len(s.text)-len(rest))
	}
}

// value reads the value at s.pos, and passes it to visit under name.
func (s *jsonScanner) value(name []byte, depth int) {
	s.elements++
	if depth > maxDepth || s.elements > maxElements {
		s.d.abort(Bounds, "more than %d nested values, or %d in all, at byte %d", maxDepth, maxElements, s.pos)
		return
	}
	e := Element{Name: name, Depth: int16(depth), Start: s.pos, Pieces: 1}
	switch s.peek() {
	case '{':
		s.members('}', depth)
	case '[':
		s.members(']', depth)
	case '"':
		e.Leaf, e.Value = true, s.string()
	default:
		e.Leaf, e.Value = true, s.literal()
	}
	if !s.d.Whole {
		return
	}
	e.End = s.pos
	if depth == 2 {
		s.d.fields = append(s.d.fields, e)
	}
	if s.visit != nil {
		s.visit(e)
	}
}

// members reads the inside of an object or array and its end.
func (s *jsonScanner) members(end byte, depth int) {
	s.pos++
	for first := true; s.d.Whole; first = false {
		s.space()
		if s.peek() == end {
			s.pos++
			return
		}
		if !first {
			if s.peek() != ',' {
				s.d.abort(Structure, "no comma at byte %d", s.pos)
				return
			}
			s.pos++
			s.space()
		}
		var name []byte
		if end == '}' {
			if s.peek() != '"' {
				s.d.abort(Structure, "no name at byte %d", s.pos)
				return
			}
			name = s.string()
			if s.space(); s.peek() != ':' {
				s.d.abort(Structure, "no colon at byte %d", s.pos)
				return
			}
			s.pos++
			s.space()
		}
		s.value(name, depth+1)
	}
}

// peek returns the byte at s.pos, 0 at the end.
func (s *jsonScanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func (s *jsonScanner) space() {
	for s.pos < len(s.text) && isSpace(s.text[s.pos]) {
		s.pos++
	}
}

// string reads a text in quotes.
func (s *jsonScanner) string() []byte {
	start := s.pos + 1
	for i := start; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '\\':
			i++
		case c == '"':
			s.pos = i + 1
			return s.unescape(s.text[start:i])
		case c < ' ':
			s.d.Odd(Characters, "control character in a text at byte %d", i)
		}
	}
	s.d.abort(Structure, "the text at byte %d has no end", s.pos)
	return nil
}

// literal reads a number, true, false or null. Null counts as a missing member.
func (s *jsonScanner) literal() []byte {
	start := s.pos
	for s.pos < len(s.text) && strings.IndexByte(space+",:]}[{\"", s.text[s.pos]) < 0 {
		s.pos++
	}
	word := s.text[start:s.pos]
	switch {
	case !json.Valid(word):
		s.d.abort(Structure, "neither text nor number at byte %d", start)
		return nil
	case string(word) == "null":
		return nil
	}
	return word
}

// unescape resolves the escapes of a text. An unknown escape stays as it is, without its backslash.
func (s *jsonScanner) unescape(text []byte) []byte {
	if bytes.IndexByte(text, '\\') < 0 {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out = append(out, text[i])
			continue
		}
		i++
		switch c := text[i]; c {
		case 'b', 'f', 'n', 'r', 't':
			out = append(out, "\b\f\n\r\t"[strings.IndexByte("bfnrt", c)])
		case '"', '\\', '/':
			out = append(out, c)
		case 'u':
			r, size := codeUnits(text[i+1:])
			if size == 0 {
				s.d.Odd(Characters, "an escape is cut short before byte %d", s.pos)
			}
			out = utf8.AppendRune(out, r)
			i += size
		default:
			s.d.Odd(Markup, "unknown escape before byte %d", s.pos)
			out = append(out, c)
		}
	}
	return out
}

// codeUnits reads the four digits of an escape, and those of a second one that completes a
// surrogate pair. Half a pair, or fewer than four digits, give U+FFFD.
func codeUnits(text []byte) (r rune, size int) {
	high, ok := fourDigits(text)
	if !ok {
		return utf8.RuneError, 0
	}
	if !utf16.IsSurrogate(high) {
		return high, 4
	}
	if bytes.HasPrefix(text[4:], []byte(`\u`)) {
		if low, ok := fourDigits(text[6:]); ok {
			if r = utf16.DecodeRune(high, low); r != utf8.RuneError {
				return r, 10
			}
		}
	}
	return utf8.RuneError, 4
}

func fourDigits(text []byte) (rune, bool) {
	if len(text) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[:4]), 16, 32)
	return rune(n), err == nil
}

// lastMembers reads WeChat's own fields backwards from the end of the object, up to the first other
// one, and not beyond from.
func (d *Document) lastMembers(from int) (found []Element) {
	end := bytes.LastIndexByte(d.text, '}')
	if end < from || len(bytes.TrimSpace(d.text[end+1:])) > 0 {
		return nil
	}
	for len(found) < maxElements {
		e, start, ok := d.lastMember(from, end)
		if !ok || !ownFields[string(e.Name)] {
			return found
		}
		found = append(found, e)
		end = start
	}
	return found
}

// lastMember reads the member that ends before end, and returns where the comma or bracket before
// it stands. Its value has to be a number, or a text without quotes and escapes.
func (d *Document) lastMember(from, end int) (e Element, start int, ok bool) {
	member := bytes.TrimRight(d.text[from:end], space)
	e = Element{Depth: 2, Leaf: true, Pieces: 1, End: from + len(member)}
	at := len(bytes.TrimSuffix(bytes.TrimRight(member, "0123456789"), []byte("-")))
	if text, quoted := bytes.CutSuffix(member, []byte{'"'}); quoted {
		at = bytes.LastIndexByte(text, '"')
	}
	if at < 0 {
		return e, 0, false
	}
	e.Start, e.Value = from+at, bytes.Trim(member[at:], `"`)
	name, colon := bytes.CutSuffix(bytes.TrimRight(member[:at], space), []byte{':'})
	name, quoted := bytes.CutSuffix(bytes.TrimRight(name, space), []byte{'"'})
	at = bytes.LastIndexByte(name, '"')
	if !colon || !quoted || at < 0 || len(e.Value) == 0 && e.End == e.Start || bytes.IndexByte(e.Value, '\\') >= 0 || string(e.Value) == "-" && d.text[e.Start] == '-' {
		return e, 0, false
	}
	e.Name = name[at+1:]
	before := bytes.TrimRight(name[:at], space)
	start = from + len(before) - 1
	return e, start, len(before) > 0 && (before[len(before)-1] == ',' || before[len(before)-1] == '{')
}

// soleMember is sole for JSON.
func (d *Document) soleMember(name string) (string, *Element) {
	quoted := []byte(`"` + name + `"`)
	at := bytes.Index(d.text, quoted)
	if at < 0 || bytes.Count(d.text, quoted) != 1 {
		return "", nil
	}
	rest := bytes.TrimLeft(d.text[at+len(quoted):], space)
	rest, ok := bytes.CutPrefix(rest, []byte(":"))
	if !ok {
		return "", nil
	}
	rest = bytes.TrimLeft(rest, space)
	e := Element{Name: []byte(name), Depth: 2, Leaf: true, Pieces: 1, Start: len(d.text) - len(rest)}
	length := bytes.IndexAny(rest, ",}")
	if bytes.HasPrefix(rest, []byte(`"`)) {
		length = bytes.IndexByte(rest[1:], '"') + 2
	}
	if length < 2 && !(length == 1 && rest[0] != '"') {
		return "", nil
	}
	e.Value = bytes.TrimSpace(bytes.Trim(rest[:length], `"`))
	if bytes.ContainsAny(e.Value, `\{[`) {
		return "", nil
	}
	e.End = e.Start + length
	return d.valid(string(e.Value)), &e
}

// Plain returns a JSON text that encoding/json can read: control characters and invalid escapes in
// texts are left out, bytes that are not UTF-8 become U+FFFD.
func Plain(text []byte) []byte {
	text = bytes.TrimPrefix(text, byteOrderMark)
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
	}
	if json.Valid(text) {
		return text
	}
	out := make([]byte, 0, len(text))
	inside := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '"':
			inside = !inside
		case !inside:
		case c < ' ':
			continue
		case c == '\\' && i+1 < len(text):
			i++
			c = text[i]
			switch {
			case strings.IndexByte(`"\/bfnrt`, c) >= 0:
				out = append(out, '\\')
			case c == 'u':
				if _, ok := fourDigits(text[i+1:]); ok {
					out = append(out, '\\')
				}
			}
			if c < ' ' {
				continue
			}
		}
		out = append(out, c)
	}
	return out
}
