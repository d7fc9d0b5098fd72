#!/usr/bin/env bash
# A mirror takes nothing of a stream that was restored from a backup, and its own figures say that all is well.
#
# One would guess: after the origin was restored, its mirror goes on with what is published next, or starts anew, or says what is wrong.
# What comes out: the mirror waits for the sequence after its own last one. Everything that is published on the restored origin below
# that is skipped for ever, while the mirror's info has no error and a lag of 0.
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

	"github.com/nats-io/jsm.go"
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
	admin, err := jsm.New(nc)
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORIGIN", Subjects: []string{"s.*"}})
	check(err)
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "COPY", Mirror: &jetstream.StreamSource{Name: "ORIGIN"}})
	check(err)
	publish := func(what string, n int) {
		for i := range n {
			_, err := js.Publish(ctx, "s."+what, fmt.Append(nil, i))
			check(err)
		}
	}
	look := func(name string) *jetstream.StreamInfo {
		stream, err := js.Stream(ctx, name)
		check(err)
		info, err := stream.Info(ctx)
		check(err)
		return info
	}
	holds := func(what string) bool { // does the copy hold it?
		stream, err := js.Stream(ctx, "COPY")
		check(err)
		_, err = stream.GetLastMsgForSubject(ctx, "s."+what)
		return err == nil
	}

	publish("before", 5)
	origin, err := admin.LoadStream("ORIGIN")
	check(err)
	_, err = origin.SnapshotToDirectory(ctx, "backup")
	check(err)
	publish("lost", 20)
	for look("COPY").State.LastSeq < 25 {
		time.Sleep(50 * time.Millisecond)
	}
	check(origin.Delete())
	_, _, err = admin.RestoreSnapshotFromDirectory(ctx, "ORIGIN", "backup")
	check(err)
	publish("after", 10)
	time.Sleep(20 * time.Second) // a mirror that lost its origin looks for it again within ten
	copied := holds("after")
	answer, err := nc.Request("$JS.API.STREAM.INFO.COPY", nil, 5*time.Second)
	check(err)
	var said struct {
		Mirror struct {
			Lag   uint64 `json:"lag"`
			Error any    `json:"error"`
		} `json:"mirror"`
	}
	check(json.Unmarshal(answer.Data, &said))
	publish("later", 15)
	for began := time.Now(); !holds("later") && time.Since(began) < 25*time.Second; {
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Println("the origin, restored, has the last sequence   ", look("ORIGIN").State.LastSeq)
	fmt.Println("ten messages after the restore are in the copy:", copied)
	fmt.Println("what the copy said then: lag", said.Mirror.Lag, "error", said.Mirror.Error)
	fmt.Println("later ones, beyond the copy's sequence, are:   ", holds("later"), "and the ten:", holds("after"))
	if copied || said.Mirror.Lag != 0 || said.Mirror.Error != nil || holds("after") {
		fmt.Println("CHANGED: found before: not in the copy, lag 0, no error, and never there")
		os.Exit(1)
	}
	fmt.Println("as found: the mirror skipped what came below its own sequence, and did not say so")
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "not tried:", err)
		os.Exit(2)
	}
}
GO
{ go get github.com/nats-io/nats-server/v2@v2.15.3 github.com/nats-io/nats.go@v1.55.0 github.com/nats-io/jsm.go@v0.5.1 && go mod tidy && go build -o finding .; } >build.log 2>&1 || { cat build.log; echo "not tried: not built"; exit 2; }
./finding
