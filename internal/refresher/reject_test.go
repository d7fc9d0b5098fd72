package refresher_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/wechatsim"
)

// verdict asks for a verdict, and fails the test unless its outcome is the wanted one.
func (r *rig) verdict(subject string, question any, want wxtoken.Outcome) events.Verdict {
	r.Helper()
	v, refused := request[events.Verdict](r, subject, question)
	if refused.code != "" || v.Outcome != want {
		r.Fatalf("%s: outcome %q (%v), want %q", subject, v.Outcome, refused, want)
	}
	return v
}

func (r *rig) reject(q events.Reject, want wxtoken.Outcome) events.Verdict {
	r.Helper()
	return r.verdict(events.SubjectReject, q, want)
}

func (r *rig) renew(key wxtoken.Key, want wxtoken.Outcome) events.Verdict {
	r.Helper()
	return r.verdict(events.SubjectRenew, events.Renew{Key: key}, want)
}

func TestReject(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	first := r.token(aliceKey)
	report := events.Reject{Key: aliceKey, Revision: first.Revision, By: "shop-backend"}
	if v := r.reject(report, wxtoken.OutcomeTooSoon); v.Revision != first.Revision {
		t.Errorf("too_soon speaks of revision %d, want %d", v.Revision, first.Revision)
	}
	r.clock.forward(time.Minute + time.Second)
	r.must(r.sim.Invalidate(appid, alice))
	if v := r.reject(report, wxtoken.OutcomeRenewing); v.Revision != first.Revision {
		t.Errorf("renewing speaks of revision %d, want the refused one, %d", v.Revision, first.Revision)
	}
	second := r.generation(aliceKey, 2)
	if second.Previous != nil {
		t.Error("a token that WeChat refused is called the previous one")
	}
	r.drained()
	if told, _ := request[events.AccountAnswer](r, events.SubjectAccount, events.AccountRequest{Key: aliceKey}); told.History[0].ReportedBy != "shop-backend" || told.History[0].Reason != events.ReasonRefused {
		t.Errorf("its history: %+v", told.History)
	}
	if _, refused := request[events.Verdict](r, events.SubjectReject, events.Reject{Key: aliceKey, Revision: 1, By: "<b>shop</b>"}); refused.code != "400" || strings.Contains(refused.text, "shop") {
		t.Errorf("a name that is none: %+v", refused)
	}
	for _, late := range []events.Reject{
		report,
		{Key: aliceKey, Revision: 1},
		{Key: aliceKey, Revision: second.Revision + 1000}, // of a stream that was lost
		{Key: aliceKey, TokenSHA256: sha(first.Value.Reveal())},
		{Key: aliceKey, TokenSHA256: sha("nobody's")},
	} {
		r.eventually(func() error { // that a token is old is known from the view, which may be a moment behind
			if v := r.reject(late, wxtoken.OutcomeAlreadyRenewed); v.Revision != second.Revision {
				return fmt.Errorf("already_renewed speaks of revision %d, want the current one, %d", v.Revision, second.Revision)
			}
			return nil
		})
	}
	r.wantCalls(apiRefresh, 1)

	for _, digits := range []func(string) string{strings.ToLower, strings.ToUpper} {
		current := r.token(aliceKey)
		q := events.Reject{Key: aliceKey, TokenSHA256: digits(sha(current.Value.Reveal()))}
		r.reject(q, wxtoken.OutcomeTooSoon)
		r.clock.forward(time.Minute + time.Second)
		r.reject(q, wxtoken.OutcomeRenewing)
		r.generation(aliceKey, current.Generation+1)
	}
	r.drained()
	r.wantCalls(apiRefresh, 3)
	r.wantScheduled(aliceKey)

	// The component's own token, which a service may be told of as well.
	r.reject(events.Reject{Key: componentKey, Revision: r.token(componentKey).Revision}, wxtoken.OutcomeRenewing)
	r.until("the component's token was not renewed", func() bool { return r.token(componentKey).Generation >= 2 })
	r.eventually(r.componentLives)
}

func TestRejectUnknown(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	token := r.token(aliceKey)
	for _, key := range []wxtoken.Key{
		wxtoken.AuthorizerKey(appid, "wxnobody"), wxtoken.AuthorizerKey("wxffffffffffffffff", alice),
		wxtoken.ComponentKey("wxffffffffffffffff"), {Kind: wxtoken.KindJSAPITicket, Component: appid, Authorizer: alice},
	} {
		for _, q := range []events.Reject{{Key: key, Revision: 1}, {Key: key, TokenSHA256: sha("x")}} {
			if v := r.reject(q, wxtoken.OutcomeUnknownKey); v.Revision != 0 {
				t.Errorf("unknown_key speaks of revision %d", v.Revision)
			}
		}
		r.renew(key, wxtoken.OutcomeUnknownKey)
	}
	secret := token.Value.Reveal()
	for _, text := range []string{
		``, `{}`, `not JSON`, `[]`, `{"revision":1}`, `{"key":"","revision":1}`, `{"key":"authorizer.` + appid + `","revision":1}`,
		`{"key":"authorizer.` + appid + `.*","revision":1}`, `{"key":"authorizer.` + appid + `.>","revision":1}`,
		`{"key":"quota.` + appid + `","revision":1}`, `{"key":7,"revision":1}`, `{"key":"` + secret + `","revision":1}`,
		`{"key":"` + aliceKey.String() + `"}`, `{"key":"` + aliceKey.String() + `","revision":0}`,
		`{"key":"` + aliceKey.String() + `","revision":-1}`, `{"key":"` + aliceKey.String() + `","revision":"` + secret + `"}`,
		`{"key":"` + aliceKey.String() + `","revision":1,"token_sha256":"` + sha("x") + `"}`,
		`{"key":"` + aliceKey.String() + `","token_sha256":"` + secret + `"}`,
		`{"key":"` + aliceKey.String() + `","token_sha256":"` + sha("x")[1:] + `"}`,
	} {
		wantRefused(r, events.SubjectReject, text, "400")
	}
	for _, text := range []string{``, `{}`, `{"key":""}`, `{"key":"x"}`, `{"key":"` + secret + `"}`, `{"key":["` + aliceKey.String() + `"]}`} {
		wantRefused(r, events.SubjectRenew, text, "400")
	}
	r.clock.forward(2 * time.Minute)
	r.must(r.sim.Cancel(appid, alice))
	r.state(aliceKey, wxtoken.StateRevoked)
	r.reject(events.Reject{Key: aliceKey, Revision: token.Revision}, wxtoken.OutcomeUnknownKey)
	r.reject(events.Reject{Key: aliceKey, TokenSHA256: sha(secret)}, wxtoken.OutcomeUnknownKey)
	r.renew(aliceKey, wxtoken.OutcomeUnknownKey)
	r.drained()
	r.wantCalls(apiRefresh, 0)
}

// TestRejectedByMany has two hundred report the same token at once, through two refreshers, while WeChat is slow.
func TestRejectedByMany(t *testing.T) {
	r := newRig(t, options{})
	r.start()
	r.authorize(alice)
	r.clock.forward(2 * time.Minute)
	token := r.token(aliceKey)
	r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultSlow, Delay: 300 * time.Millisecond})
	byRevision, err := json.Marshal(events.Reject{Key: aliceKey, Revision: token.Revision})
	r.must(err)
	byDigest, err := json.Marshal(events.Reject{Key: aliceKey, TokenSHA256: sha(token.Value.Reveal())})
	r.must(err)
	var asking sync.WaitGroup
	var mu sync.Mutex
	outcomes := map[wxtoken.Outcome]int{}
	for i := range 200 {
		asking.Go(func() {
			question := byRevision
			if i%2 == 1 {
				question = byDigest
			}
			var v events.Verdict
			for deadline := time.Now().Add(within); v.Outcome == "" && time.Now().Before(deadline); { // 503: ask again
				m, err := r.request(events.SubjectReject, question)
				if err == nil {
					err = json.Unmarshal(m.Data, &v)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
			mu.Lock()
			defer mu.Unlock()
			outcomes[v.Outcome]++
		})
	}
	asking.Wait()
	if n := outcomes[wxtoken.OutcomeRenewing]; n == 0 || n+outcomes[wxtoken.OutcomeAlreadyRenewed] != 200 {
		t.Errorf("outcomes %v", outcomes)
	}
	r.generation(aliceKey, 2)
	r.drained()
	r.wantCalls(apiRefresh, 1)
}

// TestRejectedAllDay reports every token as soon as that is heard: after account.MaxForced a day it is not, until the next day.
func TestRejectedAllDay(t *testing.T) {
	r := newRig(t, options{sim: wechatsim.Config{TokenLife: 30 * 24 * time.Hour}})
	r.authorize(alice)
	beijing := r.clock.Now().UTC().Add(8 * time.Hour)
	r.clock.forward(beijing.Truncate(24 * time.Hour).Add(25 * time.Hour).Sub(beijing)) // one in the morning
	const most = 24
	for n := range most {
		token := r.token(aliceKey)
		if n%2 == 0 {
			r.reject(events.Reject{Key: aliceKey, Revision: token.Revision}, wxtoken.OutcomeRenewing)
		} else {
			r.renew(aliceKey, wxtoken.OutcomeRenewing)
		}
		r.generation(aliceKey, token.Generation+1)
		r.clock.forward(time.Minute + 10*time.Second)
	}
	r.reject(events.Reject{Key: aliceKey, Revision: r.token(aliceKey).Revision}, wxtoken.OutcomeTooSoon)
	r.renew(aliceKey, wxtoken.OutcomeTooSoon)
	r.drained()
	r.wantCalls(apiRefresh, most)
	r.clock.forward(23 * time.Hour)
	r.reject(events.Reject{Key: aliceKey, Revision: r.token(aliceKey).Revision}, wxtoken.OutcomeRenewing)
	r.generation(aliceKey, most+2)
}

// TestClientReport has a service find out that WeChat refuses its token.
func TestClientReport(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	client, err := wxtoken.NewClient(t.Context(), r.nats.Connect(), wxtoken.Config{Keys: []wxtoken.Key{aliceKey}, Now: r.clock.Now})
	r.must(err)
	defer client.Close()
	r.clock.forward(2 * time.Minute)
	for _, byDigest := range []bool{false, true} {
		token, err := client.Token(aliceKey)
		r.must(err)
		r.must(r.sim.Invalidate(appid, alice))
		report := token
		if byDigest {
			report.Revision = 0 // as one that does not come from a client
		}
		var outcome wxtoken.Outcome
		r.eventually(func() error { // until the refresher listens
			outcome, err = client.Report(t.Context(), report)
			return err
		})
		if outcome != wxtoken.OutcomeRenewing {
			t.Errorf("the outcome is %q", outcome)
		}
		next, err := client.Next(t.Context(), token)
		r.must(err)
		if !r.sim.Accepts(appid, alice, next.Value.Reveal()) || next.Generation != token.Generation+1 || next.Previous != nil {
			t.Errorf("after a report the token is of generation %d", next.Generation)
		}
		if outcome, err := client.Report(t.Context(), report); err != nil || outcome != wxtoken.OutcomeAlreadyRenewed {
			t.Errorf("reported again: %q, %v", outcome, err)
		}
		if outcome, err := client.Report(t.Context(), next); err != nil || outcome != wxtoken.OutcomeTooSoon {
			t.Errorf("reported at once: %q, %v", outcome, err)
		}
		r.clock.forward(2 * time.Minute)
	}
}

func TestRenew(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	first := r.token(aliceKey)
	r.renew(aliceKey, wxtoken.OutcomeTooSoon)
	r.clock.forward(2 * time.Minute)
	r.renew(aliceKey, wxtoken.OutcomeRenewing)
	if second := r.generation(aliceKey, 2); second.Previous == nil || second.Previous.Value != first.Value {
		t.Error("a renewal that the operator asked for does not keep the previous token")
	}
	r.drained()
	r.wantCalls(apiRefresh, 1)

	// A key that waits after a failure is tried at once, and once: then the wait goes on.
	r.clock.forward(2 * time.Minute)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61007}) // asked again after a minute, ten minutes, an hour
	r.pokedInVain(aliceKey)
	r.wantCalls(apiRefresh, 2)
	for calls := 3; calls <= 4; calls++ {
		r.clock.forward(2 * time.Minute) // what is asked for has to lie apart
		r.renew(aliceKey, wxtoken.OutcomeRenewing)
		r.until("the operator is not heard", func() bool { return r.calls(apiRefresh) == calls })
		r.pokedInVain(aliceKey)
		r.wantCalls(apiRefresh, calls)
	}
	r.sim.Heal()
	r.clock.forward(2 * time.Minute)
	r.renew(aliceKey, wxtoken.OutcomeRenewing)
	r.generation(aliceKey, 3)
	r.state(aliceKey, wxtoken.StateActive)
}

// TestRenewBesideAFailure has the operator ask while the handler of a try that failed is at its end: that puts the wish off, and it is
// heard all the same.
func TestRenewBesideAFailure(t *testing.T) {
	r := newRig(t, options{idle: true})
	failed, gone := make(chan struct{}, 1), make(chan struct{})
	r.step = func(name string) {
		if name == "failed" {
			select {
			case failed <- struct{}{}:
				<-gone
			default:
			}
		}
	}
	r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.authorize(alice)
	r.clock.forward(2 * time.Minute)                         // her token is too new before
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61007}) // asked again after a minute
	r.poke(aliceKey)
	<-failed
	r.sim.Heal()
	r.renew(aliceKey, wxtoken.OutcomeRenewing)
	r.until("not put off", func() bool { return r.log.count("is being worked at here", events.DueSubject(aliceKey)) > 0 })
	close(gone)
	r.generation(aliceKey, 2)
	r.wantCalls(apiRefresh, 2)
}

func TestReconcileAskedFor(t *testing.T) {
	r := newRig(t, options{})
	r.keep()
	r.drained()
	listed := r.calls(apiList)
	r.must(r.sim.Authorize(appid, alice)) // the push is lost
	answer, refused := request[map[string]any](r, events.SubjectReconcile, events.ReconcileRequest{Component: appid})
	if refused.code != "" || len(answer) != 1 || answer["outcome"] != "reconciling" {
		t.Errorf("the answer is %v, %v", answer, refused)
	}
	r.generation(aliceKey, 1)
	r.wantCalls(apiList, listed+1)
	wantRefused(r, events.SubjectReconcile, events.ReconcileRequest{Component: "wxffffffffffffffff"}, "404")
	wantRefused(r, events.SubjectReconcile, `{}`, "404")
	wantRefused(r, events.SubjectReconcile, `{"component":7}`, "400")
}

// TestNeedsAuthorization climbs the ladder to its end: there stands a link that leads back.
func TestNeedsAuthorization(t *testing.T) {
	r := newRig(t, options{cfg: func(c *refresher.Config) {
		withLinks(c)
		c.RenewFraction = 0.9
	}})
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	m.send(m.push)
	m.wantAuthorized(alice, "7")
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61023})
	for _, wait := range []time.Duration{time.Minute, 10 * time.Minute, time.Hour, 0} {
		r.refusedAndListed()
		r.clock.forward(wait + time.Second)
	}
	s := r.state(aliceKey, wxtoken.StateNeedsAuthorization)
	id, ok := strings.CutPrefix(s.ReauthorizeURL, publicURL+"/connect/")
	if !ok {
		t.Fatalf("reauthorize_url is %q", s.ReauthorizeURL)
	}

	// The operator may try all the same.
	calls := r.calls(apiRefresh)
	r.renew(aliceKey, wxtoken.OutcomeRenewing)
	r.until("the operator is not heard", func() bool { return r.calls(apiRefresh) == calls+1 })
	r.until("nothing became of it", func() bool { return r.credential(aliceKey).Claim == nil })
	r.pokedInVain(aliceKey)
	if s = r.state(aliceKey, wxtoken.StateNeedsAuthorization); s.ReauthorizeURL == "" {
		t.Error("the link is gone")
	}

	r.sim.Heal()
	r.clock.forward(6 * 24 * time.Hour)
	r.ticket()
	r.send(r.next(events.KindTicket))
	r.eventually(r.componentLives)
	again := &merchant{rig: r, id: id}
	again.consent(alice)
	if page := again.open(events.ConnectOpen{ID: id, Step: events.StepResult, Session: again.session}); page.State != events.ConnectPending {
		t.Errorf("the page is %+v", page)
	}
	again.send(again.push)
	again.ended(events.ConnectAuthorized) // the due message of the old token is put off for hours: nothing is drained
	r.eventually(func() error { return r.accepted(alice) })
	if s := r.state(aliceKey, wxtoken.StateActive); s.Authorizer.Ref != "7" || s.ReauthorizeURL != "" || s.LastError != nil {
		t.Errorf("authorized again, the status is %+v", s)
	}
}

func TestRenewOfAKeyThatNeedsAuthorization(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61023})
	for _, wait := range []time.Duration{time.Minute, 10 * time.Minute, time.Hour, 0} {
		r.refusedAndListed()
		r.clock.forward(wait + time.Second)
	}
	if s := r.state(aliceKey, wxtoken.StateNeedsAuthorization); s.ReauthorizeURL != "" {
		t.Errorf("a link without --public-url: %q", s.ReauthorizeURL)
	}
	r.sim.Heal()
	r.renew(aliceKey, wxtoken.OutcomeRenewing)
	r.generation(aliceKey, 2)
	r.state(aliceKey, wxtoken.StateActive)
}

// TestWithoutAPIPermission has an account authorize that grants nothing that needs a token. Its link is replaced before it ends.
func TestWithoutAPIPermission(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	r.fail(wechatsim.Fault{API: apiExchange, Mode: wechatsim.FaultBody, Times: 1,
		Body: `{"authorization_info":{"authorizer_appid":"` + alice + `","func_info":[]}}`})
	m.comesBack()
	if o := m.ended(events.ConnectFailed); o.Reason != "no_api_permission" || o.Authorizer != alice {
		t.Errorf("the link ended as %+v", o)
	}
	r.drained()
	s := r.state(aliceKey, wxtoken.StateNeedsAuthorization)
	if !strings.HasPrefix(s.ReauthorizeURL, publicURL+"/connect/") || s.Authorizer == nil || s.Authorizer.Ref != "7" {
		t.Errorf("the status is %+v", s)
	}
	if o := m.result(); o.State != events.ConnectFailed || o.Authorizer != alice {
		t.Errorf("later the link is %+v", o)
	}
	r.clock.forward(6*24*time.Hour + time.Hour)
	r.ticket()
	r.send(r.next(events.KindTicket))
	r.eventually(r.componentLives)
	r.poke(aliceKey)
	r.until("no other link", func() bool { return r.status(aliceKey).ReauthorizeURL != s.ReauthorizeURL })
	if s := r.status(aliceKey); s.State != wxtoken.StateNeedsAuthorization || !strings.HasPrefix(s.ReauthorizeURL, publicURL+"/connect/") || account.ReadyReason(s) != wxtoken.ReasonNoAPIPermission {
		t.Errorf("six days later the status is %+v", s)
	}
}
