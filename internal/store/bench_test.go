//go:build unix

package store_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/seal"
	"wxtoken/internal/store"
	"wxtoken/internal/streams"
)

// BenchmarkWatch reads what lies in NATS for so many accounts, as a refresher does at its start. The records are as long as
// WeChat's. live-B/key is what a view keeps of each.
func BenchmarkWatch(b *testing.B) {
	const accounts = 50_000
	for _, sealed := range []bool{false, true} {
		b.Run(fmt.Sprintf("accounts=%d/sealed=%t", accounts, sealed), func(b *testing.B) {
			nc := natsdtest.Start(b).Connect()
			js := natsdtest.JetStream(b, nc)
			if _, err := streams.Setup(b.Context(), nc, js, events.SetupConfig{MessagesMaxAge: time.Hour}); err != nil {
				b.Fatal(err)
			}
			var keys *seal.Keys
			if sealed {
				seed, _, err := seal.Make()
				if err != nil {
					b.Fatal(err)
				}
				if keys, err = seal.FromSeeds(seed); err != nil {
					b.Fatal(err)
				}
			}
			s, err := store.Open(b.Context(), nc, js, keys, nil)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); s.Run(ctx) }()
			defer func() { cancel(); <-ended }()
			var group errgroup.Group
			group.SetLimit(300)
			for i := range accounts {
				group.Go(func() error {
					_, err := s.Commit(ctx, longCredential(i), longToken(i))
					return err
				})
			}
			if err := group.Wait(); err != nil {
				b.Fatal(err)
			}
			var before, after runtime.MemStats
			computed := time.Duration(0)
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				began := natsdtest.Computed()
				ctx, cancel := context.WithCancel(b.Context())
				view, wait, err := s.Watch(ctx, zerolog.Nop(), nil)
				if err != nil || view.Len() != accounts {
					b.Fatal(err, view.Len())
				}
				b.StopTimer()
				computed += natsdtest.Computed() - began
				runtime.GC()
				runtime.ReadMemStats(&after)
				cancel()
				wait()
				runtime.KeepAlive(view)
				b.StartTimer()
			}
			b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/accounts, "live-B/key")
			b.ReportMetric(float64(computed.Nanoseconds())/float64(b.N)/accounts, "cpu-ns/key") // the server's time too: what a busy machine leaves as it is
		})
	}
}

func longKey(i int) wxtoken.Key {
	return wxtoken.AuthorizerKey("wx0123456789abcdef", fmt.Sprintf("wxa%015d", i))
}

func longCredential(i int) account.Credential {
	key := longKey(i)
	return account.Credential{
		Key: key, Generation: 1, Ref: "tenant-" + key.Authorizer, AuthorizedAt: time.Now().UTC(),
		RefreshToken: "refreshtoken@@@" + strings.Repeat("x", 36) + fmt.Sprintf("%07d", i),
		History:      slices.Repeat([]account.Past{{Generation: 1, At: time.Now(), Reason: events.ReasonScheduled, Took: 80 * time.Millisecond, By: "refresher-1"}}, 8),
	}
}

func longToken(i int) wxtoken.Token {
	now := time.Now().UTC()
	value := func(s string) wxtoken.Secret {
		return wxtoken.NewSecret(strings.Repeat(s, 150) + fmt.Sprintf("%07d", i))
	}
	return wxtoken.Token{
		Key: longKey(i), Value: value("x"), Generation: 1, ObtainedAt: now, ExpiresAt: now.Add(2 * time.Hour), RenewAt: now.Add(80 * time.Minute),
		Previous: &wxtoken.Previous{Value: value("y"), ValidUntil: now.Add(5 * time.Minute)},
	}
}
