package redis

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/services"
	"wxtoken/internal/store"
)

var accounts = flag.Int("accounts", 10_000, "accounts in BenchmarkFill")

// BenchmarkFill measures how long it takes to write the tokens of all accounts into an empty Redis, and a pass that finds all there.
func BenchmarkFill(b *testing.B) {
	server, p := startRedis(b), newPlatform(b)
	for i := range *accounts {
		key := wxtoken.AuthorizerKey(component, fmt.Sprintf("wx%016d", i))
		one := token(key, 1, time.Now())
		one.Value = wxtoken.NewSecret(fmt.Sprintf("%0157d", i)) // as long as WeChat's
		record, err := store.TokenRecord(one)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.js.PublishMsgAsync(&nats.Msg{Subject: "$KV.tokens." + key.String(), Data: record}); err != nil {
			b.Fatal(err)
		}
	}
	<-p.js.PublishAsyncComplete()
	client, err := wxtoken.NewClient(b.Context(), p.nats.Connect(), wxtoken.Config{Accounts: true})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	file := filepath.Join(b.TempDir(), "services.json")
	if err := os.WriteFile(file, []byte(`{"services":[`+service(everyone)+`]}`), 0o600); err != nil {
		b.Fatal(err)
	}
	watch, err := services.Open(file, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	w, err := New(Config{RedisURL: wxtoken.NewSecret(server.url()), RedisFormat: []string{"wxjava"}}, client, watch, zerolog.Nop(), prometheus.NewRegistry(), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	for token := range client.Updates(b.Context()) {
		if w.markDirty(token.Key); len(w.dirty) == *accounts {
			break
		}
	}
	conn, err := w.server.dial(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	var full, pass time.Duration
	for b.Loop() {
		server.do("FLUSHALL")
		began := time.Now()
		if err := w.fill(conn); err != nil {
			b.Fatal(err)
		}
		full += time.Since(began)
		began = time.Now()
		if err := w.fill(conn); err != nil {
			b.Fatal(err)
		}
		pass += time.Since(began)
	}
	if w.keys != *accounts {
		b.Fatalf("%d keys", w.keys)
	}
	b.ReportMetric(full.Seconds()/float64(b.N), "s/fill")
	b.ReportMetric(pass.Seconds()/float64(b.N), "s/pass")
}
