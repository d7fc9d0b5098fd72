package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"

	"wxtoken/internal/bus"
	"wxtoken/internal/events"
)

// ErrGone is returned by CheckSame when the stream's data is gone: the stream was deleted, emptied,
// recreated, or replaced by an older copy.
var ErrGone = errors.New("stream data lost or replaced")

// CheckSame returns ErrGone if the stream is no longer the one that was opened, or no longer has
// what v saw in it or what this program stored.
//
// With several servers a newly elected leader, or the replica that feeds v, may lag behind. So data
// counts as gone only if it is still missing after they have caught up with a message that is
// stored now. Where v lacks records that are known, it is also read from the beginning again: a caller
// believes ErrGone when that reading lacks them too, in a look after it.
func (s *Store) CheckSame(ctx context.Context, v *View) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	gone := s.same(ctx, v, 0)
	if !errors.Is(gone, ErrGone) {
		return gone
	}
	stored, err := bus.Prove(ctx, s.js)
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse): // no stream, or one without that subject
		return gone
	case err != nil:
		return fmt.Errorf("confirm data loss (%s): %w", gone, err)
	}
	v.await(ctx, stored)
	return s.same(ctx, v, stored)
}

// leaderless reports whether no leader was known when info was asked for: then any server may have
// answered, perhaps one that lags behind.
func leaderless(info *jetstream.StreamInfo) bool {
	return info.Cluster != nil && info.Cluster.Leader == ""
}

// same is one check for CheckSame, by servers that have the message with sequence stored.
func (s *Store) same(ctx context.Context, v *View, stored uint64) error {
	// Read before the stream's state: a message stored in between must not look like a loss.
	records, seen := v.records(), max(v.Seen(), s.acked.Load())
	stream, err := s.js.Stream(ctx, events.StreamTokens)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: %s was deleted", ErrGone, events.StreamTokens)
	}
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", events.StreamTokens, err)
	}
	lost, reading := v.lost(stored)
	switch info := stream.CachedInfo(); {
	case leaderless(info):
		return fmt.Errorf("look up stream %s: it has no leader", events.StreamTokens)
	case info.State.LastSeq < stored:
		return fmt.Errorf("look up stream %s: the answering server lags behind", events.StreamTokens)
	case !info.Created.Equal(s.created):
		return fmt.Errorf("%w: %s was deleted and made anew", ErrGone, events.StreamTokens)
	case info.State.LastSeq < seen:
		return fmt.Errorf("%w: %s is an older copy, up to message %d, and %d was there", ErrGone, events.StreamTokens, info.State.LastSeq, seen)
	case info.State.Msgs < records:
		return fmt.Errorf("%w: %s was emptied, %d messages where %d were known", ErrGone, events.StreamTokens, info.State.Msgs, records)
	case reading:
		return fmt.Errorf("%s is being read again", events.StreamTokens)
	case lost > 0:
		// A consumer on a replica that caught up may have passed over messages that the replica
		// has: only another reading, which begins now, can tell.
		if stored > 0 {
			v.readAnew()
		}
		return fmt.Errorf("%w: %s is an older copy, without what was known of %d keys", ErrGone, events.StreamTokens, lost)
	}
	return nil
}

// proofLasts is how long a proof that NATS stores messages is valid.
const proofLasts = 5 * time.Second

// proof remembers when NATS last proved that it stores messages.
type proof struct {
	asking singleflight.Group
	mu     sync.Mutex
	at     time.Time
}

// Prove returns an error unless NATS stored a message within the last 5 s, or stores one now. An
// open connection proves nothing: the disk may be full, the leader away, the stream gone.
// Concurrent calls share one message.
func (s *Store) Prove(ctx context.Context) error {
	_, err, _ := s.proof.asking.Do("", func() (any, error) {
		s.proof.mu.Lock()
		fresh := time.Since(s.proof.at) < proofLasts
		s.proof.mu.Unlock()
		if fresh {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		began := time.Now()
		if _, err := bus.Prove(ctx, s.js); err != nil {
			return nil, err
		}
		s.proof.mu.Lock()
		s.proof.at = began
		s.proof.mu.Unlock()
		return nil, nil
	})
	return err
}
