#!/usr/bin/env bash
# A key with a TTL lives as long as the bucket's delete markers, if that is longer, and the bucket keeps more than one revision of a key.
#
# One would guess: a lock made with KeyTTL(2s) is free after two seconds; LimitMarkerTTL says how long the marker stays after that.
# What comes out: it is so with a history of 1. With any other history the server raises the TTL of each message to that of the markers, and
# neither refuses nor says it: the lock is held for 8 s here, and with markers of a day for a day.
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

const (
	life   = 2 * time.Second // of the key
	marker = 8 * time.Second // of what stays after it
)

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
	held := func(history uint8) time.Duration {
		kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: fmt.Sprintf("history%d", history), History: history, LimitMarkerTTL: marker})
		check(err)
		began := time.Now()
		_, err = kv.Create(ctx, "lock", []byte("mine"), jetstream.KeyTTL(life))
		check(err)
		for {
			_, err := kv.Create(ctx, "lock", []byte("theirs")) // another wants it
			if err == nil {
				return time.Since(began).Round(100 * time.Millisecond)
			}
			if !errors.Is(err, jetstream.ErrKeyExists) {
				check(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	one, two := held(1), held(2)
	fmt.Printf("TTL of the key %v, of markers %v: the lock was held for %v with a history of 1, for %v with a history of 2\n", life, marker, one, two)
	if one >= marker || two < marker {
		fmt.Println("CHANGED: found before: about 2 s and about 8 s")
		os.Exit(1)
	}
	fmt.Println("as found: with a history the markers' TTL is the least that a key may have")
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "not tried:", err)
		os.Exit(2)
	}
}
GO
{ go get github.com/nats-io/nats-server/v2@v2.15.3 github.com/nats-io/nats.go@v1.55.0 && go mod tidy && go build -o finding .; } >build.log 2>&1 || { cat build.log; echo "not tried: not built"; exit 2; }
timeout 110 ./finding
