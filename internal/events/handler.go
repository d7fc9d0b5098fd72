package events

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// Msg is one delivery of a message.
type Msg struct {
	Subject  string
	Header   nats.Header
	Data     []byte
	Sequence uint64 // in the stream
	// Redelivered reports that this message was delivered before: its handler gave it back, or sent
	// no heartbeat for a while.
	Redelivered bool
	Deliveries  int // how often it was delivered, this time included
}

// Handler handles one message and answers with an error verb.
type Handler func(ctx context.Context, m Msg) error

type laterError struct {
	after time.Duration
	err   error
}

func (e *laterError) Error() string { return e.err.Error() }
func (e *laterError) Unwrap() error { return e.err }

// Later gives the message back: it is delivered again after the given time. err says why.
func Later(after time.Duration, err error) error { return &laterError{after: after, err: err} }

// After returns how long an error of Later wants to wait; ok is false for any other error.
func After(err error) (wait time.Duration, ok bool) {
	if later, ok := errors.AsType[*laterError](err); ok {
		return later.after, true
	}
	return 0, false
}

type neverError struct{ err error }

func (e *neverError) Error() string { return e.err.Error() }
func (e *neverError) Unwrap() error { return e.err }

// Never gives the message up: it can't be processed, now or later. A copy with the reason goes to
// DEAD.
func Never(err error) error { return &neverError{err: err} }

// Ends returns the reason in an error of Never; ok is false for any other error.
func Ends(err error) (why error, ok bool) {
	if never, ok := errors.AsType[*neverError](err); ok {
		return never, true
	}
	return nil, false
}
