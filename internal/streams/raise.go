package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
)

// ErrRaising is returned by Raise for a stream that has not come above its mirrors yet: it goes on
// where it was when it is called again.
var ErrRaising = errors.New("the stream was put back from a backup, and is being raised above its mirrors")

// raised is how many messages are under way at once.
const raised = 1000

// Raise has the two buckets go on above their mirrors. One that was put back from a backup ends
// below: what is stored in it then is taken by no mirror, which believes to have it, and heard by
// no watch that stands at what was there before. To make the mirrors anew would end such watches,
// and NATS moves the last sequence of a stream by messages alone. So there is one after the other,
// each in the place of the one before: in the credentials on a subject that only refreshers see, in
// the statuses as the deletion of a key that never was.
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
		if last, err = fill(ctx, js, filler, min(wanted-last, raised)); err != nil {
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
