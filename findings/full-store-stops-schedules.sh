#!/usr/bin/env bash
# A schedule that comes due while max_file_store is reached does not fire when there is room again, and a repeating one never fires any more.
#
# One would guess: with room, the server goes on, for publishes it does so at once; what came due meanwhile fires late, as after a downtime.
# What comes out: the server tried once to store the due message, takes it for under way from then on, and does not try again. The schedules
# stay in the stream, new ones beside them fire, and nothing says so. Only a restart, or the schedule published anew, cures it.
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

// start runs a server that may store 1 MiB, and connects to it.
func start() (*server.Server, jetstream.JetStream) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: "store", JetStreamMaxStore: 1 << 20})
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
	for name, subjects := range map[string][]string{"JOBS": {"scheduled.*", "due.*"}, "OTHER": {"other"}} {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: subjects, AllowMsgSchedules: name == "JOBS"})
		check(err)
	}
	schedule := func(name, when string) {
		m := nats.NewMsg("scheduled." + name)
		m.Header.Set("Nats-Schedule", when)
		m.Header.Set("Nats-Schedule-Target", "due."+name)
		_, err := js.PublishMsg(ctx, m)
		check(err)
	}
	in := func(d time.Duration) string { return "@at " + time.Now().Add(d).Format(time.RFC3339Nano) }
	last := func(subject string) uint64 { // the sequence of the newest message, 0 without any
		stream, err := js.Stream(ctx, "JOBS")
		check(err)
		m, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return 0
		}
		check(err)
		return m.Sequence
	}
	fired := func(subject string, above uint64, wait time.Duration) bool {
		for began := time.Now(); time.Since(began) < wait; time.Sleep(100 * time.Millisecond) {
			if last(subject) > above {
				return true
			}
		}
		return false
	}

	schedule("every", "@every 1s")
	every := fired("due.every", 0, 20*time.Second)
	schedule("once", in(4*time.Second))
	var full error
	for size := 10000; size > 0; size /= 10 { // to the brim
		for full = nil; full == nil; {
			_, full = js.Publish(ctx, "other", make([]byte, size))
		}
	}
	fmt.Println("full:", full)
	time.Sleep(6 * time.Second) // both come due
	other, err := js.Stream(ctx, "OTHER")
	check(err)
	check(other.Purge(ctx))
	sequence := last("due.every")
	schedule("new", in(time.Second))
	fresh := fired("due.new", 0, 20*time.Second)
	once, again := fired("due.once", 0, 10*time.Second), fired("due.every", sequence, 5*time.Second)
	waiting := last("scheduled.once") > 0 && last("scheduled.every") > 0
	schedule("once", in(time.Second))
	replaced := fired("due.once", 0, 20*time.Second)
	s.Shutdown()
	s.WaitForShutdown()
	s, js = start()
	defer s.Shutdown()
	cured := fired("due.every", sequence, 20*time.Second)
	fmt.Println("@every 1s fired before:                             ", every)
	fmt.Println("with room again, a new schedule fires:              ", fresh)
	fmt.Println("the one that came due meanwhile fires within 10 s:  ", once)
	fmt.Println("@every 1s fires again within 15 s:                  ", again)
	fmt.Println("both are still in the stream:                       ", waiting)
	fmt.Println("the first of them fires once it was published anew: ", replaced)
	fmt.Println("@every 1s fires after a restart of the server:      ", cured)
	if !every || !fresh || once || again || !waiting || !replaced || !cured {
		fmt.Println("CHANGED: found before: true, true, false, false, true, true, true")
		os.Exit(1)
	}
	fmt.Println("as found: what came due while the store was full does not fire any more by itself")
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
