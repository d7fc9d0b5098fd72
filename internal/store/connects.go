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

// connectsSince are the periods back from now in which links are searched, one after the other,
// until there are enough. The last is longer than any link is kept.
var connectsSince = []time.Duration{time.Hour, day, 7 * day, 40 * day}

const day = 24 * time.Hour

// Connects returns up to most links for which wanted is true, those stored last, newest first; more
// is true if there are others. Links that can't be read are left out.
func (s *Store) Connects(ctx context.Context, now time.Time, most int, wanted func(Connect) bool) (found []Connect, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var before time.Duration // found is complete for that long
	for _, since := range connectsSince {
		all, complete, err := s.connects(ctx, now.Add(-since), wanted)
		tooMany := !complete
		for shorter := since / 4; err == nil && !complete && shorter > max(before, time.Second); shorter /= 4 {
			all, complete, err = s.connects(ctx, now.Add(-shorter), wanted)
		}
		if err != nil {
			return nil, false, err
		}
		if complete {
			found = all
		}
		if tooMany || len(found) > most {
			return found[:min(len(found), most)], true, nil
		}
		before = since
	}
	return found, false, nil
}

// connects reads the links that were stored since a time; complete is false if there are more than
// maxConnects, and then none is read: the newest would come last.
func (s *Store) connects(ctx context.Context, since time.Time, wanted func(Connect) bool) (found []Connect, complete bool, err error) {
	cons, err := s.js.CreateConsumer(ctx, events.StreamTokens, jetstream.ConsumerConfig{
		FilterSubject: events.AllConnects, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
		AckPolicy: jetstream.AckNonePolicy, Replicas: 1, MemoryStorage: true, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return nil, false, fmt.Errorf("read links: %w", err)
	}
	defer func() {
		// If this fails, the server removes it when it is inactive.
		_ = s.js.DeleteConsumer(context.WithoutCancel(ctx), events.StreamTokens, cons.CachedInfo().Name)
	}()
	left := cons.CachedInfo().NumPending
	if left > maxConnects {
		return nil, false, nil
	}
	for left > 0 {
		batch, err := cons.Fetch(int(left), jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return nil, false, fmt.Errorf("read links: %w", err)
		}
		var got uint64
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
			break // records were replaced meanwhile: they are not pending any more
		}
		left -= min(left, got)
	}
	slices.Reverse(found)
	return found, true, nil
}

// connect reads a link; ok is false if it can't be read.
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
