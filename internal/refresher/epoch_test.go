package refresher_test

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/wechatsim"
)

// TestConflict has an account that belongs to one ref authorize through the links of others.
func TestConflict(t *testing.T) {
	t.Parallel()
	for _, pushFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("push first %t", pushFirst), func(t *testing.T) {
			r := newRig(t, options{sim: wechatsim.Config{TwoCodes: true}, cfg: withLinks})
			authorize := func(q events.ConnectCreate, state, ref string) events.ConnectOpened {
				t.Helper()
				r.clock.forward(2 * time.Second)
				m := r.consents(alice, q)
				steps := []func(){m.comesBack, func() { m.send(m.push) }}
				if pushFirst {
					steps[0], steps[1] = steps[1], steps[0]
				}
				for _, step := range steps {
					step()
					m.ended(state)
				}
				r.drained()
				r.must(r.accepted(alice))
				if s := r.state(aliceKey, wxtoken.StateActive); s.Authorizer.Ref != ref || r.credential(aliceKey).Ref != ref {
					t.Errorf("after the link of %q the ref is %q in the status, %q in the credential, want %q", q.Ref, s.Authorizer.Ref, r.credential(aliceKey).Ref, ref)
				}
				if !r.sim.AcceptsRefresh(appid, alice, r.credential(aliceKey).RefreshToken) {
					t.Error("the refresh token is not the new one")
				}
				return m.result()
			}
			const done = "https://shop.example.com/done"
			authorize(events.ConnectCreate{Ref: "A", Return: done}, events.ConnectAuthorized, "A")
			if o := authorize(events.ConnectCreate{Ref: "B", Return: done}, events.ConnectConflict, "A"); o.ReturnTo != "" || o.Authorizer != alice {
				t.Errorf("the result of a conflict is %+v", o)
			}
			authorize(events.ConnectCreate{}, events.ConnectAuthorized, "A")
			authorize(events.ConnectCreate{Ref: "A"}, events.ConnectAuthorized, "A")
			if o := authorize(events.ConnectCreate{Ref: "B", Return: done, Move: true}, events.ConnectAuthorized, "B"); !strings.Contains(o.ReturnTo, "ref=B") {
				t.Errorf("return_to is %q", o.ReturnTo)
			}
			authorize(events.ConnectCreate{Ref: "A"}, events.ConnectConflict, "B")
			r.clock.forward(2 * time.Second)
			r.must(r.sim.Cancel(appid, alice))
			r.send(r.next(events.KindUnauthorized))
			r.state(aliceKey, wxtoken.StateRevoked)
			authorize(events.ConnectCreate{Ref: "C"}, events.ConnectAuthorized, "C")
			r.wantDead(0)
		})
	}
}

// TestReauthorizedWhileRenewing authorizes again while a renewal is under way, which reached WeChat before that or after.
func TestReauthorizedWhileRenewing(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("after it %t", late), func(t *testing.T) {
			var cfg wechatsim.Config
			if late {
				cfg.Latency = time.Second // half of it before the call is executed
			}
			r := newRig(t, options{sim: cfg, idle: true})
			asking := make(chan struct{}, 100)
			r.step = func(name string) {
				if name == "claimed" {
					asking <- struct{}{}
				}
			}
			r.start()
			r.start()
			r.ticket()
			r.eventually(r.componentLives)
			r.authorize(alice)
			r.clock.forward(2 * time.Second)
			if !late {
				r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultSlow, Delay: 1500 * time.Millisecond, Times: 1})
			}
			for len(asking) > 0 {
				<-asking
			}
			calls := r.calls(apiRefresh)
			r.poke(aliceKey)
			<-asking
			if !late {
				r.until("the renewal was not asked for", func() bool { return r.calls(apiRefresh) > calls })
			}
			began := time.Now()
			r.must(r.sim.Reauthorize(appid, alice))
			r.until("the code was not exchanged", func() bool { return r.calls(apiExchange) == 2 })
			r.until("not authorized", func() bool { return r.log.count("authorizer authorized", alice) == 2 })
			t.Logf("took effect after %v", time.Since(began))
			r.drained()
			r.must(r.accepted(alice))
			r.wantScheduled(aliceKey)
			r.state(aliceKey, wxtoken.StateActive)
			if c := r.credential(aliceKey); !r.sim.AcceptsRefresh(appid, alice, c.RefreshToken) || c.Claim != nil {
				t.Error("the refresh token is not the new one, or the credential is still claimed")
			}
			if truth := r.sim.Truth(appid, alice); truth.Token != wechatsim.Fingerprint(r.token(aliceKey).Value.Reveal()) {
				t.Error("the token is not the newest that WeChat gave out")
			}
			r.wantDead(0)
		})
	}
}

// TestCancelledWhileRenewing cancels while a renewal is with WeChat for long: the token goes before the answer comes.
func TestCancelledWhileRenewing(t *testing.T) {
	r := newRig(t, options{})
	r.start()
	r.authorize(alice)
	r.clock.forward(2 * time.Second)
	r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultSlow, Delay: 4 * time.Second, Times: 1})
	r.poke(aliceKey)
	r.until("the renewal was not asked for", func() bool { return r.calls(apiRefresh) == 1 })
	began := time.Now()
	r.must(r.sim.Cancel(appid, alice))
	r.until("the token is still there", func() bool { return r.token(aliceKey).Value.IsZero() })
	t.Logf("took effect after %v", time.Since(began))
	if r.credential(aliceKey).RevokedAt.IsZero() {
		t.Error("the token is gone, and the authorization is not")
	}
	if _, ok := r.scheduled(aliceKey); ok {
		t.Error("the schedule is still there")
	}
	r.state(aliceKey, wxtoken.StateRevoked)
	r.drained()
	if _, ok := r.scheduled(aliceKey); ok || !r.token(aliceKey).Value.IsZero() {
		t.Error("the late answer brought back the token, or the schedule")
	}
	r.state(aliceKey, wxtoken.StateRevoked)
	r.wantCalls(apiRefresh, 1)
}

// TestCancellationOlderThanARedirect has the news of a cancellation come after the redirect of the next authorization, which
// does not say when that was.
func TestCancellationOlderThanARedirect(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	r.authorize(alice)
	r.keep()
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Cancel(appid, alice))
	cancelled := r.next(events.KindUnauthorized)
	r.clock.forward(2 * time.Second)
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	m.comesBack()
	m.wantAuthorized(alice, "7")
	r.send(cancelled)
	r.drained()
	m.wantAuthorized(alice, "7")
	m.send(m.push)
	r.drained()
	m.wantAuthorized(alice, "7")
	r.wantCalls(apiExchange, 2)
}

// TestCancellationOfAStranger cancels an account that nobody has heard of, while its first code is being exchanged, or before.
func TestCancellationOfAStranger(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	r.fail(wechatsim.Fault{API: apiExchange, Mode: wechatsim.FaultSlow, Delay: time.Second, Times: 1})
	m.comesBack()
	r.until("the code was not sent", func() bool { return r.calls(apiExchange) == 1 })
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Cancel(appid, alice))
	r.send(r.next(events.KindUnauthorized))
	r.until("not cancelled", func() bool { return r.log.count("authorization cancelled", alice) > 0 })
	r.until("not exchanged", func() bool { return r.log.count("authorizer authorized", alice) == 1 })
	r.until("the dead token is still served", func() bool { return r.token(aliceKey).Value.IsZero() })
	r.state(aliceKey, wxtoken.StateRevoked)
	r.drained()
	m.send(m.push) // late
	r.drained()
	if o := m.result(); o.State != events.ConnectAuthorized {
		t.Errorf("a link that was used ended as %+v", o)
	}
	r.state(aliceKey, wxtoken.StateRevoked)
	if _, ok := r.scheduled(aliceKey); ok {
		t.Error("the schedule is still there")
	}

	before := r.consents(bob, events.ConnectCreate{Ref: "8"})
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Cancel(appid, bob))
	r.send(r.next(events.KindUnauthorized))
	r.state(wxtoken.AuthorizerKey(appid, bob), wxtoken.StateRevoked)
	exchanges := r.calls(apiExchange)
	before.send(before.push)
	if o := before.ended(events.ConnectFailed); o.Reason != "revoked" {
		t.Errorf("the link ended as %+v", o)
	}
	r.wantCalls(apiExchange, exchanges)
	r.wantDead(0)
}

// TestRefOfAListedAccount has WeChat's list tell of an account before its push does, and date it later.
func TestRefOfAListedAccount(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	_, refused := request[any](r, events.SubjectReconcile, events.ReconcileRequest{Component: appid})
	if refused.code != "" {
		t.Fatal(refused)
	}
	r.generation(aliceKey, 1)
	r.drained()
	m.push.CreateTime = m.push.CreateTime.Add(-time.Second)
	m.send(m.push)
	m.wantAuthorized(alice, "7")
	if at := r.credential(aliceKey).AuthorizedAt; at.Before(m.push.CreateTime) {
		t.Errorf("authorized_at went back to %v", at)
	}
}

// TestRefOfALostCredential loses the credential of an account: the ref is not for the next who asks.
func TestRefOfALostCredential(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	m.send(m.push)
	m.wantAuthorized(alice, "7")
	lose := func() {
		t.Helper()
		_, err := r.js.Publish(t.Context(), events.CredentialSubject(aliceKey), []byte("garbage"))
		r.must(err)
	}
	lose()
	r.heard()
	_, refused := request[any](r, events.SubjectReconcile, events.ReconcileRequest{Component: appid})
	if refused.code != "" {
		t.Fatal(refused)
	}
	r.generation(aliceKey, 2)
	r.drained()
	if s := r.status(aliceKey); s.Authorizer.Ref != "7" || r.credential(aliceKey).Ref != "7" {
		t.Errorf("after a reconcile the ref is %q, in the credential %q", s.Authorizer.Ref, r.credential(aliceKey).Ref)
	}
	lose()
	r.clock.forward(2 * time.Second)
	other := r.consents(alice, events.ConnectCreate{Ref: "8"})
	other.comesBack()
	other.ended(events.ConnectConflict)
	if s := r.status(aliceKey); s.Authorizer.Ref != "7" {
		t.Errorf("the ref is %q", s.Authorizer.Ref)
	}
	r.must(r.accepted(alice))
}

// TestRefOvertaken has the list bring an account, and its link's redirect tell the ref before the list's news of it is told.
func TestRefOvertaken(t *testing.T) {
	r := newRig(t, options{idle: true, cfg: withLinks})
	listed, told := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.step = func(name string) {
		if name == "listed" {
			once.Do(func() { close(listed); <-told })
		}
	}
	r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.reconciled()
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	if _, refused := request[any](r, events.SubjectReconcile, events.ReconcileRequest{Component: appid}); refused.code != "" {
		t.Fatal(refused)
	}
	<-listed
	m.send(m.push)
	m.ended(events.ConnectAuthorized)
	r.until("the ref is not told", func() bool { a := r.status(aliceKey).Authorizer; return a != nil && a.Ref == "7" })
	close(told)
	r.drained()
	m.wantAuthorized(alice, "7")
}

// TestLinkFails has codes come to nothing: no link stays in between for ever.
func TestLinkFails(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		fault  wechatsim.Fault
		push   bool
		reason string
		dead   uint64
	}{
		{"the redirect's code was used", wechatsim.Fault{Errcode: 61009}, false, "code_spent", 0},
		{"the redirect's code expired", wechatsim.Fault{Errcode: 61010}, false, "code_spent", 0},
		{"revoked by the time of the redirect", wechatsim.Fault{Errcode: 61003}, false, "revoked", 0},
		{"revoked by the time of the push", wechatsim.Fault{Errcode: 61003}, true, "revoked", 0},
		{"another account", wechatsim.Fault{Mode: wechatsim.FaultBody, Body: `{"authorization_info":{"authorizer_appid":"` + bob +
			`","authorizer_access_token":"SEKRETx","expires_in":7200,"authorizer_refresh_token":"SEKRETy"}}`}, true, "another_account", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, options{cfg: withLinks})
			m := r.consents(alice, events.ConnectCreate{Ref: "7"})
			row.fault.API = apiExchange
			r.fail(row.fault)
			if row.push {
				m.send(m.push)
			} else {
				m.comesBack()
				r.until("the code was not sent", func() bool { return r.calls(apiExchange) == 1 })
				r.until("the code is spent, and nobody says so", func() bool {
					c, _, err := r.store.Connect(t.Context(), m.id)
					return err == nil && (!c.SpentAt.IsZero() || c.State == events.ConnectFailed)
				})
				r.clock.forward(time.Minute)
			}
			if o := m.ended(events.ConnectFailed); o.Reason != row.reason || o.ReturnTo != "" {
				t.Errorf("the link ended as %+v", o)
			}
			r.wantCalls(apiExchange, 1)
			r.drained()
			r.wantDead(row.dead)
			r.wantOpenRefused(events.ConnectOpen{ID: m.id}, "410")
		})
	}
}

// TestReleaseCheck answers the check before a release on the whole network: the code that a user wrote comes back from the account.
func TestReleaseCheck(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name      string
		before    func(r *rig, push events.Auth)
		after     func(r *rig, push events.Auth)
		exchanges int
	}{
		{name: "before the push", exchanges: 1},
		{name: "after the push", exchanges: 1, before: func(r *rig, push events.Auth) {
			r.send(push)
			r.eventually(func() error { return r.accepted(alice) })
		}},
		{name: "the code was spent, the push comes", exchanges: 0,
			before: func(r *rig, _ events.Auth) {
				r.drained()
				r.fail(wechatsim.Fault{API: apiExchange, Errcode: 61009, Times: 1})
				r.fail(wechatsim.Fault{API: apiList, Mode: wechatsim.FaultBusy}) // nor does the list tell of the account
			},
			after: func(r *rig, push events.Auth) {
				r.until("the code was not sent", func() bool { return r.calls(apiExchange) > 0 })
				r.send(push)
				r.eventually(func() error { return r.accepted(alice) })
				r.sim.Heal()
			}},
		{name: "the token is refused", exchanges: 1, before: func(r *rig, push events.Auth) {
			r.send(push)
			r.eventually(func() error { return r.accepted(alice) })
			r.drained()
			r.clock.forward(2 * time.Minute)
			r.must(r.sim.Invalidate(appid, alice))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, options{})
			r.keep()
			r.must(r.sim.Authorize(appid, alice))
			push := r.next(events.KindAuthorized)
			if row.before != nil {
				row.before(r, push)
			}
			now := r.clock.Now().UTC()
			check := events.Auth{
				Kind: events.KindReleaseCheck, Component: appid, Authorizer: alice, CreateTime: now, ReceivedAt: now,
				Code: push.Code, OpenID: "oUser",
			}
			r.send(check)
			if row.after != nil {
				row.after(r, push)
			}
			text := push.Code + "_from_api"
			sent := func() (n int) {
				for _, e := range r.sim.History() {
					if e.API == "message/custom/send" && e.Kind == wechatsim.EntryCall && e.Errcode == 0 {
						n++
						if e.Authorizer != alice || e.Text != text && e.Text != "sha256:"+wechatsim.Fingerprint(text) {
							t.Errorf("the message is %+v", e)
						}
					}
				}
				return n
			}
			r.until("no message", func() bool { return sent() > 0 })
			r.drained()
			if n := sent(); n != 1 {
				t.Errorf("%d messages, want one", n)
			}
			if row.exchanges > 0 {
				r.wantCalls(apiExchange, row.exchanges)
			}
			r.must(r.accepted(alice))
			r.wantDead(0)
		})
	}
}

// TestLinkOfTwoAccounts has two people authorize through one link, each with a pre-auth code of his own.
func TestLinkOfTwoAccounts(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	m := r.consents(alice, events.ConnectCreate{Ref: "7", ExpiresIn: 7200})
	r.clock.forward(6 * time.Minute)
	page := r.open(events.ConnectOpen{ID: m.id})
	m.comesBack()
	m.send(m.push)
	m.wantAuthorized(alice, "7")
	link, err := url.Parse(page.PCLink)
	r.must(err)
	_, err = r.sim.Consent(appid, bob, link.Query().Get("pre_auth_code"), link.Query().Get("redirect_uri"))
	r.must(err)
	r.send(r.next(events.KindAuthorized))
	r.eventually(func() error { return r.accepted(bob) })
	r.drained()
	if c := r.credential(bobKey); c.Ref != "" {
		t.Errorf("the second account has the ref %q as well", c.Ref)
	}
	m.wantAuthorized(alice, "7")
}

// TestLinkOfAnotherAccount brings the code of one account to a link that is limited to another, and its push.
func TestLinkOfAnotherAccount(t *testing.T) {
	t.Parallel()
	for _, pushed := range []bool{false, true} {
		t.Run(fmt.Sprintf("push %t", pushed), func(t *testing.T) {
			r := newRig(t, options{cfg: withLinks})
			m := r.consents(bob, events.ConnectCreate{Ref: "7"})
			if pushed {
				r.must(r.store.UpdateConnect(t.Context(), m.id, r.clock.Now(), func(c *store.Connect) bool {
					c.BizAppID = alice
					return true
				}))
				m.send(m.push)
			} else {
				m.id = r.link(events.ConnectCreate{Ref: "7", BizAppID: alice}).ID
				m.session = r.open(events.ConnectOpen{ID: m.id}).Session
				m.redirect.Connect = m.id
				m.comesBack()
			}
			if o := m.ended(events.ConnectFailed); o.Reason != "another_account" || o.Authorizer != "" {
				t.Errorf("the link ended as %+v", o)
			}
			r.eventually(func() error { return r.accepted(bob) })
			r.drained()
			if ref := r.credential(bobKey).Ref; ref != "" {
				t.Errorf("the account has the ref %q, by a link for another alone", ref)
			}
			r.state(bobKey, wxtoken.StateActive)
			r.wantDead(0)
		})
	}
}

// TestOlderAuthorizationByLink has the push of an authorization come after that of the next.
func TestOlderAuthorizationByLink(t *testing.T) {
	r := newRig(t, options{sim: wechatsim.Config{TwoCodes: true}, cfg: withLinks})
	older := r.consents(alice, events.ConnectCreate{Ref: "7"})
	r.clock.forward(time.Minute)
	newer := r.consents(alice, events.ConnectCreate{Ref: "8"})
	newer.send(newer.push)
	newer.wantAuthorized(alice, "8")
	generation := r.credential(aliceKey).Generation
	older.send(older.push)
	older.ended(events.ConnectFailed)
	newer.wantAuthorized(alice, "8")
	if g := r.credential(aliceKey).Generation; g != generation {
		t.Errorf("generation %d is now %d", generation, g)
	}
	r.wantCalls(apiExchange, 1)
}

// TestAnswerAndPushLost loses the answer to a redirect's code, and the push: of a link that is limited to one account the ref is
// not lost.
func TestAnswerAndPushLost(t *testing.T) {
	t.Parallel()
	for _, listed := range []bool{false, true} {
		t.Run(fmt.Sprintf("listed %t", listed), func(t *testing.T) {
			r := newRig(t, options{cfg: withLinks})
			r.authorize(alice)
			r.clock.forward(10 * time.Minute)
			m := r.consents(alice, events.ConnectCreate{Ref: "7", BizAppID: alice})
			if !listed {
				r.fail(wechatsim.Fault{API: apiList, Mode: wechatsim.FaultBody, Body: `{"total_count":0,"list":[]}`})
			}
			r.fail(wechatsim.Fault{API: apiExchange, Mode: wechatsim.FaultLost, Times: 1})
			m.comesBack()
			r.until("nobody waits for the push", func() bool { return r.log.count("waiting for the push", "message put off") >= 1 })
			if listed {
				r.until("not listed", func() bool { return r.credential(aliceKey).AuthorizedAt.After(m.push.CreateTime.Add(-time.Minute)) })
			}
			r.clock.forward(time.Minute)
			m.wantAuthorized(alice, "7")
		})
	}
}

// TestNonsenseTakesNoAccount comes back with a code that is none to a link that is limited to an account that was authorized long ago.
func TestNonsenseTakesNoAccount(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	r.authorize(alice)
	r.clock.forward(10 * time.Minute)
	m := &merchant{rig: r, id: r.link(events.ConnectCreate{Ref: "7", BizAppID: alice}).ID}
	m.session = r.open(events.ConnectOpen{ID: m.id}).Session
	now := r.clock.Now().UTC()
	m.redirect = events.Auth{Kind: events.KindCallback, Component: appid, CreateTime: now, ReceivedAt: now, Code: "queryauthcode@@@nonsense", Connect: m.id}
	m.comesBack()
	r.until("nobody waits for the push", func() bool { return r.log.count("waiting for the push", "message put off") >= 1 })
	r.clock.forward(time.Minute)
	m.ended(events.ConnectFailed)
	r.drained()
	if ref := r.credential(aliceKey).Ref; ref != "" {
		t.Errorf("the account has the ref %q", ref)
	}
}
