package wxtoken

import (
	"context"
	"sync/atomic"
	"time"
)

// tick is how precise the clock is: WeChat counts a token's life in seconds.
const tick = time.Second

// clock tells the time to callers that ask millions of times a second: reading it is reading
// memory, while time.Now costs more than all the rest of [Client.Token]. It is ahead by up to a
// tick, so that an expired token never passes for a valid one.
type clock struct {
	exact func() time.Time // Config.Now, which is asked each time; or nil
	ahead atomic.Pointer[time.Time]
}

func newClock(exact func() time.Time) *clock {
	c := &clock{exact: exact}
	c.set()
	return c
}

// now returns the time of the next tick, or what Config.Now returns.
func (c *clock) now() time.Time {
	if c.exact != nil {
		return c.exact()
	}
	return *c.ahead.Load()
}

func (c *clock) set() {
	ahead := time.Now().UTC().Add(tick)
	c.ahead.Store(&ahead)
}

// run keeps the clock going until ctx ends, and calls each at every tick.
func (c *clock) run(ctx context.Context, each func()) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.set()
			each()
		}
	}
}
