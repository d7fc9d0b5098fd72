package login_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/internal/login"
	"wxtoken/internal/natsd/natsdtest"
)

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

// TestOtherMachine asks from another machine.
func TestOtherMachine(t *testing.T) {
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
