//go:build unix

package systemtest

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"wxtoken/client"
)

// gate is the way of one refresher to the platform's API. It knows which tokens that refresher is
// asking for right now.
type gate struct {
	*httptest.Server

	mu       sync.Mutex
	underWay map[wxtoken.Key]int
	answered map[wxtoken.Key]time.Time
}

// stored is how long a refresher may take, on a slow machine, to store what it was answered.
const stored = 3 * time.Second

func newGate(t *testing.T, api string) *gate {
	t.Helper()
	target, err := url.Parse(api)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorLog: log.New(io.Discard, "", 0), // a refresher that was killed hangs up
	}
	g := &gate{underWay: map[wxtoken.Key]int{}, answered: map[wxtoken.Key]time.Time{}}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if slices.Contains(tokenAPIs, path.Base(r.URL.Path)) {
			var asked struct {
				Component  string `json:"component_appid"`
				Authorizer string `json:"authorizer_appid"`
			}
			_ = json.Unmarshal(body, &asked) // what can't be read asks for nothing
			key := wxtoken.ComponentKey(asked.Component)
			if asked.Authorizer != "" {
				key = wxtoken.AuthorizerKey(asked.Component, asked.Authorizer)
			}
			g.count(key, 1)
			defer g.count(key, -1)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *gate) count(key wxtoken.Key, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.underWay[key] += n; g.underWay[key] == 0 {
		delete(g.underWay, key)
		g.answered[key] = time.Now()
	}
}

// asking returns the keys that a token is being asked for.
func (g *gate) asking() []wxtoken.Key {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.underWay))
}

// kill kills the process behind the gate and returns the keys that it was asking a token for, and those whose
// answers it may not have stored yet. No call passes in between.
func (g *gate) kill(p *process) []wxtoken.Key {
	p.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	asking := slices.Collect(maps.Keys(g.underWay))
	for key, at := range g.answered {
		if time.Since(at) < stored {
			asking = append(asking, key)
		}
	}
	p.kill()
	return asking
}
