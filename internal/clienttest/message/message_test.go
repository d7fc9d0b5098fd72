package message_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"strings"
	"testing"
	"time"

	"wxtoken/client/message"
	"wxtoken/internal/events"
	"wxtoken/internal/wechat"
)

var messageTime = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestParse(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		document string
		want     message.Message
	}{
		"text": {
			"<xml><ToUserName><![CDATA[gh_1]]></ToUserName><FromUserName><![CDATA[o1]]></FromUserName><CreateTime>1795348800</CreateTime>" +
				"<MsgType><![CDATA[text]]></MsgType><Content><![CDATA[你好 <b>]]> &amp; more</Content><MsgId>6054768590064713728</MsgId></xml>",
			message.Message{ToUserName: "gh_1", FromUserName: "o1", CreateTime: messageTime, MsgType: "text", Content: "你好 <b> & more", MsgID: "6054768590064713728"},
		},
		"image": {
			"\uFEFF <xml><MsgType>image</MsgType><MediaId>m-1</MediaId></xml>\n",
			message.Message{MsgType: "image", MediaID: "m-1"},
		},
		"event": {
			"<xml><MsgType>event</MsgType><Event>CLICK</Event><EventKey>V1001</EventKey><SendPicsInfo><MsgType>inside</MsgType></SendPicsInfo></xml>",
			message.Message{MsgType: "event", Event: "CLICK", EventKey: "V1001"},
		},
		"template result": {
			"<xml><MsgType>event</MsgType><Event>TEMPLATESENDJOBFINISH</Event><MsgID>200163836</MsgID></xml>",
			message.Message{MsgType: "event", Event: "TEMPLATESENDJOBFINISH", MsgID: "200163836"},
		},
		"times that are none": {
			"<xml><MsgType>text</MsgType><CreateTime>9223372036854775807</CreateTime></xml>",
			message.Message{MsgType: "text"},
		},
		"a field twice": {
			"<xml><MsgType>text</MsgType><Content>first</Content><Content>second</Content></xml>",
			message.Message{MsgType: "text", Content: "first"},
		},
		"a user's tags": {
			"<xml><FromUserName>o1</FromUserName><MsgType>text</MsgType><Content><![CDATA[x]]></Content><MsgId>1</MsgId><Event>subscribe</Event><Content><![CDATA[\x1d]]></Content><MsgId>2</MsgId></xml>",
			message.Message{FromUserName: "o1", MsgType: "text", MsgID: "2", Content: "x]]></Content><MsgId>1</MsgId><Event>subscribe</Event><Content><![CDATA[\x1d"},
		},
		"an end of CDATA, half a character, and white space": {
			"<xml>\n<MsgType>\n text\n</MsgType>\n<Content><![CDATA[ a[b[0]]> \xe5\x90]]></Content>\n<MsgId> 2 </MsgId></xml>word",
			message.Message{MsgType: "text", MsgID: "2", Content: " a[b[0]]> \uFFFD"},
		},
		"JSON, raw, and a name twice": {
			"{\"MsgType\":\"text\",\"Content\":\"a\x02\nb\",\"Event\":\"subscribe\",\"MsgId\":2,\"MsgId\":3}{}",
			message.Message{MsgType: "text", Content: "a\x02\nb", JSON: true},
		},
		"JSON": {
			`{"ToUserName":"gh_1","FromUserName":"o1","CreateTime":1795348800,"MsgType":"text","Content":"你好 \u003cb>","MsgId":6054768590064713728,"msgtype":"x","Content2":{"a":[1]}}`,
			message.Message{ToUserName: "gh_1", FromUserName: "o1", CreateTime: messageTime, MsgType: "text", Content: "你好 <b>", MsgID: "6054768590064713728", JSON: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := message.Parse([]byte(row.document))
			if err != nil {
				t.Fatal(err)
			}
			if got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, document := range []string{
		"", " ", "success", "{", "{}", `{"MsgType":""}`, `{"MsgType":{"a":1}}`, "[]", "null",
		"<xml></xml>", "<xml><MsgType></MsgType></xml>", "<xml><MsgType>SEKRET", "<html><MsgType>text</MsgType></html>",
		"<xml><MsgType>text</MsgType><MsgType>SEKRET</MsgType></xml>", "<!DOCTYPE xml><xml><MsgType>text</MsgType></xml>",
	} {
		m, err := message.Parse([]byte(document))
		if !errors.Is(err, message.ErrUnreadable) || m != (message.Message{}) {
			t.Errorf("%q: got %+v, %v, want ErrBadMessage", document, m, err)
		}
		if err != nil && strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("the error shows the document: %v", err)
		}
	}
}

// replies has one reply of each sort to a message.
func replies(t testing.TB, m message.Message, text string) map[string][]byte {
	t.Helper()
	r := m.Reply(messageTime)
	news, err := r.News(message.Article{Title: text, Description: "d", PicURL: "https://p", URL: "https://u?a=1&b=2"}, message.Article{Title: "2"})
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"text": r.Text(text), "image": r.Image(text), "voice": r.Voice(text),
		"video": r.Video(message.Video{MediaID: text, Title: "t"}),
		"music": r.Music(message.Music{Title: "t", HQMusicURL: "https://hq", ThumbMediaID: text}),
		"news":  news, "transfer_customer_service": r.TransferCustomerService(text),
	}
}

func TestReply(t *testing.T) {
	t.Parallel()
	const head = "<xml><ToUserName><![CDATA[o1]]></ToUserName><FromUserName><![CDATA[gh_1]]></FromUserName><CreateTime>1795348800</CreateTime><MsgType><![CDATA["
	const jsonHead = `{"ToUserName":"o1","FromUserName":"gh_1","CreateTime":1795348800,"MsgType":"`
	m := message.Message{ToUserName: "gh_1", FromUserName: "o1", MsgType: "text"}
	inXML, inJSON := replies(t, m, "x"), replies(t, message.Message{ToUserName: "gh_1", FromUserName: "o1", MsgType: "text", JSON: true}, "x")
	for msgType, want := range map[string][2]string{
		"text":  {"<Content><![CDATA[x]]></Content>", `"Content":"x"`},
		"image": {"<Image><MediaId><![CDATA[x]]></MediaId></Image>", `"Image":{"MediaId":"x"}`},
		"voice": {"<Voice><MediaId><![CDATA[x]]></MediaId></Voice>", `"Voice":{"MediaId":"x"}`},
		"video": {"<Video><MediaId><![CDATA[x]]></MediaId><Title><![CDATA[t]]></Title></Video>", `"Video":{"MediaId":"x","Title":"t"}`},
		"music": {"<Music><Title><![CDATA[t]]></Title><HQMusicUrl><![CDATA[https://hq]]></HQMusicUrl><ThumbMediaId><![CDATA[x]]></ThumbMediaId></Music>",
			`"Music":{"Title":"t","HQMusicUrl":"https://hq","ThumbMediaId":"x"}`},
		"news": {"<ArticleCount>2</ArticleCount><Articles><item><Title><![CDATA[x]]></Title><Description><![CDATA[d]]></Description><PicUrl><![CDATA[https://p]]></PicUrl>" +
			"<Url><![CDATA[https://u?a=1&b=2]]></Url></item><item><Title><![CDATA[2]]></Title><Description><![CDATA[]]></Description><PicUrl><![CDATA[]]></PicUrl><Url><![CDATA[]]></Url></item></Articles>",
			`"ArticleCount":2,"Articles":[{"Title":"x","Description":"d","PicUrl":"https://p","Url":"https://u?a=1\u0026b=2"},{"Title":"2","Description":"","PicUrl":"","Url":""}]`},
		"transfer_customer_service": {"<TransInfo><KfAccount><![CDATA[x]]></KfAccount></TransInfo>", `"TransInfo":{"KfAccount":"x"}`},
	} {
		if got := string(inXML[msgType]); got != head+msgType+"]]></MsgType>"+want[0]+"</xml>" {
			t.Errorf("%s in XML: %s", msgType, got)
		}
		if got := string(inJSON[msgType]); got != jsonHead+msgType+`",`+want[1]+"}" {
			t.Errorf("%s in JSON: %s", msgType, got)
		}
	}
	if got := string(m.Reply(messageTime).TransferCustomerService("")); got != head+"transfer_customer_service]]></MsgType></xml>" {
		t.Errorf("transfer to anybody: %s", got)
	}
	for _, n := range []int{0, 9} {
		if document, err := m.Reply(messageTime).News(make([]message.Article, n)...); err == nil {
			t.Errorf("news of %d articles: %s", n, document)
		}
	}
}

// checkReplies looks that whatever a text says, the reply is a document in which it is that text and no more.
func checkReplies(t testing.TB, m message.Message, text string) {
	t.Helper()
	for msgType, document := range replies(t, m, text) {
		read, err := wechat.ParseMessage(document) // the strict one, which WeChat's answers go through
		if err != nil || read.MsgType != msgType || read.JSON != m.JSON {
			t.Fatalf("%s about %q: %v: %s", msgType, text, err, document)
		}
		if m.JSON {
			if !json.Valid(document) {
				t.Fatalf("%s about %q: not JSON: %s", msgType, text, document)
			}
		} else if err := xml.Unmarshal(document, new(struct{})); err != nil {
			t.Fatalf("%s about %q: %v: %s", msgType, text, err, document)
		}
		if msgType == "text" && m.JSON && read.Content != strings.ToValidUTF8(text, "\uFFFD") && !strings.Contains(read.Content, "\uFFFD") {
			t.Fatalf("text %q became %q", text, read.Content)
		}
	}
}

func TestReplyEscapes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"]]>", "]]]]>>", "]]", "x]]></Content><Content>", "<![CDATA[", "]]><MsgType>evil</MsgType>", `"},"MsgType":"evil",{"`, "a & b < c",
		"\x00\x01", "\xff\xfe", "\uFFFE", "你好\n世界", `\`, "",
	} {
		for _, m := range []message.Message{{ToUserName: text, FromUserName: text}, {ToUserName: text, FromUserName: text, JSON: true}} {
			checkReplies(t, m, text)
		}
	}
	m := message.Message{ToUserName: "gh_1", FromUserName: "o1"}
	for text, want := range map[string]string{"a]]>b]]>]]": "a]]>b]]>]]", "a\x00b": "a\uFFFDb"} {
		read, err := message.Parse(m.Reply(messageTime).Text(text))
		if err != nil || read.Content != want || read.ToUserName != "o1" || read.FromUserName != "gh_1" || !read.CreateTime.Equal(messageTime) {
			t.Errorf("%q became %+v, %v", text, read, err)
		}
	}
}

func TestReplySubject(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		component, appid, msgType, event string
		want                             bool // heard
	}{
		{"wxc", "wxa", "text", "", true},
		{"wxc", "wxb", "event", "subscribe", true},
		{"wxd", "wxa", "text", "", false},
	} {
		asked := events.ReplySubject(row.component, row.appid, row.msgType, row.event)
		if heard := events.Covers(message.ReplySubject("wxc", "*"), asked); heard != row.want {
			t.Errorf("a question of ingest on %s is heard: %v", asked, heard)
		}
		if one := message.ReplySubject("wxc", "wxa"); events.Covers(one, asked) != (row.want && row.appid == "wxa") {
			t.Errorf("%s covers %s: %v", one, asked, events.Covers(one, asked))
		}
	}
}

// FuzzParse reads any document, and answers what it takes.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"<xml><ToUserName><![CDATA[gh_1]]></ToUserName><FromUserName>o1</FromUserName><CreateTime>1</CreateTime><MsgType>text</MsgType><Content>x]]&gt;</Content></xml>",
		`{"MsgType":"text","Content":"]]>","CreateTime":1795348800}`, "<xml><MsgType>a<b/>c</MsgType></xml>", "<!DOCTYPE x><xml/>", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		m, err := message.Parse(document)
		if err != nil {
			if !errors.Is(err, message.ErrUnreadable) || m != (message.Message{}) {
				t.Fatalf("%+v, %v", m, err)
			}
			return
		}
		if _, err := m.CreateTime.MarshalText(); err != nil {
			t.Fatal(err)
		}
		checkReplies(t, m, m.Content)
		// What ingest lets through is read in the same way here.
		if strict, err := wechat.ParseMessage(document); err == nil && (strict.MsgType != m.MsgType || strict.Event != m.Event || strict.JSON != m.JSON) {
			t.Fatalf("read %+v, and strictly %s %s", m, strict.MsgType, strict.Event)
		}
	})
}
