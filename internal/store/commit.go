package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"wxtoken/internal/account"
	"wxtoken/internal/events"
)

const (
	// maxGathered bounds how many commits and claims share a batch.
	maxGathered = 300 // of three messages at most; the server takes 1,000 in one batch

	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// commit is a set of messages that are stored together or not at all. The first one is the
// credential; a claim consists of that one only.
type commit struct {
	credential account.Credential
	msgs       []*nats.Msg
	done       chan error // buffered; receives nil when stored
	revision   uint64
}

// isClaim reports whether nothing is lost with c: the due message that it is for comes again.
func (c *commit) isClaim() bool { return len(c.msgs) == 1 }

// commit hands messages to the committer and waits for the result.
func (s *Store) commit(ctx context.Context, c account.Credential, msgs ...*nats.Msg) (account.Credential, error) {
	wanted := &commit{credential: c, msgs: msgs, done: make(chan error, 1)}
	select {
	case s.commits <- wanted:
	case <-ctx.Done():
		return c, fmt.Errorf("commit %s: %w", c.Key, ctx.Err())
	}
	select {
	case err := <-wanted.done:
		if err != nil {
			return c, fmt.Errorf("commit %s: %w", c.Key, err)
		}
		c.Revision = wanted.revision
		return c, nil
	case <-ctx.Done():
		return c, fmt.Errorf("commit %s: %w", c.Key, ctx.Err())
	}
}

// Run is the committer; each process runs one. It gathers all waiting commits into one batch,
// because the server takes about as long for a batch of many as for a batch of one: it flushes once
// (docs/adr/0048). It ends with ctx.
func (s *Store) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-s.commits:
			gathered := []*commit{first}
			for more := true; more && len(gathered) < maxGathered; {
				select {
				case next := <-s.commits:
					gathered = append(gathered, next)
				default:
					more = false
				}
			}
			s.store(ctx, gathered)
		}
	}
}

// store stores the commits as one batch. If the server refuses it, each half is stored by itself,
// and so on, so that a fault of one does not affect the others. If the server does not answer, each
// is stored alone at once, but for claims: their handlers have given up by then, and tokens must not
// wait behind them.
func (s *Store) store(ctx context.Context, gathered []*commit) {
	var msgs []*nats.Msg
	for _, c := range gathered {
		msgs = append(msgs, c.msgs...)
	}
	last, err := s.batch(ctx, msgs)
	if err == nil {
		first := last - uint64(len(msgs)) + 1
		for _, c := range gathered {
			c.revision = first
			first += uint64(len(c.msgs))
			c.done <- nil
		}
		return
	}
	if len(gathered) == 1 {
		gathered[0].done <- s.resolve(ctx, gathered[0], err)
		return
	}
	part := 1
	if errors.Is(err, ErrLost) {
		part = (len(gathered) + 1) / 2
	}
	answered := errors.As(err, new(*jetstream.APIError)) || errors.Is(err, ErrLost) || errors.Is(err, errBadAck)
	for some := range slices.Chunk(gathered, part) {
		if !answered && some[0].isClaim() {
			some[0].done <- err
			continue
		}
		s.store(ctx, some)
	}
}

// resolve finds out whether a batch was stored although it failed: its answer may have been lost.
// It returns err if not. Of a claim it believes the error. The record may have changed since and
// still bear the claim's id, and its revision would then be the wrong one to commit on; if the claim
// is stored, its due message takes it over when it comes again.
func (s *Store) resolve(ctx context.Context, c *commit, err error) error {
	if c.isClaim() {
		return err
	}
	stored, readErr := s.Credential(ctx, c.credential.Key)
	if readErr == nil && stored.Commit == c.credential.Commit {
		c.revision = stored.Revision
		return nil
	}
	return err
}

// batch stores messages as one atomic batch and returns the sequence of the last.
func (s *Store) batch(ctx context.Context, msgs []*nats.Msg) (last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if len(msgs) == 1 { // a claim alone
		for _, name := range []string{headerBatchID, headerBatchSequence, headerBatchCommit} {
			msgs[0].Header.Del(name)
		}
		return s.commitBatch(ctx, msgs[0])
	}
	id := nuid.Next()
	for i, m := range msgs {
		m.Header.Set(headerBatchID, id)
		m.Header.Set(headerBatchSequence, strconv.Itoa(i+1))
		m.Header.Del(headerBatchCommit)
		switch {
		case i == len(msgs)-1:
			m.Header.Set(headerBatchCommit, "1")
			last, err = s.commitBatch(ctx, m)
		case i == 0:
			// With an answer, so that a server that does not take batches says so at once.
			err = s.openBatch(ctx, m)
		default:
			err = s.nc.PublishMsg(m)
		}
		if err != nil {
			return 0, fmt.Errorf("store batch of %d messages: %w", len(msgs), err)
		}
		s.step("batch." + strconv.Itoa(i+1))
	}
	return last, nil
}

func (s *Store) openBatch(ctx context.Context, m *nats.Msg) error {
	answer, err := s.nc.RequestMsgWithContext(ctx, m)
	if err != nil || len(answer.Data) == 0 {
		return err
	}
	_, err = parseAck(answer.Data)
	return err
}

func (s *Store) commitBatch(ctx context.Context, m *nats.Msg) (uint64, error) {
	answer, err := s.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return 0, err
	}
	sequence, err := parseAck(answer.Data)
	if err == nil {
		s.noteAck(sequence)
	}
	return sequence, err
}

// errBadAck is returned for an unknown answer of the server's to a batch.
var errBadAck = errors.New("unknown answer to a batch")

func parseAck(data []byte) (sequence uint64, err error) {
	var ack struct {
		Stream   string              `json:"stream"`
		Sequence uint64              `json:"seq"`
		Error    *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return 0, fmt.Errorf("%w: %w", errBadAck, err)
	}
	if ack.Error != nil {
		return 0, lost(ack.Error)
	}
	if ack.Stream != events.StreamTokens {
		return 0, fmt.Errorf("%w: it names the stream %q", errBadAck, ack.Stream)
	}
	return ack.Sequence, nil
}
