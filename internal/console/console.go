package console

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/internal/lang"
	"wxtoken/internal/login"
)

// How long a page, and a CSV file, may take.
const (
	pageTimeout = 8 * time.Second // less than the server's write timeout
	csvTimeout  = 30 * time.Second
)

// Config is what a console works with.
type Config struct {
	NATS *nats.Conn // with the rights of a refresher
	// Ready returns nil once the process does its work. The index is read only then, so that it
	// does not slow the start; nil: read it at once.
	Ready func(context.Context) error
	// Checks runs those of --check; nil: this process has none.
	Checks Checks
	Log    zerolog.Logger
	Now    func() time.Time // nil = time.Now
}

// Console is the operator's page.
type Console struct {
	cfg       Config
	js        jetstream.JetStream
	now       func() time.Time
	index     *index
	templates map[lang.Language]templateSet
	pages     []Page
	calls     callsCache

	streams chan struct{} // holds one element per open stream of events
	running context.Context
	stop    context.CancelFunc
}

// New returns a console. Until Run follows the buckets, its pages say that nothing is known.
func New(cfg Config) (*Console, error) {
	js, err := jetstream.New(cfg.NATS)
	if err != nil {
		return nil, fmt.Errorf("set up JetStream: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Console{cfg: cfg, js: js, now: cfg.Now, index: newIndex(), streams: make(chan struct{}, maxStreams)}
	c.running, c.stop = context.WithCancel(context.Background())
	c.pages = []Page{
		c.overviewPage(), c.accountsPage(), c.accountPage(), c.noticesPage(), c.pushesPage(), c.pushedPage(), c.deadLetterPage(),
		c.linksPage(), c.servicesPage(), c.checkPage(), c.runbookPage(), c.runbookEntryPage(), c.auditPage(),
	}
	c.templates, err = parseTemplates(c.pages)
	return c, err
}

// Open returns the page behind its login, and the parts that have to run for it. The fields of access
// that the page knows itself are set here: connection, log, clock, and the paths that need no login.
func Open(cfg Config, users login.Config, access login.Deps) (page http.Handler, parts []func(context.Context) error, err error) {
	c, err := New(cfg)
	if err != nil {
		return nil, nil, err
	}
	access.NATS, access.Log, access.Now, access.Public = cfg.NATS, cfg.Log, c.cfg.Now, Public
	guard, err := login.New(users, access)
	if err != nil {
		return nil, nil, err
	}
	return guard.Handler(c.Handler()), []func(context.Context) error{guard.Run, c.Run}, nil
}

// Run follows the buckets until ctx ends. Then it ends the streams of events: the server waits for
// them when it shuts down.
func (c *Console) Run(ctx context.Context) error {
	defer c.stop()
	for c.cfg.Ready != nil && c.cfg.Ready(ctx) != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(readyPoll):
		}
	}
	var followers sync.WaitGroup
	for _, b := range c.index.sources() {
		followers.Go(func() { c.follow(ctx, b) })
	}
	followers.Wait()
	return nil
}

// readyPoll is how often Run asks whether the process is ready.
const readyPoll = 100 * time.Millisecond

// Handler serves the pages at their paths, and what they load: "/console.css", "/console.js" and
// the stream of events "/events". Other paths get 404. While NATS does not answer, pages have status
// 503 and show what was known before.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, p := range c.pages {
		mux.Handle("GET "+p.Path, c.serve(p))
	}
	mux.HandleFunc("GET /", c.nowhere)
	mux.HandleFunc("GET /events", c.stream)
	mux.HandleFunc("POST /act/{action}", c.act)
	mux.HandleFunc("POST /reveal", c.reveal)
	for _, a := range assets {
		mux.HandleFunc("GET "+a.path, a.serve)
	}
	return withSecurityHeaders(withResult(mux))
}

// withSecurityHeaders adds the headers that keep a browser from doing more than show the page.
func withSecurityHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// cache keeps the answer to an expensive question. One caller asks at a time; the others wait for
// the answer.
type cache[T any] struct {
	mu    sync.Mutex
	value T
	err   error
	until time.Time
}

// get returns the kept answer, or asks and keeps the new one for maxAge.
func (c *cache[T]) get(now time.Time, maxAge time.Duration, ask func() (T, error)) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.until) && c.until.Sub(now) <= maxAge { // further ahead, it is of a clock that went back since
		return c.value, c.err
	}
	c.value, c.err = ask()
	c.until = now.Add(maxAge)
	return c.value, c.err
}
