package refresher_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

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
