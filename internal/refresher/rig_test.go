package refresher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/logtest"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/refresher"
	"wxtoken/internal/seal"
	"wxtoken/internal/settings"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 20) }

// The component of the tests. Whatever must not be seen anywhere has SEKRET in it.
const (
	appid     = "wx0123456789abcdef"
	appsecret = "SEKRET-appsecret-0123456789abcdef"
	pushToken = "SEKRETtoken"
	aesKey    = "SEKRETkeyabcdefghijklmnopqrstuvwxyz01234567"

	// within bounds everything that a test waits for. It is long, because a machine may be slow.
	within = 3 * time.Minute
)

// The calls that are counted.
const (
	apiComponent = "api_component_token"
	apiExchange  = "api_query_auth"
	apiRefresh   = "api_authorizer_token"
	apiInfo      = "api_get_authorizer_info"
	apiList      = "api_get_authorizer_list"
)

// alice is the account of the tests that need one.
const alice = "wxa1ice0000000000"

var (
	componentKey = wxtoken.ComponentKey(appid)
	aliceKey     = wxtoken.AuthorizerKey(appid, alice)
)

// clock is the real time and an offset that a test may put forward: the platform and the refreshers
// live by it, NATS does not.
type clock struct{ ahead atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// direct calls a handler without a network.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(request *http.Request) (response *http.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				panic(p)
			}
			if err = request.Context().Err(); err == nil {
				err = errors.New("the connection was cut")
			}
		}
	}()
	recorder := httptest.NewRecorder()
	d.handler.ServeHTTP(recorder, request)
	return recorder.Result(), nil
}

// lines is a log.
type lines struct{ logtest.Buffer }

// count returns how many lines hold all of the parts.
func (l *lines) count(parts ...string) (n int) {
next:
	for line := range strings.Lines(l.String()) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		n++
	}
	return n
}

// rig is a platform and a NATS server; what the platform pushes becomes events as ingest makes them.
type rig struct {
	*testing.T
	clock  clock
	nats   *natsdtest.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	sim    *wechatsim.Platform
	store  *store.Store
	log    *lines
	seed   string
	seal   *seal.Keys // of the seed: the refreshers'; what is sent is sealed too
	cfg    refresher.Config
	opener *wechat.Crypter
	step   func(name string)          // called at each step of the refreshers; to be set before start
	deps   func(*refresher.Deps)      // changes what the next refresher works with
	others map[string]*wechat.Crypter // of the components in options.more

	mu   sync.Mutex
	hold bool          // keep pushes instead of publishing them
	held []events.Auth // oldest first
	runs []process     // the refreshers at work
}

// options of a rig; the zero value is a kind platform and a refresher that nothing but events wakes.
type options struct {
	sim wechatsim.Config
	cfg func(*refresher.Config)
	// idle starts no refresher and no ticket
	idle bool
	// evening has it be ten in the evening in China, so that no day turns where a test does not want it
	evening bool
	// more are the appids of further components, with the secrets of the first; no refresher acts for them by itself
	more []string
	// server changes the NATS server's settings
	server func(*natsd.Config)
	// alone has the test run before those that run in parallel: with thousands of messages to store it would take minutes
	// where twenty tests share a tenth of a processor.
	alone bool
}

func newRig(t *testing.T, o options) *rig {
	t.Helper()
	if !o.alone {
		t.Parallel()
	}
	if o.server == nil {
		o.server = func(*natsd.Config) {}
	}
	r := &rig{T: t, nats: natsdtest.Start(t, o.server), log: &lines{}, others: map[string]*wechat.Crypter{}, cfg: refresher.Config{
		WechatAPIURL: "http://wechat", RenewFraction: 0.66, Concurrency: 16, APIRate: 10_000, Replicas: 1,
		MessagesMaxAge: time.Hour, SweepEvery: time.Hour, ReconcileEvery: 6 * time.Hour,
	}}
	if o.cfg != nil {
		o.cfg(&r.cfg)
	}
	var err error
	if r.opener, err = wechat.NewCrypter(wechat.Keys{AppID: appid, Tokens: []string{pushToken}, AESKeys: []string{aesKey}}); err != nil {
		t.Fatal(err)
	}
	o.sim.Components = []wechatsim.Component{{
		AppID: appid, AppSecret: appsecret, Token: pushToken, EncodingAESKey: aesKey,
		AuthURL: "http://ingest/auth", MessageURL: "http://ingest/message/$APPID$",
	}}
	for _, id := range o.more {
		o.sim.Components = append(o.sim.Components, wechatsim.Component{
			AppID: id, AppSecret: appsecret, Token: pushToken, EncodingAESKey: aesKey, AuthURL: "http://ingest/auth/" + id,
		})
		opener, err := wechat.NewCrypter(wechat.Keys{AppID: id, Tokens: []string{pushToken}, AESKeys: []string{aesKey}})
		if err != nil {
			t.Fatal(err)
		}
		r.others[id] = opener
	}
	o.sim.Transport = direct{http.HandlerFunc(r.pushed)}
	if o.evening {
		const day = 24 * time.Hour
		now := r.clock.Now()
		r.clock.forward(now.Truncate(day).Add(day + 14*time.Hour).Sub(now))
	}
	o.sim.Now = r.clock.Now
	if r.sim, err = wechatsim.New(o.sim); err != nil {
		t.Fatal(err)
	}
	r.nc = r.nats.Connect()
	r.js = natsdtest.JetStream(t, r.nc)
	streamstest.Setup(t, r.nc, r.js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	r.seed, r.seal = sealKeys(t)
	if r.store, err = store.Open(t.Context(), r.nc, r.js, r.seal, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.sim.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		text := r.log.String()
		for _, secret := range r.sim.Secrets() {
			if strings.Contains(text, secret) {
				t.Errorf("the log shows a secret, %s...", secret[:min(len(secret), 12)])
			}
		}
		if t.Failed() {
			t.Log(text[max(0, len(text)-4000):])
		}
	})
	if !o.idle {
		r.start()
		r.ticket()
		r.eventually(r.componentLives)
		r.reconciled() // it would find the accounts of the test before their pushes do
	}
	return r
}

// sealKeys returns a new seed and its keys.
func sealKeys(t *testing.T) (seed string, keys *seal.Keys) {
	t.Helper()
	seed, _, err := seal.Make()
	if err == nil {
		keys, err = seal.FromSeeds(seed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return seed, keys
}

// process is one refresher at work.
type process struct {
	nc      *nats.Conn
	stop    func()
	work    *refresher.Refresher
	metrics *prometheus.Registry
}

// start starts a refresher; it ends with the test.
func (r *rig) start() process {
	r.Helper()
	nc := r.nats.Connect()
	metrics := prometheus.NewRegistry()
	deps := refresher.Deps{
		NATS: nc, Components: []settings.Component{{AppID: appid, AppSecret: wxtoken.NewSecret(appsecret)}},
		Seal: r.seal, Log: zerolog.New(r.log).Level(zerolog.DebugLevel), Metrics: metrics,
		Transport: direct{r.sim.Handler()}, Now: r.clock.Now,
		Step: r.step,
	}
	if r.deps != nil {
		r.deps(&deps)
	}
	work, err := refresher.New(r.cfg, deps)
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- work.Run(ctx) }()
	p := process{nc: nc, work: work, metrics: metrics}
	p.stop = sync.OnceFunc(func() {
		r.mu.Lock()
		r.runs = slices.DeleteFunc(r.runs, func(other process) bool { return other.work == work })
		r.mu.Unlock()
		cancel()
		if err := <-ended; err != nil && nc.Status() != nats.CLOSED {
			r.Errorf("Run ended with %v", err)
		}
	})
	r.Cleanup(p.stop)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs = append(r.runs, p)
	return p
}

// pushed is what ingest does with a push of the platform.
func (r *rig) pushed(w http.ResponseWriter, request *http.Request) {
	fail := func(err error) {
		r.Errorf("push not understood: %v", err)
		w.WriteHeader(http.StatusBadRequest)
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		fail(err)
		return
	}
	query, err := wechat.ParseQuery(request.URL.RawQuery)
	if err != nil {
		fail(err)
		return
	}
	envelope, err := wechat.ParseEnvelope(body)
	if err != nil {
		fail(err)
		return
	}
	component, opener := appid, r.opener
	if id := path.Base(request.URL.Path); r.others[id] != nil {
		component, opener = id, r.others[id]
	}
	opened, err := opener.Open(query, envelope.Encrypt)
	if err != nil {
		fail(err)
		return
	}
	push, err := wechat.ParsePush(opened.Text)
	if err != nil {
		fail(err)
		return
	}
	a := events.Auth{
		Kind: push.InfoType, Component: component, CreateTime: push.CreateTime, ReceivedAt: r.clock.Now().UTC(),
		Authorizer: push.AuthorizerAppID, Ticket: push.Ticket, Code: push.Code, PreAuthCode: push.PreAuthCode,
	}
	r.mu.Lock()
	hold := r.hold
	if hold {
		r.held = append(r.held, a)
	}
	r.mu.Unlock()
	if !hold {
		r.send(a)
	}
	_, _ = io.WriteString(w, "success")
}

// send publishes an event, each time with an id of its own.
func (r *rig) send(a events.Auth) {
	r.Helper()
	e, err := a.Event(nuid.Next(), "/wechat/"+a.Component+"/auth")
	if err != nil {
		r.Fatal(err)
	}
	e.Seal = r.seal
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if _, err := bus.Publish(ctx, r.js, e); err != nil && ctx.Err() == nil {
		r.Errorf("publish %s: %v", a.Kind, err)
	}
}

// keep has pushes kept from now on; next gives them out.
func (r *rig) keep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = true
}

// next waits for a push that was kept and returns it.
func (r *rig) next(kind string) (a events.Auth) {
	r.Helper()
	r.eventually(func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i, held := range r.held {
			if held.Kind == kind {
				a, r.held = held, append(r.held[:i:i], r.held[i+1:]...)
				return nil
			}
		}
		return fmt.Errorf("no push %s yet", kind)
	})
	return a
}

// eventually waits until f returns nil.
func (r *rig) eventually(f func() error) {
	r.Helper()
	began := time.Now()
	deadline, before := began.Add(within), ""
	for wait := 2 * time.Millisecond; ; wait = min(wait*5/4, 20*time.Millisecond) { // who asks too often keeps the machine from getting on
		err := f()
		if err == nil {
			return
		}
		if moved, is := errors.AsType[onTheWay](err); is && string(moved) != before {
			deadline, before = time.Now().Add(within), string(moved)
		}
		if now := time.Now(); now.After(deadline) || r.Failed() && now.After(began.Add(within/10)) { // the test has failed already
			r.Fatalf("not within %s: %v", now.Sub(began).Round(time.Second), err)
		}
		time.Sleep(wait)
	}
}

// onTheWay says how far something is that takes its time: a wait for it ends when it does not get on.
type onTheWay string

// Error returns how far it is.
func (o onTheWay) Error() string { return string(o) }

// until is eventually for a yes or no.
func (r *rig) until(what string, f func() bool) {
	r.Helper()
	r.eventually(func() error {
		if f() {
			return nil
		}
		return errors.New(what)
	})
}

// must ends the test when a control of the platform, or of NATS, failed.
func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) ticket() {
	r.Helper()
	r.must(r.sim.PushTicket(appid))
}

// listRead waits until WeChat's list was read and taken over. A slow NATS has it read more than once.
func (r *rig) listRead() {
	r.Helper()
	r.eventually(func() error {
		if r.log.count("reconciled with WeChat's list") > 0 {
			return nil
		}
		return onTheWay(fmt.Sprintf("WeChat's list was not read, after %d calls", len(r.sim.History())))
	})
}

// authorize has an account authorize, and waits until that is known.
func (r *rig) authorize(account string) {
	r.Helper()
	r.reconciled() // it would find the account before its push does
	r.must(r.sim.Authorize(appid, account))
	r.eventually(func() error { return r.accepted(account) })
	r.drained()
	r.heard()
}

// token returns the token of key, a zero one if there is none.
func (r *rig) token(key wxtoken.Key) wxtoken.Token {
	r.Helper()
	return read(r, func(ctx context.Context) (wxtoken.Token, error) {
		t, _, err := r.store.Token(ctx, key)
		return t, err
	})
}

func (r *rig) credential(key wxtoken.Key) account.Credential {
	r.Helper()
	return read(r, func(ctx context.Context) (account.Credential, error) { return r.store.Credential(ctx, key) })
}

func (r *rig) status(key wxtoken.Key) wxtoken.Status {
	r.Helper()
	return read(r, func(ctx context.Context) (wxtoken.Status, error) {
		s, _, err := r.store.Status(ctx, key)
		return s, err
	})
}

// read asks NATS, again where that is too slow for an answer.
func read[T any](r *rig, f func(context.Context) (T, error)) (value T) {
	r.Helper()
	var err error
	r.eventually(func() error {
		if value, err = f(r.Context()); errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return nil
	})
	r.must(err)
	return value
}

// state waits for a state of key and returns the status.
func (r *rig) state(key wxtoken.Key, want wxtoken.State) (s wxtoken.Status) {
	r.Helper()
	r.eventually(func() error {
		if s = r.status(key); s.State != want {
			return fmt.Errorf("state of %s is %q, want %q", key, s.State, want)
		}
		return nil
	})
	return s
}

// accepted returns an error unless the stored token of an account is one that the platform takes.
func (r *rig) accepted(account string) error {
	t, ok, err := r.store.Token(r.Context(), wxtoken.AuthorizerKey(appid, account))
	if err != nil || !ok {
		return fmt.Errorf("no token of %s: %w", account, err)
	}
	if !r.sim.Accepts(appid, account, t.Value.Reveal()) {
		return fmt.Errorf("the token of %s, generation %d, is not accepted", account, t.Generation)
	}
	return nil
}

func (r *rig) componentLives() error {
	t, ok, err := r.store.Token(r.Context(), componentKey)
	if err != nil || !ok {
		return fmt.Errorf("no component token: %w", err)
	}
	if !r.sim.AcceptsComponent(appid, t.Value.Reveal()) {
		return errors.New("the component token is not accepted")
	}
	// Its refresher knows of it a moment after the store does, and calls nothing before.
	if r.log.count(`"message":"token renewed"`, componentKey.String(), fmt.Sprintf(`"generation":%d,`, t.Generation)) == 0 {
		return errors.New("no refresher knows of the component token")
	}
	return nil
}

// generation waits until the token of key is of the given generation and WeChat takes it.
func (r *rig) generation(key wxtoken.Key, want uint64) wxtoken.Token {
	r.Helper()
	var t wxtoken.Token
	r.eventually(func() error {
		if t = r.token(key); t.Generation != want {
			return fmt.Errorf("%s is of generation %d, want %d", key, t.Generation, want)
		}
		return nil
	})
	if !r.sim.Accepts(appid, key.Authorizer, t.Value.Reveal()) {
		r.Fatalf("the token of %s, generation %d, is not accepted", key, want)
	}
	return t
}

// calls returns how often an API was called, for one account if one is given.
func (r *rig) calls(api string, account ...string) (n int) {
	for _, e := range r.sim.History() {
		if e.Kind == wechatsim.EntryCall && e.API == api && (len(account) == 0 || e.Authorizer == account[0]) {
			n++
		}
	}
	return n
}

// wantCalls fails the test unless an API was called so often.
func (r *rig) wantCalls(api string, want int, account ...string) {
	r.Helper()
	if n := r.calls(api, account...); n != want {
		r.Errorf("%s was called %d times, want %d", api, n, want)
	}
}

// drained waits until every event and every due message has been handled for good.
func (r *rig) drained() {
	r.Helper()
	r.eventually(func() error {
		auth, err := r.js.Stream(r.Context(), events.StreamAuth)
		if err != nil {
			return err
		}
		if n := auth.CachedInfo().State.Msgs; n > 0 {
			return onTheWay(fmt.Sprintf("%d events wait", n))
		}
		due, err := r.js.Consumer(r.Context(), events.StreamTokens, events.DurableDue)
		if err != nil {
			return err
		}
		if i := due.CachedInfo(); i.NumPending > 0 || i.NumAckPending > 0 {
			return onTheWay(fmt.Sprintf("%d due messages wait, %d are being handled", i.NumPending, i.NumAckPending))
		}
		return nil
	})
}

// reconciled waits until the first reconcile, which each component has, is over.
func (r *rig) reconciled() {
	r.Helper()
	r.eventually(func() error {
		tokens, err := r.js.Stream(r.Context(), events.StreamTokens)
		if err == nil {
			_, err = tokens.GetLastMsgForSubject(r.Context(), events.ReconcileDueSubject(appid))
		}
		return err
	})
	r.drained()
}

// heard waits until the refreshers know of all records that are stored: their views hear of each a moment later. Before, a
// step that follows upon what a record says, or clocks that are put forward, would find them with what was true before.
func (r *rig) heard() {
	r.Helper()
	newest := read(r, func(ctx context.Context) (newest uint64, err error) {
		tokens, err := r.js.Stream(ctx, events.StreamTokens)
		if err != nil {
			return 0, err
		}
		for _, subject := range []string{events.AllTokens, events.AllCredentials} {
			m, err := tokens.GetLastMsgForSubject(ctx, subject)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				return 0, err
			}
			newest = max(newest, m.Sequence)
		}
		return newest, nil
	})
	r.mu.Lock()
	runs := slices.Clone(r.runs)
	r.mu.Unlock()
	r.until("not all refreshers know of all records", func() bool {
		return !slices.ContainsFunc(runs, func(p process) bool { return !p.work.Heard(newest) })
	})
}

// poke makes the current generation of key due.
func (r *rig) poke(key wxtoken.Key) {
	r.Helper()
	r.pokeOld(key, r.credential(key).Generation)
}

// pokeOld makes a generation of key due.
func (r *rig) pokeOld(key wxtoken.Key, generation uint64) {
	r.Helper()
	id := nuid.Next() // however often it has to be asked, NATS stores it once
	read(r, func(ctx context.Context) (none struct{}, err error) {
		return none, r.store.MakeDue(ctx, events.Due{Key: key, Generation: generation, Reason: events.ReasonScheduled}, id)
	})
}

// handled returns how many due messages of key have come to their end.
func (r *rig) handled(key wxtoken.Key) int {
	return r.log.count(`"message":"message handled"`, events.DueSubject(key))
}

// pokedInVain makes key due and waits until that was put off.
func (r *rig) pokedInVain(key wxtoken.Key) {
	r.Helper()
	before := r.putOff(key)
	r.poke(key)
	r.until(key.String()+" was not put off", func() bool { return r.putOff(key) > before })
}

// putOff returns how often a due message of key was put off. One that came while another handler was at the key is not
// counted: what that handler does is still to be seen.
func (r *rig) putOff(key wxtoken.Key) int {
	all := func(parts ...string) int {
		return r.log.count(append(parts, `"message":"message put off"`, events.DueSubject(key))...)
	}
	return all() - all("is being worked at here") - all("is claimed by another refresher")
}

// scheduled returns when the schedule of key fires; ok is false when it has none.
func (r *rig) scheduled(key wxtoken.Key) (at time.Time, ok bool) {
	r.Helper()
	stream, err := r.js.Stream(r.Context(), events.StreamTokens)
	r.must(err)
	m, err := stream.GetLastMsgForSubject(r.Context(), events.ScheduleSubject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return at, false
	}
	r.must(err)
	at, err = time.Parse(time.RFC3339, strings.TrimPrefix(m.Header.Get(jetstream.ScheduleHeader), "@at "))
	r.must(err)
	return at, true
}

// wantScheduled fails the test unless key is scheduled for the time that its token tells.
func (r *rig) wantScheduled(key wxtoken.Key) {
	r.Helper()
	if at, ok := r.scheduled(key); !ok || !at.Equal(r.token(key).RenewAt) {
		r.Errorf("%s is scheduled for %v (%t), its token says %v", key, at, ok, r.token(key).RenewAt)
	}
}

// fail switches a trouble of the platform on.
func (r *rig) fail(f wechatsim.Fault) {
	r.Helper()
	r.must(r.sim.Fail(f))
}

// client returns a client of the platform that is not the refresher's.
func (r *rig) client() *wechat.Client {
	r.Helper()
	client, err := wechat.NewClient(wechat.ClientConfig{BaseURL: "http://wechat", Transport: direct{r.sim.Handler()}})
	r.must(err)
	return client
}

// preAuthCode asks the platform for one, as whoever makes an authorization link does.
func (r *rig) preAuthCode() string {
	r.Helper()
	code, err := r.client().CreatePreAuthCode(r.Context(), r.token(componentKey).Value.Reveal(), appid)
	r.must(err)
	return code.Code
}
