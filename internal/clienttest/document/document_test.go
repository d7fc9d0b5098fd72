package document_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"wxtoken/client/document"
)

// deciding are the fields that subjects, tokens and ids are made of.
var deciding = []string{
	"AppId", "InfoType", "CreateTime", "ComponentVerifyTicket", "AuthorizerAppid", "AuthorizationCode", "PreAuthCode", "appid", "auth_code", "status",
	"ToUserName", "FromUserName", "MsgType", "Event", "MsgId", "MsgID",
}

func mustRead(t testing.TB, text string) *document.Document {
	t.Helper()
	d, err := document.Read([]byte(text), nil)
	if err != nil || d == nil {
		t.Fatalf("%q: %v, %v", text, d, err)
	}
	return d
}

// fields returns what the deciding fields of a document say.
func fields(d *document.Document) map[string]string {
	all := map[string]string{}
	for _, name := range deciding {
		if value := d.Field(name); value != "" {
			all[name] = value
		}
	}
	return all
}

func TestLeaves(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		text string
		want []string // depth, name and value of each leaf
	}{
		"text and CDATA":         {"<xml><a>1</a><b><![CDATA[2]]></b></xml>", []string{"2 a 1", "2 b 2"}},
		"white space everywhere": {" \n<xml >\r\n\t<a >1</a > <b/>\n</xml>\n ", []string{"2 a 1", "2 b "}},
		"nested":                 {"<xml><info><name>x</name></info><a></a></xml>", []string{"3 name x", "2 a "}},
		"declaration":            {`<?xml version="1.0" encoding='utf-8' standalone="yes" ?><xml><a>1</a></xml>`, []string{"2 a 1"}},
		"byte order mark":        {"\uFEFF<xml><a>1</a></xml>", []string{"2 a 1"}},
		"mark and declaration":   {"\uFEFF<?xml version=\"1.0\"?>\n<xml><a>1</a></xml>", []string{"2 a 1"}},
		"references":             {"<xml><a>&lt;&gt;&amp;&apos;&quot;&#65;&#x4e2D;&#x1F600;</a></xml>", []string{"2 a <>&'\"A中😀"}},
		"no reference in CDATA":  {"<xml><a><![CDATA[&lt;<b>]]></a></xml>", []string{"2 a &lt;<b>"}},
		"pieces":                 {"<xml><a>x<![CDATA[y]]>z<![CDATA[]]]]><![CDATA[>]]></a></xml>", []string{"2 a xyz]]>"}},
		"line ends":              {"<xml><a>1\r\n2\r3&#13;\r\n</a><b><![CDATA[\r\n]]></b></xml>", []string{"2 a 1\n2\n3\r\n", "2 b \n"}},
		"empty root":             {"<xml/>", []string{"1 xml "}},
		"deepest":                {"<xml>" + strings.Repeat("<a>", 15) + strings.Repeat("</a>", 15) + "</xml>", []string{"16 a "}},
		"attributes":             {`<xml v="1"><a b="c>d" e='f' g>1</a><h i=j/></xml>`, []string{"2 a 1", "2 h "}},
		"comments":               {"<!-- c --><xml><!-- > --><a>1<!-- x -->2</a></xml><!-- -->", []string{"2 a 12"}},
		"names":                  {"<xml><备注>1</备注><x:a>2</x:a></xml>", []string{"2 备注 1", "2 a 2"}},
		"unknown references":     {"<xml><a>&nbsp;&lt&#0;a&#x110000;&</a></xml>", []string{"2 a &nbsp;&lt\x00a&#x110000;&"}},
		"words":                  {"<xml>x<a>1</a>y<b>2</b><![CDATA[z]]></xml>w", []string{"2 a 1", "2 b 2"}},
		"control characters":     {"<xml><a><![CDATA[\x00\x08\x1d\uFFFE]]></a></xml>", []string{"2 a \x00\x08\x1d\uFFFE"}},
		"JSON":                   {`{"a":"b\n\u4e2d\ud83d\ude00\/","c":[1,{"d":null}],"e":true,"f":-1.5e3}`, []string{"2 a b\n中😀/", "3  1", "4 d ", "2 e true", "2 f -1.5e3"}},
		"JSON, raw":              {"{\"a\":\"x\x02\ny\",\"b\":\"\xe5\x90\"}", []string{"2 a x\x02\ny", "2 b \xe5\x90"}},
		"JSON, odd escapes":      {`{"a":"\x\u12","b":"\ud83d"}`, []string{"2 a x\uFFFD12", "2 b \uFFFD"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var leaves []string
			d, err := document.Read([]byte(row.text), func(at document.Element) {
				if at.Leaf {
					leaves = append(leaves, fmt.Sprint(at.Depth, " ", string(at.Name), " ", string(at.Value)))
				}
			})
			if err != nil || d == nil || !d.Whole || !slices.Equal(leaves, row.want) {
				t.Errorf("got %q, %v, %v, want %q", leaves, d, err, row.want)
			}
		})
	}
}

// TestNoRootInAText has tags where no root can be: they are a user's.
func TestNoRootInAText(t *testing.T) {
	t.Parallel()
	const forged = "<xml><MsgType>event</MsgType></xml>"
	for _, text := range []string{
		`[{"Content":"` + forged + `"}]`, `"` + forged + `"`, "\x01\xe5" + `{"Content":"` + forged + `"}`, "{'Content':'" + forged + "'}",
		"5, 'Content=" + forged, "<root>" + forged + "</root>", strings.Repeat("word ", 20) + forged, "\x00", "word", "\uFEFF",
	} {
		if d, err := document.Read([]byte(text), nil); err != nil || d != nil && d.Field("MsgType") != "" {
			t.Errorf("%q is read: %v, %v", text, d, err)
		}
	}
	if d, err := document.Read([]byte("word<!DOCTYPE xml>"+forged), nil); d != nil || !errors.Is(err, document.ErrDocType) {
		t.Errorf("a document type after a word: %v, %v", d, err)
	}
	if d := mustRead(t, "\x00\uFEFF"+`{"MsgType":"text"}`); d.Field("MsgType") != "text" || !d.JSON {
		t.Errorf("JSON after a mark: %+v", d)
	}
}

// TestOddities has one document for each oddity, and looks at what of it can be read all the same.
func TestOddities(t *testing.T) {
	t.Parallel()
	const head, tail = "<xml><MsgType>text</MsgType><FromUserName>o1</FromUserName>", "<MsgId>24</MsgId></xml>"
	for name, row := range map[string]struct {
		text    string
		kind    document.Kind // "" for nothing odd
		without string        // the field that can't be read
	}{
		"nothing":                  {head + tail, "", ""},
		"attribute":                {head + `<a b="c">1</a>` + tail, document.Markup, ""},
		"attribute of its own":     {`<xml a="b"><MsgType c="d">text</MsgType><FromUserName>o1</FromUserName>` + tail, document.Markup, ""},
		"comment":                  {head + "<!-- c -->" + tail, document.Markup, ""},
		"comment with a tag":       {head + "<!-- <a> -->" + tail, document.Structure, ""},
		"instruction":              {"<?php x ?>" + head + tail, document.Markup, ""},
		"declared GBK":             {`<?xml version="1.0" encoding="GBK"?>` + head + tail, document.Markup, ""},
		"GBK":                      {head + "<a>\xbf\xcd</a>" + tail, document.Characters, ""},
		"NUL":                      {head + "<a>\x00</a>" + tail, document.Characters, ""},
		"reference to a control":   {head + "<a>&#x1D;</a>" + tail, document.Characters, ""},
		"half a character":         {head + "<a><![CDATA[\xe5\x90]]></a>" + tail, document.Characters, ""},
		"word":                     {head + "word" + tail, document.Beside, ""},
		"word before":              {"word" + head + tail, document.Beside, ""},
		"two marks":                {"\uFEFF\uFEFF" + head + tail, document.Beside, ""},
		"mark behind white space":  {" \uFEFF" + head + tail, document.Beside, ""},
		"NUL before":               {"\x00" + head + tail, document.Beside, ""},
		"wide space before":        {"\u3000\u00a0\f" + head + tail, document.Beside, ""},
		"prefix of the root":       {"<w:xml>" + strings.TrimPrefix(head, "<xml>") + strings.Replace(tail, "</xml>", "</w:xml>", 1), document.Markup, ""},
		"root with a wrong end":    {head + "<a>1</a>" + strings.Replace(tail, "</xml>", "</Xml >\n", 1), document.Structure, ""},
		"word behind":              {head + tail + "word", document.Beside, ""},
		"wrong end tag":            {head + "<a>1</b>" + tail, document.Structure, ""},
		"wrong end tags":           {head + "<a>1</b><c>2</d>" + tail, document.Structure, ""},
		"wrong end tag first":      {"<xml><a>1</b>" + strings.TrimPrefix(head, "<xml>") + tail, document.Structure, ""},
		"end of CDATA":             {head + "<a><![CDATA[x]]> 1]]></a>" + tail, document.Structure, ""},
		"CDATA without an end":     {head + "<a><![CDATA[x</a>" + tail, document.Structure, ""},
		"a tag without an end":     {head + "<a <b></a>" + tail, document.Structure, ""},
		"less than":                {head + "<a>1 < 2</a>" + tail, document.Structure, ""},
		"cut short":                {head + "<a>", document.Structure, "MsgId"},
		"second root":              {head + tail + "<xml></xml>", document.Structure, ""},
		"a name twice":             {head + "<a>1</a><a>2</a>" + tail, document.Twice, ""},
		"twice and otherwise":      {head + "<MsgType>event</MsgType>" + tail, document.Twice, "MsgType"},
		"twice and the same":       {head + "<MsgType>text</MsgType>" + tail, document.Twice, ""},
		"17 deep":                  {head + strings.Repeat("<a>", 16) + strings.Repeat("</a>", 16) + tail, document.Bounds, ""},
		"10,000 deep":              {head + strings.Repeat("<a>", 10_000) + tail, document.Bounds, ""},
		"very many":                {head + "<a>" + strings.Repeat("<b/>", 2000) + "</a>" + tail, document.Bounds, ""},
		"a long name":              {head + "<" + strings.Repeat("a", 65) + "/>" + tail, document.Bounds, ""},
		"a long tag":               {head + "<a " + strings.Repeat(`b="c" `, 200) + "/>" + tail, document.Bounds, ""},
		"white space":              {"<xml>\n<MsgType>\n text\n</MsgType><FromUserName> <![CDATA[o1]]>\n</FromUserName>" + tail, document.Space, ""},
		"JSON, raw":                {"{\"MsgType\":\"text\",\"FromUserName\":\"o1\",\"a\":\"x\x02\n\",\"MsgId\":24}", document.Characters, ""},
		"JSON, half a character":   {"{\"MsgType\":\"text\",\"FromUserName\":\"o1\",\"a\":\"\xe5\x90\",\"MsgId\":24}", document.Characters, ""},
		"JSON, half an escape":     {`{"MsgType":"text","FromUserName":"o1","a":"x\u4e","MsgId":24}`, document.Characters, ""},
		"JSON, a name twice":       {`{"MsgType":"text","FromUserName":"o1","a":1,"MsgId":24,"b":2,"b":3}`, document.Twice, ""},
		"JSON, twice, otherwise":   {`{"MsgType":"text","FromUserName":"o1","MsgId":24,"MsgId":25}`, document.Twice, "MsgId"},
		"JSON, cut at a backslash": {`{"MsgType":"text","FromUserName":"o1","a":"x\","MsgId":24}`, document.Structure, ""},
		"JSON, a raw quote":        {`{"MsgType":"text","FromUserName":"o1","a":"say "hi" to me","MsgId":24}`, document.Structure, ""},
		"JSON, no quotes":          {`{"MsgType":"text","FromUserName":"o1","a":NaN,"MsgId":24}`, document.Structure, ""},
		"JSON, a raw quote first":  {`{"a":"say "hi"","MsgType":"text","FromUserName":"o1","b":"x","MsgId":24}`, document.Structure, ""},
		"JSON and more":            {`{"MsgType":"text","FromUserName":"o1","MsgId":24}{}`, document.Beside, ""},
		"JSON cut short":           {`{"MsgType":"text","FromUserName":"o1","a":"`, document.Structure, "MsgId"},
		"JSON, 10,000 deep":        {`{"MsgType":"text","FromUserName":"o1","a":` + strings.Repeat("[", 10_000) + `,"MsgId":24}`, document.Bounds, ""},
		"JSON, white space":        {`{"MsgType":" text\n","FromUserName":"o1","MsgId":24}`, document.Space, ""},
		"JSON, byte order mark":    {"\uFEFF\n{\"MsgType\":\"text\",\"FromUserName\":\"o1\",\"MsgId\":24}", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := mustRead(t, row.text)
			for name, want := range map[string]string{"MsgType": "text", "FromUserName": "o1", "MsgId": "24"} {
				if name == row.without {
					want = ""
				}
				if got := d.Field(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			var kinds []document.Kind
			for _, odd := range d.Oddities {
				kinds = append(kinds, odd.Kind)
				if odd.Detail == "" || strings.Contains(odd.Detail, "o1") {
					t.Errorf("detail %q", odd.Detail)
				}
			}
			if row.kind == "" && len(kinds) > 0 || row.kind != "" && !slices.Contains(kinds, row.kind) {
				t.Errorf("oddities %v, want %q", kinds, row.kind)
			}
		})
	}
}

func TestNoDocument(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", " \n", "\uFEFF ", "hello", "a=1&b=2", "\x1f\x8b\x08\x00", "+ADw-xml+AD4-", "\xff\xfe<\x00x\x00", `["a"]`, `"a"`,
		"<html></html>", "<XML></XML>", "<", "<>", "< xml>", "</xml>",
	} {
		if d, err := document.Read([]byte(text), nil); d != nil || err != nil {
			t.Errorf("%q: got %v, %v", text, d, err)
		}
	}
	for _, text := range []string{
		"<!DOCTYPE xml><xml></xml>", `<!DOCTYPE xml [<!ENTITY a "ha">]><xml><a>&a;</a></xml>`, "<?xml version='1.0'?> <!DOCTYPE xml><xml/>",
		"<xml><!DOCTYPE xml></xml>", "<xml><MsgType>text</MsgType><!ENTITY a 'b'></xml>",
	} {
		if d, err := document.Read([]byte(text), nil); d != nil || !errors.Is(err, document.ErrDocType) {
			t.Errorf("%q: got %v, %v, want ErrDocType", text, d, err)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		" <![CDATA[ hi ]]>":                                             "  hi ",
		"<![CDATA[a]]]]><![CDATA[>b]]>":                                 "a]]>b", // a writer who knows how
		"<![CDATA[look: <a><![CDATA[x]]></a> ok]]>":                     "look: <a><![CDATA[x]]></a> ok",
		"<![CDATA[array[b[0]]> 1]]>":                                    "array[b[0]]> 1",
		"<![CDATA[x]]></Content><MsgId>1</MsgId><Content><![CDATA[y]]>": "x]]></Content><MsgId>1</MsgId><Content><![CDATA[y",
		"<![CDATA[a\xe5\x90]]>":                                         "a\uFFFD",
		"a&lt;b":                                                        "a<b",
	} {
		d := mustRead(t, "<xml><MsgType>text</MsgType><Content>"+content+"</Content><MsgId>2</MsgId></xml>")
		if got := d.Text("Content"); got != want || d.Field("MsgId") != "2" {
			t.Errorf("%q: got %q, want %q; MsgId %q", content, got, want, d.Field("MsgId"))
		}
	}
	if got := mustRead(t, `{"Content":" a ","Content":"b"}`).Text("Content"); got != " a " {
		t.Errorf("got %q, want the first one", got)
	}
}

// templates are documents as WeChat writes them: $ is where a user's text goes, between the CDATA's ends or raw.
var templates = map[string]string{
	"text": "<xml><ToUserName><![CDATA[gh_1]]></ToUserName>\n<FromUserName><![CDATA[o1]]></FromUserName>\n<CreateTime>1700000000</CreateTime>\n" +
		"<MsgType><![CDATA[text]]></MsgType>\n<Content><![CDATA[$]]></Content>\n<MsgId>24</MsgId>\n</xml>",
	"text, bare": "<xml><ToUserName>gh_1</ToUserName><FromUserName>o1</FromUserName><CreateTime>1700000000</CreateTime>" +
		"<MsgType>text</MsgType><Content>$</Content><MsgId>24</MsgId></xml>",
	"text in another order": "<xml><MsgId>24</MsgId><CreateTime>1700000000</CreateTime><Content><![CDATA[$]]></Content><MsgType>text</MsgType>" +
		"<ToUserName>gh_1</ToUserName><FromUserName>o1</FromUserName></xml>",
	"link": "<xml><ToUserName>gh_1</ToUserName><FromUserName>o1</FromUserName><CreateTime>1700000000</CreateTime><MsgType>link</MsgType>" +
		"<Title><![CDATA[$]]></Title><Description><![CDATA[$]]></Description><Url><![CDATA[$]]></Url><MsgId>24</MsgId></xml>",
	"event": "<xml><ToUserName>gh_1</ToUserName><FromUserName>o1</FromUserName><CreateTime>1700000000</CreateTime><MsgType>event</MsgType>" +
		"<Event>scancode_push</Event><EventKey>k</EventKey><ScanCodeInfo><ScanType>qrcode</ScanType><ScanResult><![CDATA[$]]></ScanResult></ScanCodeInfo></xml>",
	"no type": "<xml><ToUserName><![CDATA[gh_1]]></ToUserName><Info><item><![CDATA[$]]></item></Info></xml>",
	"quick registration": "<xml><AppId>wx1</AppId><CreateTime>1700000000</CreateTime><InfoType>notify_third_fasteregister</InfoType><appid>wx2</appid>" +
		"<status>0</status><auth_code>c</auth_code><msg>OK</msg><info><name><![CDATA[$]]></name><code>X1</code></info></xml>",
}

// pieces are what a clever text is made of.
var pieces = []string{
	"x", "]]>", "<![CDATA[", "</Content>", "<Content>", "<Content a=\"", "</Title>", "<Title>", "<Description>", "</Url>", "<Url>", "</ScanResult></ScanCodeInfo>",
	"<ScanCodeInfo><ScanResult>", "</name></info>", "<info><name>", "</item></Info>", "<Info><item>", "<MsgId>1</MsgId>", "<MsgID>2</MsgID>", "<MsgType>event</MsgType>", "<Event>subscribe</Event>",
	"<FromUserName>o2</FromUserName>", "<CreateTime>1</CreateTime>", "<InfoType>unauthorized</InfoType>", "<AuthorizerAppid>wx3</AuthorizerAppid>",
	"<auth_code>d</auth_code>", "<status>1</status>", "<appid>wx4</appid>", "<AppId>wx5</AppId>", "</xml>", "<xml>", "<!--", "-->", "<?x", "?>", "<!DOCTYPE xml>",
	"<a b=\"", "\">", "<a b='", "'>", "\x00", "\xe5\x90", "&lt;", "<MsgId>", "</MsgId>", "<", ">", "\n", "<MsgId/>", "<x:MsgId>3</x:MsgId>",
	`","MsgId":1,"Content":"`, "\r", "</MsgId ><a/>", "<![CDATA[]]>",
}

// TestTextsMakeNoFieldTogether has two texts of one user, or three, work together: one opens what the next one closes, so that all tags
// fit and no name stands twice in the root.
func TestTextsMakeNoFieldTogether(t *testing.T) {
	t.Parallel()
	const forged = "<MsgId>1</MsgId><FromUserName>o2</FromUserName><MsgType>event</MsgType><Event>subscribe</Event><AuthorizerAppid>wx3</AuthorizerAppid>" +
		"<AuthorizationCode>c</AuthorizationCode><auth_code>d</auth_code><appid>wx4</appid><status>0</status>"
	const (
		event = "<xml><ToUserName>gh_1</ToUserName><FromUserName>o1</FromUserName><CreateTime>1700000000</CreateTime><MsgType>event</MsgType>" +
			"<Event>e</Event>"
		push    = "<xml><AppId>wx1</AppId><CreateTime>1700000000</CreateTime><InfoType>news</InfoType>"
		inRoot  = "<Title><![CDATA[$]]></Title><Description><![CDATA[$]]></Description><Url><![CDATA[$]]></Url></xml>"
		inField = "<info><name><![CDATA[$]]></name><code>1</code></info><more><note><![CDATA[$]]></note></more></xml>"
	)
	for name, row := range map[string]struct {
		template string
		texts    []string
	}{
		"link":                     {templates["link"], []string{"]]></Title>" + forged + "<z><Title><![CDATA[", "]]></Description></z><Description><![CDATA[", ""}},
		"event":                    {event + inRoot, []string{"]]></Title>" + forged + "<z><Title><![CDATA[", "]]></Description></z><Description><![CDATA[", ""}},
		"push":                     {push + inRoot, []string{"]]></Title>" + forged + "<z><Title><![CDATA[", "]]></Description></z><Description><![CDATA[", ""}},
		"deeper, with a prefix":    {push + inRoot, []string{"]]></Title>" + forged + "<x:z><y><Title><![CDATA[", "]]></Description></y></x:z><Description><![CDATA[", ""}},
		"in one of WeChat's":       {push + inRoot, []string{"]]></Title>" + forged + "<MsgId><Title><![CDATA[", "]]></Description></MsgId><Description><![CDATA[", ""}},
		"inside of fields":         {push + inField, []string{"]]></name></info>" + forged + "<z><info><name><![CDATA[", "]]></note></more></z><more><note><![CDATA["}},
		"the second one forges":    {event + inRoot, []string{"]]></Title><z><Title><![CDATA[", "]]></Description></z>" + forged + "<Description><![CDATA[", ""}},
		"three, the second":        {event + inRoot, []string{"]]></Title><z><Title><![CDATA[", "]]></Description></z>" + forged + "<z2><Description><![CDATA[", "]]></Url></z2><Url><![CDATA["}},
		"three, with twins before": {event + inRoot, []string{"]]></Title><Title><![CDATA[", "]]></Description>" + forged + "<z><Description><![CDATA[", "]]></Url></z><Url><![CDATA["}},
	} {
		want := fields(mustRead(t, strings.ReplaceAll(row.template, "$", "hello")))
		text := row.template
		for _, one := range row.texts {
			text = strings.Replace(text, "$", one, 1)
		}
		d := mustRead(t, text)
		if got := fields(d); !d.Whole || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %q: got %v, want %v", name, text, got, want)
		}
	}
}

// TestNoTextMakesAField writes clever texts into documents: what decides stays as it was.
func TestNoTextMakesAField(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	some := func() string {
		var b strings.Builder
		for range rng.IntN(9) {
			b.WriteString(pieces[rng.IntN(len(pieces))])
		}
		return b.String()
	}
	for name, template := range templates {
		want := fields(mustRead(t, strings.ReplaceAll(template, "$", "hello")))
		for range 5_000 {
			text := template
			for strings.Contains(text, "$") {
				text = strings.Replace(text, "$", some(), 1)
			}
			d, err := document.Read([]byte(text), nil)
			if err != nil || d == nil {
				t.Fatalf("%s: %q: %v", name, text, err)
			}
			if got := fields(d); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("%s: %q: got %v, want %v", name, text, got, want)
			}
		}
	}
}
