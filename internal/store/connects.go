package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
)

// maxConnects bounds how many links are read for a list.
const maxConnects = 2000

// connectsSince are how far back links are looked for, in turn, until there are enough. The last is
// longer than any link is kept.
var connectsSince = []time.Duration{time.Hour, day, 7 * day, 40 * day}

const day = 24 * time.Hour

// Connects returns the links that are as wanted and were stored last, the newest first; more is
// true where there are others. Links that can't be read are left out.
func (s *Store) Connects(ctx context.Context, now time.Time, most int, wanted func(Connect) bool) (found []Connect, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for i, since := range connectsSince {
		all, complete, err := s.connects(ctx, now.Add(-since), wanted)
		if err != nil {
			return nil, false, err
		}
		if !complete && i > 0 {
			return found, true, nil // the newest of more than are read: those of the shorter time
		}
		found = all
		if len(found) > most {
			return found[:most], true, nil
		}
		if !complete {
			return found, true, nil
		}
	}
	return found, false, nil
}

// connects reads the links that were stored since a time; complete is false where there are more
// than maxConnects.
func (s *Store) connects(ctx context.Context, since time.Time, wanted func(Connect) bool) (found []Connect, complete bool, err error) {
	cons, err := s.js.CreateConsumer(ctx, events.StreamTokens, jetstream.ConsumerConfig{
		FilterSubject: events.AllConnects, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
		AckPolicy: jetstream.AckNonePolicy, Replicas: 1, MemoryStorage: true, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return nil, false, fmt.Errorf("read links: %w", err)
	}
	defer func() {
		// It goes by itself, too.
		_ = s.js.DeleteConsumer(context.WithoutCancel(ctx), events.StreamTokens, cons.CachedInfo().Name)
	}()
	pending := int(cons.CachedInfo().NumPending)
	for left := min(pending, maxConnects); left > 0; {
		batch, err := cons.Fetch(left, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return nil, false, fmt.Errorf("read links: %w", err)
		}
		got := 0
		for m := range batch.Messages() {
			got++
			if c, ok := s.connect(m); ok && wanted(c) {
				found = append(found, c)
			}
		}
		if err := batch.Error(); err != nil {
			return nil, false, fmt.Errorf("read links: %w", err)
		}
		if got == 0 {
			break // changed meanwhile: what was pending is gone
		}
		left -= got
	}
	slices.Reverse(found)
	return found, pending <= maxConnects, nil
}

// connect reads a link; ok is false for one that can't be read.
func (s *Store) connect(m jetstream.Msg) (c Connect, ok bool) {
	data, err := s.open(m.Subject(), m.Headers(), m.Data())
	if err != nil || json.Unmarshal(data, &c) != nil || c.Version > recordVersion {
		return Connect{}, false
	}
	meta, err := m.Metadata()
	if err != nil {
		return Connect{}, false
	}
	c.Revision = meta.Sequence.Stream
	return c, true
}
