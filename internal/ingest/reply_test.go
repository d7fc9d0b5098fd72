package ingest_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client/message"
	"wxtoken/internal/events"
	"wxtoken/internal/ingest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/wechat"
)

// inJSON puts the Encrypt of a push into an envelope in JSON.
func (c *call) inJSON() *call {
	c.body = []byte(`{"ToUserName":"gh_97417a04a28d","Encrypt":"` + encryptOf(string(c.body)) + `"}`)
	return c
}

// compat adds the fields in the clear that compatibility mode has beside Encrypt.
func (c *call) compat(fields string) *call {
	c.body = bytes.Replace(c.body, []byte("<xml>"), []byte("<xml>"+fields), 1)
	return c
}

// plainCall is the call with which WeChat delivers a message in plain mode.
func plainCall(path, text string) *call {
	const timestamp, nonce = "1795348800", "1590219412"
	return &call{
		method: http.MethodPost, path: path, header: http.Header{},
		raw:  "signature=" + signature3(token, timestamp, nonce) + "&timestamp=" + timestamp + "&nonce=" + nonce + "&openid=openid-of-a-user",
		body: []byte(text),
	}
}

// sealedReply is an encrypted answer.
type sealedReply struct {
	Encrypt      string
	MsgSignature string
	TimeStamp    json.Number
	Nonce        string
}

// openReply decrypts an answer as WeChat would, with the keys that it made the push with.
func openReply(t *testing.T, with wechat.Keys, header http.Header, body string) string {
	t.Helper()
	var sealed sealedReply
	var err error
	switch header.Get("Content-Type") {
	case "application/xml":
		err = xml.Unmarshal([]byte(body), &sealed)
	case "application/json":
		err = json.Unmarshal([]byte(body), &sealed)
	default:
		t.Fatalf("answer of type %q: %q", header.Get("Content-Type"), body)
	}
	if err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	if want := fmt.Sprint(now.Unix()); sealed.TimeStamp.String() != want || sealed.Nonce != "1590219412" {
		t.Errorf("answer with time %s and nonce %s, want %s and that of the push", sealed.TimeStamp, sealed.Nonce, want)
	}
	crypter, err := wechat.NewCrypter(with)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := crypter.Open(wechat.Query{Timestamp: sealed.TimeStamp.String(), Nonce: sealed.Nonce, MsgSignature: sealed.MsgSignature}, []byte(sealed.Encrypt))
	if err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	return string(plain.Text)
}

// startService answers the messages of the account with what handle returns.
func startService(t testing.TB, srv *natsdtest.Server, handle func(*nats.Msg) []byte) {
	t.Helper()
	nc := srv.Connect()
	_, err := nc.QueueSubscribe(message.ReplySubject(component, authorizer), "test", func(msg *nats.Msg) {
		if err := msg.Respond(handle(msg)); err != nil {
			t.Errorf("respond: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(time.Minute); err != nil {
		t.Fatal(err)
	}
}

// echo answers a message with its own text, in the message's format.
func echo(t testing.TB) func(*nats.Msg) []byte {
	return func(msg *nats.Msg) []byte {
		m, err := message.Parse(msg.Data)
		if err != nil {
			t.Errorf("asked about %q: %v", msg.Data, err)
		}
		return m.Reply(now).Text("echo: " + m.Content + m.Event)
	}
}

// echoReply is what echo answers to a message of message.
func echoReply(content string) string {
	m := message.Message{ToUserName: "gh_97417a04a28d", FromUserName: "openid-of-a-user"}
	return string(m.Reply(now).Text("echo: " + content))
}

// TestReply goes the whole way in every mode: push, event, service, encrypted reply.
func TestReply(t *testing.T) {
	t.Parallel()
	before := wechat.Keys{AppID: component, Tokens: []string{tokenBefore}, AESKeys: []string{aesBefore}}
	hello := messageOf("text", "<Content><![CDATA[hello ]]>]]&gt;</Content>")
	const jsonText = `{"ToUserName":"gh_97417a04a28d","FromUserName":"openid-of-a-user","CreateTime":1795348800,"MsgType":"text","Content":"hello"}`
	jsonReply := string(message.Message{ToUserName: "gh_97417a04a28d", FromUserName: "openid-of-a-user", JSON: true}.Reply(now).Text("echo: hello"))
	rows := []struct {
		name  string
		call  *call
		with  wechat.Keys // empty: the answer is in the clear
		want  string
		ctype string
		tail  string // of the subject on which the service is asked
		asked string // what it is asked about; empty for hello
	}{
		{"security, XML", componentPush(t, msgPath, hello), keys, echoReply("hello ]]>"), "application/xml", "text", ""},
		{"security, JSON", componentPush(t, msgPath, jsonText).inJSON(), keys, jsonReply, "application/json", "text", jsonText},
		{"a document in XML in an envelope in JSON", componentPush(t, msgPath, hello).inJSON(), keys, echoReply("hello ]]>"), "application/json", "text", ""},
		{"compatibility, XML", componentPush(t, msgPath, hello).compat("<MsgType>text</MsgType><Content>in the clear</Content>"), keys, echoReply("hello ]]>"), "application/xml", "text", ""},
		{"earlier token and key", push(t, msgPath, before, hello), before, echoReply("hello ]]>"), "application/xml", "text", ""},
		{"event", componentPush(t, msgPath, messageOf("event", "<Event>a.b</Event>")), keys, echoReply("a.b"), "application/xml", "event.a_b", messageOf("event", "<Event>a.b</Event>")},
		{"plain, XML", plainCall(msgPath, hello), wechat.Keys{}, echoReply("hello ]]>"), "application/xml", "text", ""},
		{"plain, JSON", plainCall(msgPath, jsonText), wechat.Keys{}, jsonReply, "application/json", "text", jsonText},
		{"plain allowed, encrypted all the same", componentPush(t, msgPath, hello), keys, echoReply("hello ]]>"), "application/xml", "text", ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.Start(t)
			r := rigOn(t, newRig(t, srv).js, func(c *ingest.Config) { c.PlainMessages = strings.HasPrefix(row.name, "plain") })
			heard := make(chan *nats.Msg, 1)
			startService(t, srv, func(msg *nats.Msg) []byte { heard <- msg; return echo(t)(msg) })

			status, header, body := row.call.send(t, r.serve(t))
			if status != http.StatusOK || header.Get("Content-Type") != row.ctype {
				t.Fatalf("answer %d %q, want 200 and %s", status, body, row.ctype)
			}
			if row.with.AppID == "" {
				if body != row.want {
					t.Errorf("answer %q, want %q", body, row.want)
				}
			} else if got := openReply(t, row.with, header, body); got != row.want {
				t.Errorf("reply %q, want %q", got, row.want)
			}

			onMessages := r.messages(t, events.StreamMessages)
			if len(onMessages) != 1 {
				t.Fatalf("%d messages on MESSAGES, want 1", len(onMessages))
			}
			msg, asked := <-heard, row.asked
			if asked == "" {
				asked = hello
			}
			if msg.Subject != "wechat.reply."+component+"."+authorizer+"."+row.tail {
				t.Errorf("asked on %s", msg.Subject)
			}
			if string(msg.Data) != asked || string(onMessages[0].Data) != asked {
				t.Errorf("asked about %q, stored %q, want %q", msg.Data, onMessages[0].Data, asked)
			}
			for _, name := range []string{"Content-Type", "ce-id"} {
				if got, want := msg.Header.Get(name), onMessages[0].Header.Get(name); got != want || got == "" {
					t.Errorf("asked with %s %q, stored with %q", name, got, want)
				}
			}
			if n, m := r.count(t, "wxtoken_reply_total", "answered"), r.count(t, "wxtoken_reply_duration_seconds"); n != 1 || m != 1 {
				t.Errorf("counted %v answers and %v durations, want one of each", n, m)
			}
			if text := r.log.String(); strings.Contains(text, "hello") || strings.Contains(text, "openid") || len(r.log.lines(t)) > 0 {
				t.Errorf("want only debug lines without the message, got %s", text)
			}
		})
	}
}

// TestNoReply looks at what a service can answer that does not become a reply.
func TestNoReply(t *testing.T) {
	t.Parallel()
	doc := func(size int) string {
		const head, tail = "<xml><MsgType>text</MsgType><Content>", "</Content></xml>"
		return head + strings.Repeat("SEKRET", (size-len(head)-len(tail))/6) + strings.Repeat(" ", (size-len(head)-len(tail))%6) + tail
	}
	rows := []struct {
		name, answer   string
		result, reason string // reason of the one log line; empty for none
	}{
		{"nothing", "", "none", ""},
		{"white space", " \n", "none", ""},
		{"success", "success", "none", ""},
		{"success and a line end", "success\n", "none", ""},
		{"words", "SEKRET", "refused", "reply_syntax"},
		{"half a document", "<xml><MsgType>SEKRET", "refused", "reply_syntax"},
		{"two documents", "<xml></xml><xml></xml>", "refused", "reply_syntax"},
		{"DOCTYPE", "<!DOCTYPE xml><xml><MsgType>SEKRET</MsgType></xml>", "refused", "reply_syntax"},
		{"a web page", "<html></html>", "refused", "reply_syntax"},
		{"JSON list", `["SEKRET"]`, "refused", "reply_syntax"},
		{"JSON with a key twice", `{"a":1,"a":"SEKRET"}`, "refused", "reply_syntax"},
		{"root with another's end", "<xml><MsgType>SEKRET</MsgType></XML>", "refused", "reply_syntax"},
		{"root with a prefix", "<a:xml><MsgType>SEKRET</MsgType></a:xml>", "refused", "reply_syntax"},
		{"a mark too many", "\uFEFF\uFEFF<xml><MsgType>SEKRET</MsgType></xml>", "refused", "reply_syntax"},
		{"success and more", "success<xml></xml>", "refused", "reply_syntax"},
		{"one byte too large", doc(64<<10 + 1), "refused", "reply_too_large"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.Start(t)
			r := newRig(t, srv)
			startService(t, srv, func(*nats.Msg) []byte { return []byte(row.answer) })
			status, header, body := componentPush(t, msgPath, messageOf("text", "<Content>hello</Content>")).send(t, r.serve(t))
			if status != http.StatusOK || body != "success" || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
				t.Errorf("answer %d %q, want 200 success", status, body)
			}
			if got := r.count(t, "wxtoken_reply_total", row.result); got != 1 {
				t.Errorf("counted %v as %s, want 1", got, row.result)
			}
			var reasons []any
			for _, line := range r.log.lines(t) {
				reasons = append(reasons, line["reason"])
			}
			if row.reason == "" && len(reasons) > 0 || row.reason != "" && (len(reasons) != 1 || reasons[0] != row.reason) {
				t.Errorf("logged reasons %v, want %q", reasons, row.reason)
			}
			if strings.Contains(r.log.String(), "SEKRET") {
				t.Errorf("the log shows the answer: %s", r.log)
			}
		})
	}
	t.Run("as large as may be", func(t *testing.T) {
		t.Parallel()
		srv := natsdtest.Start(t)
		r := newRig(t, srv)
		startService(t, srv, func(*nats.Msg) []byte { return []byte(doc(64 << 10)) })
		_, header, body := componentPush(t, msgPath, messageOf("text", "")).send(t, r.serve(t))
		if got := openReply(t, keys, header, body); got != doc(64<<10) {
			t.Errorf("reply of %d bytes, want %d", len(got), 64<<10)
		}
	})
	t.Run("a reply that has no MsgType", func(t *testing.T) { // some events want one
		t.Parallel()
		srv := natsdtest.Start(t)
		r := newRig(t, srv)
		startService(t, srv, func(*nats.Msg) []byte { return []byte(`{"ErrCode":0,"ErrMsg":"success"}`) })
		_, header, body := componentPush(t, msgPath, messageOf("event", "<Event>xpay_goods_deliver_notify</Event>")).send(t, r.serve(t))
		if got := openReply(t, keys, header, body); got != `{"ErrCode":0,"ErrMsg":"success"}` {
			t.Errorf("reply %q", got)
		}
	})
	t.Run("error of a micro service", func(t *testing.T) {
		t.Parallel()
		srv := natsdtest.Start(t)
		r := newRig(t, srv)
		nc := srv.Connect()
		s, err := micro.AddService(nc, micro.Config{Name: "shop", Version: "1.0.0", Endpoint: &micro.EndpointConfig{
			Subject: message.ReplySubject(component, authorizer),
			Handler: micro.HandlerFunc(func(req micro.Request) {
				if err := req.Error("500", "SEKRET", []byte("<xml></xml>")); err != nil {
					t.Error(err)
				}
			}),
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Stop() })
		if err := nc.FlushTimeout(time.Minute); err != nil {
			t.Fatal(err)
		}
		_, _, body := componentPush(t, msgPath, messageOf("text", "")).send(t, r.serve(t))
		if lines := r.log.lines(t); body != "success" || len(lines) != 1 || lines[0]["reason"] != "reply_error" || strings.Contains(r.log.String(), "SEKRET") {
			t.Errorf("answer %q, logged %s", body, r.log)
		}
	})
}

// TestNoListener takes messages and asks for nothing else that could cost time.
func TestNoListener(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	at := r.serve(t)
	var asked atomic.Int64
	nc := srv.Connect()
	// Of another account, and of another component with an account of that name: neither is asked.
	for _, subject := range []string{message.ReplySubject(component, "wxother"), message.ReplySubject("wxother", authorizer)} {
		if _, err := nc.Subscribe(subject, func(*nats.Msg) { asked.Add(1) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.FlushTimeout(time.Minute); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		text := messageOf("text", fmt.Sprintf("<Content>%d</Content>", n))
		if status, _, body := componentPush(t, msgPath, text).send(t, at); status != http.StatusOK || body != "success" {
			t.Fatalf("answer %d %q, want 200 success", status, body)
		}
	}
	if got := r.count(t, "wxtoken_reply_total", "none"); got != 10 || asked.Load() != 0 {
		t.Errorf("counted %v without a listener, want 10; %d asked elsewhere", got, asked.Load())
	}
	// An authorization event has no reply.
	if _, _, body := componentPush(t, authPath, ticketEvent()).send(t, at); body != "success" {
		t.Errorf("answer %q, want success", body)
	}
	if got := r.count(t, "wxtoken_reply_total", "none"); got != 10 {
		t.Errorf("the services are asked about a ticket")
	}
}

// TestMetricsOfManyAccounts has as many series for many accounts as for one: what grows with the accounts makes a scrape too slow one day.
func TestMetricsOfManyAccounts(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	at := r.serve(t)
	series := func() (n int) {
		families, err := r.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			n += len(family.GetMetric())
		}
		return n
	}
	send := func(account int) {
		path := fmt.Sprintf("/wechat/%s/message/wxa%d", component, account)
		text := messageOf("text", fmt.Sprintf("<Content>%d</Content>", account))
		if _, _, body := componentPush(t, path, text).send(t, at); body != "success" {
			t.Fatalf("answer %q", body)
		}
	}
	send(0)
	one := series()
	for account := range 100 {
		send(account + 1)
	}
	if many := series(); many != one || one == 0 {
		t.Errorf("%d series after the messages of 101 accounts, %d after those of one", many, one)
	}
}

// TestNewListener has a service begin to listen after many messages without a listener: it is asked all the same.
func TestNewListener(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	at := r.serve(t)
	sent := 0
	send := func() string {
		sent++
		_, _, body := componentPush(t, msgPath, messageOf("text", fmt.Sprintf("<Content>%d</Content>", sent))).send(t, at)
		return body
	}
	for range 30 {
		if body := send(); body != "success" {
			t.Fatalf("answer %q, want success", body)
		}
	}
	if got := r.count(t, "wxtoken_reply_total", "none"); got != 30 {
		t.Errorf("counted %v, want 30", got)
	}
	nc := srv.Connect()
	if _, err := nc.Subscribe(message.ReplySubject(component, authorizer), func(m *nats.Msg) { _ = m.Respond([]byte("<xml><MsgType>text</MsgType></xml>")) }); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(time.Minute); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); send() == "success"; {
		if time.Now().After(deadline) {
			t.Fatal("the service is not asked within a minute")
		}
	}
	if body := send(); body == "success" {
		t.Error("and is not asked again")
	}
}

// TestRepeatIsAskedAgain answers a message that WeChat repeats, though its event is stored.
func TestRepeatIsAskedAgain(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	at := r.serve(t)
	ids := make(chan string, 2)
	startService(t, srv, func(msg *nats.Msg) []byte { ids <- msg.Header.Get("ce-id"); return echo(t)(msg) })
	for range 2 {
		_, header, body := componentPush(t, msgPath, messageOf("text", "<Content>hello</Content>")).send(t, at)
		if got := openReply(t, keys, header, body); got != echoReply("hello") {
			t.Errorf("reply %q", got)
		}
	}
	if a, b := <-ids, <-ids; a != b || r.stored(t) != 1 {
		t.Errorf("ids %q and %q, %d events; want the same id and one event", a, b, r.stored(t))
	}
}

// TestNotStoredIsNotAsked looks that a message that can't be stored is answered 503, whatever a
// service would say.
func TestNotStoredIsNotAsked(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	var asked atomic.Int64
	startService(t, srv, func(*nats.Msg) []byte { asked.Add(1); return []byte("<xml></xml>") })
	if err := r.js.DeleteStream(t.Context(), events.StreamMessages); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{msgPath, "/wechat/" + component + "/message/wx570bc396a51b8ff8"} {
		c := componentPush(t, path, messageOf("text", "<Content>TESTCOMPONENT_MSG_TYPE_TEXT</Content>"))
		if status, _, body := c.send(t, r.serve(t)); status != http.StatusServiceUnavailable || body != "retry" {
			t.Errorf("%s: answer %d %q, want 503 retry", path, status, body)
		}
	}
	old := strings.Replace(messageOf("text", ""), fmt.Sprint(now.Unix()), fmt.Sprint(now.Add(-25*time.Hour).Unix()), 1)
	if status, _, body := componentPush(t, msgPath, old).send(t, r.serve(t)); status != http.StatusOK || body != "success" {
		t.Errorf("a message of yesterday: answer %d %q, want 200 success", status, body)
	}
	if asked.Load() != 0 {
		t.Errorf("asked %d times", asked.Load())
	}
}

// TestSlowServices has more messages waiting for a service than may: the others are answered at
// once, and so is a ticket.
func TestSlowServices(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	nc := srv.Connect()
	if _, err := nc.Subscribe(message.ReplySubject(component, "*"), func(*nats.Msg) {}); err != nil { // never answers
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(time.Minute); err != nil {
		t.Fatal(err)
	}
	const most = 256
	var all sync.WaitGroup
	for n := range most + 20 {
		c := componentPush(t, msgPath, messageOf("text", fmt.Sprintf("<Content>%d</Content>", n)))
		all.Go(func() {
			for { // the parsers are few, and their refusal comes before everything
				rec := c.serveDirectly(r)
				if rec.Code == http.StatusServiceUnavailable {
					time.Sleep(time.Millisecond)
					continue
				}
				if rec.Code != http.StatusOK || rec.Body.String() != "success" {
					t.Errorf("answer %d %q, want 200 success", rec.Code, rec.Body)
				}
				return
			}
		})
	}
	all.Wait()
	if got := r.count(t, "wxtoken_reply_total", "late"); got != most+20 {
		t.Errorf("counted %v late, want %d", got, most+20)
	}
	if !strings.Contains(r.log.String(), "reply_busy") || !strings.Contains(r.log.String(), "reply_late") {
		t.Error("the log does not tell the one kind of late from the other")
	}
}
