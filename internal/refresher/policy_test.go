package refresher

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"wxtoken/client"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// noon is a time in these tests.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestRenewTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		obtained := noon.Add(time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "obtained")))
		life := time.Duration(rapid.Int64Range(10, 30*24*60*60).Draw(t, "life")) * time.Second
		fraction := rapid.Float64Range(0.1, 0.95).Draw(t, "fraction")
		jitter := rapid.Float64Range(0, 1).Draw(t, "jitter")
		at := renewTime(obtained, life, fraction, jitter)
		latest := obtained.Add(max(time.Duration(fraction*float64(life)), time.Second))
		earliest := obtained.Add(max(time.Duration((fraction-renewJitter)*float64(life)), time.Second)).Truncate(time.Second)
		if at.After(latest) || at.Before(earliest) {
			t.Errorf("renewed at %v, want %v to %v", at, earliest, latest)
		}
		if at.Before(obtained.Add(time.Second).Truncate(time.Second)) || !at.Before(obtained.Add(life)) {
			t.Errorf("a life of %v from %v on is renewed at %v", life, obtained, at)
		}
		if !at.Equal(at.Truncate(time.Second)) || at.Location() != time.UTC {
			t.Errorf("%v is not a whole second of UTC: no schedule could be at it", at)
		}
	})
	for _, row := range []struct {
		life             time.Duration
		fraction, jitter float64
		want             time.Duration
	}{
		{2 * time.Hour, 0.66, 0, 4752 * time.Second},
		{2 * time.Hour, 0.66, 1, 4392 * time.Second},
		{10 * time.Second, 0.66, 0, 6 * time.Second},
		{10 * time.Second, 0.1, 1, time.Second},
	} {
		if at := renewTime(noon, row.life, row.fraction, row.jitter); at.Sub(noon) != row.want {
			t.Errorf("a life of %v, fraction %v, jitter %v: after %v, want %v", row.life, row.fraction, row.jitter, at.Sub(noon), row.want)
		}
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		failures int
		left     time.Duration
		jitter   float64
		want     time.Duration
	}{
		{0, time.Hour, 0, time.Second},
		{1, time.Hour, 0, time.Second},
		{2, time.Hour, 0, 2 * time.Second},
		{3, time.Hour, 0, 5 * time.Second},
		{4, time.Hour, 0, 10 * time.Second},
		{5, time.Hour, 0, 30 * time.Second},
		{6, time.Hour, 0, time.Minute},
		{1000, time.Hour, 0, time.Minute},
		{6, time.Hour, 1, 30 * time.Second},
		{7, time.Hour, 1, time.Minute}, // once a minute, and no more
		{7, 40 * time.Second, 0, time.Minute},
		{6, 40 * time.Second, 0, 10 * time.Second},
		{6, time.Second, 0, time.Second},
		{6, 0, 0, time.Minute},                 // it has died: no hurry any more
		{6, -1000 * time.Hour, 0, time.Minute}, // there never was one
	} {
		if got := backoff(row.failures, row.left, row.jitter); got != row.want {
			t.Errorf("after %d failures with %v left, jitter %v: %v, want %v", row.failures, row.left, row.jitter, got, row.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		failures := rapid.IntRange(0, 1<<40).Draw(t, "failures")
		left := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(2*time.Hour)).Draw(t, "left"))
		jitter := rapid.Float64Range(0, 1).Draw(t, "jitter")
		wait := backoff(failures, left, jitter)
		if wait < 500*time.Millisecond || wait > time.Minute {
			t.Errorf("waits %v", wait)
		}
		if failures <= len(retryAfter) && left >= 4*time.Second && wait > left/4 {
			t.Errorf("waits %v of the %v left: no room for four tries", wait, left)
		}
		if next := backoff(failures+1, left, jitter); next < wait {
			t.Errorf("waits %v after one failure more, %v before", next, wait)
		}
	})
	if len(retryAfter) < 2 || retryAfter[0]+retryAfter[1]+retryAfter[2] > 10*time.Second {
		t.Error("three tries have no room in the first ten seconds")
	}
}

func TestCooldown(t *testing.T) {
	t.Parallel()
	for life, want := range map[time.Duration]time.Duration{
		10 * time.Second: time.Second,
		5 * time.Minute:  30 * time.Second,
		10 * time.Minute: time.Minute,
		2 * time.Hour:    time.Minute,
	} {
		if got := cooldown(life); got != want {
			t.Errorf("a life of %v cools down for %v, want %v", life, got, want)
		}
	}
}

func TestNextToken(t *testing.T) {
	t.Parallel()
	key := wxtoken.AuthorizerKey("wxc", "wxa")
	old := wxtoken.Token{Key: key, Value: wxtoken.NewSecret("old"), Generation: 6, ExpiresAt: noon.Add(time.Hour)}
	with := func(expires time.Time) wxtoken.Token {
		t := old
		t.ExpiresAt = expires
		return t
	}
	for _, row := range []struct {
		name string
		old  wxtoken.Token
		want time.Time // when the previous token ends; zero = there is none
	}{
		{"an ordinary renewal", old, noon.Add(5 * time.Minute)},
		{"old one ends sooner", with(noon.Add(time.Minute)), noon.Add(time.Minute)},
		{"old one ends in that moment", with(noon), time.Time{}},
		{"old one has ended", with(noon.Add(-time.Hour)), time.Time{}},
		{"first, or a re-authorization", wxtoken.Token{}, time.Time{}},
	} {
		token := nextToken(row.old, key, 7, "new", noon, 2*time.Hour, 0.66)
		if token.Key != key || token.Generation != 7 || token.Value.Reveal() != "new" ||
			!token.ObtainedAt.Equal(noon) || !token.ExpiresAt.Equal(noon.Add(2*time.Hour)) || !token.RenewAt.Before(token.ExpiresAt) {
			t.Errorf("%s: %+v", row.name, token)
		}
		switch p := token.Previous; {
		case p == nil && !row.want.IsZero():
			t.Errorf("%s: no previous token", row.name)
		case p != nil && (!p.ValidUntil.Equal(row.want) || p.Value != old.Value):
			t.Errorf("%s: previous token until %v, want %v", row.name, p.ValidUntil, row.want)
		}
	}
}

func TestNextDay(t *testing.T) {
	t.Parallel()
	for now, want := range map[string]string{
		"2026-11-22T12:00:00Z":        "2026-11-22T16:00:00Z",
		"2026-11-22T15:59:59Z":        "2026-11-22T16:00:00Z",
		"2026-11-22T16:00:00Z":        "2026-11-23T16:00:00Z",
		"2026-12-31T23:00:00+08:00":   "2026-12-31T16:00:00Z",
		"2028-02-28T20:00:00.5-05:00": "2028-02-29T16:00:00Z",
	} {
		at, err := time.Parse(time.RFC3339, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := nextDay(at).Format(time.RFC3339); got != want {
			t.Errorf("after %s a day begins at %s, want %s", now, got, want)
		}
	}
}

func TestJittered(t *testing.T) {
	t.Parallel()
	for range 1000 {
		if d := jittered(time.Minute); d < time.Minute || d > 90*time.Second {
			t.Fatalf("a minute became %v", d)
		}
	}
}

func TestOverdue(t *testing.T) {
	t.Parallel()
	const grace = 30 * time.Second
	key := wxtoken.AuthorizerKey("wxc", "wxa")
	entry := func(change func(e *store.Entry)) store.Entry {
		e := store.Entry{Credential: store.Credential{Key: key, RefreshToken: "r"}, Token: wxtoken.Token{RenewAt: noon.Add(-grace - time.Second)}}
		change(&e)
		return e
	}
	for _, row := range []struct {
		name   string
		change func(e *store.Entry)
		want   bool
	}{
		{"past its time", func(*store.Entry) {}, true},
		{"past its time, within the grace", func(e *store.Entry) { e.Token.RenewAt = noon.Add(-grace) }, false},
		{"without a token", func(e *store.Entry) { e.Token = wxtoken.Token{} }, true},
		{"nothing to renew with", func(e *store.Entry) { e.Credential.RefreshToken = "" }, false},
		{"revoked", func(e *store.Entry) { e.Credential.RevokedAt = noon }, false},
		{"claimed", func(e *store.Entry) { e.Credential.Claim = &store.Claim{Until: noon.Add(time.Second)} }, false},
		{"claim has ended", func(e *store.Entry) { e.Credential.Claim = &store.Claim{Until: noon} }, true},
		{"waits after a failure", func(e *store.Entry) { e.Credential.RetryAt = noon.Add(-time.Second) }, false},
		{"has waited after a failure", func(e *store.Entry) { e.Credential.RetryAt = noon.Add(-time.Hour) }, true},
		{"component without a ticket", func(e *store.Entry) { e.Credential.Key = wxtoken.ComponentKey("wxc") }, false},
		{"component with a ticket", func(e *store.Entry) {
			e.Credential.Key, e.Credential.Ticket, e.Credential.RefreshToken = wxtoken.ComponentKey("wxc"), "t", ""
		}, true},
	} {
		if got := overdue(entry(row.change), noon, grace); got != row.want {
			t.Errorf("%s: %t", row.name, got)
		}
	}
}

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
	c := newComponent(Component{AppID: "wxc"}, 1, noQuota)
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
	c := newComponent(Component{AppID: "wxc"}, 1, noQuota)
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
