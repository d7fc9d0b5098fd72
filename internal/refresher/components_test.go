package refresher_test

import (
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/internal/settings"
	"wxtoken/wechatsim"
)

var (
	otherComponentKey = wxtoken.ComponentKey(otherApp)
	otherAliceKey     = wxtoken.AuthorizerKey(otherApp, alice)
)

func acting(secret string, appids ...string) (all []settings.Component) {
	for _, id := range appids {
		all = append(all, settings.Component{AppID: id, AppSecret: wxtoken.NewSecret(secret)})
	}
	return all
}

// handAgain has every message that waits handed out at once, however long it was put off.
func (r *rig) handAgain(stream, durable string) {
	r.Helper()
	s, err := r.js.Stream(r.Context(), stream)
	r.must(err)
	r.must(s.DeleteConsumer(r.Context(), durable))
}

// callsOf returns the APIs that were called for a component, in their order.
func (r *rig) callsOf(component string) (calls []string) {
	for _, e := range r.sim.History() {
		if e.Kind == wechatsim.EntryCall && e.Component == component {
			calls = append(calls, e.API)
		}
	}
	return calls
}

func TestSetComponents(t *testing.T) {
	r := newRig(t, options{idle: true, more: []string{otherApp}, cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	p := r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.authorize(alice)
	// What comes for a component that nobody knows waits.
	r.must(r.sim.PushTicket(otherApp))
	r.must(r.sim.Authorize(otherApp, alice))
	r.until("not put off", func() bool {
		return r.log.count("message put off", "component "+otherApp+" is not in the settings") >= 2
	})
	if n := len(r.callsOf(otherApp)); n > 0 {
		t.Errorf("%d calls for a component that is not in the settings", n)
	}
	if s := r.status(otherComponentKey); s.State != "" {
		t.Errorf("it has a status: %+v", s)
	}

	p.work.SetComponents(acting(appsecret, appid, otherApp))
	r.until("not greeted", func() bool { return r.status(otherComponentKey).State == wxtoken.StateWaitingForTicket })
	r.handAgain(events.StreamAuth, events.DurableAuth)
	r.until("what came before is lost", func() bool { return r.token(otherAliceKey).Generation >= 1 })
	r.until("not reconciled", func() bool { return r.log.count("reconciled with WeChat", otherApp) > 0 })
	r.state(otherComponentKey, wxtoken.StateActive)
	if !r.sim.Accepts(otherApp, alice, r.token(otherAliceKey).Value.Reveal()) || r.sim.Accepts(appid, alice, r.token(otherAliceKey).Value.Reveal()) {
		t.Error("the tokens of one account under two components are mixed")
	}
	r.must(r.accepted(alice))
	r.drained()

	// Removed: nothing more is called for it.
	p.work.SetComponents(acting(appsecret, appid))
	time.Sleep(2 * time.Second) // a look that had begun is at its end: with the clock put forward it would take the tickets for late
	calls := len(r.callsOf(otherApp))
	r.clock.forward(r.token(otherAliceKey).RenewAt.Sub(r.clock.Now()) + 5*time.Second)
	for _, key := range []wxtoken.Key{otherAliceKey, otherComponentKey} {
		r.pokedInVain(key)
	}
	r.must(r.store.ScheduleReconcile(t.Context(), otherApp, 6*time.Hour, true))
	r.until("the reconcile was not put off", func() bool { return r.log.count("message put off", "reconcile: component "+otherApp) > 0 })
	r.must(r.sim.PushTicket(otherApp))
	r.must(r.sim.Reauthorize(otherApp, alice))
	putOff := func() int { return r.log.count("message put off", otherApp) }
	before := putOff()
	r.handAgain(events.StreamTokens, events.DurableDue)
	r.until("not put off", func() bool { return putOff() > before })
	if all := r.callsOf(otherApp); len(all) != calls {
		t.Errorf("%q called for a component that was removed", all[calls:])
	}
	if code := r.asks(events.SubjectQuota, `{"component":"`+otherApp+`"}`, nil); code != "404" {
		t.Errorf("its quota: %q, want 404", code)
	}
	// The other one goes on.
	r.poke(aliceKey)
	r.until("not renewed", func() bool { return r.token(aliceKey).Generation >= 2 })

	// Back: the sweep finds what was missed, the event that waited is handled.
	p.work.SetComponents(acting(appsecret, otherApp, appid))
	r.handAgain(events.StreamAuth, events.DurableAuth)
	r.until("not renewed", func() bool {
		return r.sim.AcceptsComponent(otherApp, r.token(otherComponentKey).Value.Reveal()) &&
			r.sim.Accepts(otherApp, alice, r.token(otherAliceKey).Value.Reveal()) &&
			r.sim.AcceptsRefresh(otherApp, alice, r.credential(otherAliceKey).RefreshToken)
	})
	r.must(r.accepted(alice))
}

// TestSecretChanges has the component's secret change on WeChat's console and then in the settings.
func TestSecretChanges(t *testing.T) {
	r := newRig(t, options{idle: true})
	p := r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.authorize(alice)
	const secret = "SEKRET-another-appsecret"
	r.must(r.sim.SetSecret(appid, secret))
	r.pokedInVain(componentKey)
	r.state(componentKey, wxtoken.StateOperator)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61004, Times: 1}) // holds every call back for a minute
	r.pokedInVain(aliceKey)
	calls := r.calls(apiRefresh)
	p.work.SetComponents(acting(secret, appid))
	r.clock.forward(61 * time.Second)
	r.poke(componentKey)
	r.generation(componentKey, 2)
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	r.wantCalls(apiRefresh, calls+1)
	r.state(componentKey, wxtoken.StateActive)
}

func TestSetComponentsWhileStarting(t *testing.T) {
	r := newRig(t, options{idle: true, more: []string{otherApp}})
	r.deps = func(d *refresher.Deps) { d.Components = nil }
	p := r.start()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 { // the race detector looks
			p.work.SetComponents(acting(appsecret, appid))
			p.work.SetComponents(acting("SEKRET-x", otherApp, appid))
			_, _ = p.metrics.Gather()
		}
		p.work.SetComponents(acting(appsecret, appid, otherApp))
	}()
	<-done
	r.ticket()
	r.eventually(r.componentLives)
	r.must(r.sim.Authorize(appid, alice))
	r.eventually(func() error { return r.accepted(alice) })
	r.state(otherComponentKey, wxtoken.StateWaitingForTicket)
}
