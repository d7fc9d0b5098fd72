#!/usr/bin/env bash
# silenceper/wechat forgets the refresh token of an authorizer when WeChat says once that it is busy, and gives an empty token without an error.
#
# One would guess: errcode -1 in the place of a token is an error to the caller, and the next call tries again with the same refresh token.
# What comes out: the renewal does not look at the errcode. It caches an empty access token, and in the place of the refresh token, for ten
# years, an empty one. All later renewals fail, without an error as well; the account has to authorize again. With its Redis cache the SDK
# is saved by chance: it wants to keep the empty access token for -30 s, Redis refuses that, and the SDK goes no further.
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
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/silenceper/wechat/v2"
	"github.com/silenceper/wechat/v2/cache"
	"github.com/silenceper/wechat/v2/openplatform/config"
	"github.com/silenceper/wechat/v2/util"
)

const (
	component  = "wx0000000000000001"
	authorizer = "wx0000000000000002"
)

var (
	busy bool
	sent []string // the refresh tokens that WeChat was asked with
)

// platform answers as WeChat does.
func platform(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	check(err)
	var asked struct {
		RefreshToken string `json:"authorizer_refresh_token"`
	}
	check(json.Unmarshal(body, &asked))
	sent = append(sent, asked.RefreshToken)
	switch {
	case busy:
		fmt.Fprint(w, `{"errcode":-1,"errmsg":"system error"}`)
	case asked.RefreshToken == "":
		fmt.Fprint(w, `{"errcode":61023,"errmsg":"refresh_token is invalid"}`)
	default:
		fmt.Fprint(w, `{"authorizer_access_token":"good","expires_in":7200,"authorizer_refresh_token":"refresh"}`)
	}
}

// story tells what the SDK gives before WeChat is busy, while it is, and after that.
func story(c cache.Cache) string {
	busy, sent = false, nil
	check(c.Set("component_access_token_"+component, "component", time.Hour))
	check(c.Set("authorizer_refresh_token_"+authorizer, "refresh", time.Hour))
	open := wechat.NewWechat().GetOpenPlatform(&config.Config{AppID: component, AppSecret: "secret", Cache: c})
	token := func() string {
		token, err := open.GetAuthrAccessToken(authorizer)
		if err != nil {
			return "an error"
		}
		return fmt.Sprintf("%q", token)
	}
	before := token()
	check(c.Delete("authorizer_access_token_" + authorizer)) // two hours go by
	busy = true
	while := token()
	busy = false
	return fmt.Sprintf("before %s, while WeChat is busy %s, after that %s; it was asked with %q", before, while, token(), sent)
}

func main() {
	wechat := httptest.NewServer(http.HandlerFunc(platform))
	defer wechat.Close()
	util.SetURIModifier(func(uri string) string { return strings.Replace(uri, "https://api.weixin.qq.com", wechat.URL, 1) })
	redis, err := miniredis.Run()
	check(err)
	defer redis.Close()
	fmt.Println("github.com/silenceper/wechat/v2 v2.1.10, miniredis v2.30.0")
	inMemory := story(cache.NewMemory())
	inRedis := story(cache.NewRedis(context.Background(), &cache.RedisOpts{Host: redis.Addr()}))
	fmt.Println("memory:", inMemory)
	fmt.Println("Redis: ", inRedis)
	if inMemory != `before "good", while WeChat is busy "", after that ""; it was asked with ["refresh" "refresh" ""]` ||
		inRedis != `before "good", while WeChat is busy an error, after that "good"; it was asked with ["refresh" "refresh" "refresh"]` {
		fmt.Println("CHANGED: found before: the last request without a refresh token in memory, and with one in Redis")
		os.Exit(1)
	}
	fmt.Println("as found: one busy answer, and the refresh token is lost")
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "not tried:", err)
		os.Exit(2)
	}
}
GO
{ go get github.com/silenceper/wechat/v2@v2.1.10 github.com/alicebob/miniredis/v2@v2.30.0 && go mod tidy && go build -o finding .; } >build.log 2>&1 || { cat build.log; echo "not tried: not built"; exit 2; }
timeout 60 ./finding
