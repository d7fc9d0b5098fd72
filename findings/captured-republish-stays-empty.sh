#!/usr/bin/env bash
# A stream that captures what another stream republishes stays empty once that stream is written by atomic batches.
#
# One would guess: RePublish sends every stored message on, so a stream on the republished subject has them all.
# What comes out: it takes single messages, and nothing of a committed batch. The republished message still has the headers
# Nats-Batch-Id and Nats-Batch-Sequence, and the capturing stream takes it for the beginning of a batch that is never committed,
# also when it does not allow atomic batches. A plain subscription hears all of them.
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
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func main() {
	dir, err := os.MkdirTemp(".", "store")
	check(err)
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir})
	check(err)
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		check(fmt.Errorf("the server does not start"))
	}
	defer s.Shutdown()
	nc, err := nats.Connect(s.ClientURL())
	check(err)
	defer nc.Close()
	fmt.Println("nats-server", server.VERSION, "nats.go", nats.Version)

	api := func(subject, body string) {
		m, err := nc.Request("$JS.API."+subject, []byte(body), 10*time.Second)
		check(err)
		if bytes := string(m.Data); len(bytes) > 0 && contains(bytes, `"error"`) {
			check(fmt.Errorf("%s: %s", subject, bytes))
		}
	}
	api("STREAM.CREATE.SOURCE", `{"name":"SOURCE","subjects":["a.>"],"storage":"file","retention":"limits","num_replicas":1,"allow_atomic":true,"republish":{"src":"a.>","dest":"copy.a.>"}}`)
	api("STREAM.CREATE.COPY", `{"name":"COPY","subjects":["copy.>"],"storage":"file","retention":"limits","num_replicas":1}`)
	sub, err := nc.SubscribeSync("copy.>")
	check(err)
	check(nc.Flush())

	_, err = nc.Request("a.single", []byte("1"), 10*time.Second)
	check(err)
	const n = 3
	for i := 1; i <= n; i++ {
		m := nats.NewMsg("a.batch." + strconv.Itoa(i))
		m.Header.Set("Nats-Batch-Id", "b1")
		m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i))
		if i == n {
			m.Header.Set("Nats-Batch-Commit", "1")
			ack, err := nc.RequestMsg(m, 10*time.Second)
			check(err)
			fmt.Printf("commit: %s\n", ack.Data)
			continue
		}
		check(nc.PublishMsg(m))
	}
	heard, batch := 0, ""
	for heard < 1+n {
		m, err := sub.NextMsg(10 * time.Second)
		check(err)
		heard++
		batch = m.Header.Get("Nats-Batch-Id")
	}
	time.Sleep(2 * time.Second)
	js, err := nc.JetStream()
	check(err)
	source, err := js.StreamInfo("SOURCE")
	check(err)
	copied, err := js.StreamInfo("COPY")
	check(err)
	fmt.Printf("SOURCE has %d messages; a subscription heard %d, the last with Nats-Batch-Id %q; COPY has %d\n", source.State.Msgs, heard, batch, copied.State.Msgs)
	if source.State.Msgs != 1+n || copied.State.Msgs != 1 {
		fmt.Println("CHANGED: SOURCE 4 and COPY 1 were found before")
		s.Shutdown()
		os.Exit(1)
	}
	fmt.Println("as found: of the batch nothing is captured")
}

func contains(s, sub string) bool {
	for i := 0; i+len(sub) <= len(s); i++ {
		if s[i:i+len(sub)] == sub {
			return true
		}
	}
	return false
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "not tried:", err)
		os.Exit(2)
	}
}
GO
sed -i 's/contains(bytes, /strings.Contains(bytes, /; s/^\t"strconv"/\t"strconv"\n\t"strings"/; /^func contains/,/^}/d' main.go
{ go get github.com/nats-io/nats-server/v2@v2.15.3 github.com/nats-io/nats.go@v1.55.0 && go mod tidy && go build -o finding .; } >build.log 2>&1 || { cat build.log; echo "not tried: not built"; exit 2; }
./finding
