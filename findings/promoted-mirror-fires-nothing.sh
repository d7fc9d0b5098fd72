#!/usr/bin/env bash
# A mirror that is promoted in the place of its lost origin has the origin's schedules, and fires none of them.
#
# One would guess: the mirror of a stream with scheduled messages, made a stream of its own with allow_msg_schedules, fires what is due as
# the origin would have; the server says in its log that it reads the schedules.
# What comes out: it looks only into blocks of messages that are known to hold schedules, and while a mirror stores, the server does not count
# them. New schedules fire, those that were copied never, not after a restart either. (A message with a TTL in the same block helps them.)
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

func start() (*server.Server, jetstream.JetStream) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: "store"})
	check(err)
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		check(fmt.Errorf("the server does not start"))
	}
	nc, err := nats.Connect(s.ClientURL())
	check(err)
	js, err := jetstream.New(nc)
	check(err)
	return s, js
}

func main() {
	fmt.Println("nats-server", server.VERSION, "nats.go", nats.Version)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	s, js := start()
	own := jetstream.StreamConfig{Name: "JOBS", Subjects: []string{"scheduled.*", "due.*"}, AllowMsgSchedules: true}
	_, err := js.CreateStream(ctx, own)
	check(err)
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "COPY", Mirror: &jetstream.StreamSource{Name: "JOBS"}})
	check(err)
	schedule := func(name string, in time.Duration) {
		m := nats.NewMsg("scheduled." + name)
		m.Header.Set("Nats-Schedule", "@at "+time.Now().Add(in).Format(time.RFC3339Nano))
		m.Header.Set("Nats-Schedule-Target", "due."+name)
		_, err := js.PublishMsg(ctx, m)
		check(err)
	}
	there := func(subject string, wait time.Duration) bool { // is a message on the subject in the copy, now or within a while?
		for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
			stream, err := js.Stream(ctx, "COPY")
			check(err)
			if _, err = stream.GetLastMsgForSubject(ctx, subject); err == nil {
				return true
			} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
				check(err)
			}
			if time.Since(began) > wait {
				return false
			}
		}
	}

	schedule("copied", 10*time.Second)
	if !there("scheduled.copied", 20*time.Second) {
		check(fmt.Errorf("the mirror does not copy"))
	}
	check(js.DeleteStream(ctx, "JOBS")) // it is lost
	own.Name = "COPY"
	_, err = js.UpdateStream(ctx, own)
	check(err)
	schedule("new", time.Second)
	fresh := there("due.new", 20*time.Second)
	copied := there("due.copied", 20*time.Second)
	s.Shutdown()
	s.WaitForShutdown()
	s, js = start()
	defer s.Shutdown()
	restarted, kept := there("due.copied", 10*time.Second), there("scheduled.copied", 0)
	fmt.Println("in the promoted mirror a new schedule fires:         ", fresh)
	fmt.Println("the copied one, 20 s later, fired:                   ", copied)
	fmt.Println("after a restart of the server it fires within 10 s:  ", restarted)
	fmt.Println("it is still in the stream:                           ", kept)
	if !fresh || copied || restarted || !kept {
		fmt.Println("CHANGED: found before: true, false, false, true")
		os.Exit(1)
	}
	fmt.Println("as found: the copied schedule never fires")
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
