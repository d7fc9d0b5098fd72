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

// Limits for each client of a server.
const (
	readHeaderTimeout = 2 * time.Second
	readTimeout       = 5 * time.Second
	writeTimeout      = 10 * time.Second
	idleTimeout       = 30 * time.Second
	maxHeaderBytes    = 8 << 10
	maxConns          = 512
	shutdownWithin    = 5 * time.Second
)

// Server is an HTTP server that already listens. Run must be called, if only to close it.
type Server struct {
	http     http.Server
	listener net.Listener
	name     string
}

// Option sets an option of a server.
type Option func(*options)

// options are the options of a server.
type options struct {
	conns       int
	proxies     Proxies
	certificate *certificate // nil without TLS
	onShutdown  func()
}

// OnShutdown has f called when the server begins to shut down. f ends answers without an end of their own, for
// which the server would wait in vain.
func OnShutdown(f func()) Option { return func(o *options) { o.onShutdown = f } }

// MaxConns sets how many connections the server holds; the default is 512.
func MaxConns(n int) Option { return func(o *options) { o.conns = n } }

// TLS makes the server use TLS, with a certificate and its key in PEM files. They are read again when they
// change.
func TLS(certFile, keyFile string) Option {
	return func(o *options) { o.certificate = &certificate{cert: certFile, key: keyFile} }
}

// Listen binds addr (port 0: any free one) and returns a server for handler with tight limits on time, headers
// and connections, where a panic costs only its own answer. The name is that of the server in the log and in
// wxtoken_panics_total. It returns an error when the address can't be bound or the certificate can't be read.
func Listen(name, addr string, handler http.Handler, log zerolog.Logger, m *Metrics, changes ...Option) (*Server, error) {
	o := options{conns: maxConns}
	for _, change := range changes {
		change(&o)
	}
	log = log.With().Str("server", name).Logger()
	var secured *tls.Config
	if c := o.certificate; c != nil {
		c.log = log
		if _, err := c.get(nil); err != nil {
			return nil, fmt.Errorf("listen for %s: %w", name, err)
		}
		secured = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.get}
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", name, err)
	}
	panics := m.panics.WithLabelValues(name)
	s := &Server{listener: listener, name: name}
	s.http = http.Server{
		Handler:           withRecovery(o.proxies.withClientAddr(handler), log, panics.Inc),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         (&connLimit{max: o.conns}).state,
		ErrorLog:          logger.Std(log),
		TLSConfig:         secured,
	}
	if o.onShutdown != nil {
		s.http.RegisterOnShutdown(o.onShutdown)
	}
	log.Info().Str("addr", s.Addr()).Msg("server listening")
	return s, nil
}

// Addr returns the host:port on which the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends, then gives the requests under way up to 5 s to finish, and cuts off the rest. It
// returns nil if none was cut off.
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

// withRecovery answers 500 when a handler panics. The value of the panic is not logged, since it may hold
// anything; the text of a runtime error is safe.
func withRecovery(next http.Handler, log zerolog.Logger, count func()) http.Handler {
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

// connLimit bounds the number of connections. When there is one too many, it closes the connection that has
// waited longest without a request under way, so that a crowd of silent connections can't keep out one that
// sends. When all have a request under way, it closes the new one.
type connLimit struct {
	max int

	mu      sync.Mutex
	clock   uint64              // counts changes, to find the longest wait
	waiting map[net.Conn]uint64 // new and idle connections, by the change since which they wait
	open    map[net.Conn]bool   // all connections
}

// state is the ConnState of the http.Server.
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

// evict closes the connection that has waited longest; false: none waits.
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
	_ = oldest.Close() // its goroutine then reports StateClosed
	delete(l.waiting, oldest)
	delete(l.open, oldest)
	return true
}

// OpsHandler answers GET and HEAD of /healthz, /readyz and /metrics; root answers all else, and may be nil.
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

// ListenOps is Listen for an OpsHandler on s.OpsAddr. It warns when other machines can reach it.
func ListenOps(s settings.Operations, h *Health, m *Metrics, root http.Handler, log zerolog.Logger) (*Server, error) {
	if !settings.Loopback(s.OpsAddr) {
		log.Warn().Str("addr", s.OpsAddr).Msg("operations exposed without a password")
	}
	return Listen("ops", s.OpsAddr, OpsHandler(h, m, root), log, m)
}
