package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/seal"
)

// requestTimeout bounds one request to NATS.
const requestTimeout = 5 * time.Second

// Store reads and writes the records. Its methods may be called from several goroutines.
type Store struct {
	js      jetstream.JetStream
	nc      *nats.Conn
	tokens  jetstream.Stream
	created time.Time // when NATS created the KV_tokens that was opened; CachedInfo changes with each Info
	status  jetstream.KeyValue
	commits chan *commit
	keys    *seal.Keys
	step    func(string)
	proof   proof
	acked   atomic.Uint64 // sequence of the newest acked message of KV_tokens
}

// Open returns the store in the streams that streams.Setup created. With keys it seals all that it
// writes except tokens; without, the stored records must be in the clear. It returns ErrSealed for
// keys that are not those of the store. step, if not nil, is called with a name after each message
// of a batch: tests end the process there.
func Open(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, keys *seal.Keys, step func(string)) (*Store, error) {
	tokens, err := js.Stream(ctx, events.StreamTokens)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", events.StreamTokens, err)
	}
	status, err := js.KeyValue(ctx, events.BucketStatus)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", events.BucketStatus, err)
	}
	if step == nil {
		step = func(string) {}
	}
	s := &Store{
		js: js, nc: nc, tokens: tokens, created: tokens.CachedInfo().Created, status: status,
		commits: make(chan *commit), keys: keys, step: step,
	}
	if err := s.ensureSealCheck(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// last returns the last message on a subject of KV_tokens, nil if there is none.
func (s *Store) last(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	m, err := hedged(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.tokens.GetLastMsgForSubject(ctx, subject)
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	return m, nil
}

// hedgeAfter is how long a read waits for an answer before it is sent again.
const hedgeAfter = 500 * time.Millisecond

// hedged reads something from NATS within requestTimeout. Any of three servers may get the request,
// also one that is frozen or cut off, until the others notice that. So a read without an answer is
// repeated in parallel, and the first answer counts.
func hedged[T any](ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer)
	again := time.NewTicker(hedgeAfter)
	defer again.Stop()
	for {
		go func() {
			value, err := read(ctx)
			select {
			case answers <- answer{value, err}:
			case <-ctx.Done(): // another was first
			}
		}()
		select {
		case a := <-answers:
			return a.value, a.err
		case <-again.C:
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}
}

// HasCredential reports whether the stream has a credential of key. It asks the leader: a read may
// be answered by a replica that lags behind.
func (s *Store) HasCredential(ctx context.Context, key wxtoken.Key) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	subject := events.CredentialSubject(key)
	info, err := s.tokens.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", subject, err)
	}
	if leaderless(info) {
		return false, fmt.Errorf("look for %s: the stream has no leader", subject)
	}
	return info.State.Subjects[subject] > 0, nil
}

// Credential returns the credential of key; one with Revision 0 if none is stored. With
// ErrUnreadable it returns an empty credential with the Revision, so that it can be replaced.
func (s *Store) Credential(ctx context.Context, key wxtoken.Key) (account.Credential, error) {
	m, err := s.last(ctx, events.CredentialSubject(key))
	if err != nil || m == nil {
		return account.Credential{Key: key}, err
	}
	c, err := s.credential(key, m.Subject, m.Header, m.Data)
	c.Revision = m.Sequence
	return c, err
}

// Token returns the token of key. ok is false if the bucket has none.
func (s *Store) Token(ctx context.Context, key wxtoken.Key) (t wxtoken.Token, ok bool, err error) {
	m, err := s.last(ctx, events.TokenSubject(key))
	if err != nil || m == nil || deletes(m.Header) {
		return wxtoken.Token{}, false, err
	}
	t, err = readToken(m.Data, m.Sequence)
	return t, err == nil, err
}

// kvOperation is the header with which KV clients mark a deletion.
const kvOperation = "KV-Operation"

func deletes(h nats.Header) bool {
	op := h.Get(kvOperation)
	return op == "DEL" || op == "PURGE"
}

// Save stores only a credential and returns it with its new revision. It returns ErrLost if the
// stored one is no longer the one that c is based on.
func (s *Store) Save(ctx context.Context, c account.Credential) (account.Credential, error) {
	m, err := s.credentialMsg(c)
	if err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ack, err := s.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	if err != nil {
		return c, fmt.Errorf("save credential of %s: %w", c.Key, lost(err))
	}
	s.noteAck(ack.Sequence)
	c.Revision = ack.Sequence
	return c, nil
}

// Claim is Save for a credential that is claimed. The committer gathers it with others: otherwise
// each of hundreds of renewals that begin together would wait for a flush of its own (docs/adr/0048).
//
// It ends within requestTimeout, as Save does, so that most of the claim's time is left for the call.
func (s *Store) Claim(ctx context.Context, c account.Credential) (account.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c.Commit = nuid.Next()
	record, err := s.credentialMsg(c)
	if err != nil {
		return c, err
	}
	return s.commit(ctx, c, record)
}

// noteAck records that NATS has the message with that sequence. The view learns of it later, or not
// at all while NATS is away.
func (s *Store) noteAck(sequence uint64) {
	for newest := s.acked.Load(); newest < sequence && !s.acked.CompareAndSwap(newest, sequence); newest = s.acked.Load() {
	}
}

// Commit stores a renewal: credential, token and next schedule, all of it or nothing. It returns
// ErrLost if the credential changed since c was loaded, otherwise c with its new revision.
func (s *Store) Commit(ctx context.Context, c account.Credential, t wxtoken.Token) (account.Credential, error) {
	c.Commit = nuid.Next()
	record, err := s.credentialMsg(c)
	if err != nil {
		return c, err
	}
	data, err := TokenRecord(t)
	if err != nil {
		return c, fmt.Errorf("encode token of %s: %w", c.Key, err)
	}
	token := nats.NewMsg(events.TokenSubject(c.Key))
	token.Data = data
	schedule, err := events.ScheduleMsg(c.Key, t.Generation, t.RenewAt)
	if err != nil {
		return c, err
	}
	return s.commit(ctx, c, record, token, schedule)
}

// SaveDue stores a credential and makes its next token due now: both or nothing. It returns ErrLost
// as Commit does. Concurrent calls share a batch, while Save and MakeDue take two flushes for each
// key.
func (s *Store) SaveDue(ctx context.Context, c account.Credential, reason string) (account.Credential, error) {
	c.Commit = nuid.Next()
	record, err := s.credentialMsg(c)
	if err != nil {
		return c, err
	}
	due, err := events.DueMsg(events.Due{Key: c.Key, Generation: c.Generation, Reason: reason})
	if err != nil {
		return c, err
	}
	return s.commit(ctx, c, record, due)
}

// Revoke stores a credential whose authorization is over, removes the token and ends the schedule:
// all of it or nothing. It returns ErrLost as Commit does.
func (s *Store) Revoke(ctx context.Context, c account.Credential) (account.Credential, error) {
	c.Commit = nuid.Next()
	record, err := s.credentialMsg(c)
	if err != nil {
		return c, err
	}
	events.EndSchedule(record, c.Key)
	token := nats.NewMsg(events.TokenSubject(c.Key))
	token.Header.Set(kvOperation, "DEL")
	return s.commit(ctx, c, record, token)
}

func (s *Store) credentialMsg(c account.Credential) (*nats.Msg, error) {
	data, err := encodeCredential(c)
	if err != nil {
		return nil, err
	}
	m := nats.NewMsg(events.CredentialSubject(c.Key))
	m.Data = data
	s.keys.Seal(m)
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, fmt.Sprint(c.Revision))
	return m, nil
}

// Reschedule publishes the schedule of a stored token again. When a schedule is replaced at the
// moment at which it fires, NATS removes its successor too; a due message of a past generation is
// the sign of that.
func (s *Store) Reschedule(ctx context.Context, t wxtoken.Token) error {
	m, err := events.ScheduleMsg(t.Key, t.Generation, t.RenewAt)
	if err != nil {
		return err
	}
	return s.publish(ctx, m)
}

// MakeDue makes a renewal due now. Of several calls with the same id within two minutes only the
// first counts; with an empty id each counts.
func (s *Store) MakeDue(ctx context.Context, d events.Due, id string) error {
	m, err := events.DueMsg(d)
	if err != nil {
		return err
	}
	if id != "" {
		m.Header.Set(jetstream.MsgIDHeader, id)
	}
	return s.publish(ctx, m)
}

// DueRequest is one call of MakeDue.
type DueRequest struct {
	Due events.Due
	ID  string
}

// dueAtOnce is how many messages MakeAllDue sends before it waits for their acks.
const dueAtOnce = 500

// MakeAllDue is MakeDue for many, in their order. After an error some of them may be due all the
// same.
func (s *Store) MakeAllDue(ctx context.Context, all []DueRequest) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout+time.Duration(len(all))*time.Millisecond)
	defer cancel()
	for some := range slices.Chunk(all, dueAtOnce) {
		var acks []jetstream.PubAckFuture
		for _, w := range some {
			m, err := events.DueMsg(w.Due)
			if err != nil {
				return err
			}
			m.Header.Set(jetstream.MsgIDHeader, w.ID)
			ack, err := s.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0))
			if err != nil {
				return fmt.Errorf("publish %s: %w", m.Subject, err)
			}
			acks = append(acks, ack)
		}
		for _, ack := range acks {
			select {
			case <-ack.Ok():
			case err := <-ack.Err():
				return fmt.Errorf("publish %s: %w", ack.Msg().Subject, err)
			case <-ctx.Done():
				return fmt.Errorf("publish %s: %w", ack.Msg().Subject, ctx.Err())
			}
		}
	}
	return nil
}

// DueWaiting returns a function that reports whether the stream has a due message of a key that was
// not delivered to any refresher yet. If that can't be found out it reports false.
func (s *Store) DueWaiting(ctx context.Context) func(context.Context, wxtoken.Key) bool {
	none := func(context.Context, wxtoken.Key) bool { return false }
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	cons, err := s.js.Consumer(ctx, events.StreamTokens, events.DurableDue)
	if err != nil {
		return none
	}
	info := cons.CachedInfo()
	if info.NumPending == 0 {
		return none
	}
	return func(ctx context.Context, key wxtoken.Key) bool {
		m, err := s.last(ctx, events.DueSubject(key))
		return err == nil && m != nil && m.Sequence > info.Delivered.Stream
	}
}

// ScheduleReconcile makes a reconcile of component with WeChat's list due now, and again each time
// that interval has passed. If that is scheduled already it does nothing, unless now is true: then
// it makes one due.
func (s *Store) ScheduleReconcile(ctx context.Context, component string, every time.Duration, now bool) error {
	m, err := s.last(ctx, events.ReconcileScheduleSubject(component))
	if err != nil {
		return err
	}
	schedule := events.ReconcileMsg(component, every)
	switch {
	case m == nil || m.Header.Get(jetstream.ScheduleHeader) != schedule.Header.Get(jetstream.ScheduleHeader):
		return s.reschedule(ctx, component, every, "")
	case now:
		return s.MakeReconcileDue(ctx, component, "")
	}
	return nil
}

// KeepReconciling checks the schedule of component's reconciles. If it did not fire when it should
// have, by the server's clock (now is from ServerTime), it publishes it again and makes a reconcile
// due: a schedule that came due while the server's store was full never fires again by itself
// (findings/full-store-stops-schedules.sh).
func (s *Store) KeepReconciling(ctx context.Context, component string, every time.Duration, now time.Time) error {
	schedule, err := s.last(ctx, events.ReconcileScheduleSubject(component))
	if err != nil {
		return err
	}
	due, err := s.last(ctx, events.ReconcileDueSubject(component))
	if err != nil {
		return err
	}
	if schedule == nil || due == nil {
		return nil // the one is stored after the other, so the answer is of a replica that lags behind, or of a mirror
	}
	fired := schedule.Time
	if due.Time.After(fired) {
		fired = due.Time
	}
	if now.Sub(fired) < every+min(every, time.Minute) {
		return nil
	}
	// Of several refreshers that see it at once one makes a reconcile due: the id names what has stopped.
	return s.reschedule(ctx, component, every, fmt.Sprintf("reconcile.%s.%d.%d", component, schedule.Sequence, due.Sequence))
}

// ServerTime asks NATS for its time: the server stamps messages, and fires schedules, by its own
// clock.
func (s *Store) ServerTime(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := s.tokens.Info(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the server's time: %w", err)
	}
	return info.TimeStamp, nil
}

// reschedule makes a reconcile of component due now, and stores the schedule of the next ones. In this
// order: a schedule alone would look as if the first reconcile had been made due, and that would come
// hours later. Where the schedule is missing, both are made again. id is that of the due message.
func (s *Store) reschedule(ctx context.Context, component string, every time.Duration, id string) error {
	if err := s.MakeReconcileDue(ctx, component, id); err != nil {
		return err
	}
	return s.publish(ctx, events.ReconcileMsg(component, every))
}

// MakeReconcileDue makes a reconcile of component with WeChat's list due now. Of several calls with
// the same id within two minutes only the first counts; with an empty id each counts.
func (s *Store) MakeReconcileDue(ctx context.Context, component, id string) error {
	m := nats.NewMsg(events.ReconcileDueSubject(component))
	if id != "" {
		m.Header.Set(jetstream.MsgIDHeader, id)
	}
	return s.publish(ctx, m)
}

func (s *Store) publish(ctx context.Context, m *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := s.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0)); err != nil {
		return fmt.Errorf("publish %s: %w", m.Subject, err)
	}
	return nil
}

// lost turns the server's "wrong last sequence" into ErrLost.
func lost(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return ErrLost
		}
	}
	return err
}
