package wxtoken_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/internal/natsd/natsdtest"
)

// Each of many keys has its own token, however alike they are: tickets beside the token of the same account, one account under several
// components, and appids that differ in one letter.
func TestClientManyKeys(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	js := natsdtest.JetStream(t, p.nc)
	var keys []wxtoken.Key
	for c := range 4 {
		component := fmt.Sprintf("wxc%d", c)
		keys = append(keys, wxtoken.ComponentKey(component))
		for a := range 200 {
			account := fmt.Sprintf("wxa%d", a)
			keys = append(keys, wxtoken.AuthorizerKey(component, account), wxtoken.JSAPITicketKey(component, account), wxtoken.WxCardTicketKey(component, account))
		}
	}
	client := p.client(wxtoken.Config{}) // some come after it is ready, so that its table grows under its readers
	for i, key := range keys {
		if _, err := js.PublishAsync("$KV.tokens."+key.String(), []byte(fmt.Sprintf(`{"key":%q,"value":%q,"generation":1,"expires_at":"2099-01-01T00:00:00Z"}`, key, valueOf(key, uint64(i))))); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	for i, key := range keys {
		eventually(t, key.String(), func() bool {
			token, err := client.Token(key)
			return err == nil && token.Key == key && token.Value == wxtoken.NewSecret(valueOf(key, uint64(i)))
		})
	}
	if got := client.Stats(); got.Tokens != len(keys) || got.Updates != uint64(len(keys)) {
		t.Errorf("stats %+v, want %d tokens", got, len(keys))
	}
	p.mark(keys[7], "DEL")
	eventually(t, "a token less", func() bool { return client.Stats().Tokens == len(keys)-1 })
	wantError(t, errOf(client.Token(keys[7])), wxtoken.ErrRevoked)
}

func errOf(_ wxtoken.Token, err error) error { return err }

// The token before is forgotten once WeChat accepts it no more, or is not taken in at all.
func TestClientForgetsPrevious(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	start := time.Now().UTC()
	token, old := tokenOf(shop, 2, start), tokenOf(hotel, 2, start)
	token.Previous = &wxtoken.Previous{Value: wxtoken.NewSecret("before"), ValidUntil: start.Add(5 * time.Minute)}
	old.Previous = &wxtoken.Previous{Value: wxtoken.NewSecret("long before"), ValidUntil: start.Add(-time.Minute)}
	p.putToken(token)
	p.putToken(old)
	var later atomic.Int64
	client := p.client(wxtoken.Config{Now: func() time.Time { return start.Add(time.Duration(later.Load())) }})
	previous := func(key wxtoken.Key) *wxtoken.Previous {
		token, err := client.Token(key)
		if err != nil {
			t.Fatal(err)
		}
		return token.Previous
	}
	if got := previous(shop); got == nil || got.Value.Reveal() != "before" {
		t.Errorf("Previous = %v", got)
	}
	if got := previous(hotel); got != nil {
		t.Errorf("Previous = %v, though it was over a minute ago", got)
	}
	later.Store(int64(6 * time.Minute))
	eventually(t, "the token before forgotten", func() bool { return previous(shop) == nil })
	if got := client.Stats().Updates; got != 2 {
		t.Errorf("%d updates, want 2: that is none", got)
	}
}

// By the clock of the machine a token expires within a second.
func TestClientOwnClock(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	token := tokenOf(shop, 1, time.Now())
	token.ExpiresAt = time.Now().Add(3 * time.Second)
	p.putToken(token)
	client := p.client(wxtoken.Config{})
	eventually(t, "the token expired", fails(client, shop, wxtoken.ErrExpired))
	if early := time.Until(token.ExpiresAt); early > time.Second {
		t.Errorf("expired %s too early", early)
	}
}

// A client is not ready while the server waits for an answer of its flow control: it has not sent everything then, and says so by a
// heartbeat.
func TestClientStalled(t *testing.T) {
	t.Parallel()
	srv, err := server.NewServer(&server.Options{
		JetStream: true, StoreDir: t.TempDir(), DontListen: true, NoSigs: true, NoLog: true,
		Users: []*server.User{
			{Username: "admin", Password: "admin"},
			{Username: "service", Password: "service", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.FC.>"}}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	connect := func(name string) *nats.Conn {
		quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
		nc, err := nats.Connect("", nats.InProcessServer(srv), nats.UserInfo(name, name), quiet)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	p := &platform{t: t, nc: connect("admin")}
	p.js = natsdtest.JetStream(t, p.nc)
	p.createBucket()
	const tokens = 20 // of half a megabyte: more than the server sends at once
	for i := range tokens {
		token := tokenOf(wxtoken.AuthorizerKey(shop.Component, fmt.Sprintf("wxa%d", i)), 1, time.Now())
		token.Value = wxtoken.NewSecret(strings.Repeat("x", 500_000))
		p.putToken(token)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second) // three heartbeats
	defer cancel()
	client, err := wxtoken.NewClient(ctx, connect("service"), wxtoken.Config{})
	if err == nil {
		t.Errorf("ready with %d of %d tokens", client.Stats().Tokens, tokens)
		client.Close()
	}
}

// Accounts come in the order of their keys' texts, in which "-" stands before the dot, and "_" behind.
func TestClientAccountsInOrder(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	for _, component := range []string{"wx", "wx-", "wx-0", "wx0", "wx_", "w"} {
		p.say(wxtoken.ComponentKey(component), wxtoken.StateActive, "")
		for _, account := range []string{"a", "a-", "a0", "b"} {
			p.say(wxtoken.AuthorizerKey(component, account), wxtoken.StateActive, "")
		}
	}
	client := p.client(accounts)
	var all []string
	for status := range client.Accounts() {
		all = append(all, status.Key.String())
	}
	if len(all) != 30 || !slices.IsSorted(all) {
		t.Errorf("%d accounts, in this order: %q", len(all), all)
	}
}

// Any of several accounts with one ref may leave it, in any order.
func TestClientSharedRef(t *testing.T) {
	t.Parallel()
	p := withStatuses(t)
	var keys []wxtoken.Key
	for i := range 6 {
		keys = append(keys, wxtoken.AuthorizerKey(shop.Component, fmt.Sprintf("wxa%d", i)))
		p.say(keys[i], wxtoken.StateActive, "tenant")
	}
	client := p.client(accounts)
	for _, i := range []int{2, 4, 2, 0, 0} { // from the middle, the ends and again
		if gone := keys[i]; i == 4 {
			p.forget(gone)
		} else {
			p.say(gone, wxtoken.StateRevoked, "elsewhere")
		}
		keys = slices.Delete(keys, i, i+1)
		eventually(t, "one less", finds(t, client, "tenant", keys...))
	}
	p.say(keys[0], wxtoken.StateRevoked, "tenant") // the only one stays
	eventually(t, "its new state", func() bool {
		status, err := client.Account(keys[0])
		return err == nil && status.State == wxtoken.StateRevoked
	})
	if got := found(t, client, "tenant"); !slices.Equal(got, keys) {
		t.Errorf("Find = %v, want %v", got, keys)
	}
}
