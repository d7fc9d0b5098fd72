package wxtoken_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/internal/natsd/natsdtest"
)

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
		t.Error("a token that was not cancelled was lost with the old bucket")
	}
	p.put(shop, 3)
	eventually(t, "the next token", has(client, shop, 3))
}

// A consumer that was removed is replaced.
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
	eventually(t, "the token stored without a watch", has(client, shop, 2))
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
