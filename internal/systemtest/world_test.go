package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/ingest"
	"wxtoken/internal/logtest"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/refresher"
	"wxtoken/internal/seal"
	"wxtoken/internal/settings"
	"wxtoken/wechatsim"
)

func TestMain(m *testing.M) {
	natsdtest.Register()
	natsdtest.SideBySide(5) // the campaign works while the others wait for the clock
	code := m.Run()
	atEnd.do()
	os.Exit(code)
}

// atEnd is what is to be done when all tests have ended.
var atEnd lastThings

type lastThings struct {
	mu   sync.Mutex
	todo []func()
}

func (l *lastThings) add(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.todo = append(l.todo, f)
}

func (l *lastThings) do() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.todo {
		f()
	}
}

const (
	testAppID  = "wx0000000000000001"
	testSecret = "SEKRET-appsecret-0123456789abcdef"
	testToken  = "SEKRETtoken"
	testAESKey = "SEKRETkeyabcdefghijklmnopqrstuvwxyz01234567"
)

// appidOf returns the appid of the i-th account.
func appidOf(i int) string { return fmt.Sprintf("wx%016d", 1000+i) }

// pipes is a network within the process: each host name is one server, each connection a net.Pipe.
type pipes struct {
	mu    sync.Mutex
	hosts map[string]*pipeListener
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (p *pipes) listen(host string) net.Listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hosts == nil {
		p.hosts = map[string]*pipeListener{}
	}
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.hosts[host] = l
	return l
}

func (p *pipes) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, _ := strings.Cut(addr, ":")
	p.mu.Lock()
	l := p.hosts[host]
	p.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("no such host %s", host)
	}
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve serves handler as host until the test ends.
func (p *pipes) serve(t testing.TB, host string, handler http.Handler) *http.Server {
	s := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	l := p.listen(host)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return s
}

// syncBuffer collects log lines.
type syncBuffer = logtest.Buffer

// world is the whole system in one process.
type world struct {
	t     testing.TB
	net   pipes
	nats  *natsdtest.Server
	sim   *wechatsim.Platform
	http  *http.Transport
	log   *syncBuffer
	cfg   refresher.Config
	seal  *seal.Keys // of the refreshers; nil = nothing is sealed
	names int

	ctx  context.Context
	mu   sync.Mutex
	live []*instance

	shared *nats.Conn
	tokens *lookedUp // of the shared connection

	crashAt string // see arm
}

// newWorld starts NATS, the platform and an ingest. Refreshers are for the test to start.
func newWorld(t testing.TB, sim wechatsim.Config, changes ...func(*natsd.Config)) *world {
	t.Helper()
	return newSealedWorld(t, nil, sim, changes...)
}

// newSealedWorld is newWorld with keys that seal.
func newSealedWorld(t testing.TB, keys *seal.Keys, sim wechatsim.Config, changes ...func(*natsd.Config)) *world {
	t.Helper()
	w := &world{t: t, seal: keys, log: &syncBuffer{}, cfg: refresher.Config{
		WechatAPIURL: "http://wechat", RenewFraction: 0.66, Concurrency: 16, APIRate: 1000, Replicas: 1,
		MessagesMaxAge: 168 * time.Hour, SweepEvery: 30 * time.Second, ReconcileEvery: 6 * time.Hour,
	}}
	w.http = &http.Transport{DialContext: w.net.dial, IdleConnTimeout: 30 * time.Second}
	t.Cleanup(w.http.CloseIdleConnections)
	w.nats = natsdtest.Start(t, changes...)

	nc := w.nats.Connect()
	js := natsdtest.JetStream(t, nc)
	var public *seal.Keys
	if keys != nil {
		var err error
		if public, err = seal.FromPublic(keys.Public()); err != nil {
			t.Fatal(err)
		}
	}
	in, err := ingest.New(ingest.Config{ReleaseCheck: true}, []settings.Component{{
		AppID: testAppID, Tokens: []wxtoken.Secret{wxtoken.NewSecret(testToken)}, AESKeys: []wxtoken.Secret{wxtoken.NewSecret(testAESKey)},
	}}, ingest.Deps{JetStream: js, Seal: public, Log: w.logger("ingest"), Metrics: prometheus.NewRegistry(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	w.net.serve(t, "ingest", in.Handler())

	if len(sim.Components) == 0 {
		sim.Components = []wechatsim.Component{{
			AppID: testAppID, AppSecret: testSecret, Token: testToken, EncodingAESKey: testAESKey, AutoPush: true,
			AuthURL:    "http://ingest/wechat/" + testAppID + "/auth",
			MessageURL: "http://ingest/wechat/" + testAppID + "/message/$APPID$",
		}}
	}
	sim.Transport = w.http
	if w.sim, err = wechatsim.New(sim); err != nil {
		t.Fatal(err)
	}
	w.net.serve(t, "wechat", w.sim.Handler())
	ctx, cancel := context.WithCancel(context.Background())
	w.ctx = ctx
	var running sync.WaitGroup
	running.Go(func() { _ = w.sim.Run(ctx) })
	t.Cleanup(func() {
		w.mu.Lock()
		live := w.live
		w.mu.Unlock()
		for _, i := range live {
			i.stop()
		}
		cancel()
		running.Wait()
		w.http.CloseIdleConnections()
	})
	return w
}

func (w *world) logger(name string) zerolog.Logger {
	return zerolog.New(w.log).Level(zerolog.DebugLevel).With().Timestamp().Str("process", name).Logger()
}

// instance is one refresher.
type instance struct {
	name   string
	nc     *nats.Conn
	cancel context.CancelFunc
	done   chan struct{}
	reg    *prometheus.Registry

	world     *world
	mu        sync.Mutex
	crashAt   string
	crashName string // the step at which it crashed
	crashed   chan struct{}
}

// start starts a refresher.
func (w *world) start() *instance {
	w.t.Helper()
	return w.startWith(nil)
}

// startWith starts a refresher that dies at the given step; nil = it doesn't.
func (w *world) startWith(crashAt *string) *instance {
	w.t.Helper()
	w.mu.Lock()
	w.names++
	i := &instance{world: w, name: fmt.Sprintf("refresher-%d", w.names), done: make(chan struct{}), crashed: make(chan struct{}), reg: prometheus.NewRegistry()}
	w.mu.Unlock()
	if crashAt != nil {
		i.crashAt = *crashAt
	}
	i.nc = w.nats.Connect(nats.Name(i.name))
	ctx, cancel := context.WithCancel(w.ctx)
	i.cancel = cancel
	r, err := refresher.New(w.cfg, refresher.Deps{
		NATS: i.nc, Seal: w.seal, Components: []settings.Component{{AppID: testAppID, AppSecret: wxtoken.NewSecret(testSecret)}},
		Log: w.logger(i.name), Metrics: i.reg, Transport: w.http, Step: i.step,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(i.done)
		_ = r.Run(ctx)
	}()
	w.mu.Lock()
	w.live = append(w.live, i)
	w.mu.Unlock()
	return i
}

// step ends the refresher as SIGKILL would, at the step that crashAt names: the connection
// is gone, nothing more is said.
func (i *instance) step(name string) {
	i.mu.Lock()
	hit := i.crashAt == name || i.world.disarm(name)
	if hit {
		i.crashAt, i.crashName = "", name
	}
	i.mu.Unlock()
	if !hit {
		return
	}
	i.nc.Close()
	i.cancel()
	close(i.crashed)
	runtime.Goexit()
}

// crashAtNext has the refresher die when it next comes to a step.
func (i *instance) crashAtNext(step string) {
	i.mu.Lock()
	i.crashAt = step
	i.mu.Unlock()
}

// arm has the refresher die that next comes to a step, whichever it is.
func (w *world) arm(step string) {
	w.mu.Lock()
	w.crashAt = step
	w.mu.Unlock()
}

// disarm reports whether arm was called for this step, once.
func (w *world) disarm(step string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.crashAt != step {
		return false
	}
	w.crashAt = ""
	return true
}

// kill ends the refresher at once.
func (i *instance) kill() {
	i.nc.Close()
	i.stop()
}

// stop ends the refresher in order.
func (i *instance) stop() {
	i.cancel()
	<-i.done
	i.nc.Close()
}

// eventually waits until f returns nil.
func (w *world) eventually(within time.Duration, f func() error) {
	w.t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("not within %s: %v\n%s", within, err, tail(w.log.String(), 6000))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return s[len(s)-n:]
	}
	return s
}

// token reads the bucket as a service does.
func (w *world) token(key wxtoken.Key) (wxtoken.Token, error) {
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	s, err := w.lookUp(ctx)
	if err != nil {
		return wxtoken.Token{}, err
	}
	e, err := s.bucket.Get(ctx, key.String())
	if err != nil {
		return wxtoken.Token{}, err
	}
	var t wxtoken.Token
	err = t.UnmarshalJSON(e.Value())
	t.Revision = e.Revision()
	return t, err
}

// lookedUp is where the tokens lie, as a service sees it and as an operator does.
type lookedUp struct {
	bucket jetstream.KeyValue
	stream jetstream.Stream
}

// lookUp returns where the tokens lie. It asks NATS the first time alone: a day looks thousands of times.
func (w *world) lookUp(ctx context.Context) (*lookedUp, error) {
	nc := w.reader()
	w.mu.Lock()
	s := w.tokens
	w.mu.Unlock()
	if s != nil {
		return s, nil
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	s = &lookedUp{}
	if s.bucket, err = js.KeyValue(ctx, events.BucketTokens); err != nil {
		return nil, err
	}
	if s.stream, err = js.Stream(ctx, events.StreamTokens); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.tokens = s
	w.mu.Unlock()
	return s, nil
}

// reader returns a connection that the whole test shares.
func (w *world) reader() *nats.Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shared == nil {
		w.shared = w.nats.Connect(nats.Name("reader"))
	}
	return w.shared
}

// accepted returns an error unless the token in the bucket is one that WeChat accepts.
func (w *world) accepted(authorizer string) error {
	t, err := w.token(wxtoken.AuthorizerKey(testAppID, authorizer))
	if err != nil {
		return fmt.Errorf("token of %s: %w", authorizer, err)
	}
	if !w.sim.Accepts(testAppID, authorizer, t.Value.Reveal()) {
		return fmt.Errorf("token of %s (generation %d) is not accepted", authorizer, t.Generation)
	}
	return nil
}
