package account

import (
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
	"wxtoken/internal/wechat"
)

const (
	// seekPatience is how long a refresh token is looked for at least, so that each source is asked
	// more than once, and a push that brings it may come, before the merchant is asked to authorize
	// again.
	seekPatience = 10 * time.Second
	// seekLongest is how long WeChat's list, and the profile, are waited for where they can't be
	// had.
	seekLongest = 10 * time.Minute
	// giveUpDelay is the wait between tries for an authorizer that needs a new authorization.
	giveUpDelay = 6 * time.Hour
)

// askAgainAfter is how long to wait after WeChat refused a refresh token that its list confirms. It
// needs no jitter: each step begins when the account was refused, and a gate makes --api-rate calls
// a second, so no more accounts than that are refused in the same second, and so many are asked
// again in one.
var askAgainAfter = []time.Duration{time.Minute, 10 * time.Minute, time.Hour}

// doubtedTries is how often an account is tried every ten minutes while refusals are doubted: for
// two hours, the life of a token.
const doubtedTries = 12

// askAgain returns how long to wait after the nth refusal in a row.
func askAgain(n int) time.Duration { return askAgainAfter[min(max(n, 1), len(askAgainAfter))-1] }

// ErrNoRefreshToken stands for an authorization without which nothing can be renewed.
var ErrNoRefreshToken = lang.Error(lang.T("WeChat gave no refresh token for this account (asked: api_query_auth, api_get_authorizer_info, api_get_authorizer_list)",
	"微信没有给该账号的刷新令牌（已问过 api_query_auth、api_get_authorizer_info、api_get_authorizer_list）"), nil)

// Profile is what WeChat answered when it was asked which refresh token an account has
// (api_get_authorizer_info).
type Profile struct {
	RefreshToken string // "" where the answer has none, or none came
	Failure             // Err is nil after an answer
	Held         time.Duration
	NotAsked     bool      // the call was not made; Held is how long it is held back
	ListedAt     time.Time // when WeChat's list was read last
	Believed     bool      // refusals are: not too many accounts are refused at once
	Cause        error     // why it was asked: WeChat's refusal of the refresh token
}

// Asked climbs the ladder for a refresh token that WeChat refused (61023). One refusal proves
// nothing: WeChat itself is asked for the refresh token, and only if it keeps confirming the one
// that it refuses does the merchant have to authorize again.
func (c Credential) Asked(p Profile) (Credential, Next) {
	if c.RefreshRefused && !p.NotAsked {
		c.Failures++ // where WeChat's refusal began this, that is counted already
	}
	// Without an answer the next try begins here, and not with the refused refresh token.
	c.RefreshRefused = p.Err != nil
	next := Next{Status: c.stillFailing(p.Now, p.Cause)}
	switch {
	case p.Err != nil && wechat.Judge(p.Err) == wechat.Revoked:
		return c, Next{Do: DoCancel}
	case p.Err != nil:
		next.Wait = max(c.retryDelay(p.Failure), p.Held)
		if wechat.OfAccount(p.Err) && wechat.Judge(p.Err) == wechat.Operator {
			next.Wait = askAgain(c.Failures)
		}
	case p.RefreshToken != "" && p.RefreshToken != c.RefreshToken:
		c.RefreshToken, c.Refusals = p.RefreshToken, 0
		c.Recoveries++
		c.Authorizations++ // for all we know
		next.Wait = recoveredAfter(c.Recoveries)
	default:
		return c.confirmed(p, next)
	}
	return c.retried(p.Now, next), next
}

// confirmed deals with a profile that names no other refresh token than the refused one.
func (c Credential) confirmed(p Profile, next Next) (Credential, Next) {
	if p.RefreshToken == "" {
		return c.unconfirmed(p, next)
	}
	// A refusal that is doubted proves nothing: it brings no merchant nearer to being asked.
	if p.Believed || c.Refusals < 2 {
		c.Refusals++
	}
	listed := false
	if c.Refusals > 1 {
		listed = c.SoughtIn(p.ListedAt)
		c = c.Sought(p.Now)
	}
	next.Wait = askAgain(c.Refusals)
	if !p.Believed {
		next.Wait = c.doubtedWait(c.Refusals)
	}
	if c.Refusals > len(askAgainAfter) && p.Believed && (listed || c.Refusals > len(askAgainAfter)+1) {
		c, next = c.GaveUp(p.Now)
		next.Merchant = wxtoken.ReasonRefreshTokenInvalid
	}
	return c.retried(p.Now, next), next
}

// doubtedWait returns how long to wait after the nth refusal in a row while refusals are doubted: for as
// long as its token may live no account waits for an hour, so that all are back soon after the cause is
// gone.
func (c Credential) doubtedWait(n int) time.Duration {
	if c.Failures <= doubtedTries {
		return askAgain(min(n, 2))
	}
	return askAgain(len(askAgainAfter))
}

// unconfirmed deals with a profile that names no refresh token at all. That confirms nothing:
// WeChat's list is asked, too, and the profile again soon, for the token may be dead already and
// the next answer may have what this one lacks. Only after as long as it takes to confirm a refused
// one is the merchant asked.
func (c Credential) unconfirmed(p Profile, next Next) (Credential, Next) {
	listed := c.SoughtIn(p.ListedAt)
	c = c.Sought(p.Now)
	waited := p.Now.Sub(c.SoughtAt)
	next.Wait = c.retryDelay(p.Failure)
	if waited >= seekLongest {
		next.Wait = askAgainAfter[1]
	}
	if waited >= confirmedAfter && p.Believed && (listed || waited >= confirmedAfter+seekLongest) {
		c, next = c.GaveUp(p.Now)
		next.Merchant = wxtoken.ReasonRefreshTokenInvalid
	}
	return c.retried(p.Now, next), next
}

// confirmedAfter is how long it takes until a refused refresh token was confirmed often enough for
// the merchant to be asked.
const confirmedAfter = time.Minute + 10*time.Minute + time.Hour

// recoveredAfter is the wait before the nth refresh token in a row that WeChat named is tried: the
// first at once, for the old token may be dead. Should WeChat name another one each time, later and
// later.
func recoveredAfter(n int) time.Duration {
	switch {
	case n == 1:
		return 0
	case n <= len(retryAfter):
		return retryAfter[n-2]
	}
	return askAgainAfter[1]
}

// Sought notes since when another refresh token is looked for.
func (c Credential) Sought(now time.Time) Credential {
	if c.SoughtAt.IsZero() {
		c.SoughtAt = now.UTC()
	}
	return c
}

// SoughtIn reports whether WeChat's list was read since a refresh token is looked for.
func (c Credential) SoughtIn(listedAt time.Time) bool {
	return !c.SoughtAt.IsZero() && !listedAt.Before(c.SoughtAt)
}

// AwaitsList reports whether WeChat's list is to be read before the profile is asked about an
// account that has no refresh token: it brings it without a call for each account.
func (c Credential) AwaitsList(listedAt, now time.Time) bool {
	return !c.SoughtAt.IsZero() && !c.SoughtIn(listedAt) && now.Sub(c.SoughtAt) < seekLongest
}

// ListWanted reports whether WeChat's list is to be asked for now. It takes long, and is read once
// for all that wait, and not all the time for a fleet.
func (c Credential) ListWanted(listedAt time.Time, long time.Duration, now time.Time) bool {
	if c.SoughtAt.IsZero() || c.SoughtIn(listedAt) || now.Sub(listedAt) < long {
		return false
	}
	waited := now.Sub(c.SoughtAt)
	return waited <= seekPatience/2 || waited >= seekLongest/2+long // else it is being read
}

// ListRound is the time within which those that ask for WeChat's list share one reading.
const ListRound = seekPatience

// NotFound is an account without a refresh token when its profile told none, or could not be asked
// (err). dying says that its token ends before another try; then the merchant is asked, whatever
// was not asked yet.
func (c Credential) NotFound(err error, listedAt, now time.Time, dying bool) (Credential, Next) {
	cause := ErrNoRefreshToken
	if err != nil {
		cause = err
	}
	listed := c.SoughtIn(listedAt)
	c = c.Sought(now)
	waited := now.Sub(c.SoughtAt)
	if asked := waited >= seekPatience && (listed && err == nil || waited >= seekLongest); !asked && !dying {
		c.Failures++
		next := Next{Wait: Backoff(c.Failures, 0, 0), Status: Failing(now, c.Failures, cause)}
		return c.retried(now, next), next
	}
	c, next := c.GaveUp(now)
	next.Merchant = wxtoken.ReasonNoRefreshToken
	return c, next
}

// CodeSpent is a credential whose authorization's code is spent while the profile tells no refresh
// token. That is no answer: WeChat's list may bring the account, or the profile the next time; only
// then the merchant is asked.
func (c Credential) CodeSpent(listedAt, now time.Time) (_ Credential, patient bool, next Next) {
	listed := c.SoughtIn(listedAt)
	c = c.Sought(now)
	if waited := now.Sub(c.SoughtAt); waited < seekPatience || !listed && waited < seekLongest {
		return c, true, Next{}
	}
	if c.RefreshToken == "" {
		c, next = c.GaveUp(now)
	}
	next.Merchant = wxtoken.ReasonNoRefreshToken
	return c, false, next
}

// GaveUp is a credential that only the merchant can help. The sweep has it looked for again after a
// while.
func (c Credential) GaveUp(now time.Time) (Credential, Next) {
	c.AuthorizationNeeded = true
	next := Next{Wait: giveUpDelay}
	return c.retried(now, next), next
}

// RefreshTokenTold is the credential with the refresh token that WeChat told of an account that had
// none, or another one.
func (c Credential) RefreshTokenTold(refreshToken string) Credential {
	c.RefreshToken = refreshToken
	return c.well()
}

// Found is a credential that may be new or have been lost, with what the token and the status still
// tell of it: the newest generation, which never goes down, and the ref.
func (c Credential) Found(generation uint64, ref string) Credential {
	c.Generation = max(c.Generation, generation)
	if c.Ref == "" {
		c.Ref = ref
	}
	return c
}

// Blank reports whether a credential says nothing of an account, so that its status may know more.
func (c Credential) Blank() bool {
	return c.Generation == 0 && c.RefreshToken == "" && c.RevokedAt.IsZero()
}

// Restored is a credential that was gone from the store, with the refresh token that WeChat tells.
func (c Credential) Restored(refreshToken string) Credential {
	c.RefreshToken = refreshToken
	c.Authorizations++
	return c
}
