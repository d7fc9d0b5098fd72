package refresher_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/internal/store"
	"wxtoken/wechatsim"
)

// heldFor waits until status and metric say that the component is held back for that reason, and returns the condition.
func (r *rig) heldFor(p process, reason wxtoken.Reason) (c wxtoken.Condition) {
	r.Helper()
	r.eventually(func() error {
		c, _ = r.status(componentKey).Held()
		if c.Reason != reason || r.metric(p, "wxtoken_held_back", appid, reason) != 1 {
			return fmt.Errorf("held back for %q (metric %v), want %q", c.Reason, r.metric(p, "wxtoken_held_back", appid, reason), reason)
		}
		return nil
	})
	return c
}

// free waits until status and metric say that nothing holds the component back, and that it is active.
func (r *rig) free(p process) {
	r.Helper()
	r.eventually(func() error {
		c, held := r.status(componentKey).Held()
		if held || r.metric(p, "wxtoken_held_back", appid) != 0 {
			return fmt.Errorf("still held back: %+v, metric %v", c, r.metric(p, "wxtoken_held_back", appid))
		}
		return nil
	})
	r.state(componentKey, wxtoken.StateActive)
}

// refusal asks and returns status and text of the refusal.
func (r *rig) refusal(subject, question string) (code, text string) {
	r.Helper()
	m, err := r.request(subject, []byte(question))
	r.must(err)
	return m.Header.Get(micro.ErrorCodeHeader), m.Header.Get(micro.ErrorHeader)
}

// TestQuotaGoneIsSeen has the day's quota gone until all tokens are dead: whatever happens to the component's own token, its status says
// so, with until when, and requests are refused that can't be done. Once it was cleared all tokens are back within seconds.
func TestQuotaGoneIsSeen(t *testing.T) {
	const many = 20
	r := newRig(t, options{idle: true, evening: true, sim: wechatsim.Config{TokenLife: 30 * time.Minute}, cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	at := [2]process{r.start(), r.start()}
	r.ticket()
	r.eventually(r.componentLives)
	keys := r.crowd(appid, many)
	r.must(r.sim.SetDailyLimit(apiRefresh, 0))
	for _, key := range keys {
		r.pokeOnce(key)
	}
	turns := r.clock.Now().UTC().Truncate(24 * time.Hour).Add(16 * time.Hour)
	told := func() {
		t.Helper()
		for _, p := range at {
			if c := r.heldFor(p, wxtoken.HeldQuota); c.Until == nil || !c.Until.Equal(turns) || !strings.Contains(c.Message, apiRefresh) {
				t.Errorf("told %+v, want until %v", c, turns)
			}
		}
		if s := r.state(componentKey, wxtoken.StateOperator); s.LastError == nil || s.LastError.Code != 45009 {
			t.Errorf("last error %+v", s.LastError)
		}
	}
	told()
	since := r.heldFor(at[0], wxtoken.HeldQuota).Since
	r.heard() // the one that met it holds back by itself for some seconds

	r.fail(wechatsim.Fault{API: apiComponent, Errcode: -1, Times: 1})
	r.poke(componentKey)
	r.until("the component is not renewed", func() bool { return r.token(componentKey).Generation >= 2 })
	r.drainedOf(componentKey)
	told()
	r.clock.forward(31 * time.Minute)
	r.ticket()
	r.until("the component is not renewed", func() bool { return r.clock.Now().Before(r.token(componentKey).ExpiresAt) })
	told()
	for _, key := range keys {
		r.until("a dead token is called active", func() bool { return r.status(key).State == wxtoken.StateRenewingFailed })
	}
	for _, p := range at {
		r.until("a dead token is counted as active", func() bool {
			return r.metric(p, "wxtoken_authorizers", appid, string(wxtoken.StateActive)) == 0 && r.metric(p, "wxtoken_authorizers_token_invalid", appid) == many
		})
	}
	if c := r.heldFor(at[0], wxtoken.HeldQuota); !c.Since.Equal(since) {
		t.Errorf("since %v, and it began at %v", c.Since, since)
	}
	if code, text := r.refusal(events.SubjectRenew, `{"key":"`+keys[0].String()+`"}`); code != "503" || !strings.Contains(text, turns.Format(time.RFC3339)) || !strings.Contains(text, "renewed by itself then") {
		t.Errorf("renew: %s %q, want 503 with %v", code, text, turns)
	}
	if code, text := r.refusal(events.SubjectReject, fmt.Sprintf(`{"key":%q,"revision":%d}`, keys[0], r.token(keys[0]).Revision)); code != "503" || !strings.Contains(text, turns.Format(time.RFC3339)) {
		t.Errorf("reject: %s %q, want 503 with %v", code, text, turns)
	}

	var opened events.ConnectOpened // what ingest's --check asks
	if code := r.asks(events.SubjectConnectOpen, `{"step":"held"}`, &opened); code != "" || opened.Held[appid].Reason != wxtoken.HeldQuota || !opened.Held[appid].Since.Equal(since) {
		t.Errorf("ingest is told %q %+v, want since %v", code, opened, since)
	}

	r.must(r.sim.SetDailyLimit(apiRefresh, -1))
	cleared := time.Now()
	if code := r.asks(events.SubjectQuota, `{"component":"`+appid+`","clear":true,"confirm":"`+appid+`"}`, nil); code != "" {
		t.Fatalf("not cleared: %s", code)
	}
	for _, key := range keys {
		r.until("not renewed", func() bool { return r.clock.Now().Before(r.token(key).ExpiresAt) })
	}
	t.Logf("all are back after %v", time.Since(cleared).Round(time.Millisecond))
	for _, p := range at {
		r.free(p)
	}
}

// drainedOf waits until no due message of key is left.
func (r *rig) drainedOf(key wxtoken.Key) {
	r.Helper()
	r.until("not handled", func() bool { return r.handled(key) > 0 })
}

// TestHeldBackIsSeen has each cause that keeps tokens from being renewed come, last and go.
func TestHeldBackIsSeen(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		reason wxtoken.Reason
		state  wxtoken.State
		comes  func(r *rig)
		lasts  func(r *rig) // what happens meanwhile
		goes   func(r *rig)
	}{
		{
			reason: wxtoken.HeldMinuteLimit, state: wxtoken.StateActive,
			comes: func(r *rig) { r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 45011}); r.pokeOnce(aliceKey) },
			lasts: func(r *rig) { r.poke(componentKey); r.generation2(componentKey) },
			goes:  func(r *rig) { r.sim.Heal(); r.clock.forward(2 * time.Minute); r.poke(aliceKey) },
		},
		{
			reason: wxtoken.HeldRefused, state: wxtoken.StateOperator, // the IP is not on the whitelist
			comes: func(r *rig) { r.fail(wechatsim.Fault{Errcode: 61004}); r.pokeOnce(aliceKey) },
			goes:  func(r *rig) { r.sim.Heal(); r.clock.forward(2 * time.Minute); r.poke(aliceKey) },
		},
		{
			reason: wxtoken.HeldRefused, state: wxtoken.StateOperator, // the secret is wrong
			comes: func(r *rig) { r.must(r.sim.SetSecret(appid, "SEKRET-other")); r.pokeOnce(componentKey) },
			lasts: func(r *rig) { r.clock.forward(time.Minute); r.poke(aliceKey); r.generation(aliceKey, 2) },
			goes:  func(r *rig) { r.must(r.sim.SetSecret(appid, appsecret)); r.poke(componentKey) },
		},
		{
			reason: wxtoken.HeldAway, state: wxtoken.StateRenewingFailed,
			comes: func(r *rig) {
				keys := append(r.crowd(appid, 8), aliceKey)
				r.sim.SetDown(true)
				for _, key := range keys {
					r.pokeOnce(key)
				}
			},
			lasts: func(r *rig) { r.clock.forward(time.Minute); r.pokeOnce(aliceKey) },
			goes:  func(r *rig) { r.sim.Heal(); r.clock.forward(time.Minute); r.poke(aliceKey) },
		},
		{
			reason: wxtoken.HeldNoTicket, state: wxtoken.StateWaitingForTicket,
			comes: func(r *rig) { r.keep(); r.clock.forward(13 * time.Hour); r.pokeOnce(componentKey) },
			goes:  func(r *rig) { r.ticket(); r.send(r.next(events.KindTicket)) },
		},
		{
			reason: wxtoken.HeldEmptyAnswers, state: wxtoken.StateOperator,
			comes: func(r *rig) {
				r.fail(wechatsim.Fault{API: apiComponent, Mode: wechatsim.FaultBody})
				for range 5 {
					r.pokeOnce(componentKey)
					r.clock.forward(time.Minute)
				}
			},
			lasts: func(r *rig) {
				r.poke(aliceKey)
				r.generation(aliceKey, 2)
				s := r.status(componentKey)
				if c, _ := s.Held(); !strings.Contains(c.Message, "appid and AppSecret") || s.LastError == nil || !strings.Contains(s.LastError.Message, "empty body") {
					r.Errorf("told %+v, %+v", c, s.LastError)
				}
			},
			goes: func(r *rig) { r.sim.Heal(); r.clock.forward(time.Minute); r.poke(componentKey) },
		},
		{
			reason: wxtoken.HeldTokenDead, state: wxtoken.StateRenewingFailed,
			comes: func(r *rig) {
				r.fail(wechatsim.Fault{API: apiComponent, Errcode: -1})
				r.clock.forward(121 * time.Minute)
			},
			goes: func(r *rig) { r.sim.Heal(); r.clock.forward(time.Minute); r.poke(componentKey) },
		},
		{
			reason: wxtoken.HeldTokenRefused, state: wxtoken.StateRenewingFailed, // twice: another keeper renews it
			comes: func(r *rig) {
				r.must(r.sim.Invalidate(appid, ""))
				r.pokeOnce(aliceKey)
				r.generation2(componentKey)
				r.must(r.sim.Invalidate(appid, ""))
				r.clock.forward(10 * time.Second)
				r.until("no second refusal", func() bool { r.pokeOnce(aliceKey); return r.log.count("does another keeper renew it?") > 0 })
			},
			lasts: func(r *rig) {
				r.until("another keeper is not named", func() bool { // the first refusal alone was held back for it too
					c, _ := r.status(componentKey).Held()
					return strings.Contains(c.Message, "another keeper")
				})
			},
			goes: func(r *rig) {
				r.clock.forward(2 * time.Minute)
				r.until("not renewed", func() bool { return r.token(componentKey).Generation >= 3 })
				r.clock.forward(13 * time.Minute) // it has outlived a tenth of its life
			},
		},
	} {
		t.Run(string(row.reason), func(t *testing.T) {
			r := newRig(t, options{idle: true, cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
			p := r.start()
			r.ticket()
			r.eventually(r.componentLives)
			r.authorize(alice)
			r.free(p)
			row.comes(r)
			r.heldFor(p, row.reason)
			r.state(componentKey, row.state)
			if row.lasts != nil {
				row.lasts(r)
			}
			r.heldFor(p, row.reason)
			r.state(componentKey, row.state)
			row.goes(r)
			r.free(p)
		})
	}
}

// TestHoldThatOutlivesItsProcess has another refresher whose clock is ahead say why it could not call, and end: that counts for some
// minutes, and then the component's state is again that of its token.
func TestHoldThatOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	for reason, state := range map[wxtoken.Reason]wxtoken.State{
		wxtoken.HeldNoTicket: wxtoken.StateWaitingForTicket, wxtoken.HeldRefused: wxtoken.StateOperator, wxtoken.HeldAway: wxtoken.StateRenewingFailed,
	} {
		t.Run(string(reason), func(t *testing.T) {
			r := newRig(t, options{cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
			r.must(r.store.UpdateQuota(t.Context(), appid, func(q *store.Quota) bool {
				q.Held = map[string]store.Hold{"gone/" + string(reason) + "/" + apiComponent: {Reason: reason, API: apiComponent, Message: "seen elsewhere", SeenAt: r.clock.Now().Add(2 * time.Second)}}
				return true
			}))
			r.state(componentKey, state)
			r.clock.forward(4 * time.Minute)
			r.state(componentKey, wxtoken.StateActive)
		})
	}
}

// generation2 waits until the second token of the component is there.
func (r *rig) generation2(key wxtoken.Key) {
	r.Helper()
	r.until("not renewed", func() bool { return r.token(key).Generation >= 2 })
}

// TestReconcileRefused asks for the list while its quota is gone.
func TestReconcileRefused(t *testing.T) {
	r := newRig(t, options{idle: true, evening: true})
	r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.listRead()
	r.fail(wechatsim.Fault{API: apiList, Errcode: 45009})
	question := `{"component":"` + appid + `"}`
	if code := r.asks(events.SubjectReconcile, question, nil); code != "" {
		t.Fatalf("refused with %s", code)
	}
	r.until("the list was not asked", func() bool { return r.calls(apiList) == 2 })
	r.eventually(func() error {
		if code, text := r.refusal(events.SubjectReconcile, question); code != "503" || !strings.Contains(text, "T16:00:00Z") || !strings.Contains(text, "quota") {
			return fmt.Errorf("%q %q, want 503 with until when", code, text)
		}
		return nil
	})
	r.wantCalls(apiList, 2)
}

// TestDeadComponentTokenIsNotUsed has WeChat refuse the component's token a moment after it was issued, with many accounts due: what is
// under way is refused, and then all wait for one renewal. Refused again and again it is renewed later and later.
func TestDeadComponentTokenIsNotUsed(t *testing.T) {
	const many, atOnce = 50, 4
	r := newRig(t, options{cfg: func(c *refresher.Config) { c.Concurrency, c.SweepEvery = atOnce, time.Second }})
	keys := r.crowd(appid, many)
	before := len(r.sim.History())
	refused := func() (n int) {
		for _, e := range r.sim.History()[before:] {
			if e.Kind == wechatsim.EntryCall && e.Errcode == 40001 {
				n++
			}
		}
		return n
	}
	r.must(r.sim.Invalidate(appid, ""))
	for _, key := range keys {
		r.poke(key)
	}
	for _, key := range keys {
		r.until("not renewed", func() bool { return r.token(key).Generation >= 2 })
	}
	if n := refused(); n > atOnce {
		t.Errorf("%d calls with a token that WeChat had refused", n-1)
	}
	r.wantCalls(apiComponent, 2)

	// Another keeper ends each new token at once.
	for round, want := range []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, time.Hour} {
		generation := r.token(componentKey).Generation
		r.must(r.sim.Invalidate(appid, ""))
		r.until("not refused", func() bool {
			r.poke(keys[0])
			time.Sleep(50 * time.Millisecond)
			return r.log.count("new token refused: does another keeper renew it?") == round+1
		})
		cred := r.credential(componentKey)
		if wait := cred.RetryAt.Sub(cred.Refused.At); wait != want {
			t.Errorf("refused early for the %dth time: it is renewed after %v, want %v", round+2, wait, want)
		}
		r.clock.forward(cred.RetryAt.Sub(r.clock.Now()) + 2*time.Second)
		r.until("not renewed", func() bool { return r.token(componentKey).Generation > generation })
	}
	if n := refused(); n > 7*atOnce {
		t.Errorf("%d refused calls", n)
	}
}

// TestRefreshTokenMissing gives answers without a refresh token: each source is asked, and the merchant only when none has it.
func TestRefreshTokenMissing(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]wechatsim.FaultMode{"empty": wechatsim.FaultEmptyRefresh, "none": wechatsim.FaultNoRefresh} {
		t.Run(name+" in the answer", func(t *testing.T) {
			r := newRig(t, options{cfg: linking})
			r.fail(wechatsim.Fault{API: apiExchange, Mode: mode})
			r.authorize(alice)
			r.state(aliceKey, wxtoken.StateActive)
			r.poke(aliceKey)
			r.generation(aliceKey, 2)
		})
		t.Run(name+" in answer and profile", func(t *testing.T) {
			r := newRig(t, options{cfg: linking})
			r.fail(wechatsim.Fault{API: apiExchange, Mode: mode})
			r.fail(wechatsim.Fault{API: apiInfo, Mode: mode})
			r.must(r.sim.Authorize(appid, alice))
			r.until("the list does not bring it", func() bool { return r.credential(aliceKey).RefreshToken != "" })
			r.state(aliceKey, wxtoken.StateActive)
			r.eventually(func() error { return r.accepted(alice) })
		})
		t.Run(name+" anywhere", func(t *testing.T) {
			r := newRig(t, options{cfg: linking})
			for _, api := range []string{apiExchange, apiInfo, apiList} {
				r.fail(wechatsim.Fault{API: api, Mode: mode})
			}
			r.must(r.sim.Authorize(appid, alice))
			s := r.state(aliceKey, wxtoken.StateNeedsAuthorization)
			if s.ReauthorizeURL == "" || r.clock.Now().After(r.token(aliceKey).ExpiresAt) || r.calls(apiList) < 2 || r.calls(apiInfo) < 2 {
				t.Errorf("%d calls for the list, %d for the profile, status %+v", r.calls(apiList), r.calls(apiInfo), s)
			}
			r.drained()
			r.state(aliceKey, wxtoken.StateNeedsAuthorization)
			// The list has it later: nobody need authorize again.
			r.sim.Heal()
			r.must(r.store.ScheduleReconcile(t.Context(), appid, 6*time.Hour, true))
			r.generation(aliceKey, 2)
			if s := r.state(aliceKey, wxtoken.StateActive); s.ReauthorizeURL != "" {
				t.Errorf("still a link: %+v", s)
			}
		})
	}
}

// TestOddRefreshToken has WeChat renew with a refresh token that is none, after which only the new access token is good; and tell a
// refresh token without a profile.
func TestOddRefreshToken(t *testing.T) {
	r := newRig(t, options{cfg: linking})
	r.fail(wechatsim.Fault{API: apiExchange, Mode: wechatsim.FaultEmptyRefresh})
	r.fail(wechatsim.Fault{API: apiInfo, Mode: wechatsim.FaultBody, Times: 1,
		Body: `{"authorizer_info":[],"authorization_info":{"authorizer_appid":"` + alice + `","authorizer_refresh_token":" refreshtoken@@@SEKRET-told"}}`})
	r.authorize(alice)
	r.until("the refresh token beside no profile is not taken", func() bool { return r.credential(aliceKey).RefreshToken == "refreshtoken@@@SEKRET-told" })
	r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultBody, Times: 1,
		Body: `{"authorizer_access_token":"80_SEKRET-odd","expires_in":7200,"authorizer_refresh_token":false}`})
	r.poke(aliceKey)
	r.until("not renewed", func() bool { return r.token(aliceKey).Generation >= 2 })
	r.state(aliceKey, wxtoken.StateActive)
	if value, kept := r.token(aliceKey).Value.Reveal(), r.credential(aliceKey).RefreshToken; value != "80_SEKRET-odd" || kept != "refreshtoken@@@SEKRET-told" {
		t.Errorf("token %q, refresh token %q", value, kept)
	}
}

// linking has links made.
func linking(c *refresher.Config) { c.PublicURL, c.SweepEvery = "https://wx.example.com", time.Second }

// TestListedWithoutRefreshToken lists accounts that nothing is known of and that have no refresh token in the list: each is asked about,
// and where the profile has none either its status says what to do, and it is counted.
func TestListedWithoutRefreshToken(t *testing.T) {
	r := newRig(t, options{idle: true, cfg: linking})
	r.keep()
	r.ticket()
	r.must(r.sim.Authorize(appid, alice))
	r.must(r.sim.Authorize(appid, bob))
	first := r.next(events.KindTicket)
	r.fail(wechatsim.Fault{API: apiList, Mode: wechatsim.FaultNoRefresh})
	r.fail(wechatsim.Fault{API: apiInfo, Authorizer: bob, Mode: wechatsim.FaultNoRefresh})
	p := r.start()
	r.send(first)
	r.eventually(func() error { return r.accepted(alice) }) // its profile has it
	r.state(aliceKey, wxtoken.StateActive)
	if s := r.state(bobKey, wxtoken.StateNeedsAuthorization); s.ReauthorizeURL == "" {
		t.Errorf("no link: %+v", s)
	}
	r.wantCalls(apiInfo, 1, bob)
	r.must(r.store.UpdateStatus(t.Context(), bobKey, func(s *wxtoken.Status) { *s = wxtoken.Status{Key: s.Key} })) // as if NATS had not stored it
	r.poke(bobKey)
	if s := r.state(bobKey, wxtoken.StateNeedsAuthorization); s.ReauthorizeURL == "" {
		t.Errorf("no link when told again: %+v", s)
	}
	r.drained() // the sweep has it looked for again, no message waits until then
	r.wantCalls(apiInfo, 1, bob)
	r.until("not counted as in need of an authorization", func() bool {
		p.work.SetComponents(p.work.Components()) // has the sweep look
		return r.metric(p, "wxtoken_authorizers", appid, string(wxtoken.StateNeedsAuthorization)) == 1
	})
	if n := r.metric(p, "wxtoken_reconcile_unkept", appid); n != 2 || r.log.count("WeChat's list names accounts that have no token here") == 0 {
		t.Errorf("%v listed and not kept, or not told", n)
	}
	r.must(r.store.ScheduleReconcile(t.Context(), appid, 6*time.Hour, true))
	r.until("not reconciled", func() bool { return r.log.count("reconciled with WeChat") > 1 })
	r.wantCalls(apiInfo, 1, bob)
	// Its code comes after all.
	for range 2 {
		r.send(r.next(events.KindAuthorized))
	}
	r.eventually(func() error { return r.accepted(bob) })
	r.state(bobKey, wxtoken.StateActive)
}

// TestProfileConfirmsNothing has profiles without a refresh token where they are asked what is true.
func TestProfileConfirmsNothing(t *testing.T) {
	t.Parallel()
	t.Run("refused refresh token", func(t *testing.T) {
		r := newRig(t, options{cfg: linking, sim: wechatsim.Config{Rotation: wechatsim.RotateEachOldDead}})
		r.authorize(alice)
		r.fail(wechatsim.Fault{API: apiInfo, Mode: wechatsim.FaultNoRefresh})
		_, err := r.client().AuthorizerToken(t.Context(), r.token(componentKey).Value.Reveal(), appid, alice, r.credential(aliceKey).RefreshToken)
		r.must(err) // the list knows the new one, with the same auth_time
		r.poke(aliceKey)
		r.generation(aliceKey, 2)
		r.state(aliceKey, wxtoken.StateActive)
	})
	t.Run("list and profile name different ones, all refused", func(t *testing.T) {
		r := newRig(t, options{cfg: linking})
		r.authorize(alice)
		r.drained()
		at := r.credential(aliceKey).AuthorizedAt
		r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61023})
		r.fail(wechatsim.Fault{API: apiList, Mode: wechatsim.FaultBody, Body: fmt.Sprintf(
			`{"total_count":1,"list":[{"authorizer_appid":%q,"refresh_token":"refreshtoken@@@SEKRET-listed","auth_time":%d}]}`, alice, at.Unix())})
		before := r.calls(apiList)
		r.poke(aliceKey)
		// A slow machine has fewer tries in an hour of this clock: how many there were is what counts.
		began, tries := r.clock.Now(), r.calls(apiRefresh)
		r.until("not asked to authorize", func() bool {
			if r.status(aliceKey).State == wxtoken.StateNeedsAuthorization {
				return true
			}
			r.clock.forward(20 * time.Minute)
			r.ticket() // the one before lives for twelve hours
			time.Sleep(500 * time.Millisecond)
			return false
		})
		regular := int(r.clock.Now().Sub(began) / r.cfg.ReconcileEvery)
		if n := r.calls(apiList) - before; n > max(3, 1+regular) {
			t.Errorf("%d readings of the list, %d of them regular: %+v", n, regular, r.status(aliceKey))
		}
		if n := r.calls(apiRefresh) - tries; n > 15 { // 11 where no answer is lost
			t.Errorf("asked to authorize after %d tries", n)
		}
	})
	t.Run("spent code", func(t *testing.T) {
		r := newRig(t, options{cfg: linking})
		r.keep()
		r.fail(wechatsim.Fault{API: apiInfo, Mode: wechatsim.FaultNoRefresh})
		r.must(r.sim.Authorize(appid, alice))
		push := r.next(events.KindAuthorized)
		_, err := r.client().QueryAuth(t.Context(), r.token(componentKey).Value.Reveal(), appid, push.Code)
		r.must(err)
		r.send(push)
		r.eventually(func() error { return r.accepted(alice) }) // through the list
		r.state(aliceKey, wxtoken.StateActive)
		r.drained()
	})
	t.Run("spent code, nobody knows", func(t *testing.T) {
		r := newRig(t, options{cfg: linking})
		r.keep()
		for _, api := range []string{apiInfo, apiList} {
			r.fail(wechatsim.Fault{API: api, Mode: wechatsim.FaultNoRefresh})
		}
		before := r.calls(apiList) // the first reading may come at any time from here on, and tells of alice as well
		r.must(r.sim.Authorize(appid, alice))
		push := r.next(events.KindAuthorized)
		_, err := r.client().QueryAuth(t.Context(), r.token(componentKey).Value.Reveal(), appid, push.Code)
		r.must(err)
		r.send(push)
		if s := r.state(aliceKey, wxtoken.StateNeedsAuthorization); s.ReauthorizeURL == "" || r.calls(apiList) == before || r.calls(apiInfo, alice) < 2 {
			t.Errorf("%d calls for the list, %d for the profile: %+v", r.calls(apiList)-before, r.calls(apiInfo, alice), s)
		}
	})
	t.Run("cancellation of an unknown time", func(t *testing.T) {
		r := newRig(t, options{cfg: linking})
		r.keep()
		r.send(r.consent()) // a redirect tells no time
		r.until("not authorized", func() bool { return r.token(aliceKey).Generation >= 1 })
		r.drained()
		r.fail(wechatsim.Fault{API: apiInfo, Mode: wechatsim.FaultNoRefresh, Times: 3})
		infos := r.calls(apiInfo)
		r.send(events.Auth{Kind: events.KindUnauthorized, Component: appid, Authorizer: alice, CreateTime: r.clock.Now().UTC(), ReceivedAt: r.clock.Now().UTC()})
		r.until("not asked until there was an answer", func() bool { return r.calls(apiInfo) == infos+4 })
		r.until("not ignored", func() bool {
			return r.log.count("cancellation ignored, WeChat says the authorization is in force") == 1
		})
		r.must(r.accepted(alice))
	})
}
