package account

import (
	"errors"
	"time"

	"wxtoken/client"
	"wxtoken/internal/wechat"
)

const (
	// ClaimFor is how long a claim holds when its owner is never heard of again and its message
	// isn't delivered again either. A call to WeChat must end before.
	ClaimFor = 15 * time.Second
	// ClaimedDelay is the wait for another refresher that holds a claim.
	ClaimedDelay = 500 * time.Millisecond
	// MaxForced is how many renewals of a key a day may be asked for, by a report or by hand.
	MaxForced = 24
	// gateDelay is the wait of a renewal that the component's quota stopped: the gate knows how
	// long, and may open any time.
	gateDelay = 5 * time.Second
)

// Next is what follows from something that happened to a credential, beside the record itself.
type Next struct {
	Wait     time.Duration // until the next try; the record's RetryAt says the same
	Status   Change        // what the status says from now on; nil = what it says
	Do       Deed
	Merchant wxtoken.Reason // the reason why only the merchant can help now; "" = not so
}

// Deed is what is to be done about a credential now.
type Deed int

// The deeds.
const (
	DoWait       Deed = iota // try again after Next.Wait
	DoAskPush                // and have WeChat push tickets: the one that is there was refused
	DoAskProfile             // ask WeChat which refresh token is good (api_get_authorizer_info)
	DoCancel                 // WeChat says that the authorization is over
)

// Claimed is the credential while the process by is at it because of a message.
func (c Credential) Claimed(by, purpose string, now time.Time) Credential {
	if c.Claim != nil {
		c = c.unsure() // the process that made it is gone, and may have asked WeChat
	}
	c.Claim = &Claim{By: by, For: purpose, Until: now.Add(ClaimFor).UTC()}
	return c
}

// unsure notes that WeChat may have been asked since the claim was made, without an answer.
func (c Credential) unsure() Credential {
	if c.UnsureSince.IsZero() && c.Claim != nil {
		c.UnsureSince = c.Claim.Until.Add(-ClaimFor)
	}
	return c
}

// GivenBack is the credential after a claim that came to nothing: WeChat was not asked.
func (c Credential) GivenBack() Credential {
	c.Claim = nil
	return c
}

// well is the credential when no refresher is at it and nothing is wrong.
func (c Credential) well() Credential {
	c.Claim, c.Trouble = nil, Trouble{}
	return c
}

// WasForced counts a renewal that was asked for, by a report or by hand.
func (c Credential) WasForced(now time.Time) Credential {
	if !c.forcedOn(now) {
		c.Forced = 0
	}
	c.Forced, c.ForcedAt = c.Forced+1, now.UTC()
	return c
}

// forcedOn reports whether Forced counts the day of now.
func (c Credential) forcedOn(now time.Time) bool { return wechat.Day(c.ForcedAt) == wechat.Day(now) }

// ForcedOften reports whether so many renewals were asked for on the day of now, in China, that no
// more are made.
func (c Credential) ForcedOften(now time.Time) bool { return c.forcedOn(now) && c.Forced >= MaxForced }

// Replaceable answers whether the token t of a credential may be replaced before its time: once
// however many ask for it, not within a cool-down after the last renewal, and not more than
// MaxForced times a day. WeChat itself refused it, or a person asks. OutcomeRenewing means: yes;
// the caller makes it due, unless that is under way.
func (c Credential) Replaceable(t wxtoken.Token, asked bool, now time.Time) (outcome wxtoken.Outcome, underWay bool) {
	switch {
	case !c.Renewable():
		return wxtoken.OutcomeUnknownKey, false
	case c.Generation > t.Generation:
		return wxtoken.OutcomeAlreadyRenewed, false
	case c.ClaimedAt(now) || c.Failures > 0 && !asked:
		return wxtoken.OutcomeRenewing, true
	case min(now.Sub(t.ObtainedAt), now.Sub(c.ForcedAt)) < cooldown(t.ExpiresAt.Sub(t.ObtainedAt)), c.ForcedOften(now):
		return wxtoken.OutcomeTooSoon, false
	}
	return wxtoken.OutcomeRenewing, false
}

// Renewed is the credential after a good answer, and how that came about. An empty refresh token
// never replaces one.
func (c Credential) Renewed(refreshToken string, how Past) Credential {
	if refreshToken != "" && KindOf(c.Key).OfMerchant {
		c.RefreshToken = refreshToken
	}
	c.Generation++
	c.Anew = false
	return c.noted(how).well()
}

// Failure is an answer of WeChat's that is no token.
type Failure struct {
	Err  error
	Now  time.Time
	Dies time.Time     // when the stored token does; zero if there is none
	Away time.Duration // above zero: WeChat does not answer, and one call for all keys is made so often
	// 0 to 1, by chance: failures that happen together are not to be tried again together.
	Jitter float64
}

// Failed is the credential after a renewal that WeChat did not answer with a token. With
// DoAskProfile and DoCancel the caller goes on with the credential that comes back; else it is to
// be stored.
func (c Credential) Failed(f Failure) (Credential, Next) {
	if unanswered(f.Err) {
		c = c.unsure()
	}
	c.Claim = nil
	if c.Failures == 0 || f.Away <= 0 {
		c.Failures++ // a probe that failed says nothing about this key: its ladder waits for WeChat
	}
	refusal, _ := errors.AsType[*wechat.Error](f.Err)
	c.LacksPermission = refusal != nil && refusal.LacksPermission()
	next := Next{Wait: c.retryDelay(f), Status: c.stillFailing(f.Now, f.Err)}
	switch wechat.Judge(f.Err) {
	case wechat.SlowDown:
		next.Wait = wechat.MinuteLimit + time.Duration(f.Jitter*float64(wechat.MinuteLimit)/2)
	case wechat.QuotaGone:
		// It is the component that is in trouble, and its status says so, unless it is the
		// account's own quota.
		next.Wait, next.Status = gateDelay, nil
		if ofAccountAPI(f.Err) {
			next.Wait, next.Status = wechat.QuotaBack(f.Now).Sub(f.Now), Failing(f.Now, c.Failures, f.Err)
		}
	case wechat.WaitForTicket:
		next = Next{Wait: longest(), Status: TicketRefused(f.Now, c.Failures, f.Err), Do: DoAskPush}
	case wechat.CodeSpent, wechat.Operator:
		next = c.needsOperator(f)
	case wechat.RecoverRefreshToken:
		return c, Next{Do: DoAskProfile}
	case wechat.Revoked:
		return c, Next{Do: DoCancel}
	}
	return c.retried(f.Now, next), next
}

// needsOperator is what follows from a refusal that only a person can put right.
func (c Credential) needsOperator(f Failure) Next {
	next := Next{Wait: longest()}
	if KindOf(c.Key).OfComponent {
		next.Status = Troubled(wxtoken.StateOperator, wxtoken.ReasonOperatorNeeded, f.Now, c.Failures, f.Err)
	}
	derived := Derived(c.Key)
	// What a ticket's call meets does not stand in the component's status.
	if wechat.OfAccount(f.Err) || derived {
		next.Wait, next.Status = askAgain(c.Failures), Operator(f.Now, f.Err)
		if derived && c.Failures > len(askAgainAfter) {
			next.Wait = giveUpDelay // not every account may have such a ticket
		}
	}
	return next
}

// retried notes when the next try may start.
func (c Credential) retried(now time.Time, next Next) Credential {
	c.RetryAt = now.Add(next.Wait).UTC()
	return c
}

// retryDelay returns how long to wait after the failure that c counts.
func (c Credential) retryDelay(f Failure) time.Duration {
	dies := f.Dies
	if replaced := c.UnsureSince.Add(overlap); !c.UnsureSince.IsZero() && replaced.Before(dies) {
		dies = replaced
	}
	wait := Backoff(c.Failures, dies.Sub(f.Now), f.Jitter)
	if f.Away > 0 {
		wait = min(wait, f.Away)
	}
	return wait
}

// unanswered reports whether a call may have been executed although it brought nothing.
func unanswered(err error) bool {
	var e *wechat.Error
	return errors.As(err, &e) && e.Code == 0
}

// ofAccountAPI reports whether err is of a call that is charged to the account.
func ofAccountAPI(err error) bool {
	e, ok := errors.AsType[*wechat.Error](err)
	return ok && e.API.OfAccount()
}

// Declined is the credential after the exchange of a code that turned out to be of another account.
func (c Credential) Declined() Credential { return c.well() }
