package refresher_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/wechatsim"
)

// TestTwoRefreshers has two of them renew: one call for each renewal.
func TestTwoRefreshers(t *testing.T) {
	r := newRig(t, options{sim: wechatsim.Config{Latency: 20 * time.Millisecond}})
	r.start()
	const accounts, rounds = 5, 4
	for i := range accounts {
		r.authorize(fmt.Sprintf("wxmany%011d", i))
	}
	for round := range uint64(rounds) {
		for i := range accounts {
			key := wxtoken.AuthorizerKey(appid, fmt.Sprintf("wxmany%011d", i))
			for range 3 { // each a message of its own
				r.must(r.store.MakeDue(t.Context(), events.Due{Key: key, Generation: round + 1, Reason: events.ReasonScheduled}, ""))
			}
		}
		r.until("not all are renewed", func() bool {
			for i := range accounts {
				if r.token(wxtoken.AuthorizerKey(appid, fmt.Sprintf("wxmany%011d", i))).Generation != round+2 {
					return false
				}
			}
			return true
		})
		r.drained()
	}
	r.wantCalls(apiRefresh, accounts*rounds)
}

// TestOverlap has the credential change while WeChat answers: that answer is thrown away, and one
// more call finds out what WeChat holds for the newest.
func TestOverlap(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultSlow, Delay: time.Second, Times: 1})
	r.poke(aliceKey)
	r.until("the renewal was not asked for", func() bool { return r.calls(apiRefresh) == 1 })
	cred := r.credential(aliceKey)
	cred.Claim = nil
	_, err := r.store.Save(t.Context(), cred)
	r.must(err)
	r.generation(aliceKey, 2)
	r.drained()
	r.wantCalls(apiRefresh, 2)
	if r.log.count("two renewals overlapped") != 1 {
		t.Error("the overlap was not noticed")
	}
	if n := r.sim.Truth(appid, alice).Generation; n != 3 {
		t.Errorf("WeChat issued %d tokens, want 3", n)
	}
}

func TestRestartWithValidTokens(t *testing.T) {
	r := newRig(t, options{idle: true})
	first := r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.authorize(alice)
	token := r.token(aliceKey)
	first.stop()
	r.sim.ClearHistory()
	r.nats.Restart()
	r.eventually(func() error { return r.accepted(alice) })
	r.start()
	r.until("not started", func() bool { return r.log.count("refresher started") == 2 })
	r.pokeOld(aliceKey, 0) // a due message of long ago
	r.drained()
	if calls := len(r.sim.History()); calls != 0 {
		t.Errorf("%d calls after a restart with valid tokens", calls)
	}
	if r.token(aliceKey) != token {
		t.Error("the restart changed the token")
	}
	r.wantScheduled(aliceKey)
}

// TestComponentWithoutToken has the component's token gone: what is valid stays, what is due waits.
func TestComponentWithoutToken(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	token := r.token(aliceKey)
	kv, err := r.js.KeyValue(t.Context(), events.BucketTokens)
	r.must(err)
	r.must(kv.Delete(t.Context(), componentKey.String()))
	r.heard()
	r.pokedInVain(aliceKey)
	if r.token(aliceKey) != token || r.credential(aliceKey).Failures != 0 {
		t.Error("an account suffered from its component having no token")
	}
	r.state(aliceKey, wxtoken.StateActive)
	r.wantCalls(apiRefresh, 0)
	r.poke(componentKey)
	r.generation(aliceKey, 2)
}

// TestSweep purges a schedule: the sweep finds the key once its time has passed.
func TestSweep(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	r.authorize(alice)
	stream, err := r.js.Stream(t.Context(), events.StreamTokens)
	r.must(err)
	r.must(stream.Purge(t.Context(), jetstream.WithPurgeSubject(events.ScheduleSubject(aliceKey))))
	r.clock.forward(r.token(aliceKey).RenewAt.Sub(r.clock.Now()) + 3*time.Second)
	r.generation(aliceKey, 2)
	r.wantScheduled(aliceKey)
	r.wantCalls(apiRefresh, 1)
}

// TestReturnedNATSLostADueMessage restarts the NATS server without the schedule of a token whose time comes meanwhile, as one may be that
// was killed: the token is renewed soon after it is back, not when the next sweep would be, by one of two refreshers, once.
func TestReturnedNATSLostADueMessage(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery = time.Hour }})
	r.start()
	r.until("not started", func() bool { return r.log.count("refresher started") == 2 })
	r.authorize(alice)
	stream, err := r.js.Stream(t.Context(), events.StreamTokens)
	r.must(err)
	r.must(stream.Purge(t.Context(), jetstream.WithPurgeSubject(events.ScheduleSubject(aliceKey))))
	r.clock.forward(r.token(aliceKey).RenewAt.Sub(r.clock.Now()) + 3*time.Second)
	time.Sleep(2 * time.Second)
	r.wantCalls(apiRefresh, 0)
	r.nats.Restart()
	r.generation(aliceKey, 2)
	r.wantScheduled(aliceKey)
	time.Sleep(5 * time.Second) // further looks find nothing
	r.wantCalls(apiRefresh, 1)
}

// TestStaleDue has a due message of a past generation: it only brings back the schedule.
func TestStaleDue(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	r.drained()
	stream, err := r.js.Stream(t.Context(), events.StreamTokens)
	r.must(err)
	r.must(stream.Purge(t.Context(), jetstream.WithPurgeSubject(events.ScheduleSubject(aliceKey))))
	r.pokeOld(aliceKey, 1)
	r.drained()
	r.wantScheduled(aliceKey)
	r.wantCalls(apiRefresh, 1)

	// It is old news, also for the status.
	r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultBusy, Times: 1})
	r.pokedInVain(aliceKey)
	r.state(aliceKey, wxtoken.StateRenewingFailed)
	r.pokeOld(aliceKey, 1)
	r.drained()
	r.state(aliceKey, wxtoken.StateRenewingFailed)
}

// TestRecordOfANewerProgram meets records that it must not touch: whatever comes, they stay as they are, and nothing is renewed with them.
func TestRecordOfANewerProgram(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	r.authorize(alice)
	newer := map[string]uint64{} // revisions by subject
	for _, subject := range []string{events.CredentialSubject(aliceKey), events.CredentialSubject(componentKey), events.QuotaSubject(appid)} {
		ack, err := r.js.Publish(t.Context(), subject, []byte(`{"v":99}`))
		r.must(err)
		newer[subject] = ack.Sequence
	}
	refreshes, tickets := r.calls(apiRefresh), r.calls(apiComponent)
	r.must(r.store.ScheduleReconcile(t.Context(), appid, 6*time.Hour, true))
	r.until("not reconciled", func() bool { return r.log.count("reconciled with WeChat") >= 2 })
	r.pokeNewer(aliceKey)
	r.pokeNewer(componentKey)
	r.ticket()
	r.must(r.sim.Reauthorize(appid, alice))
	r.must(r.sim.Cancel(appid, alice))
	for _, kind := range []string{events.KindTicket, events.KindUpdated, events.KindUnauthorized} {
		r.until(kind+" was not put off", func() bool { return r.log.count("record of a newer program", events.AuthSubject(appid, kind)) > 0 })
	}
	r.clock.forward(3 * time.Hour) // everything is overdue
	time.Sleep(3 * r.cfg.SweepEvery)
	r.wantCalls(apiRefresh, refreshes)
	r.wantCalls(apiComponent, tickets)
	stream, err := r.js.Stream(t.Context(), events.StreamTokens)
	r.must(err)
	for subject, revision := range newer {
		if m, err := stream.GetLastMsgForSubject(t.Context(), subject); err != nil || m.Sequence != revision {
			t.Errorf("%s: the record of a newer program was replaced (%v)", subject, err)
		}
	}
}

// pokeNewer makes a key due whose record is of a newer program, and waits until that was put off.
func (r *rig) pokeNewer(key wxtoken.Key) {
	r.Helper()
	r.pokeOld(key, 1)
	r.until(key.String()+" was not put off", func() bool { return r.log.count("record of a newer program", events.DueSubject(key)) > 0 })
}

// TestServerRestarts takes the NATS server away and brings it back: refreshers go on.
func TestServerRestarts(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.nats.Restart()
	r.eventually(func() error { return r.accepted(alice) })
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
}

// TestStopsWhileNATSIsAway ends a refresher that never saw the server.
func TestStopsWhileNATSIsAway(t *testing.T) {
	r := newRig(t, options{idle: true})
	p := r.start()
	r.nats.Stop()
	p.stop()
}
