package webhooks

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"wxtoken/internal/hook"
	"wxtoken/internal/services"
)

// TestOddAnswers posts to receivers whose answer has no end, or breaks off: the status counts, and no delivery lasts longer than it may.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	broken := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(code)
			_, _ = w.Write([]byte("<xml>"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	for name, row := range map[string]struct {
		answer  http.HandlerFunc
		outcome string
		after   time.Duration
	}{
		"another protocol": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "other")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, _, err := http.NewResponseController(w).Hijack() // it stays open
			if err == nil {
				t.Cleanup(func() { _ = conn.Close() })
			}
		}, outcomeFailed, 0},
		"a broken reply":      {broken(200), outcomeGarbage, 0},
		"a broken 202":        {broken(202), outcomeOK, 0},
		"a broken 503":        {broken(503), outcomeFailed, time.Minute},
		"a broken connection": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, outcomeUnreachable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := httptest.NewServer(row.answer)
			t.Cleanup(in.Close)
			w := &Webhooks{http: hook.Client(1)}
			to := newTarget(&services.Service{}, services.Webhook{URL: in.URL, Secret: secret})
			answered := make(chan result, 1)
			go func() {
				answered <- w.post(t.Context(), to, delivery{id: "1", body: []byte("<xml/>"), reply: true}, time.Now())
			}()
			select {
			case got := <-answered:
				if got.outcome != row.outcome || got.after != row.after {
					t.Errorf("%s, again after %s, want %s after %s", got.outcome, got.after, row.outcome, row.after)
				}
			case <-time.After(time.Minute):
				t.Error("no outcome within a minute")
			}
		})
	}
}
