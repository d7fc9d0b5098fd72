package refresher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

const (
	// seekPatience is how long a refresh token is looked for at least, so that each source is asked more than once, and a push that
	// brings it may come, before the merchant is asked to authorize again.
	seekPatience = 10 * time.Second
	// seekLongest is how long WeChat's list, and the profile, are waited for where they can't be had.
	seekLongest = 10 * time.Minute
	// seekBefore is how long before a token dies the merchant is asked, whatever was not asked yet.
	seekBefore = 2 * time.Minute
)

// errNoRefreshToken stands for an authorization without which nothing can be renewed.
var errNoRefreshToken = errors.New("WeChat gave no refresh token for this account (asked: api_query_auth, api_get_authorizer_info, api_get_authorizer_list)")

// unrenewable reports whether an account is authorized and there is nothing to renew its token with, and no code is being exchanged
// that will bring it.
func unrenewable(cred store.Credential) bool {
	return cred.Key.Kind == wxtoken.KindAuthorizer && cred.RevokedAt.IsZero() && cred.RefreshToken == "" && cred.Revision > 0 &&
		(cred.Generation > 0 || !cred.SoughtAt.IsZero() || cred.AuthorizationNeeded)
}

// seek looks for the refresh token of an account that has none: in its profile, and in WeChat's list, which brings it by itself. Only when
// both were asked, and the answer to the code had none, is the merchant asked to authorize again; that is before the token dies.
func (r *Refresher) seek(ctx context.Context, c *component, cred store.Credential) error {
	key, now := cred.Key, r.now()
	if wait := cred.RetryAt.Sub(now); wait > 0 {
		return events.Later(wait, fmt.Errorf("renew %s: %w", key, errNoRefreshToken))
	}
	if cred.ClaimedAt(now) {
		return events.Later(claimedDelay, fmt.Errorf("%s is claimed by another refresher", key))
	}
	listed := !cred.SoughtAt.IsZero() && r.sought(c, &cred)
	if !cred.SoughtAt.IsZero() && !listed && now.Sub(cred.SoughtAt) < seekLongest && !r.diesSoon(key, seekBefore) {
		r.askList(ctx, cred) // it may bring it without a call for each account
		return events.Later(jittered(r.heldDelay()), fmt.Errorf("renew %s: WeChat's list is being read: %w", key, errNoRefreshToken))
	}
	if s, _, err := r.store.Status(ctx, key); err == nil && readyReason(s) == noPermission {
		return r.giveUp(ctx, cred, nil) // only the merchant can help, and was asked
	}
	info, err := r.authorizerInfo(ctx, c, key.Authorizer)
	cause := errNoRefreshToken
	switch {
	case isHeld(err) && !r.diesSoon(key, seekBefore):
		wait, _ := events.After(err)
		return events.Later(max(wait, jittered(r.heldDelay())), err) // the more may wait, the longer each
	case err != nil && wechat.Judge(err) == wechat.Revoked:
		return r.cancelled(ctx, c, cred, now, err)
	case err != nil:
		cause = err
	case info.RefreshToken != "":
		return r.take(ctx, cred, info)
	}
	read := r.sought(c, &cred)
	waited := now.Sub(cred.SoughtAt)
	asked := waited >= seekPatience && (read && err == nil || waited >= seekLongest)
	if !asked && !r.diesSoon(key, seekBefore) {
		cred.Failures++
		return r.tryAgain(ctx, cred, backoff(cred.Failures, 0, 0), failing(now, cred.Failures, cause), cause)
	}
	r.log.Error().Err(cause).Stringer("key", key).Msg("authorization needed")
	return r.giveUp(ctx, cred, needsAuthorization(now, cred.Failures, noRefreshToken, cause, r.reauthorizeURL(ctx, cred)))
}

// giveUp stores that only the merchant can help. The sweep has it looked for again after a while.
func (r *Refresher) giveUp(ctx context.Context, cred store.Credential, change statusChange) error {
	cred.AuthorizationNeeded, cred.RetryAt = true, r.now().Add(giveUpDelay).UTC()
	if _, err := r.store.Save(ctx, cred); err != nil {
		return events.Later(lostDelay, err)
	}
	if change == nil {
		return nil
	}
	return r.writeStatus(ctx, cred.Key, r.ifRevoked(ctx, cred.Key, false, authorizedAt(cred.AuthorizedAt, cred.Ref)), change)
}

// diesSoon reports whether the token of key lives, and for less than left.
func (r *Refresher) diesSoon(key wxtoken.Key, left time.Duration) bool {
	e, _ := r.view.Get(key)
	life := e.Token.ExpiresAt.Sub(r.now())
	return life > 0 && life < min(left, e.Token.ExpiresAt.Sub(e.Token.ObtainedAt)/3)
}

// take stores the refresh token that WeChat tells of an account that had none, or another one. Its token is renewed in its time.
func (r *Refresher) take(ctx context.Context, cred store.Credential, info wechat.AuthorizerInfo) error {
	cred, err := r.keepTold(ctx, cred, info)
	if err != nil {
		return events.Later(lostDelay, err)
	}
	t, ok, err := r.store.Token(ctx, cred.Key)
	if err != nil || !ok || !r.now().Before(t.RenewAt) {
		return events.Later(lostDelay, errors.Join(fmt.Errorf("renew %s: its refresh token is there now", cred.Key), err))
	}
	return nil
}

// keepTold stores the refresh token that WeChat tells, and says so.
func (r *Refresher) keepTold(ctx context.Context, cred store.Credential, info wechat.AuthorizerInfo) (store.Credential, error) {
	cred.RefreshTokenBefore, cred.RefreshToken = cred.RefreshToken, info.RefreshToken
	stored, err := r.store.Save(ctx, released(cred))
	if err != nil {
		return cred, err
	}
	r.metrics.recovered.Inc()
	r.log.Warn().Stringer("key", cred.Key).Msg("refresh token recovered from WeChat")
	changes := []statusChange{r.ifRevoked(ctx, cred.Key, false, authorizedAt(stored.AuthorizedAt, stored.Ref)), profile(info)}
	if t, ok, err := r.store.Token(ctx, cred.Key); err == nil && ok && r.now().Before(t.ExpiresAt) {
		changes = append(changes, active(r.now()))
	}
	r.setStatus(ctx, cred.Key, changes...)
	return stored, nil
}

// sought reports whether WeChat's list was read since a refresh token is looked for. cred remembers since when, and is to be stored.
func (r *Refresher) sought(c *component, cred *store.Credential) (listed bool) {
	if cred.SoughtAt.IsZero() {
		cred.SoughtAt = r.now().UTC()
		return false
	}
	return !c.quota().ListedAt.Before(cred.SoughtAt)
}

// askList has WeChat's list read for an account whose refresh token is looked for, after that was stored: then what the list says is
// taken over. It is read once for all that wait, and not all the time for a fleet.
func (r *Refresher) askList(ctx context.Context, cred store.Credential) {
	c, ok := r.component(cred.Key.Component)
	if !ok || cred.SoughtAt.IsZero() {
		return
	}
	now, listed := r.now(), c.quota().ListedAt
	long := time.Duration(r.view.Len()) * time.Second / listRate // that it takes
	asked := now.Sub(cred.SoughtAt)
	if !listed.Before(cred.SoughtAt) || now.Sub(listed) < long || asked > seekPatience/2 && asked < seekLongest/2+long { // it is being read
		return
	}
	id := fmt.Sprintf("%s/%d/sought", c.appid, now.Unix()/int64(seekPatience/time.Second))
	if err := r.store.MakeReconcileDue(ctx, c.appid, id); err != nil {
		r.log.Warn().Err(err).Str("component", c.appid).Msg("failed to ask for WeChat's list")
	}
}

// absorbEmpty looks after an account that WeChat's list names without a refresh token, because its code was never exchanged perhaps: it
// gets a record, so that it is looked for, counted and told. began is when the reading of the list did.
func (r *Refresher) absorbEmpty(ctx context.Context, key wxtoken.Key, authTime, began time.Time) error {
	cred, err := r.unclaimed(ctx, key)
	switch {
	case errors.Is(err, store.ErrNewer):
		return nil
	case err != nil && !errors.Is(err, store.ErrUnreadable):
		return err
	case cred.ClaimedAt(r.now()), cred.RefreshToken != "", unrenewable(cred), !cred.RevokedAt.IsZero() && !authTime.After(cred.RevokedAt):
		return nil // kept, or looked for already, or cancelled since
	}
	if cred, err = r.found(ctx, cred); err != nil {
		return err
	}
	// Its time stays unknown: the push about it may come yet, and must not count as an old one.
	cred.RevokedAt, cred.AuthorizedAt = time.Time{}, time.Time{}
	cred = released(cred)
	cred.Authorizations++ // for all we know
	// It is asked about in a moment, when the list is read to its end and a push under way has come.
	cred.SoughtAt, cred.RetryAt = began.UTC(), r.now().Add(seekPatience).UTC()
	if cred, err = r.store.Save(ctx, cred); err != nil {
		if errors.Is(err, store.ErrLost) {
			return nil // something newer came in between
		}
		return err
	}
	r.log.Warn().Stringer("key", key).Time("auth_time", authTime).Msg("account listed without a refresh token")
	return r.store.MakeDue(ctx, events.Due{Key: key, Generation: cred.Generation, Reason: events.ReasonListed}, "")
}

// spentWithout deals with a code that is spent where the profile tells no refresh token either: that is no answer. WeChat's list may bring the
// account, or the profile the next time; only then the merchant is asked.
func (r *Refresher) spentWithout(ctx context.Context, c *component, cred store.Credential, a events.Auth, m events.Msg, link *store.Connect, cause error) error {
	now, key := r.now(), cred.Key
	if created := a.CreateTime.UTC(); cred.RefreshToken != "" && !cred.AuthorizedAt.IsZero() && !cred.AuthorizedAt.Before(created.Add(-sameAuthorization)) {
		cred, err := r.store.Save(ctx, cred) // the list has brought it
		if err != nil {
			return events.Later(lostDelay, err)
		}
		return r.toldAgain(ctx, c, cred, created, link, m)
	}
	read := r.sought(c, &cred)
	if waited := now.Sub(cred.SoughtAt); waited < seekPatience || !read && waited < seekLongest {
		r.setStatus(ctx, key, authorizedAt(a.CreateTime, cred.Ref), failing(now, cred.Failures+1, cause))
		return r.giveBack(ctx, cred, backoff(m.Deliveries, 0, 0), errors.Join(cause, errNoRefreshToken))
	}
	if cred.RefreshToken == "" {
		cred.AuthorizationNeeded, cred.RetryAt = true, now.Add(giveUpDelay).UTC()
	}
	if _, err := r.store.Save(ctx, cred); err != nil {
		return events.Later(lostDelay, err)
	}
	r.log.Error().Err(cause).Stringer("key", key).Msg("authorization needed")
	r.setStatus(ctx, key, authorizedAt(a.CreateTime, cred.Ref), needsAuthorization(now, cred.Failures, noRefreshToken, cause, r.reauthorizeURL(ctx, cred)))
	return r.connected(ctx, link, events.ConnectFailed, "", wechat.Judge(cause).String())
}

// stateOf returns the state of an account by its record and the clock: metrics count by it, and what the status says agrees with it.
func stateOf(e store.Entry, now time.Time) wxtoken.State {
	switch cred := e.Credential; {
	case !cred.RevokedAt.IsZero():
		return wxtoken.StateRevoked
	case cred.AuthorizationNeeded:
		return wxtoken.StateNeedsAuthorization
	case !cred.Renewable() && !unrenewable(cred): // an older program gave it up
		return wxtoken.StateNeedsAuthorization
	case !cred.Renewable() || cred.Failures > 0 || !now.Before(e.Token.ExpiresAt):
		return wxtoken.StateRenewingFailed
	}
	return wxtoken.StateActive
}
