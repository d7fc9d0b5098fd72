package bus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
)

// Prove has the stream of the tokens store a message over the one before it: the ack proves that
// the stream takes a write, on the disk where the server syncs always. It returns the message's
// sequence.
func Prove(ctx context.Context, js jetstream.JetStream) (uint64, error) {
	ack, err := js.Publish(ctx, events.ProofSubject, nil, jetstream.WithRetryAttempts(0))
	if err != nil {
		return 0, fmt.Errorf("publish %s to %s: %w", events.ProofSubject, events.StreamTokens, err)
	}
	return ack.Sequence, nil
}

// StoreCanary proves that the stream of the tokens takes a write, and gives it back.
func StoreCanary(ctx context.Context, js jetstream.JetStream) error {
	stored, err := Prove(ctx, js)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, events.StreamTokens)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", events.StreamTokens, err)
	}
	got, err := stream.GetLastMsgForSubject(ctx, events.ProofSubject)
	// A replica that is behind, or gone back: one that is only behind gets there.
	for err == nil && got.Sequence < stored {
		select {
		case <-ctx.Done():
			return fmt.Errorf("read from %s: what was just stored is not there: %w", events.StreamTokens, ctx.Err())
		case <-time.After(canaryPoll):
		}
		got, err = stream.GetLastMsgForSubject(ctx, events.ProofSubject)
	}
	if err != nil {
		return fmt.Errorf("read from %s what was just stored: %w", events.StreamTokens, err)
	}
	return nil
}

// canaryPoll is the time between two looks for a message that a replica does not have yet.
const canaryPoll = 20 * time.Millisecond

// impossible is a last sequence that no stream has.
const impossible = math.MaxInt64

// RefusedCanary publishes to AUTH on a condition that can't hold: the stream's leader looks at it,
// refuses it and stores nothing. It proves that a publish of this user reaches a stream that judges
// it; not that a disk would take it, for a user that may only publish can't find that out without
// leaving an event behind.
func RefusedCanary(ctx context.Context, js jetstream.JetStream) error {
	_, err := js.Publish(ctx, events.CanarySubject, nil, jetstream.WithExpectLastSequence(impossible), jetstream.WithRetryAttempts(0))
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return nil
	}
	if err == nil {
		err = errors.New("it was stored against its condition")
	}
	return fmt.Errorf("publish to %s: %w", events.StreamAuth, err)
}
