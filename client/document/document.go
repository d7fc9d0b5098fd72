package document

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a document, far above what WeChat sends and far below what costs noticeable time or
// memory. What exceeds them is not read.
const (
	maxDepth    = 16   // nested elements, the root included
	maxElements = 1024 // in the whole document
	maxName     = 64   // bytes of an element's name
	maxTag      = 1024 // bytes of a start tag, a comment or an instruction
)

const space = " \t\r\n"

// ErrDocType is the error for a document with a document type or a declaration of its own: nothing
// of it is read.
var ErrDocType = errors.New("document type or declaration: WeChat sends none")

// Kind says in one word what is odd about a document. Kinds label a counter, so there are few of
// them.
type Kind string

// The kinds of oddities.
const (
	// Attributes, comments, instructions, names that are not ASCII, references that stand for no
	// character.
	Markup Kind = "markup"
	// Bytes that are not UTF-8, control characters, and others that XML does not allow.
	Characters Kind = "characters"
	Beside     Kind = "beside" // text outside any field
	Twice      Kind = "twice"  // a name occurs twice
	// Tags or quotes that don't match: they belong to a user's text, or the document is cut short.
	Structure  Kind = "structure"
	Bounds     Kind = "bounds"     // too deep, too many or too long
	Space      Kind = "space"      // white space around what WeChat writes itself
	Field      Kind = "field"      // a necessary field is missing, or has a value that WeChat never sends
	Unreadable Kind = "unreadable" // neither XML nor JSON
)

// Kinds returns all of them.
func Kinds() []Kind {
	return []Kind{Markup, Characters, Beside, Twice, Structure, Bounds, Space, Field, Unreadable}
}

// Oddity is one kind of oddity and where it was seen first. Its detail quotes nothing of the
// document.
type Oddity struct {
	Kind   Kind
	Detail string
}

// Element is one element of a document in XML, or one member in JSON.
type Element struct {
	Name       []byte // without a prefix
	Value      []byte // the text of a leaf; it may be part of the document itself
	Start, End int    // where the content stands in the document
	Depth      int16  // 1 for the root, 2 for its fields
	Pieces     int16  // how many pieces of text and CDATA make up Value, blank ones not counted
	Leaf       bool   // no elements inside
}

// Document is a document that was read, as far as possible.
type Document struct {
	JSON     bool
	Whole    bool     // the scan reached the end: every element was visited, and nothing hides in between
	Outside  bool     // there is text outside the root, or a second root, and no user can have put it there
	Foreign  bool     // before the root there is an instruction, or another encoding than UTF-8 is declared
	Oddities []Oddity // one of a kind at most, in the order in which they were seen

	text    []byte
	root    int       // where the root begins
	fields  []Element // the root's elements, in the order of the document
	inner   [][]byte  // names of the elements inside those, in XML
	doubted bool      // not whole, or a name occurs twice: then only trusted counts
	trusted []Element
	garbled bool       // there are bytes that are not UTF-8
	backing [8]Element // of fields: most documents don't have more
	scanner xmlScanner // here, so that both are one allocation
}

var byteOrderMark = []byte("\uFEFF")

// Read reads a document, XML or JSON, and calls visit, which may be nil, at the end of each
// element. It returns nil for a text that is neither, and ErrDocType for one with a document type;
// the Document lists everything else that is odd.
func Read(text []byte, visit func(Element)) (*Document, error) {
	return new(Document).read(text, visit) // to be inlined: then most documents stay off the heap
}

// read is Read into d.
func (d *Document) read(text []byte, visit func(Element)) (*Document, error) {
	d.text, d.Whole = text, true
	d.fields = d.backing[:0]
	from := d.begin()
	switch {
	case from == len(text):
		return nil, nil
	case text[from] == '<' || d.Outside:
		s := &d.scanner
		s.d, s.text, s.pos, s.visit = d, text, from, visit
		s.scan()
		if s.declared {
			return nil, ErrDocType
		}
		if !s.rooted {
			return nil, nil
		}
	case text[from] == '{':
		d.JSON, d.root = true, from
		s := jsonScanner{d: d, text: text, pos: from, visit: visit}
		s.scan()
	default:
		return nil, nil
	}
	// With the right end tags in it, a text seems to end before the document does.
	d.Outside = d.Outside && (d.Whole || !d.holdsText())
	d.checkCharacters()
	d.findTrusted()
	return d, nil
}

// begin returns where the document begins: after marks, white space and control characters. A few
// words before the first tag are for the scanner, unless they may be JSON: then that tag is in a
// user's text.
func (d *Document) begin() int {
	rest := bytes.TrimLeftFunc(d.text, func(r rune) bool { return r < ' ' || r == '\uFEFF' || unicode.IsSpace(r) })
	from := len(d.text) - len(rest)
	if len(bytes.TrimLeft(bytes.TrimPrefix(d.text[:from], byteOrderMark), space)) > 0 {
		d.Odd(Beside, "marks or control characters before the document")
	}
	tag := bytes.IndexByte(rest, '<')
	d.Outside = 0 < tag && tag <= maxName && !bytes.ContainsAny(rest[:tag], "{[\"'")
	return from
}

// Odd records an oddity, if it is the first of its kind. The detail must quote nothing of the
// document.
func (d *Document) Odd(kind Kind, format string, args ...any) {
	if !d.Is(kind) {
		d.Oddities = append(d.Oddities, Oddity{kind, fmt.Sprintf(format, args...)})
	}
}

// abort records an oddity after which the scan can't go on.
func (d *Document) abort(kind Kind, format string, args ...any) {
	d.Whole = false
	d.Odd(kind, format, args...)
}

// checkCharacters looks for bytes that are no UTF-8 and for characters that XML excludes.
func (d *Document) checkCharacters() {
	text := d.text
	for i := 0; i < len(text); {
		if i+8 <= len(text) && isPlain(binary.LittleEndian.Uint64(text[i:])) {
			i += 8
			continue
		}
		c := text[i]
		if c < utf8.RuneSelf {
			// Line ends within JSON's texts are reported by the scanner.
			if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
				d.Odd(Characters, "control character at byte %d", i)
			}
			i++
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			d.garbled = true
			d.Odd(Characters, "not UTF-8 at byte %d", i)
		case r == 0xFFFE || r == 0xFFFF:
			d.Odd(Characters, "character outside XML's range at byte %d", i)
		}
		i += size
	}
}

// isPlain reports whether eight bytes are ASCII and none of them is a control character.
func isPlain(eight uint64) bool {
	const each, high = 0x0101010101010101, 0x8080808080808080
	return (eight|(eight-each*' '))&high == 0
}

// ownFields are the fields that WeChat writes itself: no user can put text into them. All fields
// that decide what happens are among them.
var ownFields = map[string]bool{
	"AppId": true, "InfoType": true, "CreateTime": true, "ComponentVerifyTicket": true,
	"AuthorizerAppid": true, "AuthorizationCode": true, "AuthorizationCodeExpiredTime": true, "PreAuthCode": true,
	"appid": true, "auth_code": true, "status": true,
	"ToUserName": true, "FromUserName": true, "MsgType": true, "Event": true, "MsgId": true, "MsgID": true, "MsgDataId": true, "Idx": true,
	"MediaId": true, "ThumbMediaId": true, "Format": true, "PicUrl": true, "Location_X": true, "Location_Y": true, "Scale": true,
	"Encrypt": true,
}

func isOwn(e *Element) bool { return e.Leaf && ownFields[string(e.Name)] }

// holdsText reports whether a field was seen that may hold a user's text.
func (d *Document) holdsText() bool {
	return slices.ContainsFunc(d.fields, func(e Element) bool { return !isOwn(&e) })
}

// findTrusted finds out which fields can be trusted.
//
// WeChat writes a user's text raw. If the text contains the right tags, they look like WeChat's
// own. But WeChat ends the text itself, with an end tag that either matches nothing in the text, or
// whose name then occurs twice. So where all tags match, a text can have forged only fields that
// stand between two fields of one name, unless the second of the two is inside another field, which
// a second text of the user has to close. In that case, and where tags don't match, only WeChat's
// own fields before the first field that may hold a user's text, and after the last one, are
// trusted: no text reaches there.
func (d *Document) findTrusted() {
	if d.Whole {
		switch {
		case d.again():
			d.Odd(Twice, "the name of a field occurs again inside a field")
			d.doubted, d.trusted = true, d.outermost()
		case d.twice():
			d.Odd(Twice, "a name occurs twice")
			d.doubted, d.trusted = true, d.outsideTwins()
		}
		return
	}
	d.doubted = true
	first := 0
	for first < len(d.fields) && isOwn(&d.fields[first]) {
		first++
	}
	d.trusted = slices.Clone(d.fields[:first])
	if d.JSON {
		d.trusted = append(d.trusted, d.lastMembers(d.after(first))...)
	} else {
		d.trusted = append(d.trusted, d.lastElements(d.after(first))...)
	}
}

// again reports whether a field that may hold a text has the name of an element inside of a field.
func (d *Document) again() bool {
	if len(d.inner) == 0 {
		return false
	}
	names := make(map[string]bool, len(d.inner))
	for _, name := range d.inner {
		names[string(name)] = true
	}
	return slices.ContainsFunc(d.fields, func(e Element) bool { return !isOwn(&e) && names[string(e.Name)] })
}

// outermost returns WeChat's own fields before the first field that may hold a user's text, and
// those after the last one.
func (d *Document) outermost() []Element {
	first, last := 0, len(d.fields)
	for first < last && isOwn(&d.fields[first]) {
		first++
	}
	for last > first && isOwn(&d.fields[last-1]) {
		last--
	}
	return slices.Concat(d.fields[:first], d.fields[last:])
}

// outsideTwins returns the fields that don't stand between two fields of one name: a user's text
// may have split one field into such a pair.
func (d *Document) outsideTwins() (outside []Element) {
	last := make(map[string]int, len(d.fields))
	for i := range d.fields {
		last[string(d.fields[i].Name)] = i
	}
	reach := 0
	for i, e := range d.fields {
		if i >= reach {
			outside = append(outside, e)
		}
		if !isOwn(&e) {
			reach = max(reach, last[string(e.Name)])
		}
	}
	return outside
}

// after returns where the first n fields end.
func (d *Document) after(n int) int {
	if n == 0 {
		return d.root
	}
	return d.fields[n-1].End
}

// twice reports whether two fields have one name.
func (d *Document) twice() bool {
	if len(d.fields) > 32 {
		seen := make(map[string]bool, len(d.fields))
		for i := range d.fields {
			if seen[string(d.fields[i].Name)] {
				return true
			}
			seen[string(d.fields[i].Name)] = true
		}
		return false
	}
	for i := range d.fields {
		for j := range i {
			if bytes.Equal(d.fields[i].Name, d.fields[j].Name) {
				return true
			}
		}
	}
	return false
}

// Is reports whether the document has an oddity of that kind.
func (d *Document) Is(kind Kind) bool {
	return slices.ContainsFunc(d.Oddities, func(o Oddity) bool { return o.Kind == kind })
}

// Field returns one of WeChat's own fields without the white space around it; empty if it is
// missing, or its value is in doubt.
func (d *Document) Field(name string) string {
	value, _ := d.find(name)
	return value
}

// Elements returns every trusted element with that name, as it stands in the document.
func (d *Document) Elements(name string) (found []Element) {
	for _, e := range d.believed() {
		if e.Leaf && string(e.Name) == name {
			found = append(found, e)
		}
	}
	return found
}

// believed returns the fields that no user's text can have forged.
func (d *Document) believed() []Element {
	if d.doubted {
		return d.trusted
	}
	return d.fields
}

func (d *Document) find(name string) (value string, found *Element) {
	fields := d.believed()
	for i := range fields {
		if e := &fields[i]; e.Leaf && string(e.Name) == name {
			its := strings.TrimSpace(string(e.Value))
			if len(its) < len(e.Value) {
				d.Odd(Space, "white space around %s", name)
			}
			if found != nil && its != value {
				d.Odd(Twice, "%s occurs twice", name)
				return "", nil
			}
			value, found = its, e
		}
	}
	if found == nil && d.doubted && d.isMandatory(name) {
		return d.sole(name)
	}
	return d.valid(value), found
}

// isMandatory reports whether every document of this type has the field, so that a single
// occurrence can't be a user's.
func (d *Document) isMandatory(name string) bool {
	has := func(name string) bool { return bytes.Contains(d.text, []byte(name)) }
	message, push := !has("InfoType") && d.isMessage(), !has("MsgType") && !has("ToUserName")
	switch name {
	case "ToUserName", "FromUserName", "MsgType":
		return message
	case "AppId", "InfoType":
		return push
	case "CreateTime":
		return message || push
	}
	return false
}

// isMessage reports whether a document in doubt has the fields that every message has. A document
// with only a ToUserName may lack MsgType as well, and a MsgType found in it would be a user's.
func (d *Document) isMessage() bool {
	to := false
	for _, e := range d.trusted {
		switch string(e.Name) {
		case "FromUserName", "CreateTime", "MsgType", "MsgId":
			return true
		case "ToUserName":
			to = true
		}
	}
	return !to && bytes.Contains(d.text, []byte("FromUserName"))
}

// Sole is Field for a field that every such document has, or for documents without a user's text:
// if it occurs once it is WeChat's, wherever it stands.
func (d *Document) Sole(name string) string {
	value, found := d.find(name)
	if found == nil && d.doubted {
		value, _ = d.sole(name)
	}
	return value
}

// Text returns the whole text of a field that a user may have written, white space included. Of two
// fields with one name it returns the first.
func (d *Document) Text(name string) string {
	if d.Whole {
		for i := range d.fields {
			e := &d.fields[i]
			if !e.Leaf || string(e.Name) != name {
				continue
			}
			if d.doubted && !d.JSON && bytes.HasPrefix(d.text[e.Start:], cdataStart) {
				break // the text contains an end of CDATA
			}
			return d.valid(string(e.Value))
		}
		if !d.doubted {
			return ""
		}
	}
	if d.JSON {
		for i := range d.fields {
			if e := &d.fields[i]; e.Leaf && string(e.Name) == name {
				return d.valid(string(e.Value))
			}
		}
		return ""
	}
	return d.valid(d.between(name))
}

// valid replaces bytes that are not UTF-8 with U+FFFD.
func (d *Document) valid(value string) string {
	if d.garbled {
		return strings.ToValidUTF8(value, "\uFFFD")
	}
	return value
}
