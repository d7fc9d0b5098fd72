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
	made    time.Time // when NATS made KV_tokens, as it was when opened: each Info of tokens replaces what CachedInfo says
	status  jetstream.KeyValue
	commits chan *commit
	keys    *seal.Keys
	step    func(string)
	proof   proof
	acked   atomic.Uint64 // sequence of the newest message of KV_tokens whose ack came
}

// Open returns the store in the streams that streams.Setup made. With keys all that it writes is
// sealed, but the tokens; without, the stored records must be in the clear. It returns ErrSealed
// for keys that are not those of the store. step, if not nil, is called with a name after each
// message of a batch: tests end the process there.
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
	s := &Store{js: js, nc: nc, tokens: tokens, made: tokens.CachedInfo().Created, status: status, commits: make(chan *commit), keys: keys, step: step}
	if err := s.canary(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// last returns the last message on a subject of KV_tokens, nil when there is none.
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

// hedgeAfter is how long a read goes without an answer before it is asked once more.
const hedgeAfter = 500 * time.Millisecond

// hedged reads something from NATS within requestTimeout. Any of three servers may be the one that
// answers, and a server that is frozen or cut off is asked as often as the others until they
// notice: so a read that is not answered is made again beside the first, and the first answer
// counts.
func hedged[T any](ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, requestTimeout/hedgeAfter+1)
	again := time.NewTicker(hedgeAfter)
	defer again.Stop()
	for {
		go func() {
			value, err := read(ctx)
			answers <- answer{value, err}
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

// Holds reports whether the stream has a credential of key, as its leader sees it: a read may be
// answered by a replica that is behind.
func (s *Store) Holds(ctx context.Context, key wxtoken.Key) (bool, error) {
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

// Credential returns the credential of key; one with Revision 0 when none is stored. With
// ErrUnreadable it returns an empty one that has the Revision, so that it can be replaced.
func (s *Store) Credential(ctx context.Context, key wxtoken.Key) (account.Credential, error) {
	m, err := s.last(ctx, events.CredentialSubject(key))
	if err != nil || m == nil {
		return account.Credential{Key: key}, err
	}
	c, err := s.credential(key, m.Subject, m.Header, m.Data)
	c.Revision = m.Sequence
	return c, err
}

// Token returns the token of key. ok is false when the bucket has none.
func (s *Store) Token(ctx context.Context, key wxtoken.Key) (t wxtoken.Token, ok bool, err error) {
	m, err := s.last(ctx, events.TokenSubject(key))
	if err != nil || m == nil || deletes(m.Header) {
		return wxtoken.Token{}, false, err
	}
	t, err = readToken(m.Data, m.Sequence)
	return t, err == nil, err
}

// kvOperation is the header by which KV clients mark a deletion.
const kvOperation = "KV-Operation"

func deletes(h nats.Header) bool {
	op := h.Get(kvOperation)
	return op == "DEL" || op == "PURGE"
}

// Save stores a credential alone and returns it with its new revision. It returns ErrLost when
// the stored one is no longer the one that c was made from.
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
	s.stored(ack.Sequence)
	c.Revision = ack.Sequence
	return c, nil
}

// Claim is Save for a credential that is claimed. The committer gathers it with others: of hundreds
// of renewals that begin together each would wait for a flush of its own (docs/adr/0048).
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

// stored notes that NATS has the message of that sequence. The view hears of it later, or not at
// all while it is away.
func (s *Store) stored(sequence uint64) {
	for newest := s.acked.Load(); newest < sequence && !s.acked.CompareAndSwap(newest, sequence); newest = s.acked.Load() {
	}
}

// Commit stores a renewal: credential, token and next schedule, all of it or nothing. It returns
// ErrLost when the credential changed since c was loaded, and c with its new revision otherwise.
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

// SaveDue stores a credential and asks for its next token now: both or nothing. It returns ErrLost
// as Commit does. Many at once share a batch, where Save and MakeDue take two flushes for each.
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

// Revoke stores a credential whose authorization is over, removes the token, and ends the
// schedule: all of it or nothing. It returns ErrLost as Commit does.
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

// Reschedule publishes the schedule of a stored token again. A schedule that is replaced in the
// moment in which it fires takes its successor with it; the due message of a past generation is
// the sign of that.
func (s *Store) Reschedule(ctx context.Context, t wxtoken.Token) error {
	m, err := events.ScheduleMsg(t.Key, t.Generation, t.RenewAt)
	if err != nil {
		return err
	}
	return s.publish(ctx, m)
}

// MakeDue asks for a renewal now. Of several with the same id within two minutes one counts;
// an empty id makes each count.
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

// Wish is a renewal that is asked for, and the id of MakeDue.
type Wish struct {
	Due events.Due
	ID  string
}

// wishesAtOnce is how many messages MakeAllDue sends before it waits for their acks.
const wishesAtOnce = 500

// MakeAllDue is MakeDue for many, in their order. With an error some may have been made due.
func (s *Store) MakeAllDue(ctx context.Context, all []Wish) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout+time.Duration(len(all))*time.Millisecond)
	defer cancel()
	for some := range slices.Chunk(all, wishesAtOnce) {
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

// Waiting returns a function that reports whether a due message of a key lies in the stream that no
// refresher has been handed yet. Where that can't be found out it says that none does.
func (s *Store) Waiting(ctx context.Context) func(context.Context, wxtoken.Key) bool {
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

// ScheduleReconcile has component compared with WeChat's list now, and every so often from now on.
// It does nothing when that is scheduled already, unless now is wanted in any case.
func (s *Store) ScheduleReconcile(ctx context.Context, component string, every time.Duration, now bool) error {
	m, err := s.last(ctx, events.ReconcileScheduleSubject(component))
	if err != nil {
		return err
	}
	schedule := events.ReconcileMsg(component, every)
	switch {
	case m == nil || m.Header.Get(jetstream.ScheduleHeader) != schedule.Header.Get(jetstream.ScheduleHeader):
		return s.reschedule(ctx, component, every)
	case now:
		return s.MakeReconcileDue(ctx, component, "")
	}
	return nil
}

// KeepReconciling publishes the schedule of component's reconciles anew, and has it compared now,
// where it did not fire when it should have by the server's clock (ServerTime). One that came due
// while the server's store was full never fires again by itself
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
		return nil // both were stored together: who answers is behind, or a mirror that lacks them
	}
	fired := schedule.Time
	if due.Time.After(fired) {
		fired = due.Time
	}
	if now.Sub(fired) < every+min(every, time.Minute) {
		return nil
	}
	return s.reschedule(ctx, component, every)
}

// ServerTime asks NATS what time it is there: it stamps what it stores, and fires schedules, by its
// own clock.
func (s *Store) ServerTime(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := s.tokens.Info(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the server's time: %w", err)
	}
	return info.TimeStamp, nil
}

// reschedule stores the schedule of component's reconciles, and has it compared now.
func (s *Store) reschedule(ctx context.Context, component string, every time.Duration) error {
	if err := s.publish(ctx, events.ReconcileMsg(component, every)); err != nil {
		return err
	}
	return s.MakeReconcileDue(ctx, component, "")
}

// MakeReconcileDue has component compared with WeChat's list now. Of several with the same id
// within two minutes one counts; an empty id makes each count.
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
	if errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
		return ErrLost
	}
	return err
}
