package ingest_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"html"
	"image/png"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"rsc.io/qr"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams/streamstest"
)

// TestLanding looks at the first page on every device and in both languages.
func TestLanding(t *testing.T) {
	t.Parallel()
	const iPhone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile/15E148 Safari/604.1"
	const weChatPC = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 MicroMessenger/7.0.20.1781 WindowsWechat"
	rows := []struct {
		name, agent, accept, language string
		phone, hint                   bool
	}{
		{"PC", onPC, "", "zh-CN", false, false},
		{"PC in English", onPC, "en-US,en;q=0.9", "en", false, false},
		{"PC that prefers English", onPC, "zh;q=0.8, en;q=0.9", "en", false, false},
		{"PC that prefers Chinese", onPC, "zh-CN,zh;q=0.9,en;q=0.8", "zh-CN", false, false},
		{"PC in Hong Kong", onPC, "zh-Hant-HK,en;q=0.5", "zh-CN", false, false},
		{"PC with neither", onPC, "fr, *;q=0.5", "zh-CN", false, false},
		{"PC with nonsense", onPC, ";;q=x,en;q=NaN,,", "zh-CN", false, false},
		{"WeChat on a PC", weChatPC, "", "zh-CN", false, false},
		{"no User-Agent", "", "", "zh-CN", false, false},
		{"WeChat on a phone", onPhone, "en", "en", true, false},
		{"another browser on a phone", iPhone, "", "zh-CN", true, true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.Start(t)
			r := newRig(t, srv)
			f := newRefresher(t, srv)
			status, header, body := get(linkPath, "", "User-Agent", row.agent, "Accept-Language", row.accept).to(t, r.serve(t))
			if status != http.StatusOK {
				t.Fatalf("answer %d %s", status, body)
			}
			all := checkPage(t, header, body, row.language, "strict-origin-when-cross-origin")

			first, second := pcLink, mobileLink
			if row.phone {
				first, second = mobileLink, pcLink
			}
			links := find(all, "a")
			button := links[0].attr["class"] == "button"
			if len(links) != 2 || button == row.hint || links[0].attr["href"] != first || links[1].attr["href"] != second {
				t.Errorf("links %v, want %s first, and a button where it leads on: %v", links, first, !row.hint)
			}
			for _, l := range links { // each of these keeps the Referer away, or the window
				if l.attr["rel"] != "" || l.attr["target"] != "" || l.attr["referrerpolicy"] != "" {
					t.Errorf("link %v", l.attr)
				}
			}
			if hint := strings.Contains(body, "请在微信中打开本页面"); hint != row.hint {
				t.Errorf("hint to open the page in WeChat: %v, want %v", hint, row.hint)
			}
			const address = "https://shop.example" + linkPath
			if shown := slices.ContainsFunc(find(all, "bdi"), func(e element) bool { return e.text == address }); shown != row.hint {
				t.Errorf("the address to copy is shown: %v, want %v", shown, row.hint)
			}
			pictures := find(all, "img")
			if wants := !row.phone || row.hint; wants != (len(pictures) == 1) {
				t.Errorf("%d QR codes", len(pictures))
			}
			if len(pictures) == 1 {
				checkQRCode(t, pictures[0].attr["src"], address)
			}

			cookies := (&http.Response{Header: header}).Cookies()
			if len(cookies) != 1 {
				t.Fatalf("%d cookies", len(cookies))
			}
			c := cookies[0]
			if c.Name != "wxtoken_connect" || c.Value != linkSession || c.Path != linkPath || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Domain != "" {
				t.Errorf("cookie %s", c.Raw)
			}
			if asked := f.questions(); len(asked) != 1 || asked[0] != (events.ConnectOpen{ID: linkID, Step: events.StepLanding, Over: true}) {
				t.Errorf("asked %+v", asked)
			}
			if r.pages(t, "landing", "shown") != 1 || len(r.log.lines(t)) != 0 {
				t.Errorf("not counted, or logged above debug: %s", r.log)
			}
			checkLog(t, r)
		})
	}
}

// checkQRCode looks that a picture within a page is the code for text inside a quiet zone.
func checkQRCode(t *testing.T, source, text string) {
	t.Helper()
	content, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(source, "data:image/png;base64,"))
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	want, err := qr.Encode(text, qr.M)
	if err != nil {
		t.Fatal(err)
	}
	const zone = 4 // modules
	scale := picture.Bounds().Dx() / (want.Size + 2*zone)
	for y := -zone; y < want.Size+zone; y++ {
		for x := -zone; x < want.Size+zone; x++ {
			grey, _, _, _ := picture.At((x+zone)*scale+scale/2, (y+zone)*scale+scale/2).RGBA()
			if (grey == 0) != want.Black(x, y) {
				t.Fatalf("module %d,%d is wrong", x, y)
			}
		}
	}
}

// TestLandingWithoutTLS gives a cookie that a browser sends back over http.
func TestLandingWithoutTLS(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	newRefresher(t, srv).set(func(l *link) { l.URL = "http://127.0.0.1:8080" + linkPath })
	_, header, _ := get(linkPath, "").to(t, r.serve(t))
	if c := (&http.Response{Header: header}).Cookies(); len(c) != 1 || c[0].Secure {
		t.Errorf("cookies %v", c)
	}
}

// TestConnect goes the whole way: landing, callback, result.
func TestConnect(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	f := newRefresher(t, srv)
	at := r.serve(t)
	_, header, _ := get(linkPath, "").to(t, at)
	cookie, _, _ := strings.Cut(header.Get("Set-Cookie"), ";")

	status, header, body := get(backPath, codeQuery(linkCode), "Cookie", cookie).to(t, at)
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
	status, header, body = get(header.Get("Location"), "", "Cookie", cookie, "Accept-Language", "en").to(t, at)
	all := checkPage(t, header, body, "en", "no-referrer")
	if status != http.StatusOK || !strings.Contains(html.UnescapeString(body), `小店 <script>alert("x")</script> & "co"`) || strings.Contains(body, "<script") {
		t.Errorf("answer %d %s", status, body)
	}
	if names := find(all, "bdi"); len(names) != 2 || names[1].text != authorizer {
		t.Errorf("details %v", names)
	}

	// The back button: the same code again, and no second event.
	for range 2 {
		if status, header, _ := get(backPath, codeQuery(linkCode), "Cookie", cookie).to(t, at); status != http.StatusSeeOther || header.Get("Location") != backPath {
			t.Errorf("the same code again: answer %d", status)
		}
	}
	if status, _, _ := get(backPath, codeQuery("another@@@SEKRET"), "Cookie", cookie).to(t, at); status != http.StatusGone {
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
			if q.CodeSHA256 != hashOf(linkCode) && q.CodeSHA256 != hashOf("another@@@SEKRET") {
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
		if got := r.pages(t, want.page, want.result); got != want.n {
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
			if rec := returning(backPath, codeQuery(linkCode)).direct(r); rec.Code != http.StatusSeeOther {
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
			status, header, body := returning(backPath, "").to(t, r.serve(t))
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
			if got := r.pages(t, "result", row.result); got != 1 {
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
			status, header, body := returning(backPath, "").to(t, r.serve(t))
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
			if status != row.status || refresh != row.refresh || header.Get("Location") != row.location || r.pages(t, "result", row.result) != 1 {
				t.Errorf("answer %d to %q, refresh %q", status, header.Get("Location"), refresh)
			}
			if n := len(f.questions()); n < 2 || n > 30 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// TestBusy shows a page that loads itself again while another browser's code is being exchanged, more slowly with time and
// not for ever.
func TestBusy(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	f := newRefresher(t, srv)
	at := r.serve(t)
	for since, want := range map[time.Duration]string{time.Second: "5", 5 * time.Minute: "30", 5 * time.Hour: ""} {
		f.set(func(l *link) { l.State, l.Over, l.CodeAt = events.ConnectExchanging, events.OverBusy, now.Add(-since) })
		for _, c := range []*call{get(linkPath, ""), returning(backPath, codeQuery(linkCode))} {
			status, header, body := c.to(t, at)
			refresh := ""
			for _, e := range find(checkPage(t, header, body, "zh-CN", header.Get("Referrer-Policy")), "meta") {
				if e.attr["http-equiv"] == "refresh" {
					refresh = e.attr["content"]
				}
			}
			wantStatus, says := http.StatusGone, "正在使用中"
			if want == "" {
				wantStatus, says = http.StatusServiceUnavailable, "稍后重试"
			}
			if status != wantStatus || refresh != want || !strings.Contains(body, says) {
				t.Errorf("%s after %s: answer %d, refresh %q, want %d and %q", c.path, since, status, refresh, wantStatus, want)
			}
		}
	}
	if r.stored(t) != 0 {
		t.Error("a code was stored")
	}
}

// TestConnectRefused sends what WeChat sends no browser with (A01 to A07 and more), and looks that
// no code is stored.
func TestConnectRefused(t *testing.T) {
	t.Parallel()
	fine := codeQuery(linkCode)
	method := func(name, path, query string) *call {
		c := returning(path, query)
		c.method = name
		return c
	}
	gone := func(l *link) { l.code = http.StatusGone }
	same := func(*link) {}
	const other = "/connect/0123456789abcdef"
	rows := []struct {
		name   string
		set    func(*link)
		call   *call
		status int
		result string
	}{
		// A01: unknown, expired, used
		{"callback without an id", same, returning("/connect//callback", fine), 404, "unknown"},
		{"callback of an unknown link", same, returning(other+"/callback", fine), 404, "unknown"},
		{"callback of an expired link", gone, returning(backPath, fine), 410, "gone"},
		{"callback of a link that was used with another code", func(l *link) { l.used, l.State = "x", events.ConnectAuthorized }, returning(backPath, fine), 410, "used"},
		{"callback of a link that another browser is using", func(l *link) { l.Over, l.CodeAt = events.OverBusy, now }, returning(backPath, fine), 410, "busy"},
		{"landing page of an unknown link", same, get(other, ""), 404, "unknown"},
		{"landing page of a used link", gone, get(linkPath, ""), 410, "gone"},
		{"result of an unknown link", same, returning(other+"/callback", ""), 404, "unknown"},
		// A02: a code for somebody else's link
		{"callback without a session", same, get(backPath, fine), 403, "forbidden"},
		{"callback of another session", same, get(backPath, fine, "Cookie", "wxtoken_connect=other"), 403, "forbidden"},
		{"callback with the session in the query", same, get(backPath, fine+"&wxtoken_connect="+linkSession), 403, "forbidden"},
		{"callback with the session in another cookie", same, get(backPath, fine, "Cookie", "other="+linkSession), 403, "forbidden"},
		{"session of 10 KiB", same, get(backPath, fine, "Cookie", "wxtoken_connect="+strings.Repeat("a", 7<<10)), 403, "forbidden"},
		{"result without a session", same, get(backPath, ""), 403, "forbidden"},
		// A03: the code
		{"no code", same, returning(backPath, "expires_in=600"), 400, "rejected"},
		{"empty code", same, returning(backPath, "auth_code="), 400, "rejected"},
		{"code of 1 KiB", same, returning(backPath, codeQuery(strings.Repeat("a", 1024))), 400, "rejected"},
		{"code one byte too long", same, returning(backPath, codeQuery(strings.Repeat("a", 513))), 400, "rejected"},
		{"line end in the code", same, returning(backPath, codeQuery("SEKRET\r\nx")), 400, "rejected"},
		{"space in the code", same, returning(backPath, codeQuery("SEKRET x")), 400, "rejected"},
		{"NUL in the code", same, returning(backPath, codeQuery("SEKRET\x00")), 400, "rejected"},
		{"code not ASCII", same, returning(backPath, codeQuery("SEKRETé")), 400, "rejected"},
		{"code twice", same, returning(backPath, fine+"&auth_code=SEKRET"), 400, "rejected"},
		{"code twice, the same", same, returning(backPath, fine+"&"+fine), 400, "rejected"},
		{"bad percent", same, returning(backPath, fine+"&x=%zz"), 400, "rejected"},
		{"semicolon", same, returning(backPath, fine+"&x=1;y=2"), 400, "rejected"},
		{"code as an array", same, returning(backPath, "auth_code[]=SEKRET"), 400, "rejected"},
		// paths and methods
		{"POST", same, method(http.MethodPost, backPath, fine), 405, "rejected"},
		{"PUT on the landing page", same, method(http.MethodPut, linkPath, ""), 405, "rejected"},
		{"OPTIONS", same, method(http.MethodOptions, linkPath, ""), 405, "rejected"},
		{"no id", same, get("/connect/", ""), 404, "unknown"},
		{"15 characters", same, get("/connect/"+strings.Repeat("a", 15), ""), 404, "unknown"},
		{"65 characters", same, get("/connect/"+strings.Repeat("a", 65), ""), 404, "unknown"},
		{"dot in an id", same, get("/connect/abcdefgh.SEKRETconn", ""), 404, "unknown"},
		{"wildcard for an id", same, get("/connect/abcdefgh*SEKRETconn", ""), 404, "unknown"},
		{"id not ASCII", same, get("/connect/abcdefghSEKRETécon", ""), 404, "unknown"},
		{"slash at the end", same, get(linkPath+"/", ""), 404, "unknown"},
		{"slash at the end of the callback", same, returning(backPath+"/", fine), 404, "unknown"},
		{"longer path", same, returning(backPath+"/x", fine), 404, "unknown"},
		{"another page", same, get(linkPath+"/other", ""), 404, "unknown"},
		{"two slashes", same, returning("/connect//"+linkID+"/callback", fine), 404, "unknown"},
		{"path upwards", same, returning("/connect/x/../"+linkID+"/callback", fine), 404, "unknown"},
		{"encoded slash", same, returning(linkPath+"%2fcallback", fine), 404, "unknown"},
		{"encoded letter", same, get("/connect/%61bcdefghSEKRETconnectid-_0", ""), 404, "unknown"},
		// A06, A13: what the refresher would have us show
		{"link that is a script", func(l *link) { l.PCLink = "javascript:alert('SEKRET')" }, get(linkPath, ""), 503, "unavailable"},
		{"no link for phones", func(l *link) { l.MobileLink = "" }, get(linkPath, ""), 503, "unavailable"},
	}
	srv := natsdtest.Start(t)
	js := newRig(t, srv).js
	t.Run("rows", func(t *testing.T) {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				own := natsdtest.Start(t)
				r := newRig(t, own)
				newRefresher(t, own).set(row.set)
				status, header, body := row.call.to(t, r.serve(t))
				if status != row.status {
					t.Errorf("answer %d, want %d", status, row.status)
				}
				checkPage(t, header, body, "zh-CN", header.Get("Referrer-Policy"))
				if strings.Contains(body, linkCode) || strings.Contains(body, "SEKRETsession") || header.Get("Location") != "" || header.Get("Set-Cookie") != "" {
					t.Errorf("answer %v %s", header, body)
				}
				if policy := header.Get("Referrer-Policy"); strings.HasPrefix(row.call.path, backPath) && !strings.HasPrefix(row.call.path, backPath+"/") && policy != "no-referrer" {
					t.Errorf("Referrer-Policy %q", policy)
				}
				if status == http.StatusMethodNotAllowed && header.Get("Allow") != "GET, HEAD" {
					t.Errorf("Allow is %q", header.Get("Allow"))
				}
				var counted float64
				for _, page := range []string{"landing", "callback", "result"} {
					counted += r.pages(t, page, row.result)
				}
				lines := r.log.lines(t)
				if counted != 1 || len(lines) != 1 || lines[0]["reason"] != "connect_"+row.result || lines[0]["status"] != float64(status) {
					t.Errorf("counted %v and logged %s", counted, r.log)
				}
				if strings.Contains(r.log.String(), "SEKRET") {
					t.Errorf("the log shows what it must not: %s", r.log)
				}
				if got := r.stored(t); got != 0 {
					t.Errorf("%d events", got)
				}
			})
		}
	})
	// An absolute address in the request line is for a proxy.
	r := rigOn(t, js)
	req := httptest.NewRequest(http.MethodGet, "http://evil.example"+linkPath, nil)
	req.RequestURI = "http://evil.example" + linkPath
	rec := httptest.NewRecorder()
	r.ingest.Handler().ServeHTTP(rec, req)
	if rec.Code != http.StatusBadRequest {
		t.Errorf("a request to a proxy: answer %d", rec.Code)
	}
}

// TestHead looks that HEAD is answered as GET is, without a body.
func TestHead(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	newRefresher(t, srv)
	c := get(linkPath, "")
	c.method = http.MethodHead
	status, header, body := c.to(t, r.serve(t))
	if status != http.StatusOK || body != "" || header.Get("Set-Cookie") == "" || header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("answer %d %v %q", status, header, body)
	}
}

// TestConnectWithoutAnswers looks at the pages while nobody can be asked, or nothing be stored.
func TestConnectWithoutAnswers(t *testing.T) {
	t.Parallel()
	unavailable := func(t *testing.T, r *rig, c *call) {
		t.Helper()
		status, header, body := c.to(t, r.serve(t))
		if status != http.StatusServiceUnavailable || header.Get("Retry-After") != "2" || header.Get("Set-Cookie") != "" {
			t.Errorf("answer %d %v", status, header)
		}
		all := checkPage(t, header, body, "zh-CN", header.Get("Referrer-Policy"))
		if a := find(all, "a"); len(a) != 1 || a[0].attr["href"] != "" {
			t.Errorf("links %v, want one to the same page", a)
		}
		checkLog(t, r)
	}
	calls := map[string]*call{"landing": get(linkPath, ""), "callback": returning(backPath, codeQuery(linkCode)), "result": returning(backPath, "")}
	for name, c := range calls {
		t.Run("no refresher, "+name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, natsdtest.Start(t))
			unavailable(t, r, c)
			if r.pages(t, name, "unavailable") != 1 || r.stored(t) != 0 {
				t.Error("not counted, or stored")
			}
		})
		t.Run("NATS is away, "+name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.Start(t)
			r := newRig(t, srv)
			srv.Stop()
			unavailable(t, r, c)
		})
		t.Run("slow refresher, "+name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.Start(t)
			r := newRig(t, srv)
			newRefresher(t, srv).stall = 3 * time.Second
			unavailable(t, r, c)
		})
		t.Run("nonsense, "+name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.Start(t)
			r := newRig(t, srv)
			nc := srv.Connect()
			if _, err := nc.Subscribe(events.SubjectConnectOpen, func(msg *nats.Msg) { _ = msg.Respond([]byte("SEKRET")) }); err != nil {
				t.Fatal(err)
			}
			if err := nc.FlushTimeout(time.Minute); err != nil {
				t.Fatal(err)
			}
			unavailable(t, r, c)
		})
	}
	t.Run("not stored, then a reload", func(t *testing.T) {
		t.Parallel()
		srv := natsdtest.Start(t)
		r := newRig(t, srv)
		newRefresher(t, srv)
		if err := r.js.DeleteStream(t.Context(), events.StreamAuth); err != nil {
			t.Fatal(err)
		}
		unavailable(t, r, calls["callback"])
		streamstest.Setup(t, r.js.Conn(), r.js, events.SetupConfig{MessagesMaxAge: time.Hour})
		if status, _, _ := calls["callback"].to(t, r.serve(t)); status != http.StatusSeeOther || r.stored(t) != 1 {
			t.Errorf("answer %d, %d events, want 303 and one", status, r.stored(t))
		}
	})
}

// TestConnectFlood guesses ids faster than one address may: the refresher is not asked about all of
// them, and the next who comes opens a link as soon as the flood ebbs.
func TestConnectFlood(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	f := newRefresher(t, srv)
	began := time.Now()
	counts := map[int]int{}
	for n := range 400 {
		counts[get(fmt.Sprintf("/connect/%016d", n), "").direct(r).Code]++
	}
	if counts[http.StatusNotFound]+counts[http.StatusTooManyRequests] != 400 || counts[http.StatusTooManyRequests] == 0 {
		t.Errorf("answers %v", counts)
	}
	if asked := len(f.questions()); asked > 100+int(50*time.Since(began).Seconds())+1 {
		t.Errorf("the refresher was asked %d times", asked)
	}
	for {
		rec := get(linkPath, "").direct(r)
		if rec.Code == http.StatusOK {
			break
		}
		if rec.Code != http.StatusTooManyRequests || time.Since(began) > time.Minute {
			t.Fatalf("a good link after the flood: answer %d", rec.Code)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := len(r.log.lines(t)); n > 100 {
		t.Errorf("%d lines about 400 requests", n)
	}
}

// FuzzConnect asks for any page.
func FuzzConnect(f *testing.F) {
	for _, seed := range [][3]string{
		{linkID, "", "wxtoken_connect=" + linkSession}, {linkID + "/callback", codeQuery(linkCode), "wxtoken_connect=" + linkSession},
		{linkID + "/callback", "", "wxtoken_connect=x"}, {"../x", "auth_code=%zz", "=;"}, {"%61" + linkID, "auth_code=a&auth_code=b", ""},
		{"-/" + component + "/0123456789abcdef.css", "", ""}, {"-/.logo", "", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	srv := natsdtest.Start(f)
	r := newRig(f, srv)
	newRefresher(f, srv).set(func(l *link) { l.State, l.used = events.ConnectAuthorized, hashOf(linkCode) })
	f.Fuzz(func(t *testing.T, path, query, cookie string) {
		u, err := url.Parse("http://shop.example/connect/" + path)
		if err != nil {
			return
		}
		u.RawQuery = query
		req := &http.Request{
			Method: http.MethodGet, URL: u, Host: u.Host, RequestURI: u.RequestURI(), RemoteAddr: "203.0.113.7:1",
			Header: http.Header{"Cookie": {cookie}}, Body: http.NoBody,
		}
		rec := httptest.NewRecorder()
		r.ingest.Handler().ServeHTTP(rec, req)
		switch location := rec.Header().Get("Location"); rec.Code {
		case http.StatusSeeOther:
			if location != backPath {
				t.Fatalf("sent to %q", location)
			}
		case http.StatusOK, http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusGone, http.StatusTooManyRequests:
			if strings.HasPrefix(rec.Header().Get("Content-Type"), "text/html") {
				elements(t, rec.Body.String())
			}
		default:
			t.Fatalf("answer %d", rec.Code)
		}
		text := r.log.Take()
		for _, secret := range []string{linkSession, "SEKRET-link", "auth_code"} {
			if strings.Contains(text, secret) {
				t.Fatalf("the log shows %s", secret)
			}
		}
	})
}
