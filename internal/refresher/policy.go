package refresher

import (
	"math/rand/v2"
	"time"

	"wxtoken/client"
	"wxtoken/internal/wechat"
)

const (
	// callTimeout bounds one call to WeChat. It is shorter than a claim, so that nobody else
	// starts while an answer may still come.
	callTimeout = 10 * time.Second
	// claimFor is how long a claim holds when its owner is never heard of again and its message
	// isn't delivered again either.
	claimFor = 15 * time.Second
	// overlap is how long WeChat accepts a token after its successor was issued
	// (Get_access_token: the old and the new one are both valid for 5 minutes).
	overlap = 5 * time.Minute
	// renewJitter is the greatest part of a token's life by which its renewal is brought forward,
	// so that tokens issued together do not stay together.
	renewJitter = 0.05
	// claimedDelay is the wait for somebody else who is at the same key.
	claimedDelay = 500 * time.Millisecond
	// lostDelay is the wait before a record is loaded again that changed under our hands.
	lostDelay = 50 * time.Millisecond
	// heldDelay is the wait of a renewal for a component access token that isn't there.
	heldDelay = 5 * time.Second
	// heldRate is how often a second all that wait for it look again, together.
	heldRate = 200
	// componentDelay is the wait of a code, or of a reconcile, for a component access token that isn't there.
	componentDelay = time.Second
	// plainDelay is the wait before a write is tried again that NATS did not take.
	plainDelay = time.Second
	// slowDown is the wait after 45011, a limit per minute.
	slowDown = time.Minute
	// slowFor is how long calls are made half as often after that.
	slowFor = 10 * time.Minute
	// maxForced is how many renewals of a key a day somebody may ask for, by a report or by hand.
	maxForced = 24
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

// askAgainAfter is how long to wait after WeChat refused a refresh token that its list confirms.
var askAgainAfter = []time.Duration{time.Minute, 10 * time.Minute, time.Hour}

// giveUpDelay is the wait between tries for an authorizer that needs a new authorization.
const giveUpDelay = 6 * time.Hour

// ofAddress reports whether err is about the address that calls come from.
func ofAddress(err error) bool { return wechat.Concerns(err) == wechat.ConcernAddress }

// ofComponent reports whether every call of the component would meet err.
func ofComponent(err error) bool { return wechat.Concerns(err) >= wechat.ConcernComponent }

// ofAccount reports whether err concerns one account, and not all calls of its component.
func ofAccount(err error) bool { return wechat.Concerns(err) == wechat.ConcernAccount }

// renewTime returns when a token that was asked for at obtained is to be renewed: after fraction
// of its life less jitter (0 to 1, scaled by renewJitter), cut to whole seconds as a schedule is.
func renewTime(obtained time.Time, life time.Duration, fraction, jitter float64) time.Time {
	part := time.Duration(float64(life) * (fraction - renewJitter*jitter))
	return obtained.Add(max(part, time.Second)).UTC().Truncate(time.Second)
}

// backoff returns the wait after the given number of failures in a row (from 1). left is the life
// that the token still has: while it lives, at least four tries find room in what is left.
// jitter (0 to 1) takes away up to half. Whoever failed more often than retryAfter is long is tried once a minute, come what may.
func backoff(failures int, left time.Duration, jitter float64) time.Duration {
	if failures > len(retryAfter) {
		return retryAfter[len(retryAfter)-1]
	}
	wait := retryAfter[max(failures, 1)-1]
	if left > 0 {
		wait = min(wait, max(left/4, time.Second))
	}
	return wait - time.Duration(jitter*float64(wait)/2)
}

// cooldown is the shortest time between two renewals of a key that were asked for because the
// token was refused: a tenth of its life, a minute at most.
func cooldown(life time.Duration) time.Duration { return min(life/10, maxCooldown) }

// nextToken returns the token that follows old (zero if there is none, or after a
// re-authorization).
func nextToken(old wxtoken.Token, key wxtoken.Key, generation uint64, value string, obtained time.Time, life time.Duration, fraction float64) wxtoken.Token {
	t := wxtoken.Token{
		Key: key, Value: wxtoken.NewSecret(value), Generation: generation,
		ObtainedAt: obtained.UTC(), ExpiresAt: obtained.Add(life).UTC(),
		RenewAt: renewTime(obtained, life, fraction, rand.Float64()),
	}
	until := obtained.Add(overlap).UTC()
	if old.ExpiresAt.Before(until) {
		until = old.ExpiresAt
	}
	if !old.Value.IsZero() && obtained.Before(until) {
		t.Previous = &wxtoken.Previous{Value: old.Value, ValidUntil: until}
	}
	return t
}

// beijing is the time zone of WeChat's days.
var beijing = time.FixedZone("UTC+8", 8*60*60)

// nextDay returns when WeChat's daily limits start anew.
func nextDay(now time.Time) time.Time {
	y, m, d := now.In(beijing).Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, beijing).UTC()
}

// quotaBack returns when a call whose daily quota is gone may be made again: when the day turns. A refusal right after that
// is still about the day before: no two clocks turn at once.
func quotaBack(now time.Time) time.Time {
	next := nextDay(now)
	if now.Sub(next.Add(-24*time.Hour)) < dayTurns {
		return now.Add(dayTurns / 2).UTC()
	}
	return next
}

// dayTurns is how long after midnight in China WeChat may still count the day before.
const dayTurns = 10 * time.Minute

// jittered spreads a wait over d to 1.5 d, so that those who wait together do not come together.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Float64()*float64(d)/2)
}
