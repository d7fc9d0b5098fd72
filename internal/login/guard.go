package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"wxtoken/internal/lang"
	"wxtoken/internal/serve"
	"wxtoken/internal/settings"
)

const (
	// maxForm bounds the body of a request, in bytes.
	maxForm = 64 << 10
	// hashesAtOnce bounds the passwords that are being looked at: each takes a core for a while.
	hashesAtOnce = 2
	// How many passwords one address may try: a few at once, and then one each ten seconds. Each
	// counts before it is looked at, so that a crowd at once tries no more than one after the
	// other.
	triesEvery = 10 * time.Second
	triesBurst = 5
	// How many refused tries leave a record, from all addresses together: JOURNAL drops its oldest
	// records for new ones.
	recordsEvery = 10 * time.Second
	recordsBurst = 20
	// requestLife bounds a request, so that one that goes on and on is looked at anew: its person
	// may have been taken out of the file.
	requestLife = 5 * time.Minute
)

// Deps is what a Guard works with.
type Deps struct {
	NATS    *nats.Conn     // for the record of who logged in
	Trusted []netip.Prefix // proxies, whose word is believed on where a request comes from
	Public  []string       // paths that anybody may GET: what the login page needs
	Log     zerolog.Logger
	Metrics prometheus.Registerer
	Now     func() time.Time
}

// Guard stands before the operator's page.
type Guard struct {
	cfg     Config
	deps    Deps
	js      jetstream.JetStream
	namers  serve.Proxies          // whose word is believed on who it is
	proxies serve.Proxies          // and whose on where a request comes from, these among them
	file    *settings.File[*users] // nil: there is none
	origin  http.CrossOriginProtection
	tries   *serve.Tries  // of passwords
	records *rate.Limiter // of refused tries, in the record of what was done
	hashing chan struct{}
	logins  *prometheus.CounterVec

	mu sync.Mutex
	// Digest of a name and a password that were right, and the hash that they were right for.
	seen map[[sha256.Size]byte]string
	salt []byte // in those digests
}

// New returns the guard. It returns an error for a users file that can't be read.
func New(cfg Config, deps Deps) (*Guard, error) {
	namers, err := cfg.proxies()
	if err != nil {
		return nil, settings.NewError(err)
	}
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return nil, fmt.Errorf("set up JetStream: %w", err)
	}
	g := &Guard{
		cfg: cfg, deps: deps, js: js, namers: namers, proxies: append(deps.Trusted, namers...), tries: serve.NewTries(rate.Every(triesEvery), triesBurst), records: rate.NewLimiter(rate.Every(recordsEvery), recordsBurst), hashing: make(chan struct{}, hashesAtOnce),
		seen: map[[sha256.Size]byte]string{}, salt: randomBytes(minSecret),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_console_logins_total", Help: "Tries to log in to the operator's page, by result.",
		}, []string{"result"}),
	}
	for _, result := range []string{resultDone, resultRefused, resultLimited} {
		g.logins.WithLabelValues(result)
	}
	if err := deps.Metrics.Register(g.logins); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if cfg.UsersFile != "" {
		if g.file, err = settings.OpenFile("users file", cfg.UsersFile, parseUsers, deps.Log); err != nil {
			return nil, settings.NewError(settings.Fault("console-users-file", "%w", err))
		}
	}
	return g, nil
}

// Run follows the users file until ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	if g.file == nil {
		<-ctx.Done()
		return nil
	}
	return g.file.Run(ctx)
}

func (g *Guard) users() *users {
	if g.file == nil {
		return &users{}
	}
	return g.file.Now()
}

// refusal is why a request gets no page.
type refusal struct {
	status int
	login  bool // a login would help
	text   lang.Text
}

// Handler lets those through to next who may use the page; next finds the person with PersonOf. It
// answers /login and /logout itself.
func (g *Guard) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if safe(r) && slices.Contains(g.deps.Public, r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		if err := g.origin.Check(r); err != nil {
			g.refuse(w, r, refusal{status: http.StatusForbidden, text: lang.T("the request comes from another site", "请求来自其他网站")})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		form := cookie(r, formCookie)
		switch r.URL.Path {
		case "/login":
			g.login(w, r, form)
			return
		case "/logout":
			g.logout(w, r, form)
			return
		}
		p, known, no := g.who(r)
		if no != nil {
			g.refuse(w, r, *no)
			return
		}
		if !safe(r) && known != byPassword && !g.formFits(r, form) {
			g.refuse(w, r, badForm)
			return
		}
		if form == "" && safe(r) && isBrowser(r) {
			form = rand.Text()
			setCookie(w, formCookie, form, g.secure(r), sessionLife)
		}
		p.FormToken = formToken(r, form)
		ctx, cancel := context.WithTimeout(WithPerson(r.Context(), p), requestLife)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

var badForm = refusal{status: http.StatusForbidden, text: lang.T("the form is of another session: load the page again", "表单属于另一个会话，请重新打开页面")}

// How a person is known.
type knownBy int

const (
	byPlace    knownBy = iota // is on this machine
	byProxy                   // the proxy says so
	bySession                 // a cookie
	byPassword                // in the request itself, as programs send it
)

// who tells whose request that is.
func (g *Guard) who(r *http.Request) (Person, knownBy, *refusal) {
	users := g.users()
	remote := serve.AddrOf(r.RemoteAddr)
	if g.cfg.UserHeader != "" && g.namers.Trusts(remote) {
		if names := r.Header.Values(g.cfg.UserHeader); len(names) > 0 {
			p, no := g.named(r, names, users)
			return p, byProxy, no
		}
	}
	if value := cookie(r, sessionCookie); value != "" {
		if of, ok := users.holder(value, g.deps.Now()); ok {
			return Person{Name: of.Name, Role: of.Role, CanLogOut: true}, bySession, nil
		}
	}
	if name, password, ok := r.BasicAuth(); ok && users.passwords() {
		of, no := g.tryBasic(r, name, password)
		if no != nil {
			return Person{}, 0, no
		}
		return Person{Name: of.Name, Role: of.Role}, byPassword, nil
	}
	switch {
	case users.passwords():
		return Person{}, 0, &refusal{http.StatusUnauthorized, true, lang.T("log in (for programs: name and password as HTTP Basic)", "请登录（程序可用 HTTP Basic 携带用户名和密码）")}
	case g.cfg.UserHeader != "" || g.file != nil:
		return Person{}, 0, &refusal{status: http.StatusForbidden, text: lang.T("no name came with the request: the page is behind a proxy that asks for it", "请求中没有用户名：本页面须经由负责登录的代理访问")}
	}
	if why := notLocal(r, remote); !why.IsZero() {
		return Person{}, 0, &refusal{status: http.StatusForbidden, text: lang.T("%s; no login is set up yet, and until then the page is for this machine alone: set %s, or %s with %s",
			"%s；尚未设置登录，此时本页面只允许本机访问：请设置 %s，或 %s 和 %s",
			why, settings.Name("console-users-file"), settings.Name("console-user-header"), settings.Name("console-proxies"))}
	}
	return Person{Name: Local, Role: Admin}, byPlace, nil
}

// named returns the person whom the proxy names.
func (g *Guard) named(r *http.Request, names []string, users *users) (Person, *refusal) {
	no := func(text lang.Text) (Person, *refusal) {
		return Person{}, &refusal{status: http.StatusForbidden, text: text}
	}
	if len(names) != 1 || !validName(names[0]) {
		return no(lang.T("the proxy's header %s is not the name of one person", "代理的请求头 %s 不是一个用户名", g.cfg.UserHeader))
	}
	p := Person{Name: names[0], Role: Reader}
	if g.cfg.RoleHeader == "" {
		if of, ok := users.byName(p.Name); ok {
			p.Role = of.Role
		}
		return p, nil
	}
	p.Role = ""
	for _, value := range r.Header.Values(g.cfg.RoleHeader) {
		for word := range strings.SplitSeq(value, ",") {
			if role := Role(strings.TrimSpace(word)); role.May(Reader) && !p.Role.May(role) {
				p.Role = role
			}
		}
	}
	if p.Role == "" {
		return no(lang.T("the proxy's header %s names no role: want reader, operator or admin", "代理的请求头 %s 没有给出角色：应为 reader、operator 或 admin", g.cfg.RoleHeader))
	}
	return p, nil
}

// notLocal says why a request is not one of this machine's own; no text: it is. A browser on this
// machine may have been led here by a page that calls its own host by our address; then Host is not
// ours.
func notLocal(r *http.Request, remote netip.Addr) lang.Text {
	host := r.Host
	if h, _, ok := strings.Cut(host, "]"); ok { // [::1]:8081
		host = strings.TrimPrefix(h, "[")
	} else {
		host, _, _ = strings.Cut(host, ":")
	}
	named, err := netip.ParseAddr(host)
	switch {
	case !remote.IsLoopback():
		return lang.T("this request comes from another machine", "请求来自其他机器")
	case host != "localhost" && (err != nil || !named.IsLoopback()):
		return lang.T("this request is for another host", "请求的主机名不是本机")
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if r.Header.Get(name) != "" {
			return lang.T("this request came through a proxy", "请求经由代理转发")
		}
	}
	return lang.Text{}
}

// client returns the address that a request comes from.
func (g *Guard) client(r *http.Request) netip.Addr { return g.proxies.Client(r) }

// secure reports whether the browser speaks TLS, with this process or with the proxy.
func (g *Guard) secure(r *http.Request) bool {
	return r.TLS != nil || g.proxies.Trusts(serve.AddrOf(r.RemoteAddr)) && r.Header.Get("X-Forwarded-Proto") == "https"
}

// formFits reports whether a form is of the browser that sends it.
func (g *Guard) formFits(r *http.Request, form string) bool {
	return form != "" && subtle.ConstantTimeCompare([]byte(r.PostFormValue(FormField)), []byte(formToken(r, form))) == 1
}

func safe(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead
}

func isBrowser(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }
