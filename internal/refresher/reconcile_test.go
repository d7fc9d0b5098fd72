package refresher_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/wechatsim"
)

// listedRig has so many accounts that authorized before there was a refresher, a second apart, and the first ticket.
func listedRig(t *testing.T, accounts int, o options) (*rig, events.Auth) {
	t.Helper()
	o.idle = true
	r := newRig(t, o)
	r.keep()
	r.clock.forward(-time.Duration(accounts) * time.Second)
	r.sim.DropPushes(events.KindAuthorized, accounts)
	for i := range accounts {
		r.must(r.sim.Authorize(appid, fmt.Sprintf("wxmany%011d", i)))
		r.clock.forward(time.Second)
	}
	r.ticket()
	first := r.next(events.KindTicket)
	r.sim.ClearHistory()
	return r, first
}

// back returns how many accounts have a token.
func (r *rig) back() (n int, err error) {
	stream, err := r.js.Stream(r.Context(), events.StreamTokens)
	if err != nil {
		return 0, err
	}
	info, err := stream.Info(r.Context(), jetstream.WithSubjectFilter("$KV.tokens.authorizer.>"))
	if err != nil {
		return 0, err
	}
	return len(info.State.Subjects), nil
}

// all waits until so many accounts have a token.
func (r *rig) all(accounts int) {
	r.Helper()
	r.eventually(func() error {
		n, err := r.back()
		if err == nil && n < accounts {
			time.Sleep(50 * time.Millisecond)
			err = fmt.Errorf("%d of %d are back", n, accounts)
		}
		return err
	})
}

// TestEverybodyComesBack loses all data of many accounts: one ticket brings all back, the oldest first, no faster than allowed.
func TestEverybodyComesBack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const accounts, perSecond = 200, 50
	r, first := listedRig(t, accounts, options{cfg: func(c *refresher.Config) { c.APIRate, c.Concurrency = perSecond, 16 }})
	r.start()
	r.send(first)
	r.all(accounts)
	// Where the machine was too slow for a call or an ack, that is made again, and counted twice; and those of whom NATS did not take
	// the first reading come after others.
	once := r.log.count("message put off", "reconcile: ") == 0
	if once {
		r.wantCalls(apiList, accounts/500+1)
	}
	if r.log.count("renewal delayed") == 0 && r.log.count("message put off", "commit ") == 0 {
		r.wantCalls(apiRefresh, accounts)
	}
	var at []time.Time
	for _, e := range r.sim.History() {
		if e.Kind != wechatsim.EntryCall {
			continue
		}
		at = append(at, e.Time)
		if e.API == apiRefresh {
			var i int
			if _, err := fmt.Sscanf(e.Authorizer, "wxmany%d", &i); err != nil {
				t.Fatal(err)
			}
			if ahead := i - len(at); once && ahead > accounts/4 {
				t.Errorf("the one that authorized as number %d was renewed as number %d", i, len(at))
				break
			}
		}
	}
	if n := len(at) - r.log.count("token renewed"); n > accounts/2 { // a slow machine has moments in which nothing waits
		t.Errorf("%d other calls took a turn before all tokens were there", n)
	}
	// Bursts: one of the limiter, and one of those that somebody waits for.
	for i := range at {
		if j := i + 3*perSecond; j < len(at) && at[j].Sub(at[i]) < time.Second {
			t.Errorf("%d calls within %v", j-i, at[j].Sub(at[i]))
			break
		}
	}
	if whole := at[len(at)-1].Sub(at[0]); whole < (accounts-2*perSecond)/perSecond*time.Second {
		t.Errorf("all came back within %v", whole)
	}
	for i := range accounts {
		if i%97 == 0 {
			r.must(r.accepted(fmt.Sprintf("wxmany%011d", i)))
		}
	}

	r.drained()
	// Profiles wait until no renewal does.
	r.eventually(func() error {
		if n := r.calls(apiInfo); n < accounts {
			return onTheWay(fmt.Sprintf("%d profiles of %d", n, accounts))
		}
		return nil
	})

	// Once more: nothing is new, and nothing is read or called but the list.
	calls := len(r.sim.History())
	before := r.log.count("reconciled with WeChat")
	if code := r.asks(events.SubjectReconcile, `{"component":"`+appid+`"}`, nil); code != "" {
		t.Errorf("the wish was refused: %s", code)
	}
	r.until("not reconciled", func() bool {
		return r.log.count("reconciled with WeChat", `"recovered":0`) >= 1 && r.log.count("reconciled with WeChat") > before
	})
	if n := len(r.sim.History()) - calls; n != accounts/500+1 {
		t.Errorf("%d calls for a list of %d that told nothing new", n, accounts)
	}
}

// TestBrokenLists gives lists that break off, are shuffled or count wrongly: what they tell is taken over, and nothing is deleted.
//
// Its rows run in parallel, but before all other tests that do (see options.alone).
func TestBrokenLists(t *testing.T) {
	const accounts = 520
	page := func(total, from, to int) wechatsim.Fault {
		var list []string
		for i := from; i < to; i++ {
			list = append(list, fmt.Sprintf(`{"authorizer_appid":"wxmany%011d","refresh_token":"refreshtoken@@@SEKRET%d","auth_time":%d}`, i, i, 1_700_000_000+i))
		}
		return wechatsim.Fault{API: apiList, Mode: wechatsim.FaultBody, Times: 1,
			Body: fmt.Sprintf(`{"total_count":%d,"list":[%s]}`, total, strings.Join(list, ","))}
	}
	odd := page(accounts, 1, 500)
	odd.Body = strings.Replace(odd.Body, `"list":[`, `"list":[null,`, 1) // full all the same
	for _, row := range []struct {
		name  string
		sim   wechatsim.Config
		lists []wechatsim.Fault
		want  int // accounts known in the end
	}{
		{name: "an entry that can't be read", want: accounts - 1, lists: []wechatsim.Fault{odd, page(accounts, 500, accounts)}},
		{name: "a page that never comes", want: 500, lists: []wechatsim.Fault{
			page(accounts, 0, 500), {API: apiList, Errcode: 48001, Times: 1}}},
		{name: "a page that comes late", want: accounts, lists: []wechatsim.Fault{
			{API: apiList, Errcode: -1, Times: 1}, page(accounts, 0, 500), {API: apiList, Mode: wechatsim.FaultHTML, Times: 1}, page(accounts, 500, accounts)}},
		{name: "shuffled", sim: wechatsim.Config{ShuffleList: true}, want: 500},
		{name: "total_count too small", want: accounts, lists: []wechatsim.Fault{page(3, 0, 500), page(3, 500, accounts)}},
		{name: "total_count too big", want: accounts, lists: []wechatsim.Fault{
			page(2_000_000_000, 0, 500), page(2_000_000_000, 500, accounts), page(2_000_000_000, 0, 0)}},
		{name: "the same page for ever", want: 500, lists: []wechatsim.Fault{page(5, 0, 500), page(5, 0, 500)}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, first := listedRig(t, accounts, options{sim: row.sim})
			r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 45009}) // they need not be renewed
			for _, f := range row.lists {
				r.fail(f)
			}
			r.start()
			r.send(first)
			ended := `"message":"reconciled with WeChat's list"`
			if row.want == 500 && len(row.lists) == 2 && row.lists[1].Errcode != 0 {
				ended = "reconcile: api_get_authorizer_list: errcode 48001"
			}
			r.eventually(func() error {
				if r.log.count(ended) == 0 {
					time.Sleep(50 * time.Millisecond)
					return errors.New("not reconciled")
				}
				return nil
			})
			r.eventually(func() error { // what a page told is taken over although the next one never came
				known := 0
				for i := range accounts {
					if r.credential(wxtoken.AuthorizerKey(appid, fmt.Sprintf("wxmany%011d", i))).RefreshToken != "" {
						known++
					}
				}
				if known >= row.want {
					return nil
				}
				time.Sleep(50 * time.Millisecond)
				return onTheWay(fmt.Sprintf("%d accounts are known, want %d", known, row.want))
			})
			// On a slow disk NATS may not take all of it in time: then it is read once more.
			again := r.log.count(`"message":"message put off"`, "reconcile: ")
			if n := r.calls(apiList); n > 4*(1+again) {
				t.Errorf("the list was asked for %d times, with %d readings put off", n, again)
			}
		})
	}
}

// TestListKnowsLess has the list tell an older refresh token than the one that is stored: that one stays.
func TestListKnowsLess(t *testing.T) {
	r := newRig(t, options{})
	r.authorize(alice)
	cred := r.credential(aliceKey)
	for _, ago := range []time.Duration{0, time.Hour} {
		r.fail(wechatsim.Fault{API: apiList, Mode: wechatsim.FaultBody, Times: 1, Body: fmt.Sprintf(
			`{"total_count":1,"list":[{"authorizer_appid":%q,"refresh_token":"refreshtoken@@@old","auth_time":%d}]}`, alice, cred.AuthorizedAt.Add(-ago).Unix())})
		before := r.log.count("reconciled with WeChat")
		r.asks(events.SubjectReconcile, `{"component":"`+appid+`"}`, nil)
		r.until("not reconciled", func() bool { return r.log.count("reconciled with WeChat") > before })
		if got := r.credential(aliceKey); got.Revision != cred.Revision {
			t.Errorf("the credential changed, to revision %d", got.Revision)
		}
	}
	if code := r.asks(events.SubjectReconcile, `{"component":"wxstranger"}`, nil); code != "404" {
		t.Errorf("a stranger's reconcile: %q, want 404", code)
	}
	r.wantCalls(apiRefresh, 0)
}

// TestOneThatCannotBeAskedAbout is listed, was cancelled, and WeChat does not say which of it is true: that is no reason to read
// the whole list again and again.
func TestOneThatCannotBeAskedAbout(t *testing.T) {
	t.Parallel()
	for _, code := range []int{45009, 48001, 61004, 99999} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			r := newRig(t, options{})
			r.authorize(alice)
			r.clock.forward(10 * time.Minute) // the refusal is clearly the newer news
			r.fail(wechatsim.Fault{API: apiRefresh, Errcode: 61003, Times: 1})
			r.poke(aliceKey)
			r.state(aliceKey, wxtoken.StateRevoked)
			r.drained()
			r.fail(wechatsim.Fault{API: apiInfo, Errcode: code})
			lists := r.calls(apiList)
			ends := func() int { return r.log.count("reconciled with WeChat") }
			before := ends()
			r.asks(events.SubjectReconcile, `{"component":"`+appid+`"}`, nil)
			if code == 99999 { // worth another try, a while later
				r.until("not put off", func() bool { return r.log.count("message put off", "reconcile: ", "99999") == 1 })
				r.wantCalls(apiList, lists+1)
				return
			}
			r.until("not reconciled", func() bool { return ends() > before })
			r.wantCalls(apiList, lists+1)
		})
	}
}

// TestDeathWhileReconciling stops the refresher in the middle of a list: the next one finishes it, without asking for anybody twice.
func TestDeathWhileReconciling(t *testing.T) {
	const accounts = 520
	r, first := listedRig(t, accounts, options{alone: true, cfg: func(c *refresher.Config) { c.Concurrency = 16 }})
	r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultSlow, Delay: 5 * time.Millisecond})
	p := r.start()
	r.send(first)
	r.until("nothing was taken over", func() bool { n, err := r.back(); return err == nil && n > 20 })
	p.nc.Close() // as if it had been killed
	p.stop()
	r.start()
	r.all(accounts)
	r.listRead()
	if n := r.calls(apiRefresh); n > accounts+2*16 {
		t.Errorf("%d renewals of %d accounts", n, accounts)
	}
	seen := map[string]int{}
	for _, e := range r.sim.History() {
		if e.Kind == wechatsim.EntryCall && e.API == apiRefresh {
			seen[e.Authorizer]++
		}
	}
	if len(seen) != accounts || slices.Max(values(seen)) > 3 {
		t.Errorf("%d accounts were renewed, one of them %d times", len(seen), slices.Max(values(seen)))
	}
}

func values(m map[string]int) (all []int) {
	for _, n := range m {
		all = append(all, n)
	}
	return all
}

// TestListOfAnAuthorizationWithoutTime: a redirect tells no time. The list does, and neither an older entry of it nor an
// older line of a file takes the place of what the redirect brought.
func TestListOfAnAuthorizationWithoutTime(t *testing.T) {
	r := newRig(t, options{cfg: withLinks})
	m := r.consents(alice, events.ConnectCreate{Ref: "7"})
	m.comesBack()
	m.ended(events.ConnectAuthorized)
	r.drained()
	good := r.credential(aliceKey).RefreshToken
	year := r.clock.Now().AddDate(-1, 0, 0)
	line := fmt.Sprintf(`{"authorizer_appid":%q,"refresh_token":"refreshtoken@@@a-year-old","auth_time":%d}`, alice, year.Unix())
	if got := r.imports(true, line); got != "older:1" {
		t.Errorf("a line a year old is %s", got)
	}
	r.fail(wechatsim.Fault{API: apiList, Mode: wechatsim.FaultBody, Times: 1,
		Body: `{"total_count":1,"list":[{"authorizer_appid":"` + alice + `","refresh_token":"refreshtoken@@@SEKRET-of-2020","auth_time":1600000000}]}`})
	again := func() {
		before := r.log.count("reconciled with")
		r.must(r.store.ScheduleReconcile(t.Context(), appid, 6*time.Hour, true))
		r.until("no reconcile", func() bool { return r.log.count("reconciled with") > before })
		r.drained()
		if c := r.credential(aliceKey); c.RefreshToken != good {
			t.Error("the refresh token was replaced by an older one")
		}
	}
	again()
	calls := r.calls(apiRefresh)
	again()
	if c := r.credential(aliceKey); c.AuthorizedAt.IsZero() {
		t.Error("the list has the time of the authorization, and it is not known")
	}
	r.wantCalls(apiRefresh, calls)
}

// TestListOfANewerAuthorizationWithTheSameRefreshToken: the access token before is dead then, so the account is renewed. That it was
// given up before does not put that off.
func TestListOfANewerAuthorizationWithTheSameRefreshToken(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(c *account.Credential, now time.Time){
		"all well": func(*account.Credential, time.Time) {},
		"given up": func(c *account.Credential, now time.Time) {
			c.Failures, c.Refusals, c.RetryAt = 5, 4, now.Add(6*time.Hour)
		},
		"given up, time not known": func(c *account.Credential, now time.Time) {
			c.Failures, c.RetryAt, c.AuthorizedAt = 5, now.Add(6*time.Hour), time.Time{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options{})
			r.authorize(alice)
			r.drained()
			c := r.credential(aliceKey)
			authorized := c.AuthorizedAt
			before(&c, r.clock.Now())
			_, err := r.store.Save(t.Context(), c)
			r.must(err)
			r.fail(wechatsim.Fault{API: apiList, Mode: wechatsim.FaultBody, Times: 1, Body: fmt.Sprintf(
				`{"total_count":1,"list":[{"authorizer_appid":%q,"refresh_token":%q,"auth_time":%d}]}`, alice, c.RefreshToken, authorized.Add(time.Hour).Unix())})
			r.must(r.store.ScheduleReconcile(t.Context(), appid, 6*time.Hour, true))
			r.generation(aliceKey, 2)
			if p := r.token(aliceKey).Previous; p != nil {
				t.Error("the token of the authorization before is kept as the previous one")
			}
		})
	}
}

// TestReconcileWaitsForAClaim begins with what is left of an authorization when NATS lost the end of it: a claim, whose owner is done and forgot it.
// A refresher that stops while it waits leaves the rest to the next one.
func TestReconcileWaitsForAClaim(t *testing.T) {
	t.Parallel()
	for name, stopped := range map[string]bool{"by one refresher": false, "by the next": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options{idle: true})
			r.keep()
			r.ticket()
			first := r.next(events.KindTicket)
			r.must(r.sim.Authorize(appid, alice))
			_, err := r.store.Save(t.Context(), account.Credential{Key: aliceKey, Claim: &account.Claim{By: "nobody", Until: r.clock.Now().Add(6 * time.Second)}})
			r.must(err)
			p := r.start()
			r.send(first)
			if stopped {
				r.until("no list", func() bool { return r.calls(apiList) == 1 })
				p.stop()
				r.start()
			}
			r.listRead()
			r.generation(aliceKey, 1)
			r.must(r.accepted(alice))
			r.wantCalls(apiRefresh, 1)
		})
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
