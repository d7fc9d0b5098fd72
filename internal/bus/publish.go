package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
)

// ackTimeout bounds the wait of nats.go for the ack of an asynchronous publish.
const ackTimeout = 30 * time.Second

// JetStream returns a JetStream whose asynchronous publishes are given up after ackTimeout. Otherwise acks
// that no server will send are waited for until the connection is lost, and with 4,000 of them nats.go
// publishes nothing more (ErrTooManyStalledMsgs, nats.go 1.55.0).
func JetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	return jetstream.New(nc, jetstream.WithPublishAsyncTimeout(ackTimeout))
}

// Publish stores the event and returns when the server has acked it. duplicate is true if an event
// with the same id was stored already.
func Publish(ctx context.Context, js jetstream.JetStream, e events.Event) (duplicate bool, err error) {
	ack, err := js.PublishMsg(ctx, e.Msg(), jetstream.WithRetryAttempts(0))
	if err != nil {
		return false, fmt.Errorf("publish %s: %w", e.Subject, err)
	}
	return ack.Duplicate, nil
}

// recordWithin bounds the wait for JOURNAL to store a record.
const recordWithin = 3 * time.Second

// Record stores the record of an action on JOURNAL, and returns when the server has acked it. It is
// stored even if ctx ends because the asker has gone.
func Record(ctx context.Context, js jetstream.JetStream, a events.Audit) error {
	m, err := a.Msg()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordWithin)
	defer cancel()
	if _, err := js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0)); err != nil {
		return fmt.Errorf("store the record of %s on %s: %w", a.Action, events.StreamJournal, err)
	}
	return nil
}
