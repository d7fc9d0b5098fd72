package preflight

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"wxtoken/internal/lang"
)

// TestHandlerFormats: a browser is shown the page, if there is one; programs and terminals get what they always got.
func TestHandlerFormats(t *testing.T) {
	t.Parallel()
	c, err := New(Target{Language: lang.English})
	if err != nil {
		t.Fatal(err)
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("page of " + r.URL.Path)) })
	for _, row := range []struct {
		next                http.Handler
		path, accept, wants string
	}{
		{page, "/check", "text/html,*/*", "page of /check"},
		{page, "/check?lang=zh", "text/html", "page of /check"},
		{page, "/check?format=json", "text/html", `[{"mark":"ok","name":"settings","saw":"no fault`},
		{page, "/check?format=json&lang=zh", "text/html", `"saw":"没有错误`},
		{page, "/check?format=text", "text/html", "ok    settings"},
		{page, "/check", "application/json", `[{"mark":"ok","name":"settings"`},
		{page, "/check", "*/*", "ok    settings"},
		{nil, "/check", "text/html", "ok    settings"},
		{page, "/pushes", "*/*", "page of /pushes"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, row.path, nil)
		r.Header.Set("Accept", row.accept)
		w := httptest.NewRecorder()
		c.Handler(row.next).ServeHTTP(w, r)
		if !strings.HasPrefix(w.Body.String(), row.wants) && !(strings.HasPrefix(row.wants, `"`) && strings.Contains(w.Body.String(), row.wants)) {
			t.Errorf("%s of %q: %q, want %q", row.path, row.accept, w.Body, row.wants)
		}
	}
	marks := ""
	c.Lines(t.Context(), func(mark, name string, saw, remedy lang.Text) { marks += mark + " " + name + ";" })
	if !strings.HasPrefix(marks, "ok settings;") {
		t.Errorf("lines: %s", marks)
	}
}
