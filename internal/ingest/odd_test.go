package ingest_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"wxtoken/client/message"
	"wxtoken/internal/events"
	"wxtoken/internal/ingest"
	"wxtoken/internal/natsd/natsdtest"
)

// caseFile returns a document from public bug reports, for our component and of now.
func caseFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "cases", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("wxc0ffee0000000001", component, "1700000000", strconv.FormatInt(now.Unix(), 10), "case-b", "SEKRET-b").Replace(string(text))
}

const (
	onNotice  = "wechat.notice." + component
	onMessage = "wechat.message." + component + "." + authorizer
)

// TestCases delivers what keepers in the field stumbled over. All of it is WeChat's: it is stored
// as it came, and answered with success.
func TestCases(t *testing.T) {
	t.Parallel()
	onServer := newRig(t, natsdtest.Start(t))
	for _, row := range []struct {
		file     string
		messages string // subject on MESSAGES; empty for nothing
		auth     string // kinds on AUTH
		kinds    string // of oddities
		msgID    string // by the Go package
	}{
		{file: "b02-text-u001d.xml", messages: onMessage + ".text", kinds: "characters", msgID: "24000000000000021"},
		{file: "b02-text-u0000.xml", messages: onMessage + ".text", kinds: "characters", msgID: "24000000000000026"},
		{file: "b02-text-ufffe.xml", messages: onMessage + ".text", kinds: "characters", msgID: "24000000000000025"},
		{file: "b02-text-reference.xml", messages: onMessage + ".text", kinds: "characters", msgID: "24000000000000029"},
		{file: "b02-text-raw.json", messages: onMessage + ".text", kinds: "characters", msgID: "24000000000000031"},
		{file: "b02-auth-fast-register.xml", messages: onNotice + ".notify_third_fasteregister", auth: "notify_third_fasteregister", kinds: "characters"},
		{file: "b03-text-cdata-closed-early.xml", messages: onMessage + ".text", kinds: "structure", msgID: "24000000000000041"},
		{file: "b03-text-bare-end.xml", messages: onMessage + ".text", kinds: "structure", msgID: "24000000000000042"},
		{file: "b03-event-wrong-end-tags.xml", messages: onMessage + ".event.wxa_category_audit", kinds: "structure"},
		{file: "b03-auth-authorized-wrong-end-tag.xml", auth: "authorized unreadable", kinds: "structure"},
		{file: "b03-text-forged-type.xml", messages: onMessage + ".text", kinds: "structure", msgID: "24000000000000043"},
		{file: "b03-text-forged-event.xml", messages: onMessage + ".text", kinds: "twice", msgID: "24000000000000045"},
		{file: "b03-text-forged-msgid.xml", messages: onMessage + ".text", kinds: "twice", msgID: "24000000000000046"},
		{file: "b04-text-word-before-end.xml", messages: onMessage + ".text", kinds: "beside", msgID: "24000000000000051"},
		{file: "b05-text-cut-character.xml", messages: onMessage + ".text", kinds: "characters", msgID: "24000000000000061"},
		{file: "b05-text-cut-character.json", messages: onMessage + ".text", kinds: "characters", msgID: "24000000000000062"},
		{file: "b12-auth-ticket-own-lines.xml", auth: "component_verify_ticket", kinds: "space"},
		{file: "b12-message-own-lines.xml", messages: onMessage + ".text", kinds: "space", msgID: "24000000000000072"},
		{file: "b21-message-no-type.xml", messages: onMessage + "._", kinds: "field"},
		{file: "b21-auth-event.xml", messages: onNotice + "._", kinds: "field"},
		{file: "b21-auth-infotype-odd.xml", messages: onNotice + ".new_kind_of_news"},
	} {
		t.Run(row.file, func(t *testing.T) {
			text := caseFile(t, row.file)
			path := msgPath
			if strings.Contains(row.file, "-auth-") {
				path = authPath
			}
			r := rigOn(t, onServer.js)
			auth, messages := r.deliver(t, componentPush(t, path, text))
			checkKinds(t, auth, row.auth)
			if row.messages == "" && len(messages) > 0 || row.messages != "" && (len(messages) != 1 || messages[0].Subject != row.messages) {
				t.Fatalf("MESSAGES got %v, want %q", messages, row.messages)
			}
			if len(messages) > 0 {
				want := strings.ReplaceAll(text, "<![CDATA[queryauthcode@@@SEKRET-b02]]>", "")
				if got := string(messages[0].Data); got != want {
					t.Errorf("MESSAGES has %q, want %q", got, want)
				}
			}
			checkOddities(t, r, row.kinds)
			if row.msgID != "" {
				m, err := message.Parse(messages[0].Data)
				if err != nil || m.MsgID != row.msgID || m.FromUserName != "oFIXTURE0001" || m.MsgType != "text" || m.Event != "" {
					t.Errorf("read as %+v, %v", m, err)
				}
			}
		})
	}
}

// deliver sends a push, which has to be taken, and returns what it became on AUTH and on
// MESSAGES.
func (r *rig) deliver(t *testing.T, c *call) (auth, messages []*storedEvent) {
	t.Helper()
	before, beforeMessages := len(r.messages(t, events.StreamAuth)), len(r.messages(t, events.StreamMessages))
	if status, _, answer := c.send(t, r.serve(t)); status != http.StatusOK || answer != "success" {
		t.Fatalf("answer %d %q, want 200 success: %s", status, answer, r.log)
	}
	for _, m := range r.messages(t, events.StreamAuth)[before:] {
		auth = append(auth, &storedEvent{m.Subject, m.Data})
	}
	for _, m := range r.messages(t, events.StreamMessages)[beforeMessages:] {
		messages = append(messages, &storedEvent{m.Subject, m.Data})
		if bytes.Contains(m.Data, []byte("SEKRET")) {
			t.Errorf("a secret on %s", m.Subject)
		}
	}
	if strings.Contains(r.log.String(), "SEKRET") {
		t.Errorf("a secret in the log: %s", r.log)
	}
	return auth, messages
}

type storedEvent struct {
	Subject string
	Data    []byte
}

func (e *storedEvent) String() string { return fmt.Sprintf("%s %q", e.Subject, e.Data) }

// checkKinds compares the kinds of what lies on AUTH.
func checkKinds(t *testing.T, auth []*storedEvent, want string) {
	t.Helper()
	var kinds []string
	for _, e := range auth {
		kinds = append(kinds, strings.TrimPrefix(e.Subject, "wechat.auth."+component+"."))
	}
	if strings.Join(kinds, " ") != want {
		t.Fatalf("AUTH got %q, want %q", kinds, want)
	}
}

// checkOddities looks for each kind of oddity in the counter, and in the one line of the log.
func checkOddities(t *testing.T, r *rig, kinds string) {
	t.Helper()
	lines := r.log.lines(t)
	if kinds == "" {
		if len(lines) > 0 {
			t.Errorf("logged %v, want nothing", lines)
		}
		return
	}
	for _, kind := range strings.Fields(kinds) {
		if n := r.count(t, "wxtoken_push_odd_total", kind); n != 1 {
			t.Errorf("counted %v of kind %s, want 1", n, kind)
		}
		if len(lines) != 1 || lines[0]["msg"] != "odd push stored" || !strings.Contains(fmt.Sprint(lines[0]["oddities"]), kind) || len(fmt.Sprint(lines[0]["detail"])) < 10 {
			t.Errorf("logged %v, want a line about %s", lines, kind)
		}
	}
}

// TestOddEnvelopes delivers a good push in envelopes that are none of WeChat's samples.
func TestOddEnvelopes(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	text := messageOf("text", "<Content>hi</Content>")
	envelopes := map[string]string{
		"wrapped lines":            "<xml><Encrypt>$\n\t$</Encrypt></xml>",
		"JSON with white space":    `{"Encrypt":" $ \n"}`,
		"JSON, raw control":        "{\"Content\":\"a\x02\",\"Encrypt\":\"$$\"}",
		"comment and attribute":    `<xml><!-- c --><Encrypt lang="en">$$</Encrypt></xml>`,
		"GBK in a clear field":     "<xml><Content>\xd6\xd0</Content><Encrypt>$$</Encrypt></xml>",
		"broken clear field":       "<xml><Content><![CDATA[a]]> b]]></Content><Encrypt><![CDATA[$$]]></Encrypt></xml>",
		"broken field behind":      "<xml><Encrypt><![CDATA[$$]]></Encrypt><Content><![CDATA[a]]> b]]></Content></xml>",
		"second root in a text":    "<xml><Content><![CDATA[]]></Content></xml> a <b>]]></Content><Encrypt><![CDATA[$$]]></Encrypt></xml>",
		"JSON, quotes in a text":   `{"Content":"say "hi"","Encrypt":"$$"}`,
		"Encrypt in a user's text": "<xml><Content><![CDATA[]]></Content><Encrypt>AAAA</Encrypt><Content><![CDATA[]]></Content><Encrypt>$$</Encrypt></xml>",
	}
	for _, name := range []string{"b02-envelope-clear-field.txt", "b12-envelope-spaces-cdata.txt", "b12-envelope-spaces-bare.txt"} {
		envelopes[name] = strings.Replace(caseFile(t, name), "{{ENCRYPT}}", "$$", 1)
	}
	for name, envelope := range envelopes {
		c := componentPush(t, msgPath, text)
		encrypt := encryptOf(string(c.body))
		c.body = []byte(strings.NewReplacer("$$", encrypt, "$\n\t$", encrypt[:76]+"\n\t"+encrypt[76:], "$", encrypt).Replace(envelope))
		if status, _, answer := c.send(t, r.serve(t)); status != http.StatusOK || answer != "success" {
			t.Errorf("%s: answer %d %q, want 200 success", name, status, answer)
		}
	}
	if got := r.stored(t); got != 1 { // they all say the same
		t.Errorf("%d events, want 1", got)
	}
}

// TestOddPushes delivers what can't be read in full: nothing of it is lost, and nothing that may be
// secret is shown.
func TestOddPushes(t *testing.T) {
	t.Parallel()
	const a, c = "<AuthorizerAppid>" + authorizer + "</AuthorizerAppid>", "<AuthorizationCode>" + code + "</AuthorizationCode>"
	head := event("authorized", "")
	head = strings.TrimSuffix(head, "</xml>")
	created := strconv.FormatInt(now.Unix(), 10)
	onServer := newRig(t, natsdtest.Start(t))
	for n, row := range []struct {
		name, path, text string
		auth, messages   string // kinds on AUTH, and the subject on MESSAGES
		list             bool   // WeChat's list is to be asked
	}{
		{"no AppId", authPath, strings.Replace(ticketEvent(), "<AppId><![CDATA["+component+"]]></AppId>", "", 1), "component_verify_ticket", "", false},
		{"CreateTime in words", authPath, strings.Replace(ticketEvent(), created, "yesterday", 1), "component_verify_ticket", "", false},
		{"negative CreateTime", authPath, strings.Replace(ticketEvent(), created, "-"+created, 1), "component_verify_ticket", "", false},
		{"CreateTime of 1970", authPath, strings.Replace(strings.Replace(ticketEvent(), created, "0000000001", 1), ticket, ticket+"1970", 1), "component_verify_ticket", "", false},
		{"word before the root", authPath, "word\x00" + strings.Replace(ticketEvent(), ticket, ticket+"word", 1), "component_verify_ticket", "", false},
		{"NUL and marks before the root", authPath, "\uFEFF\uFEFF\x00 " + strings.Replace(ticketEvent(), ticket, ticket+"mark", 1), "component_verify_ticket", "", false},
		{"root with another's end", authPath, strings.Replace(authorizedEvent("authorized"), "</xml>", "</XML>", 1), "authorized", onNotice + ".authorized", false},
		{"prefix of the root", authPath, strings.NewReplacer("<xml>", "<w:xml>", "</xml>", "</w:xml>").Replace(authorizedEvent("updateauthorized")), "updateauthorized", onNotice + ".updateauthorized", false},
		{"no CreateTime", authPath, strings.Replace(authorizedEvent("authorized"), "<CreateTime>"+created+"</CreateTime>", "", 1), "authorized", onNotice + ".authorized", false},
		{"empty ticket", authPath, strings.Replace(ticketEvent(), ticket, "", 1), "unreadable", "", false},
		{"ticket of 8 KiB", authPath, strings.Replace(ticketEvent(), ticket, strings.Repeat("SEKRET01", 1024), 1), "unreadable", "", false},
		{"control byte in a ticket", authPath, strings.Replace(ticketEvent(), ticket, "SEKRET\tx", 1), "unreadable", "", false},
		{"no account", authPath, head + c + "</xml>", "callback", onNotice + ".authorized", false},
		{"account with a dot", authPath, head + "<AuthorizerAppid>a.b</AuthorizerAppid>" + c + "</xml>", "callback", onNotice + ".authorized", false},
		{"no code", authPath, head + a + "</xml>", "unreadable", onNotice + ".authorized", true},
		{"line break in a code", authPath, head + a + "<AuthorizationCode>SEKRET&#10;x</AuthorizationCode></xml>", "unreadable", onNotice + ".authorized", true},
		{"nobody cancelled", authPath, event("unauthorized", ""), "unreadable", onNotice + ".unauthorized", true},
		{"InfoType twice", authPath, head + "<InfoType>unauthorized</InfoType>" + a + c + "</xml>", "", onNotice + "._", false},
		{"InfoType of 10 KiB", authPath, event(strings.Repeat("a", 10<<10), ""), "", onNotice + "." + strings.Repeat("a", 64), false},
		{"wrong ends all over", authPath, head + "<x>1</y>" + a + "<x>1</y>" + c + "<x>1</y></xml>", "authorized unreadable", "", true},
		{"news with a wrong end", authPath, event("notify_3rd_wxa_auth", "<x>1</y>"), "", onNotice + ".notify_3rd_wxa_auth", false},
		{"news with a wrong end and a code", authPath, event("something_new", "<x>1</y>"+c), "unreadable", "", false},
		{"a code in a comment", authPath, event("something_new", "<!-- "+code+" -->"), "unreadable", "", false},
		{"a code in another field", authPath, head + a + c + "<x>" + code + "</x></xml>", "authorized unreadable", "", true},
		{"17 deep", authPath, head + a + c + strings.Repeat("<x>", 20) + strings.Repeat("</x>", 20) + "</xml>", "authorized unreadable", "", true},
		{"cut short", authPath, head + a + c, "authorized unreadable", "", true},
		{"GBK", authPath, `<?xml version="1.0" encoding="GBK"?>` + head + a + c + "<x>\xd6\xd0</x></xml>", "authorized", onNotice + ".authorized", false},
		{"UTF-16", authPath, "\xff\xfe<\x00x\x00m\x00l\x00>\x00" + code, "unreadable", "", true},
		{"no document", authPath, "hello " + code, "unreadable", "", true},
		{"white space alone", authPath, " \n", "unreadable", "", true},
		{"JSON with a name twice", authPath, `{"AppId":"` + component + `","CreateTime":` + created + `,"InfoType":"unauthorized","AuthorizerAppid":"wxa","x":1,"x":2}`, "unauthorized", onNotice + ".unauthorized", false},
		{"byte order mark", authPath, "\uFEFF" + authorizedEvent("updateauthorized"), "updateauthorized", onNotice + ".updateauthorized", false},
		{"a message", authPath, messageOf("text", "<Content>hello</Content>"), "", onNotice + "._", false},

		{"no MsgType", msgPath, "<xml><ToUserName>gh_1</ToUserName></xml>", "", onMessage + "._", false},
		{"no document", msgPath, "hello", "", onMessage + "._", false},
		{"white space alone", msgPath, " ", "", onMessage + "._", false},
		{"MsgType of 129", msgPath, messageOf(strings.Repeat("a", 129), ""), "", onMessage + "." + strings.Repeat("a", 64), false},
		{"a ticket", msgPath, ticketEvent(), "component_verify_ticket", "", false},
		{"an authorization", msgPath, authorizedEvent("authorized"), "authorized", onNotice + ".authorized", false},
		{"a ticket that can't be read", msgPath, strings.Replace(ticketEvent(), "</InfoType>", "</x>", 1), "unreadable", "", true},
		{"CreateTime 1", msgPath, strings.Replace(messageOf("text", "<Content>1970</Content>"), created, "1", 1), "", onMessage + ".text", false},
		{"CreateTime 2^63", msgPath, strings.Replace(messageOf("text", "<Content>2^63</Content>"), created, "9223372036854775808", 1), "", onMessage + ".text", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.text = strings.ReplaceAll(row.text, code, code+strconv.Itoa(n)) // or it would be a repeat of another
			r := rigOn(t, onServer.js)
			auth, messages := r.deliver(t, componentPush(t, row.path, row.text))
			checkKinds(t, auth, row.auth)
			if row.messages == "" && len(messages) > 0 || row.messages != "" && (len(messages) != 1 || messages[0].Subject != row.messages) {
				t.Fatalf("MESSAGES got %v, want %q", messages, row.messages)
			}
			if !strings.HasSuffix(row.auth, "unreadable") {
				return
			}
			e, err := events.ParseAuth(auth[len(auth)-1].Data)
			document, faulty := base64.StdEncoding.DecodeString(e.Document)
			if err != nil || faulty != nil || string(document) != row.text || e.Detail == "" || e.AskList != row.list {
				t.Errorf("unreadable: %+v, %v, %v", e, err, faulty)
			}
		})
	}
}

// TestOddPlain sends messages in plain mode, which are not signed: none of them becomes a push.
func TestOddPlain(t *testing.T) {
	t.Parallel()
	r := rigOn(t, newRig(t, natsdtest.Start(t)).js, func(c *ingest.Config) { c.PlainMessages = true })
	for text, want := range map[string]int{
		messageOf("text", "<Content><![CDATA[a]]> \x10]]></Content>"):   http.StatusOK,
		"<xml><ToUserName>gh_1</ToUserName></xml>":                      http.StatusOK,
		event("unauthorized", "<AuthorizerAppid>wxa</AuthorizerAppid>"): http.StatusOK,
		ticketEvent():                 http.StatusForbidden,
		authorizedEvent("authorized"): http.StatusForbidden,
	} {
		if status, _, answer := plainCall(msgPath, text).send(t, r.serve(t)); status != want {
			t.Errorf("%q: answer %d %q, want %d", text, status, answer, want)
		}
	}
	if n := len(r.messages(t, events.StreamAuth)); n > 0 {
		t.Errorf("%d events on AUTH", n)
	}
	for _, m := range r.messages(t, events.StreamMessages) {
		if !strings.HasPrefix(m.Subject, onMessage) {
			t.Errorf("a message on %s", m.Subject)
		}
	}
}
