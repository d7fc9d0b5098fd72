package ingest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/internal/events"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams/streamstest"
)

// TestBusyLink shows a page that loads itself again while another browser's code is being exchanged, more slowly with time and
// not for ever.
func TestBusyLink(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	f := newRefresher(t, srv)
	at := r.serve(t)
	for since, want := range map[time.Duration]string{time.Second: "5", 5 * time.Minute: "30", 5 * time.Hour: ""} {
		f.set(func(l *link) { l.State, l.Over, l.CodeAt = events.ConnectExchanging, events.OverBusy, now.Add(-since) })
		for _, c := range []*call{get(linkPath, ""), getWithSession(backPath, codeQuery(linkCode))} {
			status, header, body := c.send(t, at)
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
		c := getWithSession(path, query)
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
		{"callback without an id", same, getWithSession("/connect//callback", fine), 404, "unknown"},
		{"callback of an unknown link", same, getWithSession(other+"/callback", fine), 404, "unknown"},
		{"callback of an expired link", gone, getWithSession(backPath, fine), 410, "gone"},
		{"callback of a link that was used with another code", func(l *link) { l.used, l.State = "x", events.ConnectAuthorized }, getWithSession(backPath, fine), 410, "used"},
		{"callback of a link that another browser is using", func(l *link) { l.Over, l.CodeAt = events.OverBusy, now }, getWithSession(backPath, fine), 410, "busy"},
		{"landing page of an unknown link", same, get(other, ""), 404, "unknown"},
		{"landing page of a used link", gone, get(linkPath, ""), 410, "gone"},
		{"result of an unknown link", same, getWithSession(other+"/callback", ""), 404, "unknown"},
		// A02: a code for another browser's link
		{"callback without a session", same, get(backPath, fine), 403, "forbidden"},
		{"callback of another session", same, get(backPath, fine, "Cookie", "wxtoken_connect=other"), 403, "forbidden"},
		{"callback with the session in the query", same, get(backPath, fine+"&wxtoken_connect="+linkSession), 403, "forbidden"},
		{"callback with the session in another cookie", same, get(backPath, fine, "Cookie", "other="+linkSession), 403, "forbidden"},
		{"session of 10 KiB", same, get(backPath, fine, "Cookie", "wxtoken_connect="+strings.Repeat("a", 7<<10)), 403, "forbidden"},
		{"result without a session", same, get(backPath, ""), 403, "forbidden"},
		// A03: the code
		{"no code", same, getWithSession(backPath, "expires_in=600"), 400, "rejected"},
		{"empty code", same, getWithSession(backPath, "auth_code="), 400, "rejected"},
		{"code of 1 KiB", same, getWithSession(backPath, codeQuery(strings.Repeat("a", 1024))), 400, "rejected"},
		{"code one byte too long", same, getWithSession(backPath, codeQuery(strings.Repeat("a", 513))), 400, "rejected"},
		{"line end in the code", same, getWithSession(backPath, codeQuery("SEKRET\r\nx")), 400, "rejected"},
		{"space in the code", same, getWithSession(backPath, codeQuery("SEKRET x")), 400, "rejected"},
		{"NUL in the code", same, getWithSession(backPath, codeQuery("SEKRET\x00")), 400, "rejected"},
		{"code not ASCII", same, getWithSession(backPath, codeQuery("SEKRETé")), 400, "rejected"},
		{"code twice", same, getWithSession(backPath, fine+"&auth_code=SEKRET"), 400, "rejected"},
		{"code twice, the same", same, getWithSession(backPath, fine+"&"+fine), 400, "rejected"},
		{"bad percent", same, getWithSession(backPath, fine+"&x=%zz"), 400, "rejected"},
		{"semicolon", same, getWithSession(backPath, fine+"&x=1;y=2"), 400, "rejected"},
		{"code as an array", same, getWithSession(backPath, "auth_code[]=SEKRET"), 400, "rejected"},
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
		{"slash at the end of the callback", same, getWithSession(backPath+"/", fine), 404, "unknown"},
		{"longer path", same, getWithSession(backPath+"/x", fine), 404, "unknown"},
		{"another page", same, get(linkPath+"/other", ""), 404, "unknown"},
		{"two slashes", same, getWithSession("/connect//"+linkID+"/callback", fine), 404, "unknown"},
		{"path upwards", same, getWithSession("/connect/x/../"+linkID+"/callback", fine), 404, "unknown"},
		{"encoded slash", same, getWithSession(linkPath+"%2fcallback", fine), 404, "unknown"},
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
				status, header, body := row.call.send(t, r.serve(t))
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
					counted += r.pageCount(t, page, row.result)
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

// TestConnectWithoutAnswers checks the pages while no refresher answers, or nothing can be stored.
func TestConnectWithoutAnswers(t *testing.T) {
	t.Parallel()
	unavailable := func(t *testing.T, r *rig, c *call) {
		t.Helper()
		status, header, body := c.send(t, r.serve(t))
		if status != http.StatusServiceUnavailable || header.Get("Retry-After") != "2" || header.Get("Set-Cookie") != "" {
			t.Errorf("answer %d %v", status, header)
		}
		all := checkPage(t, header, body, "zh-CN", header.Get("Referrer-Policy"))
		if a := find(all, "a"); len(a) != 1 || a[0].attr["href"] != "" {
			t.Errorf("links %v, want one to the same page", a)
		}
		checkLog(t, r)
	}
	calls := map[string]*call{"landing": get(linkPath, ""), "callback": getWithSession(backPath, codeQuery(linkCode)), "result": getWithSession(backPath, "")}
	for name, c := range calls {
		t.Run("no refresher, "+name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, natsdtest.Start(t))
			unavailable(t, r, c)
			if r.pageCount(t, name, "unavailable") != 1 || r.stored(t) != 0 {
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
		if status, _, _ := calls["callback"].send(t, r.serve(t)); status != http.StatusSeeOther || r.stored(t) != 1 {
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
		counts[get(fmt.Sprintf("/connect/%016d", n), "").serveDirectly(r).Code]++
	}
	if counts[http.StatusNotFound]+counts[http.StatusTooManyRequests] != 400 || counts[http.StatusTooManyRequests] == 0 {
		t.Errorf("answers %v", counts)
	}
	if asked := len(f.questions()); asked > 100+int(50*time.Since(began).Seconds())+1 {
		t.Errorf("the refresher was asked %d times", asked)
	}
	looktest.Until(t, "a good link after the flood", func() bool {
		rec := get(linkPath, "").serveDirectly(r)
		if rec.Code != http.StatusOK && rec.Code != http.StatusTooManyRequests {
			t.Fatalf("a good link after the flood: answer %d", rec.Code)
		}
		return rec.Code == http.StatusOK
	})
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
	newRefresher(f, srv).set(func(l *link) { l.State, l.used = events.ConnectAuthorized, sha256Hex(linkCode) })
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
