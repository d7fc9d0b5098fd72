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

// Prove stores a message in the stream of the tokens, replacing the one before: the ack proves that
// the stream takes writes, and that they are on the disk if the server syncs always. It returns the
// message's sequence.
func Prove(ctx context.Context, js jetstream.JetStream) (uint64, error) {
	ack, err := js.Publish(ctx, events.ProofSubject, nil, jetstream.WithRetryAttempts(0))
	if err != nil {
		return 0, fmt.Errorf("publish %s to %s: %w", events.ProofSubject, events.StreamTokens, err)
	}
	return ack.Sequence, nil
}

// StoreCanary proves that the stream of the tokens takes a write, and that it can be read back.
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
	// The replica that answered lags behind, or was restored to an older state. Wait: one that lags
	// catches up.
	for err == nil && got.Sequence < stored {
		select {
		case <-ctx.Done():
			return fmt.Errorf("read from %s: just stored message missing: %w", events.StreamTokens, ctx.Err())
		case <-time.After(canaryPoll):
		}
		got, err = stream.GetLastMsgForSubject(ctx, events.ProofSubject)
	}
	if err != nil {
		return fmt.Errorf("read just stored message from %s: %w", events.StreamTokens, err)
	}
	return nil
}

// canaryPoll is the time between two reads of a message that a replica does not have yet.
const canaryPoll = 20 * time.Millisecond

// impossible is a last sequence that no stream has.
const impossible = math.MaxInt64

// RefusedCanary publishes to AUTH with a condition that can't hold: the stream's leader refuses it
// and stores nothing. It proves that publishes of this user reach the leader of the stream. It does
// not prove that the disk takes writes: a user who may only publish can't find that out without
// leaving an event behind.
func RefusedCanary(ctx context.Context, js jetstream.JetStream) error {
	_, err := js.Publish(ctx, events.CanarySubject, nil, jetstream.WithExpectLastSequence(impossible), jetstream.WithRetryAttempts(0))
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return nil
	}
	if err == nil {
		err = errors.New("stored although its condition does not hold")
	}
	return fmt.Errorf("publish to %s: %w", events.StreamAuth, err)
}
