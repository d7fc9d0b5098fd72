package login_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"wxtoken/internal/events"
	"wxtoken/internal/login"
	"wxtoken/internal/looktest"
)

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
	b.get("/login", "Cookie", login.LanguageCookie+"=en").want(t, "the form for who chose English", http.StatusOK, `<html lang="en">`)
}

// TestInvalidSessions tries sessions that were not given, or have ended.
func TestInvalidSessions(t *testing.T) {
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
		looktest.Until(t, what, func() bool { return is(d.browser().get("/", "Cookie", "wxtoken_session="+good)) })
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

// TestForgedForms sends forms that are not of the page.
func TestForgedForms(t *testing.T) {
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

// TestLoginLimit bounds how often one address may try.
func TestLoginLimit(t *testing.T) {
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
	a.want(t, "the sixth, though it is right", http.StatusTooManyRequests, "too many attempts")
	if a.header.Get("Retry-After") == "" {
		t.Error("it does not say when")
	}
	try("198.51.100.1, 203.0.113.9", password).want(t, "with another address made up before the proxy's", http.StatusTooManyRequests, "")
	b.get("/", "X-Forwarded-For", "203.0.113.9", "Accept", "text/plain", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("li:"+password))).
		want(t, "by Basic", http.StatusTooManyRequests, "too many attempts")
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

// TestBasicAuth have name and password in each request.
func TestBasicAuth(t *testing.T) {
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
	looktest.Until(t, "the old password is still taken", func() bool { return b.get("/", basic("li", password)...).status != http.StatusOK })
}

// TestLinkFromOtherSite is opened from another site: the browser keeps the session back, but not when the page loads itself again.
func TestLinkFromOtherSite(t *testing.T) {
	t.Parallel()
	b := open(t, login.Config{}, usersOf(t, li(t))).browser()
	b.get("/accounts", "Sec-Fetch-Site", "cross-site").want(t, "from another site", http.StatusOK, `http-equiv="refresh"`)
	if a := b.get("/accounts", "Sec-Fetch-Site", "same-origin"); a.status != http.StatusSeeOther {
		t.Errorf("again: %d", a.status)
	}
}

// TestRedirectAfterLogin leads to no other site.
func TestRedirectAfterLogin(t *testing.T) {
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
