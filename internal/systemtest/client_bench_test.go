//go:build linux

package systemtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
)

// BenchmarkClient fills the bucket of a real nats-server with so many tokens, as long as WeChat's and renewed one after the other over a
// life, and measures a Client of all of them, and one of a single key: how long until it is ready, and the memory it holds. Then
// it reads tokens.
//
//	go test -run '^$' -bench 'Client/keys=1000000' -benchtime 1x -timeout 30m ./internal/systemtest
func BenchmarkClient(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) { benchClient(b, n) })
	}
}

func benchClient(b *testing.B, n int) {
	_, url := beginNATS(b, "2m") // for the filling: nothing is written afterwards
	fillTokens(b, url, n)
	b.Run("open=one", func(b *testing.B) { measureClient(b, url, wxtoken.Config{Keys: []wxtoken.Key{benchKey(n / 2)}}, 1) })
	b.Run("open=all", func(b *testing.B) { measureClient(b, url, wxtoken.Config{}, n) })
	client := openClient(b, dial(b, url), wxtoken.Config{})
	b.Run("clock", func(b *testing.B) { // what a look at the clock costs here
		for b.Loop() {
			_ = time.Now()
		}
	})
	b.Run("Token=same", func(b *testing.B) { readTokens(b, client, 1) })
	b.Run("Token=any", func(b *testing.B) { readTokens(b, client, n) })
}

// readTokens reads some of n keys, in any order.
func readTokens(b *testing.B, client *wxtoken.Client, n int) {
	keys := make([]wxtoken.Key, min(n, 1<<16))
	for i := range keys {
		keys[i] = benchKey(rand.IntN(n))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := client.Token(keys[i%len(keys)]); err != nil {
			b.Fatal(err)
		}
	}
}

// measureClient opens one Client, whatever b.N, and reports how long it took to be ready and what the heap has grown by.
func measureClient(b *testing.B, url string, cfg wxtoken.Config, keys int) {
	nc := dial(b, url)
	before := heap()
	began, computed := time.Now(), natsdtest.Computed()
	client := openClient(b, nc, cfg)
	took := time.Since(began)
	computed = natsdtest.Computed() - computed
	b.ReportMetric(float64(heap()-before)/float64(keys), "B/key")
	b.ReportMetric(float64(took.Milliseconds()), "ready-ms")
	b.ReportMetric(float64(computed.Milliseconds()), "cpu-ms") // of this process, whatever else the machine does
	b.ReportMetric(0, "ns/op")
	runtime.KeepAlive(client)
}

func openClient(b *testing.B, nc *nats.Conn, cfg wxtoken.Config) *wxtoken.Client {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, nc, cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(client.Close)
	return client
}

// heap returns the bytes that are in use.
func heap() int {
	var m runtime.MemStats
	for range 3 { // a unique value is let go by one collection, and its memory by the next
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func benchKey(i int) wxtoken.Key {
	return wxtoken.AuthorizerKey("wxc0ffee00000001", fmt.Sprintf("wxa%015d", i))
}

// fillTokens stores tokens of n keys, as a refresher does.
func fillTokens(b *testing.B, url string, n int) {
	b.Helper()
	nc := dial(b, url)
	defer nc.Close() // and its buffers
	js := natsdtest.JetStream(b, nc, jetstream.WithPublishAsyncMaxPending(1000))
	streamstest.Setup(b, nc, js, events.SetupConfig{MessagesMaxAge: time.Hour})
	stream, err := js.Stream(b.Context(), events.StreamTokens)
	if err != nil {
		b.Fatal(err)
	}
	const life, fraction = 2 * time.Hour, 80 * time.Minute
	now := time.Now().UTC().Truncate(time.Second)
	for i := range n {
		at := now.Add(-fraction * time.Duration(n-i) / time.Duration(n))
		token := wxtoken.Token{
			Key: benchKey(i), Generation: 7, ObtainedAt: at, ExpiresAt: at.Add(life), RenewAt: at.Add(fraction),
			Value:    wxtoken.NewSecret(fmt.Sprintf("92_%015d%s", i, strings.Repeat("x", 139))),
			Previous: &wxtoken.Previous{Value: wxtoken.NewSecret(fmt.Sprintf("91_%015d%s", i, strings.Repeat("x", 139))), ValidUntil: at.Add(5 * time.Minute)},
		}
		record, err := store.TokenRecord(token)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := js.PublishAsync(events.TokenSubject(token.Key), record, jetstream.WithStallWait(time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	info, err := stream.Info(b.Context())
	if err != nil || info.State.Msgs < uint64(n) {
		b.Fatalf("%d messages of %d stored: %v", info.State.Msgs, n, err)
	}
}
