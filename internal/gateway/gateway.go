package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/serve"
	"wxtoken/internal/services"
	"wxtoken/internal/settings"
)

const (
	// readWithin is how long one try to read the buckets may take.
	readWithin = 30 * time.Second
	// MaxConns is how many connections a gateway holds at once: streams of events stay open.
	MaxConns = 16 << 10
)

// Config is what an operator can set.
type Config struct {
	ServicesFile string `group:"Gateway" placeholder:"file" help:"JSON file with the services that may ask, their keys and rights. It is read again when it changes. Without it no service may."`
	TokenKeyFile string `group:"Gateway" placeholder:"file" help:"Keys that sign the gateway's tokens, one a line: the first signs, all are believed. The same for all gateways; gateway --make-token-key prints one."`
	RetryBody    int64  `group:"Gateway" default:"1048576" help:"Bytes of a call's body that are kept, so that it can be made again when WeChat refuses the token. Calls with more are handed on, and not made again."`
	SpoolDir     string `group:"Gateway" placeholder:"folder" help:"Where a body lies that comes without a length and is longer than --retry-body: it goes to WeChat when all of it is there. Default: the system's folder for temporary files."`
	MaxBody      int64  `group:"Gateway" default:"67108864" help:"Bytes that the body of a call may have."`
}

// Validate returns all that is wrong with the settings, joined.
func (c Config) Validate() error {
	var faults []error
	if c.RetryBody < 0 || c.RetryBody > 16<<20 {
		faults = append(faults, settings.Fault("retry-body", "%d: want 0 to 16777216", c.RetryBody))
	}
	if c.MaxBody < 1 {
		faults = append(faults, settings.Fault("max-body", "%d: want 1 or more", c.MaxBody))
	}
	return errors.Join(faults...)
}

// Signer reads the keys of --token-key-file.
func (c Config) Signer() (*Signer, error) {
	if c.TokenKeyFile == "" {
		return nil, settings.NewError(settings.Fault("token-key-file", "missing: want a file with a line that gateway --make-token-key prints"))
	}
	f, err := os.Open(c.TokenKeyFile)
	if err != nil {
		return nil, settings.NewError(settings.Fault("token-key-file", "%w", err))
	}
	defer func() { _ = f.Close() }()
	s, err := ReadSigner(f)
	if err != nil {
		return nil, settings.NewError(settings.Fault("token-key-file", "%w", err))
	}
	return s, nil
}

// Deps is what a Gateway needs.
type Deps struct {
	NATS     *nats.Conn
	Services *services.Watch
	Signer   *Signer
	WeChat   string // URL of WeChat's API
	Log      zerolog.Logger
	Metrics  prometheus.Registerer
	// Where those of the process are read; nil: what is served is not written down.
	Figures prometheus.Gatherer
	Now     func() time.Time
}

// Gateway is the door. Its Handler may be called before Run: it answers that NATS is away then.
type Gateway struct {
	cfg     Config
	d       Deps
	view    atomic.Pointer[wxtoken.Client]
	metrics *metrics
	tries   *serve.Tries // wrong keys
	users   *serve.Tries // calls of users with a token that WeChat does not know
	relay   *relay
	v1      http.Handler
	news    *news
	there   chan struct{} // closed when the view has been read

	serving    context.Context // ends when the server begins to end
	endStreams context.CancelFunc
}

// New returns a gateway. The error says what is wrong with the settings.
func New(cfg Config, d Deps) (*Gateway, error) {
	target, err := url.Parse(d.WeChat)
	if err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Host == "" {
		return nil, settings.NewError(settings.Fault("wechat-api-url", "want the URL of WeChat's API, such as https://api.weixin.qq.com"))
	}
	g := &Gateway{cfg: cfg, d: d, metrics: newMetrics(d.Metrics), news: newNews(), tries: serve.NewTries(wrongKeys, wrongKeys), users: serve.NewTries(wrongKeys, wrongKeys), there: make(chan struct{})}
	g.serving, g.endStreams = context.WithCancel(context.Background())
	g.relay = newRelay(g, target)
	g.v1 = g.newV1()
	return g, nil
}

// Run reads tokens and accounts, and follows them, until ctx ends: after the server, whose last
// requests still want them. It always returns nil.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.relay.close()
	for ctx.Err() == nil {
		within, cancel := context.WithTimeout(ctx, readWithin)
		client, err := wxtoken.NewClient(within, g.d.NATS, wxtoken.Config{Accounts: true, Now: g.d.Now})
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				g.d.Log.Warn().Err(err).Msg("failed to read tokens, trying again")
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		if g.view.Swap(client) == nil {
			close(g.there)
		}
		g.d.Log.Info().Int("tokens", client.Stats().Tokens).Msg("tokens read")
		g.news.follow(ctx, client)
		client.Close()
	}
	return nil
}

// EndStreams ends streams of events, and waits for tokens: for serve.OnShutdown.
func (g *Gateway) EndStreams() { g.endStreams() }

// Client returns the view of tokens and accounts once it has been read, for other doors of the
// process; nil if ctx ends before.
func (g *Gateway) Client(ctx context.Context) *wxtoken.Client {
	select {
	case <-g.there:
		return g.view.Load()
	case <-ctx.Done():
		return nil
	}
}

// Ref returns the ref of an account; ok is false while that can't be told.
func (g *Gateway) Ref(key wxtoken.Key) (ref string, ok bool) {
	client := g.view.Load()
	if client == nil {
		return "", false
	}
	status, err := client.Account(key)
	if err != nil || status.Authorizer == nil {
		return "", err == nil || errors.Is(err, wxtoken.ErrNoStatus)
	}
	return status.Authorizer.Ref, true
}

// Ready returns an error until tokens and accounts have been read, and while NATS is away.
func (g *Gateway) Ready(context.Context) error {
	switch client := g.view.Load(); {
	case client == nil:
		return errors.New("tokens have not been read yet")
	case !client.Live():
		return errors.New("cut off from NATS, going on with what is in memory")
	}
	return nil
}

// Handler returns the gateway's HTTP side.
func (g *Gateway) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if err := plainPath(r.URL); err != nil {
			if strings.HasPrefix(r.URL.Path, "/v1/") {
				problem(w, http.StatusNotFound, err.Error())
				return
			}
			g.refuse(w, http.StatusOK, codeInvalidURL, "%v", err)
			return
		}
		if client := g.view.Load(); client != nil && !client.Live() {
			w.Header().Set("Wxtoken-View", "cut off from NATS") // what is in memory goes on until it ends
		}
		switch {
		case r.URL.Path == "/":
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write([]byte("wxtoken gateway: docs/gateway.md says how to use it; GET /v1/openapi.json describes /v1\n"))
		case strings.HasPrefix(r.URL.Path, "/v1/"):
			g.v1.ServeHTTP(w, r)
		default:
			if answer := compatible[r.URL.Path]; answer != nil {
				answer(g, w, r)
				return
			}
			g.relay.ServeHTTP(w, r)
		}
	})
}

// plainPath returns an error for a path that WeChat could read in another way than we do.
func plainPath(u *url.URL) error {
	switch clean := path.Clean(u.Path); {
	case u.Host != "" || u.Scheme != "" || u.Opaque != "":
		return errors.New("invalid url: want a path of this host alone")
	case !strings.HasPrefix(u.Path, "/"), u.Path != clean && u.Path != clean+"/":
		return errors.New("invalid url: no //, . or .. in a path")
	case u.EscapedPath() != u.Path || strings.ContainsAny(u.Path, `\;`):
		return errors.New("invalid url: no escaped characters in a path")
	}
	return nil
}

// errAway is the error of everything that needs the view while there is none.
var errAway = errors.New("tokens have not been read from NATS yet")
