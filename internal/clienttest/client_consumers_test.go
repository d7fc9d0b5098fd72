package wxtoken_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/natsd/natsdtest"
)

// consumers returns how many watches the bucket feeds.
func (p *platform) consumers() int {
	p.t.Helper()
	stream, err := p.js.Stream(p.t.Context(), "KV_tokens")
	if err != nil {
		p.t.Fatal(err)
	}
	return stream.CachedInfo().State.Consumers
}

// However many keys a service names, it takes one consumer for 1,000 of them: an account of services has a limit.
func TestKeysShareAConsumer(t *testing.T) {
	t.Parallel()
	for keys, want := range map[int]int{1: 1, 60: 1, 1001: 2} {
		t.Run(fmt.Sprint(keys), func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			var cfg wxtoken.Config
			for i := range keys {
				key := wxtoken.AuthorizerKey(shop.Component, fmt.Sprintf("wx%04d", i))
				p.put(key, 1)
				cfg.Keys = append(cfg.Keys, key)
			}
			p.put(shop, 1) // not asked for
			client := p.client(cfg)
			if n := p.consumers(); n != want {
				t.Errorf("%d consumers, want %d", n, want)
			}
			p.put(cfg.Keys[0], 2)
			eventually(t, "a renewed token", has(client, cfg.Keys[0], 2))
			if n := client.Stats().Tokens; n != keys {
				t.Errorf("%d tokens in the view, want %d", n, keys)
			}
		})
	}
}

// A user who may not make a consumer with several filters gets one for each key, without a wait.
func TestKeysByThemselves(t *testing.T) {
	t.Parallel()
	admin, service := serverWithUsers(t, "authorizer."+shop.Component+".*", false)
	p := &platform{t: t, nc: admin}
	p.js = natsdtest.JetStream(t, admin)
	p.createBucket()
	p.put(shop, 1)
	p.put(hotel, 1)
	client := newClient(t, service(), wxtoken.Config{Keys: []wxtoken.Key{shop, hotel}})
	if n := p.consumers(); n != 2 {
		t.Errorf("%d consumers, want one for each key", n)
	}
	if stats := client.Stats(); stats.Faults != 0 || !stats.Live {
		t.Errorf("Stats = %+v", stats)
	}
}

// Where the account has no more consumers to give, the error says which limit that is.
func TestNoMoreConsumers(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	if err := p.js.DeleteStream(t.Context(), "KV_tokens"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "KV_tokens", Subjects: []string{"$KV.tokens.>"}, MaxMsgsPerSubject: 1, AllowDirect: true, AllowRollup: true, DenyDelete: true, MaxConsumers: 1,
	}); err != nil {
		t.Fatal(err)
	}
	p.put(shop, 1)
	first := p.client(wxtoken.Config{})
	second := p.srv.Connect()
	givesUp(t, func(ctx context.Context) error {
		_, err := wxtoken.NewClient(ctx, second, wxtoken.Config{})
		return err
	}, context.DeadlineExceeded, "max_consumers", "raise it")
	first.Close()
	p.client(wxtoken.Config{}) // once there is room
}
