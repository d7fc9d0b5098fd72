package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
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
