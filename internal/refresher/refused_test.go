package refresher_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/wechatsim"
)

// pokeOnce makes key due and waits until somebody has dealt with that, in whatever way.
func (r *rig) pokeOnce(key wxtoken.Key) {
	r.Helper()
	dealt := func() int { return r.putOff(key) + r.handled(key) }
	before := dealt()
	r.poke(key)
	r.until(key.String()+" was not dealt with", func() bool { return dealt() > before })
}

// aboutAlice returns when calls about alice were made since a time, by API.
func (r *rig) aboutAlice(since time.Time) map[string][]time.Time {
	at := map[string][]time.Time{}
	for _, e := range r.sim.History() {
		if e.Kind == wechatsim.EntryCall && e.Authorizer == alice && !e.Time.Before(since) {
			at[e.API] = append(at[e.API], e.Time)
		}
	}
	return at
}

// wantNoLoop lets two hours pass in which key is tried as soon as it may be, and fails the test if after the first
// two minutes any call about alice was made more than once a minute.
func (r *rig) wantNoLoop(key wxtoken.Key, calls func(since time.Time) map[string][]time.Time) {
	r.Helper()
	count := func(since time.Time) (n int) {
		for _, times := range calls(since) {
			n += len(times)
		}
		return n
	}
	const (
		long  = 115 * time.Minute // the component's token lives for as long as that
		eager = 2 * time.Minute   // the first tries follow one another after seconds, and a busy machine takes some for each
	)
	began := r.clock.Now()
	for r.clock.Now().Sub(began) < long {
		before := count(began)
		r.pokeOnce(key)
		cred := r.credential(key)
		if !cred.Renewable() {
			break
		}
		wait := cred.RetryAt.Sub(r.clock.Now())
		if held := 15 * time.Second; count(began) == before {
			if r.clock.Now().Sub(began) < eager {
				held = 5 * time.Second
			}
			wait = max(wait, held)
		}
		r.heard()
		r.clock.forward(max(wait, 0) + 10*time.Millisecond)
	}
	all := 0
	for api, times := range calls(began) {
		times = slices.DeleteFunc(times, func(at time.Time) bool { return at.Sub(began) < eager })
		for i := 1; i < len(times); i++ {
			if gap := times[i].Sub(times[i-1]); gap < 59*time.Second {
				r.Errorf("%s was called %v after the call before, %v after the first", api, gap, times[i].Sub(began))
				break
			}
		}
		all += len(times)
	}
	if n := count(began); n == 0 {
		r.Error("it was never tried")
	}
	if all > int(long/time.Minute) {
		r.Errorf("%d calls in %v", all, long)
	}
}

// TestNeverALoop has WeChat answer the renewal of an account in the same way for two hours.
func TestNeverALoop(t *testing.T) {
	t.Parallel()
	body := wechatsim.Fault{Mode: wechatsim.FaultBody, Body: `{"authorizer_access_token":""}`}
	code := func(code int) wechatsim.Fault { return wechatsim.Fault{Errcode: code} }
	for _, row := range []struct {
		name    string
		renewal wechatsim.Fault
		info    wechatsim.Fault // for the question after 61023
	}{
		{name: "busy", renewal: code(-1)},
		{name: "unknown", renewal: code(99999)},
		{name: "nonsense", renewal: body},
		{name: "cut", renewal: wechatsim.Fault{Mode: wechatsim.FaultDrop}},
		{name: "component token", renewal: code(40001)},
		{name: "day", renewal: code(45009)},
		{name: "minute", renewal: code(45011)},
		{name: "permission", renewal: code(48001)},
		{name: "frozen", renewal: code(50002)},
		{name: "revoked", renewal: code(61003)},
		{name: "address", renewal: code(61004)},
		{name: "code", renewal: code(61009)},
		{name: "refresh token", renewal: code(61023)},
		{name: "refresh token, busy", renewal: code(61023), info: code(-1)},
		{name: "refresh token, permission", renewal: code(61023), info: code(48001)},
		{name: "refresh token, day", renewal: code(61023), info: code(45009)},
		{name: "refresh token, revoked", renewal: code(61023), info: code(61003)},
		{name: "refresh token, another one each time", renewal: code(61023),
			info: wechatsim.Fault{Mode: wechatsim.FaultBody, Body: "another"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, options{})
			r.authorize(alice)
			r.clock.forward(80 * time.Minute) // alice's token dies on the way, its component's does not
			r.poke(componentKey)
			r.until("no component token", func() bool { return r.token(componentKey).Generation >= 2 })
			row.renewal.API, row.renewal.Authorizer = apiRefresh, alice
			r.fail(row.renewal)
			row.info.API, row.info.Authorizer = apiInfo, alice
			switch {
			case row.info.Body != "":
				for i := range 200 {
					row.info.Body = fmt.Sprintf(`{"authorizer_info":{},"authorization_info":{"authorizer_appid":%q,"authorizer_refresh_token":"refreshtoken@@@%d","func_info":[]}}`, alice, i)
					row.info.Times = 1
					r.fail(row.info)
				}
			case row.info.Errcode != 0:
				r.fail(row.info)
			}
			r.wantNoLoop(aliceKey, r.aboutAlice)
		})
	}
}

// TestAskedFirst has WeChat refuse a refresh token and then not tell which one is good: that one is not sent again before it does.
func TestAskedFirst(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	cred := r.credential(aliceKey)
	good := cred.RefreshToken
	cred.RefreshToken = "refreshtoken@@@SEKRET-another"
	_, err := r.store.Save(t.Context(), cred)
	r.must(err)
	infos := r.calls(apiInfo)
	r.fail(wechatsim.Fault{API: apiInfo, Errcode: -1, Times: 3})
	for try := 1; try <= 3; try++ {
		r.pokedInVain(aliceKey)
		r.wantCalls(apiRefresh, 1)
		r.wantCalls(apiInfo, infos+try)
		if c := r.credential(aliceKey); !c.RefreshRefused || c.Failures != try || c.Claim != nil {
			t.Errorf("after try %d: refused %t, %d failures, claim %v", try, c.RefreshRefused, c.Failures, c.Claim)
		}
		r.clock.forward(time.Minute)
	}
	r.pokedInVain(aliceKey) // WeChat tells
	r.wantCalls(apiRefresh, 1)
	if c := r.credential(aliceKey); c.RefreshToken != good || c.RefreshRefused {
		t.Error("the refresh token is not the one that WeChat told")
	}
	r.clock.forward(time.Minute)
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	r.wantCalls(apiRefresh, 2)
	r.state(aliceKey, wxtoken.StateActive)
}

// TestRefusedAndCancelled has WeChat say at the second question that the account cancelled.
func TestRefusedAndCancelled(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61023})
	r.fail(wechatsim.Fault{API: apiInfo, Errcode: -1, Times: 1})
	r.fail(wechatsim.Fault{API: apiInfo, Errcode: 61003})
	r.pokedInVain(aliceKey)
	r.state(aliceKey, wxtoken.StateRenewingFailed) // one refusal proves nothing
	r.clock.forward(time.Minute)
	r.poke(aliceKey)
	r.state(aliceKey, wxtoken.StateRevoked)
	r.wantCalls(apiRefresh, 1)
	if !r.token(aliceKey).Value.IsZero() {
		t.Error("the token is still there")
	}
}

// crowd authorizes so many accounts of a component and returns their keys.
func (r *rig) crowd(component string, n int) (keys []wxtoken.Key) {
	r.Helper()
	r.reconciled() // it would find them before their pushes do
	for i := range n {
		account := fmt.Sprintf("wxmany%011d", i)
		r.must(r.sim.Authorize(component, account))
		keys = append(keys, wxtoken.AuthorizerKey(component, account))
	}
	for _, key := range keys {
		r.until("not authorized", func() bool { return r.token(key).Generation >= 1 })
	}
	r.heard()
	return keys
}

func conditionOf(s wxtoken.Status, kind wxtoken.ConditionType) (c wxtoken.Condition) {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return c
}

// TestRefusalsDoubted has WeChat refuse everybody of one component, in each of the two ways: a few may be marked before
// that is noticed, then nobody is, however long it lasts. The other component goes on.
func TestRefusalsDoubted(t *testing.T) {
	t.Parallel()
	for name, info := range map[string]int{"refused": 0, "cancelled by the info alone": 61003} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options{
				idle: true, more: []string{otherApp}, sim: wechatsim.Config{TokenLife: 24 * time.Hour},
				cfg: func(c *refresher.Config) { c.SweepEvery = time.Second },
			})
			r.both()
			p := r.start()
			r.ticket()
			r.must(r.sim.PushTicket(otherApp))
			r.eventually(r.componentLives)
			keys, others := r.crowd(appid, 12), r.crowd(otherApp, 2)
			r.until("not reconciled", func() bool { return r.log.count("reconciled with WeChat") >= 2 })
			lists := r.calls(apiList)
			r.fail(wechatsim.Fault{API: apiRefresh, Component: appid, Errcode: 61023})
			if info != 0 {
				r.fail(wechatsim.Fault{API: apiInfo, Component: appid, Errcode: -1, Times: len(keys)})
				r.fail(wechatsim.Fault{API: apiInfo, Component: appid, Errcode: info})
			}
			marked := func() (n int) {
				for _, key := range keys {
					if s := r.status(key).State; s == wxtoken.StateRevoked || s == wxtoken.StateNeedsAuthorization {
						n++
					}
				}
				return n
			}
			round := func() {
				t.Helper()
				for _, key := range keys {
					r.pokeOnce(key)
				}
				r.until("not doubted", func() bool {
					return r.metric(p, "wxtoken_refusals_doubted", appid) == 1 && r.metric(p, "wxtoken_held_back", appid, wxtoken.HeldDoubted) == 1
				})
				r.until("the status does not tell", func() bool {
					s := r.status(componentKey)
					return s.State == wxtoken.StateOperator && conditionOf(s, "RefusalsBelieved").Status == "False"
				})
			}
			round()
			r.clock.forward(2 * time.Minute)
			round()
			if n := marked(); n > 0 {
				t.Errorf("%d accounts are marked after a refusal", n)
			}
			// Each time that the refusals of before are forgotten a few are marked, and no more.
			for i, wait := range []time.Duration{11 * time.Minute, 61 * time.Minute} {
				r.clock.forward(wait)
				round()
				if n := marked(); n > 3*(i+1) {
					t.Errorf("%d of %d accounts are marked", n, len(keys))
				}
			}
			if r.metric(p, "wxtoken_refusals_doubted", otherApp) != 0 {
				t.Error("the other component's refusals are doubted")
			}
			r.until("WeChat's list was not asked", func() bool { return r.calls(apiList) > lists })
			for _, key := range others {
				r.poke(key)
				r.until("the other component suffers", func() bool { return r.token(key).Generation >= 2 })
			}
			r.state(wxtoken.ComponentKey(otherApp), wxtoken.StateActive)

			r.sim.Heal()
			r.clock.forward(6 * time.Minute)
			s := r.state(componentKey, wxtoken.StateActive)
			if c := conditionOf(s, "RefusalsBelieved"); c.Status != "True" || s.LastError != nil {
				t.Errorf("when it ended: %+v", s)
			}
			if r.metric(p, "wxtoken_refusals_doubted", appid) != 0 {
				t.Error("the metric still says so")
			}
		})
	}
}

// TestDoubtOfOneWhoStopped ends the refresher that doubted: the next one says that it is over.
func TestDoubtOfOneWhoStopped(t *testing.T) {
	r := newRig(t, options{idle: true, cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	first := r.start()
	r.ticket()
	r.eventually(r.componentLives)
	keys := r.crowd(appid, 5)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61023, Times: len(keys)})
	for _, key := range keys {
		r.pokeOnce(key)
	}
	r.until("nobody doubts", func() bool { return conditionOf(r.status(componentKey), "RefusalsBelieved").Status == "False" })
	first.stop()
	r.start()
	r.until("it is never believed again", func() bool { return conditionOf(r.status(componentKey), "RefusalsBelieved").Status == "True" })
	r.state(componentKey, wxtoken.StateActive)
}

// TestDoubtEndsAndAnotherReasonStays has the day's quota gone while refusals are doubted.
func TestDoubtEndsAndAnotherReasonStays(t *testing.T) {
	r := newRig(t, options{idle: true, evening: true, cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	r.start()
	r.ticket()
	r.eventually(r.componentLives)
	keys := r.crowd(appid, 6)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61023, Times: len(keys) - 1})
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 45009})
	for _, key := range keys {
		r.pokeOnce(key)
	}
	r.until("nobody doubts", func() bool { return conditionOf(r.status(componentKey), "RefusalsBelieved").Status == "False" })
	r.until("the quota is not told", func() bool { return strings.Contains(conditionOf(r.status(componentKey), "Renewing").Message, "quota") })
	r.heard() // the one that met it holds back by itself for some seconds
	r.clock.forward(6 * time.Minute)
	r.until("it is never believed again", func() bool { return conditionOf(r.status(componentKey), "RefusalsBelieved").Status == "True" })
	if s := r.status(componentKey); s.State != wxtoken.StateOperator || s.LastError == nil || s.LastError.Code != 45009 {
		t.Errorf("the quota is gone, and the status is %+v", s)
	}
}

// TestAwayOneProbes has WeChat away for many accounts: together they call once in ten seconds, and as soon as it is
// back all are renewed, by sweeps in the order in which their tokens die.
func TestAwayOneProbes(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	keys := r.crowd(appid, 12)
	r.until("not all have a profile", func() bool { // to fetch one later would be a call, too
		return !slices.ContainsFunc(keys, func(key wxtoken.Key) bool {
			a := r.status(key).Authorizer
			return a == nil || len(a.Profile) == 0
		})
	})
	began := len(r.sim.History())
	r.sim.SetDown(true)
	for _, key := range keys {
		r.pokeOnce(key)
	}
	seq, away := len(r.sim.History()), r.clock.Now()
	since := func(seq int) (n int) {
		for _, e := range r.sim.History()[seq:] {
			if e.Kind == wechatsim.EntryCall {
				n++
			}
		}
		return n
	}
	down := func() int { return since(seq) }
	for range 5 {
		for _, key := range keys {
			r.pokeOnce(key)
		}
		n, took := down(), r.clock.Now().Sub(away)
		if most := 1 + int(took/(10*time.Second)); n > most {
			t.Fatalf("%d calls within %s, want %d at most", n, took, most)
		}
		r.clock.forward(10 * time.Second)
	}
	if down() == 0 {
		t.Error("nobody probed")
	}
	failures := 0
	for _, key := range keys {
		failures += r.credential(key).Failures
	}
	if calls := since(began); failures > calls { // one key may probe twice; those that wait have not failed
		t.Errorf("%d failures of %d calls while WeChat was away", failures, calls)
	}
	r.sim.SetDown(false)
	r.clock.forward(11 * time.Second)
	for _, key := range keys {
		r.poke(key)
	}
	for _, key := range keys {
		r.until("not renewed", func() bool { return r.token(key).Generation >= 2 })
	}
}

// TestSweepOrder has the sweep find keys whose tokens die at different times: the first to die is renewed first.
func TestSweepOrder(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery, c.Concurrency = time.Second, 1 }})
	var keys []wxtoken.Key
	for i := range 6 {
		account := fmt.Sprintf("wxmany%011d", 9-i)
		r.authorize(account)
		keys = append(keys, wxtoken.AuthorizerKey(appid, account))
		r.clock.forward(3 * time.Minute)
	}
	r.drained()
	stream, err := r.js.Stream(t.Context(), events.StreamTokens)
	r.must(err)
	for _, key := range keys {
		r.must(stream.Purge(t.Context(), jetstream.WithPurgeSubject(events.ScheduleSubject(key))))
	}
	var last time.Time // for chance brings each renewal forward
	for _, key := range keys {
		if at := r.token(key).RenewAt; at.After(last) {
			last = at
		}
	}
	r.clock.forward(last.Sub(r.clock.Now()) + 3*time.Second)
	for _, key := range keys {
		r.generation(key, 2)
	}
	var order []string
	for _, e := range r.sim.History() {
		if e.Kind == wechatsim.EntryCall && e.API == apiRefresh {
			order = append(order, e.Authorizer)
		}
	}
	for i, key := range keys {
		if order[i] != key.Authorizer {
			t.Fatalf("renewed in the order %v, want that of %v", order, keys)
		}
	}
}
