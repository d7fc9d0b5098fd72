package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/seal"
	"wxtoken/internal/store"
)

// seed makes a seed.
func seed(t *testing.T) string {
	t.Helper()
	text, _, err := seal.Make()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// keys returns the keys of a file with seeds.
func keys(t *testing.T, seeds ...string) *seal.Keys {
	t.Helper()
	k, err := seal.FromSeeds(strings.Join(seeds, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sealed opens the store with seeds.
func (r *rig) sealed(seeds ...string) *store.Store {
	r.Helper()
	s, err := store.Open(r.Context(), r.nc, r.js, keys(r.T, seeds...), nil)
	r.must(err)
	r.committer(s)
	return s
}

// sequence is that of the newest message of KV_tokens.
func (r *rig) sequence() uint64 {
	r.Helper()
	stream, err := r.js.Stream(r.Context(), events.StreamTokens)
	r.must(err)
	info, err := stream.Info(r.Context())
	r.must(err)
	return info.State.LastSeq
}

// records returns for whom each record below credential. is sealed. It fails the test for one that
// holds a secret.
func (r *rig) records() map[string]string {
	r.Helper()
	stream, err := r.js.Stream(r.Context(), events.StreamTokens)
	r.must(err)
	info, err := stream.Info(r.Context(), jetstream.WithSubjectFilter(events.AllCredentials))
	r.must(err)
	all := map[string]string{}
	for subject := range info.State.Subjects {
		m := r.last(subject)
		all[subject] = ""
		if seal.Sealed(m.Data) {
			all[subject] = m.Header.Get(seal.HeaderFor)
			if strings.Contains(string(m.Data), "refresh") {
				r.Errorf("%s is sealed and says %q", subject, m.Data)
			}
		}
	}
	return all
}

const linkID = "link-0123456789"

// fill stores one record of each kind.
func (r *rig) fill(s *store.Store) {
	r.Helper()
	now := time.Now()
	_, err := s.Commit(r.Context(), credential(key, 1), token(key, 1))
	r.must(err)
	_, err = s.Save(r.Context(), account.Credential{Key: wxtoken.ComponentKey("wxc"), Ticket: "refresh-ticket"})
	r.must(err)
	link, err := s.SaveConnect(r.Context(), store.Connect{ID: linkID, Component: "wxc", Secret: "refresh-secret", ExpiresAt: now.Add(time.Hour), PreAuthCode: "code", PreAuthExpiresAt: now.Add(time.Hour)}, now)
	r.must(err)
	r.must(s.IndexConnect(r.Context(), link, now))
	r.must(s.UpdateQuota(r.Context(), "wxc", func(q *store.Quota) bool { q.Day = "refresh-day"; return true }))
}

const filled = 5 // records of fill

// checkReadable fails the test unless s reads what fill stored.
func (r *rig) checkReadable(s *store.Store) {
	r.Helper()
	c, err := s.Credential(r.Context(), key)
	if err != nil || c.RefreshToken != "refresh" {
		r.Errorf("credential: %+v, %v", c, err)
	}
	if link, ok, err := s.ConnectOf(r.Context(), "code"); err != nil || !ok || link.ID != linkID || link.Secret != "refresh-secret" {
		r.Errorf("link: %+v, %t, %v", link, ok, err)
	}
	if q, err := s.Quota(r.Context(), "wxc"); err != nil || q.Day != "refresh-day" {
		r.Errorf("quota: %+v, %v", q, err)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	view, wait, err := s.Watch(ctx, zerolog.Nop(), nil)
	r.must(err)
	if e, _ := view.Get(key); !e.Credential.Has("refresh") || e.Token.Generation != 1 {
		r.Errorf("view: %+v", e)
	}
	if q := view.Quota("wxc"); q.Day != "refresh-day" {
		r.Errorf("quota in the view: %+v", q)
	}
	cancel()
	wait()
}

// TestWrongSeed: a process without the seed, or with another one, is refused at once and writes nothing.
func TestWrongSeed(t *testing.T) {
	r := newRig(t)
	right, wrong := seed(t), seed(t)
	r.must(store.CheckSeal(t.Context(), r.js, keys(t, wrong))) // nothing is sealed yet
	s := r.sealed(right)
	r.fill(s)
	r.checkReadable(s)
	for subject, public := range r.records() {
		if public != keys(t, right).Public() {
			t.Errorf("%s is sealed for %q", subject, public)
		}
	}
	before := r.sequence()
	for name, k := range map[string]*seal.Keys{"none": nil, "wrong": keys(t, wrong)} {
		if _, err := store.Open(t.Context(), r.nc, r.js, k, nil); !errors.Is(err, store.ErrSealed) || !strings.Contains(err.Error(), keys(t, right).Public()) {
			t.Errorf("%s: %v, want ErrSealed with the public key that is missing", name, err)
		}
		if err := store.CheckSeal(t.Context(), r.js, k); !errors.Is(err, store.ErrSealed) {
			t.Errorf("%s: the canary says %v", name, err)
		}
	}
	// One that was opened before there was anything sealed reads none of it, and overwrites none.
	c, err := r.store.Credential(t.Context(), key)
	if !errors.Is(err, store.ErrSealed) || !errors.Is(err, store.ErrNewer) || errors.Is(err, store.ErrUnreadable) || c.Revision == 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := r.store.UpdateQuota(t.Context(), "wxc", func(*store.Quota) bool { return true }); !errors.Is(err, store.ErrSealed) {
		t.Errorf("quota: %v", err)
	}
	if _, _, err := r.store.ConnectOf(t.Context(), "code"); !errors.Is(err, store.ErrSealed) {
		t.Errorf("link: %v", err)
	}
	if now := r.sequence(); now != before {
		t.Errorf("%d messages were written", now-before)
	}
	r.checkReadable(r.sealed(wrong, right))
}

// TestReseal turns sealing on, and then changes the key. Each record is written once for each, and
// only if nobody holds it.
func TestReseal(t *testing.T) {
	r := newRig(t)
	r.committer(r.store)
	r.fill(r.store)
	news := r.countUpdates()
	first, second := seed(t), seed(t)
	reseal := func(s *store.Store, resealed, left int) {
		t.Helper()
		if done, rest, err := s.Reseal(t.Context(), time.Now); err != nil || done != resealed || rest != left {
			t.Errorf("%d resealed, %d left, %v; want %d and %d", done, rest, err, resealed, left)
		}
	}
	sealedFor := func(want string) {
		t.Helper()
		all := r.records()
		if len(all) != filled+1 {
			t.Errorf("%d records, want %d and the canary", len(all), filled)
		}
		for subject, public := range all {
			if public != want {
				t.Errorf("%s is sealed for %q, want %q", subject, public, want)
			}
		}
	}
	s := r.sealed(first)
	r.checkReadable(s) // records in the clear are read
	reseal(s, filled, 0)
	sealedFor(keys(t, first).Public())
	before := r.sequence()
	reseal(s, 0, 0)
	if now := r.sequence(); now != before {
		t.Errorf("%d records were written without need", now-before)
	}

	// Refreshers learn to open the new key, then seal with it.
	r.checkReadable(r.sealed(first, second))
	promoted := r.sealed(second, first)
	c, err := promoted.Credential(t.Context(), key)
	r.must(err)
	c.Claim = &account.Claim{By: "somebody", For: "x", Until: time.Now().Add(time.Hour)}
	c, err = s.Save(t.Context(), c) // one that still has the old key is at it
	r.must(err)
	reseal(promoted, filled-1, 1)
	if m := r.last(events.CredentialSubject(key)); m.Sequence != c.Revision {
		t.Error("a record moved under a claim: the renewal that holds it would come to nothing")
	}
	if public := r.last(events.SealSubject).Header.Get(seal.HeaderFor); public != keys(t, first).Public() {
		t.Errorf("the canary is sealed for %s while a record is left", public)
	}
	if _, err := store.Open(t.Context(), r.nc, r.js, keys(t, second), nil); !errors.Is(err, store.ErrSealed) {
		t.Errorf("without the old seed: %v, a record is still sealed with it", err)
	}
	c.Claim = nil
	_, err = s.Save(t.Context(), c)
	r.must(err)
	reseal(promoted, 1, 0)
	sealedFor(keys(t, second).Public())
	r.checkReadable(r.sealed(second))
	if _, err := store.Open(t.Context(), r.nc, r.js, keys(t, first), nil); !errors.Is(err, store.ErrSealed) {
		t.Errorf("with the old seed alone: %v", err)
	}
	for _, subject := range slices.Collect(maps.Keys(r.records())) {
		if strings.Contains(subject, "connect.") && r.last(subject).Header.Get(jetstream.MsgTTLHeader) == "" {
			t.Errorf("%s will not go away any more", subject)
		}
	}
	if n := news(); n != 0 {
		t.Errorf("%d tokens were announced", n)
	}
}

// TestSealedAndDamaged: one record that can't be opened though its key is here does not stop the
// others.
func TestSealedAndDamaged(t *testing.T) {
	r := newRig(t)
	s := r.sealed(seed(t))
	r.fill(s)
	other := wxtoken.AuthorizerKey("wxc", "wxother")
	put := func(subject string, from *jetstream.RawStreamMsg, data []byte) {
		t.Helper()
		m := nats.NewMsg(subject)
		m.Header.Set(seal.HeaderFor, from.Header.Get(seal.HeaderFor))
		m.Data = data
		_, err := r.js.PublishMsg(t.Context(), m)
		r.must(err)
	}
	record := r.last(events.CredentialSubject(key))
	put(events.CredentialSubject(other), record, record.Data) // moved from another account
	if _, err := s.Credential(t.Context(), other); !errors.Is(err, store.ErrUnreadable) || errors.Is(err, store.ErrNewer) {
		t.Errorf("moved: %v", err)
	}
	broken := slices.Clone(record.Data)
	broken[len(broken)-1] ^= 1
	put(events.CredentialSubject(key), record, broken)
	c, err := s.Credential(t.Context(), key)
	if !errors.Is(err, store.ErrUnreadable) || c.Revision == 0 || strings.Contains(fmt.Sprint(err), "refresh") {
		t.Errorf("damaged: %+v, %v", c, err)
	}
	if _, left, err := s.Reseal(t.Context(), time.Now); err != nil || left != 0 {
		t.Errorf("%d left, %v", left, err)
	}
	c.RefreshToken = "from the list"
	_, err = s.Save(t.Context(), c)
	r.must(err)
}

// TestDamagedSealCheck: only a process that has its key writes a damaged seal check again.
func TestDamagedSealCheck(t *testing.T) {
	r := newRig(t)
	right := seed(t)
	r.sealed(right)
	check := r.last(events.SealSubject)
	m := nats.NewMsg(events.SealSubject)
	m.Header.Set(seal.HeaderFor, check.Header.Get(seal.HeaderFor))
	m.Data = check.Data[:40]
	_, err := r.js.PublishMsg(t.Context(), m)
	r.must(err)
	if err := store.CheckSeal(t.Context(), r.js, keys(t, right)); !errors.Is(err, store.ErrUnreadable) {
		t.Errorf("a damaged seal check: %v", err)
	}
	if _, err := store.Open(t.Context(), r.nc, r.js, keys(t, seed(t)), nil); !errors.Is(err, store.ErrSealed) {
		t.Errorf("with another seed: %v", err)
	}
	r.sealed(right)
	r.must(store.CheckSeal(t.Context(), r.js, keys(t, right)))
}
