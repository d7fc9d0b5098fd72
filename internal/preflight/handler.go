package preflight

import (
	"context"
	"net/http"
	"strings"
	"time"

	"golang.org/x/text/language"

	"wxtoken/internal/lang"
)

// reportLasts is how long a report is shown again instead of being made anew.
const reportLasts = 5 * time.Second

// report returns the report of now: one that is younger than reportLasts, or a new one.
func (c *Checker) report(ctx context.Context) Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil || time.Since(c.made) > reportLasts {
		c.last = c.Run(context.WithoutCancel(ctx)) // who asks may hang up: the next one has the report
		c.made = time.Now()
	}
	return c.last
}

// Lines hands out the lines of the report of now, for a page.
func (c *Checker) Lines(ctx context.Context, line func(mark, name string, saw, remedy lang.Text)) {
	for _, l := range c.report(ctx) {
		line(string(l.Mark), l.Name, l.Saw, l.Remedy)
	}
}

// Handler answers GET /check with the report: as text, or as JSON where the request asks for that;
// in the language of Accept-Language, or that of the target. A browser is shown the page that next
// has of it, if there is a next. However many requests come, the checks are made by one at a time
// and every few seconds; WeChat is asked less often still. Other paths are for next, which may be
// nil.
func (c *Checker) Handler(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /check", func(w http.ResponseWriter, r *http.Request) {
		accept, format := r.Header.Get("Accept"), r.URL.Query().Get("format")
		if next != nil && strings.Contains(accept, "text/html") && format != "json" && format != "text" {
			next.ServeHTTP(w, r)
			return
		}
		found := c.report(r.Context())
		l := c.preferred(r.Header.Get("Accept-Language"))
		if asked := lang.Language(r.URL.Query().Get("lang")); asked == lang.English || asked == lang.Chinese {
			l = asked
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if format == "json" || format == "" && strings.Contains(accept, "application/json") {
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
