package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"wxtoken/internal/logger"
	"wxtoken/internal/settings"
)

// What a server grants a client.
const (
	readHeaderTimeout = 2 * time.Second
	readTimeout       = 5 * time.Second
	writeTimeout      = 10 * time.Second
	idleTimeout       = 30 * time.Second
	maxHeaderBytes    = 8 << 10
	maxConns          = 512
	shutdownWithin    = 5 * time.Second
)

// Server is an HTTP server that listens already. Run must be called, if only to close it.
type Server struct {
	http     http.Server
	listener net.Listener
	name     string
}

// Option changes what a server does.
type Option func(*door)

// door is what options change.
type door struct {
	conns   int
	proxies Proxies
	tls     *tls.Config
	ends    func()
}

// OnShutdown has f called when a server begins to end: for answers that have no end of their own,
// which it would wait for in vain.
func OnShutdown(f func()) Option { return func(d *door) { d.ends = f } }

// MaxConns has a server hold more connections, or fewer, than the 512 that others do.
func MaxConns(n int) Option { return func(d *door) { d.conns = n } }

// TLS has a server speak TLS, with a certificate and its key in files (PEM). They are read again
// when they have changed.
func TLS(certFile, keyFile string) Option {
	files := &certificate{cert: certFile, key: keyFile}
	return func(d *door) {
		d.tls = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: files.get}
	}
}

// Listen binds addr (port 0: any free one) and returns a server for handler with tight limits on
// time, headers and connections, on which a panic costs one answer and no more. The name stands in
// the log and in wxtoken_panics_total. It returns an error when the address can't be bound, or a
// certificate can't be read.
func Listen(name, addr string, handler http.Handler, log zerolog.Logger, m *Metrics, options ...Option) (*Server, error) {
	d := door{conns: maxConns}
	for _, change := range options {
		change(&d)
	}
	if d.tls != nil {
		if _, err := d.tls.GetCertificate(nil); err != nil {
			return nil, fmt.Errorf("listen for %s: %w", name, err)
		}
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", name, err)
	}
	log = log.With().Str("server", name).Logger()
	panics := m.panics.WithLabelValues(name)
	s := &Server{listener: listener, name: name}
	s.http = http.Server{
		Handler:           recovered(d.proxies.named(handler), log, panics.Inc),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         (&connLimit{max: d.conns}).state,
		ErrorLog:          logger.Std(log),
		TLSConfig:         d.tls,
	}
	if d.ends != nil {
		s.http.RegisterOnShutdown(d.ends)
	}
	log.Info().Str("addr", s.Addr()).Msg("server listening")
	return s, nil
}

// Addr returns the host:port on which the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends, then lets the requests under way finish for up to 5 s and cuts off the
// rest. It returns nil after an orderly end.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() {
		if s.http.TLSConfig != nil {
			ended <- s.http.ServeTLS(s.listener, "", "")
			return
		}
		ended <- s.http.Serve(s.listener)
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", s.name, err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWithin)
	defer cancel()
	err := s.http.Shutdown(grace)
	if err != nil {
		err = errors.Join(fmt.Errorf("shut down %s: requests still under way after %s: %w", s.name, shutdownWithin, err), s.http.Close())
	}
	if serve := <-ended; !errors.Is(serve, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve %s: %w", s.name, serve))
	}
	return err
}

// recovered answers 500 for a handler that panics. The value of the panic is not logged, for
// it may hold anything; a runtime error holds nothing but its own words.
func recovered(next http.Handler, log zerolog.Logger, count func()) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			count()
			text := fmt.Sprintf("%T", v)
			if err, ok := v.(runtime.Error); ok {
				text = err.Error()
			}
			log.Error().Str("panic", text).Str("stack", string(debug.Stack())).Msg("handler panicked")
			w.WriteHeader(http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}

// connLimit keeps the number of connections down. When there is one too many it closes the one that
// has been waiting the longest without a request under way, so that a crowd of silent
// connections can't keep out one that speaks; when all are at work, it closes the new one.
type connLimit struct {
	max int

	mu      sync.Mutex
	clock   uint64              // counts changes, to tell which wait is the longest
	waiting map[net.Conn]uint64 // new and idle connections, by the change that made them so
	open    map[net.Conn]bool   // all of them
}

// state is an http.Server's ConnState.
func (l *connLimit) state(c net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open, l.waiting = map[net.Conn]bool{}, map[net.Conn]uint64{}
	}
	l.clock++
	switch state {
	case http.StateNew:
		if len(l.open) >= l.max && !l.evict() {
			_ = c.Close()
		}
		l.open[c], l.waiting[c] = true, l.clock
	case http.StateIdle:
		l.waiting[c] = l.clock
	case http.StateActive:
		delete(l.waiting, c)
	case http.StateClosed, http.StateHijacked:
		delete(l.waiting, c)
		delete(l.open, c)
	}
}

// evict closes the connection that waits the longest, or reports that none waits.
func (l *connLimit) evict() bool {
	var oldest net.Conn
	for c, since := range l.waiting {
		if oldest == nil || since < l.waiting[oldest] {
			oldest = c
		}
	}
	if oldest == nil {
		return false
	}
	_ = oldest.Close() // its goroutine sees that and reports it closed
	delete(l.waiting, oldest)
	delete(l.open, oldest)
	return true
}

// OpsHandler answers /healthz, /readyz and /metrics to GET and HEAD, and everything else with root,
// which may be nil.
func OpsHandler(h *Health, m *Metrics, root http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /readyz", h.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{}))
	if root != nil {
		mux.Handle("/", root)
	}
	return mux
}

// ListenOps is Listen for an OpsHandler on s.OpsAddr. It warns when others can reach it.
func ListenOps(s settings.Operations, h *Health, m *Metrics, root http.Handler, log zerolog.Logger) (*Server, error) {
	if !settings.Loopback(s.OpsAddr) {
		log.Warn().Str("addr", s.OpsAddr).Msg("operations exposed without a password")
	}
	return Listen("ops", s.OpsAddr, OpsHandler(h, m, root), log, m)
}
