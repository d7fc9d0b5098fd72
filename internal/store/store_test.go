package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 0) }

// within bounds everything that a test waits for. It is long, because a machine may be slow.
const within = time.Minute

var key = wxtoken.AuthorizerKey("wxc", "wxa")

// rig is a store on a real NATS server.
type rig struct {
	*testing.T
	nats  *natsdtest.Server
	nc    *nats.Conn
	js    jetstream.JetStream
	store *store.Store
	run   func() // starts the committer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	r := &rig{T: t, nats: natsdtest.Start(t)}
	r.nc = r.nats.Connect()
	r.js = natsdtest.JetStream(t, r.nc)
	streamstest.Setup(t, r.nc, r.js, events.SetupConfig{MessagesMaxAge: time.Hour})
	r.store = r.open(nil)
	r.run = func() { r.committer(r.store) }
	return r
}

func (r *rig) open(step func(string)) *store.Store {
	r.Helper()
	s, err := store.Open(r.Context(), r.nc, r.js, nil, step)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// committer runs the committer of s until the test ends.
func (r *rig) committer(s *store.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	r.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) eventually(what string, f func() bool) {
	r.Helper()
	for deadline := time.Now().Add(within); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("not within %v: %s", within, what)
		}
	}
}

// last returns the last message on a subject, nil if there is none.
func (r *rig) last(subject string) *jetstream.RawStreamMsg {
	r.Helper()
	stream, err := r.js.Stream(r.Context(), events.StreamTokens)
	r.must(err)
	m, err := stream.GetLastMsgForSubject(r.Context(), subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	r.must(err)
	return m
}

// countUpdates counts what the server announces on token.updated.>.
func (r *rig) countUpdates() func() int {
	r.Helper()
	sub, err := r.nc.SubscribeSync("token.updated." + key.String())
	r.must(err)
	r.must(r.nc.Flush())
	return func() int {
		r.must(r.nc.Flush())
		n, _, err := sub.Pending()
		r.must(err)
		return n
	}
}

// token returns a token of a generation of k that lives for two hours.
func token(k wxtoken.Key, generation uint64) wxtoken.Token {
	now := time.Now().UTC().Truncate(time.Second)
	return wxtoken.Token{
		Key: k, Value: wxtoken.NewSecret(fmt.Sprintf("token-%d", generation)), Generation: generation,
		ObtainedAt: now, RenewAt: now.Add(time.Hour), ExpiresAt: now.Add(2 * time.Hour),
	}
}

// credential returns a credential of k that isn't stored yet.
func credential(k wxtoken.Key, generation uint64) account.Credential {
	return account.Credential{Key: k, Generation: generation, RefreshToken: "refresh"}
}

func TestSave(t *testing.T) {
	r := newRig(t)
	none, err := r.store.Credential(t.Context(), key)
	if err != nil || none.Revision != 0 || none.Key != key {
		t.Fatalf("a credential that isn't there: %+v, %v", none, err)
	}
	first, err := r.store.Save(t.Context(), credential(key, 1))
	r.must(err)
	second := first
	second.RefreshToken = "second"
	second, err = r.store.Save(t.Context(), second)
	r.must(err)
	for _, stale := range []account.Credential{first, none, {Key: key, Revision: second.Revision + 1}} {
		stale.RefreshToken = "stale"
		if _, err := r.store.Save(t.Context(), stale); !errors.Is(err, store.ErrLost) {
			t.Errorf("save at revision %d: %v", stale.Revision, err)
		}
	}
	stored, err := r.store.Credential(t.Context(), key)
	if err != nil || stored.RefreshToken != "second" || stored.Revision != second.Revision {
		t.Errorf("stored: %+v, %v", stored, err)
	}
}

func TestCommit(t *testing.T) {
	r := newRig(t)
	r.run()
	news := r.countUpdates()
	first, err := r.store.Commit(t.Context(), credential(key, 1), token(key, 1))
	r.must(err)
	check := func(revision uint64) {
		t.Helper()
		c, err := r.store.Credential(t.Context(), key)
		if err != nil || c.Generation != 1 || c.Revision != revision {
			t.Errorf("credential: %+v, %v, want revision %d", c, err, revision)
		}
		got, ok, err := r.store.Token(t.Context(), key)
		if want := token(key, 1); err != nil || !ok || got.Value != want.Value || got.Revision != revision+1 {
			t.Errorf("token: %+v, %t, %v", got, ok, err)
		}
		if m := r.last(events.ScheduleSubject(key)); m == nil || m.Sequence != revision+2 {
			t.Error("the schedule is not that of the commit")
		}
	}
	check(first.Revision)
	if n := news(); n != 1 {
		t.Errorf("announced %d times", n)
	}
	for _, revision := range []uint64{0, first.Revision + 1, first.Revision + 100} {
		stale := credential(key, 2)
		stale.Revision = revision
		if _, err := r.store.Commit(t.Context(), stale, token(key, 2)); !errors.Is(err, store.ErrLost) {
			t.Errorf("commit at revision %d: %v", revision, err)
		}
		if _, err := r.store.Revoke(t.Context(), stale); !errors.Is(err, store.ErrLost) {
			t.Errorf("revoke at revision %d: %v", revision, err)
		}
	}
	check(first.Revision)
	if n := news(); n != 1 {
		t.Errorf("announced %d times after commits that were refused", n)
	}
}

// TestGathered has many commits wait, one of them late: the others are stored.
func TestGathered(t *testing.T) {
	r := newRig(t)
	const keys = 20
	of := func(i int) wxtoken.Key { return wxtoken.AuthorizerKey("wxc", fmt.Sprint("wxa", i)) }
	errs := make([]error, keys)
	revisions := make([]uint64, keys)
	var committing sync.WaitGroup
	for i := range keys {
		committing.Go(func() {
			c := credential(of(i), 1)
			if i == keys/2 {
				c.Revision = 7 // stale
			}
			c, errs[i] = r.store.Commit(t.Context(), c, token(of(i), 1))
			revisions[i] = c.Revision
		})
	}
	r.run()
	committing.Wait()
	for i := range keys {
		c, err := r.store.Credential(t.Context(), of(i))
		r.must(err)
		_, ok, err := r.store.Token(t.Context(), of(i))
		r.must(err)
		if i == keys/2 {
			if !errors.Is(errs[i], store.ErrLost) || c.Revision != 0 || ok {
				t.Errorf("the late one: %v, stored %t", errs[i], ok)
			}
		} else if errs[i] != nil || !ok || c.Revision != revisions[i] || c.Revision == 0 {
			t.Errorf("key %d: %v, revision %d, stored %d", i, errs[i], revisions[i], c.Revision)
		}
	}
}

// TestClaimsGathered has claims wait beside commits, two of each late: all others are stored, and what is late costs none of them.
func TestClaimsGathered(t *testing.T) {
	r := newRig(t)
	const keys = 40
	of := func(i int) wxtoken.Key { return wxtoken.AuthorizerKey("wxc", fmt.Sprint("wxa", i)) }
	late := func(i int) bool { return i%10 == 3 }
	errs := make([]error, keys)
	revisions := make([]uint64, keys)
	var storing sync.WaitGroup
	for i := range keys {
		storing.Go(func() {
			c := credential(of(i), 1)
			if late(i) {
				c.Revision = 7
			}
			if i%2 == 0 {
				c, errs[i] = r.store.Commit(t.Context(), c, token(of(i), 1))
			} else {
				c.Claim = &account.Claim{By: "process", For: "due/1", Until: time.Now().Add(time.Minute)}
				c, errs[i] = r.store.Claim(t.Context(), c)
			}
			revisions[i] = c.Revision
		})
	}
	r.run()
	storing.Wait()
	for i := range keys {
		c, err := r.store.Credential(t.Context(), of(i))
		r.must(err)
		switch {
		case late(i) && (!errors.Is(errs[i], store.ErrLost) || c.Revision != 0):
			t.Errorf("key %d is late: %v, stored %+v", i, errs[i], c)
		case !late(i) && (errs[i] != nil || c.Revision == 0 || c.Revision != revisions[i] || (c.Claim != nil) != (i%2 == 1)):
			t.Errorf("key %d: %v, revision %d, stored %+v", i, errs[i], revisions[i], c)
		}
	}
	c, err := r.store.Credential(t.Context(), of(1))
	r.must(err)
	if _, err := r.store.Claim(t.Context(), c); err != nil {
		t.Errorf("at its revision it is claimed again: %v", err)
	}
	if _, err := r.store.Claim(t.Context(), c); !errors.Is(err, store.ErrLost) {
		t.Errorf("once: %v", err)
	}
}

// TestClaimsGiveWay has NATS away while claims and a commit share a batch: the claims are given up, for their handlers have left, and
// the commit is stored as soon as NATS is back.
func TestClaimsGiveWay(t *testing.T) {
	r := newRig(t)
	of := func(i int) wxtoken.Key { return wxtoken.AuthorizerKey("wxc", fmt.Sprint("wxa", i)) }
	const claims = 10
	r.nats.Stop()
	var waiting sync.WaitGroup
	errs := make([]error, claims)
	for i := range claims {
		waiting.Go(func() {
			c := credential(of(i), 1)
			c.Claim = &account.Claim{By: "process", For: "due/1", Until: time.Now().Add(time.Minute)}
			_, errs[i] = r.store.Claim(t.Context(), c)
		})
	}
	committed := make(chan error, 1)
	go func() {
		_, err := r.store.Commit(t.Context(), credential(key, 1), token(key, 1))
		committed <- err
	}()
	time.Sleep(100 * time.Millisecond) // all wait for the committer; were some late, they would be in a batch of their own
	r.run()
	waiting.Wait()
	time.Sleep(time.Second) // the batch began a moment later, and would be answered if NATS came back now
	r.nats.Restart()
	if err := <-committed; err != nil {
		t.Errorf("the commit: %v", err)
	}
	for i, err := range errs {
		c, readErr := r.store.Credential(t.Context(), of(i))
		r.must(readErr)
		if err == nil || c.Revision != 0 {
			t.Errorf("claim %d: %v, stored %+v", i, err, c)
		}
	}
}

func TestRevoke(t *testing.T) {
	r := newRig(t)
	r.run()
	c, err := r.store.Commit(t.Context(), credential(key, 4), token(key, 4))
	r.must(err)
	sub, err := r.nc.SubscribeSync("token.updated." + key.String())
	r.must(err)
	r.must(r.nc.Flush())
	c.RevokedAt, c.RefreshToken = time.Now().UTC(), ""
	_, err = r.store.Revoke(t.Context(), c)
	r.must(err)
	if _, ok, err := r.store.Token(t.Context(), key); ok || err != nil {
		t.Errorf("token after a revoke: %t, %v", ok, err)
	}
	kv, err := r.js.KeyValue(t.Context(), events.BucketTokens)
	r.must(err)
	if _, err := kv.Get(t.Context(), key.String()); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the bucket says %v", err)
	}
	if m := r.last(events.ScheduleSubject(key)); m != nil {
		t.Error("the schedule is still there")
	}
	stored, err := r.store.Credential(t.Context(), key)
	if err != nil || stored.Generation != 4 || stored.Renewable() {
		t.Errorf("credential after a revoke: %+v, %v", stored, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	if err != nil || m.Header.Get("KV-Operation") != "DEL" {
		t.Errorf("the news of a deletion: %v, %v", m, err)
	}
	stored.RevokedAt, stored.RefreshToken, stored.Generation = time.Time{}, "again", 5
	if _, err := r.store.Commit(t.Context(), stored, token(key, 5)); err != nil {
		t.Errorf("authorized again: %v", err)
	}
}

// cutter is a connection that can lose the server's answer to a batch.
type cutter struct {
	net.Conn
	armed *atomic.Bool
	cut   atomic.Bool
}

func (c *cutter) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("Nats-Batch-Commit")) && c.armed.CompareAndSwap(true, false) {
		c.cut.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *cutter) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.cut.Load() && bytes.Contains(b[:n], []byte(events.StreamTokens)) {
		return 0, errors.Join(net.ErrClosed, c.Close())
	}
	return n, err
}

// cutting gives out such connections.
type cutting struct {
	server *natsdtest.Server
	armed  atomic.Bool
}

func (c *cutting) InProcessConn() (net.Conn, error) {
	conn, err := c.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	return &cutter{Conn: conn, armed: &c.armed}, nil
}

// TestLostAnswer loses the server's answer to a commit: the committer finds out that it was stored.
func TestLostAnswer(t *testing.T) {
	r := newRig(t)
	line := &cutting{server: r.nats}
	nc := r.nats.Connect(nats.InProcessServer(line))
	js := natsdtest.JetStream(r.T, nc)
	ours, err := store.Open(t.Context(), nc, js, nil, nil)
	r.must(err)
	r.committer(ours)
	line.armed.Store(true)
	c, err := ours.Commit(t.Context(), credential(key, 1), token(key, 1))
	r.must(err)
	if line.armed.Load() {
		t.Fatal("no answer was lost")
	}
	if m := r.last(events.CredentialSubject(key)); m == nil || c.Revision != m.Sequence {
		t.Errorf("revision %d, stored %+v", c.Revision, m)
	}
}

// TestEqualCommits has another process store the same in the middle of a commit: that is not ours.
func TestEqualCommits(t *testing.T) {
	r := newRig(t)
	want := token(key, 1)
	ours := r.open(func(step string) {
		if step != "batch.1" {
			return
		}
		other := r.open(nil)
		r.committer(other)
		if _, err := other.Commit(t.Context(), credential(key, 1), want); err != nil {
			t.Errorf("the other's commit: %v", err)
		}
	})
	r.committer(ours)
	if _, err := ours.Commit(t.Context(), credential(key, 1), want); !errors.Is(err, store.ErrLost) {
		t.Errorf("commit: %v", err)
	}
}

func TestReschedule(t *testing.T) {
	r := newRig(t)
	want := token(key, 3)
	r.must(r.store.Reschedule(t.Context(), want))
	m := r.last(events.ScheduleSubject(key))
	if m == nil || m.Header.Get(jetstream.ScheduleHeader) != "@at "+want.RenewAt.Format(time.RFC3339) ||
		m.Header.Get(jetstream.ScheduleTargetHeader) != events.DueSubject(key) {
		t.Fatalf("schedule %+v", m)
	}
	due, err := events.ParseDue(m.Data)
	if err != nil || due != (events.Due{Key: key, Generation: 3, Reason: events.ReasonScheduled}) {
		t.Errorf("due message %+v, %v", due, err)
	}
	want.RenewAt = time.Now().Add(-time.Hour) // long past: it fires now
	r.must(r.store.Reschedule(t.Context(), want))
	r.eventually("the schedule fires", func() bool { return r.last(events.DueSubject(key)) != nil })
	if r.last(events.ScheduleSubject(key)) != nil {
		t.Error("a schedule that fired is still there")
	}
}

func TestMakeDue(t *testing.T) {
	r := newRig(t)
	make := func(generation uint64, id string) uint64 {
		t.Helper()
		r.must(r.store.MakeDue(t.Context(), events.Due{Key: key, Generation: generation, Reason: events.ReasonSwept}, id))
		return r.last(events.DueSubject(key)).Sequence
	}
	first := make(1, "a/1/sweep")
	if again := make(1, "a/1/sweep"); again != first {
		t.Error("the same id made a second message")
	}
	second := make(2, "a/2/sweep")
	third := make(2, "")
	fourth := make(2, "")
	if second == first || third == second || fourth == third {
		t.Error("messages of their own were taken for one")
	}
}

// TestSaveDue stores a credential and a due message: both, or none of them.
func TestSaveDue(t *testing.T) {
	r := newRig(t)
	r.run()
	first, err := r.store.SaveDue(t.Context(), credential(key, 3), events.ReasonListed)
	r.must(err)
	m := r.last(events.DueSubject(key))
	if due, err := events.ParseDue(m.Data); err != nil || due.Key != key || due.Generation != 3 || due.Reason != events.ReasonListed {
		t.Errorf("due is %+v, %v", due, err)
	}
	if stored, err := r.store.Credential(t.Context(), key); err != nil || stored.Generation != 3 || stored.Revision != first.Revision {
		t.Errorf("stored: %+v, %v", stored, err)
	}
	if _, err := r.store.SaveDue(t.Context(), credential(key, 4), events.ReasonListed); !errors.Is(err, store.ErrLost) {
		t.Errorf("at a revision that is past: %v", err)
	}
	if again := r.last(events.DueSubject(key)); again.Sequence != m.Sequence {
		t.Error("the due message of a credential that was not stored was")
	}
}

func TestScheduleReconcile(t *testing.T) {
	r := newRig(t)
	schedule, due := events.ReconcileScheduleSubject("wxc"), events.ReconcileDueSubject("wxc")
	step := func(every time.Duration, now bool) (scheduled, made uint64) {
		t.Helper()
		r.must(r.store.ScheduleReconcile(t.Context(), "wxc", every, now))
		return r.last(schedule).Sequence, r.last(due).Sequence
	}
	s1, d1 := step(6*time.Hour, false)
	if d1 > s1 {
		t.Error("the schedule is stored first: who ends in between leaves one that hides that the first reconcile is missing")
	}
	if s2, d2 := step(6*time.Hour, false); s2 != s1 || d2 != d1 {
		t.Error("scheduled once more although it was")
	}
	s3, d3 := step(6*time.Hour, true)
	if s3 != s1 || d3 == d1 {
		t.Error("asked for now: the schedule has to stay, and a due message has to come")
	}
	if s4, d4 := step(time.Hour, false); s4 == s1 || d4 == d3 {
		t.Error("another interval changed nothing")
	}
	if component, ok := events.ReconcileComponent(due); !ok || component != "wxc" {
		t.Errorf("the subject speaks of %q", component)
	}
}

func TestStatus(t *testing.T) {
	r := newRig(t)
	bucket, err := r.js.KeyValue(t.Context(), events.BucketStatus)
	r.must(err)
	set := func(state wxtoken.State) (revision uint64) {
		t.Helper()
		r.must(r.store.UpdateStatus(t.Context(), key, func(s *wxtoken.Status) { s.State = state }))
		st, revision, err := r.store.Status(t.Context(), key)
		if err != nil || st.State != state || st.Key != key {
			t.Errorf("status %+v, %v", st, err)
		}
		return revision
	}
	if st, revision, err := r.store.Status(t.Context(), key); err != nil || revision != 0 || st.Key != key {
		t.Errorf("a status that isn't there: %+v, %d, %v", st, revision, err)
	}
	first := set(wxtoken.StateActive)
	if again := set(wxtoken.StateActive); again != first {
		t.Error("an unchanged status was written")
	}
	if changed := set(wxtoken.StateRevoked); changed == first {
		t.Error("a changed status was not written")
	}
	_, err = bucket.PutString(t.Context(), key.String(), "garbage")
	r.must(err)
	set(wxtoken.StateActive)

	// Changes from many sides add up.
	const writers = 4
	var writing sync.WaitGroup
	errs := make(chan error, writers)
	for range writers {
		writing.Go(func() {
			errs <- r.store.UpdateStatus(t.Context(), key, func(s *wxtoken.Status) { s.Failures++ })
		})
	}
	writing.Wait()
	close(errs)
	for err := range errs {
		r.must(err)
	}
	if st, _, err := r.store.Status(t.Context(), key); err != nil || st.Failures != writers || st.State != wxtoken.StateActive {
		t.Errorf("after %d changes: %+v, %v", writers, st, err)
	}
}

func TestRecordsThatCannotBeRead(t *testing.T) {
	r := newRig(t)
	for _, row := range []struct {
		record string
		want   error
	}{
		{"garbage", store.ErrUnreadable},
		{`{"v":99}`, store.ErrNewer},
	} {
		ack, err := r.js.Publish(t.Context(), events.CredentialSubject(key), []byte(row.record))
		r.must(err)
		c, err := r.store.Credential(t.Context(), key)
		if !errors.Is(err, row.want) || c.Revision != ack.Sequence || c.Key != key {
			t.Errorf("%s: %+v, %v", row.record, c, err)
		}
	}
	_, err := r.js.Publish(t.Context(), events.TokenSubject(key), []byte("garbage"))
	r.must(err)
	if _, ok, err := r.store.Token(t.Context(), key); ok || !errors.Is(err, wxtoken.ErrBadToken) {
		t.Errorf("a token that can't be read: %t, %v", ok, err)
	}
	c, err := r.store.Credential(t.Context(), key)
	if !errors.Is(err, store.ErrNewer) {
		t.Fatal(err)
	}
	c.Generation = 1
	if _, err := r.store.Save(t.Context(), c); err != nil {
		t.Errorf("with its revision it can be replaced: %v", err)
	}
}

func TestView(t *testing.T) {
	r := newRig(t)
	r.run()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := wxtoken.AuthorizerKey("wxc", "wxbefore")
	_, err := r.store.Commit(t.Context(), credential(before, 1), token(before, 1))
	r.must(err)
	view, wait, err := r.store.Watch(ctx, zerolog.Nop(), nil)
	r.must(err)
	if e, ok := view.Get(before); !ok || e.Token.Generation != 1 || e.Credential.Generation != 1 {
		t.Errorf("a view is complete from the start, but has %+v", e)
	}
	generation := func(want uint64) {
		t.Helper()
		r.eventually(fmt.Sprintf("generation %d", want), func() bool {
			e, _ := view.Get(key)
			return e.Token.Generation == want && (want == 0 || e.Credential.Generation == want && e.Token.Revision == e.Credential.Revision+1)
		})
	}
	c, err := r.store.Commit(t.Context(), credential(key, 1), token(key, 1))
	r.must(err)
	generation(1)
	r.nats.Restart()
	r.eventually("the server is back", func() bool {
		stored, err := r.store.Credential(t.Context(), key)
		return err == nil && stored.Revision == c.Revision
	})
	c.Generation = 2
	c, err = r.store.Commit(t.Context(), c, token(key, 2))
	r.must(err)
	generation(2)
	c.RevokedAt = time.Now().UTC()
	c, err = r.store.Revoke(t.Context(), c)
	r.must(err)
	generation(0)
	r.eventually("the revocation", func() bool {
		e, _ := view.Get(key)
		return !e.Credential.RevokedAt().IsZero() && e.Credential.Generation == 2
	})
	_, err = r.js.Publish(t.Context(), events.CredentialSubject(key), []byte("garbage"))
	r.must(err)
	r.eventually("the unreadable record", func() bool {
		e, _ := view.Get(key)
		return e.Credential.Revision > c.Revision && !e.Credential.Renewable()
	})
	var keys []string
	view.Each(func(wxtoken.Key, *store.Entry) bool { return true }, func(k wxtoken.Key, _ store.Entry) { keys = append(keys, k.String()) })
	slices.Sort(keys)
	if want := []string{key.String(), before.String()}; !slices.Equal(keys, want) {
		t.Errorf("the view has %v, want %v", keys, want)
	}
	if k, ok := view.Find(func(k wxtoken.Key, _ *store.Entry) bool { return k == before }); !ok || k != before {
		t.Errorf("Find finds %v, want %v", k, before)
	}
	if k, ok := view.Find(func(wxtoken.Key, *store.Entry) bool { return false }); ok {
		t.Errorf("Find finds %v, want nothing", k)
	}
	cancel()
	wait()
}

// TestCheckSameAfterQuestions has the stream deleted and made anew. Each question about it renews what
// the handle of nats.go 1.55 knows of the stream (CachedInfo): that must not make the new one ours.
func TestCheckSameAfterQuestions(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	view, wait, err := r.store.Watch(ctx, zerolog.Nop(), nil)
	r.must(err)
	defer wait()
	defer cancel()
	r.must(r.store.CheckSame(t.Context(), view))
	r.must(r.js.DeleteStream(t.Context(), events.StreamTokens))
	_, err = r.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: events.BucketTokens})
	r.must(err)
	_, err = r.store.ServerTime(t.Context())
	r.must(err)
	_, err = r.store.HasCredential(t.Context(), key)
	r.must(err)
	if err := r.store.CheckSame(t.Context(), view); !errors.Is(err, store.ErrGone) {
		t.Errorf("a stream made anew is taken for ours: %v", err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.nats.Stop()
	cancel()
	if _, _, err := r.store.Watch(ctx, zerolog.Nop(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("watch without a server: %v", err)
	}
}

// TestCommitCancelled: a commit ends with its context.
func TestCommitCancelled(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.store.Commit(ctx, credential(key, 1), token(key, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
}

// TestDueWaiting makes two keys due of which one is handed out: the other waits. What was made due anew waits again.
func TestDueWaiting(t *testing.T) {
	r := newRig(t)
	other := wxtoken.AuthorizerKey("wxc", "wxother")
	waiting := func(want, wantOther bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // the server counts for a consumer after it has acked
			waits := r.store.DueWaiting(t.Context())
			got, gotOther := waits(t.Context(), key), waits(t.Context(), other)
			if got == want && gotOther == wantOther {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("waiting: %t and %t, want %t and %t", got, gotOther, want, wantOther)
			}
		}
	}
	waiting(false, false) // there is not even a consumer
	cons, err := r.js.CreateConsumer(t.Context(), events.StreamTokens, jetstream.ConsumerConfig{
		Durable: events.DurableDue, FilterSubject: events.AllDue, AckPolicy: jetstream.AckExplicitPolicy,
	})
	r.must(err)
	var all []store.DueRequest
	for _, k := range []wxtoken.Key{key, other} {
		all = append(all, store.DueRequest{Due: events.Due{Key: k, Reason: events.ReasonSwept}, ID: k.String()})
	}
	r.must(r.store.MakeAllDue(t.Context(), all))
	waiting(true, true)
	m, err := cons.Next()
	r.must(err)
	if due, err := events.ParseDue(m.Data()); err != nil || due.Key != key {
		t.Errorf("the first is %+v, %v", due, err)
	}
	waiting(false, true)
	r.must(r.store.MakeAllDue(t.Context(), all)) // the same ids: these are known
	waiting(false, true)
	r.must(r.store.MakeDue(t.Context(), all[0].Due, ""))
	waiting(true, true)
}

// TestStoppedScheduleIsFoundByTwo has two refreshers find that the schedule of reconciles has stopped: the id of the reconcile that
// comes due says which stop it is for, so that what another makes for the same one is no second.
func TestStoppedScheduleIsFoundByTwo(t *testing.T) {
	r := newRig(t)
	other := r.open(nil)
	const component, every = "wxc", time.Hour
	r.must(r.store.ScheduleReconcile(t.Context(), component, every, false))
	ids := map[string]bool{"": true}
	for range 2 {
		before := r.last(events.ReconcileDueSubject(component))
		r.must(r.store.KeepReconciling(t.Context(), component, every, time.Now().Add(3*every)))
		made := r.last(events.ReconcileDueSubject(component))
		id := made.Header.Get(jetstream.MsgIDHeader)
		if made.Sequence == before.Sequence || ids[id] {
			t.Fatalf("made %+v, want one with an id of its own", made)
		}
		ids[id] = true
		r.must(other.MakeReconcileDue(t.Context(), component, id))
		if last := r.last(events.ReconcileDueSubject(component)); last.Sequence != made.Sequence {
			t.Error("the second refresher made another due")
		}
	}
}

// TestNewestOfManyLinks has more links made in an hour than are read for a list, and a few after them: those are the ones listed.
func TestNewestOfManyLinks(t *testing.T) {
	r := newRig(t)
	made := 0
	put := func(n int) {
		for range n {
			made++
			data, err := json.Marshal(store.Connect{ID: fmt.Sprint(made), Component: "wxc"})
			r.must(err)
			_, err = r.js.PublishAsync(events.ConnectSubject(fmt.Sprintf("%032x", made)), data)
			r.must(err)
		}
		<-r.js.PublishAsyncComplete()
	}
	put(2100)
	time.Sleep(10 * time.Millisecond)
	between := time.Now()
	put(3)
	found, more, err := r.store.Connects(t.Context(), between.Add(time.Hour/16), 100, func(store.Connect) bool { return true })
	r.must(err)
	if len(found) != 3 || found[0].ID != "2103" || found[2].ID != "2101" || !more {
		t.Errorf("found %d, more: %t; the first is %+v", len(found), more, found[:min(len(found), 1)])
	}
}
