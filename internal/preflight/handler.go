package preflight

import (
	"context"
	"net/http"
	"strings"
	"time"

	"golang.org/x/text/language"

	"wxtoken/internal/lang"
)

// reportMaxAge is how long a report is shown again before the checks are run anew.
const reportMaxAge = 5 * time.Second

// report returns the last report, or a new one if that is older than reportMaxAge.
func (c *Checker) report(ctx context.Context) Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil || time.Since(c.lastAt) > reportMaxAge {
		c.last = c.Run(context.WithoutCancel(ctx)) // the next request uses the report, even if this client hangs up
		c.lastAt = time.Now()
	}
	return c.last
}

// Lines passes on the lines of the present report, for a page.
func (c *Checker) Lines(ctx context.Context, line func(mark, name string, saw, remedy lang.Text)) {
	for _, l := range c.report(ctx) {
		line(string(l.Mark), l.Name, l.Saw, l.Remedy)
	}
}

// Handler answers GET /check with the report: as text, or as JSON if the request asks for it; in the language of
// Accept-Language, or that of the target. Browsers get the page of next, if there is a next. However many requests
// come, the checks run at most every few seconds, one run at a time; WeChat is asked less often still. Other paths
// are for next, which may be nil.
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
			_ = found.WriteJSON(w, l) // the client may have gone
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

// preferred returns the language that an Accept-Language header prefers; curl sends none.
func (c *Checker) preferred(header string) lang.Language {
	if header == "" {
		return c.Language
	}
	tag, _ := language.MatchStrings(matcher, header)
	base, _ := tag.Base()
	return lang.Language(base.String())
}
