package refresher_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/wechatsim"
)

// TestFaultyAnswers gives answers that must not be stored; the token and the refresh token stay.
func TestFaultyAnswers(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	token, refreshToken := r.token(aliceKey), r.credential(aliceKey).RefreshToken
	for i, body := range []string{
		`{"errcode":-1,"errmsg":"busy","authorizer_access_token":"SEKRETx","expires_in":7200}`,
		`{"authorizer_access_token":"","expires_in":7200,"authorizer_refresh_token":"SEKRETy"}`,
		`{"authorizer_access_token":"SEKRETx","expires_in":0}`,
		`[]`,
	} {
		r.sim.Heal()
		r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultBody, Body: body}) // also when it is tried again
		r.clock.forward(2 * time.Minute)                                                // past the wait after the failure before
		r.pokedInVain(aliceKey)
		if r.token(aliceKey) != token || r.credential(aliceKey).RefreshToken != refreshToken {
			t.Fatalf("something was stored of %s", body)
		}
		if s := r.status(aliceKey); s.State != wxtoken.StateRenewingFailed || s.Failures <= i || s.LastError == nil {
			t.Errorf("after %s the status is %+v", body, s)
		}
	}
	r.sim.Heal()
	r.clock.forward(2 * time.Minute)
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	if s := r.state(aliceKey, wxtoken.StateActive); s.Failures != 0 || s.LastError != nil {
		t.Errorf("after a good renewal: %+v", s)
	}
}

func TestEmptyRefreshTokenKeepsTheOld(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	before := r.credential(aliceKey).RefreshToken
	r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultBody, Times: 1,
		Body: `{"authorizer_access_token":"SEKRET-without-a-refresh-token","expires_in":"10"}`})
	r.poke(aliceKey)
	r.until("no new token", func() bool { return r.token(aliceKey).Generation >= 2 })
	if after := r.credential(aliceKey).RefreshToken; after != before {
		t.Error("an answer without a refresh token changed it")
	}
	if token := r.token(aliceKey); token.ExpiresAt.Sub(token.ObtainedAt) != 10*time.Second {
		t.Errorf("expires_in of 10 became %v", token.ExpiresAt.Sub(token.ObtainedAt))
	}
}

func TestRotatedRefreshToken(t *testing.T) {
	r := newRig(t, options{sim: wechatsim.Config{Rotation: wechatsim.RotateEachOldDead}})
	r.authorize(alice)
	before := r.credential(aliceKey).RefreshToken
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	if c := r.credential(aliceKey); c.RefreshToken == before {
		t.Error("the new refresh token is not there")
	}
}

// TestShortLives has the schedule alone renew tokens that live for ten seconds.
func TestShortLives(t *testing.T) {
	r := newRig(t, options{sim: wechatsim.Config{TokenLife: 10 * time.Second}, cfg: func(c *refresher.Config) { c.RenewFraction = 0.3 }})
	r.authorize(alice)
	for generation := uint64(2); generation <= 3; generation++ {
		before := r.token(aliceKey)
		var token wxtoken.Token
		r.until("no renewal", func() bool { token = r.token(aliceKey); return token.Generation >= generation })
		// On a slow machine the one before may have died meanwhile: then there is nothing to tell of.
		if token.Previous == nil && token.Generation == before.Generation+1 && token.ObtainedAt.Before(before.ExpiresAt) {
			t.Error("an ordinary renewal told nothing of the previous token")
		}
	}
	r.wantCalls(apiRefresh, int(r.token(aliceKey).Generation)-1)
}

func TestRefreshTokenRecovered(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	cred := r.credential(aliceKey)
	good := cred.RefreshToken
	cred.RefreshToken = "refreshtoken@@@SEKRET-another"
	_, err := r.store.Save(t.Context(), cred)
	r.must(err)
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	if r.credential(aliceKey).RefreshToken != good {
		t.Error("the refresh token is not the one that WeChat told")
	}
	r.wantCalls(apiRefresh, 2)
}

// refusedAndListed makes alice due while her refresh token is refused, and waits until WeChat's list was read because of that,
// which the second refusal asks for: before, nobody is asked to authorize.
func (r *rig) refusedAndListed() {
	r.Helper()
	before := r.credential(aliceKey).Failures
	r.until("not tried", func() bool {
		r.pokedInVain(aliceKey)
		return r.credential(aliceKey).Failures > before
	})
	sought := r.credential(aliceKey).SoughtAt
	r.until("the list was not read", func() bool {
		q, err := r.store.Quota(r.Context(), appid)
		r.must(err)
		return sought.IsZero() || !q.ListedAt.Before(sought)
	})
	r.heard()
}

// TestRefreshTokenRefused climbs the ladder for a refresh token that WeChat refuses and confirms.
func TestRefreshTokenRefused(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61023})
	token, calls := r.token(aliceKey), 0
	for _, wait := range []time.Duration{time.Minute, 10 * time.Minute, time.Hour} {
		r.refusedAndListed()
		calls++
		r.wantCalls(apiRefresh, calls)
		r.state(aliceKey, wxtoken.StateRenewingFailed)
		r.clock.forward(wait - 10*time.Second)
		r.pokedInVain(aliceKey)
		r.wantCalls(apiRefresh, calls)
		r.clock.forward(11 * time.Second)
	}
	r.pokedInVain(aliceKey)
	if s := r.state(aliceKey, wxtoken.StateNeedsAuthorization); s.LastError == nil || s.LastError.Code != 61023 {
		t.Errorf("last error %+v", s.LastError)
	}
	if r.token(aliceKey) != token {
		t.Error("the token was touched")
	}
	r.sim.Heal()
	r.must(r.sim.Reauthorize(appid, alice))
	r.generation(aliceKey, 2)
	r.state(aliceKey, wxtoken.StateActive)
}

func TestRevokedByWeChat(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.keep()
	r.must(r.sim.Cancel(appid, alice)) // the push is lost
	r.poke(aliceKey)
	s := r.state(aliceKey, wxtoken.StateRevoked)
	if s.LastError == nil || s.LastError.Code != 61003 || s.LastError.RID == "" {
		t.Errorf("last error %+v", s.LastError)
	}
	if token := r.token(aliceKey); !token.Value.IsZero() {
		t.Error("the token is still there")
	}
	r.drained()
	r.wantCalls(apiRefresh, 1)
	// WeChat's clock may be behind ours, which dated the refusal: an authorization "before" it counts.
	r.must(r.sim.Authorize(appid, alice))
	again := r.next(events.KindAuthorized)
	again.CreateTime = r.credential(aliceKey).AuthorizedAt
	r.send(again)
	r.generation(aliceKey, 2)
	r.state(aliceKey, wxtoken.StateActive)
}

// TestManyRevoked has WeChat call everybody revoked at once: that is a fault of somebody, not news.
func TestManyRevoked(t *testing.T) {
	r := newRig(t, options{})
	const accounts = 8
	account := func(i int) string { return fmt.Sprintf("wxmany%011d", i) }
	for i := range accounts {
		r.authorize(account(i))
	}
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61003})
	for i := range accounts {
		r.poke(wxtoken.AuthorizerKey(appid, account(i)))
		r.until("not asked", func() bool { return r.calls(apiRefresh, account(i)) == 1 })
		r.until("nothing became of it", func() bool {
			s := r.status(wxtoken.AuthorizerKey(appid, account(i))).State
			return s == wxtoken.StateRevoked || s == wxtoken.StateRenewingFailed
		})
	}
	gone := 0
	for i := range accounts {
		if r.token(wxtoken.AuthorizerKey(appid, account(i))).Value.IsZero() {
			gone++
		}
	}
	if gone == 0 || gone > 3 {
		t.Errorf("%d of %d accounts are marked as revoked, want a few and then none", gone, accounts)
	}
}

func TestIPNotListed(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	token := r.token(aliceKey)
	r.fail(wechatsim.Fault{Errcode: 61004})
	r.pokedInVain(aliceKey)
	if s := r.state(componentKey, wxtoken.StateOperator); s.LastError == nil || s.LastError.Code != 61004 || s.LastError.RID == "" {
		t.Errorf("last error %+v", s.LastError)
	}
	r.state(aliceKey, wxtoken.StateActive)
	calls := len(r.sim.History())
	r.pokedInVain(aliceKey)
	if again := len(r.sim.History()); again != calls {
		t.Errorf("%d calls while everything is held back", again-calls)
	}
	if r.token(aliceKey) != token {
		t.Error("the token was touched")
	}
	r.sim.Heal()
	r.clock.forward(2 * time.Minute)
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	if s := r.state(componentKey, wxtoken.StateActive); s.LastError != nil || s.Failures != 0 {
		t.Errorf("after it works again: %+v", s)
	}
}

func TestWrongSecret(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.must(r.sim.SetSecret(appid, "SEKRET-another-appsecret"))
	r.pokedInVain(componentKey)
	want := func() {
		t.Helper()
		if s := r.state(componentKey, wxtoken.StateOperator); s.LastError == nil || s.LastError.Code != 40125 {
			t.Errorf("last error %+v", s.LastError)
		}
	}
	want()
	// The component's token is still good, and so the accounts are renewed, which proves nothing about the secret.
	r.clock.forward(2 * time.Minute)
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	r.until("not handled", func() bool { return r.log.count("message handled", events.DueSubject(aliceKey)) == 1 })
	want()
	r.state(aliceKey, wxtoken.StateActive)
	r.must(r.sim.SetSecret(appid, appsecret))
	r.poke(componentKey)
	r.generation(componentKey, 2)
	r.state(componentKey, wxtoken.StateActive)
}

// TestOneAccountRefused has WeChat refuse one account for a reason of its own: the others go on.
func TestOneAccountRefused(t *testing.T) {
	r := newRig(t, options{})
	const bob = "wxb0b00000000000"
	r.authorize(alice)
	r.authorize(bob)
	r.fail(wechatsim.Fault{API: apiRefresh, Authorizer: alice, Errcode: 61028})
	r.pokedInVain(aliceKey)
	if s := r.state(aliceKey, wxtoken.StateOperator); s.LastError == nil || s.LastError.Code != 61028 {
		t.Errorf("last error %+v", s.LastError)
	}
	r.poke(wxtoken.AuthorizerKey(appid, bob))
	r.generation(wxtoken.AuthorizerKey(appid, bob), 2)
	r.state(componentKey, wxtoken.StateActive)
	r.pokedInVain(aliceKey)
	r.wantCalls(apiRefresh, 1, alice)
}

// TestQuotaGone has each of the APIs say that the day's quota is gone: it is not called again that day.
func TestQuotaGone(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		api  string
		work func(r *rig)
	}{
		{apiRefresh, func(r *rig) { r.poke(aliceKey) }},
		{apiComponent, func(r *rig) { r.poke(componentKey) }},
		{apiList, func(r *rig) { r.must(r.store.ScheduleReconcile(r.Context(), appid, 6*time.Hour, true)) }},
		{apiExchange, func(r *rig) { r.send(r.consent()) }},
	} {
		t.Run(row.api, func(t *testing.T) {
			r := newRig(t, options{evening: true})
			r.authorize(alice)
			r.keep()
			before := r.calls(row.api)
			r.fail(wechatsim.Fault{API: row.api, Errcode: 45009})
			row.work(r)
			if s := r.state(componentKey, wxtoken.StateOperator); s.LastError == nil || s.LastError.Code != 45009 {
				t.Errorf("last error %+v", s.LastError)
			}
			if row.api != apiComponent {
				row.work(r) // once more: nobody asks in vain
			} else {
				r.clock.forward(time.Second)
				r.ticket()
				r.send(r.next(events.KindTicket)) // asks for a token at once, for the last renewal failed
			}
			r.until("nobody had to wait", func() bool {
				return r.log.count("message put off", "held back")+r.log.count("message put off", "waiting after") > 0
			})
			r.wantCalls(row.api, before+1)
			r.state(componentKey, wxtoken.StateOperator)
			r.state(aliceKey, wxtoken.StateActive)
		})
	}
}

func TestMinuteQuotaGone(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 45011, Times: 1})
	r.pokedInVain(aliceKey)
	r.clock.forward(50 * time.Second)
	r.pokedInVain(aliceKey)
	r.wantCalls(apiRefresh, 1)
	r.clock.forward(50 * time.Second)
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
}

// TestComponentTokenRefused has many accounts find out at once that the component's token is dead.
func TestComponentTokenRefused(t *testing.T) {
	r := newRig(t, options{})
	const accounts = 6
	var keys []wxtoken.Key
	for i := range accounts {
		r.authorize(fmt.Sprintf("wxmany%011d", i))
		keys = append(keys, wxtoken.AuthorizerKey(appid, fmt.Sprintf("wxmany%011d", i)))
	}
	r.clock.forward(2 * time.Minute) // past the cool-down
	r.must(r.sim.Invalidate(appid, ""))
	var poking sync.WaitGroup
	for _, key := range keys {
		poking.Go(func() { r.poke(key) })
	}
	poking.Wait()
	r.generation(componentKey, 2)
	r.clock.forward(10 * time.Second)
	for _, key := range keys {
		r.until("not renewed", func() bool { return r.token(key).Generation >= 2 })
	}
	r.wantCalls(apiComponent, 2)

	// Dead again at once: somebody else renews it, and to join in would make it worse.
	r.must(r.sim.Invalidate(appid, ""))
	r.pokedInVain(keys[0])
	r.until("nobody was told", func() bool { return r.log.count("does another keeper renew it?") > 0 })
	r.wantCalls(apiComponent, 2)
}

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

// TestReconcileFromNothing loses all data: WeChat's list of 600 accounts brings back everybody whose
// code was ever exchanged. It has no refresh token of the others, nor has their profile: each is asked about, and is told to authorize.
func TestReconcileFromNothing(t *testing.T) {
	r := newRig(t, options{idle: true, sim: wechatsim.Config{HideUnexchanged: true}, cfg: func(c *refresher.Config) {
		c.Concurrency, c.SweepEvery = 64, 5*time.Second // a busy machine's NATS may store a record and not the due message after it
	}})
	r.keep()
	const listed, each = 600, 4 // on two pages; every fourth was exchanged
	r.ticket()
	first := r.next(events.KindTicket)
	client := r.client()
	grant, err := client.ComponentToken(t.Context(), appid, appsecret, first.Ticket)
	r.must(err)
	for i := range listed {
		r.must(r.sim.Authorize(appid, fmt.Sprintf("wxmany%011d", i)))
	}
	exchanged := map[string]bool{}
	for i := range listed {
		if push := r.next(events.KindAuthorized); i%each == 0 {
			_, err := client.QueryAuth(t.Context(), grant.AccessToken, appid, push.Code)
			r.must(err)
			exchanged[push.Authorizer] = true
		}
	}
	r.sim.ClearHistory()
	p := r.start()
	r.send(first)
	r.listRead()
	r.drained()
	// Where the machine was too slow for a call or an ack, that is made again, and counted twice; and so is a list for those still without a refresh token.
	if r.log.count("message put off", "reconcile: ") == 0 && r.log.count("reconciled with WeChat") == 1 {
		r.wantCalls(apiList, 2)
	}
	if r.log.count("renewal delayed") == 0 && r.log.count("message put off", "commit ") == 0 {
		r.wantCalls(apiRefresh, listed/each)
	}
	for i := range listed {
		account := fmt.Sprintf("wxmany%011d", i)
		if !exchanged[account] { // a due message that was not stored is made by the next sweep
			r.eventually(func() error {
				asked, state := r.calls(apiInfo, account), r.status(wxtoken.AuthorizerKey(appid, account)).State
				if asked == 0 || state == "" {
					return fmt.Errorf("%s was asked about %d times and is %q", account, asked, state)
				}
				return nil
			})
		}
		key := wxtoken.AuthorizerKey(appid, account)
		if exchanged[account] {
			r.must(r.accepted(account))
			r.wantScheduled(key)
		} else if s := r.status(key); s.State != wxtoken.StateNeedsAuthorization || r.calls(apiInfo, account) != 1 {
			t.Fatalf("%s is %q, and was asked about %d times", account, s.State, r.calls(apiInfo, account))
		}
	}
	r.eventually(func() error { // the refresher hears of its own records a moment later
		unkept, needy := r.metric(p, "wxtoken_reconcile_unkept", appid), r.metric(p, "wxtoken_authorizers", appid, string(wxtoken.StateNeedsAuthorization))
		if unkept != listed-listed/each || needy != listed-listed/each {
			return fmt.Errorf("%v accounts are said to be listed and not kept, %v to be in need of an authorization", unkept, needy)
		}
		return nil
	})
}

// TestReconcileDeletesNothing gives lists that lack accounts, or none at all.
func TestReconcileDeletesNothing(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	token, cred := r.token(aliceKey), r.credential(aliceKey)
	for i, f := range []wechatsim.Fault{
		{Mode: wechatsim.FaultBody, Body: `{"total_count":0,"list":[]}`},
		{Mode: wechatsim.FaultBody, Body: `{"total_count":700,"list":[{"authorizer_appid":"` + alice + `","auth_time":1}]}`},
		{Mode: wechatsim.FaultHTML},
	} {
		f.API, f.Times = apiList, 1
		r.fail(f)
		before := r.calls(apiList)
		r.must(r.store.ScheduleReconcile(t.Context(), appid, 6*time.Hour, true))
		r.until("not asked", func() bool { return r.calls(apiList) > before })
		r.until("not reconciled", func() bool { return r.log.count("reconciled with WeChat") >= i+2 }) // a page that fails is asked for again
		if r.token(aliceKey) != token || r.credential(aliceKey).Revision != cred.Revision {
			t.Fatalf("list %d changed the account", i)
		}
	}
}

// TestReconcileBringsBackTheRevoked has WeChat's list contradict a cancellation.
func TestReconcileBringsBackTheRevoked(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61003, Times: 1})
	r.poke(aliceKey)
	r.state(aliceKey, wxtoken.StateRevoked)
	r.heard() // the list is compared with what the refresher knows
	r.must(r.store.ScheduleReconcile(t.Context(), appid, 6*time.Hour, true))
	r.generation(aliceKey, 2)
	r.state(aliceKey, wxtoken.StateActive)
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
