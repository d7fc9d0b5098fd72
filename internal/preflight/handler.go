package preflight

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/text/language"

	"wxtoken/internal/lang"
)

// reportLasts is how long a report is shown again instead of being made anew.
const reportLasts = 5 * time.Second

// Handler answers GET /check with the report: as text, or as JSON where the request accepts that;
// in the language of Accept-Language, or that of the target. However many requests come, the checks
// are made by one at a time and every few seconds; WeChat is asked less often still. Other paths
// are for next, which may be nil.
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
		l := c.preferred(r.Header.Get("Accept-Language"))
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if strings.Contains(r.Header.Get("Accept"), "application/json") {
			h.Set("Content-Type", "application/json")
			_ = found.WriteJSON(w, l) // a client that has gone is no concern of ours
			return
		}
		h.Set("Content-Type", "text/plain; charset=utf-8")
		_ = found.WriteText(w, l)
	})
	if next != nil {
		mux.Handle("/", next)
	}
	return mux
}

// matcher chooses among the languages of a report.
var matcher = language.NewMatcher([]language.Tag{language.English, language.Chinese, language.TraditionalChinese})

// preferred returns the language that an Accept-Language header likes best; curl sends none.
func (c *Checker) preferred(header string) lang.Language {
	if header == "" {
		return c.Language
	}
	tag, _ := language.MatchStrings(matcher, header)
	base, _ := tag.Base()
	return lang.Language(base.String())
}
