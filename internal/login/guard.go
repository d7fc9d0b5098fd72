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
	// hashesAtOnce bounds the passwords that are being checked: each check takes a core for 0.2 s.
	hashesAtOnce = 2
	// How many passwords one address may try: a few at once, and then one per ten seconds. An attempt
	// counts before it is checked, so that parallel attempts get no further than serial ones.
	triesEvery = 10 * time.Second
	triesBurst = 5
	// How many refused attempts leave a record, from all addresses together: a full JOURNAL drops its
	// oldest records.
	recordsEvery = 10 * time.Second
	recordsBurst = 20
	// requestLife bounds a request, such as a stream of events. The next one is checked anew: the
	// person may have been removed from the file.
	requestLife = 5 * time.Minute
)

// Deps is what a Guard works with.
type Deps struct {
	NATS    *nats.Conn     // for the records of logins
	Trusted []netip.Prefix // proxies in front of the page: the client address that they name counts
	Public  []string       // paths that need no login: what the login page loads
	Log     zerolog.Logger
	Metrics prometheus.Registerer
	Now     func() time.Time
}

// Guard lets people with a login through to the operator's page.
type Guard struct {
	cfg         Config
	deps        Deps
	js          jetstream.JetStream
	nameProxies serve.Proxies          // the person that they name counts
	proxies     serve.Proxies          // the client address that they name counts; includes nameProxies
	file        *settings.File[*users] // nil: no users file
	origin      http.CrossOriginProtection
	tries       *serve.Tries  // of passwords
	records     *rate.Limiter // of records of refused attempts
	hashSlots   chan struct{}
	logins      *prometheus.CounterVec

	mu sync.Mutex
	// Digests of a name and its right password, with the hash that the password matched.
	rightPairs map[[sha256.Size]byte]string
	salt       []byte // of those digests
}

// New returns a guard. The error says what is wrong with the users file.
func New(cfg Config, deps Deps) (*Guard, error) {
	nameProxies, err := cfg.proxies()
	if err != nil {
		return nil, settings.NewError(err)
	}
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return nil, fmt.Errorf("set up JetStream: %w", err)
	}
	g := &Guard{
		cfg: cfg, deps: deps, js: js, nameProxies: nameProxies, proxies: append(deps.Trusted, nameProxies...),
		tries: serve.NewTries(rate.Every(triesEvery), triesBurst), records: rate.NewLimiter(rate.Every(recordsEvery), recordsBurst),
		hashSlots:  make(chan struct{}, hashesAtOnce),
		rightPairs: map[[sha256.Size]byte]string{}, salt: randomBytes(minSecret),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_console_logins_total", Help: "Login attempts on the operator's page, by result.",
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

// Handler passes the requests of people who may use the page to next, which finds the person with PersonOf.
// It answers /login and /logout itself.
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
		p, known, no := g.identify(r)
		if no != nil {
			g.refuse(w, r, *no)
			return
		}
		if !safe(r) && known != byPassword && !g.formValid(r, form) {
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

var badForm = refusal{status: http.StatusForbidden, text: lang.T("the form belongs to another session: load the page again", "表单属于另一个会话，请重新打开页面")}

// How a person was identified.
type knownBy int

const (
	byMachine  knownBy = iota // no login is set up, and the request comes from this machine
	byProxy                   // by the header of a proxy
	bySession                 // by the session cookie
	byPassword                // by HTTP Basic, as programs send it
)

// identify returns the person of a request and how that is known, or a refusal.
func (g *Guard) identify(r *http.Request) (Person, knownBy, *refusal) {
	users := g.users()
	remote := serve.AddrOf(r.RemoteAddr)
	if g.cfg.UserHeader != "" && g.nameProxies.Trusts(remote) {
		if names := r.Header.Values(g.cfg.UserHeader); len(names) > 0 {
			p, no := g.proxyPerson(r, names, users)
			return p, byProxy, no
		}
	}
	if value := cookie(r, sessionCookie); value != "" {
		if of, ok := users.holder(value, g.deps.Now()); ok {
			return Person{Name: of.Name, Role: of.Role, CanLogOut: true}, bySession, nil
		}
	}
	if name, password, ok := r.BasicAuth(); ok && users.passwords() {
		of, no := g.checkBasic(r, name, password)
		if no != nil {
			return Person{}, 0, no
		}
		return Person{Name: of.Name, Role: of.Role}, byPassword, nil
	}
	switch {
	case users.passwords():
		return Person{}, 0, &refusal{http.StatusUnauthorized, true, lang.T("log in (for programs: name and password as HTTP Basic)", "请登录（程序可用 HTTP Basic 携带用户名和密码）")}
	case g.cfg.UserHeader != "" || g.file != nil:
		return Person{}, 0, &refusal{status: http.StatusForbidden, text: lang.T("no name came with the request: use the page through the proxy that logs you in", "请求中没有用户名：本页面须经由负责登录的代理访问")}
	}
	if why := notLocal(r, remote); !why.IsZero() {
		return Person{}, 0, &refusal{status: http.StatusForbidden, text: lang.T("%s; no login is set up, so only this machine can use the page: set %s, or %s with %s",
			"%s；尚未设置登录，此时本页面只允许本机访问：请设置 %s，或 %s 和 %s",
			why, settings.Name("console-users-file"), settings.Name("console-user-header"), settings.Name("console-proxies"))}
	}
	return Person{Name: Local, Role: Admin}, byMachine, nil
}

// proxyPerson returns the person whom the proxy names.
func (g *Guard) proxyPerson(r *http.Request, names []string, users *users) (Person, *refusal) {
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
		return no(lang.T("the proxy's header %s names no role (want reader, operator or admin)", "代理的请求头 %s 没有给出角色：应为 reader、operator 或 admin", g.cfg.RoleHeader))
	}
	return p, nil
}

// notLocal says why a request does not count as one from this machine; a zero text: it does. Host must be
// local, too: a foreign page whose host name resolves to our address could make a browser on this machine
// send requests (DNS rebinding).
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

// secure reports whether the browser uses TLS, to this process or to the proxy.
func (g *Guard) secure(r *http.Request) bool {
	return r.TLS != nil || g.proxies.Trusts(serve.AddrOf(r.RemoteAddr)) && r.Header.Get("X-Forwarded-Proto") == "https"
}

// formValid reports whether a form belongs to the browser that sends it.
func (g *Guard) formValid(r *http.Request, form string) bool {
	return form != "" && subtle.ConstantTimeCompare([]byte(r.PostFormValue(FormField)), []byte(formToken(r, form))) == 1
}

func safe(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead
}

func isBrowser(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }
