package console_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"wxtoken/client"
	"wxtoken/internal/console"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const component = "wx0123456789abcdef"

var now = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// bench is a console over a NATS of its own.
type bench struct {
	t    testing.TB
	nats *natsdtest.Server
	js   jetstream.JetStream
	page http.Handler
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, nats: natsdtest.Start(t)}
	nc := b.nats.Connect()
	var err error
	if b.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	streamstest.Setup(t, nc, b.js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	b.page = console.New(b.js, func() time.Time { return now })
	return b
}

// put stores a record; a string as it is.
func (b *bench) put(subject string, record any) {
	b.t.Helper()
	data, ok := record.(string)
	if !ok {
		encoded, err := json.Marshal(record)
		if err != nil {
			b.t.Fatal(err)
		}
		data = string(encoded)
	}
	if _, err := b.js.PublishAsync(subject, []byte(data)); err != nil {
		b.t.Fatal(err)
	}
}

// stored waits until all that was put is there.
func (b *bench) stored() {
	b.t.Helper()
	select {
	case <-b.js.PublishAsyncComplete():
	case <-b.t.Context().Done():
		b.t.Fatal("not stored")
	}
}

func (b *bench) token(key wxtoken.Key, generation uint64, expires time.Duration) {
	b.t.Helper()
	record, err := store.TokenRecord(wxtoken.Token{
		Key: key, Value: wxtoken.NewSecret("SEKRET-" + key.String()), Generation: generation,
		ObtainedAt: now.Add(-time.Hour), ExpiresAt: now.Add(expires), RenewAt: now.Add(expires / 3),
		Previous: &wxtoken.Previous{Value: wxtoken.NewSecret("SEKRET-before"), ValidUntil: now},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.put("$KV.tokens."+key.String(), string(record))
}

func (b *bench) status(s wxtoken.Status) {
	b.t.Helper()
	b.put("$KV.status."+s.Key.String(), s)
}

// ask sends a GET and returns the answer.
func (b *bench) ask(target string, headers ...string) (status int, body string, header http.Header) {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), http.MethodGet, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	b.page.ServeHTTP(w, r)
	data, err := io.ReadAll(w.Result().Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if strings.Contains(string(data), "SEKRET") {
		b.t.Errorf("%s shows a secret:\n%s", target, data)
	}
	return w.Code, string(data), w.Result().Header
}

// browser are the headers that a browser sends.
var browser = []string{"Accept", "text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Language", "en"}

func authorizer(n int) wxtoken.Key {
	return wxtoken.AuthorizerKey(component, fmt.Sprintf("wxa%015d", n))
}

func profile(nickName, headImg string) *wxtoken.Authorizer {
	quoted := func(s string) json.RawMessage {
		data, _ := json.Marshal(s) // a string always can
		return data
	}
	return &wxtoken.Authorizer{Profile: map[string]json.RawMessage{"nick_name": quoted(nickName), "head_img": quoted(headImg)}}
}

// some stores one key of each sort.
func (b *bench) some() {
	b.t.Helper()
	ticket := now.Add(-3 * time.Minute)
	own := wxtoken.ComponentKey(component)
	b.token(own, 7, 2*time.Hour)
	b.status(wxtoken.Status{Key: own, State: wxtoken.StateActive, TicketReceivedAt: &ticket})
	b.token(authorizer(1), 3, 90*time.Second)
	b.status(wxtoken.Status{Key: authorizer(1), State: wxtoken.StateActive, Authorizer: profile("小店", "https://wx.qlogo.cn/1")})
	b.token(authorizer(2), 4, -5*time.Second)
	b.status(wxtoken.Status{Key: authorizer(2), State: wxtoken.StateRenewingFailed, Failures: 6,
		LastError: &wxtoken.LastError{Code: 61004, Message: "access clientip is not registered", RID: "rid-1", At: now.Add(-time.Minute)}})
	b.token(authorizer(3), 9, time.Hour) // no status yet
	b.status(wxtoken.Status{Key: authorizer(4), State: wxtoken.StateRevoked})
	b.put("$KV.tokens."+authorizer(4).String(), "") // as a deletion lies there
	b.put("$KV.status."+authorizer(5).String(), "not JSON")
	b.put("$KV.status.neither.a.key", "{}")
	b.stored()
}

func TestText(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.some()
	status, body, header := b.ask("/")
	if status != http.StatusOK || header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %s", status, header.Get("Content-Type"))
	}
	const want = `Components
  key                           state   generation  expires   next renewal  failures  token sha256  last ticket
  component.wx0123456789abcdef  active  7           in 2h00m  in 40m00s     0         9a9379d8      3m00s ago

Authorizers (5)
  key                                               state            generation  expires   next renewal  failures  token sha256  nick_name
  authorizer.wx0123456789abcdef.wxa000000000000001  active           3           in 1m30s  in 30s        0         5575ea6b      小店
  authorizer.wx0123456789abcdef.wxa000000000000002  renewing_failed  4           5s ago    1s ago        6         027e531c
    last error: access clientip is not registered (errcode 61004) (rid rid-1), 1m00s ago
    -> add this machine's outbound address on WeChat's console to 白名单IP地址列表; runbook: A component is in state ` + "`operator`" + `
  authorizer.wx0123456789abcdef.wxa000000000000003  -                9           in 1h00m  in 20m00s     0         2bb69c8a
  authorizer.wx0123456789abcdef.wxa000000000000004  revoked          -           -         -             0         -
  authorizer.wx0123456789abcdef.wxa000000000000005  -                -           -         -             0         -

subjects that are not keys: 1
`
	if body != want {
		t.Errorf("got\n%s\nwant\n%s", body, want)
	}
}

// TestHeldBack shows what keeps tokens from being renewed, and calls nothing active whose token has
// expired.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	until := now.Add(8 * time.Hour)
	own := wxtoken.ComponentKey(component)
	b.token(own, 7, 2*time.Hour)
	b.status(wxtoken.Status{Key: own, State: wxtoken.StateOperator, Conditions: []wxtoken.Condition{
		{Type: "Ready", Status: "True", Reason: "Renewed"},
		{Type: wxtoken.ConditionRenewing, Status: "False", Reason: wxtoken.HeldQuota, Message: "the day's <quota> is gone", Since: now.Add(-time.Minute), Until: &until},
	}})
	b.token(authorizer(1), 3, -time.Second)
	b.status(wxtoken.Status{Key: authorizer(1), State: wxtoken.StateActive})
	b.token(authorizer(2), 3, time.Second)
	b.status(wxtoken.Status{Key: authorizer(2), State: wxtoken.StateActive})
	b.stored()
	const line = "held back: QuotaGone: the day's <quota> is gone (1m00s ago, until 2026-11-22 16:00:00 UTC)"
	if _, body, _ := b.ask("/"); !strings.Contains(body, line) {
		t.Errorf("no %q in\n%s", line, body)
	}
	if _, body, _ := b.ask("/", browser...); !strings.Contains(body, "QuotaGone: the day&#39;s &lt;quota&gt; is gone") {
		t.Errorf("the page does not tell:\n%s", body)
	}
	if _, body, _ := b.ask("/", "Accept", "text/html", "Accept-Language", "zh"); !strings.Contains(body, "暂缓续期: QuotaGone") {
		t.Errorf("the page does not tell in Chinese:\n%s", body)
	}
	if _, body, _ := b.ask("/?format=json"); !strings.Contains(body, `"held_back":{"type":"Renewing","status":"False","reason":"QuotaGone"`) {
		t.Errorf("the JSON does not tell:\n%s", body)
	}
	a := b.json("/?format=json")
	if a.Authorizers[0].State != wxtoken.StateRenewingFailed || a.Authorizers[1].State != wxtoken.StateActive {
		t.Errorf("states %+v", a.Authorizers)
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.some()
	for _, row := range []struct{ language, want string }{
		{"en", "<th scope=\"col\">next renewal</th>"},
		{"fr, de;q=0.9", "<th scope=\"col\">next renewal</th>"},
		{"", "<html lang=\"en\">"},
		{"zh-CN,zh;q=0.9,en;q=0.8", "<th scope=\"col\">下次续期</th>"},
		{"en;q=0.3, zh-TW;q=0.7", "<td>已取消授权 revoked</td>"},
		{"zh", "<br>→ 在微信开放平台的白名单IP地址列表里加上：本机的出口地址"},
		{"zh;q=0, en;q=0.1", "<html lang=\"en\">"},
		{"zh-Hant-HK, en;q=0.5", "<html lang=\"zh\">"},
		{"zh;q=x", "<html lang=\"en\">"},
	} {
		status, body, _ := b.ask("/", "Accept", "text/html", "Accept-Language", row.language)
		if status != http.StatusOK || !strings.Contains(body, row.want) {
			t.Errorf("%q: %d without %s:\n%s", row.language, status, row.want, body)
		}
	}
	_, body, header := b.ask("/?limit=2", browser...)
	for _, want := range []string{
		`<tr class="renewing_failed">`, "access clientip is not registered", "rid-1", "小店", "→ add this machine&#39;s outbound address",
		`<a href="/?after=authorizer.wx0123456789abcdef.wxa000000000000002&amp;limit=2" rel="next">`,
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
	never := regexp.MustCompile(`(?i)<script|<style| style=| on\w+\s*=|//`) // what the policy would not allow
	if found := never.FindString(body); found != "" {
		t.Errorf("%q in\n%s", found, body)
	}
	if status, css, header := b.ask("/console.css"); status != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), "text/css") || css == "" {
		t.Errorf("style sheet: %d %s", status, header.Get("Content-Type"))
	}
}

// What WeChat passes on from strangers is shown, and does nothing.
func TestNamesAreOnlyText(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.status(wxtoken.Status{
		Key: authorizer(1), State: `active" onclick="alert(1)`,
		Authorizer: profile("<script>alert(1)</script>\x1b[2J\r\n\u202egnp.exe\u2066", "javascript:alert(1)"),
		LastError:  &wxtoken.LastError{Message: "<img src=x onerror=alert(1)>\x07" + strings.Repeat("长", 5000), RID: "\"><svg>", At: now},
	})
	b.stored()
	for _, headers := range [][]string{browser, nil} {
		status, body, _ := b.ask("/", headers...)
		if status != http.StatusOK || !strings.Contains(body, "alert(1)") {
			t.Errorf("%d %s", status, body)
		}
		for _, never := range []string{"\x1b", "\x07", "\r", "\u202e", "\u2066", "javascript:", strings.Repeat("长", 201)} {
			if strings.Contains(body, never) {
				t.Errorf("%q in\n%s", never, body)
			}
		}
		if headers == nil {
			continue
		}
		for _, never := range []string{"<script", "<img", "<svg", `onclick="`} {
			if strings.Contains(body, never) {
				t.Errorf("%q in\n%s", never, body)
			}
		}
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, row := range []struct {
		target string
		status int
		want   string
	}{
		{"/?limit=0", 400, "limit"},
		{"/?limit=-1", 400, "limit"},
		{"/?limit=1e9", 400, "limit"},
		{"/?limit=501", 400, "limit"},
		{"/?limit=99999999999999999999", 400, "limit"},
		{"/?limit=", 400, "limit"},
		{"/?after=x", 400, "after"},
		{"/?after=authorizer.%2A.%3E", 400, "after"},
		{"/?after=authorizer.wx1.wx2%0d%0aX:1", 400, "after"},
		{"/?q=%3Cscript%3E", 400, "q:"},
		{"/?q=" + strings.Repeat("a", 65), 400, "q:"},
		{"/?q=a&q=b", 400, "twice"},
		{"/?format=xml", 400, "format"},
		{"/?page=2", 400, "unknown"},
		{"/?limit=%zz", 400, "query"},
		{"/index.html", 404, ""},
		{"/etc/passwd", 404, ""},
		{"/console.css/", 404, ""},
		{"/?q=&limit=500", 200, ""},
		{"/?format=html", 200, "<html"},
	} {
		status, body, header := b.ask(row.target)
		if status != row.status || !strings.Contains(body, row.want) || strings.Contains(body, "<script>") {
			t.Errorf("%s: %d %s", row.target, status, body)
		}
		if header.Get("Content-Security-Policy") == "" || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: answered without the headers of a page: %v", row.target, header)
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

// answer is the JSON form, as a program reads it.
type answer struct {
	Components, Authorizers []struct {
		Key   wxtoken.Key
		State wxtoken.State
		Name  string `json:"nick_name"`
	}
	Next              string
	Total             int
	ComponentsLeftOut int `json:"components_left_out"`
}

func (b *bench) json(target string) (a answer) {
	b.t.Helper()
	status, body, _ := b.ask(target)
	if err := json.Unmarshal([]byte(body), &a); err != nil || status != http.StatusOK {
		b.t.Fatalf("%s: %d %v %s", target, status, err, body)
	}
	return a
}

// Ten thousand authorizers are read a page at a time, in order.
func TestManyAuthorizers(t *testing.T) {
	t.Parallel()
	const many = 10_000
	b := newBench(t)
	for i := range many {
		b.status(wxtoken.Status{Key: authorizer(i), State: wxtoken.StateActive, Authorizer: profile(fmt.Sprint("name ", i), "")})
	}
	for i := range 105 {
		b.status(wxtoken.Status{Key: wxtoken.ComponentKey(fmt.Sprintf("wxc%03d", i)), State: wxtoken.StateActive})
	}
	b.stored()
	for _, from := range []int{0, 4999, many - 500} { // the number of the first that is to come
		target := "/?format=json&limit=500"
		if from > 0 {
			target += "&after=" + authorizer(from-1).String()
		}
		a := b.json(target)
		if a.Total != many || len(a.Authorizers) != 500 || len(a.Components) != 100 || a.ComponentsLeftOut != 5 {
			t.Fatalf("from %d: %d of %d authorizers, %d components and %d more", from, len(a.Authorizers), a.Total, len(a.Components), a.ComponentsLeftOut)
		}
		for i, r := range a.Authorizers {
			if n := from + i; r.Key != authorizer(n) || r.Name != fmt.Sprint("name ", n) {
				t.Fatalf("from %d: row %d is %s %q", from, i, r.Key, r.Name)
			}
		}
		next := authorizer(from + 499).String()
		if from == many-500 {
			next = ""
		}
		if a.Next != next {
			t.Errorf("from %d: next %q, want %q", from, a.Next, next)
		}
	}
	a := b.json("/?format=json&q=" + authorizer(4711).Authorizer)
	if len(a.Authorizers) != 1 || a.Authorizers[0].Key != authorizer(4711) || a.Total != 1 || len(a.Components) != 0 || a.Next != "" {
		t.Errorf("search for one: %+v", a)
	}
	if a := b.json("/?format=json&limit=2&after=component.wx1"); len(a.Authorizers) != 0 || a.Next != "" {
		t.Errorf("after the last: %+v", a)
	}
	if a := b.json("/?format=json&q=wxc00"); len(a.Components) != 10 || a.Total != 0 || a.ComponentsLeftOut != 0 {
		t.Errorf("search for components: %+v", a)
	}
}

func TestNATSAway(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.some()
	b.nats.Stop()
	status, body, header := b.ask("/", browser...)
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || !strings.Contains(body, "NATS does not answer") {
		t.Errorf("without NATS: %d %s", status, body)
	}
	b.nats.Restart()
	deadline := time.Now().Add(time.Minute)
	for status, _, _ := b.ask("/"); status != http.StatusOK; status, _, _ = b.ask("/") {
		if time.Now().After(deadline) {
			t.Fatalf("still %d after NATS came back", status)
		}
	}
}

// BenchmarkPage is one page of 50, out of 10,000 authorizers.
func BenchmarkPage(b *testing.B) {
	n := newBench(b)
	for i := range 10_000 {
		n.token(authorizer(i), 1, time.Hour)
		n.status(wxtoken.Status{Key: authorizer(i), State: wxtoken.StateActive, Authorizer: profile("name", "")})
	}
	n.stored()
	b.ReportAllocs()
	for b.Loop() {
		if status, body, _ := n.ask("/"); status != http.StatusOK {
			b.Fatal(status, body)
		}
	}
}
