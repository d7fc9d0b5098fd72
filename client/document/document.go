package document

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of a document, far above what WeChat sends and far below what costs us anything. What lies
// beyond is not read.
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
	// Attributes, comments, instructions, names that are no ASCII, references that stand for
	// nothing.
	Markup Kind = "markup"
	// Bytes that are no UTF-8, control characters and others that XML does not have.
	Characters Kind = "characters"
	Beside     Kind = "beside" // text that stands in no field
	Twice      Kind = "twice"  // a name stands twice
	// Tags or quotes that don't fit together: a text's own, or a document cut short.
	Structure  Kind = "structure"
	Bounds     Kind = "bounds"     // too deep, too many or too long
	Space      Kind = "space"      // white space around what WeChat writes itself
	Field      Kind = "field"      // a field that decides is missing, or can't be what WeChat sends
	Unreadable Kind = "unreadable" // neither XML nor JSON
)

// Kinds returns all of them.
func Kinds() []Kind {
	return []Kind{Markup, Characters, Beside, Twice, Structure, Bounds, Space, Field, Unreadable}
}

// Oddity is one kind of oddity and where it was seen first. Its detail shows nothing of the
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
	Pieces     int16  // of text and CDATA that Value was put together from, blank ones not counted
	Leaf       bool   // no elements inside
}

// Document is a document that was read, as far as it can be.
type Document struct {
	JSON     bool
	Whole    bool     // all of it was walked through: every element was visited, and nothing hides in between
	Outside  bool     // something stands outside of the root, or another root
	Foreign  bool     // there is an instruction, or another encoding than UTF-8 is declared
	Oddities []Oddity // one of a kind at most, in the order in which they were seen

	text    []byte
	root    int       // where the root begins
	fields  []Element // the root's, in the order of the document
	inner   [][]byte  // names of the elements inside of them, in XML
	doubted bool      // not whole, or a name stands twice: then only trusted counts
	trusted []Element
	garbled bool       // there are bytes that are no UTF-8
	backing [8]Element // of fields: most documents don't have more
	scanner xmlScanner // here, so that both are one allocation
}

var byteOrderMark = []byte("\uFEFF")

// Read reads a document, XML or JSON, and calls visit, which may be nil, at the end of each
// element. It returns nil for a text that is neither, and ErrDocType; whatever else is odd is told
// by the Document.
func Read(text []byte, visit func(Element)) (*Document, error) {
	return new(Document).read(text, visit) // to be inlined: then most documents stay off the heap
}

// read is Read into d.
func (d *Document) read(text []byte, visit func(Element)) (*Document, error) {
	d.text, d.Whole = text, true
	d.fields = d.backing[:0]
	from := len(text) - len(bytes.TrimLeft(bytes.TrimPrefix(text, byteOrderMark), space))
	if from == len(text) {
		return nil, nil
	}
	switch text[from] {
	case '<':
		s := &d.scanner
		s.d, s.text, s.pos, s.visit = d, text, from, visit
		s.scan()
		if s.declared {
			return nil, ErrDocType
		}
		if !s.rooted {
			return nil, nil
		}
	case '{':
		d.JSON, d.root = true, from
		s := jsonScanner{d: d, text: text, pos: from, visit: visit}
		s.scan()
	default:
		return nil, nil
	}
	d.checkCharacters()
	d.settle()
	return d, nil
}

// Odd notes an oddity, if it is the first of its kind. Its detail must show nothing of the
// document.
func (d *Document) Odd(kind Kind, format string, args ...any) {
	if !d.Is(kind) {
		d.Oddities = append(d.Oddities, Oddity{kind, fmt.Sprintf(format, args...)})
	}
}

// broken notes an oddity behind which nothing can be walked through.
func (d *Document) broken(kind Kind, format string, args ...any) {
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
			// JSON's line ends within a text are the scanner's to find.
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

// own are the fields that WeChat writes itself: no user can put a text of his own into them. What
// decides is among them.
var own = map[string]bool{
	"AppId": true, "InfoType": true, "CreateTime": true, "ComponentVerifyTicket": true,
	"AuthorizerAppid": true, "AuthorizationCode": true, "AuthorizationCodeExpiredTime": true, "PreAuthCode": true,
	"appid": true, "auth_code": true, "status": true,
	"ToUserName": true, "FromUserName": true, "MsgType": true, "Event": true, "MsgId": true, "MsgID": true, "MsgDataId": true, "Idx": true,
	"MediaId": true, "ThumbMediaId": true, "Format": true, "PicUrl": true, "Location_X": true, "Location_Y": true, "Scale": true,
	"Encrypt": true,
}

func isOwn(e *Element) bool { return e.Leaf && own[string(e.Name)] }

// settle finds out what can be trusted.
//
// WeChat writes a user's text raw. If there are the right tags in it, they look like WeChat's own;
// but the text ends where WeChat ends it, with a tag that fits none in the text, or with one whose
// name then stands twice. So where all tags fit, no text has made a field outside of two fields of
// one name, unless the second of the two is inside of a field, which another text of the user has
// to close. There, and where tags don't fit, what is trusted are WeChat's own fields before the
// first field that may hold a text, and those behind the last one: no text reaches there.
func (d *Document) settle() {
	if d.Whole {
		switch {
		case d.again():
			d.Odd(Twice, "the name of a field stands again inside of one")
			d.doubted, d.trusted = true, d.outermost()
		case d.twice():
			d.Odd(Twice, "a name stands twice")
			d.doubted, d.trusted = true, d.outsideOfTwins()
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

// outermost returns WeChat's own fields before the first field that may hold a text, and behind the
// last one.
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

// outsideOfTwins returns the fields that don't stand between two fields of one name, which a text
// may have made of one.
func (d *Document) outsideOfTwins() (outside []Element) {
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

// Is reports whether the document is odd in that way.
func (d *Document) Is(kind Kind) bool {
	return slices.ContainsFunc(d.Oddities, func(o Oddity) bool { return o.Kind == kind })
}

// Field returns one of WeChat's own fields without the white space around it; empty if it is not
// there, or can't be told without doubt.
func (d *Document) Field(name string) string {
	value, _ := d.find(name)
	return value
}

// Elements returns one of WeChat's own fields as it stands there, as often as it does.
func (d *Document) Elements(name string) (found []Element) {
	for _, e := range d.believed() {
		if e.Leaf && string(e.Name) == name {
			found = append(found, e)
		}
	}
	return found
}

// believed returns the fields that no text can have made.
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
				d.Odd(Twice, "%s stands twice", name)
				return "", nil
			}
			value, found = its, e
		}
	}
	if found == nil && d.doubted && d.always(name) {
		return d.sole(name)
	}
	return d.valid(value), found
}

// always reports whether a document has the field in any case, so that a single one can't be a
// user's.
func (d *Document) always(name string) bool {
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

// isMessage reports whether a document in doubt has what every message has. One with no more than a
// ToUserName may have no MsgType either, and one that is found is a user's.
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

// Sole is Field for a field that the document has in any case, or for documents in which no user
// has a text: if it stands once it is WeChat's, wherever that is.
func (d *Document) Sole(name string) string {
	value, found := d.find(name)
	if found == nil && d.doubted {
		value, _ = d.sole(name)
	}
	return value
}

// Text returns the text of a field that may be a user's: all of it, blanks and all. Of two fields
// with one name it is the first one.
func (d *Document) Text(name string) string {
	if d.Whole {
		for i := range d.fields {
			e := &d.fields[i]
			if !e.Leaf || string(e.Name) != name {
				continue
			}
			if d.doubted && !d.JSON && bytes.HasPrefix(d.text[e.Start:], cdataStart) {
				break // with an end of CDATA in the text
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

// valid puts U+FFFD in the place of bytes that are no UTF-8.
func (d *Document) valid(value string) string {
	if d.garbled {
		return strings.ToValidUTF8(value, "\uFFFD")
	}
	return value
}
