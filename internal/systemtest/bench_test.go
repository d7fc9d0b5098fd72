package systemtest

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams"
	"wxtoken/wechatsim"
)

// syncAlways has the server flush each message to the disk before its ack, as production does.
func syncAlways(cfg *natsd.Config) { cfg.SyncAlways = true }

// BenchmarkRenewals counts the renewals per second of one refresher when WeChat takes 50 ms to
// answer: all authorizers are made due at once, b.N of them. Where it was away, what is due lies in
// NATS already when it starts; else NATS stores it beside the renewals, each with a flush of its own.
func BenchmarkRenewals(b *testing.B) {
	b.Run("concurrency=64", func(b *testing.B) { renewals(b, 64, false) })
	b.Run("concurrency=256", func(b *testing.B) { renewals(b, 256, false) })
	b.Run("away/concurrency=256", func(b *testing.B) { renewals(b, 256, true) })
}

func renewals(b *testing.B, concurrency int, away bool) {
	w := newWorld(b, wechatsim.Config{TicketEvery: time.Hour, Latency: 50 * time.Millisecond}, syncAlways)
	w.cfg.Concurrency, w.cfg.APIRate = concurrency, 10_000
	first := w.start()
	w.eventually(time.Minute, func() error { return w.component() })
	js := natsdtest.JetStream(b, w.reader(), jetstream.WithPublishAsyncMaxPending(1+b.N))
	var stored atomic.Int64
	if _, err := w.reader().Subscribe("token.updated.authorizer.>", func(*nats.Msg) { stored.Add(1) }); err != nil {
		b.Fatal(err)
	}
	if err := w.reader().Flush(); err != nil {
		b.Fatal(err)
	}
	until := func(n int) {
		w.eventually(10*time.Minute, func() error {
			if got := stored.Load(); got < int64(n) {
				return fmt.Errorf("%d of %d tokens stored", got, n)
			}
			return nil
		})
	}
	for i := range b.N {
		if err := w.sim.Authorize(testAppID, appidOf(i)); err != nil {
			b.Fatal(err)
		}
	}
	until(b.N)
	w.eventually(10*time.Minute, func() error { // profiles are fetched too, everything is quiet
		cons, err := js.Consumer(w.ctx, events.StreamAuth, events.DurableAuth)
		if err != nil {
			return err
		}
		if i := cons.CachedInfo(); i.NumPending > 0 || i.NumAckPending > 0 {
			return fmt.Errorf("%d events left", i.NumPending+uint64(i.NumAckPending))
		}
		return nil
	})
	if away {
		first.stop()
	}
	b.ResetTimer()
	for i := range b.N {
		m, err := events.DueMsg(events.Due{Key: wxtoken.AuthorizerKey(testAppID, appidOf(i)), Generation: 1, Reason: events.ReasonScheduled})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := js.PublishMsgAsync(m); err != nil {
			b.Fatal(err)
		}
	}
	if away {
		<-js.PublishAsyncComplete()
		b.ResetTimer()
		w.start()
	}
	until(2 * b.N)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "renewals/s")
}

// BenchmarkUpdated measures from the start of a commit of credential, token and schedule until a
// subscriber of token.updated has the token, one at a time.
func BenchmarkUpdated(b *testing.B) {
	w := newWorld(b, wechatsim.Config{}, syncAlways)
	nc := w.nats.Connect()
	js := natsdtest.JetStream(b, nc)
	if _, err := streams.Setup(w.ctx, nc, js, events.SetupConfig{MessagesMaxAge: time.Hour}); err != nil {
		b.Fatal(err)
	}
	s, err := store.Open(w.ctx, nc, js, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-ended })
	arrived := make(chan time.Time, 1)
	if _, err := w.reader().Subscribe("token.updated.>", func(*nats.Msg) { arrived <- time.Now() }); err != nil {
		b.Fatal(err)
	}
	if err := w.reader().Flush(); err != nil {
		b.Fatal(err)
	}
	key := wxtoken.AuthorizerKey(testAppID, appidOf(1))
	cred := account.Credential{Key: key, RefreshToken: "refreshtoken@@@x"}
	var commit, news []time.Duration
	for b.Loop() {
		cred.Generation++
		now := time.Now()
		cred, err = s.Commit(w.ctx, cred, wxtoken.Token{
			Key: key, Value: wxtoken.NewSecret("token"), Generation: cred.Generation,
			ObtainedAt: now, ExpiresAt: now.Add(2 * time.Hour), RenewAt: now.Add(time.Hour),
		})
		if err != nil {
			b.Fatal(err)
		}
		stored := time.Now()
		at := <-arrived
		commit = append(commit, at.Sub(now))
		news = append(news, at.Sub(stored))
	}
	report(b, commit, "commit-to-subscriber")
	report(b, news, "ack-to-subscriber")
}

// report reports the median and the 99th percentile, in microseconds.
func report(b *testing.B, d []time.Duration, name string) {
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2].Microseconds()), "p50-us/"+name)
	b.ReportMetric(float64(d[len(d)*99/100].Microseconds()), "p99-us/"+name)
}
