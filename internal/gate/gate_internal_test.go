package gate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	wxtoken "wxtoken/client"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// noon is a time in these tests.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// nothing is the view of a process that has not read anything yet.
func nothing() *store.View { return nil }

func newGate(perSecond float64, view func() *store.View) *Gate {
	p := &Process{Rate: perSecond, View: view, Now: func() time.Time { return noon }}
	return p.New("wxc", wxtoken.NewSecret("SEKRET"))
}

// refusal is an answer of WeChat.
func refusal(api wechat.API, code int) error { return &wechat.Error{API: api, Code: code} }

// closedFor returns how long no call of api may be made, without taking a turn.
func closedFor(g *Gate, api wechat.API, now time.Time) time.Duration {
	until, _ := g.closed(api, now)
	return max(until.Sub(now), 0)
}

// TestKinds: each call that WeChat's client can make is known here, and is made with the token that it is charged to.
func TestKinds(t *testing.T) {
	t.Parallel()
	all := append(wechat.ComponentAPIs(), wechat.APIGetTicket, wechat.APICustomSend, wechat.APIQuotaGet, wechat.APIClearQuota)
	for _, api := range all {
		kind, known := kinds[api]
		if !known || (kind.with == withAccountToken) != api.OfAccount() {
			t.Errorf("%s: known %t, %+v", api, known, kind)
		}
	}
	if len(kinds) != len(all) {
		t.Errorf("%d kinds of %d calls", len(kinds), len(all))
	}
}

// TestSlowDown: after a limit per minute calls are made half as often for ten minutes, counted from the last complaint.
func TestSlowDown(t *testing.T) {
	t.Parallel()
	g := newGate(100, nothing)
	want := func(at time.Duration, want rate.Limit) {
		t.Helper()
		g.count(wechat.APIAuthorizerToken, noon.Add(at))
		if got := g.rate.Limit(); got != want {
			t.Errorf("after %v the rate is %v, want %v", at, got, want)
		}
	}
	want(0, 100)
	g.halve(noon)
	want(0, 50)
	want(slowFor, 50)
	want(slowFor+1, 100)
	g.halve(noon.Add(time.Hour))
	g.halve(noon.Add(time.Hour + 5*time.Minute))
	want(time.Hour+12*time.Minute, 50)
	want(time.Hour+16*time.Minute, 100)
}

// TestOneIsNotAway has one account, and then two, answered with "busy" for good: that holds nobody else back.
func TestOneIsNotAway(t *testing.T) {
	t.Parallel()
	g := newGate(1, nothing)
	busy := refusal(wechat.APIAuthorizerToken, -1)
	for range 100 {
		g.hear("wxa", busy, noon)
		g.hear("wxb", busy, noon)
	}
	if g.Away() || g.wait(wechat.APIAuthorizerToken, noon) != 0 {
		t.Fatal("WeChat counts as away because of two accounts")
	}
	g.hear("wxc", busy, noon)
	if !g.Away() || g.wait(wechat.APIAuthorizerToken, noon) != ProbeEvery {
		t.Fatal("not away although three were not answered")
	}
	g.hear("wxa", nil, noon)
	for range 100 {
		g.hear("wxa", busy, noon)
	}
	if g.Away() || len(g.unheard) != 1 {
		t.Error("those of before are still counted")
	}
}

// TestCallsGivenBack: what could not be added to the shared count is added the next time.
func TestCallsGivenBack(t *testing.T) {
	t.Parallel()
	g := newGate(1, nothing)
	g.count(wechat.APIAuthorizerToken, noon)
	taken := g.takeCalls()
	g.count(wechat.APIAuthorizerToken, noon)
	g.giveCalls(taken)
	if got := g.takeCalls(); got[string(wechat.APIAuthorizerToken)] != 2 || len(g.takeCalls()) != 0 {
		t.Errorf("calls %v, want 2", got)
	}
}

// TestSecretLiftsPause: what was refused for the old secret may be tried with the new one; a quota is not back because of it.
func TestSecretLiftsPause(t *testing.T) {
	t.Parallel()
	g := newGate(1, nothing)
	g.SetSecret(wxtoken.NewSecret("one"))
	g.pause(wechat.APIAuthorizerList, noon.Add(time.Hour))
	g.pause(everyAPI, noon.Add(time.Minute))
	g.SetSecret(wxtoken.NewSecret("one"))
	if g.wait(wechat.APIAuthorizerToken, noon) == 0 {
		t.Error("the same secret ended a pause")
	}
	g.SetSecret(wxtoken.NewSecret("two"))
	if g.wait(wechat.APIAuthorizerToken, noon) != 0 || g.Secret().Reveal() != "two" {
		t.Error("still paused after the secret changed")
	}
	if g.wait(wechat.APIAuthorizerList, noon) == 0 {
		t.Error("the quota came back with a secret")
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	gone := refusal(wechat.APIAuthorizerToken, 61003)
	for _, row := range []struct {
		name     string
		outcomes string // of renewals, in their order: "." a token, "x" refused
		want     bool
	}{
		{"nothing happened", "", true},
		{"few", strings.Repeat("x", guardFew), true},
		{"one more than few, of no others", strings.Repeat("x", guardFew+1), false},
		{"a fifth", strings.Repeat("....x", 10), true},
		{"more than a fifth", strings.Repeat("....x", 9) + "...x", false},
		{"a fifth of the last, after many", strings.Repeat(".", 5000) + "xxxxx", true},
		{"more than a fifth of the last, after many", strings.Repeat(".", 5000) + "xxxxxx", false},
		{"merchants who go, one at a time", strings.Repeat(strings.Repeat(".", guardLast)+"xx", 50), true},
		{"many refused, and good ones since", strings.Repeat("x", 40) + strings.Repeat(".", 159), false},
		{"as many, and more good ones", strings.Repeat("x", 40) + strings.Repeat(".", 160), true},
	} {
		var g guard
		for _, o := range row.outcomes {
			if o == 'x' {
				g.saw(noon, gone)
			} else {
				g.saw(noon, nil)
			}
		}
		if g.open(noon) != row.want {
			t.Errorf("%s: open is %t", row.name, !row.want)
		}
		if later := noon.Add(guardWindow + time.Second); !g.open(later) || len(g.renewals)+g.refusals > 0 {
			t.Errorf("%s: still counted after the window", row.name)
		}
	}
	var g guard
	for _, err := range []error{errors.New("busy"), refusal(wechat.APIAuthorizerToken, -1), refusal(wechat.APIAuthorizerToken, 45009)} {
		g.saw(noon, err)
	}
	if g.refusals > 0 {
		t.Error("troubles that have nothing to do with the authorization are counted")
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	g := newGate(1, nothing)
	wait := func(api wechat.API, at time.Duration, want time.Duration) {
		t.Helper()
		if got := g.wait(api, noon.Add(at)); got != want {
			t.Errorf("%s, %v after: waits %v, want %v", api, at, got, want)
		}
	}
	wait(wechat.APIAuthorizerToken, 0, 0)
	g.pause(wechat.APIAuthorizerToken, noon.Add(time.Hour))
	g.pause(wechat.APIAuthorizerToken, noon.Add(time.Minute)) // a shorter one ends nothing
	wait(wechat.APIAuthorizerToken, 0, MaxPause)
	wait(wechat.APIAuthorizerToken, time.Hour-time.Second, time.Second)
	wait(wechat.APIAuthorizerToken, time.Hour, 0)
	wait(wechat.APIAuthorizerInfo, 0, 0)
	g.pause(everyAPI, noon.Add(2*time.Minute))
	wait(wechat.APIAuthorizerInfo, time.Minute, MaxPause)
	if closedFor(g, wechat.APIAuthorizerList, noon) != 2*time.Minute || closedFor(g, wechat.APIAuthorizerList, noon.Add(time.Hour)) != 0 {
		t.Error("a pause is not seen")
	}
}

// TestAway has WeChat not answer: one caller at a time finds out whether it is back.
func TestAway(t *testing.T) {
	t.Parallel()
	g := newGate(1, nothing)
	for i := range awayAfter {
		if g.wait(wechat.APIAuthorizerToken, noon) != 0 || g.Away() {
			t.Fatal("away too early")
		}
		g.hear(fmt.Sprint("account ", i%awayFrom), errors.New("no answer"), noon)
	}
	if !g.Away() || closedFor(g, wechat.APIAuthorizerToken, noon) == 0 || g.wait(wechat.APIAuthorizerToken, noon) != ProbeEvery {
		t.Fatal("not away after so many calls without an answer")
	}
	probe := noon.Add(ProbeEvery)
	if closedFor(g, wechat.APIAuthorizerToken, probe) != 0 || g.wait(wechat.APIAuthorizerToken, probe) != 0 {
		t.Error("nobody probes")
	}
	if g.wait(wechat.APIComponentToken, probe) != ProbeEvery {
		t.Error("two probe at once")
	}
	g.hear("wxa", refusal(wechat.APIAuthorizerToken, -1), probe)
	if !g.Away() {
		t.Error("busy counts as being back")
	}
	g.hear("wxa", refusal(wechat.APIAuthorizerToken, 61023), probe) // a refusal is an answer
	if g.Away() || g.wait(wechat.APIAuthorizerToken, probe) != 0 {
		t.Error("still away after an answer")
	}
}
