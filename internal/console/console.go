package console

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
)

// Where the buckets lie.
const (
	prefixStatus = "$KV." + events.BucketStatus + "."
	prefixTokens = "$KV." + events.BucketTokens + "."
)

// What one request may take.
const (
	loadWithin   = 4 * time.Second
	maxLoads     = 2 // pages that are loaded at the same time; the others wait
	defaultLimit = 50
	maxLimit     = 500
)

//go:embed console.css
var css []byte

type console struct {
	js    jetstream.JetStream
	now   func() time.Time
	loads chan struct{} // one for each page that is being loaded
}

// New returns the page, which lives at "/" and "/console.css", and answers 404 to other paths. It
// reads the buckets tokens and status; its user of NATS needs $JS.API.STREAM.INFO and
// $JS.API.DIRECT.GET of both streams. When NATS does not answer it says so with status 503.
func New(js jetstream.JetStream, now func() time.Time) http.Handler {
	c := &console{js: js, now: now, loads: make(chan struct{}, maxLoads)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", c.serve)
	mux.HandleFunc("GET /console.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write(css) // a client that has gone is no concern of ours
	})
	return guarded(mux)
}

// guarded adds the headers that keep a browser from doing anything but show what it is given.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// query is what a request asks for.
type query struct {
	limit  int
	after  string
	part   string // of an appid
	format string // html, text or json
}

// wants reports whether key is asked for.
func (q query) wants(key wxtoken.Key) bool {
	return strings.Contains(key.Component, q.part) || strings.Contains(key.Authorizer, q.part)
}

// next returns the query string of the page after this one.
func (q query) next(after string) string {
	v := url.Values{"after": {after}, "limit": {strconv.Itoa(q.limit)}}
	if q.part != "" {
		v.Set("q", q.part)
	}
	return "?" + v.Encode()
}

// parse reads the parameters. It answers with what is wrong, for the person who typed it.
func parse(r *http.Request) (q query, fault string) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, "the query can't be read"
	}
	q = query{limit: defaultLimit, format: "text"}
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		q.format = "html"
	}
	for name, all := range values {
		value := all[0]
		switch {
		case len(all) > 1:
			return q, "a parameter is given twice"
		case name == "limit":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > maxLimit {
				return q, fmt.Sprintf("limit: want 1 to %d", maxLimit)
			}
			q.limit = n
		case name == "after":
			if _, err := wxtoken.ParseKey(value); err != nil {
				return q, "after: want a key, for instance authorizer.<component_appid>.<authorizer_appid>"
			}
			q.after = value
		case name == "q":
			if value = strings.TrimSpace(value); value != "" && !wxtoken.ValidAppID(value) {
				return q, "q: want an appid or a part of one"
			}
			q.part = value
		case name == "format" && slices.Contains([]string{"html", "text", "json"}, value):
			q.format = value
		case name == "format":
			return q, "format: want html, text or json"
		default:
			return q, "unknown parameter: there are limit, after, q and format"
		}
	}
	return q, ""
}

func (c *console) serve(w http.ResponseWriter, r *http.Request) {
	q, fault := parse(r)
	if fault != "" {
		http.Error(w, fault, http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), loadWithin)
	defer cancel()
	select {
	case c.loads <- struct{}{}:
		defer func() { <-c.loads }()
	case <-ctx.Done():
		unavailable(w, "busy with other requests: try again")
		return
	}
	p, err := c.load(ctx, q)
	if err != nil {
		unavailable(w, fmt.Sprintf("NATS does not answer: %v", err))
		return
	}
	var out bytes.Buffer
	switch q.format {
	case "json":
		w.Header().Set("Content-Type", "application/json")
		err = json.NewEncoder(&out).Encode(p)
	case "html":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		err = pageTemplate.Execute(&out, c.view(p, q, preferred(r.Header.Get("Accept-Language"))))
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		writeText(&out, c.view(p, q, preferred(r.Header.Get("Accept-Language"))))
	}
	if err != nil {
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(out.Bytes()) // a client that has gone is no concern of ours
}

// unavailable answers 503.
func unavailable(w http.ResponseWriter, text string) {
	w.Header().Set("Retry-After", "2") // seconds
	http.Error(w, text, http.StatusServiceUnavailable)
}
