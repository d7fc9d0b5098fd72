package wxtoken_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/store"
)

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
	foreign, err := store.TokenRecord(tokenOf(hotel, 9, time.Now()))
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
