#!/usr/bin/env bash
# The key of nats-server's disk, changed in place with prev_encryption_key, keeps the messages and nothing else.
#
# One would guess: with `key` new and `prev_encryption_key` old, a server comes back with all that it had, encrypted anew.
# What comes out: streams with messages come back with them, without their durable consumers; a stream that never had a message is gone.
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
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// run starts a server with a key, and before it another, calls f, and stops it in order.
func run(key, before string, f func(context.Context, jetstream.JetStream)) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: "store",
		JetStreamCipher: server.ChaCha, JetStreamKey: key, JetStreamOldKey: before})
	check(err)
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		check(fmt.Errorf("the server does not start"))
	}
	nc, err := nats.Connect(s.ClientURL())
	check(err)
	js, err := jetstream.New(nc)
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	f(ctx, js)
	nc.Close()
	s.Shutdown()
	s.WaitForShutdown()
}

// look tells what there is: messages of FULL (-1: no such stream), its consumers, and whether EMPTY is there.
func look(ctx context.Context, js jetstream.JetStream) string {
	messages, consumers := -1, 0
	if s, err := js.Stream(ctx, "FULL"); err == nil {
		messages, consumers = int(s.CachedInfo().State.Msgs), s.CachedInfo().State.Consumers
	}
	_, err := js.Stream(ctx, "EMPTY")
	return fmt.Sprintf("FULL: %d messages, %d consumers; EMPTY is there: %t", messages, consumers, err == nil)
}

func main() {
	fmt.Println("nats-server", server.VERSION, "nats.go", nats.Version)
	var first, same, changed string
	run("one", "", func(ctx context.Context, js jetstream.JetStream) {
		for _, name := range []string{"FULL", "EMPTY"} {
			_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}})
			check(err)
		}
		_, err := js.CreateConsumer(ctx, "FULL", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy})
		check(err)
		for range 3 {
			_, err := js.Publish(ctx, "FULL.a", []byte("m"))
			check(err)
		}
		first = look(ctx, js)
	})
	run("one", "", func(ctx context.Context, js jetstream.JetStream) { same = look(ctx, js) })
	run("two", "one", func(ctx context.Context, js jetstream.JetStream) { changed = look(ctx, js) })
	fmt.Println("before:                  ", first)
	fmt.Println("restarted, same key:     ", same)
	fmt.Println("restarted, key changed:  ", changed)
	if same != first || changed != "FULL: 3 messages, 0 consumers; EMPTY is there: false" {
		fmt.Println("CHANGED: found before: 3 messages, 0 consumers, and EMPTY gone")
		os.Exit(1)
	}
	fmt.Println("as found: the messages are kept, consumers and the empty stream are not")
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "not tried:", err)
		os.Exit(2)
	}
}
GO
{ go get github.com/nats-io/nats-server/v2@v2.15.3 github.com/nats-io/nats.go@v1.55.0 && go mod tidy && go build -o finding .; } >build.log 2>&1 || { cat build.log; echo "not tried: not built"; exit 2; }
./finding
