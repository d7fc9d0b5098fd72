package wxtokentest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	natsconf "wxtoken/deploy/nats"
	"wxtoken/internal/events"
	"wxtoken/internal/ingest"
	"wxtoken/internal/links"
	"wxtoken/internal/natsd"
	"wxtoken/internal/refresher"
	"wxtoken/internal/settings"
	"wxtoken/internal/store"
	"wxtoken/wechatsim"
)

// The keys that a Keeper has from the start: one component with its token, and two merchants who
// authorized it, each with a token, a jsapi_ticket and a wx_card ticket.
var (
	Component     = wxtoken.ComponentKey(wechatsim.DemoAppID)
	Merchant      = wxtoken.AuthorizerKey(wechatsim.DemoAppID, "wxa000000000000001")
	OtherMerchant = wxtoken.AuthorizerKey(wechatsim.DemoAppID, "wxa000000000000002")
)

const (
	// patience bounds the waits of a Keeper. It is long, because a machine may be slow.
	patience = time.Minute
	poll     = 5 * time.Millisecond
	tryFor   = 5 * time.Second

	// age is how old the first tokens are: wxtoken does not replace one that is younger than a
	// minute.
	age = 10 * time.Minute
)

// Keeper is a wxtoken that runs in this process, with its fake WeChat. Its methods may be called by
// several goroutines at a time. They fail the test if they don't succeed within a minute; in a
// Keeper from [Start], which has no test, they panic.
type Keeper struct {
	// WeChat is the fake platform, for what has no method here: troubles, quotas, other pushes, the
	// truth about tokens.
	WeChat *wechatsim.Platform

	t       reporter
	srv     *natsd.Server
	store   *store.Store    // with the refresher's connection
	view    *wxtoken.Client // with a service's connection, which reads mirrors
	tokens  jetstream.Stream
	clock   clock
	talking sync.Mutex // one message at a time: the platform's history does not tell whose an answer is

	mu    sync.Mutex
	ended bool
	ends  []func() // called by Close, the last one first
}

// reporter reports failures: a testing.TB, or panics.
type reporter interface {
	Helper()
	Fatalf(format string, args ...any)
}

type panics struct{}

func (panics) Helper() {}
func (panics) Fatalf(format string, args ...any) {
	panic("wxtokentest: " + fmt.Sprintf(format, args...))
}

// clock is the clock of refresher, ingest and platform. It is behind while the first tokens are
// fetched, so that these have an age, and shows the real time afterwards.
type clock struct{ behind atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(-time.Duration(c.behind.Load())) }

// New returns a Keeper with the tokens of Component, Merchant and OtherMerchant. They are ten
// minutes old and valid for another hour and fifty minutes. Everything ends with the test. Warnings
// of refresher, ingest and NATS go to the test's output.
func New(t testing.TB) *Keeper {
	t.Helper()
	k := &Keeper{t: t}
	dir := t.TempDir() // before Close is registered, so that it is removed after it
	t.Cleanup(k.Close)
	if err := k.start(dir, t.Output()); err != nil {
		t.Fatalf("start a wxtoken for this test: %v", err)
	}
	return k
}

// Start is New for programs without a testing.TB, such as examples. Call Close at the end.
func Start() *Keeper {
	k := &Keeper{t: panics{}}
	dir, err := os.MkdirTemp("", "wxtokentest-")
	if err == nil {
		k.atEnd(func() { _ = os.RemoveAll(dir) })
		err = k.start(dir, io.Discard)
	}
	if err != nil {
		k.Close()
		k.t.Fatalf("start: %v", err)
	}
	return k
}

// Close ends everything, including connections of Connect and clients of Client. A Keeper from New
// is closed with its test.
func (k *Keeper) Close() {
	k.mu.Lock()
	ends := k.ends
	k.ends, k.ended = nil, true
	k.mu.Unlock()
	for i := len(ends) - 1; i >= 0; i-- {
		ends[i]()
	}
}

// atEnd makes Close call f, or calls f now if Close was called already.
func (k *Keeper) atEnd(f func()) {
	k.mu.Lock()
	ended := k.ended
	if !ended {
		k.ends = append(k.ends, f)
	}
	k.mu.Unlock()
	if ended {
		f()
	}
}

// Connect returns a connection as the user service, which is closed with the Keeper. Its options
// are those of a service (an inbox of its own, endless reconnects), then opts.
func (k *Keeper) Connect(opts ...nats.Option) *nats.Conn {
	k.t.Helper()
	nc, err := k.connect("service", opts...)
	if err != nil {
		k.t.Fatalf("connect as the user service: %v", err)
	}
	return nc
}

// Client returns a client on a connection of Connect; both are closed with the Keeper. It waits for
// cfg.Keys as [wxtoken.NewClient] does.
func (k *Keeper) Client(cfg wxtoken.Config) *wxtoken.Client {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, k.Connect(), cfg)
	if err != nil {
		k.t.Fatalf("make a client: %v", err)
		return nil
	}
	k.atEnd(client.Close)
	return client
}

func (k *Keeper) connect(user string, opts ...nats.Option) (*nats.Conn, error) {
	first := []nats.Option{
		nats.InProcessServer(k.srv), nats.UserInfo(user, passwords[user]), nats.CustomInboxPrefix("_INBOX_" + user),
		nats.Name("wxtokentest " + user), nats.MaxReconnects(-1), nats.Timeout(patience),
	}
	nc, err := nats.Connect("", append(first, opts...)...)
	if err == nil {
		k.atEnd(nc.Close)
	}
	return nc, err
}

// passwords are the passwords of the users of nats-server.conf. Nothing outside the process can
// reach the server.
var passwords = map[string]string{
	"service": "service", "operator": "operator", "ingest": "ingest", "refresher": "refresher",
	"gateway": "gateway", "console": "console", "backup": "backup",
}

// components are the settings of ingest and refresher for the platform's only component.
var components = []settings.Component{{
	AppID: wechatsim.DemoAppID, AppSecret: wxtoken.NewSecret(wechatsim.DemoAppSecret),
	Tokens:  []wxtoken.Secret{wxtoken.NewSecret(wechatsim.DemoToken)},
	AESKeys: []wxtoken.Secret{wxtoken.NewSecret(wechatsim.DemoEncodingAESKey)},
}}

// start starts everything, and returns when the first tokens are in the bucket.
func (k *Keeper) start(dir string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	k.clock.behind.Store(int64(age))
	log := zerolog.New(out).Level(zerolog.WarnLevel)
	if k.srv, err = natsd.Start(ctx, natsd.Config{StoreDir: dir, Conf: natsconf.Conf(passwords), Log: log}); err != nil {
		return err
	}
	k.atEnd(k.srv.Close)
	in, pushes, err := k.ingest(log)
	if err != nil {
		return err
	}
	config := wechatsim.Config{
		Components: []wechatsim.Component{wechatsim.DemoComponent(1)}, Now: k.clock.now, Transport: k.transport(),
	}
	c := &config.Components[0]
	c.AuthURL, c.MessageURL = pushes+"/wechat/"+c.AppID+"/auth", pushes+"/wechat/"+c.AppID+"/message/$APPID$"
	c.AutoPush = true
	if k.WeChat, err = wechatsim.New(config); err != nil {
		return err
	}
	nc, err := k.refresher(log, k.serve(k.WeChat.Handler()))
	if err != nil {
		return err
	}
	if err := k.open(ctx, nc, in); err != nil {
		return fmt.Errorf("wait for the streams: %w", err)
	}
	k.run(k.store.Run)
	k.run(func(ctx context.Context) { _ = k.WeChat.Run(ctx) })
	return k.firstTokens(ctx)
}

// open waits for the streams, which the refresher creates, and opens the store.
func (k *Keeper) open(ctx context.Context, nc *nats.Conn, in *ingest.Ingest) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return await(ctx, func(ctx context.Context) (err error) {
		if err = in.Ready(ctx); err != nil {
			return err
		}
		if k.tokens, err = js.Stream(ctx, events.StreamTokens); err != nil {
			return err
		}
		k.store, err = store.Open(ctx, nc, js, nil, nil)
		return err
	})
}

// firstTokens lets the merchants authorize, waits until a service sees their tokens in its mirror,
// and sets the clock right.
func (k *Keeper) firstTokens(ctx context.Context) error {
	if err := k.awaitToken(ctx, Component, 1); err != nil {
		return err
	}
	// A refresher that reads WeChat's list now would find the merchants before their pushes do, and
	// renew their tokens once more.
	nobody := wechatsim.Fault{API: "api_get_authorizer_list", Mode: wechatsim.FaultBody, Body: `{"total_count":0,"list":[]}`}
	if err := k.WeChat.Fail(nobody); err != nil {
		return err
	}
	for _, merchant := range []wxtoken.Key{Merchant, OtherMerchant} {
		if err := k.WeChat.Authorize(merchant.Component, merchant.Authorizer); err != nil {
			return err
		}
	}
	nc, err := k.connect("service")
	if err != nil {
		return err
	}
	keys := slices.Concat([]wxtoken.Key{Component}, keysOf(Merchant), keysOf(OtherMerchant))
	if k.view, err = wxtoken.NewClient(ctx, nc, wxtoken.Config{Keys: keys, Now: k.clock.now}); err != nil {
		return err
	}
	k.atEnd(k.view.Close)
	for _, key := range keys {
		active := func(ctx context.Context) error { return k.checkState(ctx, key, wxtoken.StateActive) }
		if err := await(ctx, active); err != nil {
			return fmt.Errorf("wait for the status of %s: %w", key, err)
		}
	}
	k.WeChat.Heal()
	k.clock.behind.Store(0)
	return nil
}

// keysOf returns all keys of an account: its token and its tickets.
func keysOf(account wxtoken.Key) []wxtoken.Key {
	return []wxtoken.Key{
		account,
		wxtoken.JSAPITicketKey(account.Component, account.Authorizer),
		wxtoken.WxCardTicketKey(account.Component, account.Authorizer),
	}
}

// ingest starts an ingest, and returns it and the address where it takes pushes.
func (k *Keeper) ingest(log zerolog.Logger) (*ingest.Ingest, string, error) {
	nc, err := k.connect("ingest")
	if err != nil {
		return nil, "", err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, "", err
	}
	in, err := ingest.New(ingest.Config{}, components, ingest.Deps{
		JetStream: js, Log: log, Metrics: prometheus.NewRegistry(), Now: k.clock.now,
	})
	if err != nil {
		return nil, "", err
	}
	k.run(func(ctx context.Context) { _ = in.Run(ctx) })
	return in, k.serve(in.Handler()), nil
}

// refresher starts a refresher that calls WeChat at an address, and returns its connection.
func (k *Keeper) refresher(log zerolog.Logger, wechat string) (*nats.Conn, error) {
	nc, err := k.connect("refresher")
	if err != nil {
		return nil, err
	}
	r, err := refresher.New(refresher.Config{
		WechatAPIURL: wechat, RenewFraction: 0.66, Concurrency: 16, APIRate: 1000, Replicas: 1,
		MessagesMaxAge: time.Hour, MessagesMaxBytes: 64 << 20, ServicesAPI: []string{"services.API"},
		SweepEvery: time.Second, ReconcileEvery: time.Hour, Derive: []string{"jsapi", "wx_card"},
		Settings: links.Settings{PublicURL: "https://wxtoken.example", WechatPageURL: wechat},
	}, refresher.Deps{
		NATS: nc, Components: components,
		Log: log, Metrics: prometheus.NewRegistry(), Transport: k.transport(), Now: k.clock.now,
	})
	if err != nil {
		return nil, err
	}
	k.run(func(ctx context.Context) { _ = r.Run(ctx) })
	return nc, nil
}

// run runs f until Close.
func (k *Keeper) run(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f(ctx) })
	k.atEnd(func() {
		cancel()
		running.Wait()
	})
}

// serve serves handler on loopback until Close, and returns its address.
func (k *Keeper) serve(handler http.Handler) string {
	s := httptest.NewServer(handler)
	k.atEnd(func() {
		s.CloseClientConnections() // a long answer must not hold up the end
		s.Close()
	})
	return s.URL
}

// transport returns a transport whose connections end with Close.
func (k *Keeper) transport() *http.Transport {
	t := &http.Transport{MaxIdleConnsPerHost: 16}
	k.atEnd(t.CloseIdleConnections)
	return t
}

// await calls try until it succeeds or ctx ends. Each try gets a few seconds, so that a request
// that NATS did not get is sent again.
func await(ctx context.Context, try func(context.Context) error) error {
	for {
		one, cancel := context.WithTimeout(ctx, tryFor)
		err := try(one)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(poll):
		}
	}
}
