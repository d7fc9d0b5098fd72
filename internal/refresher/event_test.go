package refresher_test

import (
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/wechatsim"
)

func TestTicket(t *testing.T) {
	r := newRig(t, options{idle: true})
	r.start()
	r.state(componentKey, wxtoken.StateWaitingForTicket)
	r.keep()
	r.ticket()
	first := r.next(events.KindTicket)
	r.send(first)
	r.eventually(r.componentLives)
	r.drained()
	r.wantCalls(apiComponent, 1)
	r.wantScheduled(componentKey)
	s := r.state(componentKey, wxtoken.StateActive)
	if s.TicketReceivedAt == nil || !s.TicketReceivedAt.Equal(first.ReceivedAt) {
		t.Errorf("ticket_received_at is %v, want %v", s.TicketReceivedAt, first.ReceivedAt)
	}

	send := func(ticket string, created time.Duration) {
		t.Helper()
		a := first
		a.Ticket, a.CreateTime, a.ReceivedAt = ticket, first.CreateTime.Add(created), r.clock.Now().UTC()
		r.send(a)
		r.drained()
	}
	want := func(ticket, why string) {
		t.Helper()
		if got := r.credential(componentKey).Ticket; got != ticket {
			t.Errorf("the ticket is %q, want %q: %s", got, ticket, why)
		}
	}
	send("ticket@@@older", -10*time.Minute)
	want(first.Ticket, "an older one came late")
	r.clock.forward(10 * time.Minute)
	send("ticket@@@newer", 5*time.Minute)
	want("ticket@@@newer", "a newer one came")
	send("ticket@@@future", 100*time.Hour)
	want("ticket@@@future", "it is as new as the moment in which it came")
	if c := r.credential(componentKey); c.TicketCreatedAt.After(r.clock.Now()) {
		t.Errorf("a ticket from the future counts as of %v: it would hold off those to come", c.TicketCreatedAt)
	}
	r.wantCalls(apiComponent, 1) // the token was good all the time
}

func TestTicketReplacesAnUnreadableCredential(t *testing.T) {
	r := newRig(t, options{})
	_, err := r.js.Publish(t.Context(), events.CredentialSubject(componentKey), []byte("garbage"))
	r.must(err)
	r.clock.forward(time.Second)
	r.ticket()
	r.eventually(func() error {
		_, err := r.store.Credential(t.Context(), componentKey)
		return err
	})
	r.drained()
	if c := r.credential(componentKey); c.Ticket == "" || c.Generation != 1 {
		t.Errorf("after a new ticket the credential has generation %d, ticket %t", c.Generation, c.Ticket != "")
	}
	r.poke(componentKey)
	r.generation(componentKey, 2)
}

func TestAuthorized(t *testing.T) {
	r := newRig(t, options{})
	r.keep()
	r.must(r.sim.Authorize(appid, alice))
	push := r.next(events.KindAuthorized)
	r.send(push)
	r.eventually(func() error { return r.accepted(alice) })
	r.drained()
	token := r.token(aliceKey)
	if token.Generation != 1 || token.Previous != nil || token.ExpiresAt.Sub(token.ObtainedAt) != 2*time.Hour {
		t.Errorf("the first token: %+v", token)
	}
	r.wantScheduled(aliceKey)
	cred := r.credential(aliceKey)
	if !r.sim.AcceptsRefresh(appid, alice, cred.RefreshToken) || cred.Claim != nil {
		t.Error("the refresh token is not accepted, or the credential is still claimed")
	}
	s := r.state(aliceKey, wxtoken.StateActive)
	r.until("no profile", func() bool { s = r.status(aliceKey); return s.Authorizer != nil && len(s.Authorizer.Profile) > 0 })
	switch a := s.Authorizer; {
	case a.AuthorizedAt == nil || !a.AuthorizedAt.Equal(push.CreateTime):
		t.Errorf("authorized_at is %v, want %v", a.AuthorizedAt, push.CreateTime)
	case !slices.Equal(a.FuncInfo, []int{1, 2, 18}):
		t.Errorf("func_info is %v", a.FuncInfo)
	case !strings.Contains(string(a.Profile["nick_name"]), alice):
		t.Errorf("profile is %v", a.Profile)
	}

	r.send(push)
	r.drained()
	r.wantCalls(apiExchange, 1) // the same code

	older := push
	older.Code, older.CreateTime = "queryauthcode@@@old", push.CreateTime.Add(-time.Second)
	r.send(older)
	r.drained()
	r.wantCalls(apiExchange, 1)
	if r.token(aliceKey) != token {
		t.Error("an older event changed the token")
	}
}

func TestQuickRegistration(t *testing.T) {
	r := newRig(t, options{})
	r.must(r.sim.Register(appid, alice))
	r.eventually(func() error { return r.accepted(alice) })
	// One that failed names no code, and changes nothing.
	r.send(events.Auth{Kind: events.KindFastRegister, Component: appid, CreateTime: r.clock.Now(), ReceivedAt: r.clock.Now()})
	r.drained()
	r.wantCalls(apiExchange, 1)
}

func TestReauthorized(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.poke(aliceKey)
	if r.generation(aliceKey, 2).Previous == nil {
		t.Error("an ordinary renewal told nothing of the previous token")
	}
	r.clock.forward(time.Second)
	r.must(r.sim.Reauthorize(appid, alice))
	if token := r.generation(aliceKey, 3); token.Previous != nil {
		t.Error("the token of a re-authorization names a previous one")
	}
	r.wantScheduled(aliceKey)
	if !r.sim.AcceptsRefresh(appid, alice, r.credential(aliceKey).RefreshToken) {
		t.Error("the refresh token is not the new one")
	}
}

func TestUnauthorized(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.clock.forward(time.Second)
	began := time.Now()
	r.must(r.sim.Cancel(appid, alice))
	s := r.state(aliceKey, wxtoken.StateRevoked)
	if took := time.Since(began); took > 2*time.Second {
		t.Logf("cancelling took %v", took) // a promise about a machine that is not busy
	}
	if token := r.token(aliceKey); !token.Value.IsZero() {
		t.Error("the token is still there")
	}
	if _, ok := r.scheduled(aliceKey); ok {
		t.Error("the schedule is still there")
	}
	if c := r.credential(aliceKey); c.Generation != 1 || c.RefreshToken != "" || c.RevokedAt.IsZero() {
		t.Errorf("generation %d, refresh token %t, revoked at %v", c.Generation, c.RefreshToken != "", c.RevokedAt)
	}
	if ready := s.Conditions[0]; ready.Status != "False" || ready.Reason != "Cancelled" {
		t.Errorf("condition %+v", ready)
	}
	r.drained()
	r.wantCalls(apiInfo, 1) // for the profile: a later second needs no question

	r.clock.forward(time.Second)
	r.must(r.sim.Authorize(appid, alice))
	if token := r.generation(aliceKey, 2); token.Previous != nil {
		t.Error("the token after a cancellation names a previous one")
	}
	if s := r.state(aliceKey, wxtoken.StateActive); s.Conditions[0].Status != "True" {
		t.Errorf("authorized again, condition %+v", s.Conditions[0])
	}
}

func TestUnauthorizedWhileRenewing(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.clock.forward(time.Second)
	r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultSlow, Delay: 1500 * time.Millisecond, Times: 1})
	r.poke(aliceKey)
	r.until("the renewal was not asked for", func() bool { return r.calls(apiRefresh) == 1 })
	r.must(r.sim.Cancel(appid, alice))
	r.state(aliceKey, wxtoken.StateRevoked)
	if r.log.count("two renewals overlapped", alice) > 0 || r.log.count("token renewed", alice) > 0 {
		t.Fatal("the answer came before the cancellation: nothing was tried")
	}
	if token := r.token(aliceKey); !token.Value.IsZero() {
		t.Error("the token is still there")
	}
	r.drained()
	if token := r.token(aliceKey); !token.Value.IsZero() {
		t.Error("the late answer was stored")
	}
	if s := r.status(aliceKey); s.State != wxtoken.StateRevoked {
		t.Errorf("the late answer made the state %q", s.State)
	}
	r.wantCalls(apiRefresh, 1)
}

func TestLateUnauthorized(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.keep()
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Cancel(appid, alice))
	cancelled := r.next(events.KindUnauthorized)
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Authorize(appid, alice))
	again := r.next(events.KindAuthorized)
	r.send(again)
	token := r.generation(aliceKey, 2)
	r.drained()
	asked := r.calls(apiInfo)
	r.send(cancelled)
	r.drained()
	r.wantCalls(apiInfo, asked)
	if r.token(aliceKey) != token {
		t.Error("a late cancellation changed the token")
	}
	r.state(aliceKey, wxtoken.StateActive)

	// Of the same second only WeChat knows which came last.
	cancelled.CreateTime = again.CreateTime
	r.send(cancelled)
	r.drained()
	r.wantCalls(apiInfo, asked+1)
	if r.token(aliceKey) != token {
		t.Error("a cancellation changed the token although WeChat says that the authorization is in force")
	}
	r.must(r.sim.Cancel(appid, alice))
	r.send(cancelled)
	r.state(aliceKey, wxtoken.StateRevoked)
	r.drained()
	r.wantCalls(apiInfo, asked+2)
}

// TestEventsOfTheSameSecond cancels and authorizes again within a second, in either order of arrival.
func TestEventsOfTheSameSecond(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.keep()
	r.clock.forward(3 * time.Second)
	r.must(r.sim.Cancel(appid, alice))
	cancelled := r.next(events.KindUnauthorized)
	r.must(r.sim.Authorize(appid, alice))
	again := r.next(events.KindAuthorized)
	again.CreateTime = cancelled.CreateTime
	for _, a := range []events.Auth{cancelled, again, cancelled} {
		r.send(a)
		r.drained()
	}
	r.eventually(func() error { return r.accepted(alice) })
	r.state(aliceKey, wxtoken.StateActive)
}

// consent has alice authorize through a link and returns the event of the redirect.
func (r *rig) consent() events.Auth {
	r.Helper()
	preAuth := r.preAuthCode()
	location, err := r.sim.Consent(appid, alice, preAuth, "https://example.com/back")
	r.must(err)
	back, err := url.Parse(location)
	r.must(err)
	now := r.clock.Now().UTC()
	return events.Auth{Kind: events.KindCallback, Component: appid, CreateTime: now, ReceivedAt: now, Code: back.Query().Get("auth_code")}
}

func TestCallback(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name          string
		twoCodes      bool
		callbackFirst bool
		exchanges     int
	}{
		{"same code, before the push", false, true, 1},
		{"same code, after the push", false, false, 1},
		{"another code, before the push", true, true, 2},
		{"another code, after the push", true, false, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, options{sim: wechatsim.Config{TwoCodes: row.twoCodes}})
			r.keep()
			callback := r.consent()
			push := r.next(events.KindAuthorized)
			order := []events.Auth{push, callback}
			if row.callbackFirst {
				order = []events.Auth{callback, push}
			}
			for _, a := range order {
				r.send(a)
				r.eventually(func() error { return r.accepted(alice) })
				r.drained()
				r.heard() // whose code it was is known from the view
			}
			r.wantCalls(apiExchange, row.exchanges)
			r.must(r.accepted(alice))
			r.wantScheduled(aliceKey)
			s := r.state(aliceKey, wxtoken.StateActive)
			if s.Authorizer.AuthorizedAt == nil || !s.Authorizer.AuthorizedAt.Equal(push.CreateTime) {
				t.Errorf("authorized_at is %v, want that of the push, %v", s.Authorizer.AuthorizedAt, push.CreateTime)
			}
		})
	}
}

// TestCodeSpent plays a refresher that died between the answer of WeChat and its store.
func TestCodeSpent(t *testing.T) {
	r := newRig(t, options{})
	r.fail(wechatsim.Fault{API: apiExchange, Mode: wechatsim.FaultLost, Times: 1})
	r.must(r.sim.Authorize(appid, alice))
	r.eventually(func() error { return r.accepted(alice) })
	r.drained()
	r.wantCalls(apiExchange, 2) // the second is told that the code is spent
	if !r.sim.AcceptsRefresh(appid, alice, r.credential(aliceKey).RefreshToken) {
		t.Error("the refresh token is not the one that WeChat told")
	}
	r.state(aliceKey, wxtoken.StateActive)
}

func TestEventOfAnUnknownComponent(t *testing.T) {
	r := newRig(t, options{})
	now := r.clock.Now().UTC()
	r.send(events.Auth{Kind: events.KindTicket, Component: "wxstranger", Ticket: "ticket@@@1", CreateTime: now, ReceivedAt: now})
	r.until("it was not put off", func() bool { return r.log.count("message put off", "wxstranger") > 0 })
	auth, err := r.js.Stream(t.Context(), events.StreamAuth)
	r.must(err)
	if auth.CachedInfo().State.Msgs != 1 {
		t.Error("the event of a component that may yet be added is lost")
	}
}

func TestEventsThatCannotBeProcessed(t *testing.T) {
	r := newRig(t, options{})
	auth := func(kind, rest string) string {
		return fmt.Sprintf(`{"kind":%q,"component":%q,"create_time":"2026-11-22T12:00:00Z","received_at":"2026-11-22T12:00:00Z"%s}`, kind, appid, rest)
	}
	rows := []string{
		`not JSON`,
		`{}`,
		auth("brand_new", ""),
		auth(events.KindTicket, ""),
		auth(events.KindCallback, ""),
		auth(events.KindAuthorized, `,"code":"SEKRET-code"`),
		auth(events.KindUnauthorized, ""),
		auth(events.KindUnauthorized, `,"authorizer":"not an appid"`),
	}
	for i, row := range rows {
		m := nats.NewMsg(events.AuthSubject(appid, fmt.Sprint("row", i)))
		m.Data = []byte(row)
		m.Header.Set(jetstream.MsgIDHeader, fmt.Sprint("row", i))
		_, err := r.js.PublishMsg(t.Context(), m)
		r.must(err)
	}
	_, err := r.js.Publish(t.Context(), "renewal.due.authorizer.a.b", []byte("not JSON"))
	r.must(err)
	_, err = r.js.Publish(t.Context(), "renewal.due.authorizer.a.c", []byte("{}"))
	r.must(err)
	dead, err := r.js.Stream(t.Context(), events.StreamDead)
	r.must(err)
	r.eventually(func() error {
		info, err := dead.Info(t.Context())
		if err != nil || int(info.State.Msgs) != len(rows)+2 {
			return errors.Join(err, fmt.Errorf("%d messages on DEAD, want %d", info.State.Msgs, len(rows)+2))
		}
		return nil
	})
	r.drained()
	r.eventually(r.componentLives)
	for i, row := range rows {
		m, err := dead.GetLastMsgForSubject(t.Context(), "dead."+events.AuthSubject(appid, fmt.Sprint("row", i)))
		r.must(err)
		reason := m.Header.Get("Wxtoken-Reason")
		data, err := r.seal.Open(strings.TrimPrefix(m.Subject, "dead."), m.Header, m.Data)
		r.must(err)
		if string(data) != row || reason == "" || strings.Contains(reason, "SEKRET") {
			t.Errorf("row %d: %q with the reason %q", i, data, reason)
		}
	}
}

// TestUnreadable has documents that ingest could not read: they lie on DEAD, and what they may have been about is found out from WeChat's list.
func TestUnreadable(t *testing.T) {
	r := newRig(t, options{})
	r.keep()
	r.must(r.sim.Authorize(appid, alice))
	r.next(events.KindAuthorized) // and nobody can read it
	const document = "U0VLUkVULWRvY3VtZW50"
	unreadable := func(ask bool) {
		r.send(events.Auth{Kind: events.KindUnreadable, Component: appid, CreateTime: r.clock.Now(), ReceivedAt: r.clock.Now(), Document: document,
			Detail: "the end tag at byte 7 matches no start tag", AskList: ask})
		r.drained()
	}
	r.eventually(r.componentLives)
	before := r.calls(apiList)
	unreadable(false)
	r.wantCalls(apiList, before)
	unreadable(true)
	r.eventually(func() error { return r.accepted(alice) })
	r.state(aliceKey, wxtoken.StateActive)
	dead, err := r.js.Stream(t.Context(), events.StreamDead)
	r.must(err)
	m, err := dead.GetLastMsgForSubject(t.Context(), "dead."+events.AuthSubject(appid, events.KindUnreadable))
	r.must(err)
	data, err := r.seal.Open(strings.TrimPrefix(m.Subject, "dead."), m.Header, m.Data)
	r.must(err)
	if !strings.Contains(string(data), document) || !strings.Contains(m.Header.Get("Wxtoken-Reason"), "the end tag at byte 7") {
		t.Errorf("on DEAD: %q, reason %q", data, m.Header.Get("Wxtoken-Reason"))
	}
}

// idleRig returns a rig whose refresher calls atStep when it first comes to a step.
func idleRig(t *testing.T, step string, atStep func(r *rig)) *rig {
	t.Helper()
	r := newRig(t, options{idle: true})
	var once sync.Once
	r.step = func(name string) {
		if name == step {
			once.Do(func() { atStep(r) })
		}
	}
	r.start()
	r.ticket()
	r.eventually(r.componentLives)
	return r
}

// TestNewsOvertaken cancels an authorization between its store and the news of it: the news comes
// late, and must not hide that it is over.
func TestNewsOvertaken(t *testing.T) {
	r := idleRig(t, "exchange.committed", func(r *rig) {
		r.clock.forward(2 * time.Second)
		if err := r.sim.Cancel(appid, alice); err != nil {
			t.Error(err)
		}
		for deadline := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
			s, _, err := r.store.Status(t.Context(), aliceKey)
			if s.State == wxtoken.StateRevoked {
				return
			}
			if err != nil || time.Now().After(deadline) {
				t.Errorf("the cancellation was not handled: %v", err)
				return
			}
		}
	})
	r.must(r.sim.Authorize(appid, alice))
	r.until("not authorized", func() bool { return r.log.count("authorizer authorized", alice) == 1 })
	r.drained()
	if s := r.status(aliceKey); s.State != wxtoken.StateRevoked || s.Conditions[0].Status != "False" {
		t.Errorf("after late news the state is %q, %+v", s.State, s.Conditions)
	}
	if !r.token(aliceKey).Value.IsZero() {
		t.Error("the token is still there")
	}
}

// TestDeathBeforeTheNews ends a handler after it stored an authorization: whoever is given its event
// makes up for the status.
func TestDeathBeforeTheNews(t *testing.T) {
	r := idleRig(t, "exchange.committed", func(*rig) { runtime.Goexit() })
	r.must(r.sim.Authorize(appid, alice))
	r.state(aliceKey, wxtoken.StateActive)
	r.drained()
	r.eventually(func() error { // the profile comes when nothing waits
		s := r.status(aliceKey)
		if a := s.Authorizer; a == nil || a.AuthorizedAt == nil || len(a.Profile) == 0 || len(a.FuncInfo) == 0 || len(s.Conditions) != 1 {
			return fmt.Errorf("status %+v of %+v", s, s.Authorizer)
		}
		return nil
	})
	r.wantCalls(apiExchange, 1)
}

// TestCancelledWithoutStatus has NATS store no status while a cancellation is delivered, and delivered again: the status says it in
// the end.
func TestCancelledWithoutStatus(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.must(r.js.DeleteStream(t.Context(), events.StreamStatus))
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Cancel(appid, alice))
	r.until("delivered but once", func() bool { return r.log.count("write status of", alice) >= 2 })
	streamstest.Setup(t, r.nc, r.js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	r.state(aliceKey, wxtoken.StateRevoked)
}

// TestCancelledDuringCallback cancels while WeChat exchanges the code of a redirect: its answer is
// not believed for longer than it takes to ask again.
func TestCancelledDuringCallback(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.keep()
	r.clock.forward(2 * time.Second)
	callback := r.consent()
	r.next(events.KindUpdated)
	r.fail(wechatsim.Fault{API: apiExchange, Mode: wechatsim.FaultSlow, Delay: time.Second, Times: 1})
	r.send(callback)
	r.until("the code was not sent", func() bool { return r.calls(apiExchange) == 2 })
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Cancel(appid, alice))
	r.send(r.next(events.KindUnauthorized))
	r.until("not cancelled", func() bool { return r.log.count("authorization cancelled", alice) == 1 })
	r.until("not exchanged", func() bool { return r.log.count("authorizer authorized", alice) == 2 })
	r.until("the dead token is still served", func() bool { return r.token(aliceKey).Value.IsZero() })
	r.state(aliceKey, wxtoken.StateRevoked)
}

// TestAuthorizedFromTheFuture has a push that is ahead of all clocks: a cancellation still counts.
func TestAuthorizedFromTheFuture(t *testing.T) {
	r := newRig(t, options{})
	r.keep()
	r.must(r.sim.Authorize(appid, alice))
	push := r.next(events.KindAuthorized)
	push.CreateTime = push.CreateTime.Add(1000 * time.Hour)
	r.send(push)
	r.eventually(func() error { return r.accepted(alice) })
	r.drained()
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Cancel(appid, alice))
	r.send(r.next(events.KindUnauthorized))
	r.state(aliceKey, wxtoken.StateRevoked)
}

// TestAuthorizedWhileOlderCancellationComes has an older cancellation stored while the code of a newer
// authorization is with WeChat: the authorization must come through.
func TestAuthorizedWhileOlderCancellationComes(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.drained()
	r.keep()
	r.must(r.sim.Cancel(appid, alice))
	cancel := r.next(events.KindUnauthorized)
	r.must(r.sim.Authorize(appid, alice))
	again := r.next(events.KindAuthorized)
	base := r.credential(aliceKey).AuthorizedAt
	cancel.CreateTime, again.CreateTime = base.Add(time.Second), base.Add(2*time.Second)
	r.fail(wechatsim.Fault{API: "api_query_auth", Mode: wechatsim.FaultSlow, Delay: time.Second, Times: 1})
	r.send(again)
	r.eventually(func() error {
		if r.credential(aliceKey).Claim == nil {
			return errors.New("not claimed yet")
		}
		return nil
	})
	r.send(cancel)
	r.eventually(func() error {
		if cred := r.credential(aliceKey); cred.RefreshToken == "" || !cred.RevokedAt.IsZero() {
			return errors.New("the authorization did not come through")
		}
		return nil
	})
	r.state(aliceKey, wxtoken.StateActive)
	r.eventually(func() error {
		if token := r.token(aliceKey); token.Value.IsZero() || !r.sim.Accepts(appid, alice, token.Value.Reveal()) {
			return errors.New("no good token")
		}
		return nil
	})
}

// TestDueOfAnotherSubject: a token has a key and a generation as a due message has, and is none.
func TestDueOfAnotherSubject(t *testing.T) {
	t.Parallel()
	record, err := store.TokenRecord(wxtoken.Token{Key: aliceKey, Value: wxtoken.NewSecret("SEKRET"), Generation: 1, ExpiresAt: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if due, err := events.ParseDue(record); err == nil || strings.Contains(err.Error(), "SEKRET") {
		t.Errorf("a token is read as %+v, %v", due, err)
	}
}
