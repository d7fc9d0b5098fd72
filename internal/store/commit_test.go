package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
)

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

// TestCommitCancelled: a commit ends with its context.
func TestCommitCancelled(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.store.Commit(ctx, credential(key, 1), token(key, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
}
