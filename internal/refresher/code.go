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
	"wxtoken/internal/lang"
	"wxtoken/internal/links"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// The redirect is the weak half of an authorization. It comes from a browser: it may never come, or
// come again, and whoever has the link can send it with a code that is none. And it says little:
// "auth_code" and "expires_in", no account and no time
// ("Authorization_Process_Technical_Description"). The push says both, and needs no browser. So the
// redirect is there for speed, and the push dates what it brought.
//
// A code that is spent is an ordinary case here, where both have the same one. What must not happen
// is that a link is called failed while the push's handler is at work: the page that waits would
// tell the merchant to begin again (TestConsent, TestRedirectsAnswerLost,
// TestPushAtWorkWhenPatienceEnds).

// handleCode exchanges the code that a link's redirect brought. It does not say for which account
// it is, and not when the merchant agreed: WeChat's answer tells the first, the push the second.
//
// The code can't be claimed under a key that is not known yet. So it is the link that is claimed,
// and what other handlers do to the account meanwhile is sorted out when the answer is stored.
func (r *Refresher) handleCode(ctx context.Context, c *component, a events.Auth, m events.Msg) error {
	if a.Code == "" {
		return events.Never(lang.Error(lang.T("handle %s: the code is missing", "处理 %s：缺少授权码", a.Kind), nil))
	}
	link, err := r.links.Of(ctx, a)
	if err != nil {
		return err
	}
	// Without a link (it was removed after its end, or there never was one) the code is exchanged
	// all the same: it may be a merchant's consent, and then only a ref is lost.
	if link != nil && link.Authorizer != "" {
		return nil // the push came first, and one link is one authorization
	}
	sum := events.Digest(a.Code)
	if link != nil && link.CodeDigest != "" && link.CodeDigest != sum {
		return nil // it came to nothing, and another was taken since
	}
	// Records lie by key, and the key is not known: so the view is searched, all of it, which takes
	// some 50 ns for each key. It may be a moment behind. Then the code is sent once more and
	// WeChat calls it spent; with a link the event comes again a second later, and the account is
	// found here.
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
	// The turn before the claim, as in handleAuthorized. The claim on the link keeps the push of
	// this link from spending its own code. Nothing keeps other handlers of the account away.
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
		// If a refresher died between WeChat's answer and the commit, no record here names the
		// account, and without the push only the list does.
		if err := r.store.ScheduleReconcile(ctx, c.appid, r.cfg.ReconcileEvery, true); err != nil {
			return err
		}
		return r.awaitPush(ctx, c, link, m)
	case verdict == wechat.Revoked: // that event is on its way
		r.log.Warn().Err(err).Str("component", c.appid).Msg("authorization came to nothing")
		return r.links.Fail(ctx, link, "", verdict.String())
	default:
		return events.Later(eventDelay(r.hurried(ctx, link, m), err), fmt.Errorf("exchange code: %w", err))
	}
	if !wxtoken.ValidAppID(granted.AuthorizerAppID) {
		if err := r.links.Fail(ctx, link, "", "no_account"); err != nil {
			return err
		}
		return events.Never(lang.Error(lang.T("exchange code: WeChat's answer names no account", "换取令牌：微信的应答没有授权方"), nil))
	}
	// The tokens first, and the link's failure after them: a code can't be exchanged again, and a
	// link can be ended at any time. An account that the link is not for gets no ref, and keeps its
	// tokens (TestLinkOfAnotherAccount).
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
//
// It is counted from SpentAt in the link's record, and not in memory: the refresher that gets the
// event next goes on counting.
const spentPatience = 10 * time.Second

// awaitPush deals with a redirect's code that was spent before, most likely by the push, whose
// handler may be at work in this moment. The link waits for it for ten seconds; after that the
// account is looked for, and if nothing is found the link has failed.
//
// While the push's handler has claimed the link it waits on: one call to WeChat may take these ten
// seconds. That ends, too: once the push is tried once a minute, its claim of 15 s runs out in
// between.
func (r *Refresher) awaitPush(ctx context.Context, c *component, link *store.Connect, m events.Msg) error {
	if link == nil {
		return nil
	}
	now := r.now()
	if !link.SpentAt.IsZero() && now.Sub(link.SpentAt) >= spentPatience && !link.Claim.KeepsOff(account.ForAuth(m.Sequence), m.Redelivered, now) {
		if done, err := r.finishMissed(ctx, c, link, m); done || err != nil {
			return err
		}
		r.log.Warn().Str("component", c.appid).Str("connect", link.ID[:8]).Msg("authorization came to nothing, its code was used already")
		return r.links.Fail(ctx, link, "", wechat.CodeSpent.String())
	}
	// This also ends the link's claim, which the push may be waiting for to spend a code of its
	// own.
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
	// What is under way may be this very authorization. Half a second later there is more to be
	// seen.
	if cred.ClaimedAt(r.now()) {
		return false, events.Later(account.ClaimedDelay, fmt.Errorf("exchange code: %s is being renewed", key))
	}
	// The list has told.
	// Two clocks are compared here: CodeAt is ours, AuthorizedAt WeChat's. MaxAhead is how far they
	// may lie apart.
	if cred.RefreshToken != "" && cred.RevokedAt.IsZero() && cred.AuthorizedAt.After(link.CodeAt.Add(-account.MaxAhead)) {
		if cred, err = r.noteAuthorization(ctx, cred, cred.AuthorizedAt, link); err != nil {
			return false, err
		}
		return true, r.links.Finish(ctx, link, cred)
	}
	// Another refresh token than the stored one is the sign of a new authorization: WeChat changes
	// it when a merchant authorizes again ("AuthorizerAccessToken"). The same one proves nothing,
	// and the ref stays (TestNonsenseTakesNoAccount).
	info, err := r.authorizerInfo(ctx, c, key.Authorizer)
	if err != nil && wechat.Judge(err) == wechat.Revoked {
		return false, nil
	}
	if err != nil {
		return false, events.Later(eventDelay(r.hurried(ctx, link, m), err), fmt.Errorf("exchange code: %w", err))
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
//
// The consumer tells NATS each second that the message is being worked at, so no other refresher
// gets it as long as this one lives. If this one dies here, the event comes to another, which finds
// the code spent and waits for the push or the list.
func (r *Refresher) keepCode(ctx context.Context, c *component, key wxtoken.Key, granted wechat.Authorization, a events.Auth, asked time.Time, link *store.Connect) error {
	for {
		err := r.tryKeepCode(ctx, c, key, granted, a, asked, link)
		wait := store.LostDelay
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		// Also while this refresher stops: a lost compare-and-set is over in 50 ms.
		case errors.Is(err, store.ErrLost):
		// NATS that does not answer can't be waited out by a process that has to end.
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
		changes := []account.Change{r.authorized(ctx, cred, cred.AuthorizedAt)}
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
