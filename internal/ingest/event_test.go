package ingest_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/wechat"
)

// TestPushBecomesEvents sends one push of each sort and looks at what lies on the streams.
func TestPushBecomesEvents(t *testing.T) {
	t.Parallel()
	const register = "<appid>wxnewminiprogram01</appid><status>0</status><auth_code>" + code + "</auth_code><msg>OK</msg><info><name><![CDATA[公司]]></name></info>"
	fast := event("notify_third_fasteregister", register)
	jsonTicket := `{"AppId":"` + component + `","CreateTime":` + strconv.FormatInt(now.Unix(), 10) + `,"InfoType":"component_verify_ticket","ComponentVerifyTicket":"` + ticket + `"}`
	jsonMessage := `{"ToUserName":"gh_97417a04a28d","FromUserName":"openid","CreateTime":` + strconv.FormatInt(now.Unix(), 10) + `,"MsgType":"event","Event":"debug_demo","debug_str":"hello world"}`
	const auth, notice, msg = "wechat.auth." + component, "wechat.notice." + component, "wechat.message." + component + "." + authorizer
	rows := []struct {
		name        string
		path        string
		text        string
		auth        *events.Auth // what must lie on AUTH; nil for nothing
		subject     string       // of what must lie on MESSAGES; empty for nothing
		ceType      string
		about       string
		contentType string
		data        string // what must lie on MESSAGES; empty for the text itself
		kind        string
	}{
		{name: "ticket", path: authPath, text: ticketEvent(), kind: "component_verify_ticket",
			auth: &events.Auth{Kind: "component_verify_ticket", Ticket: ticket}},
		{name: "ticket in JSON", path: authPath, text: jsonTicket, kind: "component_verify_ticket",
			auth: &events.Auth{Kind: "component_verify_ticket", Ticket: ticket}},
		{name: "authorized", path: authPath, text: authorizedEvent("authorized"), kind: "authorized",
			auth:    &events.Auth{Kind: "authorized", Authorizer: authorizer, Code: code, PreAuthCode: preAuthCode},
			subject: notice + ".authorized", ceType: "wechat.notice.authorized", about: authorizer, contentType: "application/xml",
			data: withoutCodes(authorizedEvent("authorized"))},
		{name: "updateauthorized", path: authPath, text: authorizedEvent("updateauthorized"), kind: "updateauthorized",
			auth:    &events.Auth{Kind: "updateauthorized", Authorizer: authorizer, Code: code, PreAuthCode: preAuthCode},
			subject: notice + ".updateauthorized", ceType: "wechat.notice.updateauthorized", about: authorizer, contentType: "application/xml",
			data: withoutCodes(authorizedEvent("updateauthorized"))},
		{name: "unauthorized", path: authPath, text: event("unauthorized", "<AuthorizerAppid>"+authorizer+"</AuthorizerAppid>"), kind: "unauthorized",
			auth:    &events.Auth{Kind: "unauthorized", Authorizer: authorizer},
			subject: notice + ".unauthorized", ceType: "wechat.notice.unauthorized", about: authorizer, contentType: "application/xml"},
		{name: "quick registration", path: authPath, text: fast, kind: "notify_third_fasteregister",
			auth:    &events.Auth{Kind: "notify_third_fasteregister", Authorizer: "wxnewminiprogram01", Code: code},
			subject: notice + ".notify_third_fasteregister", ceType: "wechat.notice.notify_third_fasteregister", about: "wxnewminiprogram01",
			contentType: "application/xml", data: withoutCodes(fast)},
		{name: "known InfoType", path: authPath, text: event("notify_3rd_wxa_auth", "<appid>wxab</appid><taskid>7</taskid>"), kind: "notify_3rd_wxa_auth",
			subject: notice + ".notify_3rd_wxa_auth", ceType: "wechat.notice.notify_3rd_wxa_auth", contentType: "application/xml"},
		{name: "unknown InfoType", path: authPath, text: event("something_new", "<x>1</x>"), kind: "other",
			subject: notice + ".something_new", ceType: "wechat.notice.something_new", contentType: "application/xml"},
		{name: "unknown InfoType with a code", path: authPath, text: event("newly_authorized", "<AuthorizationCode>"+code+"</AuthorizationCode>"), kind: "other",
			subject: notice + ".newly_authorized", ceType: "wechat.notice.newly_authorized", contentType: "application/xml",
			data: event("newly_authorized", "<AuthorizationCode></AuthorizationCode>")},
		{name: "text", path: msgPath, text: messageOf("text", "<Content><![CDATA[hello 世界]]></Content><MsgId>23</MsgId>"), kind: "message",
			subject: msg + ".text", ceType: "wechat.message.text", about: authorizer, contentType: "application/xml"},
		{name: "event", path: msgPath, text: messageOf("event", "<Event>subscribe</Event>"), kind: "message",
			subject: msg + ".event.subscribe", ceType: "wechat.message.event.subscribe", about: authorizer, contentType: "application/xml"},
		{name: "odd MsgType", path: msgPath, text: messageOf("a.b *>\tc", ""), kind: "message",
			subject: msg + ".a_b____c", ceType: "wechat.message.a_b____c", about: authorizer, contentType: "application/xml"},
		{name: "message in JSON", path: msgPath, text: jsonMessage, kind: "message",
			subject: msg + ".event.debug_demo", ceType: "wechat.message.event.debug_demo", about: authorizer, contentType: "application/json"},
		{name: "a text like that of the release check", path: msgPath, text: messageOf("text", "<Content>QUERY_AUTH_CODE:x</Content>"), kind: "message",
			subject: msg + ".text", ceType: "wechat.message.text", about: authorizer, contentType: "application/xml"},
		{name: "release check by path", path: "/wechat/" + component + "/message/wx570bc396a51b8ff8", kind: "release_check",
			text: messageOf("text", "<Content>QUERY_AUTH_CODE:"+code+"</Content>"),
			auth: &events.Auth{Kind: "release_check", Authorizer: "wx570bc396a51b8ff8", Code: code, OpenID: "openid-of-a-user"}},
		{name: "release check by gh_ id", path: msgPath, kind: "release_check",
			text: strings.Replace(messageOf("text", "<Content>QUERY_AUTH_CODE:"+code+"</Content>"), "gh_97417a04a28d", "gh_7818dcb60240", 1),
			auth: &events.Auth{Kind: "release_check", Authorizer: "wx5910277cae6fd970", Code: code, OpenID: "openid-of-a-user"}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, natsdtest.Start(t))
			answer := "success"
			if row.kind == "release_check" {
				answer = ""
			}
			if status, header, body := componentPush(t, row.path, row.text).send(t, r.serve(t)); status != http.StatusOK || body != answer ||
				!strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
				t.Fatalf("answer %d %q, want 200 %q", status, body, answer)
			}

			onAuth := r.messages(t, events.StreamAuth)
			if row.auth == nil && len(onAuth) > 0 {
				t.Fatalf("AUTH holds %s, want nothing", onAuth[0].Subject)
			}
			if row.auth != nil {
				want := *row.auth
				want.Component, want.CreateTime, want.ReceivedAt = component, now, now
				if len(onAuth) != 1 || onAuth[0].Subject != auth+"."+want.Kind {
					t.Fatalf("AUTH holds %d messages, want one on %s", len(onAuth), auth+"."+want.Kind)
				}
				got, err := events.ParseAuth(onAuth[0].Data)
				if err != nil {
					t.Fatal(err)
				}
				if got != want {
					t.Errorf("event %+v, want %+v", got, want)
				}
				checkHeader(t, onAuth[0].Header, row.path, "wechat.auth."+want.Kind, want.Authorizer, "application/json")
			}

			onMessages := r.messages(t, events.StreamMessages)
			if row.subject == "" {
				if len(onMessages) > 0 {
					t.Fatalf("MESSAGES holds %s, want nothing", onMessages[0].Subject)
				}
			} else {
				if len(onMessages) != 1 || onMessages[0].Subject != row.subject {
					t.Fatalf("MESSAGES holds %d messages, want one on %s", len(onMessages), row.subject)
				}
				want := row.data
				if want == "" {
					want = row.text
				}
				if got := string(onMessages[0].Data); got != want {
					t.Errorf("MESSAGES holds %q, want %q", got, want)
				}
				checkHeader(t, onMessages[0].Header, row.path, row.ceType, row.about, row.contentType)
				if strings.Contains(string(onMessages[0].Data), "SEKRET") {
					t.Error("a secret on MESSAGES")
				}
			}

			if got := r.count(t, "wxtoken_push_total", row.kind, "accepted"); got != 1 {
				t.Errorf("counted %v accepted pushes of kind %s, want 1", got, row.kind)
			}
			if text := r.log.String(); strings.Contains(text, "SEKRET") || len(r.log.lines(t)) > 0 {
				t.Errorf("want only debug lines without a secret, got %s", text)
			}
		})
	}
}

// withoutCodes returns a document without its codes.
func withoutCodes(text string) string {
	return strings.NewReplacer(code, "", preAuthCode, "").Replace(text)
}

func checkHeader(t *testing.T, got map[string][]string, path, ceType, about, contentType string) {
	t.Helper()
	want := map[string]string{
		"ce-specversion": "1.0", "ce-source": path, "ce-type": ceType, "ce-subject": about,
		"ce-time": now.Format(time.RFC3339), "Content-Type": contentType,
	}
	for name, value := range want {
		if have := strings.Join(got[name], " "); have != value {
			t.Errorf("header %s is %q, want %q", name, have, value)
		}
	}
	id := strings.Join(got["ce-id"], " ")
	if len(id) != 64 || id != strings.Join(got["Nats-Msg-Id"], " ") {
		t.Errorf("ce-id %q and Nats-Msg-Id %q, want the same digest", id, got["Nats-Msg-Id"])
	}
}

// TestRepeatsAreOneEvent sends pushes again, encrypted anew as WeChat does.
func TestRepeatsAreOneEvent(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	at := r.serve(t)
	repeats := []struct {
		path, text, kind string
	}{
		{authPath, ticketEvent(), "component_verify_ticket"},
		{authPath, authorizedEvent("authorized"), "authorized"},
		{authPath, event("something_new", ""), "other"},
		{msgPath, messageOf("text", "<Content>hello</Content>"), "message"},
	}
	for _, repeat := range repeats {
		for range 3 {
			if status, _, body := componentPush(t, repeat.path, repeat.text).send(t, at); status != http.StatusOK || body != "success" {
				t.Fatalf("%s: answer %d %q, want 200 success", repeat.kind, status, body)
			}
		}
		if got := r.count(t, "wxtoken_push_total", repeat.kind, "duplicate"); got != 2 {
			t.Errorf("%s: counted %v duplicates, want 2", repeat.kind, got)
		}
	}
	if got := r.stored(t); got != 5 { // authorized becomes two
		t.Errorf("%d events, want 5", got)
	}

	// What differs is another event, even within one second and from the same user.
	for _, other := range []struct{ path, text string }{
		{authPath, event("something_new", "<x>other</x>")},
		{msgPath, messageOf("text", "<Content>other</Content>")},
		{"/wechat/" + component + "/message/wxanother", messageOf("text", "<Content>hello</Content>")},
	} {
		if status, _, body := componentPush(t, other.path, other.text).send(t, at); status != http.StatusOK {
			t.Fatalf("answer %d %q, want 200", status, body)
		}
	}
	if got := r.stored(t); got != 8 {
		t.Errorf("%d events, want 8", got)
	}
}

// TestParallelRepeatsAreOneEvent sends one push 100 times at once.
func TestParallelRepeatsAreOneEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	at := r.serve(t)
	c := componentPush(t, authPath, ticketEvent())
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if status, _, body := c.send(t, at); status != http.StatusOK || body != "success" {
				t.Errorf("answer %d %q, want 200 success", status, body)
			}
		})
	}
	all.Wait()
	if got := r.stored(t); got != 1 {
		t.Errorf("%d events, want 1", got)
	}
	accepted := r.count(t, "wxtoken_push_total", "component_verify_ticket", "accepted")
	duplicates := r.count(t, "wxtoken_push_total", "component_verify_ticket", "duplicate")
	if accepted != 1 || duplicates != 99 {
		t.Errorf("counted %v accepted and %v duplicate, want 1 and 99", accepted, duplicates)
	}
}

// TestKeyRing takes pushes that are made with earlier keys, and tells which key it was.
func TestKeyRing(t *testing.T) {
	t.Parallel()
	r := newRig(t, natsdtest.Start(t))
	at := r.serve(t)
	before := wechat.Keys{AppID: component, Tokens: []string{tokenBefore}, AESKeys: []string{aesBefore}}
	mixed := wechat.Keys{AppID: component, Tokens: []string{token}, AESKeys: []string{aesBefore}}
	for n, with := range []wechat.Keys{keys, before, mixed} {
		if status, _, body := push(t, authPath, with, ticketAt(now.Add(time.Duration(n)*time.Second))).send(t, at); status != http.StatusOK {
			t.Fatalf("keys %d: answer %d %q, want 200", n, status, body)
		}
	}
	for label, want := range map[string]float64{"current": 1, "previous": 2} {
		if got := r.count(t, "wxtoken_push_key_total", label); got != want {
			t.Errorf("key %s used %v times, want %v", label, got, want)
		}
	}
}

// TestAge sends pushes from other times.
func TestAge(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name   string
		age    time.Duration
		events int
		result string
		skewed float64
		line   string // reason of the one log line; empty for none
	}{
		{"fresh", 0, 1, "accepted", 0, ""},
		{"a little late", 5 * time.Minute, 1, "accepted", 0, ""},
		{"a little early", -5 * time.Minute, 1, "accepted", 0, ""},
		{"late", 5*time.Minute + time.Second, 1, "accepted", 1, "skewed"},
		{"early", -5*time.Minute - time.Second, 1, "accepted", 1, "skewed"},
		{"from the year 2100", -73 * 365 * 24 * time.Hour, 1, "accepted", 1, "skewed"},
		{"a day old", 24 * time.Hour, 1, "accepted", 1, "skewed"},
		{"too old", 24*time.Hour + time.Second, 0, "stale", 0, "stale"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, natsdtest.Start(t))
			if status, _, body := componentPush(t, authPath, ticketAt(now.Add(-row.age))).send(t, r.serve(t)); status != http.StatusOK || body != "success" {
				t.Fatalf("answer %d %q, want 200 success", status, body)
			}
			if got := r.stored(t); got != row.events {
				t.Errorf("%d events, want %d", got, row.events)
			}
			if got := r.count(t, "wxtoken_push_total", "component_verify_ticket", row.result); got != 1 {
				t.Errorf("counted %v pushes as %s, want 1", got, row.result)
			}
			if got := r.count(t, "wxtoken_push_skewed_total"); got != row.skewed {
				t.Errorf("counted %v skewed pushes, want %v", got, row.skewed)
			}
			var reason string
			for _, line := range r.log.lines(t) {
				reason, _ = line["reason"].(string)
			}
			if reason != row.line {
				t.Errorf("logged reason %q, want %q", reason, row.line)
			}
		})
	}
}
