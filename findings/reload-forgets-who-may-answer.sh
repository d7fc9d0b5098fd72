#!/usr/bin/env bash
# A reload of nats-server, with nothing changed in its file, has answers refused that are under way.
#
# One would guess: `allow_responses: {max: 1, expires: "10s"}` lets a service answer each question once within 10 s, and a reload that
# changes nothing changes nothing.
# What comes out: the server forgets with each reload what a connection may still answer. The answer is refused (permissions
# violation), who asked waits for its time-out, and no connection is lost. What is asked after the reload is answered.
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
cat >server.conf <<'CONF'
listen: "127.0.0.1:-1"
authorization {
  users: [
    {user: asks, password: a}
    {user: answers, password: b, permissions: {publish: {deny: ">"}, subscribe: {allow: "question"}, allow_responses: {max: 1, expires: "10s"}}}
  ]
}
CONF
cat >main.go <<'GO'
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func main() {
	fmt.Println("nats-server", server.VERSION, "nats.go", nats.Version)
	opts, err := server.ProcessConfigFile("server.conf")
	check(err)
	s, err := server.NewServer(opts)
	check(err)
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		check(fmt.Errorf("the server does not start"))
	}
	defer s.Shutdown()
	asks, err := nats.Connect(s.ClientURL(), nats.UserInfo("asks", "a"))
	check(err)
	answers, err := nats.Connect(s.ClientURL(), nats.UserInfo("answers", "b"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	check(err)
	questions := make(chan *nats.Msg, 1)
	_, err = answers.ChanSubscribe("question", questions)
	check(err)
	check(answers.Flush())

	// ask reports whether an answer was heard that was sent after between was called.
	ask := func(between func() error) bool {
		heard := make(chan error, 1)
		go func() {
			_, err := asks.Request("question", nil, 3*time.Second)
			heard <- err
		}()
		q := <-questions
		check(between())
		check(q.Respond([]byte("answer")))
		err := <-heard
		if err != nil && !errors.Is(err, nats.ErrTimeout) {
			check(err)
		}
		return err == nil
	}
	nothing := func() error { return nil }
	before := ask(nothing)
	through := ask(s.Reload)
	refused := errors.Is(answers.LastError(), nats.ErrPermissionViolation)
	after := ask(nothing)
	fmt.Printf("answered before a reload: %t; through it: %t (refused: %t, connections lost: %d); after it: %t\n",
		before, through, refused, answers.Reconnects+asks.Reconnects, after)
	if !before || through || !refused || !after {
		fmt.Println("CHANGED: true, false (refused: true), true was found before")
		s.Shutdown()
		os.Exit(1)
	}
	fmt.Println("as found: the answer that was under way is refused")
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
