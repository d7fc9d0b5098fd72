package preflight

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"
)

// reportLasts is how long a report is shown again instead of being made anew.
const reportLasts = 5 * time.Second

// Handler answers GET /check with the report: as text, or as JSON to whoever accepts that. However many ask, the checks are made by one at a
// time and every few seconds; WeChat is asked less often still. Other paths are for next, which may be nil.
func (c *Checker) Handler(next http.Handler) http.Handler {
	var mu sync.Mutex
	var last Report
	var made time.Time
	report := func(ctx context.Context) Report {
		mu.Lock()
		defer mu.Unlock()
		if last == nil || time.Since(made) > reportLasts {
			last = c.Run(context.WithoutCancel(ctx)) // who asks may hang up: the next one has the report
			made = time.Now()
		}
		return last
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /check", func(w http.ResponseWriter, r *http.Request) {
		found := report(r.Context())
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if strings.Contains(r.Header.Get("Accept"), "application/json") {
			h.Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(found) // a client that has gone is no concern of ours
			return
		}
		h.Set("Content-Type", "text/plain; charset=utf-8")
		_ = found.WriteText(w)
	})
	if next != nil {
		mux.Handle("/", next)
	}
	return mux
}
