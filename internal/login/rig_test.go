package login_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
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
	d.js = natsdtest.JetStream(t, d.nc)
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
		p := login.PersonOf(r.Context())
		_, _ = fmt.Fprintf(w, `%s is %s <input name="%s" value="%s">`, p.Name, p.Role, login.FormField, p.FormToken)
	})
	act := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.acted.Add(1)
		_, _ = fmt.Fprintf(w, "done for %s", login.PersonOf(r.Context()).Name)
	})
	mux.Handle("POST /act", allow(login.Operator, act))
	mux.Handle("POST /reveal", allow(login.Admin, act))
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

// allow lets a request through whose person has the role, or one above it, as the pages do.
func allow(role login.Role, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !login.PersonOf(r.Context()).Role.May(role) {
			http.Error(w, "your role may not do that", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
