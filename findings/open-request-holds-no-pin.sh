#!/usr/bin/env bash
# A pull request that stays open does not keep the pin of a pinned consumer at its client.
#
# One would guess: with priority_policy pinned_client, the client that has the pin and a request open all the time stays pinned;
# priority_timeout (PinnedTTL) is for a client that is gone.
# What comes out: the time-out counts from the last request alone. A client that waits in one long request, as an idle stream makes it,
# loses the pin after that time, and the next message goes to another client, although the first is there and asked before it.
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
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const pinTTL = time.Second

// client asks once, for many messages, and keeps the request open.
type client struct {
	nc   *nats.Conn
	name string
	sub  *nats.Subscription
	pin  string
}

// ask sends a pull request that is good for a minute, with the pin that the client has.
func (c *client) ask() {
	request, err := json.Marshal(map[string]any{"batch": 100, "expires": time.Minute, "group": "g", "id": c.pin})
	check(err)
	check(c.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.S.worker", c.sub.Subject, request))
	check(c.nc.Flush())
}

// got returns whether a message came within a while, and notes its pin.
func (c *client) got() bool {
	m, err := c.sub.NextMsg(500 * time.Millisecond)
	if err != nil || m.Header.Get("Status") != "" {
		return false
	}
	c.pin = m.Header.Get("Nats-Pin-Id")
	check(m.AckSync())
	return true
}

func main() {
	fmt.Println("nats-server", server.VERSION, "nats.go", nats.Version)
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: "store"})
	check(err)
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		check(fmt.Errorf("the server does not start"))
	}
	defer s.Shutdown()
	connect := func(name string) *client {
		nc, err := nats.Connect(s.ClientURL())
		check(err)
		sub, err := nc.SubscribeSync(nats.NewInbox())
		check(err)
		return &client{nc: nc, name: name, sub: sub}
	}
	first, second := connect("first"), connect("second")
	js, err := jetstream.New(first.nc)
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	check(err)
	_, err = js.CreateConsumer(ctx, "S", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy,
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"g"}, PinnedTTL: pinTTL})
	check(err)
	publish := func() {
		_, err := js.Publish(ctx, "s", nil)
		check(err)
	}

	first.ask() // for 100 messages, good for a minute: it stays open to the end
	publish()
	if !first.got() {
		check(fmt.Errorf("the first message does not come to the only client that asked"))
	}
	second.ask()
	publish()
	within := first.got() && !second.got()
	time.Sleep(3 * pinTTL) // nothing happens, and the first request is open
	publish()
	after := second.got()
	fmt.Println("at once, the client with the pin gets the next message:  ", within)
	fmt.Println("after three times the time-out, the other client gets it:", after)
	if !within || !after {
		fmt.Println("CHANGED: found before: true, true")
		os.Exit(1)
	}
	fmt.Println("as found: the open request held no pin")
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
