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

// How long a page, and a file, may take to be made.
const (
	loadWithin = 8 * time.Second // less than the server gives an answer
	fileWithin = 30 * time.Second
)

// Config is what a console works with.
type Config struct {
	NATS *nats.Conn // with the rights of a refresher
	// Components returns the appids that the refreshers act for; nil = those of the index.
	Components func() []string
	// Ready returns nil once the process does its work. The index is read from then on, so that it
	// holds up no start; nil = at once.
	Ready func(context.Context) error
	// Checks are those of --check; nil: the process makes none.
	Checks Checks
	Log    zerolog.Logger
	Now    func() time.Time // nil = time.Now
}

// Console is the operator's page.
type Console struct {
	cfg   Config
	js    jetstream.JetStream
	now   func() time.Time
	index *index
	looks map[lang.Language]look
	pages []Page
	calls callsCache

	following chan struct{} // holds one for each open stream of events
	ended     context.Context
	end       context.CancelFunc
}

// New returns a console. Its pages say that nothing is known until Run follows the buckets.
func New(cfg Config) (*Console, error) {
	js, err := jetstream.New(cfg.NATS)
	if err != nil {
		return nil, fmt.Errorf("set up JetStream: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Console{cfg: cfg, js: js, now: cfg.Now, index: newIndex(), following: make(chan struct{}, maxStreams)}
	c.ended, c.end = context.WithCancel(context.Background())
	c.pages = []Page{c.overviewPage(), c.accountsPage(), c.accountPage(), c.noticesPage(), c.pushesPage(), c.pushedPage(), c.deadLetterPage(), c.linksPage(), c.servicesPage(), c.checkPage(), c.runbookPage(), c.runbookEntryPage(), c.auditPage()}
	c.looks, err = parseLooks(c.pages)
	return c, err
}

// Open returns the page behind its login, and the parts that have to run for it. access lacks what
// the page itself gives: its connection, its log, its clock, and what of it needs no login.
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

// Run follows the buckets until ctx ends. Then it ends the streams of events, so that the server
// that carries them can end.
func (c *Console) Run(ctx context.Context) error {
	defer c.end()
	for c.cfg.Ready != nil && c.cfg.Ready(ctx) != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(readyPoll):
		}
	}
	var following sync.WaitGroup
	for _, b := range c.index.buckets() {
		following.Go(func() { c.follow(ctx, b) })
	}
	following.Wait()
	return nil
}

// readyPoll is the time between two looks whether the process does its work.
const readyPoll = 100 * time.Millisecond

// Handler returns the pages, which live at their paths, and what they load: "/console.css",
// "/console.js" and the stream of events "/events". Other paths are answered with 404. While NATS
// does not answer, pages are answered with status 503, and say what was known before.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, p := range c.pages {
		mux.Handle("GET "+p.Path, c.serve(p))
	}
	mux.HandleFunc("GET /events", c.stream)
	mux.HandleFunc("POST /act/{action}", c.act)
	mux.HandleFunc("POST /reveal", c.reveal)
	for _, a := range assets {
		mux.HandleFunc("GET "+a.path, a.serve)
	}
	return guarded(saying(mux))
}

// guarded adds the headers that keep a browser from doing anything but show what it is given.
func guarded(next http.Handler) http.Handler {
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

// cache keeps what is dear to ask for, and asks for it by one at a time.
type cache[T any] struct {
	mu    sync.Mutex
	value T
	err   error
	until time.Time
}

// get returns what is kept, or what ask returns, which is kept until good is over.
func (c *cache[T]) get(now time.Time, good time.Duration, ask func() (T, error)) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.until) {
		return c.value, c.err
	}
	c.value, c.err = ask()
	c.until = now.Add(good)
	return c.value, c.err
}
