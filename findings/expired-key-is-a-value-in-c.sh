#!/usr/bin/env bash
# For libnats, as Debian has it, a key whose TTL is over is a key with an empty value, for as long as the bucket's delete marker stays.
#
# One would guess: a key that expired can't be found, by any KV client, and a lock whose TTL is over can be taken.
# What comes out: so it is for nats.go, which knows the marker that the server puts there. libnats does not: kvStore_Get gives NATS_OK and
# the text "", the key is listed and watched as one that was put, and kvStore_CreateString says that it is there.
#
# Exit: 0 when it comes out so, 1 when it does not, 2 when it could not be tried. Wants: go, cc, libnats-dev 3.4. Takes a minute, for building.
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
	"os/exec"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const found = `get "" as put, keys 2, watched as put, create refused`

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
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", LimitMarkerTTL: 10 * time.Minute})
	check(err)
	_, err = kv.PutString(ctx, "stays", "token")
	check(err)
	_, err = kv.Create(ctx, "expires", []byte("token"), jetstream.KeyTTL(time.Second))
	check(err)
	for began := time.Now(); !errors.Is(err, jetstream.ErrKeyNotFound); _, err = kv.Get(ctx, "expires") {
		if time.Since(began) > 30*time.Second {
			check(fmt.Errorf("the key does not expire"))
		}
		time.Sleep(50 * time.Millisecond)
	}
	keys, err := kv.Keys(ctx)
	check(err)
	fmt.Println("nats.go: not found, keys", len(keys))
	out, err := exec.CommandContext(ctx, "./reader", s.ClientURL()).Output()
	check(err)
	fmt.Printf("libnats: %s\n", out)
	if len(keys) != 1 || string(out) != found {
		fmt.Println("CHANGED: found before:", found)
		os.Exit(1)
	}
	fmt.Println("as found: libnats takes the marker for a value")
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "not tried:", err)
		os.Exit(2)
	}
}
GO
mkdir c # apart from Go's
cat >c/reader.c <<'C'
#include <inttypes.h>
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(natsStatus s) {
  if (s != NATS_OK) {
    fprintf(stderr, "libnats %s: %s\n", nats_GetVersion(), natsStatus_GetText(s));
    exit(2);
  }
}

static const char *put(kvEntry *e) { return kvEntry_Operation(e) == kvOp_Put ? "put" : "gone"; }

int main(int argc, char **argv) {
  natsConnection *nc = NULL;
  jsCtx *js = NULL;
  kvStore *kv = NULL;
  kvEntry *e = NULL;
  kvKeysList keys;
  kvWatcher *w = NULL;
  uint64_t revision = 0;

  if (argc == 1) {
    printf("libnats %s\n", nats_GetVersion());
    return 0;
  }
  check(natsConnection_ConnectTo(&nc, argv[1]));
  check(natsConnection_JetStream(&js, nc, NULL));
  check(js_KeyValue(&kv, js, "b"));
  natsStatus s = kvStore_Get(&e, kv, "expires");
  if (s == NATS_NOT_FOUND)
    printf("not found");
  else {
    check(s);
    printf("get \"%s\" as %s", kvEntry_ValueString(e), put(e));
    kvEntry_Destroy(e);
  }
  check(kvStore_Keys(&keys, kv, NULL));
  printf(", keys %d", keys.Count);
  kvKeysList_Destroy(&keys);
  check(kvStore_WatchAll(&w, kv, NULL));
  for (;;) {
    check(kvWatcher_Next(&e, w, 10000));
    if (e == NULL) // all that is there was seen
      break;
    if (strcmp(kvEntry_Key(e), "expires") == 0)
      printf(", watched as %s", put(e));
    kvEntry_Destroy(e);
  }
  kvWatcher_Destroy(w);
  s = kvStore_CreateString(&revision, kv, "expires", "mine");
  printf(", create %s", s == NATS_OK ? "done" : "refused");
  kvStore_Destroy(kv);
  jsCtx_Destroy(js);
  natsConnection_Destroy(nc);
  nats_Close();
  return 0;
}
C
cc -o reader c/reader.c -lnats 2>build.log || { cat build.log; echo "not tried: no cc, or no libnats-dev"; exit 2; }
./reader
{ go get github.com/nats-io/nats-server/v2@v2.15.3 github.com/nats-io/nats.go@v1.55.0 && go mod tidy && go build -o finding .; } >build.log 2>&1 || { cat build.log; echo "not tried: not built"; exit 2; }
timeout 100 ./finding
