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
	// readTimeout bounds one attempt to read the buckets.
	readTimeout = 30 * time.Second
	// MaxConns is how many connections a gateway holds: each stream of events keeps one open.
	MaxConns = 16 << 10
)

// Config is what an operator can set.
type Config struct {
	ServicesFile string `group:"Gateway" placeholder:"file" help:"JSON file with the services that may use the gateway, their keys and rights. It is read again when it changes. Without it no service is served."`
	TokenKeyFile string `group:"Gateway" placeholder:"file" help:"File with the keys that sign the gateway's tokens, one per line: the first signs new tokens, all are accepted. All gateways need the same keys; gateway --make-token-key prints one."`
	RetryBody    int64  `group:"Gateway" default:"1048576" help:"Largest body of a call, in bytes, that is kept in memory so that the call can be repeated when WeChat refuses the token. Calls with larger bodies are relayed once."`
	SpoolDir     string `group:"Gateway" placeholder:"folder" help:"Folder for bodies that come without a length and are longer than --retry-body: each is stored until it is complete, and then sent to WeChat. Default: the system's folder for temporary files."`
	MaxBody      int64  `group:"Gateway" default:"67108864" help:"Largest body of a call, in bytes."`
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
	Figures  prometheus.Gatherer // where the metrics of the process are gathered, for RecordServed
	Now      func() time.Time
}

// Gateway is the gateway. Its Handler may be called before Run has read the tokens: it refuses then.
type Gateway struct {
	cfg      Config
	d        Deps
	view     atomic.Pointer[wxtoken.Client]
	metrics  *metrics
	tries    *serve.Tries // wrong keys
	users    *serve.Tries // calls with a user's token that WeChat does not know
	relay    *relay
	v1       http.Handler
	changes  *changeLog
	viewRead chan struct{} // closed when the view has been read

	serving    context.Context // ends when the server begins to shut down
	endStreams context.CancelFunc
}

// New returns a gateway. The error says what is wrong with the settings.
func New(cfg Config, d Deps) (*Gateway, error) {
	target, err := url.Parse(d.WeChat)
	if err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Host == "" {
		return nil, settings.NewError(settings.Fault("wechat-api-url", "want the URL of WeChat's API, such as https://api.weixin.qq.com"))
	}
	g := &Gateway{
		cfg: cfg, d: d, metrics: newMetrics(d.Metrics), changes: newChangeLog(), viewRead: make(chan struct{}),
		tries: serve.NewTries(wrongKeys, wrongKeys), users: serve.NewTries(wrongKeys, wrongKeys),
	}
	g.serving, g.endStreams = context.WithCancel(context.Background())
	g.relay = newRelay(g, target)
	g.v1 = g.newV1()
	return g, nil
}

// Run reads tokens and accounts, and follows them, until ctx ends. Let it end after the server, whose
// last requests still need them. It always returns nil.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.relay.close()
	for ctx.Err() == nil {
		within, cancel := context.WithTimeout(ctx, readTimeout)
		client, err := wxtoken.NewClient(within, g.d.NATS, wxtoken.Config{Accounts: true, Now: g.d.Now})
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				g.d.Log.Warn().Err(err).Msg("failed to read tokens")
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		if g.view.Swap(client) == nil {
			close(g.viewRead)
		}
		g.d.Log.Info().Int("tokens", client.Stats().Tokens).Msg("tokens read")
		g.changes.follow(ctx, client)
		client.Close()
	}
	return nil
}

// EndStreams ends streams of events and waits for tokens, for serve.OnShutdown.
func (g *Gateway) EndStreams() { g.endStreams() }

// Client waits until tokens and accounts have been read, and returns the view of them, for other parts
// of the process; nil if ctx ends before.
func (g *Gateway) Client(ctx context.Context) *wxtoken.Client {
	select {
	case <-g.viewRead:
		return g.view.Load()
	case <-ctx.Done():
		return nil
	}
}

// Ref returns the ref of an account; ok is false while that is unknown.
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

// Ready returns an error until tokens and accounts have been read, and while the view is cut off from
// NATS.
func (g *Gateway) Ready(context.Context) error {
	switch client := g.view.Load(); {
	case client == nil:
		return errors.New("tokens have not been read yet")
	case !client.Live():
		return errors.New("cut off from NATS, serving what is in memory")
	}
	return nil
}

// Handler returns the handler of all paths of the gateway.
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
			w.Header().Set("Wxtoken-View", "cut off from NATS") // tokens in memory are served until they expire
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

// plainPath returns an error for a path that WeChat might read differently than the gateway does.
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

// errAway is the error of what needs the view before it has been read.
var errAway = errors.New("tokens have not been read from NATS yet")
