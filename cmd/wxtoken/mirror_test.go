//go:build unix

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams"
	"wxtoken/internal/streams/streamstest"
)

// TestMirrorFollows: what services read goes on after the keeper's data was lost, and nobody is
// told old values for good.
func TestMirrorFollows(t *testing.T) {
	t.Parallel()
	k := newKept(t, accounts)
	cfg := cfg
	cfg.ServicesAPI = k.apis
	setup := func() (created []string, mirrors []streams.Mirror) {
		t.Helper()
		created, err := streams.Setup(t.Context(), k.nc, k.js, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return created, k.mirror(k.apis[0], cfg)
	}
	for range 20 {
		k.put(events.TokenSubject(hotel), k.token(hotel, 1))
	}
	k.reads(1)
	service := k.jetstream(as(t, k.srv, "service"))
	kv, err := service.KeyValue(t.Context(), events.BucketTokens)
	if err != nil {
		t.Fatal(err)
	}
	last, err := kv.Get(t.Context(), hotel.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{events.StreamTokens, "KV_status", events.StreamMessages} {
		if err := k.admin.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if created, _ := setup(); len(created) != 3 {
		t.Errorf("created %v", created)
	}
	if created, _ := setup(); len(created) != 0 {
		t.Errorf("once more: created %v", created)
	}
	k.put(events.TokenSubject(hotel), k.token(hotel, 2))
	k.reads(2)
	next, err := kv.Get(t.Context(), hotel.String())
	if err != nil || next.Revision() <= last.Revision() {
		t.Errorf("revision %d after %d, %v", next.Revision(), last.Revision(), err)
	}
	if _, err := k.js.Publish(t.Context(), "$KV.status."+hotel.String(), []byte("new")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.jetstream(as(t, k.srv, "ingest")).Publish(t.Context(), "wechat.message.wx1.wx2.video", []byte("new")); err != nil {
		t.Fatal(err)
	}
	within(t, 3*time.Minute, "status and message", func() error {
		statuses, err := service.KeyValue(t.Context(), events.BucketStatus)
		if err != nil {
			return err
		}
		if e, err := statuses.Get(t.Context(), hotel.String()); err != nil || string(e.Value()) != "new" {
			return fmt.Errorf("status %v, %w", e, err)
		}
		messages, err := service.CreateOrUpdateConsumer(t.Context(), events.StreamMessages, jetstream.ConsumerConfig{Name: "video", FilterSubject: "wechat.message.wx1.wx2.video"})
		if err == nil && messages.CachedInfo().NumPending != 1 {
			err = errors.New("no message")
		}
		return err
	})
	_, mirrors := setup()
	for _, m := range mirrors {
		if m.Has != m.Newest || m.Created {
			t.Errorf("a mirror that has all: %+v", m)
		}
	}

	// Fed from where nothing is, as somebody with both a service and an ingest could bring about:
	// the mirror stands still until it is fed anew.
	if _, err := as(t, k.srv, "admin").Request("$JS.API.CONSUMER.RESET.KV_tokens.services", []byte(`{"seq":1000000}`), patience); err != nil {
		t.Fatal(err)
	}
	k.put(events.TokenSubject(hotel), k.token(hotel, 3))
	time.Sleep(500 * time.Millisecond)
	if m := k.mirror(k.apis[0], cfg)[1]; m.Stream != events.StreamTokens || m.Has >= m.Newest {
		t.Errorf("the mirror does not stand still: %+v", m)
	} else if err := streams.FeedAnew(t.Context(), k.js, m.MirrorOf, m.Has); err != nil {
		t.Fatal(err)
	}
	k.mirror(k.apis[0], cfg)
	k.reads(3)

	// Other settings: it is said what to do, and it helps.
	cfg.MessagesMaxAge *= 2
	streamstest.Setup(t, k.nc, k.js, cfg)
	mirrors = streams.SetupMirrors(t.Context(), k.nc, k.js, k.apis[0], cfg)
	if len(mirrors) != 3 {
		t.Errorf("%d mirrors, want those of tokens, statuses and messages", len(mirrors))
	}
	for _, m := range mirrors {
		if other := m.Stream == events.StreamMessages; other != (m.Err != nil) || other && !strings.Contains(m.Err.Error(), "account purge") {
			t.Errorf("other settings: %+v", m)
		}
	}
	system, err := nats.Connect("nats://system:secret-of-operator@" + k.srv.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	if _, err := system.Request("$JS.API.ACCOUNT.PURGE.SERVICES", nil, patience); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the mirrors to be gone", func() error {
		if _, err := service.Stream(t.Context(), events.StreamMessages); !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
	if _, mirrors = setup(); len(mirrors) != 3 || slices.ContainsFunc(mirrors, func(m streams.Mirror) bool { return !m.Created }) {
		t.Errorf("after the purge: %+v", mirrors)
	}
	k.reads(3)
}

// TestMirrorFedAgain has a mirror that holds much be fed again and again, as by refreshers that
// find it behind at once, and made its consumer anew.
func TestMirrorFedAgain(t *testing.T) {
	t.Parallel()
	k := newKept(t, accounts)
	ingest := k.jetstream(as(t, k.srv, "ingest"))
	say := func(n int) {
		t.Helper()
		for i := range n {
			if _, err := ingest.PublishAsync("wechat.message.wx1.wx2.text", []byte("{}")); err != nil {
				t.Fatal(err)
			}
			if i%1000 < 999 && i < n-1 {
				continue
			}
			select {
			case <-ingest.PublishAsyncComplete():
			case <-time.After(patience):
				t.Fatal("the messages are not stored")
			}
		}
	}
	messages := func() streams.Mirror {
		t.Helper()
		all := k.mirror(k.apis[0], cfg)
		return all[slices.IndexFunc(all, func(m streams.Mirror) bool { return m.Stream == events.StreamMessages })]
	}
	whole := func(what string) (m streams.Mirror) {
		t.Helper()
		within(t, 30*time.Second, what, func() error {
			if m = messages(); m.Has != m.Newest {
				return fmt.Errorf("%d of %d", m.Has, m.Newest)
			}
			return nil
		})
		return m
	}
	say(6 * 1000) // several times what may be on its way
	m := whole("a mirror of much")
	for range 3 {
		if err := streams.FeedAnew(t.Context(), k.js, m.MirrorOf, m.Has); err != nil {
			t.Fatal(err)
		}
		say(1)
	}
	m = whole("the mirror that was fed again")
	for range 2 {
		if err := k.admin.DeleteConsumer(t.Context(), m.Stream, m.Account); err != nil {
			t.Fatal(err)
		}
		say(1)
		m = whole("the mirror whose consumer was made anew")
	}
}

// BenchmarkNewsAcrossAccounts measures how much later a service hears of a token, and finds it,
// when it is in an account of its own: from the publish ack in the keeper's account on.
func BenchmarkNewsAcrossAccounts(b *testing.B) {
	srv := shipped(b, accounts, adminUser)
	connect := func(user string) (*nats.Conn, jetstream.JetStream) {
		nc := as(b, srv, user)
		js := natsdtest.JetStream(b, nc)
		return nc, js
	}
	keeper, js := connect("refresher")
	streamstest.Setup(b, keeper, js, cfg)
	for _, m := range streams.SetupMirrors(b.Context(), keeper, js, "services.API", cfg) {
		if m.Err != nil {
			b.Fatal(m.Err)
		}
	}
	if _, err := js.Publish(b.Context(), events.TokenSubject(hotel), []byte("{}")); err != nil {
		b.Fatal(err)
	}
	for _, user := range []string{"admin", "service"} { // admin: in the keeper's account
		nc, reader := connect(user)
		var kv jetstream.KeyValue
		eventually(b, "the bucket for "+user, func() (err error) {
			kv, err = reader.KeyValue(b.Context(), events.BucketTokens)
			return err
		})
		news, err := nc.SubscribeSync("token.updated." + hotel.String())
		if err != nil {
			b.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			b.Fatal(err)
		}
		b.Run(user, func(b *testing.B) {
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				ack, err := js.Publish(b.Context(), events.TokenSubject(hotel), []byte("{}"))
				if err != nil {
					b.Fatal(err)
				}
				acked := time.Now()
				if _, err := news.NextMsg(patience); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(acked))
				if e, err := kv.Get(b.Context(), hotel.String()); err != nil || e.Revision() != ack.Sequence {
					b.Fatalf("heard of revision %d, found %v, %v", ack.Sequence, e, err)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
		})
	}
}
