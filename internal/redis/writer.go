package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	jitter "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/services"
)

const (
	// lookEvery is the time between two checks whether Redis was emptied, passEvery that between
	// two passes over all keys.
	lookEvery = time.Second
	passEvery = time.Minute
	// filledLife is the life of the key in Redis that says that this process has filled it.
	filledLife = 10 * passEvery
	// The wait between two tries to reach Redis, less a random part.
	retryMin, retryMax = 100 * time.Millisecond, 5 * time.Second
)

// Writer keeps the keys of a Redis filled.
type Writer struct {
	client   *wxtoken.Client
	services *services.Watch
	server   server
	formats  []format
	log      zerolog.Logger
	now      func() time.Time
	metrics  *metrics

	filled    string // key in Redis that says that it is filled; if it is gone, Redis was emptied
	lookEvery time.Duration
	passEvery time.Duration

	mu    sync.Mutex
	dirty map[wxtoken.Key]struct{} // tokens to write or remove
	wake  chan struct{}            // capacity 1: something is dirty

	// Used by Run alone.
	known  map[wxtoken.Key]struct{} // tokens that the client ever reported
	held   map[wxtoken.Key]held     // tokens that are in Redis, as far as this process knows
	keys   int                      // under how many keys in Redis they are
	logged map[string]string        // by key in Redis: the odd outcome that was logged last
	fault  string                   // the fault that was logged last
}

// held is a token that is in Redis.
type held struct {
	version version
	expires time.Time
	keys    int // under how many keys
}

// New returns a writer for the Redis in cfg, which must be set. The client must follow all tokens,
// and accounts (Config.Accounts). now is the clock for the rest of a token's life. New registers
// the metrics.
func New(cfg Config, client *wxtoken.Client, watch *services.Watch, log zerolog.Logger, registry prometheus.Registerer, now func() time.Time) (*Writer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	server, err := parseServer(cfg.RedisURL)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	formats, err := parseFormats(cfg.RedisFormat)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	if _, err := client.Find(""); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return &Writer{
		client: client, services: watch, server: server, formats: formats, log: log, now: now, metrics: newMetrics(registry),
		filled: markPrefix + "filled:" + rand.Text(), lookEvery: lookEvery, passEvery: passEvery,
		dirty: map[wxtoken.Key]struct{}{}, wake: make(chan struct{}, 1),
		known: map[wxtoken.Key]struct{}{}, held: map[wxtoken.Key]held{}, logged: map[string]string{},
	}, nil
}

// Fill waits for the client and runs a writer until ctx ends. Without a URL it only waits for ctx.
func Fill(ctx context.Context, cfg Config, client func(context.Context) *wxtoken.Client, watch *services.Watch, log zerolog.Logger, registry prometheus.Registerer, now func() time.Time) error {
	if cfg.RedisURL.IsZero() {
		<-ctx.Done()
		return nil
	}
	read := client(ctx)
	if read == nil {
		return nil
	}
	w, err := New(cfg, read, watch, log, registry, now)
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// Run keeps Redis filled until ctx ends, and then returns nil. Tokens in Redis stay there until
// they expire. While Redis is away Run keeps trying to connect, and fills it when it is back.
func (w *Writer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() {
		for token, _ := range w.client.Updates(ctx) { // also keys without a usable token: they may have to be removed
			w.markDirty(token.Key)
		}
	})
	following.Go(func() { w.followRefs(ctx) })
	defer w.metrics.connected.Set(0)
	for delay := retryMin; ctx.Err() == nil; delay = min(2*delay, retryMax) {
		filled, err := w.session(ctx)
		w.metrics.connected.Set(0)
		if ctx.Err() != nil {
			break
		}
		if filled {
			delay = retryMin
		}
		w.logFault(err)
		select {
		case <-ctx.Done():
		case <-time.After(delay - jitter.N(delay/2)):
		}
	}
	return nil
}

// logFault logs a fault of Redis's, only once while it stays the same.
func (w *Writer) logFault(err error) {
	w.metrics.writes.WithLabelValues(outcomeFailed).Inc()
	if text := err.Error(); text != w.fault {
		w.fault = text
		w.log.Warn().Str("redis", w.server.String()).Str("error", text).
			Str("hint", "it is tried again; SDKs that find no token may renew by themselves: docs/redis.md").
			Msg("failed to keep redis filled")
	}
}

// followRefs marks the tokens of an account for a check when its ref has changed: another service
// may have it now.
func (w *Writer) followRefs(ctx context.Context) {
	refs := map[wxtoken.Key]string{}
	for status := range w.client.StatusUpdates(ctx) {
		ref := ""
		if status.Authorizer != nil {
			ref = status.Authorizer.Ref
		}
		if refs[status.Key] == ref {
			continue
		}
		refs[status.Key] = ref
		component, appid := status.Key.Component, status.Key.Authorizer
		w.markDirty(status.Key, wxtoken.JSAPITicketKey(component, appid), wxtoken.WxCardTicketKey(component, appid))
	}
}

// markDirty marks keys for a check and wakes Run.
func (w *Writer) markDirty(keys ...wxtoken.Key) {
	w.mu.Lock()
	for _, key := range keys {
		w.dirty[key] = struct{}{}
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns the marked keys, and adds them to the known ones.
func (w *Writer) take() []wxtoken.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := slices.Collect(maps.Keys(w.dirty))
	clear(w.dirty)
	for _, key := range keys {
		w.known[key] = struct{}{}
	}
	return keys
}

// session keeps Redis filled over one connection until its first fault. filled reports whether
// Redis was filled at least once.
func (w *Writer) session(ctx context.Context) (filled bool, err error) {
	conn, err := w.server.dial(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	changed := w.services.Changed()
	if err := w.fill(conn); err != nil {
		return false, err
	}
	if err := w.sweep(conn); err != nil {
		return false, fmt.Errorf("remove stray keys: %w", err)
	}
	w.metrics.connected.Set(1)
	w.fault = ""
	w.log.Info().Str("redis", w.server.String()).Int("keys", w.keys).Msg("redis filled")
	look, pass := time.NewTicker(w.lookEvery), time.NewTicker(w.passEvery)
	defer look.Stop()
	defer pass.Stop()
	for {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case <-w.wake:
			err = w.write(conn, w.take(), false)
		case <-changed:
			changed = w.services.Changed() // before the services are read
			err = w.fill(conn)
		case <-look.C:
			err = w.refill(conn)
		case <-pass.C:
			err = w.fill(conn)
		}
		if err != nil {
			return true, err
		}
	}
}

// refill fills Redis if it was emptied: the key that the last fill left is gone.
func (w *Writer) refill(conn *connection) error {
	answers, err := conn.pipeline([]command{{name: "EXISTS", args: []any{w.filled}}})
	if err != nil {
		return fmt.Errorf("check whether it was emptied: %w", err)
	}
	if answers[0] == int64(1) {
		return nil
	}
	w.log.Warn().Str("redis", w.server.String()).Msg("redis was emptied")
	return w.fill(conn)
}

// fill checks all keys, writes those that are missing or old, and sets the key that says so.
func (w *Writer) fill(conn *connection) error {
	w.take()
	if err := w.write(conn, slices.Collect(maps.Keys(w.known)), true); err != nil {
		return err
	}
	_, err := conn.pipeline([]command{{name: "SET", args: []any{w.filled, "1", "PX", filledLife.Milliseconds()}}})
	return err
}

// readers returns the services whose accounts' tokens belong in Redis.
func (w *Writer) readers() []*services.Service {
	return slices.DeleteFunc(w.services.Now().All(), func(s *services.Service) bool { return !s.May(services.RightReal) })
}

// shared reports whether a token belongs in Redis: it is of an account whose service may have it.
func (w *Writer) shared(readers []*services.Service, key wxtoken.Key) bool {
	ref := ""
	if key.Kind != wxtoken.KindComponent {
		status, err := w.client.Account(wxtoken.AuthorizerKey(key.Component, key.Authorizer))
		if errors.Is(err, wxtoken.ErrClosed) {
			return true // the process is ending: accounts are unknown now, and nothing must be removed
		}
		if err == nil && status.Authorizer != nil {
			ref = status.Authorizer.Ref
		}
	}
	return slices.ContainsFunc(readers, func(s *services.Service) bool { return s.Knows(key, ref) })
}

// revoked reports whether the authorization behind a key is known to be cancelled.
func (w *Writer) revoked(key wxtoken.Key) bool {
	_, err := w.client.Token(key)
	return errors.Is(err, wxtoken.ErrRevoked) && w.client.Live()
}
