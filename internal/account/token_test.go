package account

import (
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/wechat"

	"pgregory.net/rapid"
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
		if got := Backoff(row.failures, row.left, row.jitter); got != row.want {
			t.Errorf("after %d failures with %v left, jitter %v: %v, want %v", row.failures, row.left, row.jitter, got, row.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		failures := rapid.IntRange(0, 1<<40).Draw(t, "failures")
		left := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(2*time.Hour)).Draw(t, "left"))
		jitter := rapid.Float64Range(0, 1).Draw(t, "jitter")
		wait := Backoff(failures, left, jitter)
		if wait < 500*time.Millisecond || wait > time.Minute {
			t.Errorf("waits %v", wait)
		}
		if failures <= len(retryAfter) && left >= 4*time.Second && wait > left/4 {
			t.Errorf("waits %v of the %v left: no room for four tries", wait, left)
		}
		if next := Backoff(failures+1, left, jitter); next < wait {
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
		token := Grant{Key: key, Generation: 7, Value: "new", Asked: noon, Life: 2 * time.Hour, Fraction: 0.66}.Token(row.old)
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

func TestOverdue(t *testing.T) {
	t.Parallel()
	const grace = 30 * time.Second
	key := wxtoken.AuthorizerKey("wxc", "wxa")
	type pair struct {
		Credential Credential
		RenewAt    time.Time
	}
	entry := func(change func(e *pair)) pair {
		e := pair{Credential: Credential{Key: key, RefreshToken: "r"}, RenewAt: noon.Add(-grace - time.Second)}
		change(&e)
		return e
	}
	for _, row := range []struct {
		name   string
		change func(e *pair)
		want   bool
	}{
		{"past its time", func(*pair) {}, true},
		{"past its time, within the grace", func(e *pair) { e.RenewAt = noon.Add(-grace) }, false},
		{"without a token", func(e *pair) { e.RenewAt = time.Time{} }, true},
		{"nothing to renew with", func(e *pair) { e.Credential.RefreshToken = "" }, false},
		{"revoked", func(e *pair) { e.Credential.RevokedAt = noon }, false},
		{"claimed", func(e *pair) { e.Credential.Claim = &Claim{Until: noon.Add(time.Second)} }, false},
		{"claim has ended", func(e *pair) { e.Credential.Claim = &Claim{Until: noon} }, true},
		{"waits after a failure", func(e *pair) { e.Credential.RetryAt = noon.Add(-time.Second) }, false},
		{"has waited after a failure", func(e *pair) { e.Credential.RetryAt = noon.Add(-time.Hour) }, true},
		{"component without a ticket", func(e *pair) { e.Credential.Key = wxtoken.ComponentKey("wxc") }, false},
		{"component with a ticket", func(e *pair) {
			e.Credential.Key, e.Credential.Ticket, e.Credential.RefreshToken = wxtoken.ComponentKey("wxc"), "t", ""
		}, true},
	} {
		e := entry(row.change)
		if got := OutlineOf(e.Credential).Overdue(NewLife(0, 0, noon, noon, e.RenewAt), noon, grace); got != row.want {
			t.Errorf("%s: %t", row.name, got)
		}
	}
}

func TestNextTicket(t *testing.T) {
	t.Parallel()
	key := wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: "wxc", Authorizer: "wxa"}
	first := nextTicket(wxtoken.Token{}, key, 1, "one", noon, noon, 2*time.Hour, 0.66)
	if !first.ExpiresAt.Equal(noon.Add(2*time.Hour)) || first.Previous != nil || first.Generation != 1 || !first.RenewAt.Before(first.ExpiresAt) {
		t.Fatalf("the first: %+v", first)
	}
	for _, row := range []struct {
		name          string
		asked, life   time.Duration // after noon
		expires, next time.Duration // after noon
	}{
		{"at two thirds", 80 * time.Minute, 2 * time.Hour, 2 * time.Hour, 118 * time.Minute},
		{"asked for at once once more", 0, 2 * time.Hour, 2 * time.Hour, 118 * time.Minute},
		{"shortly before the end", 118 * time.Minute, 2 * time.Hour, 2 * time.Hour, 2 * time.Hour},
		{"a schedule came early", 2*time.Hour - 500*time.Millisecond, 2 * time.Hour, 2*time.Hour + 1500*time.Millisecond, 2 * time.Hour},
		{"at the end", 2 * time.Hour, 2 * time.Hour, 2*time.Hour + 2*time.Second, 2*time.Hour + time.Second},
		{"a while after the end", 2*time.Hour + 20*time.Second, 2 * time.Hour, 2*time.Hour + 41*time.Second, 2*time.Hour + 40*time.Second},
		{"long after the end", 5 * time.Hour, 2 * time.Hour, 5*time.Hour + 4*time.Minute + time.Second, 5*time.Hour + 4*time.Minute},
		{"another life is told", 80 * time.Minute, time.Hour, 2 * time.Hour, 119 * time.Minute},
		{"a life of seconds", 7198 * time.Second, 10 * time.Second, 2 * time.Hour, 7199 * time.Second},
		{"a life of a minute, past its end", 2 * time.Hour, time.Minute, 2*time.Hour + 3*time.Second, 2*time.Hour + 2*time.Second},
	} {
		got := nextTicket(first, key, 2, "one", noon, noon.Add(row.asked), row.life, 0.66)
		if !got.ExpiresAt.Equal(noon.Add(row.expires)) || !got.RenewAt.Equal(noon.Add(row.next)) {
			t.Errorf("%s: ends %v, asked for again %v; want %v, %v", row.name, got.ExpiresAt.Sub(noon), got.RenewAt.Sub(noon), row.expires, row.next)
		}
		if got.Generation != 2 || got.Value != first.Value || !got.ObtainedAt.Equal(noon) || got.Previous != nil || !got.RenewAt.After(noon.Add(row.asked)) {
			t.Errorf("%s: %+v", row.name, got)
		}
	}
	// Its schedule is never more than a second after its end, so that a reader soon has the new one.
	for ms := int64(0); ms < 7300_000; ms += 777 {
		asked := noon.Add(time.Duration(ms) * time.Millisecond)
		got := nextTicket(first, key, 2, "one", asked, asked, 2*time.Hour, 0.66)
		if left := first.ExpiresAt.Sub(asked); left > 0 && got.RenewAt.After(first.ExpiresAt.Add(time.Second)) || !got.RenewAt.After(asked) || got.RenewAt.Nanosecond() != 0 {
			t.Fatalf("asked %v before the end: again at %v", left, got.RenewAt)
		}
	}
	if got := nextTicket(first, key, 2, "two", noon.Add(time.Hour), noon.Add(time.Hour), 2*time.Hour, 0.66); !got.ExpiresAt.Equal(noon.Add(3*time.Hour)) || got.Value.Reveal() != "two" {
		t.Errorf("another value: %+v", got)
	}
}

// TestTicketOfUnknownAge has a ticket that was made for any of the calls between the first, whose answer was lost, and the one that was
// answered. However old it is, nobody is left with a dead one for longer than a minute, nor is it asked for again and again.
func TestTicketOfUnknownAge(t *testing.T) {
	t.Parallel()
	key := wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: "wxc", Authorizer: "wxa"}
	const life = 2 * time.Hour
	for away := time.Duration(0); away < 3*time.Hour; away += 97*time.Second + 311*time.Millisecond {
		answered := noon.Add(away)
		for _, made := range []time.Time{noon, noon.Add(away / 3), answered, answered.Add(3 * time.Second)} {
			end := made.Add(life)
			if !end.After(answered) {
				continue // another was made after it
			}
			token := nextTicket(wxtoken.Token{}, key, 1, "one", noon, answered, life, 0.66)
			if first := noon.Add(life); first.After(answered.Add(ticketSlack)) && !token.ExpiresAt.Equal(first) || !token.ObtainedAt.Equal(answered) {
				t.Fatalf("away for %v: %+v", away, token)
			}
			calls := 1
			for ; token.RenewAt.Before(end); calls++ {
				if !token.ExpiresAt.After(token.RenewAt.Add(-time.Second)) {
					t.Fatalf("away for %v: at %v nobody has it although it lives, until %v", away, token.RenewAt, end)
				}
				token = nextTicket(token, key, 1, "one", answered, token.RenewAt, life, 0.66)
			}
			late := token.RenewAt.Sub(end)
			most := time.Minute
			if made.After(answered) || away == 0 {
				most = 4 * time.Second // its latest end is known
			}
			if late > most {
				t.Errorf("away for %v: the ticket made %v after the first call was found dead %v after its end", away, made.Sub(noon), late)
			}
			if most := 10 + int(min(away, life)/time.Minute); calls > most {
				t.Errorf("away for %v: asked %d times, want %d at most", away, calls, most)
			}
		}
	}
}

// nextTicket returns the ticket that WeChat answered with to a call of asked, when it may have been made since another one.
func nextTicket(old wxtoken.Token, key wxtoken.Key, generation uint64, value string, since, asked time.Time, life time.Duration, fraction float64) wxtoken.Token {
	return Grant{Key: key, Generation: generation, Value: value, Asked: asked, UnsureSince: since, Life: life, Fraction: fraction}.Token(old)
}

// TestKeptStaysUnsure has an account authorize anew after an answer to the call for its ticket was lost, and while such a call is under
// way: the ticket that WeChat gives from then on may have been made then.
func TestKeptStaysUnsure(t *testing.T) {
	t.Parallel()
	asked := noon
	ticket := Credential{Key: wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: "wxc", Authorizer: "wxa"}}
	underWay := ticket.Claimed("one", "due/1", asked)
	lost, _ := underWay.Failed(Failure{Err: &wechat.Error{API: wechat.APIGetTicket, Message: "no answer"}, Now: asked.Add(time.Second)})
	for name, c := range map[string]Credential{"under way": underWay, "lost": lost} {
		if kept := c.Kept(2, 0); !kept.UnsureSince.Equal(asked) || kept.Claim != nil || kept.Failures != 0 {
			t.Errorf("%s: %+v", name, kept)
		}
	}
	if kept := ticket.Dropped(asked).Kept(2, 0); !kept.UnsureSince.IsZero() {
		t.Errorf("one that was dropped: %+v", kept)
	}
}
