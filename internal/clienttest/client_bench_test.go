package wxtoken_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
)

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
	record, err := store.TokenRecord(tokenOf(shop, 1, time.Now()))
	if err != nil {
		b.Fatal(err)
	}
	const tokens = 100_000
	js := natsdtest.JetStream(b, p.nc, jetstream.WithPublishAsyncMaxPending(tokens))
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
	for _, readers := range []int{2, 32} {
		b.Run(fmt.Sprintf("goroutines=%d", readers), func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(max(1, readers/runtime.GOMAXPROCS(0)))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := client.Token(key); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
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
