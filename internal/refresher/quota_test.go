package refresher_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/looktest"
	"wxtoken/internal/refresher"
	"wxtoken/internal/settings"
	"wxtoken/wechatsim"
)

const (
	// bob is the account of the tests that need two.
	bob = "wxb0b00000000000"
	// otherApp is the component of the tests that need two.
	otherApp = "wxfedcba9876543210"

	apiQuota = "openapi/quota/get"
	apiClear = "component/clear_quota/v2"
)

var bobKey = wxtoken.AuthorizerKey(appid, bob)

// asks sends a request to the refreshers, as soon as one listens, and reads the answer into answer unless that is nil. It
// returns the code of a refusal, "" for none.
func (r *rig) asks(subject, question string, answer any) (code string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), within)
	defer cancel()
	for {
		m, err := r.nc.RequestWithContext(ctx, subject, []byte(question))
		if errors.Is(err, nats.ErrNoResponders) {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		r.must(err)
		if code = m.Header.Get(micro.ErrorCodeHeader); code == "" && answer != nil {
			r.must(json.Unmarshal(m.Data, answer))
		}
		return code
	}
}

// quota asks for the quota of the component, for one API.
func (r *rig) quota(api string) events.APIQuota {
	r.Helper()
	var answer events.QuotaAnswer
	if code := r.asks(events.SubjectQuota, `{"component":"`+appid+`"}`, &answer); code != "" {
		r.Fatalf("the quota was refused with %s", code)
	}
	i := slices.IndexFunc(answer.APIs, func(q events.APIQuota) bool { return q.API == api })
	if i < 0 {
		r.Fatalf("the quota says nothing of %s: %+v", api, answer)
	}
	return answer.APIs[i]
}

// metric returns the sum of a metric of a process over all series that have the given label values.
func (r *rig) metric(p process, name string, values ...any) (sum float64) {
	r.Helper()
	labels := make([]string, len(values))
	for i, value := range values {
		labels[i] = fmt.Sprint(value)
	}
	sum, _ = looktest.Sum(r, p.metrics, name, labels...)
	return sum
}

// both has the refreshers act for both components.
func (r *rig) both() {
	r.deps = func(d *refresher.Deps) {
		d.Components = append(d.Components, settings.Component{AppID: otherApp, AppSecret: wxtoken.NewSecret(appsecret)})
	}
}

// quotaRig has two refreshers act for two components, and WeChat allow three renewals a day.
func quotaRig(t *testing.T) (r *rig, at [2]process) {
	t.Helper()
	r = newRig(t, options{
		idle: true, evening: true, more: []string{otherApp}, sim: wechatsim.Config{DailyLimit: map[string]int{apiRefresh: 3}},
		cfg: func(c *refresher.Config) { c.SweepEvery = time.Second },
	})
	r.both()
	at[0], at[1] = r.start(), r.start()
	r.ticket()
	r.must(r.sim.PushTicket(otherApp))
	r.eventually(r.componentLives)
	r.authorize(alice)
	r.authorize(bob)
	r.must(r.sim.Authorize(otherApp, alice))
	r.until("not authorized", func() bool { return r.token(wxtoken.AuthorizerKey(otherApp, alice)).Generation >= 1 })
	return r, at
}

// useUp renews alice until the quota of the day is gone, and waits until both refreshers know.
func (r *rig) useUp(at [2]process) {
	r.Helper()
	for generation := uint64(2); generation <= 4; generation++ {
		r.poke(aliceKey)
		r.generation(aliceKey, generation)
	}
	r.pokedInVain(aliceKey)
	r.until("not both refreshers know that the quota is gone", func() bool {
		return r.metric(at[0], "wxtoken_api_paused_until_timestamp_seconds", appid, apiRefresh) > 0 &&
			r.metric(at[1], "wxtoken_api_paused_until_timestamp_seconds", appid, apiRefresh) > 0
	})
}

// TestQuotaClearedElsewhere has the day's quota gone, and cleared by somebody else. The call that rests is not made to find that out.
func TestQuotaClearedElsewhere(t *testing.T) {
	r, at := quotaRig(t)
	r.useUp(at)
	calls := r.calls(apiRefresh)
	for range 3 {
		r.clock.forward(11 * time.Minute)
		asked := r.calls(apiQuota)
		r.until("nobody asks what is left", func() bool { return r.calls(apiQuota) > asked })
	}
	r.wantCalls(apiRefresh, calls)
	r.must(r.sim.SetDailyLimit(apiRefresh, -1))
	r.clock.forward(11 * time.Minute)
	r.until("it still rests", func() bool { return r.metric(at[0], "wxtoken_api_paused_until_timestamp_seconds", appid) == 0 })
	r.generation(aliceKey, 5)
	for _, p := range at {
		r.free(p)
	}
}

func TestQuotaOfTheDay(t *testing.T) {
	r, at := quotaRig(t)
	r.useUp(at)
	turns := r.clock.Now().Truncate(24 * time.Hour).Add(16 * time.Hour)
	if s := r.state(componentKey, wxtoken.StateOperator); s.LastError == nil || s.LastError.Code != 45009 || s.LastError.API != apiRefresh {
		t.Errorf("last error %+v", s.LastError)
	}
	held := func() {
		t.Helper()
		calls := r.calls(apiRefresh, bob)
		for range 4 {
			r.pokedInVain(bobKey)
		}
		r.wantCalls(apiRefresh, calls, bob) // the other component's alice may come due meanwhile
		r.state(componentKey, wxtoken.StateOperator)
	}
	held()
	if q := r.quota(apiRefresh); q.PausedUntil == nil || q.QuotaLeft == nil || !q.PausedUntil.Equal(turns) || q.DailyLimit != 3 || q.Used != 3 || q.Remain != 0 {
		t.Errorf("the quota is %+v, want a pause until %v", q, turns)
	}
	var own events.QuotaAnswer
	if code := r.asks(events.SubjectQuota, `{"component":"`+appid+`","own":true}`, &own); code != "" {
		t.Errorf("refused: %s", code)
	}
	if i := slices.IndexFunc(own.APIs, func(q events.APIQuota) bool { return q.API == apiRefresh }); own.APIs[i].Told == nil || own.APIs[i].Told.DailyLimit != 3 || own.APIs[i].Told.Used != 3 || own.APIs[i].Told.At.IsZero() {
		t.Errorf("what WeChat said is not kept: %+v", own.APIs)
	}
	if until := r.metric(at[0], "wxtoken_api_paused_until_timestamp_seconds"); until != float64(turns.Unix()) {
		t.Errorf("paused until %f, want %d and nothing else paused", until, turns.Unix())
	}

	// Other calls and other components go on.
	r.must(r.sim.Authorize(appid, "wxcar0l000000000"))
	r.eventually(func() error { return r.accepted("wxcar0l000000000") })
	other := wxtoken.AuthorizerKey(otherApp, alice)
	r.poke(other)
	r.until("the other component suffers", func() bool { return r.token(other).Generation >= 2 })
	r.state(wxtoken.ComponentKey(otherApp), wxtoken.StateActive)

	// So do those that come later.
	at[0].stop()
	at[1].stop()
	at = [2]process{r.start(), r.start()}
	r.until("not started", func() bool { return r.log.count("refresher started") == 4 })
	held()
	r.clock.forward(turns.Sub(r.clock.Now()) - 10*time.Minute)
	held()

	r.clock.forward(turns.Sub(r.clock.Now()) + time.Second)
	r.poke(aliceKey) // whose time has come as well
	r.until("not renewed on the next day", func() bool { return r.token(aliceKey).Generation >= 5 })
	if s := r.state(componentKey, wxtoken.StateActive); s.LastError != nil {
		t.Errorf("last error %+v", s.LastError)
	}
	if q := r.quota(apiRefresh); q.PausedUntil != nil {
		t.Errorf("still paused: %+v", q)
	}
	if until := r.metric(at[0], "wxtoken_api_paused_until_timestamp_seconds"); until != 0 {
		t.Errorf("still paused until %f", until)
	}
}

func TestQuotaCleared(t *testing.T) {
	r, at := quotaRig(t)
	r.useUp(at)
	for _, question := range []string{
		`{"component":"` + appid + `","clear":true}`,
		`{"component":"` + appid + `","clear":true,"confirm":"` + otherApp + `"}`,
		`{"component":"` + appid + `","clear":true,"confirm":"yes"}`,
	} {
		if code := r.asks(events.SubjectQuota, question, nil); code != "400" {
			t.Errorf("%s: %q, want 400", question, code)
		}
	}
	if code := r.asks(events.SubjectQuota, `{"component":"wxstranger"}`, nil); code != "404" {
		t.Errorf("a stranger: %q, want 404", code)
	}
	r.wantCalls(apiClear, 0)
	r.pokedInVain(bobKey)
	var answer events.QuotaAnswer
	if code := r.asks(events.SubjectQuota, `{"component":"`+appid+`","clear":true,"confirm":"`+appid+`"}`, &answer); code != "" || !answer.Cleared {
		t.Fatalf("%q %+v", code, answer)
	}
	r.wantCalls(apiClear, 1)
	r.until("not both refreshers know that they may call again", func() bool {
		return r.metric(at[0], "wxtoken_api_paused_until_timestamp_seconds")+r.metric(at[1], "wxtoken_api_paused_until_timestamp_seconds") == 0
	})
	r.clock.forward(6 * time.Second) // past what each knew by itself before
	r.poke(bobKey)
	r.generation(bobKey, 2)
	// Alice met the refusal. Nobody pokes her: the sweep does, once her time has come.
	if wait := r.credential(aliceKey).RetryAt.Sub(r.clock.Now()); wait > time.Minute {
		t.Errorf("she waits for %v", wait)
	}
	r.clock.forward(r.token(aliceKey).RenewAt.Sub(r.clock.Now()) + 2*time.Second)
	r.generation(aliceKey, 5)
	r.state(componentKey, wxtoken.StateActive)
}

// TestCallsCounted has two refreshers count together what they call, after a sweep and when they stop.
func TestCallsCounted(t *testing.T) {
	r := newRig(t, options{idle: true, evening: true, cfg: func(c *refresher.Config) { c.SweepEvery = time.Second }})
	at := [2]process{r.start(), r.start()}
	r.ticket()
	r.eventually(r.componentLives)
	r.authorize(alice)
	r.authorize(bob)
	for generation := uint64(2); generation <= 6; generation++ {
		r.poke(aliceKey)
		r.poke(bobKey)
		r.generation(aliceKey, generation)
		r.generation(bobKey, generation)
	}
	counted := func(count func(api string) int) {
		t.Helper()
		r.eventually(func() error {
			for _, api := range []string{apiComponent, apiExchange, apiRefresh, apiInfo, apiList} {
				if n, calls := count(api), r.calls(api); n != calls {
					return fmt.Errorf("%d calls of %s are counted, there were %d", n, api, calls)
				}
			}
			return nil
		})
	}
	counted(func(api string) int { return r.quota(api).Calls })
	counted(func(api string) int {
		return int(r.metric(at[0], "wxtoken_api_calls_total", appid, api) + r.metric(at[1], "wxtoken_api_calls_total", appid, api))
	})
	if q := r.quota(apiRefresh); q.QuotaLeft == nil || q.Used != r.calls(apiRefresh) || q.Error != "" {
		t.Errorf("WeChat's own count: %+v", q)
	}
	// The day turns: both counts begin anew.
	r.clock.forward(24 * time.Hour)
	if q := r.quota(apiExchange); q.Calls != 0 || q.QuotaLeft != nil && q.Used != 0 {
		t.Errorf("on the next day: %+v", q)
	}

	// What was called since the last sweep is not lost when a refresher stops, even in the last moment.
	at[0].stop()
	at[1].stop()
	r.cfg.SweepEvery = time.Hour
	last := r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.fail(wechatsim.Fault{API: apiRefresh, Mode: wechatsim.FaultSlow, Delay: 300 * time.Millisecond, Times: 1})
	before := r.calls(apiRefresh)
	r.poke(aliceKey)
	r.until("not called", func() bool { return r.calls(apiRefresh) > before })
	last.stop()
	q, err := r.store.Quota(t.Context(), appid)
	r.must(err)
	calls := 0
	for _, e := range r.sim.History() {
		if e.Kind == wechatsim.EntryCall && e.API == apiRefresh && e.Time.UTC().Add(8*time.Hour).Format(time.DateOnly) == q.Day {
			calls++
		}
	}
	if q.Calls[apiRefresh] != calls || calls == 0 {
		t.Errorf("%d renewals are counted, there were %d", q.Calls[apiRefresh], calls)
	}
}

// TestAskingForQuotaHarmsNothing has WeChat refuse the questions themselves.
func TestAskingForQuotaHarmsNothing(t *testing.T) {
	r := newRig(t, options{evening: true})
	r.authorize(alice)
	for _, f := range []wechatsim.Fault{
		{API: apiQuota, Errcode: 76022}, {API: apiQuota, Errcode: 45009}, {API: apiClear, Errcode: 48006}, {API: apiClear, Errcode: 45009},
	} {
		r.fail(f)
		if f.API == apiQuota {
			if q := r.quota(apiRefresh); !strings.Contains(q.Error, "openapi/quota/get") || q.QuotaLeft != nil {
				t.Errorf("%d: %+v", f.Errcode, q)
			}
		} else if code := r.asks(events.SubjectQuota, `{"component":"`+appid+`","clear":true,"confirm":"`+appid+`"}`, nil); code != "503" {
			t.Errorf("%d: %q, want 503", f.Errcode, code)
		}
		generation := r.token(aliceKey).Generation
		r.poke(aliceKey)
		r.generation(aliceKey, generation+1)
		r.state(componentKey, wxtoken.StateActive)
		r.sim.Heal()
	}
	if q := r.quota(apiRefresh); q.Error == "" || q.Calls == 0 {
		t.Errorf("the quota of the question is gone: %+v", q) // so nobody asks, and our own count is shown all the same
	}
}
