package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
)

// ErrRaising is returned by Raise for a stream that is not above its mirrors yet: when Raise is
// called again it continues where it stopped.
var ErrRaising = errors.New("stream restored from a backup and not yet raised above its mirrors")

// raiseBatch is how many messages are published at once.
const raiseBatch = 1000

// Raise raises the last sequences of the two buckets above those of their mirrors. The last
// sequence of a bucket restored from a backup is lower: mirrors ignore what is stored in it then,
// since they believe to have those sequences, and watches that stand at the old sequence don't see
// it. Recreating the mirrors would break such watches, and only messages raise the last sequence of
// a stream. So Raise publishes messages, each replacing the one before: in the tokens' stream on a
// subject that only refreshers see, in the status bucket as the deletion of a key that never
// existed.
func Raise(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, cfg events.SetupConfig) error {
	fillers := map[string]*nats.Msg{
		events.StreamTokens: nats.NewMsg(events.ProofSubject),
		events.StreamStatus: {Subject: events.RaisedSubject, Header: nats.Header{"KV-Operation": {"DEL"}}},
	}
	for name, filler := range fillers {
		if err := raise(ctx, nc, js, cfg, name, filler); err != nil {
			return fmt.Errorf("raise stream %s: %w", name, err)
		}
	}
	return nil
}

func raise(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, cfg events.SetupConfig, name string, filler *nats.Msg) error {
	wanted, err := lastMirrored(ctx, nc, cfg, name)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return err
	}
	for last := stream.CachedInfo().State.LastSeq; last < wanted; {
		if last, err = fill(ctx, js, filler, min(wanted-last, raiseBatch)); err != nil {
			return fmt.Errorf("%w, from message %d to %d: %w", ErrRaising, last, wanted, err)
		}
	}
	return nil
}

// fill publishes a message n times and returns the last sequence.
func fill(ctx context.Context, js jetstream.JetStream, filler *nats.Msg, n uint64) (last uint64, err error) {
	var ack jetstream.PubAckFuture
	for range n {
		if ack, err = js.PublishMsgAsync(&nats.Msg{Subject: filler.Subject, Header: filler.Header}); err != nil {
			return 0, err
		}
	}
	select {
	case stored := <-ack.Ok():
		return stored.Sequence, nil
	case err := <-ack.Err():
		return 0, err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
