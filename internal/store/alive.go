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

// ErrGone is returned by Same when what rested in the stream is gone: it was deleted, emptied, made
// anew, or replaced by an older copy.
var ErrGone = errors.New("what rested in the stream is gone")

// Same returns ErrGone when the stream is no longer the one that was opened, or no longer holds
// what v saw in it or what this program stored.
//
// With several servers a leader that was elected a moment ago, or the replica that v is read from,
// may be behind. So what seems to be gone is gone only if they lack it once they have a message
// that is stored now.
func (s *Store) Same(ctx context.Context, v *View) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	gone := s.same(ctx, v, 0)
	if !errors.Is(gone, ErrGone) {
		return gone
	}
	stored, err := bus.Prove(ctx, s.js)
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse): // it is not there, or takes no such subject
		return gone
	case err != nil:
		return fmt.Errorf("look whether it is so (%s): %w", gone, err)
	}
	v.await(ctx, stored)
	return s.same(ctx, v, stored)
}

// leaderless reports whether a stream was looked at where no leader is known: any server answers
// then, and may be behind.
func leaderless(info *jetstream.StreamInfo) bool {
	return info.Cluster != nil && info.Cluster.Leader == ""
}

// same is Same as it looks to those who have a message with this sequence.
func (s *Store) same(ctx context.Context, v *View, stored uint64) error {
	// Before the look: what comes in between is no loss.
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
		return fmt.Errorf("look up stream %s: who answered is behind", events.StreamTokens)
	case !info.Created.Equal(s.made):
		return fmt.Errorf("%w: %s was deleted and made anew", ErrGone, events.StreamTokens)
	case info.State.LastSeq < seen:
		return fmt.Errorf("%w: %s is an older copy, up to message %d, and %d was there", ErrGone, events.StreamTokens, info.State.LastSeq, seen)
	case info.State.Msgs < records:
		return fmt.Errorf("%w: %s was emptied, %d messages where %d were known", ErrGone, events.StreamTokens, info.State.Msgs, records)
	case reading:
		return fmt.Errorf("%s is being read again", events.StreamTokens)
	case lost > 0:
		return fmt.Errorf("%w: %s is an older copy, without what was known of %d keys", ErrGone, events.StreamTokens, lost)
	}
	return nil
}

// proofLasts is how long it counts that NATS stored something.
const proofLasts = 5 * time.Second

// proof is what is known of NATS storing what it is given.
type proof struct {
	asking singleflight.Group
	mu     sync.Mutex
	at     time.Time
}

// Proof returns an error unless NATS stored something within the last 5 s, or stores something now.
// A connection that stands proves nothing: the disk may be full, the leader away, the stream gone.
// Many who ask at once cost one message.
func (s *Store) Proof(ctx context.Context) error {
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
