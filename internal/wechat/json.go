package wechat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// jsonWalker reads a JSON object by tokens. It refuses what json.Unmarshal lets pass: a key that
// stands twice in one object, and depth without end.
type jsonWalker struct {
	doc      []byte
	base     int // where the decoder's input begins in doc
	dec      *json.Decoder
	visit    func(*element) error
	elements int
}

func walkJSON(doc []byte, base int, visit func(*element) error) error {
	if !utf8.Valid(doc) {
		return refuse(ReasonJSON, "not UTF-8")
	}
	if !json.Valid(doc[base:]) { // looks at the whole document, so nothing can trail behind the root
		return refuse(ReasonJSON, "not one JSON document")
	}
	w := jsonWalker{doc: doc, base: base, dec: json.NewDecoder(bytes.NewReader(doc[base:])), visit: visit}
	w.dec.UseNumber()
	return w.value([]byte("xml"), base, 1)
}

// value reads the value that begins at start and visits it under name.
func (w *jsonWalker) value(name []byte, start, depth int) error {
	if depth > maxDepth {
		return refuse(ReasonJSON, "more than %d nested values at byte %d", maxDepth, start)
	}
	if w.elements == maxElements {
		return refuse(ReasonJSON, "more than %d members", maxElements)
	}
	w.elements++
	token, err := w.dec.Token()
	if err != nil {
		return refuse(ReasonJSON, "can't be read at byte %d", start)
	}
	e := element{name: name, depth: depth, start: start, pieces: 1}
	switch token := token.(type) {
	case json.Delim:
		if err := w.members(token, depth); err != nil {
			return err
		}
	case nil: // null says no more than leaving the member out
		e.leaf = true
	default: // string, json.Number, bool
		e.leaf, e.value = true, fmt.Append(nil, token)
	}
	e.end = w.offset()
	return w.visit(&e)
}

// members reads the inside of an object or array and its closing token.
func (w *jsonWalker) members(kind json.Delim, depth int) error {
	var keys map[string]bool
	if kind == '{' {
		keys = map[string]bool{}
	}
	for w.dec.More() {
		name := ""
		if kind == '{' {
			token, err := w.dec.Token()
			if err != nil {
				return refuse(ReasonJSON, "can't be read at byte %d", w.offset())
			}
			name, _ = token.(string)
			if keys[name] {
				return refuse(ReasonJSON, "a key stands twice before byte %d", w.offset())
			}
			keys[name] = true
		}
		start := w.offset()
		for strings.IndexByte(xmlSpace+",:", w.doc[start]) >= 0 {
			start++
		}
		if err := w.value([]byte(name), start, depth+1); err != nil {
			return err
		}
	}
	if _, err := w.dec.Token(); err != nil {
		return refuse(ReasonJSON, "can't be read at byte %d", w.offset())
	}
	return nil
}

func (w *jsonWalker) offset() int { return w.base + int(w.dec.InputOffset()) }
