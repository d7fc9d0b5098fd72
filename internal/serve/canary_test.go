package serve

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wxtoken/internal/looktest"
)

// TestCanary looks that however many ask NATS is asked seldom, that the answer is heard soon, and
// that the metrics say when it last did well.
func TestCanary(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var probes atomic.Int64
		var trouble atomic.Pointer[string]
		var h Health
		m := NewMetrics()
		c := WatchCanary("ingest", &h, m, func(context.Context) error {
			probes.Add(1)
			time.Sleep(10 * time.Millisecond)
			if text := trouble.Load(); text != nil {
				return errors.New(*text)
			}
			return nil
		})
		passed := func() time.Time {
			t.Helper()
			at, series := looktest.Sum(t, m.Registry, "wxtoken_nats_canary_last_success_timestamp_seconds")
			if series == 0 {
				t.Fatal("no metric")
			}
			return time.UnixMilli(int64(at * 1e3))
		}
		if passed().UnixMilli() != 0 {
			t.Errorf("before the first probe: %v", passed())
		}
		failing := func() string { return h.Failing(t.Context())["nats canary ingest"] }
		var askers sync.WaitGroup
		for range 100 {
			askers.Go(func() {
				if text := failing(); text != "" {
					t.Error(text)
				}
			})
		}
		askers.Wait()
		if n := probes.Load(); n != 1 {
			t.Errorf("%d probes for 100 who ask, want 1", n)
		}
		good := passed()
		if time.Since(good) > time.Second {
			t.Errorf("passed at %v, now it is %v", good, time.Now())
		}

		text := "no space at nats://user:SEKRET@host"
		trouble.Store(&text)
		time.Sleep(canaryGood)
		if got := failing(); !strings.Contains(got, "no space") || strings.Contains(got, "SEKRET") {
			t.Errorf("failing %q", got)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		trouble.Store(nil)
		time.Sleep(canaryBad)
		h.Failing(gone) // one who hangs up takes nobody's answer away
		if got := failing(); got != "" {
			t.Errorf("failing %q after the trouble", got)
		}

		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		time.Sleep(time.Minute)
		if age := time.Since(passed()); age > canaryEvery+time.Second {
			t.Errorf("nobody asks, and the last success is %s old", age)
		}
		if n := probes.Load(); n > 20 {
			t.Errorf("%d probes in a minute in which nobody asked", n)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
