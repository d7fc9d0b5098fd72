package refresher

import (
	"context"
	"sync"
	"testing"
	"time"
)

// TestNoticesHoldUpNoSweep has a look at what is wrong take its time: the sweeps that come meanwhile go on, and one more look follows them.
func TestNoticesHoldUpNoSweep(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := &notices{swept: newBell()}
	begun, release := make(chan time.Time), make(chan struct{})
	at := time.Date(2026, 11, 28, 8, 0, 0, 0, time.UTC)
	var running sync.WaitGroup
	running.Go(func() {
		n.run(ctx, func(_ context.Context, now time.Time) {
			begun <- now
			<-release
		}, func() time.Time { return at })
	})
	n.swept.ring()
	if now := <-begun; !now.Equal(at) {
		t.Errorf("looked as of %s", now)
	}
	for range 100 {
		n.swept.ring()
	}
	release <- struct{}{}
	<-begun // one look for all of them
	release <- struct{}{}
	cancel()
	running.Wait()
	if len(n.swept) != 0 {
		t.Error("another look is to come, though there was no sweep since the last")
	}
}
