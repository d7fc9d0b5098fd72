package account

import (
	"time"

	"wxtoken/client"
)

const (
	// overlap is how long WeChat accepts a token after its successor was issued
	// (Get_access_token: the old and the new one are both valid for 5 minutes).
	overlap = 5 * time.Minute
	// renewJitter is the greatest part of a token's life by which its renewal is brought forward,
	// so that tokens issued together do not stay together.
	renewJitter = 0.05
	// maxCooldown bounds the shortest time between two renewals of a key that was refused.
	maxCooldown = time.Minute
)

// retryAfter is how long to wait after the 1st, 2nd, ... failure in a row; the last one goes on.
// It is dense at the front: a life of two hours has no days to spare.
var retryAfter = []time.Duration{
	1 * time.Second,
	2 * time.Second,  // 3 s after the first failure
	5 * time.Second,  // 8 s
	10 * time.Second, // 18 s
	30 * time.Second, // 48 s
	60 * time.Second,
}

// RetryAfter returns the wait after the nth failure in a row, from 1.
func RetryAfter(n int) time.Duration { return retryAfter[min(max(n, 1), len(retryAfter))-1] }

// Retries is after how many failures in a row the wait grows no longer.
var Retries = len(retryAfter)

// longest is the wait that goes on.
func longest() time.Duration { return retryAfter[len(retryAfter)-1] }

// Backoff returns the wait after the given number of failures in a row (from 1). left is the life
// that the token still has: while it lives, at least four tries find room in what is left. jitter
// (0 to 1) takes away up to half. What failed more often than retryAfter is long is tried once a
// minute, come what may.
func Backoff(failures int, left time.Duration, jitter float64) time.Duration {
	if failures > len(retryAfter) {
		return longest()
	}
	wait := RetryAfter(failures)
	if left > 0 {
		wait = min(wait, max(left/4, time.Second))
	}
	return wait - time.Duration(jitter*float64(wait)/2)
}

// cooldown is the shortest time between two renewals of a key that were asked for because the
// token was refused: a tenth of its life, a minute at most.
func cooldown(life time.Duration) time.Duration { return min(life/10, maxCooldown) }

// renewTime returns when a token that was asked for at obtained is to be renewed: after fraction
// of its life less jitter (0 to 1, scaled by renewJitter), cut to whole seconds as a schedule is.
func renewTime(obtained time.Time, life time.Duration, fraction, jitter float64) time.Time {
	part := time.Duration(float64(life) * (fraction - renewJitter*jitter))
	return obtained.Add(max(part, time.Second)).UTC().Truncate(time.Second)
}

// Grant is a token that WeChat gave, and when it is to be renewed.
type Grant struct {
	Key        wxtoken.Key
	Generation uint64
	Value      string
	Asked      time.Time     // before the call: its life is counted from then on
	Life       time.Duration // as WeChat says
	Fraction   float64       // of the life, after which it is renewed
	Jitter     float64       // 0 to 1, by chance
	// UnsureSince is when WeChat may have been asked before, and its answer was lost; zero if it
	// was not.
	UnsureSince time.Time
}

// Token returns the token of a grant that follows old; the zero Token if there is none, or none
// that is of use to a reader.
func (g Grant) Token(old wxtoken.Token) wxtoken.Token {
	if Derived(g.Key) {
		return g.ticket(old)
	}
	t := wxtoken.Token{
		Key: g.Key, Value: wxtoken.NewSecret(g.Value), Generation: g.Generation,
		ObtainedAt: g.Asked.UTC(), ExpiresAt: g.Asked.Add(g.Life).UTC(),
		RenewAt: renewTime(g.Asked, g.Life, g.Fraction, g.Jitter),
	}
	until := g.Asked.Add(overlap).UTC()
	if old.ExpiresAt.Before(until) {
		until = old.ExpiresAt
	}
	if !old.Value.IsZero() && g.Asked.Before(until) {
		t.Previous = &wxtoken.Previous{Value: old.Value, ValidUntil: until}
	}
	return t
}

const (
	// ticketMargin divides the life of a ticket: that part before its end it is asked for once
	// more.
	ticketMargin = 60
	// ticketSlack is how long before its end a ticket counts as ended: the second by which it
	// outlives the next look at it, and the one to which a schedule is cut.
	ticketSlack = 2 * time.Second
)

// ticket returns the derived ticket that follows old. WeChat answers with the same one as long as
// it lives, and says each time that it has its full life before it ("api_getticket"): a value that
// is known already gains no life by that.
//
// It may have been made for an earlier call whose answer was lost, at UnsureSince or later: it is
// believed until it ends if it was made then, and ends at the latest a life after the first answer
// that brought it. Until a new one can be had it is asked for twice more: shortly before the end,
// and at the end. From then on each answer proves that it still lives.
func (g Grant) ticket(old wxtoken.Token) wxtoken.Token {
	t, known := old, old.Value.Reveal() == g.Value
	t.Generation, t.Previous, t.Revision = g.Generation, nil, 0
	if !known {
		since := g.Asked
		if !g.UnsureSince.IsZero() {
			// WeChat may have made it for a call whose answer was lost, and gives it again.
			since = g.UnsureSince
		}
		t = wxtoken.Token{
			Key: g.Key, Value: wxtoken.NewSecret(g.Value), Generation: g.Generation,
			ObtainedAt: g.Asked.UTC(), ExpiresAt: since.Add(g.Life).UTC(), RenewAt: renewTime(since, g.Life, g.Fraction, g.Jitter),
		}
	}
	before := g.Life / ticketMargin
	switch left := t.ExpiresAt.Sub(g.Asked); {
	case left <= ticketSlack:
		t.RenewAt = g.Asked.Add(ticketStep(t.ObtainedAt.Add(g.Life).Sub(g.Asked), before))
		if end := t.RenewAt.Add(time.Second); end.After(t.ExpiresAt) {
			t.ExpiresAt = end.UTC()
		}
	case !known:
	case left > before+ticketSlack:
		t.RenewAt = t.ExpiresAt.Add(-before)
	default:
		t.RenewAt = t.ExpiresAt
	}
	if least := g.Asked.Add(time.Second); t.RenewAt.Before(least) {
		t.RenewAt = least
	}
	t.RenewAt = t.RenewAt.UTC().Truncate(time.Second)
	return t
}

// ticketStep returns when to look again at a ticket that WeChat still gives although it may have
// ended: at its latest end, left away, or before. One that lives longer than that is looked at less
// and less often.
func ticketStep(left, before time.Duration) time.Duration {
	if left > 0 {
		return max(time.Second, min(left, before/2))
	}
	return max(time.Second, min(-left, 2*before))
}
