package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken/internal/bus"
	"wxtoken/internal/events"
)

// How often storing an event is tried. All events of a push share answerTime.
const (
	publishTries = 2
	publishTime  = 1200 * time.Millisecond // for one try
	publishPause = 250 * time.Millisecond  // between two tries: a stream that is electing a leader refuses at once
	connectPoll  = 20 * time.Millisecond   // between two checks whether the connection is back
)

// publish stores all events and returns when NATS has acked each. duplicate is true if all of them
// were stored already.
func (i *Ingest) publish(ctx context.Context, all []events.Event) (duplicate bool, err error) {
	duplicate = true
	for _, e := range all {
		stored, err := i.publishOne(ctx, e)
		if err != nil {
			return false, err
		}
		duplicate = duplicate && stored
	}
	return duplicate, nil
}

// publishOne stores one event. A second try has the same id: if the first was stored and only its
// ack was lost, the second is answered as a duplicate.
func (i *Ingest) publishOne(ctx context.Context, e events.Event) (duplicate bool, err error) {
	i.step("ingest.before_publish")
	e.Seal = i.seal
	for try := range publishTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return false, err
			case <-time.After(publishPause):
			}
		}
		if duplicate, err = i.try(ctx, e); err == nil {
			i.step("ingest.after_puback")
			return duplicate, nil
		}
	}
	return false, fmt.Errorf("store event: %w", err)
}

func (i *Ingest) try(ctx context.Context, e events.Event) (duplicate bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, publishTime)
	defer cancel()
	// Without a connection nats.go would buffer the event and send it some time later, although
	// WeChat was told that it is not stored.
	for !i.js.Conn().IsConnected() {
		select {
		case <-ctx.Done():
			return false, errors.New("no connection to NATS")
		case <-time.After(connectPoll):
		}
	}
	return bus.Publish(ctx, i.js, e)
}
