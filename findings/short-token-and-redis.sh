#!/usr/bin/env bash
# silenceper/wechat with its Redis cache gives an error in the place of a good token that has little life left.
#
# One would guess: stable_token says how long its token still lives; one with 240 s left is not cached, and used.
# What comes out: the SDK takes 300 s off (off the token of /cgi-bin/token 1500 s) and has Redis keep it for so long. A time that is
# not above zero Redis refuses, and the SDK returns that error together with the token, so each call that needs one fails. With the
# SDK's cache in memory the same token is used.
#
# Exit: 0 when it comes out so, 1 when it does not, 2 when it could not be tried. Wants: go.
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
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/alicebob/miniredis/v2"
	"github.com/silenceper/wechat/v2/cache"
	"github.com/silenceper/wechat/v2/credential"
	"github.com/silenceper/wechat/v2/util"
)

func main() {
	left := 0
	wechat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"access_token":"good","expires_in":%d}`, left)
	}))
	defer wechat.Close()
	util.SetURIModifier(func(uri string) string {
		return strings.Replace(uri, "https://api.weixin.qq.com", wechat.URL, 1)
	})
	redis, err := miniredis.Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "not tried:", err)
		os.Exit(2)
	}
	defer redis.Close()
	fmt.Println("github.com/silenceper/wechat/v2 v2.1.10, miniredis v2.30.0")
	found := true
	for _, row := range []struct {
		name  string
		cache cache.Cache
		left  int
		fails bool
	}{
		{"Redis", cache.NewRedis(context.Background(), &cache.RedisOpts{Host: redis.Addr()}), 7200, false},
		{"Redis", cache.NewRedis(context.Background(), &cache.RedisOpts{Host: redis.Addr()}), 240, true},
		{"memory", cache.NewMemory(), 240, false},
	} {
		redis.FlushAll()
		left = row.left
		token, err := credential.NewStableAccessToken("wx0000000000000001", "secret", "finding", row.cache).GetAccessToken()
		fmt.Printf("%-7s %4d s left: token %q, error %v\n", row.name, row.left, token, err)
		found = found && (err != nil) == row.fails && token == "good"
	}
	if !found {
		fmt.Println("CHANGED: only Redis with 240 s had an error before")
		os.Exit(1)
	}
	fmt.Println("as found: a token that Redis does not keep is an error")
}
GO
{ go get github.com/silenceper/wechat/v2@v2.1.10 github.com/alicebob/miniredis/v2@v2.30.0 && go mod tidy && go build -o finding .; } >build.log 2>&1 || { cat build.log; echo "not tried: not built"; exit 2; }
./finding
