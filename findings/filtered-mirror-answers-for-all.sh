#!/usr/bin/env bash
# A mirror with a filter answers reads of the whole bucket, and says "not found" of the keys that it does not copy.
#
# One would guess: a mirror that copies shop.> of a bucket is asked about shop.> or about nothing, and mirror_direct: false keeps it out.
# What comes out: a mirror in the account of its bucket takes its share of all direct gets of the bucket, whatever its filter, so about
# every second read of another key fails. The server turns mirror_direct on by itself, at the creation and at each update that says false.
#
# Exit: 0 when it comes out so, 1 when it does not, 2 when it could not be tried. Wants: go. Takes a minute, for building.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
cat >go.mod <<'MOD'
module finding

go 1.26
MOD
cat >main.go <<'GO'
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const reads = 200

func main() {
	fmt.Println("nats-server", server.VERSION, "nats.go", nats.Version)
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: "store"})
	check(err)
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		check(fmt.Errorf("the server does not start"))
	}
	defer s.Shutdown()
	nc, err := nats.Connect(s.ClientURL())
	check(err)
	js, err := jetstream.New(nc)
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "tokens"})
	check(err)
	missed := func(key string) (n int) { // how many reads say that there is no such key
		for range reads {
			if _, err := kv.Get(ctx, key); errors.Is(err, jetstream.ErrKeyNotFound) {
				n++
			} else {
				check(err)
			}
		}
		return n
	}

	for _, key := range []string{"shop.a", "bank.b"} {
		_, err = kv.Put(ctx, key, []byte("token"))
		check(err)
	}
	before := missed("shop.a") + missed("bank.b")
	cfg := jetstream.StreamConfig{Name: "SHOP", MirrorDirect: false,
		Mirror: &jetstream.StreamSource{Name: "KV_tokens", FilterSubject: "$KV.tokens.shop.>"}}
	mirror, err := js.CreateStream(ctx, cfg)
	check(err)
	created := mirror.CachedInfo().Config.MirrorDirect
	cfg.Mirror = mirror.CachedInfo().Config.Mirror
	mirror, err = js.UpdateStream(ctx, cfg)
	check(err)
	updated := mirror.CachedInfo().Config.MirrorDirect
	for info := mirror.CachedInfo(); info.State.Msgs == 0; info, err = mirror.Info(ctx) {
		check(err)
		time.Sleep(50 * time.Millisecond)
	}
	var copied, other int
	for began := time.Now(); other == 0 && time.Since(began) < 20*time.Second; { // until it takes its share
		copied, other = missed("shop.a"), missed("bank.b")
	}
	fmt.Println("mirror_direct: false was asked for; after the creation it is", created, "and after an update", updated)
	fmt.Printf("reads that say there is no such key: before the mirror %d; with it, of %d each: a key that it copies %d, another %d\n", before, reads, copied, other)
	if !created || !updated || before != 0 || copied != 0 || other == 0 || other == reads {
		fmt.Println("CHANGED: found before: true, true, none before the mirror, none of what it copies, about half of the others")
		os.Exit(1)
	}
	fmt.Println("as found: the mirror answers for what it does not have")
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "not tried:", err)
		os.Exit(2)
	}
}
GO
{ go get github.com/nats-io/nats-server/v2@v2.15.3 github.com/nats-io/nats.go@v1.55.0 && go mod tidy && go build -o finding .; } >build.log 2>&1 || { cat build.log; echo "not tried: not built"; exit 2; }
timeout 100 ./finding
