package ingest_test

import (
	"html"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// TestConnect goes the whole way: landing, callback, result.
func TestConnect(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	f := newRefresher(t, srv)
	at := r.serve(t)
	_, header, _ := get(linkPath, "").send(t, at)
	cookie, _, _ := strings.Cut(header.Get("Set-Cookie"), ";")

	status, header, body := get(backPath, codeQuery(linkCode), "Cookie", cookie).send(t, at)
	if status != http.StatusSeeOther || header.Get("Location") != backPath || body != "" {
		t.Fatalf("answer %d to %q %q, want 303", status, header.Get("Location"), body)
	}
	if header.Get("Referrer-Policy") != "no-referrer" || header.Get("Cache-Control") != "no-store" {
		t.Errorf("header %v", header)
	}
	onAuth := r.messages(t, events.StreamAuth)
	if len(onAuth) != 1 || onAuth[0].Subject != "wechat.auth."+component+".callback" {
		t.Fatalf("AUTH holds %d messages", len(onAuth))
	}
	auth, err := events.ParseAuth(onAuth[0].Data)
	if want := (events.Auth{Kind: events.KindCallback, Component: component, CreateTime: now, ReceivedAt: now, Code: linkCode, Connect: linkID}); err != nil || auth != want {
		t.Errorf("event %+v, %v, want %+v", auth, err, want)
	}
	for name, values := range onAuth[0].Header {
		if strings.Contains(strings.Join(values, " "), "SEKRET") {
			t.Errorf("header %s of the event is %v", name, values)
		}
	}

	// Three questions later it is done.
	questions := 0
	f.set(func(l *link) {
		l.then = func(l *link) {
			if questions++; questions == 3 {
				l.State, l.Authorizer, l.NickName = events.ConnectAuthorized, authorizer, `小店 <script>alert("x")</script> & "co"`
			}
		}
	})
	status, header, body = get(header.Get("Location"), "", "Cookie", cookie, "Accept-Language", "en").send(t, at)
	all := checkPage(t, header, body, "en", "no-referrer")
	if status != http.StatusOK || !strings.Contains(html.UnescapeString(body), `小店 <script>alert("x")</script> & "co"`) || strings.Contains(body, "<script") {
		t.Errorf("answer %d %s", status, body)
	}
	if names := find(all, "bdi"); len(names) != 2 || names[1].text != authorizer {
		t.Errorf("details %v", names)
	}

	// The back button: the same code again, and no second event.
	for range 2 {
		if status, header, _ := get(backPath, codeQuery(linkCode), "Cookie", cookie).send(t, at); status != http.StatusSeeOther || header.Get("Location") != backPath {
			t.Errorf("the same code again: answer %d", status)
		}
	}
	if status, _, _ := get(backPath, codeQuery("another@@@SEKRET"), "Cookie", cookie).send(t, at); status != http.StatusGone {
		t.Errorf("another code: answer %d, want 410", status)
	}
	if got := r.stored(t); got != 1 {
		t.Errorf("%d events, want 1", got)
	}
	for _, q := range f.questions() {
		want := events.ConnectOpen{ID: linkID, Step: q.Step, Over: true}
		if q.Step != events.StepLanding {
			want.Session = linkSession
		}
		if q.Step == events.StepCallback {
			want.CodeSHA256 = q.CodeSHA256
			if q.CodeSHA256 != sha256Hex(linkCode) && q.CodeSHA256 != sha256Hex("another@@@SEKRET") {
				t.Errorf("digest %s", q.CodeSHA256)
			}
		}
		if q != want {
			t.Errorf("asked %+v, want %+v", q, want)
		}
	}
	for _, want := range []struct {
		page, result string
		n            float64
	}{{"landing", "shown", 1}, {"callback", "accepted", 3}, {"result", "authorized", 1}, {"callback", "used", 1}} {
		if got := r.pageCount(t, want.page, want.result); got != want.n {
			t.Errorf("counted %v %s %s, want %v", got, want.page, want.result, want.n)
		}
	}
	checkLog(t, r)
}

// TestCallbackRepeats looks that a code that is being exchanged becomes one event, however often
// the browser brings it.
func TestCallbackRepeats(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	newRefresher(t, srv)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if rec := getWithSession(backPath, codeQuery(linkCode)).serveDirectly(r); rec.Code != http.StatusSeeOther {
				t.Errorf("answer %d", rec.Code)
			}
		})
	}
	all.Wait()
	if got := r.stored(t); got != 1 {
		t.Errorf("%d events, want 1", got)
	}
}

// TestResults looks at every way in which an authorization can end.
func TestResults(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name     string
		set      func(*link)
		status   int
		location string
		says     string
		result   string
	}{
		{"authorized", func(l *link) { l.State = events.ConnectAuthorized }, 200, "", "授权成功", "authorized"},
		{"with a place to return to", func(l *link) {
			l.State, l.ReturnTo = events.ConnectAuthorized, "https://shop.example/done?ref=7&authorizer_appid=wxa"
		}, 303, "https://shop.example/done?ref=7&authorizer_appid=wxa", "", "authorized"},
		{"conflict", func(l *link) { l.State, l.NickName = events.ConnectConflict, "小店" }, 409, "", "归属没有改变", "conflict"},
		{"conflict does not return", func(l *link) { l.State, l.ReturnTo = events.ConnectConflict, "https://shop.example/" }, 409, "", "归属没有改变", "conflict"},
		{"failed", func(l *link) { l.State, l.Reason = events.ConnectFailed, "code_spent" }, 422, "", "已经用过，或者已经过期", "failed"},
		{"failed for a reason of a later version", func(l *link) { l.State, l.Reason = events.ConnectFailed, "a <b>reason</b>" }, 422, "", "我们这边出了问题", "failed"},
		{"cancelled since", func(l *link) { l.State, l.Lapsed, l.ReturnTo = events.ConnectAuthorized, true, "https://shop.example/" }, 200, "", "授权已经失效", "cancelled"},
		{"expired", func(l *link) { l.Over = events.OverExpired }, 410, "", "链接已过期", "expired"},
		{"used", func(l *link) { l.code = 410 }, 410, "", "已失效", "gone"},
		{"unknown", func(l *link) { l.code = 404 }, 404, "", "不存在", "unknown"},
		{"another browser", func(l *link) { l.code = 403 }, 403, "", "同一浏览器", "forbidden"},
		{"try later", func(l *link) { l.code = 503 }, 503, "", "稍后重试", "unavailable"},
		{"a fault of the refresher", func(l *link) { l.code = 500 }, 503, "", "稍后重试", "unavailable"},
		{"an answer without a component", func(l *link) { l.State, l.Component = events.ConnectAuthorized, "a.*" }, 503, "", "稍后重试", "unavailable"},
	}
	for _, to := range []string{"javascript:alert(1)", "//evil.example", `/\evil.example`, `https:\\evil.example`, "https://shop.example@evil.example/", "data:text/html,x", "/done", "https:evil"} {
		rows = append(rows, struct {
			name     string
			set      func(*link)
			status   int
			location string
			says     string
			result   string
		}{"does not return to " + to, func(l *link) { l.State, l.ReturnTo = events.ConnectAuthorized, to }, 200, "", "授权成功", "authorized"})
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.Start(t)
			r := newRig(t, srv)
			newRefresher(t, srv).set(row.set)
			status, header, body := getWithSession(backPath, "").send(t, r.serve(t))
			if status != row.status || header.Get("Location") != row.location {
				t.Fatalf("answer %d to %q, want %d to %q", status, header.Get("Location"), row.status, row.location)
			}
			if row.location == "" {
				checkPage(t, header, body, "zh-CN", "no-referrer")
				if !strings.Contains(body, row.says) {
					t.Errorf("the page does not say %s: %s", row.says, body)
				}
			} else if header.Get("Referrer-Policy") != "no-referrer" || header.Get("Cache-Control") != "no-store" {
				t.Errorf("header %v", header)
			}
			if status == http.StatusServiceUnavailable && header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if got := r.pageCount(t, "result", row.result); got != 1 {
				t.Errorf("counted %v results %s, want 1", got, row.result)
			}
			if quiet := row.result == "authorized" || row.result == "cancelled"; quiet != (len(r.log.lines(t)) == 0) {
				t.Errorf("logged %s", r.log)
			}
			checkLog(t, r)
		})
	}
}

// TestResultWaits shows a page that loads itself again while the code is being exchanged, more
// slowly with time and not for ever.
func TestResultWaits(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, state string
		since       time.Duration
		status      int
		refresh     string
		location    string
		result      string
	}{
		{"no code came", events.ConnectPending, 0, http.StatusSeeOther, "", linkPath, "waiting"},
		{"at once", events.ConnectExchanging, time.Second, http.StatusOK, "2", "", "waiting"},
		{"for minutes", events.ConnectExchanging, 5 * time.Minute, http.StatusOK, "30", "", "waiting"},
		{"for hours", events.ConnectExchanging, 5 * time.Hour, http.StatusServiceUnavailable, "", "", "unavailable"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.Start(t)
			r := newRig(t, srv)
			f := newRefresher(t, srv)
			f.set(func(l *link) { l.State, l.CodeAt = row.state, now.Add(-row.since) })
			began := time.Now()
			status, header, body := getWithSession(backPath, "").send(t, r.serve(t))
			if took := time.Since(began); took < 3500*time.Millisecond { // no upper bound: the machine may be slow
				t.Errorf("waited %s, want about 4 s", took)
			}
			refresh := ""
			if row.location == "" {
				for _, e := range find(checkPage(t, header, body, "zh-CN", "no-referrer"), "meta") {
					if e.attr["http-equiv"] == "refresh" {
						refresh = e.attr["content"]
					}
				}
			}
			if status != row.status || refresh != row.refresh || header.Get("Location") != row.location || r.pageCount(t, "result", row.result) != 1 {
				t.Errorf("answer %d to %q, refresh %q", status, header.Get("Location"), refresh)
			}
			if n := len(f.questions()); n < 2 || n > 30 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}
