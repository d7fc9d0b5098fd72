package console_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"wxtoken/client"
	"wxtoken/internal/console"
	"wxtoken/internal/counts"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	component = "wx0123456789abcdef"
	patience  = 2 * time.Minute
)

var now = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// bench is a console over a NATS of its own.
type bench struct {
	t    testing.TB
	nats *natsdtest.Server
	js   jetstream.JetStream
	page http.Handler
	read func() int
	puts int // that the index has to read
	end  func()
}

// newBench returns a console that follows the buckets.
func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, nats: natsdtest.Start(t)}
	nc := b.nats.Connect()
	var err error
	if b.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	streamstest.Setup(t, nc, b.js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	c, err := console.New(console.Config{NATS: b.nats.Connect(), Log: zerolog.Nop(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() { _ = c.Run(ctx) })
	b.end = sync.OnceFunc(func() {
		cancel()
		following.Wait()
	})
	t.Cleanup(b.end)
	b.page, b.read = c.Handler(), c.Read
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
	if _, err := b.js.PublishAsync(subject, []byte(data), jetstream.WithStallWait(patience)); err != nil {
		b.t.Fatal(err)
	}
	if parts := strings.SplitN(subject, ".", 3); parts[0] == "$KV" {
		if _, err := wxtoken.ParseKey(parts[2]); err == nil {
			b.puts++
		}
	}
}

// stored waits until all that was put is there and in the index, and looks whether these are so many accounts.
func (b *bench) stored(accounts int) {
	b.t.Helper()
	select {
	case <-b.js.PublishAsyncComplete():
	case <-b.t.Context().Done():
		b.t.Fatal("not stored")
	}
	b.until("all records", func() error {
		if n := b.read(); n < b.puts {
			return fmt.Errorf("%d of %d are read", n, b.puts)
		}
		return nil
	})
	b.until("all accounts", func() error {
		_, body, _ := b.ask("/?format=json")
		var o console.Overview
		if err := json.Unmarshal([]byte(body), &o); err != nil || o.Loading != nil || o.Tally.Accounts != accounts {
			return fmt.Errorf("%w %s", err, body)
		}
		return nil
	})
}

// until waits until f returns nil.
func (b *bench) until(what string, f func() error) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// shows waits until a page says something.
func (b *bench) shows(target, want string, headers ...string) (body string) {
	b.t.Helper()
	b.until(target, func() error {
		if _, body, _ = b.ask(target, headers...); !strings.Contains(body, want) {
			return fmt.Errorf("no %q in\n%s", want, body)
		}
		return nil
	})
	return body
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

// browser are the headers that a browser sends, chinese those of one in Chinese.
var (
	browser = []string{"Accept", "text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Language", "en"}
	chinese = []string{"Accept", "text/html", "Accept-Language", "zh-CN"}
)

func authorizer(n int) wxtoken.Key {
	return wxtoken.AuthorizerKey(component, fmt.Sprintf("wxa%015d", n))
}

func profile(nickName, principal string) *wxtoken.Authorizer {
	quoted := func(s string) json.RawMessage {
		data, _ := json.Marshal(s) // a string always can
		return data
	}
	return &wxtoken.Authorizer{Profile: map[string]json.RawMessage{"nick_name": quoted(nickName), "principal_name": quoted(principal)}}
}

// ready is the condition Ready.
func ready(ok bool, reason wxtoken.Reason, since time.Duration) []wxtoken.Condition {
	status := "False"
	if ok {
		status = "True"
	}
	return []wxtoken.Condition{{Type: wxtoken.ConditionReady, Status: status, Reason: reason, Since: now.Add(-since)}}
}

// some stores one key of each sort.
func (b *bench) some() {
	b.t.Helper()
	ticket := now.Add(-3 * time.Minute)
	own := wxtoken.ComponentKey(component)
	b.token(own, 7, 2*time.Hour)
	b.status(wxtoken.Status{Key: own, State: wxtoken.StateActive, TicketReceivedAt: &ticket})
	b.token(authorizer(1), 3, 90*time.Second)
	named := profile("小店", "小店有限公司")
	named.Ref, named.FuncInfo = "Tenant-17", []int{1, 18}
	b.status(wxtoken.Status{Key: authorizer(1), State: wxtoken.StateActive, Authorizer: named, Conditions: ready(true, wxtoken.ReasonRenewed, time.Hour)})
	b.token(authorizer(2), 4, -5*time.Second)
	few := profile("Bakery", "Bread Ltd")
	few.FuncInfo = []int{1}
	b.status(wxtoken.Status{Key: authorizer(2), State: wxtoken.StateRenewingFailed, Failures: 6, Authorizer: few, Conditions: ready(false, wxtoken.ReasonExpired, time.Second),
		LastError: &wxtoken.LastError{Code: 61004, Message: "access clientip is not registered", RID: "rid-1", At: now.Add(-time.Minute)}})
	b.token(authorizer(3), 9, time.Hour) // no status yet
	b.status(wxtoken.Status{Key: authorizer(4), State: wxtoken.StateRevoked, Conditions: ready(false, wxtoken.ReasonCancelled, 2*time.Second)})
	b.put("$KV.tokens."+authorizer(4).String(), "") // as a deletion lies there
	b.status(wxtoken.Status{Key: authorizer(5), State: wxtoken.StateNeedsAuthorization, Conditions: ready(false, wxtoken.ReasonRefreshTokenInvalid, time.Minute)})
	b.token(authorizer(5), 2, 30*time.Minute)
	b.put("$KV.status."+authorizer(6).String(), "not JSON")
	b.put("$KV.status.neither.a.key", "{}")
	b.stored(5)
}

func TestText(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.some()
	status, body, header := b.ask("/")
	if status != http.StatusOK || header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %s", status, header.Get("Content-Type"))
	}
	const want = `1 account has no valid token: WeChat refused the renewal (errcode 61004).
1 more can call WeChat now and is not renewed as it should be.

Components
  key                           state   generation  expires  next renewal  failures  token sha256  last ticket
  component.wx0123456789abcdef  active  7           in 2 h   in 40 min     0         9a9379d8      3 min ago

Accounts (5)
  key                                               state                generation  expires          next renewal  failures  token sha256  nick_name
  authorizer.wx0123456789abcdef.wxa000000000000002  renewing_failed      4           5 s ago          1 s ago       6         027e531c      Bakery
    last error: access clientip is not registered (errcode 61004) (rid rid-1), 1 min ago
    -> add this machine's outbound address on WeChat's console to 白名单IP地址列表; runbook: A component is in state operator
  authorizer.wx0123456789abcdef.wxa000000000000005  needs_authorization  2           in 30 min        in 10 min     0         ce1d4c2c
    -> have the merchant authorize again, with the link; runbook: An authorizer is in state needs_authorization or revoked
  authorizer.wx0123456789abcdef.wxa000000000000001  active               3           in 1 min 30 s    in 30 s       0         5575ea6b      小店
  authorizer.wx0123456789abcdef.wxa000000000000003  active               9           in 1 h           in 20 min     0         2bb69c8a
  authorizer.wx0123456789abcdef.wxa000000000000004  revoked              -           -                -             0         -
    -> have the merchant authorize again, with the link; runbook: An authorizer is in state needs_authorization or revoked
`
	if got, want := regexp.MustCompile(` +`).ReplaceAllString(body, " "), regexp.MustCompile(` +`).ReplaceAllString(want, " "); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestTrue says in one sentence what is so.
func TestTrue(t *testing.T) {
	t.Parallel()
	until := time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC) // midnight in China
	quota := wxtoken.Status{Key: wxtoken.ComponentKey(component), State: wxtoken.StateOperator, Conditions: []wxtoken.Condition{{
		Type: wxtoken.ConditionRenewing, Status: "False", Reason: wxtoken.HeldQuota, Until: &until, Since: now,
		Message: "api_authorizer_token: the day's <quota> is gone until 2026-11-22T16:00:00Z",
	}}}
	for _, row := range []struct {
		name      string
		component wxtoken.Status
		expires   []time.Duration // of the accounts' tokens
		state     wxtoken.State
		verdict   string
		en, zh    string
	}{
		{"all is well", wxtoken.Status{State: wxtoken.StateActive}, []time.Duration{time.Hour, time.Hour}, wxtoken.StateActive, "ok",
			"All 2 accounts can call WeChat.", "全部 2 个账号都可以调用微信。"},
		{"a day's quota is gone", quota, []time.Duration{-time.Second, -time.Second, time.Minute}, wxtoken.StateActive, "broken",
			"2 accounts have no valid token: the day's quota of api_authorizer_token is gone until 00:00 (UTC+8).",
			"2 个账号没有有效的令牌：api_authorizer_token 当天的调用额度用完，至 00:00 (UTC+8)。"},
		{"a day's quota is gone and all tokens live", quota, []time.Duration{time.Hour}, wxtoken.StateActive, "at_risk",
			"The one account can call WeChat now, but not all is well.", "唯一的账号目前可以调用微信，但存在问题。"},
		{"renewals fail", wxtoken.Status{State: wxtoken.StateActive}, []time.Duration{20 * time.Minute, time.Hour}, wxtoken.StateRenewingFailed, "at_risk",
			"All 2 accounts can call WeChat now, but 2 are not renewed: the first token ends in 20 min.", "全部 2 个账号目前都可以调用微信，但有 2 个没有续期：第一个令牌20 分钟后到期。"},
		{"all have cancelled", wxtoken.Status{State: wxtoken.StateActive}, []time.Duration{time.Hour}, wxtoken.StateRevoked, "empty",
			"Every account that was here has cancelled: 1.", "全部账号（1 个）都已取消授权。"},
		{"none yet", wxtoken.Status{State: wxtoken.StateActive}, nil, "", "empty", "No account has authorized yet.", "还没有账号授权。"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			row.component.Key = wxtoken.ComponentKey(component)
			b.status(row.component)
			b.token(row.component.Key, 1, time.Hour)
			for i, expires := range row.expires {
				b.token(authorizer(i), 1, expires)
				b.status(wxtoken.Status{Key: authorizer(i), State: row.state})
			}
			b.stored(len(row.expires))
			_, body, _ := b.ask("/?format=json")
			var o console.Overview
			if err := json.Unmarshal([]byte(body), &o); err != nil || o.Verdict != row.verdict || o.Sentence != row.en {
				t.Errorf("%v: %s %q, want %s %q", err, o.Verdict, o.Sentence, row.verdict, row.en)
			}
			if _, body, _ := b.ask("/", chinese...); !strings.Contains(html.UnescapeString(body), row.zh) {
				t.Errorf("no %s in\n%s", row.zh, body)
			}
		})
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
		{Type: wxtoken.ConditionReady, Status: "True", Reason: wxtoken.ReasonRenewed},
		{Type: wxtoken.ConditionRenewing, Status: "False", Reason: wxtoken.HeldQuota, Message: "the day's <quota> is gone", Since: now.Add(-time.Minute), Until: &until},
	}})
	b.token(authorizer(1), 3, -time.Second)
	b.status(wxtoken.Status{Key: authorizer(1), State: wxtoken.StateActive})
	b.token(authorizer(2), 3, time.Second)
	b.status(wxtoken.Status{Key: authorizer(2), State: wxtoken.StateActive})
	b.stored(2)
	const line = "held back: QuotaGone: the day's <quota> is gone (1 min ago, until 2026-11-22 16:00:00 UTC)"
	if _, body, _ := b.ask("/"); !strings.Contains(body, line) {
		t.Errorf("no %q in\n%s", line, body)
	}
	if _, body, _ := b.ask("/", browser...); !strings.Contains(body, "Renewals are held back:</strong> the day&#39;s quota is gone until 00:00 (UTC&#43;8)") {
		t.Errorf("the page does not tell:\n%s", body)
	}
	if _, body, _ := b.ask("/", chinese...); !strings.Contains(body, "续期暂缓：</strong> 当天的调用额度用完，至 00:00") {
		t.Errorf("the page does not tell in Chinese:\n%s", body)
	}
	_, body, _ := b.ask("/?format=json")
	if !strings.Contains(body, `"held_back":{"type":"Renewing","status":"False","reason":"QuotaGone"`) {
		t.Errorf("the JSON does not tell:\n%s", body)
	}
	var o console.Overview
	if err := json.Unmarshal([]byte(body), &o); err != nil || len(o.Worst) != 1 || o.Worst[0].Key != own {
		t.Errorf("to look at first: %v %+v", err, o.Worst)
	}
	for path, want := range map[string]string{
		authorizer(1).String(): "It can&#39;t call WeChat since its token ended, 1 s ago: the day&#39;s quota is gone until 00:00 (UTC&#43;8).",
		own.String():           "It can call WeChat now. Renewals are held back: the day&#39;s quota is gone until 00:00 (UTC&#43;8).",
	} {
		if _, body, _ := b.ask("/accounts/"+path, browser...); !strings.Contains(body, want) || !strings.Contains(body, `<a href="/runbook/the-days-quota-is-gone">`) {
			t.Errorf("no %q, or nothing to do, in\n%s", want, body)
		}
	}
	if list := b.list("/accounts?format=json"); list.Rows[0].State != wxtoken.StateRenewingFailed || list.Rows[0].Key != authorizer(1) || list.Rows[1].State != wxtoken.StateActive {
		t.Errorf("states %+v", list.Rows)
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.some()
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

// TestAccount is about one account: in names, not numbers.
func TestAccount(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.some()
	named := profile("小店", "小店有限公司")
	for name, value := range map[string]string{"service_type_info": `{"id":2}`, "verify_type_info": `{"id":-1}`, "account_status": `16`, "alias": `"xiaodian"`} {
		named.Profile[name] = json.RawMessage(value)
	}
	named.FuncInfo, named.Ref = []int{18, 1, 4711}, "Tenant-17"
	b.status(wxtoken.Status{Key: authorizer(1), State: wxtoken.StateActive, Authorizer: named, Conditions: ready(true, wxtoken.ReasonRenewed, time.Hour)})
	b.put(events.MessageSubject(component, authorizer(1).Authorizer, "event", "subscribe"), "{}")
	b.put(events.MessageSubject(component, authorizer(1).Authorizer, "text", ""), "{}")
	target := "/accounts/" + authorizer(1).String()
	body := b.shows(target, "banned", browser...)
	for _, want := range []string{
		"service account", "not verified", "banned", "小店有限公司", "xiaodian", "Tenant-17", "messages", "development and data analysis", "permission set 4711",
		"It can call WeChat. The next renewal is due in 30 s.", "<code>5575ea6b</code>", "event · subscribe", "No refresher answers",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if body := b.shows(target, "已封禁", chinese...); !strings.Contains(body, "服务号") || !strings.Contains(body, "消息管理") || !strings.Contains(body, "可以调用微信") {
		t.Errorf("not in Chinese:\n%s", body)
	}
	_, body, _ = b.ask(target+"?format=json", browser...)
	var a console.Account
	if err := json.Unmarshal([]byte(body), &a); err != nil || a.Key != authorizer(1) || len(a.Messages) != 2 || len(a.Permissions) != 3 || a.Permissions[0].ID != 1 {
		t.Errorf("%v %s", err, body)
	}
	if status, body, _ := b.ask("/accounts/"+authorizer(99).String(), browser...); status != http.StatusNotFound || !strings.Contains(body, "nothing is known") {
		t.Errorf("%d %s", status, body)
	}
	if _, body, _ := b.ask("/accounts/"+authorizer(2).String(), browser...); !strings.Contains(body, "It can&#39;t call WeChat since its token ended, 5 s ago") {
		t.Errorf("a dead token is not told of:\n%s", body)
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
		Conditions: ready(false, wxtoken.ReasonExpired, time.Minute), // it is among those that changed last
	})
	b.status(wxtoken.Status{Key: wxtoken.ComponentKey(component), State: "x", Conditions: []wxtoken.Condition{
		{Type: "<b>", Status: "True", Reason: "<i>", Since: now}, {Type: wxtoken.ConditionRenewing, Status: "False", Reason: "<u>\x1b", Message: "<u>", Since: now}}})
	b.stored(1)
	for _, target := range []string{"/", "/accounts", "/accounts/" + authorizer(1).String()} {
		for _, headers := range [][]string{browser, chinese, {"Accept", "*/*"}} {
			status, body, _ := b.ask(target, headers...)
			if status != http.StatusOK || !strings.Contains(body, "alert(1)") {
				t.Errorf("%s: %d %s", target, status, body)
			}
			if strings.HasPrefix(body, "{") { // JSON quotes what a terminal would obey, and is no page
				continue
			}
			for _, never := range []string{"\x1b", "\x07", "\r", "\u202e", "\u2066", strings.Repeat("长", 201)} {
				if strings.Contains(body, never) {
					t.Errorf("%s: %q in\n%s", target, never, body)
				}
			}
			if strings.Contains(headers[1], "html") {
				for _, never := range []string{"<script>", "<img", `<svg>`, `onclick="`, "<b>", "<i>", "<u>"} {
					if strings.Contains(body, never) {
						t.Errorf("%s: %q in\n%s", target, never, body)
					}
				}
			}
		}
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.stored(0)
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
		{"/index.html", 404, ""},
		{"/etc/passwd", 404, ""},
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

// list is a list as a program reads it. A machine with other work may be too slow for five hundred rows at first.
func (b *bench) list(target string) (a console.Accounts) {
	b.t.Helper()
	b.until(target, func() error {
		status, body, _ := b.ask(target)
		if err := json.Unmarshal([]byte(body), &a); err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %w %s", status, err, body)
		}
		return nil
	})
	return a
}

// TestViews shows some of the accounts: each view is an address.
func TestViews(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.some()
	for _, row := range []struct {
		query string
		want  []int
	}{
		{"", []int{2, 5, 1, 3, 4}},
		{"sort=appid", []int{1, 2, 3, 4, 5}},
		{"sort=expires", []int{2, 1, 5, 3, 4}},
		{"sort=since", []int{2, 4, 5, 1, 3}},
		{"state=active", []int{1, 3}},
		{"state=renewing_failed", []int{2}},
		{"state=revoked", []int{4}},
		{"token=dead", []int{2}},
		{"token=valid", []int{5, 1, 3}},
		{"within=300", []int{1}},
		{"errcode=61004", []int{2}},
		{"lacks=18", []int{2}},
		{"lacks=1", nil},
		{"q=tenant", []int{1}},
		{"q=TENANT-17", []int{1}},
		{"q=bread+LTD", []int{2}},
		{"q=bread+tenant", nil},
		{"q=%E5%B0%8F%E5%BA%97", []int{1}},
		{"q=wxa000000000000003", []int{3}},
		{"component=" + component, []int{2, 5, 1, 3, 4}},
		{"component=wxother", nil},
		{"limit=2&page=2", []int{1, 3}},
	} {
		list := b.list("/accounts?format=json&" + row.query)
		var got []int
		for _, r := range list.Rows {
			var n int
			if _, err := fmt.Sscanf(r.Key.Authorizer, "wxa%d", &n); err != nil {
				t.Fatal(err)
			}
			got = append(got, n)
		}
		if fmt.Sprint(got) != fmt.Sprint(row.want) {
			t.Errorf("%s: %v, want %v", row.query, got, row.want)
		}
		if status, _, _ := b.ask("/accounts?"+row.query, browser...); status != http.StatusOK {
			t.Errorf("%s: %d", row.query, status)
		}
	}
}

// TestCSV has a table that a spreadsheet takes for text.
func TestCSV(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i, name := range []string{"=HYPERLINK(1)", "+1", "@SUM(A1)", "-2+3", "plain, \"quoted\"", "\t=1"} {
		b.status(wxtoken.Status{Key: authorizer(i), State: wxtoken.StateActive, Authorizer: profile(name, "")})
	}
	b.stored(6)
	status, body, header := b.ask("/accounts?format=csv&sort=appid", browser...)
	if status != http.StatusOK || header.Get("Content-Type") != "text/csv; charset=utf-8" || !strings.HasPrefix(header.Get("Content-Disposition"), "attachment") {
		t.Fatalf("%d %v %s", status, header, body)
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(body, "\ufeff"))).ReadAll()
	if err != nil || len(rows) != 7 {
		t.Fatalf("%v %d rows", err, len(rows))
	}
	for i, want := range []string{"'=HYPERLINK(1)", "'+1", "'@SUM(A1)", "'-2+3", "plain, \"quoted\"", "'\t=1"} {
		if rows[i+1][3] != want {
			t.Errorf("%q, want %q", rows[i+1][3], want)
		}
	}
}

// Ten thousand accounts are read a page at a time, in order.
func TestManyAuthorizers(t *testing.T) {
	t.Parallel()
	const many = 10_000
	b := newBench(t)
	for i := range many {
		b.status(wxtoken.Status{Key: authorizer(i), State: wxtoken.StateActive, Authorizer: profile(fmt.Sprint("name ", i), "")})
	}
	for i := range 205 {
		b.status(wxtoken.Status{Key: wxtoken.ComponentKey(fmt.Sprintf("wxc%03d", i)), State: wxtoken.StateActive})
	}
	b.stored(many)
	for _, page := range []int{1, 11, 20} {
		list := b.list(fmt.Sprintf("/accounts?format=json&sort=appid&limit=500&page=%d", page))
		if list.Total != many || len(list.Rows) != 500 {
			t.Fatalf("page %d: %d of %d", page, len(list.Rows), list.Total)
		}
		for i, r := range list.Rows {
			if n := (page-1)*500 + i; r.Key != authorizer(n) || r.Name != fmt.Sprint("name ", n) {
				t.Fatalf("page %d: row %d is %s %q", page, i, r.Key, r.Name)
			}
		}
	}
	if list := b.list("/accounts?format=json&q=" + authorizer(4711).Authorizer); len(list.Rows) != 1 || list.Rows[0].Key != authorizer(4711) || list.Total != 1 {
		t.Errorf("search for one: %+v", list)
	}
	if list := b.list("/accounts?format=json&page=99999"); len(list.Rows) != 0 || list.Total != many {
		t.Errorf("after the last: %d of %d", len(list.Rows), list.Total)
	}
	_, body, _ := b.ask("/?format=json")
	var o console.Overview
	if err := json.Unmarshal([]byte(body), &o); err != nil || len(o.Components) != 200 || o.LeftOut != 5 {
		t.Errorf("%v: %d components and %d more", err, len(o.Components), o.LeftOut)
	}
	if _, body, _ := b.ask("/accounts?page=100", browser...); !strings.Contains(body, `aria-current="page">100</a>`) || !strings.Contains(body, `href="/accounts?page=200"`) {
		t.Errorf("pages are not linked:\n%s", body)
	}
}

func TestNATSAway(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.some()
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
	b.some()
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

// TestHistory plots what processes wrote down, and keeps it over a restart.
func TestHistory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.some()
	for i := range 12 {
		to := now.Add(-time.Duration(i) * 10 * time.Minute)
		b.put(events.JournalSubject(events.JournalCount, "refresher", "one"), counts.Record{Role: "refresher", From: to.Add(-10 * time.Minute), To: to,
			Counts: map[string]int64{counts.Renewed: 100, counts.Failed: 2, counts.LatestMS: int64(1000 * i)}})
	}
	b.until("the plot", func() error {
		_, body, _ := b.ask("/?format=json")
		var o console.Overview
		if err := json.Unmarshal([]byte(body), &o); err != nil {
			return err
		}
		if p := o.History[0]; p.Series[0].Sum() != 1200 || p.Series[1].Sum() != 24 || p.Step != 1800 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	_, body, _ := b.ask("/", browser...)
	if !strings.Contains(body, "renewed: 1,200; failed: 24</desc>") || !strings.Contains(body, `aria-labelledby="plot-renewals-t plot-renewals-d"`) {
		t.Errorf("not drawn:\n%s", body)
	}
}

// TestWellFormed has each page in both languages: one h1, a main, labels that lead somewhere.
func TestWellFormed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.some()
	b.tell(time.Hour, events.PhaseBegan, component, wxtoken.HeldQuota, 1, authorizer(2).String())
	b.stored(5)
	for _, target := range []string{"/", "/accounts", "/accounts?q=none", "/accounts/" + authorizer(2).String(), "/accounts/x", "/notices", "/runbook", "/runbook/sizing"} {
		for _, headers := range [][]string{browser, chinese} {
			_, body, _ := b.ask(target, headers...)
			if strings.Count(body, "<h1") != 1 || strings.Count(body, "<main") != 1 || !strings.Contains(body, `href="#main"`) {
				t.Errorf("%s: no landmark, or several:\n%s", target, body)
			}
			ids := map[string]int{}
			for _, m := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(body, -1) {
				ids[m[1]]++
			}
			for id, n := range ids {
				if n > 1 {
					t.Errorf("%s: %d elements with id %s", target, n, id)
				}
			}
			for _, m := range regexp.MustCompile(`aria-labelledby="([^"]+)"`).FindAllStringSubmatch(body, -1) {
				for id := range strings.FieldsSeq(m[1]) {
					if ids[id] == 0 {
						t.Errorf("%s: nothing has the id %s", target, id)
					}
				}
			}
			if strings.Contains(body, "%!") || strings.Contains(body, "<no value>") || strings.Contains(body, "ZgotmplZ") {
				t.Errorf("%s: a text is not filled in:\n%s", target, body)
			}
		}
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
	n.stored(many)
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
