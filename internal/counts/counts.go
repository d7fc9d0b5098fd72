// Package counts stores what a process did in each ten minutes on the stream TRAFFIC, for plots
// that survive restarts.
package counts

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/rs/zerolog"

	"wxtoken/internal/events"
)

// The names of counts. LatestMS is a maximum, in milliseconds; all others are sums.
const (
	Renewed   = "renewed"   // renewed tokens
	Failed    = "failed"    // renewals for which WeChat returned no token
	LatestMS  = "latest_ms" // delay of the most delayed renewal
	Exchanged = "exchanged" // accounts that authorized
	Pushes    = "pushes"    // accepted pushes
	Refused   = "refused"   // refused pushes
	Repeated  = "repeated"  // accepted pushes that repeat a stored one

	// Accepted pushes by the time until their answer. WeChat waits 5 s.
	Within10ms  = "answered_10ms"
	Within100ms = "answered_100ms"
	Within1s    = "answered_1s"
	Within3s    = "answered_3s"
	Later       = "answered_later"
)

const (
	// Every is the period of one record.
	Every = 10 * time.Minute
	// keptFor is the life of a record.
	keptFor = 48 * time.Hour
	// writeWithin bounds the wait for NATS to store a record.
	writeWithin = 2 * time.Second
)

// Within returns the name of the count for an answer after that time.
func Within(took time.Duration) string {
	switch {
	case took <= 10*time.Millisecond:
		return Within10ms
	case took <= 100*time.Millisecond:
		return Within100ms
	case took <= time.Second:
		return Within1s
	case took <= 3*time.Second:
		return Within3s
	}
	return Later
}

// Record is what a process did in one period.
type Record struct {
	Role   string           `json:"role"`
	From   time.Time        `json:"from"`
	To     time.Time        `json:"to"`
	Counts map[string]int64 `json:"counts"`
}

// Counter counts for one process. A nil Counter counts nothing.
type Counter struct {
	Every time.Duration    // the period of one record; New sets ten minutes
	Now   func() time.Time // time.Now

	role, instance string
	js             jetstream.JetStream
	log            zerolog.Logger

	mu     sync.Mutex
	since  time.Time // start of the current period; used by Run alone
	counts map[string]int64
}

// New returns a counter for a process of that role. Run writes its counts.
func New(role string, js jetstream.JetStream, log zerolog.Logger) *Counter {
	return &Counter{Every: Every, Now: time.Now, role: role, instance: nuid.Next(), js: js, log: log}
}

// Add adds n to a count.
func (c *Counter) Add(name string, n int64) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current()[name] += n
}

// Most raises a maximum to n if that is larger.
func (c *Counter) Most(name string, n int64) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if counts := c.current(); n > counts[name] {
		counts[name] = n
	}
}

// current returns the counts of the current period. The caller holds mu.
func (c *Counter) current() map[string]int64 {
	if c.counts == nil {
		c.counts = map[string]int64{}
	}
	return c.counts
}

// Run writes a record at the end of each period (with ten minutes: at :00, :10, ...), and the last
// one when ctx ends.
func (c *Counter) Run(ctx context.Context) error {
	c.since = c.Now().UTC()
	for {
		now := c.Now()
		wait := now.Truncate(c.Every).Add(c.Every).Sub(now)
		select {
		case <-ctx.Done():
			c.write(context.WithoutCancel(ctx))
			return nil
		case <-time.After(wait):
			c.write(ctx)
		}
	}
}

// write writes a record of the current period. If NATS does not take it, the period goes on, and
// the next record is for a longer one.
func (c *Counter) write(ctx context.Context) {
	c.mu.Lock()
	r := Record{Role: c.role, From: c.since, To: c.Now().UTC(), Counts: c.counts}
	c.counts = nil
	c.mu.Unlock()
	if len(r.Counts) == 0 {
		c.since = r.To
		return
	}
	if err := c.publish(ctx, r); err != nil {
		c.log.Debug().Err(err).Msg("failed to write counts")
		c.putBack(r.Counts)
		return
	}
	c.since = r.To
}

func (c *Counter) publish(ctx context.Context, r Record) error {
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode counts: %w", err)
	}
	m := nats.NewMsg(events.JournalSubject(events.JournalCount, c.role, c.instance))
	m.Data = data
	_, err = c.js.PublishMsg(ctx, m, jetstream.WithMsgTTL(keptFor))
	return err
}

// putBack adds counts that could not be written to the current ones.
func (c *Counter) putBack(counts map[string]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = counts
		return
	}
	now := c.counts
	c.counts = maps.Clone(counts)
	for name, n := range now {
		if name == LatestMS {
			c.counts[name] = max(c.counts[name], n)
			continue
		}
		c.counts[name] += n
	}
}
