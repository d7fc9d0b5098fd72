package wxtoken_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"

	"wxtoken"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for. It is long, because a machine may be slow.
const patience = time.Minute

var (
	shop  = wxtoken.AuthorizerKey("wx00000000000000c1", "wx00000000000000a1")
	hotel = wxtoken.AuthorizerKey("wx00000000000000c1", "wx00000000000000a2")
	comp  = wxtoken.ComponentKey("wx00000000000000c1")
)

// tokensConfig is the stream behind the bucket, as the refresher creates it.
var tokensConfig = jetstream.StreamConfig{
	Name:              "KV_tokens",
	Subjects:          []string{"$KV.tokens.>", "credential.>", "renewal.scheduled.>", "renewal.due.>"},
	MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld,
	AllowDirect: true, AllowRollup: true, DenyDelete: true,
	AllowAtomicPublish: true, AllowMsgSchedules: true, AllowMsgTTL: true,
	RePublish: &jetstream.RePublish{Source: "$KV.tokens.>", Destination: "token.updated.>"},
}

// platform is a NATS server with the bucket, and the hand that writes it.
type platform struct {
	t   testing.TB
	srv *natsdtest.Server
	nc  *nats.Conn
	js  jetstream.JetStream
}

// startPlatform starts a server without the bucket.
func startPlatform(t testing.TB, changes ...func(*natsd.Config)) *platform {
	t.Helper()
	p := &platform{t: t, srv: natsdtest.Start(t, changes...)}
	p.nc = p.srv.Connect()
	js, err := jetstream.New(p.nc)
	if err != nil {
		t.Fatal(err)
	}
	p.js = js
	return p
}

// newPlatform starts a server with the bucket.
func newPlatform(t testing.TB, changes ...func(*natsd.Config)) *platform {
	t.Helper()
	p := startPlatform(t, changes...)
	p.createBucket()
	return p
}

func (p *platform) createBucket() {
	p.t.Helper()
	if _, err := p.js.CreateStream(p.t.Context(), tokensConfig); err != nil {
		p.t.Fatalf("create the bucket: %v", err)
	}
}

// publish stores msg and returns its revision. A message lost with a connection is sent again.
func (p *platform) publish(msg *nats.Msg) uint64 {
	p.t.Helper()
	var ack *jetstream.PubAck
	eventually(p.t, "an ack for "+msg.Subject, func() bool {
		ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Second)
		defer cancel()
		var err error
		ack, err = p.js.PublishMsg(ctx, msg)
		return err == nil
	})
	return ack.Sequence
}

// put stores the n-th token of key, which lives for two hours, and returns its revision.
func (p *platform) put(key wxtoken.Key, n uint64) uint64 {
	p.t.Helper()
	return p.putToken(tokenOf(key, n, time.Now()))
}

func (p *platform) putToken(token wxtoken.Token) uint64 {
	p.t.Helper()
	record, err := token.Record()
	if err != nil {
		p.t.Fatal(err)
	}
	return p.putRaw(token.Key.String(), string(record))
}

func (p *platform) putRaw(key, record string) uint64 {
	p.t.Helper()
	return p.publish(&nats.Msg{Subject: "$KV.tokens." + key, Data: []byte(record)})
}

// mark stores a deletion of key: op is DEL or PURGE.
func (p *platform) mark(key wxtoken.Key, op string) {
	p.t.Helper()
	msg := nats.NewMsg("$KV.tokens." + key.String())
	msg.Header.Set("KV-Operation", op)
	if op == "PURGE" {
		msg.Header.Set("Nats-Rollup", "sub")
	}
	p.publish(msg)
}

// client returns a client on a connection of its own.
func (p *platform) client(cfg wxtoken.Config) *wxtoken.Client {
	p.t.Helper()
	return newClient(p.t, p.srv.Connect(), cfg)
}

func newClient(t testing.TB, nc *nats.Conn, cfg wxtoken.Config) *wxtoken.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, nc, cfg)
	if err != nil {
		t.Fatalf("NewClient: %v", err)
	}
	t.Cleanup(client.Close)
	return client
}

func tokenOf(key wxtoken.Key, n uint64, at time.Time) wxtoken.Token {
	at = at.UTC().Truncate(time.Second)
	return wxtoken.Token{
		Key: key, Value: wxtoken.NewSecret(valueOf(key, n)), Generation: n,
		ObtainedAt: at, ExpiresAt: at.Add(2 * time.Hour), RenewAt: at.Add(80 * time.Minute),
	}
}

func valueOf(key wxtoken.Key, n uint64) string { return fmt.Sprintf("SEKRET-%s-%d", key, n) }

// eventually polls until ok is true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// has reports whether the view has the n-th token of key.
func has(client *wxtoken.Client, key wxtoken.Key, n uint64) func() bool {
	return func() bool {
		token, err := client.Token(key)
		return err == nil && token.Generation == n && token.Value.Reveal() == valueOf(key, n)
	}
}

func fails(client *wxtoken.Client, key wxtoken.Key, want error) func() bool {
	return func() bool {
		_, err := client.Token(key)
		return errors.Is(err, want)
	}
}

// givesUp calls try with ever longer contexts until it fails as wanted when its context ends.
func givesUp(t *testing.T, try func(ctx context.Context) error, want error, texts ...string) {
	t.Helper()
	for within := 50 * time.Millisecond; ; within *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		err := try(ctx)
		cancel()
		as := func(text string) bool { return err != nil && strings.Contains(err.Error(), text) }
		if within > patience || errors.Is(err, want) && !slices.ContainsFunc(texts, func(text string) bool { return !as(text) }) {
			wantError(t, err, context.DeadlineExceeded)
			wantError(t, err, want, texts...)
			return
		}
	}
}

// wantError checks that err is want, and that its text says all of texts and no secret.
func wantError(t *testing.T, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want one that is %v", err, want)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
	if strings.Contains(err.Error(), "SEKRET") {
		t.Errorf("error %q shows a secret", err)
	}
}

func TestClientToken(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	want := tokenOf(shop, 1, time.Now())
	want.Previous = &wxtoken.Previous{Value: wxtoken.NewSecret("before"), ValidUntil: want.ObtainedAt.Add(5 * time.Minute)}
	want.Revision = p.putToken(want)
	p.put(comp, 7)

	client := p.client(wxtoken.Config{})
	got, err := client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}
	if *got.Previous != *want.Previous {
		t.Errorf("Previous = %v, want %v", got.Previous, want.Previous)
	}
	got.Previous, want.Previous = nil, nil
	if got != want {
		t.Errorf("Token = %+v, want %+v", got, want)
	}
	if !has(client, comp, 7)() {
		t.Error("the component's own token is not in the view")
	}

	p.put(shop, 2)
	eventually(t, "the renewed token in the view", has(client, shop, 2))
	p.put(hotel, 1)
	eventually(t, "the token of a new authorizer in the view", has(client, hotel, 1))
	if stats := client.Stats(); !stats.Live || stats.Tokens != 3 || stats.Updates != 4 || stats.Unreadable != 0 {
		t.Errorf("Stats = %+v", stats)
	}
}

// What lies in the stream beside the bucket is none of a reader's business.
func TestClientSeesTheBucketOnly(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.publish(&nats.Msg{Subject: "credential." + shop.String(), Data: []byte("sealed")})
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	p.publish(&nats.Msg{Subject: "renewal.due." + shop.String(), Data: []byte("{}")})
	p.put(shop, 2)
	eventually(t, "the second token", has(client, shop, 2))
	if stats := client.Stats(); stats.Unreadable != 0 || stats.Updates != 2 {
		t.Errorf("Stats = %+v, want 2 updates and nothing else", stats)
	}
}

func TestClientTokenErrors(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	at := time.Now()
	p.putToken(tokenOf(shop, 1, at.Add(-2*time.Hour-3*time.Minute)))
	client := p.client(wxtoken.Config{Now: func() time.Time { return at.UTC().Truncate(time.Second) }})

	token, err := client.Token(shop)
	wantError(t, err, wxtoken.ErrExpired, shop.String(), "3m0s ago", "Client.Status", "clock")
	if token != (wxtoken.Token{}) {
		t.Errorf("Token = %v beside an error, want none: a dead token is no token", token)
	}
	_, err = client.Token(hotel)
	wantError(t, err, wxtoken.ErrNoToken, hotel.String(), "connected")
	_, err = client.Token(wxtoken.Key{})
	wantError(t, err, wxtoken.ErrNoToken)

	for n, op := range []string{"DEL", "PURGE"} {
		p.put(hotel, uint64(n+1))
		eventually(t, "the token before "+op, has(client, hotel, uint64(n+1)))
		p.mark(hotel, op)
		eventually(t, "gone after "+op, fails(client, hotel, wxtoken.ErrRevoked))
	}
	_, err = client.Token(hotel)
	wantError(t, err, wxtoken.ErrRevoked, hotel.String(), "authorize again")

	late := p.client(wxtoken.Config{})
	_, err = late.Token(hotel)
	wantError(t, err, wxtoken.ErrRevoked) // a client that starts later knows as much
	p.put(hotel, 3)
	eventually(t, "the token after a re-authorization", has(client, hotel, 3))

	narrow := p.client(wxtoken.Config{Keys: []wxtoken.Key{hotel}})
	_, err = narrow.Token(shop)
	wantError(t, err, wxtoken.ErrNoToken, "Config.Keys")
}

func TestClientExpiry(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	token := tokenOf(shop, 1, time.Now())
	p.putToken(token)
	var now atomic.Pointer[time.Time]
	set := func(at time.Time) { now.Store(&at) }
	set(token.ObtainedAt)
	client := p.client(wxtoken.Config{Now: func() time.Time { return *now.Load() }})
	set(token.ExpiresAt.Add(-time.Nanosecond))
	if _, err := client.Token(shop); err != nil {
		t.Errorf("just before it expires: %v", err)
	}
	set(token.ExpiresAt)
	if _, err := client.Token(shop); !errors.Is(err, wxtoken.ErrExpired) {
		t.Errorf("when it expires: %v, want ErrExpired", err)
	}
}

// An unreadable entry changes nothing: the old token goes on.
func TestClientKeepsOldForUnreadable(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	foreign, err := tokenOf(hotel, 9, time.Now()).Record()
	if err != nil {
		t.Fatal(err)
	}
	records := []struct{ name, key, record string }{
		{"not JSON", shop.String(), "SEKRET"},
		{"empty", shop.String(), ""},
		{"no value", shop.String(), `{"key":"` + shop.String() + `","expires_at":"2038-01-01T00:00:00Z"}`},
		{"number for value", shop.String(), `{"key":"` + shop.String() + `","value":1,"expires_at":"2038-01-01T00:00:00Z"}`},
		{"another key's token", shop.String(), string(foreign)},
		{"not a key", "what.is.this", string(foreign)},
	}
	for _, r := range records {
		before := client.Stats().Unreadable
		p.putRaw(r.key, r.record)
		eventually(t, r.name+" counted", func() bool { return client.Stats().Unreadable > before })
		if !has(client, shop, 1)() {
			t.Errorf("%s: the old token is gone", r.name)
		}
		if err := client.Stats().Err; err == nil || strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("%s: Stats.Err = %v", r.name, err)
		}
	}
	p.put(shop, 2)
	eventually(t, "the next good token", has(client, shop, 2))
}

func TestNewClientWaitsForBucket(t *testing.T) {
	t.Parallel()
	p := startPlatform(t)
	givesUp(t, func(ctx context.Context) error {
		_, err := wxtoken.NewClient(ctx, p.nc, wxtoken.Config{})
		return err
	}, jetstream.ErrStreamNotFound, "bucket tokens", "refresher")

	ready := make(chan *wxtoken.Client)
	go func() {
		defer close(ready)
		ready <- p.client(wxtoken.Config{})
	}()
	p.createBucket()
	client := <-ready
	if stats := client.Stats(); !stats.Live || stats.Tokens != 0 {
		t.Errorf("Stats = %+v, want a live view of an empty bucket", stats)
	}
}

func TestNewClientWaitsForKeys(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(comp, 1)
	p.putToken(tokenOf(hotel, 1, time.Now().Add(-3*time.Hour)))
	keys := []wxtoken.Key{comp, shop, hotel, shop}
	var err error
	givesUp(t, func(ctx context.Context) error {
		_, err = wxtoken.NewClient(ctx, p.nc, wxtoken.Config{Keys: keys})
		return err
	}, wxtoken.ErrNoToken, shop.String(), hotel.String(), "ago")
	wantError(t, err, wxtoken.ErrExpired)
	if strings.Contains(err.Error(), comp.String()+":") {
		t.Errorf("error %q names a key that is there", err)
	}

	ready := make(chan *wxtoken.Client)
	go func() {
		defer close(ready)
		ready <- p.client(wxtoken.Config{Keys: keys})
	}()
	p.put(shop, 1)
	p.put(hotel, 2)
	client := <-ready
	for key, n := range map[wxtoken.Key]uint64{comp: 1, shop: 1, hotel: 2} {
		if !has(client, key, n)() {
			t.Errorf("NewClient returned without %s", key)
		}
	}
}

func TestNewClientNamesSomeOfManyMissing(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	var keys []wxtoken.Key
	for i := range 25 {
		keys = append(keys, wxtoken.AuthorizerKey("wxc", fmt.Sprintf("wxa%02d", i)))
	}
	givesUp(t, func(ctx context.Context) error {
		_, err := wxtoken.NewClient(ctx, p.nc, wxtoken.Config{Keys: keys})
		return err
	}, wxtoken.ErrNoToken, "wxa00", "wxa09", "and 15 more")
}

func TestNewClientRefusesBadKeys(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	for _, key := range []wxtoken.Key{
		{},
		wxtoken.ComponentKey("*"),
		wxtoken.AuthorizerKey("wxc", ">"),
		{Kind: wxtoken.KindComponent, Component: "wxc", Authorizer: "wxa"},
	} {
		_, err := wxtoken.NewClient(t.Context(), p.nc, wxtoken.Config{Keys: []wxtoken.Key{key}})
		wantError(t, err, wxtoken.ErrBadKey, "Config.Keys")
	}
}

func TestNewClientWithoutNATS(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	srv.Stop()
	nc := srv.Connect(nats.RetryOnFailedConnect(true))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := wxtoken.NewClient(ctx, nc, wxtoken.Config{})
	wantError(t, err, context.DeadlineExceeded, "RECONNECTING")

	nc.Close()
	_, err = wxtoken.NewClient(t.Context(), nc, wxtoken.Config{})
	wantError(t, err, nats.ErrConnectionClosed)
}

// A restart of NATS takes nothing from the view, and what was stored meanwhile arrives.
func TestClientSurvivesRestart(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		cfg  wxtoken.Config
	}{
		{"all", wxtoken.Config{}},
		{"by key", wxtoken.Config{Keys: []wxtoken.Key{shop, hotel}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			p.put(shop, 1)
			p.put(hotel, 1)
			client := p.client(test.cfg)
			for n := uint64(2); n < 5; n++ {
				p.srv.Stop()
				if !has(client, shop, n-1)() || !has(client, hotel, n-1)() {
					t.Fatal("the view lost a token with its server")
				}
				p.srv.Restart()
				p.put(shop, n) // most likely before the client's watch stands again
				eventually(t, "the token stored after the restart", has(client, shop, n))
				p.put(hotel, n)
				eventually(t, "the token stored after that", has(client, hotel, n))
			}
			eventually(t, "live again", func() bool { return client.Stats().Live })
			if stats := client.Stats(); stats.Faults == 0 || stats.Err == nil {
				t.Errorf("Stats = %+v hides the restarts", stats)
			}
		})
	}
}

// While NATS is away the view serves what it has, and says so when that dies.
func TestClientServesWithoutNATS(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	var ahead atomic.Int64
	client := p.client(wxtoken.Config{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	p.srv.Stop()
	if !has(client, shop, 1)() {
		t.Fatal("no token while NATS is away")
	}
	eventually(t, "Stats tell", func() bool { return !client.Stats().Live })
	ahead.Store(int64(3 * time.Hour))
	_, err := client.Token(shop)
	wantError(t, err, wxtoken.ErrExpired, "cut off from NATS")
}

// A bucket that is lost and made anew starts from revision 1; a watch that resumed would wait for the old ones.
func TestClientSurvivesNewBucket(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	p.put(hotel, 1)
	client := p.client(wxtoken.Config{})
	if err := p.js.DeleteStream(t.Context(), "KV_tokens"); err != nil {
		t.Fatal(err)
	}
	p.createBucket()
	p.put(shop, 2) // at revision 1
	eventually(t, "the token of the new bucket", has(client, shop, 2))
	if !has(client, hotel, 1)() {
		t.Error("a token that nobody cancelled went with the old bucket")
	}
	p.put(shop, 3)
	eventually(t, "the next token", has(client, shop, 3))
}

// A consumer that somebody or something removed is replaced.
func TestClientSurvivesLostConsumer(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	stream, err := p.js.Stream(t.Context(), "KV_tokens")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range stream.ConsumerNames(t.Context()).Name() {
		names = append(names, name)
	}
	if len(names) != 1 {
		t.Fatalf("consumers %v, want one", names)
	}
	if err := stream.DeleteConsumer(t.Context(), names[0]); err != nil {
		t.Fatal(err)
	}
	p.put(shop, 2)
	eventually(t, "the token stored while nobody watched", has(client, shop, 2))
}

// A watch that loses a message on the way begins anew.
func TestClientSurvivesGap(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	nc := p.srv.Connect()
	client := newClient(t, nc, wxtoken.Config{})
	stream, err := p.js.Stream(t.Context(), "KV_tokens")
	if err != nil {
		t.Fatal(err)
	}
	var deliver string
	for info := range stream.ListConsumers(t.Context()).Info() {
		deliver = info.Config.DeliverSubject
	}
	// A heartbeat that counts one message more than came.
	beat := nats.NewMsg(deliver)
	beat.Header.Set("Status", "100")
	beat.Header.Set("Description", "Idle Heartbeat")
	beat.Header.Set("Nats-Last-Consumer", "2")
	if err := p.nc.PublishMsg(beat); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the gap noticed", func() bool { return client.Stats().Faults > 0 })
	p.put(shop, 2)
	eventually(t, "the next token", has(client, shop, 2))
}

// Whatever happens, a reader never sees an older token after a newer one.
func TestClientReadersAmongUpdates(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	const last = 300
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for seen := uint64(0); seen < last; {
				token, err := client.Token(shop)
				if err != nil || token.Generation < seen || token.Value.Reveal() != valueOf(shop, token.Generation) {
					t.Errorf("after generation %d: %v, %v", seen, token, err)
					return
				}
				seen = token.Generation
			}
		})
	}
	for n := uint64(2); n <= last; n++ {
		p.put(shop, n)
	}
	wg.Wait()
}

func TestClientUpdates(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	p.put(hotel, 1)
	client := p.client(wxtoken.Config{})
	step := 0
	for token, err := range client.Updates(t.Context(), shop) {
		if token.Key != shop {
			t.Fatalf("an update of %s, which nobody asked for", token.Key)
		}
		switch step++; step {
		case 1:
			if err != nil || token.Generation != 1 {
				t.Fatalf("at first: %v, %v; want what is there", token, err)
			}
			p.put(hotel, 2)
			p.put(shop, 2)
		case 2:
			if err != nil || token.Generation != 2 {
				t.Fatalf("then: %v, %v; want the second token", token, err)
			}
			p.mark(shop, "DEL")
		case 3:
			wantError(t, err, wxtoken.ErrRevoked)
			if token != (wxtoken.Token{Key: shop}) {
				t.Fatalf("Token = %v beside an error, want its key alone", token)
			}
			p.put(shop, 3)
		default:
			if err != nil || token.Generation != 3 {
				t.Fatalf("at last: %v, %v; want the third token", token, err)
			}
			return
		}
	}
	t.Fatal("the updates ended by themselves")
}

// A slow receiver holds up nobody and misses nothing but what is out of date anyway.
func TestClientUpdatesSlowReceiver(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	var seen []uint64
	for token, err := range client.Updates(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, token.Generation)
		if token.Generation == 20 {
			break
		}
		for n := uint64(2); n <= 20; n++ {
			p.put(shop, n)
		}
		eventually(t, "the view goes on without the receiver", has(client, shop, 20))
	}
	if !slices.Equal(seen, []uint64{1, 20}) {
		t.Errorf("generations %v, want 1 and 20", seen)
	}
}

func TestClientUpdatesEnd(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range client.Updates(ctx) {
		cancel()
	}
	for range client.Updates(t.Context()) {
		client.Close()
	}
	for token := range client.Updates(t.Context()) {
		t.Errorf("update %v after Close", token)
	}
}

func TestClientNext(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	old, err := client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = client.Next(ctx, old)
	wantError(t, err, context.DeadlineExceeded, shop.String(), "old one")
	_, err = client.Next(ctx, wxtoken.Token{Key: hotel})
	wantError(t, err, context.DeadlineExceeded, hotel.String())
	wantError(t, err, wxtoken.ErrNoToken)

	next := func(old wxtoken.Token) <-chan any {
		answer := make(chan any, 1)
		go func() {
			token, err := client.Next(t.Context(), old)
			if err != nil {
				answer <- err
				return
			}
			answer <- token.Generation
		}()
		return answer
	}
	first := next(wxtoken.Token{Key: hotel})
	renewed := next(old)
	p.put(hotel, 1)
	p.putToken(tokenOf(shop, 1, time.Now().Add(time.Minute))) // the same value, written again
	p.put(shop, 2)
	if got := <-first; got != uint64(1) {
		t.Errorf("Next of a new authorizer = %v, want generation 1", got)
	}
	if got := <-renewed; got != uint64(2) {
		t.Errorf("Next = %v, want generation 2", got)
	}
	if got := <-next(old); got != uint64(2) {
		t.Errorf("Next with the successor there = %v, want it at once", got)
	}

	current, err := client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}
	waiting := next(current)
	p.mark(shop, "DEL")
	if got, ok := (<-waiting).(error); !ok || !errors.Is(got, wxtoken.ErrRevoked) {
		t.Errorf("Next of a cancelled authorization = %v, want ErrRevoked", got)
	}
	waiting = next(wxtoken.Token{Key: comp})
	client.Close()
	if got, ok := (<-waiting).(error); !ok || !errors.Is(got, wxtoken.ErrClosed) {
		t.Errorf("Next of a closed client = %v, want ErrClosed", got)
	}
}

// answerRejects answers reports as the refresher does.
func answerRejects(t testing.TB, nc *nats.Conn, answer func(request map[string]any, req micro.Request)) {
	t.Helper()
	service, err := micro.AddService(nc, micro.Config{Name: "wxtoken", Version: "0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Stop() })
	err = service.AddEndpoint("reject", micro.HandlerFunc(func(req micro.Request) {
		var request map[string]any
		if err := json.Unmarshal(req.Data(), &request); err != nil {
			t.Errorf("a request that is not JSON: %v", err)
		}
		answer(request, req)
	}), micro.WithEndpointSubject("wxtoken.reject"))
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestClientReject(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	revision := p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	token, err := client.Token(shop)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Reject(t.Context(), token)
	wantError(t, err, nats.ErrNoResponders, shop.String(), "refresher")

	var request map[string]any
	var respond func(req micro.Request) error
	answerRejects(t, p.srv.Connect(), func(got map[string]any, req micro.Request) {
		request = got
		if err := respond(req); err != nil {
			t.Errorf("respond: %v", err)
		}
	})
	for _, want := range []wxtoken.Outcome{
		wxtoken.RejectRenewing, wxtoken.RejectAlreadyRenewed, wxtoken.RejectTooSoon, wxtoken.RejectUnknownKey, "of_a_later_version",
	} {
		respond = func(req micro.Request) error {
			return req.RespondJSON(map[string]any{"outcome": want, "revision": revision, "more": true})
		}
		got, err := client.Reject(t.Context(), token)
		if err != nil || got != want {
			t.Errorf("Reject = %q, %v; want %q", got, err, want)
		}
		if len(request) != 2 || request["key"] != shop.String() || request["revision"] != float64(revision) {
			t.Errorf("request %v, want key and revision %d", request, revision)
		}
	}

	token.Revision, token.Value = 0, wxtoken.NewSecret("SEKRET")
	if _, err := client.Reject(t.Context(), token); err != nil {
		t.Errorf("Reject without a revision: %v", err)
	}
	const digest = "09e1d052992c468a671ba47561c3157b46daeeac5eb00185e5394733892c0ab5" // printf SEKRET | sha256sum
	if len(request) != 2 || request["key"] != shop.String() || request["token_sha256"] != digest {
		t.Errorf("request %v, want key and digest", request)
	}

	respond = func(req micro.Request) error { return req.Error("400", "no such component", nil) }
	_, err = client.Reject(t.Context(), token)
	if err == nil || !strings.Contains(err.Error(), `400 "no such component"`) || strings.Contains(err.Error(), "SEKRET") {
		t.Errorf("Reject = %v, want what the service said", err)
	}
	respond = func(req micro.Request) error { return req.Respond([]byte("SEKRET")) }
	if _, err = client.Reject(t.Context(), token); err == nil || strings.Contains(err.Error(), "SEKRET") {
		t.Errorf("Reject = %v, want an error that does not repeat the answer", err)
	}
	respond = func(micro.Request) error { return nil }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = client.Reject(ctx, token)
	wantError(t, err, context.DeadlineExceeded, shop.String())

	_, err = client.Reject(t.Context(), wxtoken.Token{Value: token.Value})
	wantError(t, err, wxtoken.ErrBadKey)
	client.Close()
	_, err = client.Reject(t.Context(), token)
	wantError(t, err, wxtoken.ErrClosed)
}

func TestClientStatus(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	client := p.client(wxtoken.Config{})
	_, err := client.Status(t.Context(), shop)
	wantError(t, err, jetstream.ErrBucketNotFound, shop.String(), "refresher")

	kv, err := p.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "status", History: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Status(t.Context(), shop)
	wantError(t, err, wxtoken.ErrNoStatus, shop.String(), "connected")

	record := `{"key":"` + shop.String() + `","state":"needs_authorization","conditions":[],"failures":3,
		"authorizer":{"nick_name":"Tea House","func_info":[1,15],"ref":"tenant-7"},
		"last_error":{"code":61023,"message":"refresh_token is invalid","rid":"r-1","at":"2026-11-22T10:00:00Z"},"later":1}`
	if _, err := kv.PutString(t.Context(), shop.String(), record); err != nil {
		t.Fatal(err)
	}
	status, err := client.Status(t.Context(), shop)
	if err != nil {
		t.Fatal(err)
	}
	if status.Key != shop || status.State != wxtoken.StateNeedsAuthorization || status.Failures != 3 ||
		status.LastError.Code != 61023 || status.Authorizer.Ref != "tenant-7" {
		t.Errorf("Status = %+v", status)
	}

	if _, err := kv.PutString(t.Context(), hotel.String(), `{"key":"hotel"`); err != nil {
		t.Fatal(err)
	}
	_, err = client.Status(t.Context(), hotel)
	wantError(t, err, wxtoken.ErrBadStatus, hotel.String(), "revision")
	if err := kv.Delete(t.Context(), shop.String()); err != nil {
		t.Fatal(err)
	}
	_, err = client.Status(t.Context(), shop)
	wantError(t, err, wxtoken.ErrNoStatus)
	_, err = client.Status(t.Context(), wxtoken.ComponentKey(">"))
	wantError(t, err, wxtoken.ErrBadKey)
	client.Close()
	_, err = client.Status(t.Context(), shop)
	wantError(t, err, wxtoken.ErrClosed)
}

func TestClientClose(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	nc := p.srv.Connect()
	client := newClient(t, nc, wxtoken.Config{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(client.Close)
	}
	wg.Wait()
	_, err := client.Token(shop)
	wantError(t, err, wxtoken.ErrClosed)
	if nc.IsClosed() || nc.NumSubscriptions() > 1 { // one is the connection's own, for answers
		t.Errorf("after Close: connection closed %t, %d subscriptions", nc.IsClosed(), nc.NumSubscriptions())
	}
	stream, err := p.js.Stream(t.Context(), "KV_tokens")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the consumer gone", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Consumers == 0
	})
}

// Close does not wait for a NATS that is away.
func TestClientCloseWithoutNATS(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	client := p.client(wxtoken.Config{})
	p.srv.Stop()
	client.Close()
}

// A connection that the service closes under its client takes no token away.
func TestClientConnectionClosed(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.put(shop, 1)
	nc := p.srv.Connect()
	client := newClient(t, nc, wxtoken.Config{})
	nc.Close()
	eventually(t, "Stats tell", func() bool {
		stats := client.Stats()
		return !stats.Live && errors.Is(stats.Err, nats.ErrConnectionClosed)
	})
	if !has(client, shop, 1)() {
		t.Error("the token went with the connection")
	}
}

func TestClientTokenAllocatesNothing(t *testing.T) {
	p := newPlatform(t) // not parallel: AllocsPerRun counts the whole process
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	if n := testing.AllocsPerRun(1000, func() { _, _ = client.Token(shop) }); n != 0 {
		t.Errorf("%v allocations in Token, want none", n)
	}
}

// BenchmarkToken reads a token from a view of 100,000.
func BenchmarkToken(b *testing.B) {
	p := newPlatform(b)
	record, err := tokenOf(shop, 1, time.Now()).Record()
	if err != nil {
		b.Fatal(err)
	}
	const tokens = 100_000
	js, err := jetstream.New(p.nc, jetstream.WithPublishAsyncMaxPending(tokens))
	if err != nil {
		b.Fatal(err)
	}
	for i := range tokens {
		key := wxtoken.AuthorizerKey(shop.Component, fmt.Sprintf("wx%016x", i))
		data := strings.Replace(string(record), shop.String(), key.String(), 1)
		if _, err := js.PublishAsync("$KV.tokens."+key.String(), []byte(data)); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	began := time.Now()
	client := p.client(wxtoken.Config{})
	b.Logf("view of %d tokens ready in %s", client.Stats().Tokens, time.Since(began).Round(time.Millisecond))
	key := wxtoken.AuthorizerKey(shop.Component, fmt.Sprintf("wx%016x", tokens/2))
	b.Run("clock", func(b *testing.B) { // the floor: what a look at the clock costs here
		for b.Loop() {
			_ = time.Now()
		}
	})
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Token(key); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := client.Token(key); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkUpdate measures from before a token is stored until the view of a reader has it.
func BenchmarkUpdate(b *testing.B) {
	p := newPlatform(b)
	p.put(shop, 1)
	client := p.client(wxtoken.Config{})
	old, err := client.Token(shop)
	if err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for n := uint64(2); b.Loop(); n++ {
		began := time.Now()
		p.put(shop, n)
		if old, err = client.Next(b.Context(), old); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
