package serve

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"wxtoken/internal/logger"
)

// checkWithin bounds one check of readiness.
const checkWithin = time.Second

// Health is the readiness of a process. The zero Health is ready.
type Health struct {
	mu       sync.Mutex
	checks   []check
	draining bool
}

type check struct {
	name string
	run  func(context.Context) error
}

// Check adds a check of readiness: run is called for each request of /readyz, together with the other checks,
// and has a second to answer. Clients of /readyz see its error, which must hold no secret.
func (h *Health) Check(name string, run func(ctx context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, check{name, run})
}

// SetDraining makes the process not ready for the rest of its life, so that load balancers send no new
// requests.
func (h *Health) SetDraining() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

// Drain returns a context for a server behind a load balancer. When ctx ends, the process becomes not ready;
// the returned context ends pause later, when the load balancer has noticed.
func (h *Health) Drain(ctx context.Context, pause time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		h.SetDraining()
		select {
		case <-time.After(pause):
		case <-late.Done():
		}
		cancel()
	})
	return late, func() { stop(); cancel() }
}

// Failing returns the errors of the checks that fail, by name. An empty map: ready.
func (h *Health) Failing(ctx context.Context) map[string]string {
	h.mu.Lock()
	checks, draining := slices.Clip(h.checks), h.draining
	h.mu.Unlock()
	failing := map[string]string{}
	if draining {
		failing["draining"] = "the process is shutting down"
	}
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	errs := make([]error, len(checks))
	var working sync.WaitGroup
	for i, c := range checks {
		working.Go(func() { errs[i] = c.run(ctx) })
	}
	working.Wait()
	for i, c := range checks {
		if errs[i] != nil {
			failing[c.name] = logger.Text(errs[i])
		}
	}
	return failing
}

// healthz answers 200: the process serves.
func healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n")) // the client may have gone
}

// readyz answers 200, or 503 with the checks that fail.
func (h *Health) readyz(w http.ResponseWriter, r *http.Request) {
	failing := h.Failing(r.Context())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if len(failing) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(struct {
		Ready   bool              `json:"ready"`
		Failing map[string]string `json:"failing,omitempty"`
	}{len(failing) == 0, failing})
}
