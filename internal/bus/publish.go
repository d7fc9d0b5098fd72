package bus

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
)

// Publish stores the event and returns when the server has acked it. duplicate is true when
// an event with the same id lay there already.
func Publish(ctx context.Context, js jetstream.JetStream, e events.Event) (duplicate bool, err error) {
	ack, err := js.PublishMsg(ctx, e.Msg(), jetstream.WithRetryAttempts(0))
	if err != nil {
		return false, fmt.Errorf("publish %s: %w", e.Subject, err)
	}
	return ack.Duplicate, nil
}
