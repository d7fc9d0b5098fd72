// Package counts keeps what a process did, by ten minutes, on the stream TRAFFIC: for plots that
// survive restarts.
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

// What is counted. LatestMS is the most in its time, in milliseconds; all others are sums.
const (
	Renewed   = "renewed"   // tokens that were renewed
	Failed    = "failed"    // renewals that WeChat did not answer with a token
	LatestMS  = "latest_ms" // how long after its time the latest renewal came
	Exchanged = "exchanged" // accounts that authorized
	Pushes    = "pushes"    // pushes that were taken
	Refused   = "refused"   // pushes that were refused
	Repeated  = "repeated"  // of those taken, WeChat's repeats of what was stored already

	// How long pushes that were taken waited for their answer. WeChat waits 5 s.
	Within10ms  = "answered_10ms"
	Within100ms = "answered_100ms"
	Within1s    = "answered_1s"
	Within3s    = "answered_3s"
	Later       = "answered_later"
)

const (
	// Every is how long one record counts.
	Every = 10 * time.Minute
	// keptFor is the life of a record.
	keptFor = 48 * time.Hour
	// writeWithin bounds the wait for NATS.
	writeWithin = 2 * time.Second
)

// Within returns the count for an answer that took so long.
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

// Record is what a process did between two times.
type Record struct {
	Role   string           `json:"role"`
	From   time.Time        `json:"from"`
	To     time.Time        `json:"to"`
	Counts map[string]int64 `json:"counts"`
}

// Counter counts for one process. A nil Counter counts nothing.
type Counter struct {
	Every time.Duration    // of one record; ten minutes
	Now   func() time.Time // time.Now

	role, instance string
	js             jetstream.JetStream
	log            zerolog.Logger

	mu     sync.Mutex
	since  time.Time // of the record that is being counted for; Run's own
	counts map[string]int64
}

// New returns a counter for a process of that role. Run writes what it counts.
func New(role string, js jetstream.JetStream, log zerolog.Logger) *Counter {
	return &Counter{Every: Every, Now: time.Now, role: role, instance: nuid.Next(), js: js, log: log}
}

// Add counts n more.
func (c *Counter) Add(name string, n int64) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open()[name] += n
}

// Most keeps the largest.
func (c *Counter) Most(name string, n int64) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if counts := c.open(); n > counts[name] {
		counts[name] = n
	}
}

// open returns the counts of now. The caller holds mu.
func (c *Counter) open() map[string]int64 {
	if c.counts == nil {
		c.counts = map[string]int64{}
	}
	return c.counts
}

// Run writes a record at each round ten minutes, and the last one when ctx ends.
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

// write writes a record of what was counted since the last. What NATS does not take is counted on:
// the next record is of a longer time.
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
		c.log.Debug().Err(err).Msg("failed to write down what was done")
		c.giveBack(r.Counts)
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

// giveBack counts again what could not be written.
func (c *Counter) giveBack(counts map[string]int64) {
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
