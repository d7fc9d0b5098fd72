#!/usr/bin/env bash
# A bucket with a TTL and delete markers never gets room again once max_file_store is reached: what is past its TTL stays, and is read.
#
# One would guess: a full store gets room as keys expire, as it does without markers, and an expired key is gone in any case.
# What comes out: with LimitMarkerTTL an expired key is removed by storing its marker, and a full store takes none. So nothing expires, reads
# give values of any age, each put is refused (10023), and it stays so until room is made by hand.
#
# Exit: 0 when it comes out so, 1 when it does not, 2 when it could not be tried. Wants: go. Takes a minute, for building, and one for trying.
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
	life   = 5 * time.Second
	wait   = 15 * time.Second // after that the keys should be gone
	marker = time.Second
)

// fill fills a store of 1 MiB with a bucket, and tells what is there later: whether a put is taken, and a key read that should be gone.
func fill(ctx context.Context, markers time.Duration) (taken, read bool) {
	dir, err := os.MkdirTemp(".", "store")
	check(err)
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, JetStreamMaxStore: 1 << 20})
	check(err)
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		check(fmt.Errorf("the server does not start"))
	}
	defer s.Shutdown()
	nc, err := nats.Connect(s.ClientURL())
	check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	check(err)
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", TTL: life, LimitMarkerTTL: markers})
	check(err)
	n := 0
	put := func(size int) error {
		n++
		_, err := kv.Put(ctx, fmt.Sprintf("key%d", n), make([]byte, size))
		return err
	}
	var full error
	for size := 10000; size > 0; size /= 10 { // to the brim
		for full = nil; full == nil; {
			full = put(size)
		}
	}
	api := new(jetstream.APIError)
	if !errors.As(full, &api) || api.ErrorCode != 10023 {
		check(fmt.Errorf("the store does not get full: %w", full))
	}
	time.Sleep(wait)
	_, err = kv.Get(ctx, "key1")
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		check(err)
	}
	return put(1) == nil, err == nil
}

func main() {
	fmt.Println("nats-server", server.VERSION, "nats.go", nats.Version)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	taken, read := fill(ctx, 0)
	fmt.Printf("without markers, %v after the store got full with keys that live for %v: a put is taken %t, an expired key is read %t\n", wait, life, taken, read)
	takenWith, readWith := fill(ctx, marker)
	fmt.Printf("with markers:                                                              a put is taken %t, an expired key is read %t\n", takenWith, readWith)
	if !taken || read || takenWith || !readWith {
		fmt.Println("CHANGED: found before: true, false; false, true")
		os.Exit(1)
	}
	fmt.Println("as found: with markers nothing expires while the store is full, and so it stays full")
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
