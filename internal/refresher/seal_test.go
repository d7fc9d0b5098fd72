package refresher_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/internal/seal"
	"wxtoken/internal/store"
)

// lying returns what lies in a stream.
func (r *rig) lying(name string) (all []*jetstream.RawStreamMsg) {
	r.Helper()
	stream, err := r.js.Stream(r.Context(), name)
	r.must(err)
	info, err := stream.Info(r.Context())
	r.must(err)
	for seq := max(info.State.FirstSeq, 1); seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(r.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		r.must(err)
		all = append(all, m)
	}
	return all
}

// put publishes what another message holds on a subject.
func (r *rig) put(subject string, from *jetstream.RawStreamMsg) (sequence uint64) {
	r.Helper()
	m := nats.NewMsg(subject)
	m.Data = from.Data
	for _, name := range []string{seal.HeaderFor, seal.HeaderBy} {
		if value := from.Header.Get(name); value != "" {
			m.Header.Set(name, value)
		}
	}
	ack, err := r.js.PublishMsg(r.Context(), m)
	r.must(err)
	return ack.Sequence
}

// TestSealedForAnUnknownKey: ingest was given a new public key before the refreshers were given its seed. The events wait for it.
func TestSealedForAnUnknownKey(t *testing.T) {
	r := newRig(t, options{idle: true})
	next, keys := sealKeys(t)
	both, err := seal.FromSeeds(r.seed + "\n" + next)
	r.must(err)
	began := time.Now()
	p := r.start()
	now := r.clock.Now()
	for _, ticket := range []string{"ticket@@@one", "ticket@@@two"} {
		a := events.Auth{Kind: events.KindTicket, Component: appid, Ticket: ticket, CreateTime: now, ReceivedAt: now}
		e, err := a.Event(ticket, "/auth")
		r.must(err)
		e.Seal, err = seal.FromPublic(keys.Public())
		r.must(err)
		_, err = bus.Publish(t.Context(), r.js, e)
		r.must(err)
	}
	r.until("both were tried", func() bool { return r.metric(p, "wxtoken_sealed_unopened_total") >= 2 })
	r.until("the status tells", func() bool {
		s := r.status(componentKey)
		return s.State == wxtoken.StateOperator && s.LastError != nil && strings.Contains(s.LastError.Message, keys.Public()) &&
			strings.Contains(s.LastError.Message, "--seal-key") && strings.Contains(s.LastError.Message, r.seal.Public())
	})
	p.stop()
	if n, most := r.log.count("event can't be opened"), 1+int(time.Since(began)/time.Minute); n < 1 || n > most {
		t.Errorf("said %d times, want once a minute: %d at most", n, most)
	}
	if auth, dead := r.lying(events.StreamAuth), r.lying(events.StreamDead); len(auth) != 2 || len(dead) != 0 {
		t.Fatalf("%d events on AUTH and %d on DEAD, want both to wait", len(auth), len(dead))
	}
	r.handAgain(events.StreamAuth, events.DurableAuth)
	r.deps = func(d *refresher.Deps) { d.Seal = both }
	r.start()
	r.until("the events are handled", func() bool { return len(r.lying(events.StreamAuth)) == 0 })
	if c := r.credential(componentKey); !strings.HasPrefix(c.Ticket, "ticket@@@") {
		t.Error("the ticket was lost")
	}
	r.until("the status is of something else", func() bool {
		s := r.status(componentKey) // WeChat knows nothing of these tickets
		return s.State != wxtoken.StateOperator && (s.LastError == nil || !strings.Contains(s.LastError.Message, keys.Public()))
	})
}

// TestSealedForAnUnknownKeyOnce: ingest has a right key again. What it sealed for the wrong one before is no trouble of now, and a
// ticket among it of no use.
func TestSealedForAnUnknownKeyOnce(t *testing.T) {
	r := newRig(t, options{})
	r.token(componentKey)
	_, keys := sealKeys(t)
	wrong, err := seal.FromPublic(keys.Public())
	r.must(err)
	last := r.credential(componentKey).TicketCreatedAt
	publish := func(id string, a events.Auth) {
		a.Component, a.ReceivedAt = appid, r.clock.Now()
		e, err := a.Event(id, "/auth")
		r.must(err)
		e.Seal = wrong
		_, err = bus.Publish(t.Context(), r.js, e)
		r.must(err)
	}
	publish("old ticket", events.Auth{Kind: events.KindTicket, Ticket: "ticket@@@old", CreateTime: last.Add(-time.Minute)})
	publish("old code", events.Auth{Kind: events.KindAuthorized, Authorizer: alice, Code: "code", CreateTime: last.Add(-time.Minute)})
	r.until("the ticket is gone, and the code waits", func() bool { return len(r.lying(events.StreamAuth)) == 1 && r.log.count("event can't be opened") == 1 })
	if s := r.status(componentKey); s.State == wxtoken.StateOperator {
		t.Errorf("an event from before the last ticket makes the state %s: %v", s.State, s.LastError)
	}

	// A renewal that works does not hide that tickets can't be read.
	publish("new ticket", events.Auth{Kind: events.KindTicket, Ticket: "ticket@@@new", CreateTime: last.Add(time.Minute)})
	r.until("the status tells", func() bool { return r.status(componentKey).State == wxtoken.StateOperator })
	for range 2 { // when the second begins, the first has written its status
		r.clock.forward(2 * time.Minute)
		before := r.token(componentKey).Generation
		r.renew(componentKey, wxtoken.OutcomeRenewing)
		r.generation(componentKey, before+1)
	}
	if s := r.status(componentKey); s.State != wxtoken.StateOperator {
		t.Errorf("after a renewal the state is %s", s.State)
	}
}

// TestSealAskedFor: what ingest's --check hears.
func TestSealAskedFor(t *testing.T) {
	r := newRig(t, options{})
	_, stranger := sealKeys(t)
	for public, want := range map[string]string{r.seal.Public(): events.SealOpened, stranger.Public(): events.SealUnknown, "": events.SealMissing} {
		got := r.open(events.ConnectOpen{Step: events.StepSeal, SealKey: public})
		if got.State != want || len(got.SealKeys) != 1 || got.SealKeys[0] != r.seal.Public() {
			t.Errorf("seal key %q: %+v, want %s", public, got, want)
		}
	}
}

// TestDeadIsSealed: what can't be processed lies on DEAD sealed, whether it was sealed on AUTH or not.
func TestDeadIsSealed(t *testing.T) {
	r := newRig(t, options{})
	now := r.clock.Now()
	a := events.Auth{Kind: events.KindTicket, Component: appid, Code: "queryauthcode@@@dead", CreateTime: now, ReceivedAt: now} // no ticket in it
	r.send(a)
	e, err := a.Event("clear", "/auth")
	r.must(err)
	_, err = bus.Publish(t.Context(), r.js, e)
	r.must(err)
	r.until("two on DEAD", func() bool { return len(r.lying(events.StreamDead)) == 2 })
	dead := r.lying(events.StreamDead)
	for _, m := range dead {
		if !seal.Sealed(m.Data) {
			t.Errorf("in the clear on %s", m.Subject)
		}
		text, err := r.seal.Open(strings.TrimPrefix(m.Subject, "dead."), m.Header, m.Data)
		r.must(err)
		if got, err := events.ParseAuth(text); err != nil || got.Code != a.Code {
			t.Errorf("%+v, %v", got, err)
		}
	}
	// Moved to another subject it says nothing, and never will.
	r.put(events.AuthSubject(appid, events.KindCallback), dead[0])
	r.until("three on DEAD", func() bool { return len(r.lying(events.StreamDead)) == 3 })
	r.drained()
}

// TestDamagedCredential: a record that does not open though its key is here is brought back from WeChat's list; one that is sealed for
// another key is left alone.
func TestDamagedCredential(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.authorize(bob)
	r.drained()
	bobKey := wxtoken.AuthorizerKey(appid, bob)
	last := func(key wxtoken.Key) *jetstream.RawStreamMsg {
		t.Helper()
		stream, err := r.js.Stream(t.Context(), events.StreamTokens)
		r.must(err)
		m, err := stream.GetLastMsgForSubject(t.Context(), events.CredentialSubject(key))
		r.must(err)
		return m
	}
	m := last(aliceKey)
	m.Data[len(m.Data)-1] ^= 1
	r.put(m.Subject, m)
	m = last(bobKey)
	_, stranger := sealKeys(t)
	m.Header.Set(seal.HeaderFor, stranger.Public())
	foreign := r.put(m.Subject, m)
	if _, err := r.store.Credential(t.Context(), aliceKey); !errors.Is(err, store.ErrUnreadable) {
		t.Fatal(err)
	}
	r.pokeOld(bobKey, 1)
	r.pokeOld(aliceKey, 1)
	r.until("the damaged record is replaced and renewed", func() bool {
		token, ok, err := r.store.Token(t.Context(), aliceKey)
		return err == nil && ok && token.Generation == 2
	})
	r.until("both are named", func() bool {
		return r.log.count("record sealed with another key, left alone") > 0 && r.log.count("credential unreadable, asking WeChat's list") > 0
	})
	if m := last(bobKey); m.Sequence != foreign {
		t.Error("a record that is sealed for another key was overwritten")
	}
}

// TestOneWithoutTheSeed has one of two refreshers lack the seed of the records, as while the key is changed: what it is given goes on to the
// other within seconds.
func TestOneWithoutTheSeed(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	newSeed, _ := sealKeys(t)
	keys, err := seal.FromSeeds(newSeed + "\n" + r.seed)
	r.must(err)
	r.deps = func(d *refresher.Deps) { d.Seal = keys }
	r.start()
	r.until("not sealed anew", func() bool { return r.log.count("all records are sealed with the first key") > 0 })
	for range 8 { // each is given to either
		t0, generation := time.Now(), r.token(aliceKey).Generation
		r.pokeOld(aliceKey, generation)
		r.until("not renewed", func() bool { return r.token(aliceKey).Generation > generation })
		if took := time.Since(t0); took > unknownFor/2 {
			t.Fatalf("it took %s", took)
		}
	}
}

// unknownFor is how long a refresher waits for a seed that nobody has.
const unknownFor = time.Minute
