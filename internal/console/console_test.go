package console_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	wxtoken "wxtoken/client"
	"wxtoken/internal/console"
	"wxtoken/internal/natsd/natsdtest"
)

func TestPage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putOneOfEach()
	for _, row := range []struct{ language, want string }{
		{"en", "without a valid token"},
		{"fr, de;q=0.9", "without a valid token"},
		{"", `<html lang="en">`},
		{"zh-CN,zh;q=0.9,en;q=0.8", "没有有效令牌"},
		{"en;q=0.3, zh-TW;q=0.7", "已取消授权"},
		{"zh;q=0, en;q=0.1", `<html lang="en">`},
		{"zh-Hant-HK, en;q=0.5", `<html lang="zh-CN">`},
		{"zh;q=x", `<html lang="en">`},
	} {
		status, body, _ := b.ask("/", "Accept", "text/html", "Accept-Language", row.language)
		if status != http.StatusOK || !strings.Contains(body, row.want) {
			t.Errorf("%q: %d without %s:\n%s", row.language, status, row.want, body)
		}
	}
	_, body, header := b.ask("/?lang=zh", browser...)
	cookie := header.Get("Set-Cookie")
	if !strings.Contains(body, `<html lang="zh-CN">`) || !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Lax") {
		t.Errorf("the language can't be chosen: %s\n%s", cookie, body)
	}
	cookie, _, _ = strings.Cut(cookie, ";")
	if _, body, _ := b.ask("/accounts", append([]string{"Cookie", cookie}, browser...)...); !strings.Contains(body, `<html lang="zh-CN">`) {
		t.Error("the language that was chosen is forgotten")
	}
	_, body, header = b.ask("/accounts", browser...)
	for _, want := range []string{
		`<span class="badge renewing_failed">renewal fails</span>`, "access clientip is not registered", "rid-1", "小店", "add this machine&#39;s outbound address",
		"ref Tenant-17", `<span class="key">wxa000000000000002</span>`, `<time class="ago" datetime="2026-11-22T08:01:30Z" title="2026-11-22 08:01:30 UTC">in 1 min 30 s</time>`,
		`<option value="18">18 development and data analysis (1)</option>`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
		"X-Frame-Options":         "DENY",
		"X-Content-Type-Options":  "nosniff",
		"Cache-Control":           "no-store",
		"Referrer-Policy":         "no-referrer",
	} {
		if header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, header.Get(name), want)
		}
	}
	never := regexp.MustCompile(`(?i)<script>|<script [^>]*>[^<]|<style| style=|\son\w+\s*=|//`) // what the policy would not allow
	for _, target := range []string{"/", "/accounts", "/accounts/" + authorizer(1).String(), "/accounts/none"} {
		if _, body, _ := b.ask(target, browser...); never.MatchString(body) {
			t.Errorf("%q in\n%s", never.FindString(body), body)
		}
	}
	for path, media := range map[string]string{"/console.css": "text/css", "/console.js": "text/javascript", "/icon.svg": "image/svg+xml"} {
		status, text, header := b.ask(path)
		if status != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), media) || text == "" || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", path, status, header)
		}
		versioned := regexp.MustCompile(path + `\?v=[0-9a-f]+`).FindString(body)
		if _, _, header := b.ask(versioned); !strings.Contains(header.Get("Cache-Control"), "immutable") {
			t.Errorf("%q is asked for again and again: %v", versioned, header)
		}
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.waitStored(0)
	for _, row := range []struct {
		target string
		status int
		want   string
	}{
		{"/accounts?limit=0", 400, "limit"},
		{"/accounts?limit=-1", 400, "limit"},
		{"/accounts?limit=1e9", 400, "limit"},
		{"/accounts?limit=501", 400, "limit"},
		{"/accounts?limit=99999999999999999999", 400, "limit"},
		{"/accounts?page=0", 400, "page"},
		{"/accounts?page=x", 400, "page"},
		{"/accounts?state=%3Cscript%3E", 400, "state"},
		{"/accounts?token=x", 400, "token"},
		{"/accounts?component=%2A.%3E", 400, "component"},
		{"/accounts?kind=x", 400, "kind"},
		{"/accounts?sort=x", 400, "sort"},
		{"/accounts?lacks=x", 400, "lacks"},
		{"/accounts?errcode=x", 400, "errcode"},
		{"/accounts?within=-5", 400, "within"},
		{"/accounts?q=" + strings.Repeat("a", 129), 400, "q:"},
		{"/accounts?q=a&q=b", 400, "twice"},
		{"/accounts/x", 400, "want a key"},
		{"/accounts/authorizer.wx1.wx2%0d%0aX:1", 400, "want a key"},
		{"/accounts/authorizer.%2A.%3E", 400, "want a key"},
		{"/?format=xml", 400, "format"},
		{"/?format=csv", 400, "format"},
		{"/?lang=fr", 400, "lang"},
		{"/?page=2", 400, "unknown"},
		{"/?limit=%zz", 400, "query"},
		{"/index.html", 404, "there is no such page"},
		{"/etc/passwd", 404, "there is no such page"},
		{"/console.css/", 404, ""},
		{"/accounts?q=&limit=500&page=7", 200, ""},
		{"/accounts?q=%3Cscript%3E", 200, ""},
		{"/?format=html", 200, "<html"},
	} {
		for _, headers := range [][]string{nil, browser} {
			status, body, header := b.ask(row.target, headers...)
			if status != row.status || !strings.Contains(body, row.want) || strings.Contains(body, "<script>") {
				t.Errorf("%s: %d %s", row.target, status, body)
			}
			if header.Get("Content-Security-Policy") == "" || header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: answered without the headers of a page: %v", row.target, header)
			}
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		w := httptest.NewRecorder()
		b.page.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/", nil))
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d, Allow %q", method, w.Code, w.Header().Get("Allow"))
		}
	}
}

func TestNATSAway(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putOneOfEach()
	b.nats.Stop()
	b.until("the page says so", func() error {
		status, body, header := b.ask("/", browser...)
		if status != http.StatusServiceUnavailable || !strings.Contains(body, "NATS does not answer") || strings.Contains(body, "can call WeChat.") {
			return fmt.Errorf("without NATS: %d %v %s", status, header, body)
		}
		return nil
	})
	if status, body, header := b.ask("/accounts/"+authorizer(1).String(), browser...); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || !strings.Contains(body, "NATS does not answer") {
		t.Errorf("without NATS: %d %v %s", status, header, body)
	}
	b.nats.Restart()
	b.until("the page is back", func() error {
		status, body, _ := b.ask("/")
		if status != http.StatusOK || !strings.Contains(body, "1 account has no valid token") {
			return fmt.Errorf("%d after NATS came back: %s", status, body)
		}
		return nil
	})
}

// TestLoading says that it does not know yet.
func TestLoading(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	c, err := console.New(console.Config{NATS: srv.Connect(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	c.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?format=json", nil))
	var o console.Overview
	if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil || o.Verdict != "loading" || o.Loading == nil {
		t.Errorf("%v %s", err, w.Body)
	}
}

// TestEvents tells a browser that something changed, and nothing about what.
func TestEvents(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putOneOfEach()
	srv := httptest.NewServer(b.page)
	defer srv.Close()
	open := func(last string) *bufio.Scanner {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		if last != "" {
			r.Header.Set("Last-Event-ID", last)
		}
		answer, err := srv.Client().Do(r)
		if err != nil || answer.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatal(err, answer)
		}
		t.Cleanup(func() { _ = answer.Body.Close() })
		return bufio.NewScanner(answer.Body)
	}
	next := func(s *bufio.Scanner) (id string) {
		for s.Scan() {
			switch line := s.Text(); {
			case strings.HasPrefix(line, "id: "):
				id = strings.TrimPrefix(line, "id: ")
			case strings.HasPrefix(line, "data:"):
				if line != "data: {}" {
					t.Errorf("an event tells %q", line)
				}
				return id
			}
		}
		t.Fatal("the stream ended")
		return ""
	}
	stream := open("")
	first := next(stream)
	body := b.shows("/", `data-mark="`+first+`"`, browser...)
	b.status(wxtoken.Status{Key: authorizer(1), State: wxtoken.StateRevoked})
	second := next(stream)
	if second == first || strings.Contains(body, second) {
		t.Errorf("%q, then %q", first, second)
	}
	if again := next(open(first)); again == first {
		t.Error("a browser that comes back is not told what it missed")
	}
	b.end()
	for stream.Scan() { // the stream ends with the console
	}
}

// BenchmarkPage is the first page, and one of fifty, out of many accounts: 100,000, or as many as WXTOKEN_TEST_ACCOUNTS says.
func BenchmarkPage(b *testing.B) {
	many := 100_000
	if text := os.Getenv("WXTOKEN_TEST_ACCOUNTS"); text != "" {
		var err error
		if many, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	n := newBench(b)
	for i := range many {
		n.token(authorizer(i), 1, time.Hour)
		named := profile(fmt.Sprintf("第 %d 家小店", i), "某某网络科技有限公司")
		named.Ref, named.FuncInfo = fmt.Sprintf("tenant-%d", i), []int{1, 2, 3, 15, 18}
		n.status(wxtoken.Status{Key: authorizer(i), State: wxtoken.StateActive, Authorizer: named, Conditions: ready(true, wxtoken.ReasonRenewed, time.Hour)})
	}
	n.waitStored(many)
	for _, target := range []string{"/", "/accounts", "/accounts?q=tenant-99", "/accounts?page=1000"} {
		b.Run(target, func(b *testing.B) {
			b.ReportAllocs()
			var size int
			for b.Loop() {
				status, body, _ := n.ask(target, browser...)
				if size = len(body); status != http.StatusOK {
					b.Fatal(status, body)
				}
			}
			b.ReportMetric(float64(size)/1024, "KiB/page")
		})
	}
}
