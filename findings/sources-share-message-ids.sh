#!/usr/bin/env bash
# A stream with two sources and a duplicate window loses a message of one source when a message of the other has the same Nats-Msg-Id.
#
# One would guess: the window keeps a repeat out that is published to this stream; what its sources have stored is copied whole, as it is
# without a window. With ids such as an order's number two regions have the same ones without meaning the same.
# What comes out: the window counts for all that is sourced, whichever stream it comes from. The message that comes second is left out
# for good, nobody is told, and the sources are said to be current: lag 0, no error.
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
	var sources []*jetstream.StreamSource
	for _, region := range []string{"EAST", "WEST"} {
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: region, Subjects: []string{region + ".>"}})
		check(err)
		sources = append(sources, &jetstream.StreamSource{Name: region})
	}
	for name, window := range map[string]time.Duration{"PLAIN": 0, "WINDOW": time.Minute} {
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Sources: sources, Duplicates: window})
		check(err)
	}
	for _, region := range []string{"EAST", "WEST"} {
		for _, id := range []string{"order-1", "order-2"} {
			_, err = js.Publish(ctx, region+".paid", []byte(region+" "+id), jetstream.WithMsgID(id))
			check(err)
		}
		_, err = js.Publish(ctx, region+".last", nil) // has no id
		check(err)
	}
	count := func(stream, subject string) int {
		named, err := js.Stream(ctx, stream)
		check(err)
		info, err := named.Info(ctx, jetstream.WithSubjectFilter(subject))
		check(err)
		return int(info.State.Subjects[subject])
	}
	sourced := func(stream string) (orders int) {
		for _, region := range []string{"EAST", "WEST"} {
			for began := time.Now(); count(stream, region+".last") == 0; time.Sleep(50 * time.Millisecond) {
				if time.Since(began) > 30*time.Second {
					check(fmt.Errorf("%s does not copy %s", stream, region))
				}
			}
			orders += count(stream, region+".paid")
		}
		return orders
	}
	plain, window := sourced("PLAIN"), sourced("WINDOW")
	answer, err := nc.Request("$JS.API.STREAM.INFO.WINDOW", nil, 5*time.Second)
	check(err)
	var said struct {
		Sources []struct {
			Name  string `json:"name"`
			Lag   uint64 `json:"lag"`
			Error any    `json:"error"`
		} `json:"sources"`
	}
	check(json.Unmarshal(answer.Data, &said))
	fmt.Println("each of two regions has two orders, with the ids order-1 and order-2, and then a message without an id, which is copied")
	fmt.Println("orders in the stream without a duplicate window:", plain)
	fmt.Println("orders in the stream with one of a minute:      ", window)
	current := true
	for _, source := range said.Sources {
		fmt.Printf("what that one says of %s: lag %d, error %v\n", source.Name, source.Lag, source.Error)
		current = current && source.Lag == 0 && source.Error == nil
	}
	if plain != 4 || window != 2 || !current {
		fmt.Println("CHANGED: found before: 4 and 2, lag 0 and no error")
		os.Exit(1)
	}
	fmt.Println("as found: of two messages with the same id the second is lost")
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
