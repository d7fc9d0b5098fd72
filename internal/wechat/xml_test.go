package wechat

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
	"unicode/utf16"
)

// leaf is one leaf of a document: where it stands and what it says.
type leaf struct{ path, value string }

// ourLeaves reads doc with walk. The path is known from the end: depth and name.
func ourLeaves(doc []byte) (leaves []leaf, isJSON bool, err error) {
	isJSON, err = walk(doc, func(at *element) error {
		if at.leaf {
			leaves = append(leaves, leaf{fmt.Sprint(at.depth, " ", string(at.name)), string(at.value)})
		}
		return nil
	})
	return leaves, isJSON, err
}

// theirLeaves reads doc with encoding/xml.
func theirLeaves(doc []byte) ([]leaf, error) {
	type open struct {
		name   string
		text   []byte
		parent bool
	}
	var leaves []leaf
	var stack []open
	roots := 0
	dec := xml.NewDecoder(bytes.NewReader(doc))
	for {
		token, err := dec.Token()
		if err == io.EOF {
			if roots != 1 {
				return nil, fmt.Errorf("%d roots", roots)
			}
			return leaves, nil
		}
		if err != nil {
			return nil, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			if len(token.Attr) > 0 || token.Name.Space != "" {
				return nil, errors.New("attribute or name space")
			}
			if len(stack) == 0 {
				roots++
			} else {
				stack[len(stack)-1].parent = true
			}
			stack = append(stack, open{name: token.Name.Local})
		case xml.CharData:
			if len(stack) > 0 {
				top := &stack[len(stack)-1]
				top.text = append(top.text, token...)
			}
		case xml.EndElement:
			top := stack[len(stack)-1]
			if !top.parent {
				leaves = append(leaves, leaf{fmt.Sprint(len(stack), " ", top.name), string(top.text)})
			}
			stack = stack[:len(stack)-1]
		case xml.Comment, xml.Directive:
			return nil, errors.New("comment or directive")
		}
	}
}

// checkAgainstStandardLibrary fails when walk accepts a document that the standard library refuses or reads otherwise.
func checkAgainstStandardLibrary(t *testing.T, doc []byte) {
	t.Helper()
	ours, isJSON, err := ourLeaves(doc)
	if err != nil {
		if _, ok := errors.AsType[*Refusal](err); !ok {
			t.Fatalf("%q: %v is not a refusal", doc, err)
		}
		return
	}
	if isJSON {
		var object map[string]any
		dec := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(doc, byteOrderMark)))
		dec.UseNumber()
		if err := dec.Decode(&object); err != nil {
			t.Fatalf("%q: accepted, but encoding/json says %v", doc, err)
		}
		if theirs := jsonLeaves(object, 1); !slices.Equal(sorted(ours), sorted(theirs)) {
			t.Fatalf("%q: got %q, encoding/json reads %q", doc, ours, theirs)
		}
		return
	}
	theirs, err := theirLeaves(doc)
	if err != nil {
		t.Fatalf("%q: accepted, but encoding/xml says %v", doc, err)
	}
	if !slices.Equal(ours, theirs) {
		t.Fatalf("%q: got %q, encoding/xml reads %q", doc, ours, theirs)
	}
}

// jsonLeaves lists the leaves of a JSON value.
func jsonLeaves(value any, depth int) (leaves []leaf) {
	add := func(name string, member any) {
		switch member.(type) {
		case map[string]any, []any:
			leaves = append(leaves, jsonLeaves(member, depth+1)...)
		case nil:
			leaves = append(leaves, leaf{fmt.Sprint(depth+1, " ", name), ""})
		default:
			leaves = append(leaves, leaf{fmt.Sprint(depth+1, " ", name), fmt.Sprint(member)})
		}
	}
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			add(name, member)
		}
	case []any:
		for _, member := range value {
			add("", member)
		}
	}
	return leaves
}

func sorted(leaves []leaf) []string {
	var lines []string
	for _, l := range leaves {
		lines = append(lines, l.path+" "+l.value)
	}
	slices.Sort(lines)
	return lines
}

func TestWalkXML(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		doc  string
		want []leaf
	}{
		"text and CDATA":         {"<xml><a>1</a><b><![CDATA[2]]></b></xml>", []leaf{{"2 a", "1"}, {"2 b", "2"}}},
		"white space everywhere": {" \n<xml >\r\n\t<a >1</a > <b/>\n</xml>\n ", []leaf{{"2 a", "1"}, {"2 b", ""}}},
		"nested":                 {"<xml><info><name>x</name></info><a></a></xml>", []leaf{{"3 name", "x"}, {"2 a", ""}}},
		"declaration":            {`<?xml version="1.0" encoding='utf-8' standalone="yes" ?><xml><a>1</a></xml>`, []leaf{{"2 a", "1"}}},
		"byte order mark":        {"\uFEFF<xml><a>1</a></xml>", []leaf{{"2 a", "1"}}},
		"mark and declaration":   {"\uFEFF<?xml version=\"1.0\"?>\n<xml><a>1</a></xml>", []leaf{{"2 a", "1"}}},
		"references":             {"<xml><a>&lt;&gt;&amp;&apos;&quot;&#65;&#x4e2D;&#x1F600;</a></xml>", []leaf{{"2 a", "<>&'\"A中😀"}}},
		"no reference in CDATA":  {"<xml><a><![CDATA[&lt;<b>]]></a></xml>", []leaf{{"2 a", "&lt;<b>"}}},
		"pieces":                 {"<xml><a>x<![CDATA[y]]>z<![CDATA[]]]]><![CDATA[>]]></a></xml>", []leaf{{"2 a", "xyz]]>"}}},
		"line ends":              {"<xml><a>1\r\n2\r3&#13;\r\n</a><b><![CDATA[\r\n]]></b></xml>", []leaf{{"2 a", "1\n2\n3\r\n"}, {"2 b", "\n"}}},
		"empty root":             {"<xml/>", []leaf{{"1 xml", ""}}},
		"Chinese":                {"<xml><a>客服消息</a></xml>", []leaf{{"2 a", "客服消息"}}},
		"deepest":                {"<xml>" + strings.Repeat("<a>", 15) + strings.Repeat("</a>", 15) + "</xml>", []leaf{{"16 a", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaves, _, err := ourLeaves([]byte(row.doc))
			if err != nil || !slices.Equal(leaves, row.want) {
				t.Errorf("got %q, %v, want %q", leaves, err, row.want)
			}
			checkAgainstStandardLibrary(t, []byte(row.doc))
		})
	}
}

func TestWalkRefuses(t *testing.T) {
	t.Parallel()
	utf16LE := []byte{0xFF, 0xFE}
	for _, unit := range utf16.Encode([]rune("<xml></xml>")) {
		utf16LE = append(utf16LE, byte(unit), byte(unit>>8))
	}
	for name, row := range map[string]struct {
		doc    string
		reason Reason
	}{
		"nothing":                      {"", ReasonEmpty},
		"white space":                  {"\uFEFF \n", ReasonEmpty},
		"multipart":                    {"--boundary\r\nContent-Disposition: form-data", ReasonXML},
		"form":                         {"a=1&b=2", ReasonXML},
		"gzip":                         {"\x1f\x8b\x08\x00", ReasonXML},
		"UTF-7":                        {"+ADw-xml+AD4-", ReasonXML},
		"UTF-16":                       {string(utf16LE), ReasonXML},
		"declared GBK":                 {`<?xml version="1.0" encoding="GBK"?><xml></xml>`, ReasonXML},
		"GBK":                          {"<xml><a>\xbf\xcd</a></xml>", ReasonXML},
		"bad UTF-8":                    {"<xml><a>\xc3\x28</a></xml>", ReasonXML},
		"surrogate as UTF-8":           {"<xml><a>\xed\xa0\x80</a></xml>", ReasonXML},
		"NUL":                          {"<xml><a>\x00</a></xml>", ReasonXML},
		"control character":            {"<xml><a><![CDATA[\x08]]></a></xml>", ReasonXML},
		"U+FFFE":                       {"<xml><a>\uFFFE</a></xml>", ReasonXML},
		"surrogate reference":          {"<xml><a>&#xD800;</a></xml>", ReasonXML},
		"NUL reference":                {"<xml><a>&#0;</a></xml>", ReasonXML},
		"reference too large":          {"<xml><a>&#x110000;</a></xml>", ReasonXML},
		"reference without a number":   {"<xml><a>&#;</a></xml>", ReasonXML},
		"reference without an end":     {"<xml><a>&lt</a></xml>", ReasonXML},
		"reference without a sharp":    {"<xml><a>&65;</a></xml>", ReasonXML},
		"unknown reference":            {"<xml><a>&nbsp;</a></xml>", ReasonXML},
		"billion laughs":               {`<!DOCTYPE xml [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><xml><a>&b;</a></xml>`, ReasonXML},
		"external entity":              {`<!DOCTYPE xml [<!ENTITY a SYSTEM "file:///etc/passwd">]><xml><a>&a;</a></xml>`, ReasonXML},
		"document type":                {"<!DOCTYPE xml><xml></xml>", ReasonXML},
		"document type inside":         {"<xml><!DOCTYPE xml></xml>", ReasonXML},
		"processing instruction":       {"<xml><?php echo 1 ?></xml>", ReasonXML},
		"second declaration":           {`<?xml version="1.0"?><?xml version="1.0"?><xml></xml>`, ReasonXML},
		"late declaration":             {` <?xml version="1.0"?><xml></xml>`, ReasonXML},
		"declaration of 1.1":           {`<?xml version="1.1"?><xml></xml>`, ReasonXML},
		"declaration without an end":   {`<?xml version="1.0"`, ReasonXML},
		"declaration without a space":  {`<?xmlversion="1.0"?><xml></xml>`, ReasonXML},
		"declaration without a quote":  {`<?xml version=1.0?><xml></xml>`, ReasonXML},
		"comment":                      {"<xml><a>1<!-- x -->2</a></xml>", ReasonXMLShape},
		"comment before":               {"<!-- x --><xml></xml>", ReasonXMLShape},
		"attribute":                    {`<xml><a b="c">1</a></xml>`, ReasonXMLShape},
		"100,000 attributes":           {"<xml " + strings.Repeat(`a="b" `, 100_000) + "></xml>", ReasonXMLShape},
		"name of 64 KiB":               {"<" + strings.Repeat("x", 64<<10) + "></x>", ReasonXMLShape},
		"depth of 17":                  {"<xml>" + strings.Repeat("<a>", 16) + strings.Repeat("</a>", 16) + "</xml>", ReasonXMLShape},
		"depth of 10,000":              {"<xml>" + strings.Repeat("<a>", 10_000), ReasonXMLShape},
		"1,024 fields":                 {"<xml>" + strings.Repeat("<a/>", 1024) + "</xml>", ReasonXMLShape},
		"other root":                   {"<html></html>", ReasonXML},
		"root in upper case":           {"<XML></XML>", ReasonXML},
		"second root":                  {"<xml></xml><xml></xml>", ReasonXMLShape},
		"text after the root":          {"<xml></xml>x", ReasonXMLShape},
		"text before the root":         {"<xml></xml>&lt;<xml></xml>", ReasonXMLShape},
		"CDATA after the root":         {"<xml></xml><![CDATA[ ]]>", ReasonXMLShape},
		"text beside elements":         {"<xml>x<a></a></xml>", ReasonXMLShape},
		"text behind elements":         {"<xml><a></a>x</xml>", ReasonXMLShape},
		"CDATA behind elements":        {"<xml><a></a><![CDATA[x]]></xml>", ReasonXMLShape},
		"prefix":                       {"<xml><x:a>1</x:a></xml>", ReasonXMLShape},
		"name in Chinese":              {"<xml><中>1</中></xml>", ReasonXML},
		"no name":                      {"<xml><></></xml>", ReasonXML},
		"space before the name":        {"<xml>< a></a></xml>", ReasonXML},
		"end of another":               {"<xml><a></b></xml>", ReasonXML},
		"end without a start":          {"</xml>", ReasonXML},
		"end with an attribute":        {"<xml></xml b>", ReasonXML},
		"no end":                       {"<xml><a>1</a>", ReasonXML},
		"end inside a tag":             {"<xml><a", ReasonXML},
		"end inside CDATA":             {"<xml><a><![CDATA[1]]</a></xml>", ReasonXML},
		"CDATA end in text":            {"<xml><a>]]></a></xml>", ReasonXML},
		"lone angle":                   {"<", ReasonXML},
		"JSON array":                   {`["a"]`, ReasonXML},
		"JSON with a key twice":        {`{"a":1,"a":2}`, ReasonJSON},
		"JSON with a nested key twice": {`{"a":[{"b":1,"\u0062":2}]}`, ReasonJSON},
		"JSON with a trailer":          {`{"a":1} {}`, ReasonJSON},
		"JSON cut short":               {`{"a":1`, ReasonJSON},
		"JSON with a trailing comma":   {`{"a":1,}`, ReasonJSON},
		"JSON in bad UTF-8":            {"{\"a\":\"\xff\"}", ReasonJSON},
		"JSON of depth 17":             {`{"a":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + "}", ReasonJSON},
		"JSON of depth 10,000":         {`{"a":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + "}", ReasonJSON},
		"JSON of 1,024 members":        {`{"a":[` + strings.Repeat("1,", 1023) + "1]}", ReasonJSON},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := ourLeaves([]byte(row.doc))
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Reason != row.reason {
				t.Errorf("got %v, want reason %s", err, row.reason)
			}
		})
	}
}

func FuzzWalk(f *testing.F) {
	for _, doc := range []string{
		"<xml><a>1</a><b><![CDATA[2]]></b></xml>", "<xml>\r\n<a>&lt;&#x4e2d;\r</a><b/></xml>\n",
		"\uFEFF<?xml version=\"1.0\" encoding=\"UTF-8\"?><xml><a><b>x</b></a></xml>",
		"<xml><a>x<![CDATA[y]]>z</a></xml>", "<xml><!-- c --></xml>", "<!DOCTYPE xml><xml></xml>",
		`{"a":"b","c":[1,{"d":null}],"e":"\ud83d\ude00"}`, "\uFEFF{\"a\":true}", "<xml><a>]]&gt;</a></xml >",
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(checkAgainstStandardLibrary)
}
