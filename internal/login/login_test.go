package login_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/crypto/bcrypt"

	"wxtoken/internal/events"
	"wxtoken/internal/login"
	"wxtoken/internal/logtest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams/streamstest"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 12) }

// patience bounds every wait.
const patience = 2 * time.Minute

const password = "SEKRET-of-li"

// door is a guard before a page that says who is there.
type door struct {
	*testing.T
	url   string
	file  string
	log   logtest.Buffer
	nc    *nats.Conn
	js    jetstream.JetStream
	began time.Time    // where the clock stands still, but for
	ahead atomic.Int64 // so much
	acted atomic.Int64 // requests that changed something
	shown []string     // all that a browser was given: no secret is in there
}

// hash is a cheap one, so that the tests take no minute.
func hash(t testing.TB, password string) string {
	t.Helper()
	text, err := bcrypt.GenerateFromPassword([]byte(password), 10)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var secret = base64.StdEncoding.EncodeToString([]byte("SEKRET-that-signs-the-sessions--"))

// person is an entry of the users file.
type person map[string]string

func usersOf(t testing.TB, people ...person) []byte {
	t.Helper()
	text, err := json.Marshal(map[string]any{"secret": secret, "users": people})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func li(t testing.TB) person {
	return person{"name": "li", "role": "operator", "password": hash(t, password)}
}

// open stands a guard before the page. users is the users file, none if it is nil.
func open(t *testing.T, cfg login.Config, users []byte) *door {
	t.Helper()
	d := &door{T: t, began: time.Now()}
	if users != nil {
		d.file = filepath.Join(t.TempDir(), "users.json")
		d.write(users)
		cfg.UsersFile = d.file
	}
	d.nc = natsdtest.Start(t).Connect()
	var err error
	if d.js, err = jetstream.New(d.nc); err != nil {
		t.Fatal(err)
	}
	streamstest.Setup(t, d.nc, d.js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	d.url = d.another(cfg).URL
	t.Cleanup(func() {
		for _, text := range append(d.shown, d.log.String(), fmt.Sprint(d.records())) {
			if strings.Contains(text, "SEKRET") {
				t.Errorf("a secret is shown:\n%s", text)
			}
		}
	})
	return d
}

// another is a further process with the same settings.
func (d *door) another(cfg login.Config, trusted ...netip.Prefix) *httptest.Server {
	d.Helper()
	guard, err := login.New(cfg, login.Deps{
		Trusted: trusted,
		Log:     zerolog.New(&d.log), Metrics: prometheus.NewRegistry(), NATS: d.nc, Public: []string{"/console.css"},
		Now: func() time.Time { return d.began.Add(time.Duration(d.ahead.Load())) },
	})
	if err != nil {
		d.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		p := login.Of(r.Context())
		_, _ = fmt.Fprintf(w, `%s is %s <input name="%s" value="%s">`, p.Name, p.Role, login.FormField, p.Form)
	})
	act := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.acted.Add(1)
		_, _ = fmt.Fprintf(w, "done for %s", login.Of(r.Context()).Name)
	})
	mux.Handle("POST /act", login.Allow(login.Operator, act))
	mux.Handle("POST /reveal", login.Allow(login.Admin, act))
	s := httptest.NewServer(guard.Handler(mux))
	d.Cleanup(s.Close)
	running := make(chan struct{})
	go func() {
		defer close(running)
		_ = guard.Run(d.Context())
	}()
	d.Cleanup(func() { <-running })
	return s
}

func (d *door) write(users []byte) {
	d.Helper()
	if err := os.WriteFile(d.file, users, 0o600); err != nil {
		d.Fatal(err)
	}
}

// records are those on JOURNAL.
func (d *door) records() (all []events.Audit) {
	d.Helper()
	stream, err := d.js.Stream(context.Background(), events.StreamJournal)
	if err != nil {
		d.Fatal(err)
	}
	state := stream.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		m, err := stream.GetMsg(context.Background(), seq)
		if err != nil {
			d.Fatal(err)
		}
		var a events.Audit
		if err := json.Unmarshal(m.Data, &a); err != nil {
			d.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

// browser keeps cookies, and follows no redirect.
type browser struct {
	*door
	client *http.Client
	header http.Header
}

func (d *door) browser() *browser {
	d.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		d.Fatal(err)
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{door: d, client: &http.Client{Jar: jar, CheckRedirect: stay, Timeout: patience}, header: http.Header{"Accept": {"text/html"}, "Accept-Language": {"en"}}}
}

// answer is what came.
type answer struct {
	status int
	body   string
	header http.Header
}

func (b *browser) do(method, path string, form url.Values, headers ...string) answer {
	b.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	target := path
	if strings.HasPrefix(path, "/") {
		target = b.url + path
	}
	r, err := http.NewRequestWithContext(b.Context(), method, target, body)
	if err != nil {
		b.Fatal(err)
	}
	r.Header = b.header.Clone()
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := b.client.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	b.shown = append(b.shown, string(text))
	return answer{resp.StatusCode, string(text), resp.Header}
}

func (b *browser) get(path string, headers ...string) answer {
	b.Helper()
	return b.do(http.MethodGet, path, nil, headers...)
}

var tokenField = regexp.MustCompile(`name="form_token" value="([^"]+)"`)

// form loads a page and returns a form of it.
func (b *browser) form(path string, fields ...string) url.Values {
	b.Helper()
	page := b.get(path)
	found := tokenField.FindStringSubmatch(page.body)
	if found == nil {
		b.Fatalf("%s: %d, no form:\n%s", path, page.status, page.body)
	}
	form := url.Values{"form_token": {found[1]}}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return form
}

// login logs in.
func (b *browser) login(name, password string) answer {
	b.Helper()
	return b.do(http.MethodPost, "/login", b.form("/login?next=/accounts?q=1", "name", name, "password", password, "next", "/accounts?q=1"))
}

// session returns the cookie of the session.
func (b *browser) session() *http.Cookie {
	b.Helper()
	u, err := url.Parse(b.url)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name == "wxtoken_session" {
			return c
		}
	}
	b.Fatal("no session")
	return nil
}

func (a answer) want(t testing.TB, what string, status int, text string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.body, text) {
		t.Errorf("%s: %d, want %d with %q:\n%s", what, a.status, status, text, a.body)
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	d := open(t, login.Config{}, usersOf(t, li(t)))
	b := d.browser()
	if a := b.get("/accounts?q=1"); a.status != http.StatusSeeOther || a.header.Get("Location") != "/login?next=%2Faccounts%3Fq%3D1" {
		t.Errorf("without a session: %d to %s", a.status, a.header.Get("Location"))
	}
	b.get("/console.css").want(t, "the style of the login page", http.StatusOK, "")
	a := b.login("li", password)
	if a.status != http.StatusSeeOther || a.header.Get("Location") != "/accounts?q=1" {
		t.Fatalf("login: %d to %q\n%s", a.status, a.header.Get("Location"), a.body)
	}
	for _, c := range a.header.Values("Set-Cookie") {
		if !strings.Contains(c, "HttpOnly") || !strings.Contains(c, "SameSite=Strict") || !strings.Contains(c, "Path=/;") || strings.Contains(c, "Secure") {
			t.Errorf("cookie %q", c[strings.Index(c, ";"):])
		}
	}
	b.get("/").want(t, "with the session", http.StatusOK, "li is operator")
	b.do(http.MethodPost, "/act", b.form("/")).want(t, "an action", http.StatusOK, "done for li")
	b.do(http.MethodPost, "/reveal", b.form("/")).want(t, "what is an admin's", http.StatusForbidden, "your role")

	// Another process with the same file takes the session.
	there := d.another(login.Config{UsersFile: d.file}).URL
	d.browser().get(there+"/", "Cookie", "wxtoken_session="+b.session().Value).want(t, "another refresher", http.StatusOK, "li is operator")

	if a := b.do(http.MethodPost, "/logout", b.form("/")); a.header.Get("Location") != "/login" {
		t.Errorf("logout: %d to %s", a.status, a.header.Get("Location"))
	}
	if a := b.get("/"); a.status != http.StatusSeeOther {
		t.Errorf("after the logout: %d", a.status)
	}
	records := d.records()
	if len(records) != 2 {
		t.Fatalf("%d records, want 2: %+v", len(records), records)
	}
	for i, action := range []string{events.ActionLogin, events.ActionLogout} {
		if r := records[i]; r.Action != action || r.Actor != "li" || r.Role != "operator" || r.By != events.ByConsole || r.From != "127.0.0.1" || r.Outcome != events.OutcomeDone || r.At.IsZero() {
			t.Errorf("record %d: %+v", i, r)
		}
	}
}

// TestChinese looks at the page in the other language.
func TestChinese(t *testing.T) {
	t.Parallel()
	b := open(t, login.Config{}, usersOf(t, li(t))).browser()
	b.header.Set("Accept-Language", "zh-CN,zh;q=0.9")
	b.get("/login").want(t, "the form", http.StatusOK, `<html lang="zh-CN">`)
	b.login("li", "wrong").want(t, "a wrong password", http.StatusUnauthorized, "用户名或密码错误")
}

// TestSessionsThatAreNone tries sessions that were not given, or have ended.
func TestSessionsThatAreNone(t *testing.T) {
	t.Parallel()
	d := open(t, login.Config{}, usersOf(t, li(t), person{"name": "wang", "role": "admin", "password": hash(t, "SEKRET-of-wang")}, person{"name": "he", "role": "admin"}))
	b := d.browser()
	b.login("li", password)
	good := b.session().Value
	body, mac, _ := strings.Cut(good, ".")
	text, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	as := func(change func(map[string]any)) string {
		var s map[string]any
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		change(s)
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	refused := func(what, value string) {
		t.Helper()
		other := d.browser()
		for _, accept := range []string{"text/html", "application/json"} {
			a := other.get("/", "Cookie", "wxtoken_session="+value, "Accept", accept)
			if a.status != http.StatusSeeOther && a.status != http.StatusUnauthorized || strings.Contains(a.body, " is ") {
				t.Errorf("%s: %d %s", what, a.status, a.body)
			}
		}
	}
	other := d.browser()
	other.get("/", "Cookie", "wxtoken_session="+good).want(t, "the good one", http.StatusOK, "li is operator")
	for what, value := range map[string]string{
		"another name":          as(func(s map[string]any) { s["n"] = "wang" }) + "." + mac,
		"a longer life":         as(func(s map[string]any) { s["e"] = s["e"].(float64) + 1e6 }) + "." + mac,
		"nobody's name":         as(func(s map[string]any) { s["n"] = "zhao" }) + "." + mac,
		"one without password":  as(func(s map[string]any) { s["n"] = "he" }) + "." + mac,
		"no signature":          body,
		"an empty one":          body + ".",
		"another signature":     body + "." + strings.Repeat("A", len(mac)),
		"a longer signature":    good + "A",
		"two of them":           good + "; wxtoken_session=" + good,
		"something else":        "x.y",
		"a session of no words": base64.RawURLEncoding.EncodeToString([]byte("null")) + "." + mac,
	} {
		refused(what, value)
	}
	d.ahead.Store(int64(12*time.Hour - time.Minute))
	d.browser().get("/", "Cookie", "wxtoken_session="+good).want(t, "before its end", http.StatusOK, "li is operator")
	d.ahead.Store(int64(12 * time.Hour))
	refused("after its end", good)
	d.ahead.Store(int64(-time.Hour))
	refused("before its beginning", good)
	d.ahead.Store(0)

	until := func(what string, is func(answer) bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
			a := d.browser().get("/", "Cookie", "wxtoken_session="+good)
			if is(a) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: still %d %s", what, a.status, a.body)
			}
		}
	}
	var f struct{ Users []person }
	now, err := os.ReadFile(d.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(now, &f); err != nil {
		t.Fatal(err)
	}
	promoted := maps.Clone(f.Users[0])
	promoted["role"] = "admin"
	d.write(usersOf(t, promoted))
	until("another role", func(a answer) bool { return strings.Contains(a.body, "li is admin") })
	d.write([]byte("{"))
	until("a faulty file changes nothing", func(a answer) bool {
		return strings.Contains(a.body, "li is admin") && strings.Contains(d.log.String(), "file refused")
	})
	d.write(usersOf(t, li(t))) // the same password, hashed anew
	until("another hash", func(a answer) bool { return a.status == http.StatusSeeOther })
}

// TestFormsOfOthers sends forms that are not of the page.
func TestFormsOfOthers(t *testing.T) {
	t.Parallel()
	d := open(t, login.Config{}, usersOf(t, li(t)))
	b := d.browser()
	b.login("li", password)
	form := b.form("/")
	theirs := d.browser()
	theirs.login("li", password)
	for _, row := range []struct {
		what    string
		form    url.Values
		headers []string
	}{
		{"another site", form, []string{"Sec-Fetch-Site", "cross-site"}},
		{"a neighbouring host", form, []string{"Sec-Fetch-Site", "same-site"}},
		{"another origin", form, []string{"Origin", "https://example.com"}},
		{"no origin", form, []string{"Origin", "null"}},
		{"no token", url.Values{}, nil},
		{"an empty token", url.Values{"form_token": {""}}, nil},
		{"another's token", theirs.form("/"), nil},
		{"two tokens", url.Values{"form_token": {"x", form.Get("form_token")}}, nil},
	} {
		for _, path := range []string{"/act", "/logout", "/login"} {
			a := b.do(http.MethodPost, path, row.form, row.headers...)
			if a.status != http.StatusForbidden {
				t.Errorf("%s, %s: %d %s", row.what, path, a.status, a.body)
			}
		}
	}
	if a := b.do(http.MethodPost, "/act?"+form.Encode(), url.Values{}); a.status != http.StatusForbidden {
		t.Errorf("a token in the address: %d", a.status)
	}
	if n := d.acted.Load(); n != 0 {
		t.Errorf("%d of them had something done", n)
	}
	b.do(http.MethodPost, "/act", form, "Sec-Fetch-Site", "same-origin", "Origin", d.url).want(t, "the page itself", http.StatusOK, "done")
}

// TestTries bounds how often one address may try.
func TestTries(t *testing.T) {
	t.Parallel()
	d := open(t, login.Config{Proxies: []string{"127.0.0.1"}}, usersOf(t, li(t)))
	b := d.browser()
	name := "li"
	try := func(from, password string) answer {
		one := d.browser()
		return one.do(http.MethodPost, "/login", one.form("/login", "name", name, "password", password), "X-Forwarded-For", from)
	}
	for range 5 {
		try("203.0.113.9", "SEKRET-wrong").want(t, "a wrong password", http.StatusUnauthorized, "name or password is wrong")
	}
	a := try("203.0.113.9", password)
	a.want(t, "the sixth, though it is right", http.StatusTooManyRequests, "too many tries")
	if a.header.Get("Retry-After") == "" {
		t.Error("it does not say when")
	}
	try("198.51.100.1, 203.0.113.9", password).want(t, "with another address made up before the proxy's", http.StatusTooManyRequests, "")
	b.get("/", "X-Forwarded-For", "203.0.113.9", "Accept", "text/plain", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("li:"+password))).
		want(t, "by Basic", http.StatusTooManyRequests, "too many tries")
	if a := try("203.0.113.10", password); a.status != http.StatusSeeOther {
		t.Errorf("another address: %d %s", a.status, a.body)
	}
	d.ahead.Store(int64(time.Minute))
	if a := try("203.0.113.9", password); a.status != http.StatusSeeOther {
		t.Errorf("a minute later: %d %s", a.status, a.body)
	}
	name = "SEKRET-for-a-name" // a password in the wrong field
	for range 40 {
		try("2001:db8::1", "SEKRET-wrong")
	}
	refused, done := 0, 0
	for _, r := range d.records() {
		switch {
		case r.Outcome == events.OutcomeDone && r.Actor == "li":
			done++
		case r.Outcome == events.OutcomeRefused && r.Status == http.StatusUnauthorized && (r.Actor == "li") == (r.From == "203.0.113.9"):
			refused++
		default:
			t.Errorf("record %+v", r)
		}
	}
	if done != 2 || refused != 10 {
		t.Errorf("%d records of logins and %d of refusals, want 2 and 10", done, refused)
	}
}

// TestPrograms have name and password in each request.
func TestPrograms(t *testing.T) {
	t.Parallel()
	d := open(t, login.Config{}, usersOf(t, li(t)))
	b := d.browser()
	basic := func(name, password string) []string {
		return []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))}
	}
	b.header = http.Header{"Accept": {"application/json"}}
	b.get("/").want(t, "without", http.StatusUnauthorized, "HTTP Basic")
	for range 20 { // more than the tries of an address
		b.get("/", basic("li", password)...).want(t, "a program", http.StatusOK, "li is operator")
	}
	b.do(http.MethodPost, "/act", url.Values{}, basic("li", password)...).want(t, "an action", http.StatusOK, "done for li")
	a := b.get("/", basic("li", "SEKRET-wrong")...)
	a.want(t, "a wrong password", http.StatusUnauthorized, "wrong")
	if a.header.Get("WWW-Authenticate") != "" {
		t.Error("a browser would keep a password that is asked for this way, and send it from any page")
	}
	b.get("/", basic("zhao", password)...).want(t, "a wrong name", http.StatusUnauthorized, "wrong")
	d.write(usersOf(t, person{"name": "li", "role": "operator", "password": hash(t, "SEKRET-another")}))
	for deadline := time.Now().Add(patience); b.get("/", basic("li", password)...).status == http.StatusOK; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the old password is still taken")
		}
	}
}

// TestThisMachine is the page without a login.
func TestThisMachine(t *testing.T) {
	t.Parallel()
	d := open(t, login.Config{}, nil)
	b := d.browser()
	b.get("/").want(t, "this machine", http.StatusOK, "local is admin")
	b.get("/", "Host", "localhost:8081").want(t, "by name", http.StatusOK, "local is admin")
	b.get("/", "Host", "[::1]:8081").want(t, "IPv6", http.StatusOK, "local is admin")
	b.do(http.MethodPost, "/reveal", b.form("/")).want(t, "an action", http.StatusOK, "done for local")
	for what, headers := range map[string][]string{
		"another host":       {"Host", "wxtoken.example.com"},
		"a host like ours":   {"Host", "127.0.0.1.example.com"},
		"a proxy":            {"X-Forwarded-For", "203.0.113.9"},
		"another proxy":      {"Via", "1.1 x"},
		"a named person":     {"Host", "localhost.example.com", "Remote-User", "li"},
		"the latest of them": {"Forwarded", "for=203.0.113.9"},
	} {
		b.get("/", headers...).want(t, what, http.StatusForbidden, "--console-users-file (WXTOKEN_CONSOLE_USERS_FILE)")
	}
	if a := b.get("/login"); a.status != http.StatusSeeOther {
		t.Errorf("a login where there is none: %d", a.status)
	}
}

// TestFarAway asks from another machine.
func TestFarAway(t *testing.T) {
	t.Parallel()
	guard, err := login.New(login.Config{}, login.Deps{NATS: natsdtest.Start(t).Connect(), Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	page := guard.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was let in") }))
	for _, remote := range []string{"203.0.113.9:1234", "[2001:db8::1]:1234", "", "@"} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost:8081/", nil)
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		page.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "--console-users-file") {
			t.Errorf("%q: %d %s", remote, w.Code, w.Body)
		}
	}
}

// TestProxy has the header of a proxy say who it is.
func TestProxy(t *testing.T) {
	t.Parallel()
	people := usersOf(t, person{"name": "li", "role": "operator"})
	for _, row := range []struct {
		what    string
		cfg     login.Config
		users   []byte
		headers []string
		status  int
		text    string
	}{
		{"a name", login.Config{UserHeader: "Remote-User", Proxies: []string{"127.0.0.1"}}, nil, []string{"Remote-User", "zhao@example.com"}, 200, "zhao@example.com is reader"},
		{"a role of the file", login.Config{UserHeader: "remote-user", Proxies: []string{"127.0.0.0/8"}}, people, []string{"Remote-User", "li"}, 200, "li is operator"},
		{"a role of the proxy", login.Config{UserHeader: "Remote-User", RoleHeader: "Remote-Groups", Proxies: []string{"127.0.0.1"}}, people,
			[]string{"Remote-User", "li", "Remote-Groups", "staff, admin,reader"}, 200, "li is admin"},
		{"no role of the proxy", login.Config{UserHeader: "Remote-User", RoleHeader: "Remote-Groups", Proxies: []string{"127.0.0.1"}}, people,
			[]string{"Remote-User", "li", "Remote-Groups", "staff"}, 403, "names no role"},
		{"a header that is not named", login.Config{UserHeader: "Remote-User", Proxies: []string{"127.0.0.1"}}, nil, []string{"X-Remote-User", "li"}, 403, "no name came"},
		{"a role that is not named", login.Config{UserHeader: "Remote-User", Proxies: []string{"127.0.0.1"}}, nil, []string{"Remote-User", "li", "Remote-Groups", "admin"}, 200, "li is reader"},
		{"an address that is not the proxy's", login.Config{UserHeader: "Remote-User", Proxies: []string{"10.0.0.0/8"}}, nil, []string{"Remote-User", "li"}, 403, "no name came"},
		{"two names", login.Config{UserHeader: "Remote-User", Proxies: []string{"127.0.0.1"}}, nil, []string{"Remote-User", "li", "Remote-User", "wang"}, 403, "not the name of one"},
		{"an empty name", login.Config{UserHeader: "Remote-User", Proxies: []string{"127.0.0.1"}}, nil, []string{"Remote-User", ""}, 403, "not the name of one"},
		{"a name that is none", login.Config{UserHeader: "Remote-User", Proxies: []string{"127.0.0.1"}}, nil, []string{"Remote-User", "li wang; x"}, 403, "not the name of one"},
		{"no header, but a password", login.Config{UserHeader: "Remote-User", Proxies: []string{"127.0.0.1"}}, usersOf(t, li(t)), nil, 303, ""},
		{"a file without passwords, and no proxy", login.Config{}, people, nil, 403, "no name came"},
	} {
		t.Run(row.what, func(t *testing.T) {
			t.Parallel()
			open(t, row.cfg, row.users).browser().get("/", row.headers...).want(t, row.what, row.status, row.text)
		})
	}
}

// TestTrusted comes through a proxy that is believed on where requests come from, and not on who it is.
func TestTrusted(t *testing.T) {
	t.Parallel()
	d := open(t, login.Config{}, usersOf(t, li(t)))
	d.url = d.another(login.Config{UsersFile: d.file, UserHeader: "Remote-User", Proxies: []string{"10.0.0.1"}}, netip.MustParsePrefix("127.0.0.0/8")).URL
	b := d.browser()
	if a := b.get("/", "Remote-User", "zhao", "X-Forwarded-For", "10.0.0.1"); a.status != http.StatusSeeOther || !strings.HasPrefix(a.header.Get("Location"), "/login") {
		t.Errorf("who it names: %d %s", a.status, a.body)
	}
	for n := range 8 {
		b.do(http.MethodPost, "/login", b.form("/login", "name", "li", "password", "SEKRET-wrong"), "X-Forwarded-For", fmt.Sprintf("203.0.113.%d", n)).
			want(t, "each from an address of its own", http.StatusUnauthorized, "")
	}
	if got := d.browser().get("/login", "X-Forwarded-Proto", "https").header.Get("Set-Cookie"); !strings.Contains(got, "Secure") {
		t.Errorf("a cookie for http: %s", got)
	}
}

// TestBehindTLS has the proxy speak TLS with the browser.
func TestBehindTLS(t *testing.T) {
	t.Parallel()
	for proxy, want := range map[string]bool{"127.0.0.1": true, "10.0.0.1": false} {
		b := open(t, login.Config{Proxies: []string{proxy}}, usersOf(t, li(t))).browser()
		if got := strings.Contains(b.get("/login", "X-Forwarded-Proto", "https").header.Get("Set-Cookie"), "Secure"); got != want {
			t.Errorf("proxy %s: secure is %t, want %t", proxy, got, want)
		}
	}
}

// TestLinkInAMessage is opened from another site: the browser keeps the session back, but not when the page loads itself again.
func TestLinkInAMessage(t *testing.T) {
	t.Parallel()
	b := open(t, login.Config{}, usersOf(t, li(t))).browser()
	b.get("/accounts", "Sec-Fetch-Site", "cross-site").want(t, "from another site", http.StatusOK, `http-equiv="refresh"`)
	if a := b.get("/accounts", "Sec-Fetch-Site", "same-origin"); a.status != http.StatusSeeOther {
		t.Errorf("again: %d", a.status)
	}
}

// TestNext leads to no other site.
func TestNext(t *testing.T) {
	t.Parallel()
	for next, want := range map[string]string{
		"/accounts?q=%E5%B0%8F&x=1#a": "/accounts?q=%E5%B0%8F&x=1#a", "https://example.com/": "/", "//example.com": "/", `/\example.com`: "/", "javascript:alert(1)": "/",
		"/login": "/", "": "/", "accounts": "/", "/%zz": "/",
	} {
		b := open(t, login.Config{}, usersOf(t, li(t))).browser()
		a := b.do(http.MethodPost, "/login", b.form("/login?next="+url.QueryEscape(next), "name", "li", "password", password, "next", next))
		if got := a.header.Get("Location"); a.status != http.StatusSeeOther || got != want {
			t.Errorf("%q: %d to %q, want %q", next, a.status, got, want)
		}
	}
}
