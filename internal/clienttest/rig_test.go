package wxtoken_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 8) }

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
	js := natsdtest.JetStream(t, p.nc)
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
	record, err := store.TokenRecord(token)
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

func eventually(t testing.TB, what string, ok func() bool) { t.Helper(); looktest.Until(t, what, ok) }

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
