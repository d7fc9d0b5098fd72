package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// sideRecord is a record besides the credentials: a Connect or a Quota.
type sideRecord interface {
	// version returns the version in the record that was read.
	version() int
}

// read reads the record on a subject into record and returns its revision, 0 if there is none.
func (s *Store) read(ctx context.Context, subject string, record sideRecord) (revision uint64, err error) {
	m, err := s.last(ctx, subject)
	if err != nil || m == nil {
		return 0, err
	}
	data, err := s.open(m.Subject, m.Header, m.Data)
	if err != nil {
		return m.Sequence, err
	}
	if err := json.Unmarshal(data, record); err != nil {
		return m.Sequence, fmt.Errorf("%w: %s is not JSON", ErrUnreadable, subject)
	}
	if v := record.version(); v > recordVersion {
		return m.Sequence, fmt.Errorf("%w: %s has version %d, this program knows %d (run the newer program)",
			ErrNewer, subject, v, recordVersion)
	}
	return m.Sequence, nil
}

// write replaces the record of the given revision and returns the new revision. It returns ErrLost
// if the record has another revision by now.
func (s *Store) write(ctx context.Context, subject string, record sideRecord, revision uint64, opts ...jetstream.PublishOpt) (uint64, error) {
	data, err := json.Marshal(record)
	if err != nil {
		return 0, fmt.Errorf("encode %s: %w", subject, err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m := nats.NewMsg(subject)
	m.Data = data
	s.keys.Seal(m)
	opts = append(opts, jetstream.WithRetryAttempts(0), jetstream.WithExpectLastSequencePerSubject(revision))
	ack, err := s.js.PublishMsg(ctx, m, opts...)
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", subject, lost(err))
	}
	return ack.Sequence, nil
}

// tries bounds how often a change is repeated because another process changed the record meanwhile.
const tries = 10

// update repeats try while it returns ErrLost: because another process was faster, or because the
// read came from a server that lags behind.
func update(ctx context.Context, try func() error) (err error) {
	for n := range tries {
		if err = try(); !errors.Is(err, ErrLost) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(n) * 5 * time.Millisecond):
		}
	}
	return err
}
