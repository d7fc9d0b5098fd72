package refresher_test

import (
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/internal/store"
	"wxtoken/wechatsim"
)

const apiStartPush = "api_start_push_ticket"

// TestTicketsStayAway has the tickets stop for a day: two refreshers ask WeChat for them together, once an hour; all tokens but
// the component's stay, and the next ticket mends all.
func TestTicketsStayAway(t *testing.T) {
	r := newRig(t, options{idle: true, cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	r.start()
	r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.authorize(alice)
	r.state(componentKey, wxtoken.StateActive)
	swept := func() { // by both, and more than once
		t.Helper()
		for range 2 {
			now := time.Now()
			r.until("nobody swept", func() bool { return time.Since(now) > 1100*time.Millisecond })
		}
	}
	// One refresher tells while the other asks: what is told says nothing of what was asked.
	asked := func(times int) {
		t.Helper()
		r.until("not asked", func() bool { return r.calls(apiStartPush) >= times })
		swept()
		r.wantCalls(apiStartPush, times)
	}
	r.clock.forward(24 * time.Minute)
	swept()
	r.wantCalls(apiStartPush, 0)
	r.clock.forward(2 * time.Minute)
	r.until("not told", func() bool {
		c := conditionOf(r.status(componentKey), "TicketFlowing")
		return c.Status == "False" && c.Reason == "TicketLate"
	})
	r.state(componentKey, wxtoken.StateActive) // its token is good, and the ticket can be used
	asked(1)
	r.clock.forward(58 * time.Minute)
	swept()
	r.wantCalls(apiStartPush, 1)
	token := r.token(aliceKey)
	for times := 2; times <= 3; times++ {
		r.clock.forward(time.Hour)
		asked(times)
	}
	r.clock.forward(9 * time.Hour)
	s := r.state(componentKey, wxtoken.StateWaitingForTicket)
	r.until("not told that the ticket is too old", func() bool {
		return conditionOf(r.status(componentKey), "TicketFlowing").Reason == "TicketExpired"
	})
	if !conditionOf(s, "TicketFlowing").Since.Before(r.clock.Now().Add(-8 * time.Hour)) {
		t.Errorf("no component_verify_ticket received since %v", conditionOf(s, "TicketFlowing").Since)
	}
	if got := r.token(aliceKey); got.Value.IsZero() || got.Generation < token.Generation || r.credential(aliceKey).RevokedAt != (time.Time{}) {
		t.Error("an account suffered")
	}
	asked(4)

	r.ticket()
	r.state(componentKey, wxtoken.StateActive)
	r.until("tickets do not flow", func() bool { return conditionOf(r.status(componentKey), "TicketFlowing").Status == "True" })
	r.eventually(r.componentLives)
	r.eventually(func() error { return r.accepted(alice) })
	r.state(aliceKey, wxtoken.StateActive)
}

// TestNoTicketEver starts with nothing but the mark of a refresher whose clock was a year ahead, that WeChat was asked: after a while it
// is asked all the same, and what it pushes is enough.
func TestNoTicketEver(t *testing.T) {
	r := newRig(t, options{idle: true, cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	r.must(r.store.UpdateQuota(t.Context(), appid, func(q *store.Quota) bool {
		q.PushAskedAt = r.clock.Now().AddDate(1, 0, 0)
		return true
	}))
	r.start()
	r.state(componentKey, wxtoken.StateWaitingForTicket)
	r.fail(wechatsim.Fault{API: apiStartPush, Errcode: -1, Times: 1})
	r.clock.forward(26 * time.Minute)
	r.until("not asked", func() bool { return r.calls(apiStartPush) == 1 })
	r.clock.forward(6 * time.Minute) // WeChat did not take it: that is no reason to wait for an hour
	r.until("not asked again", func() bool { return r.calls(apiStartPush) == 2 })
	r.clock.forward(6 * time.Minute)
	s := r.state(componentKey, wxtoken.StateWaitingForTicket)
	if c := conditionOf(s, "TicketFlowing"); c.Status != "False" || c.Reason != "NoTicket" {
		t.Errorf("conditions %+v", s.Conditions)
	}
	r.ticket()
	r.eventually(r.componentLives)
	r.state(componentKey, wxtoken.StateActive)
	r.wantCalls(apiStartPush, 2)
}

// TestTicketTooOldForAToken has WeChat refuse the only ticket when the component's token is to be renewed.
func TestTicketTooOldForAToken(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.keep()
	r.clock.forward(13 * time.Hour)
	r.pokedInVain(componentKey)
	s := r.state(componentKey, wxtoken.StateWaitingForTicket)
	if s.LastError == nil || s.LastError.Code != 61005 {
		t.Errorf("last error %+v", s.LastError)
	}
	r.wantCalls(apiStartPush, 1)
	r.clock.forward(2 * time.Minute)
	r.pokedInVain(componentKey)
	r.wantCalls(apiStartPush, 1)
	r.ticket()
	r.send(r.next(events.KindTicket))
	r.eventually(r.componentLives)
	r.state(componentKey, wxtoken.StateActive)
}
