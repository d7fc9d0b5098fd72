package refresher

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/settings"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// noon is a time in these tests.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// refusal is an answer of WeChat.
func refusal(api wechat.API, code int) error { return &wechat.Error{API: api, Code: code} }

func TestGuard(t *testing.T) {
	t.Parallel()
	gone := refusal(wechat.APIAuthorizerToken, 61003)
	for _, row := range []struct {
		name       string
		good, gone int
		want       bool
	}{
		{"nothing happened", 0, 0, true},
		{"few", 0, guardFew, true},
		{"one more than few, of no others", 0, guardFew + 1, false},
		{"a fifth", 40, 10, true},
		{"more than a fifth", 39, 10, false},
	} {
		var g guard
		for range row.good {
			g.saw(noon, nil)
		}
		for range row.gone {
			g.saw(noon, gone)
		}
		if g.open(noon) != row.want {
			t.Errorf("%s: open is %t", row.name, !row.want)
		}
		if later := noon.Add(guardWindow + time.Second); !g.open(later) || len(g.renewals)+len(g.refusals) > 0 {
			t.Errorf("%s: still counted after the window", row.name)
		}
	}
	var g guard
	for _, err := range []error{errors.New("busy"), refusal(wechat.APIAuthorizerToken, -1), refusal(wechat.APIAuthorizerToken, 45009)} {
		g.saw(noon, err)
	}
	if len(g.refusals) > 0 {
		t.Error("troubles that have nothing to do with the authorization are counted")
	}
}

// noQuota is what is known of a component that nothing is known of.
func noQuota() store.Quota { return store.Quota{} }

func TestPause(t *testing.T) {
	t.Parallel()
	c := newComponent(settings.Component{AppID: "wxc"}, 1, noQuota)
	wait := func(api wechat.API, at time.Duration, want time.Duration) {
		t.Helper()
		if got := c.wait(api, noon.Add(at)); got != want {
			t.Errorf("%s, %v after: waits %v, want %v", api, at, got, want)
		}
	}
	wait(wechat.APIAuthorizerToken, 0, 0)
	c.pause(wechat.APIAuthorizerToken, noon.Add(time.Hour))
	c.pause(wechat.APIAuthorizerToken, noon.Add(time.Minute)) // a shorter one ends nothing
	wait(wechat.APIAuthorizerToken, 0, maxPause)
	wait(wechat.APIAuthorizerToken, time.Hour-time.Second, time.Second)
	wait(wechat.APIAuthorizerToken, time.Hour, 0)
	wait(wechat.APIAuthorizerInfo, 0, 0)
	c.pause(everyAPI, noon.Add(2*time.Minute))
	wait(wechat.APIAuthorizerInfo, time.Minute, maxPause)
	if c.held(wechat.APIAuthorizerList, noon) != 2*time.Minute || c.held(wechat.APIAuthorizerList, noon.Add(time.Hour)) != 0 {
		t.Error("a pause is not seen")
	}
}

// TestAway has WeChat not answer: one caller at a time finds out whether it is back.
func TestAway(t *testing.T) {
	t.Parallel()
	c := newComponent(settings.Component{AppID: "wxc"}, 1, noQuota)
	for i := range awayAfter {
		if c.wait(wechat.APIAuthorizerToken, noon) != 0 || c.seemsAway() {
			t.Fatal("away too early")
		}
		c.heard(fmt.Sprint("account ", i%awayFrom), errors.New("no answer"), noon)
	}
	if !c.seemsAway() || c.held(wechat.APIAuthorizerToken, noon) == 0 || c.wait(wechat.APIAuthorizerToken, noon) != probeEvery {
		t.Fatal("not away after so many calls without an answer")
	}
	probe := noon.Add(probeEvery)
	if c.held(wechat.APIAuthorizerToken, probe) != 0 || c.wait(wechat.APIAuthorizerToken, probe) != 0 {
		t.Error("nobody probes")
	}
	if c.wait(wechat.APIComponentToken, probe) != probeEvery {
		t.Error("two probe at once")
	}
	c.heard("wxa", refusal(wechat.APIAuthorizerToken, -1), probe)
	if !c.seemsAway() {
		t.Error("busy counts as being back")
	}
	c.heard("wxa", refusal(wechat.APIAuthorizerToken, 61023), probe) // a refusal is an answer
	if c.seemsAway() || c.wait(wechat.APIAuthorizerToken, probe) != 0 {
		t.Error("still away after an answer")
	}
}

func TestOfAccount(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err  error
		want bool
	}{
		{refusal(wechat.APIAuthorizerToken, 61028), true},
		{refusal(wechat.APIAuthorizerInfo, 48001), true},
		{refusal(wechat.APIQueryAuth, 61007), true},
		{refusal(wechat.APIAuthorizerList, 48001), false}, // names no account
		{refusal(wechat.APIComponentToken, 40013), false},
		{refusal(wechat.APIAuthorizerToken, 61004), false},
		{refusal(wechat.APIAuthorizerToken, 40164), false},
		{refusal(wechat.APIQueryAuth, 40029), true}, // whatever it means, the others need not wait for it
		{errors.New("no answer"), false},
	} {
		if got := ofAccount(row.err); got != row.want {
			t.Errorf("%v: %t", row.err, got)
		}
	}
}

func TestNotMirrored(t *testing.T) {
	t.Parallel()
	full := fmt.Errorf("mirror stream MESSAGES: %w", &jetstream.APIError{Code: 500, ErrorCode: 10047, Description: "insufficient storage resources available"})
	if hint := notMirrored(full); !strings.Contains(hint, "max_file_store") {
		t.Errorf("no room for the copy: %s", hint)
	}
	if hint := notMirrored(errors.New("timeout")); !strings.Contains(hint, "--services-api") {
		t.Errorf("nobody answers: %s", hint)
	}
}

// Refreshers that wait for the same thing are to come apart.
func TestJittered(t *testing.T) {
	t.Parallel()
	shortest, longest := time.Hour, time.Duration(0)
	for range 1000 {
		d := jittered(time.Minute)
		shortest, longest = min(shortest, d), max(longest, d)
	}
	if shortest < time.Minute || longest > 90*time.Second {
		t.Errorf("a minute became %v to %v", shortest, longest)
	}
	if shortest > 65*time.Second || longest < 85*time.Second {
		t.Errorf("of 1000 minutes all became %v to %v", shortest, longest)
	}
}
