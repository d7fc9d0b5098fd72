package document_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"wxtoken/client/document"
)

// stdlibFields are the fields that the standard library finds directly in the root, each with all its values.
func stdlibFields(text []byte) (fields map[string][]string, ok bool) {
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	fields = map[string][]string{}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		var root map[string]any
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if d.Decode(&root) != nil {
			return nil, false
		}
		for name, value := range root {
			switch value.(type) {
			case string, bool, json.Number:
				fields[name] = []string{fmt.Sprint(value)}
			}
		}
		return fields, true
	}
	return stdlibXML(text)
}

// stdlibXML reads XML with encoding/xml, not strict: it invents the end tags that are missing.
func stdlibXML(text []byte) (fields map[string][]string, ok bool) {
	fields = map[string][]string{}
	d := xml.NewDecoder(bytes.NewReader(text))
	d.Strict = false
	d.CharsetReader = func(_ string, input io.Reader) (io.Reader, error) { return input, nil }
	depth, name, value, leaf := 0, "", "", false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return fields, true
		}
		if err != nil {
			return nil, false
		}
		switch token := token.(type) {
		case xml.StartElement:
			if depth == 0 && token.Name.Local != "xml" {
				return nil, false
			}
			if depth++; depth == 2 {
				name, value, leaf = token.Name.Local, "", true
			} else {
				leaf = false
			}
		case xml.CharData:
			if depth == 2 {
				value += string(token)
			}
		case xml.EndElement:
			if depth == 2 && leaf {
				fields[name] = append(fields[name], value)
			}
			depth--
		case xml.Directive:
			return nil, false
		}
	}
}

func addDocuments(f *testing.F) {
	f.Helper()
	for _, template := range templates {
		f.Add([]byte(strings.ReplaceAll(template, "$", "hello")))
		f.Add([]byte(strings.ReplaceAll(template, "$", "]]></Content><MsgId>1</MsgId><Content><![CDATA[")))
	}
	for _, text := range []string{
		`{"AppId":"wx1","CreateTime":1700000000,"InfoType":"unauthorized","AuthorizerAppid":"wx2","a":[1,{"b":null}]}`,
		"{\"MsgType\":\"text\",\"Content\":\"a\x02\nb\",\"MsgId\":24}", `{"MsgType":"text","MsgType":"event","a":"\ud83d\ude00"}`,
		"<xml><MsgType a=b c='d'>te<!-- x -->xt</MsgType><x:Event>e</x:Event></xml>", "<xml>\r\n<MsgType>&lt;&#x4e2d;&nbsp;\r</MsgType><b/></xml>\n",
		"\uFEFF<?xml version=\"1.0\" encoding=\"GBK\"?><xml><MsgType>text</MsgType><a>\xbf\xcd</a></xml>", "<xml><a>1</b><MsgType>text</MsgType></xml>",
		"word<xml><MsgType>text</MsgType></xml>", "<w:xml><MsgType>text</MsgType></w:xml>", "<xml><MsgType>text</MsgType></XML>",
		"<!DOCTYPE xml><xml></xml>", "<xml/>", "", `{"MsgType":"te\`, "<xml><MsgType>a</MsgType><MsgType>a</MsgType></xml>",
	} {
		f.Add([]byte(text))
	}
}

// FuzzRead compares with the standard library: what encoding/xml, not strict, and encoding/json read is read here too. Where a name stands
// twice, or tags don't fit, a field may be in doubt; it never has a value that the standard library does not see.
func FuzzRead(f *testing.F) {
	addDocuments(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		visited := 0
		d, err := document.Read(text, func(at document.Element) {
			visited++
			if at.Start < 0 || at.End < at.Start || at.End > len(text) || at.Depth < 1 || at.Depth > 16 {
				t.Fatalf("%q: element %+v", text, at)
			}
		})
		if visited > 1024 {
			t.Fatalf("%q: %d elements visited", text, visited)
		}
		fields, ok := stdlibFields(text)
		if err != nil {
			return
		}
		if d == nil {
			if ok && len(fields) > 0 {
				t.Fatalf("%q: not read, but the standard library reads %v", text, fields)
			}
			return
		}
		if !ok {
			return
		}
		doubt := !d.Whole || d.Is(document.Twice)
		for _, name := range deciding {
			ours, its := d.Field(name), fields[name]
			for i := range its {
				its[i] = strings.ToValidUTF8(strings.TrimSpace(its[i]), "\uFFFD")
			}
			switch {
			case ours != "" && !slices.Contains(its, ours):
				if !d.Whole && len(its) == 0 {
					continue // they invent end tags, and take a field for part of another
				}
				t.Fatalf("%q: %s is %q, the standard library reads %q", text, name, ours, its)
			case ours == "" && len(its) > 0 && its[0] != "" && !doubt:
				t.Fatalf("%q: %s is not read, the standard library reads %q", text, name, its)
			}
		}
	})
}

// FuzzTextMakesNoField puts a text into documents of WeChat's: what decides stays as it was.
func FuzzTextMakesNoField(f *testing.F) {
	for _, piece := range pieces {
		f.Add([]byte(piece), []byte("]]></Content>"+piece+"<Content><![CDATA["))
	}
	want := map[string]string{}
	for name, template := range templates {
		d, _ := document.Read([]byte(strings.ReplaceAll(template, "$", "hello")), nil)
		want[name] = fmt.Sprint(fields(d))
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		for name, template := range templates {
			text := strings.ReplaceAll(strings.Replace(template, "$", string(one), 1), "$", string(two))
			if strings.Contains(string(one)+string(two), "$") {
				continue
			}
			d, err := document.Read([]byte(text), nil)
			if err != nil || d == nil {
				t.Fatalf("%s: %q: %v", name, text, err)
			}
			if got := fmt.Sprint(fields(d)); got != want[name] {
				t.Fatalf("%s: %q: got %v, want %v", name, text, got, want[name])
			}
		}
	})
}

// mergeReplacements returns the text of a value, with one U+FFFD for several in a row: how many of them stand for
// invalid UTF-8 does not matter.
func mergeReplacements(value any) string {
	text := fmt.Sprint(value)
	for strings.Contains(text, "\uFFFD\uFFFD") {
		text = strings.ReplaceAll(text, "\uFFFD\uFFFD", "\uFFFD")
	}
	return text
}

// FuzzPlain has an API's answer read: whatever encoding/json reads, it reads the same of what Plain makes of it.
func FuzzPlain(f *testing.F) {
	f.Add([]byte("{\"signature\":\"fine\x08 goods\nevery day\xe5\x90\",\"signature\":\"\\x\\u12\"}"))
	f.Add([]byte("\uFEFF{\"a\":\"\\\\\",\"b\":[1]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		plain := document.Plain(text)
		var before, after any
		if json.Unmarshal(text, &before) == nil {
			if err := json.Unmarshal(plain, &after); err != nil || mergeReplacements(before) != mergeReplacements(after) {
				t.Fatalf("%q: got %q, %v", text, plain, err)
			}
		}
	})
}
