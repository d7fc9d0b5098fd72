package refresher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/links"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// handleCode exchanges the code that a link's redirect brought. It does not say for which account
// it is, and not when the merchant agreed: WeChat's answer tells the first, the push the second.
//
// The code can't be claimed under a key that is not known yet. So it is the link that is claimed,
// and what other handlers do to the account meanwhile is sorted out when the answer is stored.
func (r *Refresher) handleCode(ctx context.Context, c *component, a events.Auth, m events.Msg) error {
	if a.Code == "" {
		return events.Never(fmt.Errorf("handle %s: the code is missing", a.Kind))
	}
	link, err := r.links.Of(ctx, a)
	if err != nil {
		return err
	}
	if link != nil && link.Authorizer != "" {
		return nil // the push came first, and one link is one authorization
	}
	sum := events.Digest(a.Code)
	if link != nil && link.CodeDigest != "" && link.CodeDigest != sum {
		return nil // it came to nothing, and another was taken since
	}
	if key, ok := r.view.Find(func(key wxtoken.Key, e *store.Entry) bool {
		return e.Credential.CameFrom(sum) && key.Component == c.appid
	}); ok { // so did it here, or a refresher died before the link was written
		cred, err := r.store.Credential(ctx, key)
		if err != nil {
			return err
		}
		if link, err = r.links.For(ctx, link, key.Authorizer); err != nil || link == nil {
			return err
		}
		if cred, err = r.noteAuthorization(ctx, cred, cred.AuthorizedAt, link); err != nil {
			return err
		}
		return r.links.Finish(ctx, link, cred)
	}
	if link != nil && !link.SpentAt.IsZero() {
		return r.awaitPush(ctx, c, link, m)
	}
	turn, err := c.gate.Admit(ctx, gate.Call{API: wechat.APIQueryAuth})
	if err != nil {
		return err
	}
	if err := r.links.Claim(ctx, link, m); err != nil {
		return err
	}
	asked := r.now()
	granted, err := r.exchange(ctx, c, turn, a.Code)
	r.step("exchange.asked")
	switch verdict := wechat.Judge(err); {
	case err == nil:
	case verdict == wechat.CodeSpent:
		// Spent by the push most likely; if by another keeper, the list knows.
		r.log.Info().Err(err).Str("component", c.appid).Msg("code was used already, asking WeChat's list")
		if err := r.store.ScheduleReconcile(ctx, c.appid, r.cfg.ReconcileEvery, true); err != nil {
			return err
		}
		return r.awaitPush(ctx, c, link, m)
	case verdict == wechat.Revoked: // that event is on its way
		r.log.Warn().Err(err).Str("component", c.appid).Msg("authorization came to nothing")
		return r.links.Fail(ctx, link, "", verdict.String())
	default:
		return events.Later(eventDelay(m, err), fmt.Errorf("exchange code: %w", err))
	}
	if !wxtoken.ValidAppID(granted.AuthorizerAppID) {
		if err := r.links.Fail(ctx, link, "", "no_account"); err != nil {
			return err
		}
		return events.Never(errors.New("exchange code: WeChat's answer names no account"))
	}
	its := link
	if links.ForAnother(link, granted.AuthorizerAppID) {
		its = nil
	}
	if err := r.keepCode(ctx, c, wxtoken.AuthorizerKey(c.appid, granted.AuthorizerAppID), granted, a, asked, its); err != nil {
		return err
	}
	_, err = r.links.For(ctx, link, granted.AuthorizerAppID)
	return err
}

// spentPatience is how long a link whose code is spent waits for the push that may have spent it,
// before it is called failed.
const spentPatience = 10 * time.Second

// awaitPush deals with a redirect's code that was spent before, most likely by the push, whose
// handler may be at work in this moment. The link waits for it for ten seconds; after that the
// account is looked for, and if nothing is found the link has failed.
func (r *Refresher) awaitPush(ctx context.Context, c *component, link *store.Connect, m events.Msg) error {
	if link == nil {
		return nil
	}
	if !link.SpentAt.IsZero() && r.now().Sub(link.SpentAt) >= spentPatience {
		if done, err := r.finishMissed(ctx, c, link, m); done || err != nil {
			return err
		}
		r.log.Warn().Str("component", c.appid).Str("connect", link.ID[:8]).Msg("authorization came to nothing, its code was used already")
		return r.links.Fail(ctx, link, "", wechat.CodeSpent.String())
	}
	if err := r.links.NoteSpent(ctx, link); err != nil {
		return err
	}
	return events.Later(spentDelay, errors.New("exchange code: it was used already, waiting for the push that may have used it"))
}

// finishMissed finishes a link that is limited to one account when neither the answer to its code
// came, nor the push, and WeChat knows of a new authorization of that account. Anybody who has the
// link can come back with a code that is no good, so that the account is authorized is not enough:
// without news since the code came the ref stays where it is.
func (r *Refresher) finishMissed(ctx context.Context, c *component, link *store.Connect, m events.Msg) (done bool, err error) {
	if link.BizAppID == "" {
		return false, nil
	}
	key := wxtoken.AuthorizerKey(c.appid, link.BizAppID)
	cred, err := r.store.Credential(ctx, key)
	if err != nil {
		return false, err
	}
	if cred.ClaimedAt(r.now()) {
		return false, events.Later(account.ClaimedDelay, fmt.Errorf("exchange code: %s is being renewed", key))
	}
	// The list has told.
	if cred.RefreshToken != "" && cred.RevokedAt.IsZero() && cred.AuthorizedAt.After(link.CodeAt.Add(-account.MaxAhead)) {
		if cred, err = r.noteAuthorization(ctx, cred, cred.AuthorizedAt, link); err != nil {
			return false, err
		}
		return true, r.links.Finish(ctx, link, cred)
	}
	info, err := r.authorizerInfo(ctx, c, key.Authorizer)
	if err != nil && wechat.Judge(err) == wechat.Revoked {
		return false, nil
	}
	if err != nil {
		return false, events.Later(eventDelay(m, err), fmt.Errorf("exchange code: %w", err))
	}
	if info.RefreshToken == "" || info.RefreshToken == cred.RefreshToken && cred.RevokedAt.IsZero() {
		return false, nil
	}
	if cred, err = r.recollect(ctx, cred); err != nil {
		return false, err
	}
	// Not known when, as after a redirect.
	return true, r.storeSpent(ctx, cred, info, time.Time{}, events.KindCallback, link)
}

// keepCode stores what a code brought, and tries for as long as it takes. The code is spent now, so
// the answer must not be lost: giving the message back would ask WeChat with a code that is no good
// any more. A handler that is at the key meanwhile loses its compare-and-set, and renews once more.
func (r *Refresher) keepCode(ctx context.Context, c *component, key wxtoken.Key, granted wechat.Authorization, a events.Auth, asked time.Time, link *store.Connect) error {
	for {
		err := r.tryKeepCode(ctx, c, key, granted, a, asked, link)
		wait := store.LostDelay
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case errors.Is(err, store.ErrLost):
		case r.stopping.Load() || errors.Is(err, store.ErrNewer):
			return err
		default:
			wait = plainDelay
			r.log.Warn().Err(err).Stringer("key", key).Dur("delay", wait).Msg("failed to store authorization")
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// tryKeepCode stores the answer once. No claim keeps others from the key, so a renewal may be under
// way: its token and this one are then both fresh, and which one WeChat holds for the newest is not
// known. Renewing once more, after both, settles it.
func (r *Refresher) tryKeepCode(ctx context.Context, c *component, key wxtoken.Key, granted wechat.Authorization, a events.Auth, asked time.Time, link *store.Connect) error {
	cred, err := r.store.Credential(ctx, key)
	if err != nil && !errors.Is(err, store.ErrUnreadable) {
		return err
	}
	if cred.Brought(events.Digest(a.Code)) { // it was stored, and that answer was lost
		changes := []account.Change{r.ifRevoked(ctx, key, false, account.AuthorizedAt(cred.AuthorizedAt, cred.Ref))}
		if cred.Renewable() {
			changes = append(changes, account.Active(r.now()))
		}
		r.setStatusAndProfile(ctx, key, changes...)
		return r.links.Finish(ctx, link, cred)
	}
	// A cancellation, too, may have come while WeChat was asked: the renewal finds out.
	overlapped := granted.AccessToken != "" && (cred.ClaimedAt(r.now()) || cred.RefreshToken != "" || !cred.RevokedAt.IsZero())
	if cred, err = r.recollect(ctx, cred); err != nil {
		return err
	}
	if overlapped {
		// A renewal may have asked WeChat after us: it is not known which token is the newer one.
		// The wish comes first: it waits for the generation that is stored next, and can't be lost
		// in between.
		due := events.Due{Key: key, Generation: cred.Generation + 1, Reason: events.ReasonOverlap}
		if err := r.store.MakeDue(ctx, due, ""); err != nil {
			return err
		}
	}
	// It is not known when that was: a cancellation has to ask WeChat, for it may be older.
	return r.establish(ctx, c, cred, granted, a, time.Time{}, asked, link)
}
