package refresher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// An account may be in force without a refresh token: WeChat's answer to the code may have an empty
// one, and WeChat's list names accounts whose code was never exchanged. Its token, if it has one,
// is good until it ends, and nothing can replace it. So the time until then is used for looking.
//
// What is known lies in the record, since each delivery may be handled by another refresher:
// SoughtAt says since when, RetryAt when to look again, AuthorizationNeeded that the merchant was
// asked. The due message is the only clock, put off from look to look; should it be lost, the sweep
// makes another, as it does for keys that are renewed. TestRefreshTokenMissing and
// TestListedWithoutRefreshToken leave the refresh token out of each source.

// seek looks for the refresh token of an account that has none. There are three sources, and WeChat
// may leave it out of any of them for a while: the answer to the code, the profile, and WeChat's
// list, which brings it by itself when it is read. Only when all three were asked is the merchant
// asked to authorize again; or when the token is about to die, for then there is no time left to
// ask.
//
// For a whole fleet, after data was lost, the list is the cheap source: one call for 500 accounts,
// where the profile takes one for each. So the list is awaited before any profile is asked.
func (r *Refresher) seek(ctx context.Context, c *component, cred account.Credential) error {
	key, now := cred.Key, r.now()
	// The record's time decides, and not the message's: a sweep of another refresher, or an
	// operator, may have made a message meanwhile.
	if wait := cred.RetryAt.Sub(now); wait > 0 {
		if cred.AuthorizationNeeded {
			return r.tellNeeded(ctx, cred)
		}
		return events.Later(wait, fmt.Errorf("renew %s: %w", key, account.ErrNoRefreshToken))
	}
	// A code of the account may be with WeChat in this moment, which brings what is looked for.
	if cred.ClaimedAt(now) {
		return events.Later(account.ClaimedDelay, fmt.Errorf("%s is claimed by another refresher", key))
	}
	e, _ := r.view.Get(key)
	// Two minutes before the end, or a third of a shorter life, what was not asked yet is left
	// unasked: a merchant who hears of it then may authorize before services notice.
	dying := e.Token.DiesSoon(now)
	if cred.AwaitsList(c.gate.Shared().ListedAt, now) && !dying {
		r.askList(ctx, cred)
		return events.Later(jittered(c.gate.Delay()), fmt.Errorf("renew %s: WeChat's list is being read: %w", key, account.ErrNoRefreshToken))
	}
	// An account that granted no API has nothing to find. Its record looks the same as that of one
	// whose refresh token was left out; only the status knows.
	if s, _, err := r.store.Status(ctx, key); err == nil && account.ReadyReason(s) == wxtoken.ReasonNoAPIPermission {
		// Only the merchant can help, and was asked: with a link that lives for days.
		cred, _ := cred.GaveUp(now)
		return r.giveUp(ctx, cred, r.ifRevoked(ctx, key, false, account.WithoutPermission(now, r.links.Reauthorize(ctx, cred))))
	}
	info, err := r.authorizerInfo(ctx, c, key.Authorizer)
	switch {
	// The call was not made, and no failure is counted.
	case isHeld(err) && !dying:
		wait, _ := events.After(err)
		return events.Later(max(wait, jittered(c.gate.Delay())), err) // the more may wait, the longer each
	case err != nil && wechat.Judge(err) == wechat.Revoked:
		return r.cancelByAnswer(ctx, c, cred, err)
	case err == nil && info.RefreshToken != "":
		return r.takeRefreshToken(ctx, cred, info)
	}
	cred, next := cred.NotFound(err, c.gate.Shared().ListedAt, now, dying)
	cause := cmp.Or(err, account.ErrNoRefreshToken)
	if next.Merchant == "" {
		return r.tryAgain(ctx, cred, next, cause)
	}
	return r.giveUp(ctx, cred, r.changeFor(ctx, cred, next, cause))
}

// giveUp stores that only the merchant can help. The sweep has it looked for again after a while.
//
// The save comes before the status: a refresher that dies in between is followed by one that finds
// AuthorizationNeeded, and tellNeeded writes the status.
func (r *Refresher) giveUp(ctx context.Context, cred account.Credential, change account.Change) error {
	cred, err := r.store.Save(ctx, cred)
	if err != nil {
		return err
	}
	return r.writeStatus(ctx, cred.Key, r.authorized(ctx, cred, cred.AuthorizedAt), change)
}

// tellNeeded has the status of an account that was given up say so, should NATS not have stored
// that. The message is done with it: it is the sweep that has the account looked for again.
func (r *Refresher) tellNeeded(ctx context.Context, cred account.Credential) error {
	s, _, err := r.store.Status(ctx, cred.Key)
	// Asked first, because changeFor makes a link, which is a record: each due message that comes
	// meanwhile would leave one more.
	if err != nil || s.State == wxtoken.StateNeedsAuthorization || account.ReadyReason(s) == wxtoken.ReasonNoAPIPermission {
		return err
	}
	next := account.Next{Merchant: wxtoken.ReasonNoRefreshToken}
	return r.writeStatus(ctx, cred.Key, r.ifRevoked(ctx, cred.Key, false, r.changeFor(ctx, cred, next, account.ErrNoRefreshToken)))
}

// takeRefreshToken stores the refresh token that WeChat tells of an account that had none, or
// another one. Its token is renewed in its time.
//
// A token that is due already is renewed by this same message, which comes again in 50 ms: one
// story covers each renewal.
func (r *Refresher) takeRefreshToken(ctx context.Context, cred account.Credential, info wechat.AuthorizerInfo) error {
	cred, err := r.keepRecovered(ctx, cred, info)
	if err != nil {
		return err
	}
	t, ok, err := r.store.Token(ctx, cred.Key)
	if err != nil || !ok || !r.now().Before(t.RenewAt) {
		return events.Later(store.LostDelay, errors.Join(fmt.Errorf("renew %s: its refresh token is there now", cred.Key), err))
	}
	return nil
}

// keepRecovered stores the refresh token that WeChat tells, and says so.
//
// Nothing is renewed here. That a refresh token was missing says nothing about the access token,
// and each new token ends the one before five minutes later.
func (r *Refresher) keepRecovered(ctx context.Context, cred account.Credential, info wechat.AuthorizerInfo) (account.Credential, error) {
	stored, err := r.store.Save(ctx, cred.RefreshTokenTold(info.RefreshToken))
	if err != nil {
		return cred, err
	}
	r.metrics.recovered.Inc()
	r.log.Warn().Stringer("key", cred.Key).Msg("refresh token recovered from WeChat")
	changes := []account.Change{r.authorized(ctx, stored, stored.AuthorizedAt), account.ProfileOf(info)}
	if t, ok, err := r.store.Token(ctx, cred.Key); err == nil && ok && r.now().Before(t.ExpiresAt) {
		changes = append(changes, account.Active(r.now()))
	}
	r.setStatus(ctx, cred.Key, changes...)
	return stored, nil
}

// askList has WeChat's list read for an account whose refresh token is looked for, after that was
// stored: then what the list says is taken over. The message id is the same within a few seconds,
// so the list is read once for all that wait, and not all the time for a fleet.
//
// It does nothing while the list is being read, or was read since the search began; the account
// decides (ListWanted). Every renewal that failed and every search comes by here.
func (r *Refresher) askList(ctx context.Context, cred account.Credential) {
	c, ok := r.component(cred.Key.Component)
	if !ok {
		return
	}
	now := r.now()
	long := c.gate.ListTakes()
	if !cred.ListWanted(c.gate.Shared().ListedAt, long, now) {
		return
	}
	id := fmt.Sprintf("%s/%d/sought", c.appid, now.Unix()/int64(account.ListRound/time.Second))
	if err := r.store.MakeReconcileDue(ctx, c.appid, id); err != nil {
		r.log.Warn().Err(err).Str("component", c.appid).Msg("failed to ask for WeChat's list")
	}
}

// absorbEmpty looks after an account that WeChat's list names without a refresh token, because its
// code was never exchanged perhaps: it gets a record, so that it is looked for, counted and told.
// began is when the reading of the list did.
//
// The push about it may come yet, dated before now. So the record gets no time: it would make that
// push look old. And it is asked about only 10 s later, when the list was read to its end.
func (r *Refresher) absorbEmpty(ctx context.Context, key wxtoken.Key, authTime, began time.Time) error {
	cred, err := r.unclaimed(ctx, key)
	switch {
	case errors.Is(err, store.ErrNewer):
		return nil
	case err != nil && !errors.Is(err, store.ErrUnreadable):
		return err
	case cred.LookedAfter(authTime, r.now()):
		return nil
	}
	if cred, err = r.recollect(ctx, cred); err != nil {
		return err
	}
	cred = cred.ListedWithout(began, r.now())
	if cred, err = r.store.Save(ctx, cred); err != nil {
		if errors.Is(err, store.ErrLost) {
			return nil // something newer came in between
		}
		return err
	}
	r.log.Warn().Stringer("key", key).Time("auth_time", authTime).Msg("account listed without a refresh token")
	return r.store.MakeDue(ctx, events.Due{Key: key, Generation: cred.Generation, Reason: events.ReasonListed}, "")
}

// seekSpent deals with a code that is spent where the profile tells no refresh token either: that
// is no answer. WeChat's list may bring the account, or the profile the next time; only then the
// merchant is asked.
func (r *Refresher) seekSpent(ctx context.Context, c *component, cred account.Credential, a events.Auth, m events.Msg, link *store.Connect, cause error) error {
	now, key := r.now(), cred.Key
	if created := a.CreateTime.UTC(); cred.Same(created) {
		cred, err := r.store.Save(ctx, cred) // the list has brought it
		if err != nil {
			return err
		}
		return r.repeatAuthorization(ctx, cred, created, link, m)
	}
	cred, patient, next := cred.CodeSpent(c.gate.Shared().ListedAt, now)
	if patient {
		r.setStatus(ctx, key, account.AuthorizedAt(a.CreateTime, cred.Ref), account.Failing(now, cred.Failures+1, cause))
		return r.giveBack(ctx, cred, account.Backoff(m.Deliveries, 0, 0), errors.Join(cause, account.ErrNoRefreshToken))
	}
	if _, err := r.store.Save(ctx, cred); err != nil {
		return err
	}
	r.setStatus(ctx, key, account.AuthorizedAt(a.CreateTime, cred.Ref), r.changeFor(ctx, cred, next, cause))
	return r.links.Fail(ctx, link, "", wechat.Judge(cause).String())
}
