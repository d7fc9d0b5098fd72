package refresher_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/wechatsim"
)

const (
	jsapi  = "jsapi"
	wxCard = "wx_card"
)

func ticketKey(kind wxtoken.Kind, account string) wxtoken.Key {
	return wxtoken.Key{Kind: kind, Component: appid, Authorizer: account}
}

var aliceJSAPI, aliceCard = ticketKey(wxtoken.KindJSAPITicket, alice), ticketKey(wxtoken.KindWxCardTicket, alice)

// desk stands before the platform and gives out the tickets of accounts as WeChat does: the same one during its life, and
// each time it says that it has its whole life before it.
type desk struct {
	platform http.RoundTripper
	r        *rig
	accounts []string

	mu      sync.Mutex
	tickets map[string]time.Time // until when; by value
	current map[string]string    // value by account and type
	errcode map[string]int       // by account: what is answered instead
	lost    string               // what becomes of a call of which no answer comes: "" answers come, "executed", "dropped"
	asked   map[string][]time.Time

	process // the first refresher
}

func (d *desk) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Path != "/cgi-bin/ticket/getticket" {
		return d.platform.RoundTrip(request)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	account, kind, now := "", request.URL.Query().Get("type"), d.r.clock.Now()
	for _, a := range d.accounts {
		if d.r.sim.Accepts(appid, a, request.URL.Query().Get("access_token")) {
			account = a
		}
	}
	d.asked[account+kind] = append(d.asked[account+kind], now)
	if d.lost == "dropped" {
		return nil, io.ErrUnexpectedEOF
	}
	answer := ""
	switch code := d.errcode[account]; {
	case code != 0:
		answer = fmt.Sprintf(`{"errcode":%d,"errmsg":"no"}`, code)
	case account == "" || kind != jsapi && kind != wxCard:
		answer = `{"errcode":40001,"errmsg":"invalid credential, access_token is invalid or not latest"}`
	default:
		value := d.current[account+kind]
		if !now.Before(d.tickets[value]) {
			value = fmt.Sprintf("SEKRET-%s-%s-%d", kind, account, len(d.tickets)+1)
			d.current[account+kind], d.tickets[value] = value, now.Add(2*time.Hour)
		}
		answer = fmt.Sprintf(`{"errcode":0,"errmsg":"ok","ticket":%q,"expires_in":7200}`, value)
	}
	if d.lost == "executed" {
		return nil, io.ErrUnexpectedEOF
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer)), Request: request}, nil
}

// fails has an account's tickets be answered with an errcode, 0 for none.
func (d *desk) fails(account string, errcode int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.errcode[account] = errcode
}

// loses has answers be lost from now on, see lost.
func (d *desk) loses(how string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost = how
}

// end returns until when a ticket lives.
func (d *desk) end(ticket wxtoken.Secret) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tickets[ticket.Reveal()]
}

// calls returns when the ticket of an account was asked for.
func (d *desk) calls(account, kind string) []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]time.Time(nil), d.asked[account+kind]...)
}

// deskRig keeps tickets for alice, and for her alone.
func deskRig(t *testing.T, change func(r *rig)) (*rig, *desk) {
	t.Helper()
	r := newRig(t, options{idle: true, cfg: func(c *refresher.Config) {
		c.SweepEvery, c.Derive, c.DeriveFor = time.Second, []string{jsapi, wxCard}, []string{alice}
	}})
	d := &desk{
		platform: direct{r.sim.Handler()}, r: r, accounts: []string{alice, bob},
		tickets: map[string]time.Time{}, current: map[string]string{}, errcode: map[string]int{}, asked: map[string][]time.Time{},
	}
	r.deps = func(deps *refresher.Deps) { deps.Transport = d }
	if change != nil {
		change(r)
	}
	d.process = r.start()
	r.ticket()
	r.eventually(r.componentLives)
	return r, d
}

// kept waits until the ticket of a key is there, and of a generation or a later one if one is given.
func (r *rig) kept(key wxtoken.Key, generation ...uint64) (t wxtoken.Token) {
	r.Helper()
	r.until(key.String()+" is not there", func() bool {
		t = r.token(key)
		return !t.Value.IsZero() && (len(generation) == 0 || t.Generation >= generation[0])
	})
	return t
}

func (r *rig) notKept(key wxtoken.Key) {
	r.Helper()
	r.until(key.String()+" is still there", func() bool {
		_, scheduled := r.scheduled(key)
		return r.token(key).Value.IsZero() && !r.credential(key).RevokedAt.IsZero() && !scheduled
	})
	r.state(key, wxtoken.StateRevoked)
}

func TestTicketsKept(t *testing.T) {
	r, d := deskRig(t, nil)
	r.authorize(alice)
	r.authorize(bob)
	r.kept(aliceJSAPI)
	r.kept(aliceCard)
	r.drained() // the list may have told of the account, too
	first := r.kept(aliceJSAPI)
	r.wantScheduled(aliceJSAPI)
	r.wantScheduled(aliceCard)
	r.state(aliceJSAPI, wxtoken.StateActive)
	if first.ExpiresAt.Sub(first.ObtainedAt) != 2*time.Hour || first.Previous != nil {
		t.Errorf("the first ticket: %+v", first)
	}
	if c := r.credential(ticketKey(wxtoken.KindJSAPITicket, bob)); c.Revision != 0 {
		t.Error("bob's ticket is kept as well")
	}
	// The same value gains no life, by schedule, report or wish.
	life := func(generation uint64) {
		t.Helper()
		got := r.kept(aliceJSAPI, generation)
		if got.Value != first.Value || !got.ExpiresAt.Equal(first.ExpiresAt) || !got.ObtainedAt.Equal(first.ObtainedAt) || got.Previous != nil {
			t.Errorf("generation %d: %+v, the first was %+v", generation, got, first)
		}
		r.drained()
		r.wantScheduled(aliceJSAPI)
	}
	r.poke(aliceJSAPI)
	life(first.Generation + 1)
	r.clock.forward(5 * time.Minute)
	var verdict events.Verdict
	question := fmt.Sprintf(`{"key":%q,"revision":%d}`, aliceJSAPI, r.token(aliceJSAPI).Revision)
	if code := r.asks(events.SubjectReject, question, &verdict); code != "" || verdict.Outcome != wxtoken.OutcomeRenewing {
		t.Errorf("a report: %q %+v", code, verdict)
	}
	life(first.Generation + 2)
	r.clock.forward(2 * time.Minute) // two that are asked for have to lie apart
	if code := r.asks(events.SubjectRenew, fmt.Sprintf(`{"key":%q}`, aliceJSAPI), &verdict); code != "" || verdict.Outcome != wxtoken.OutcomeRenewing {
		t.Errorf("a wish: %q %+v", code, verdict)
	}
	life(first.Generation + 3)
	// The next one is there soon after the end of the first by WeChat's count, which begins later than ours by as long as the request took.
	// The sweep alone keeps them: NATS does not live by our clock.
	end := d.end(first.Value)
	var came time.Time // when the last time to ask did; what the machine takes from there on is not late
	for step := 0; r.token(aliceJSAPI).Value == first.Value; step++ {
		if step > 10 {
			t.Fatal("no new ticket")
		}
		if due := r.token(aliceJSAPI).RenewAt; due.After(end.Add(time.Second)) {
			t.Fatalf("asked for again at %v, it ends at %v", due, end)
		}
		r.clock.forward(max(0, r.token(aliceJSAPI).RenewAt.Sub(r.clock.Now())))
		came = time.Now()
		for _, key := range []wxtoken.Key{componentKey, aliceKey} {
			if !r.clock.Now().Before(r.token(key).RenewAt) {
				before := r.token(key).Generation
				r.poke(key)
				r.until("not renewed", func() bool { return r.token(key).Generation > before })
			}
		}
		r.heard() // it is asked for with the account's token
		before := r.token(aliceJSAPI).Generation
		r.poke(aliceJSAPI)
		r.until("not asked for", func() bool { return r.token(aliceJSAPI).Generation > before })
	}
	if late := r.token(aliceJSAPI).ObtainedAt.Sub(end) - time.Since(came); late > 2*time.Second {
		t.Errorf("the new ticket came %v after the end of the old one", late)
	}
	if n := len(d.calls(alice, jsapi)); n > 9 {
		t.Errorf("asked %d times", n)
	}
}

// TestTicketWhoseAnswerWasLost loses WeChat's answers to the calls for a ticket for 54 minutes, also over the death of the refresher.
// WeChat may have made it for the first call or for the last: its life is counted from the first, and after that it is looked at often.
func TestTicketWhoseAnswerWasLost(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"executed", "dropped"} {
		t.Run(how, func(t *testing.T) {
			r, d := deskRig(t, func(r *rig) { r.cfg.Derive, r.cfg.SweepEvery = []string{jsapi}, time.Hour })
			d.loses(how)
			r.must(r.sim.Authorize(appid, alice))
			lost := func(n int) {
				t.Helper()
				r.until("not asked for", func() bool { return r.credential(aliceJSAPI).Failures >= n })
			}
			lost(1)
			first := d.calls(alice, jsapi)[0]
			renewed := func(key wxtoken.Key) {
				t.Helper()
				before := r.token(key).Generation
				r.poke(key)
				r.until(key.String()+" not renewed", func() bool { return r.token(key).Generation > before })
			}
			r.clock.forward(25 * time.Minute)
			lost(2)
			d.stop()
			r.start()
			r.clock.forward(29*time.Minute + 9*time.Second)
			d.loses("")
			r.poke(aliceJSAPI)
			ticket := r.kept(aliceJSAPI)
			if life := ticket.ExpiresAt.Sub(first).Round(time.Second); life < 2*time.Hour-time.Second || life > 2*time.Hour || ticket.ObtainedAt.Sub(first) < 54*time.Minute {
				t.Errorf("it is believed for %v after the first call: %+v", life, ticket)
			}
			for r.token(aliceJSAPI).Value == ticket.Value {
				r.clock.forward(max(0, r.token(aliceJSAPI).RenewAt.Sub(r.clock.Now())))
				for _, key := range []wxtoken.Key{componentKey, aliceKey} {
					if !r.clock.Now().Before(r.token(key).RenewAt) {
						renewed(key)
					}
				}
				renewed(aliceJSAPI)
			}
			if late := r.clock.Now().Sub(d.end(ticket.Value)); late > 90*time.Second {
				t.Errorf("the ticket was dead for %v", late)
			}
			if n := len(d.calls(alice, jsapi)); n > 70 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// TestTicketsFollowTheAccount ends and brings back the authorization, and switches the tickets off.
func TestTicketsFollowTheAccount(t *testing.T) {
	r, _ := deskRig(t, nil)
	r.authorize(alice)
	r.kept(aliceJSAPI)
	r.kept(aliceCard)
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Cancel(appid, alice))
	r.notKept(aliceJSAPI)
	r.notKept(aliceCard)
	r.clock.forward(2 * time.Second)
	r.must(r.sim.Authorize(appid, alice))
	for _, key := range []wxtoken.Key{aliceJSAPI, aliceCard} {
		r.kept(key, 2)
		r.state(key, wxtoken.StateActive)
	}
}

// TestTicketsOfANewAuthorization: what WeChat refused a ticket for is of no account after a new authorization, whoever tells of that: a
// push, the list, or a refresher that died before it came to the tickets.
func TestTicketsOfANewAuthorization(t *testing.T) {
	t.Parallel()
	for _, teller := range []string{"push", "list", "list, the same refresh token", "died"} {
		t.Run(teller, func(t *testing.T) {
			var dies atomic.Bool
			r, d := deskRig(t, func(r *rig) {
				r.step = func(name string) {
					if name == "exchange.committed" && dies.CompareAndSwap(true, false) {
						runtime.Goexit()
					}
				}
			})
			r.authorize(alice)
			r.kept(aliceJSAPI)
			r.kept(aliceCard)
			r.drained()
			d.fails(alice, 48001)
			for tries, wait := range []time.Duration{0, time.Minute, 10 * time.Minute, time.Hour} {
				r.clock.forward(wait)
				for _, key := range []wxtoken.Key{aliceJSAPI, aliceCard} {
					r.until("not tried", func() bool { // the sweep's due message may have been at the key, and this one for nothing
						r.pokeOnce(key)
						return r.credential(key).Failures > tries
					})
				}
			}
			r.clock.forward(50 * time.Minute)
			for _, key := range []wxtoken.Key{componentKey, aliceKey} {
				handled := r.handled(key)
				r.poke(key)
				r.until("not renewed", func() bool { return r.token(key).Generation > 1 && r.handled(key) > handled })
			}
			for _, key := range []wxtoken.Key{aliceJSAPI, aliceCard} {
				if until := r.credential(key).RetryAt.Sub(r.clock.Now()); until < 4*time.Hour || r.clock.Now().Before(d.end(r.token(key).Value)) {
					t.Fatalf("%s is tried again in %s", key, until)
				}
			}
			d.fails(alice, 0)
			switch teller {
			case "push":
				r.must(r.sim.Reauthorize(appid, alice))
			case "list":
				r.sim.DropPushes("", 1)
				r.must(r.sim.Reauthorize(appid, alice))
				r.must(r.store.MakeReconcileDue(r.Context(), appid, ""))
			case "list, the same refresh token":
				r.fail(wechatsim.Fault{API: apiList, Mode: wechatsim.FaultBody, Times: 1, Body: fmt.Sprintf(
					`{"total_count":1,"list":[{"authorizer_appid":%q,"refresh_token":%q,"auth_time":%d}]}`,
					alice, r.credential(aliceKey).RefreshToken, r.clock.Now().Unix())})
				r.must(r.store.MakeReconcileDue(r.Context(), appid, ""))
			case "died":
				dies.Store(true)
				r.must(r.sim.Reauthorize(appid, alice))
			}
			for _, key := range []wxtoken.Key{aliceJSAPI, aliceCard} {
				r.until(key.String()+" is dead", func() bool { return r.clock.Now().Before(d.end(r.token(key).Value)) })
				r.state(key, wxtoken.StateActive)
			}
		})
	}
}

// TestTicketsThatSomebodyLeft has a refresher die between the end of an authorization and that of its tickets.
func TestTicketsThatSomebodyLeft(t *testing.T) {
	r, _ := deskRig(t, nil)
	r.authorize(alice)
	r.kept(aliceJSAPI)
	r.kept(aliceCard)
	r.drained()
	cred := r.credential(aliceKey)
	cred.RevokedAt = r.clock.Now().UTC()
	ctx, cancel := context.WithCancel(t.Context())
	var committer sync.WaitGroup
	committer.Go(func() { r.store.Run(ctx) })
	_, err := r.store.Revoke(ctx, cred)
	cancel()
	committer.Wait()
	r.must(err)
	r.notKept(aliceJSAPI)
	r.notKept(aliceCard)
}

// TestTicketsSwitchedOff has the settings ask for one ticket less: it goes at its next renewal.
func TestTicketsSwitchedOff(t *testing.T) {
	r, d := deskRig(t, nil)
	r.authorize(alice)
	r.kept(aliceJSAPI)
	r.kept(aliceCard)
	r.drained()
	asked := len(d.calls(alice, wxCard))
	d.stop()
	r.cfg.Derive = []string{jsapi}
	r.start()
	r.poke(aliceCard)
	r.notKept(aliceCard)
	r.poke(aliceKey)
	r.generation(aliceKey, 2)
	r.poke(aliceJSAPI)
	r.kept(aliceJSAPI, 2)
	r.drained()
	r.notKept(aliceCard)
	if n := len(d.calls(alice, wxCard)); n != asked {
		t.Errorf("asked %d times for a ticket that is not wanted", n-asked)
	}
}

// TestTicketsSwitchedOnAgain has the settings ask for a ticket again that was ended: it does not wait for its account's renewal.
func TestTicketsSwitchedOnAgain(t *testing.T) {
	r, d := deskRig(t, nil)
	r.authorize(alice)
	r.kept(aliceCard)
	r.drained()
	d.stop()
	both := r.cfg.Derive
	r.cfg.Derive = []string{jsapi}
	p := r.start()
	r.poke(aliceCard)
	r.notKept(aliceCard)
	r.drained()
	p.stop()
	r.cfg.Derive = both
	r.clock.forward(6 * time.Minute)
	r.start()
	r.kept(aliceCard)
	if generation := r.token(aliceKey).Generation; generation != 1 {
		t.Errorf("the account was renewed, generation %d", generation)
	}
}

// TestTicketRefused has WeChat refuse the account's token for a ticket: it is replaced once, not again and again.
func TestTicketRefused(t *testing.T) {
	r, d := deskRig(t, nil)
	r.authorize(alice)
	r.kept(aliceJSAPI)
	r.drained()
	r.clock.forward(2 * time.Minute) // past the cool-down
	r.must(r.sim.Invalidate(appid, alice))
	r.poke(aliceJSAPI)
	r.generation(aliceKey, 2)
	r.drained()
	r.clock.forward(time.Minute)
	r.poke(aliceJSAPI)
	r.kept(aliceJSAPI, 2)
	r.drained() // or a renewal under way ends after the clock has moved

	d.fails(alice, 40001) // whatever the token
	r.clock.forward(2 * time.Minute)
	r.pokeOnce(aliceJSAPI)
	r.until("the token is not replaced", func() bool { return r.token(aliceKey).Generation >= 3 })
	for range 5 {
		r.clock.forward(10 * time.Second)
		r.pokeOnce(aliceJSAPI)
	}
	if g := r.token(aliceKey).Generation; g != 3 {
		t.Errorf("the account's token was replaced %d times within a minute", g-2)
	}
	r.state(aliceJSAPI, wxtoken.StateRenewingFailed)
	r.state(aliceKey, wxtoken.StateActive)
	r.state(componentKey, wxtoken.StateActive)
}

// TestTicketsNeverLoop has WeChat refuse a ticket in the same way for two hours. That is no concern of the others.
func TestTicketsNeverLoop(t *testing.T) {
	t.Parallel()
	for _, code := range []int{-1, 40001, 40013, 45009, 45011, 48001, 61003, 61004, 61007, 61023, 99999} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			r, d := deskRig(t, func(r *rig) { r.cfg.SweepEvery = time.Hour })
			r.authorize(alice)
			r.kept(aliceJSAPI)
			r.drained()
			r.clock.forward(80 * time.Minute)
			for _, key := range []wxtoken.Key{componentKey, aliceKey} {
				r.poke(key)
				r.until("not renewed", func() bool { return r.token(key).Generation >= 2 })
			}
			before, began := len(d.calls(alice, jsapi)), r.clock.Now()
			d.fails(alice, code)
			r.wantNoLoop(aliceJSAPI, func(since time.Time) map[string][]time.Time {
				times := d.calls(alice, jsapi)
				for len(times) > 0 && times[0].Before(since) {
					times = times[1:]
				}
				return map[string][]time.Time{jsapi: times}
			})
			r.state(componentKey, wxtoken.StateActive)
			r.state(aliceKey, wxtoken.StateActive)
			if s := r.status(aliceJSAPI); s.State == wxtoken.StateActive || s.LastError == nil || s.LastError.Code != code {
				t.Errorf("the ticket's status is %+v", s)
			}
			refused := len(d.calls(alice, jsapi)) - before
			most := map[int]int{48001: 4, 61007: 4, 45009: 1}[code] // then it waits for hours
			if code == 45009 && !sameDay(began, r.clock.Now()) {
				most = 4 // the day turned, and then it is asked some minutes apart whether it has at WeChat, too
			}
			if most > 0 && refused > most {
				t.Errorf("asked %d times, want %d at most", refused, most)
			}
		})
	}
}

// sameDay reports whether two times are on one day of WeChat's, which turns at UTC+8: tests run at any hour.
func sameDay(a, b time.Time) bool {
	day := func(t time.Time) string { return t.In(time.FixedZone("UTC+8", 8*60*60)).Format(time.DateOnly) }
	return day(a) == day(b)
}

// TestTicketDeaths ends the handler of a ticket at each step: what is left is found and finished.
func TestTicketDeaths(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"loaded", "claimed", "asked", "judged", "committed", "exchange.committed"} {
		t.Run(step, func(t *testing.T) {
			r, d := deskRig(t, func(r *rig) {
				r.cfg.Derive = []string{jsapi}
				var once sync.Once
				authorized := func() bool { return r.log.count("authorizer authorized") > 0 }
				r.step = func(name string) {
					if name == step && (authorized() || name == "exchange.committed") {
						once.Do(runtime.Goexit)
					}
				}
			})
			r.must(r.sim.Authorize(appid, alice))
			ticket := r.kept(aliceJSAPI)
			r.until("not active", func() bool { return r.status(aliceJSAPI).State == wxtoken.StateActive })
			r.until("not scheduled", func() bool { _, ok := r.scheduled(aliceJSAPI); return ok })
			if n := len(d.calls(alice, jsapi)); n > 2 || r.token(aliceJSAPI).Value != ticket.Value {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// TestTicketReportedAgain: a report has the same ticket fetched, so the next reports have to wait.
func TestTicketReportedAgain(t *testing.T) {
	r, d := deskRig(t, nil)
	r.authorize(alice)
	ticket := r.kept(aliceJSAPI)
	r.drained()
	r.clock.forward(2 * time.Minute)
	before := len(d.calls(alice, jsapi))
	report := func() wxtoken.Outcome {
		t.Helper()
		v, refused := request[events.Verdict](r, events.SubjectReject, map[string]any{"key": aliceJSAPI.String(), "token_sha256": sha(ticket.Value.Reveal())})
		if refused.code != "" {
			t.Fatal(refused)
		}
		return v.Outcome
	}
	if got := report(); got != wxtoken.OutcomeRenewing {
		t.Errorf("the first report: %s", got)
	}
	r.until("not fetched", func() bool { return len(d.calls(alice, jsapi)) > before })
	r.drained()
	if got := report(); got != wxtoken.OutcomeTooSoon {
		t.Errorf("the second report: %s", got)
	}
}
