package wechat_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"wxtoken/client/document"
	"wxtoken/internal/wechat"
)

func TestParseMessage(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		doc                                      string
		to, from, msgType, event, msgID, content string
		created                                  int64
		json                                     bool
	}{
		"text": {
			doc: "<xml><ToUserName><![CDATA[gh_1]]></ToUserName><FromUserName><![CDATA[o1]]></FromUserName><CreateTime>1413192760</CreateTime>" +
				"<MsgType><![CDATA[text]]></MsgType><Content><![CDATA[你好 <b>]]></Content><MsgId>6054768590064713728</MsgId></xml>",
			to: "gh_1", from: "o1", msgType: "text", content: "你好 <b>", msgID: "6054768590064713728", created: 1413192760,
		},
		"template result": {
			doc:     "<xml><MsgType>event</MsgType><Event>TEMPLATESENDJOBFINISH</Event><MsgID>200163836</MsgID><Status>success</Status></xml>",
			msgType: "event", event: "TEMPLATESENDJOBFINISH", msgID: "200163836",
		},
		"nested": {
			doc:     "<xml><MsgType>event</MsgType><Event>pic_weixin</Event><SendPicsInfo><Count>1</Count><PicList><item><PicMd5Sum>x</PicMd5Sum></item><item><MsgType>no</MsgType></item></PicList></SendPicsInfo></xml>",
			msgType: "event", event: "pic_weixin",
		},
		"odd in all but MsgType": {
			doc:     "<xml><MsgType>text</MsgType><CreateTime>now</CreateTime><Content><a/></Content><Content>2</Content><FromUserName>a</FromUserName><FromUserName>b</FromUserName></xml>",
			msgType: "text", content: "2",
		},
		"JSON": {
			doc: `{"ToUserName":"gh_1","FromUserName":"o1","CreateTime":1413192760,"MsgType":"event","Event":"debug_demo","debug_str":"hello","MsgId":6054768590064713728,"List":[{"a":[1,2]}]}`,
			to:  "gh_1", from: "o1", msgType: "event", event: "debug_demo", msgID: "6054768590064713728", created: 1413192760, json: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := wechat.ParseMessage([]byte(row.doc))
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintf("%q %q %q %q %q %q %v", m.ToUserName, m.FromUserName, m.MsgType, m.Event, m.MsgID, m.Content, m.JSON)
			want := fmt.Sprintf("%q %q %q %q %q %q %v", row.to, row.from, row.msgType, row.event, row.msgID, row.content, row.json)
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if row.created == 0 != m.CreateTime.IsZero() || row.created != 0 && m.CreateTime != time.Unix(row.created, 0).UTC() {
				t.Errorf("got time %v, want %d", m.CreateTime, row.created)
			}
		})
	}
}

// What a message does not say, or not without doubt, is empty, and that is odd.
func TestParseMessageOdd(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		doc, msgType, event string
		kind                document.Kind
	}{
		"no MsgType":             {"<xml><Event>subscribe</Event></xml>", "", "", document.Field},
		"no MsgType, JSON":       {`{"Event":"subscribe"}`, "", "", document.Field},
		"MsgType too deep":       {"<xml><a><MsgType>text</MsgType></a></xml>", "", "", document.Field},
		"MsgType twice":          {"<xml><MsgType>text</MsgType><MsgType>event</MsgType><Event>a</Event></xml>", "", "", document.Twice},
		"Event of another type":  {"<xml><MsgType>text</MsgType><Event>subscribe</Event></xml>", "text", "", ""},
		"Event in own lines":     {"<xml><MsgType>\nevent\n</MsgType><Event> CLICK </Event></xml>", "event", "CLICK", document.Space},
		"not a document":         {"hello", "", "", document.Unreadable},
		"JSON of no object":      {`"hello"`, "", "", document.Unreadable},
		"MsgType is a number":    {`{"MsgType":7}`, "7", "", ""},
		"MsgType is JSON itself": {`{"MsgType":"{\"MsgType\":\"event\"}"}`, `{"MsgType":"event"}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := wechat.ParseMessage([]byte(row.doc))
			if err != nil || m.MsgType != row.msgType || m.Event != row.event {
				t.Errorf("got %q, %q, %v", m.MsgType, m.Event, err)
			}
			if (row.kind == "") != (len(m.Odd) == 0) || row.kind != "" && !slices.ContainsFunc(m.Odd, func(o document.Oddity) bool { return o.Kind == row.kind }) {
				t.Errorf("oddities %v, want %q", m.Odd, row.kind)
			}
		})
	}
}

func TestMessageID(t *testing.T) {
	t.Parallel()
	var m wechat.Message
	seen := map[string]bool{}
	for _, id := range []string{
		m.ID("wx1", "wx2", []byte("text")), m.ID("wx1", "wx3", []byte("text")), m.ID("wx3", "wx2", []byte("text")),
		m.ID("wx1", "wx2", []byte("texts")), m.ID("wx1", "wx2t", []byte("ext")), m.ID("wx1w", "x2", []byte("text")),
	} {
		if len(id) != 64 || seen[id] {
			t.Errorf("%q is no digest or stands twice", id)
		}
		seen[id] = true
	}
	if m.ID("wx1", "wx2", []byte("text")) != m.ID("wx1", "wx2", bytes.Clone([]byte("text"))) {
		t.Error("the same message has two IDs")
	}
}
