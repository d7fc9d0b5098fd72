#!/usr/bin/env bash
# @nats-io/kv lists keys that expired, and a watch that ignores deletions tells of keys that were purged or expired.
#
# One would guess: keys() has the keys that get() has a value of, and ignoreDeletes leaves out all that is not a value, as in nats.go.
# What comes out: get() and a watch say PURGE of a key whose TTL is over, but keys() lists it for as long as its delete marker stays. And
# ignoreDeletes means deletions by delete() alone: of the others comes an entry with an empty value.
#
# Exit: 0 when it comes out so, 1 when it does not, 2 when it could not be tried. Wants: go, node 20, npm. Takes a minute, for building.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
npm install --no-audit --no-fund --silent --prefix . @nats-io/kv@3.4.0 @nats-io/transport-node@3.4.0 >install.log 2>&1 || { cat install.log; echo "not tried: not installed"; exit 2; }
cat >finding.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { connect } from '@nats-io/transport-node'
import { Kvm } from '@nats-io/kv'

const nc = await connect({ servers: process.argv[2] })
const kv = await new Kvm(nc).create('b', { markerTTL: 600_000, history: 1 })
for (const key of ['stays', 'deleted', 'purged']) await kv.put(key, 'token')
await kv.create('expires', 'token', '1s')
await kv.delete('deleted')
await kv.purge('purged')
let expired
for (const began = Date.now(); expired !== 'PURGE' && Date.now() - began < 30_000;) {
  await new Promise((resolve) => setTimeout(resolve, 50))
  expired = (await kv.get('expires')).operation
}
const keys = []
for await (const key of await kv.keys()) keys.push(key)
const watched = []
const watch = await kv.watch({ ignoreDeletes: true })
setTimeout(() => watch.stop(), 5000) // there is no telling when it has told all
for await (const entry of watch) watched.push(`${entry.key} ${entry.operation}`)
await nc.close()
console.log('@nats-io/kv', JSON.parse(readFileSync('node_modules/@nats-io/kv/package.json')).version, 'node', process.version)
console.log('get() says of the key that expired:   ', expired)
console.log('keys() lists:                         ', keys.sort().join(', '))
console.log('a watch that ignores deletions tells: ', watched.sort().join(', '))
if (expired !== 'PURGE' || keys.join() !== 'expires,stays' || watched.join() !== 'expires PURGE,purged PURGE,stays PUT') {
  console.log('CHANGED: found before: PURGE; expires, stays; expires PURGE, purged PURGE, stays PUT')
  process.exit(3) // 1 is node's own
}
console.log('as found: what expired is listed, and what is no value is told')
JS
cat >go.mod <<'MOD'
module finding

go 1.26
MOD
cat >main.go <<'GO'
// The server for finding.mjs, and its exit status.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	fmt.Println("nats-server", server.VERSION)
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: "store"})
	check(err)
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		check(fmt.Errorf("the server does not start"))
	}
	defer s.Shutdown()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	reader := exec.CommandContext(ctx, "node", "finding.mjs", s.ClientURL())
	reader.Stdout, reader.Stderr = os.Stdout, os.Stderr
	err = reader.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == 3 {
		os.Exit(1)
	}
	check(err)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "not tried:", err)
		os.Exit(2)
	}
}
GO
{ go get github.com/nats-io/nats-server/v2@v2.15.3 && go mod tidy && go build -o finding main.go; } >build.log 2>&1 || { cat build.log; echo "not tried: not built"; exit 2; }
timeout 90 ./finding
