package refresher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// recover climbs the ladder for a refresh token that WeChat refused (61023). One refusal proves
// nothing: WeChat itself is asked for the refresh token, and only if it keeps confirming the
// one that it refuses does the merchant have to authorize again.
func (r *Refresher) recover(ctx context.Context, c *component, cred store.Credential, cause error) error {
	now := r.now()
	info, err := r.authorizerInfo(ctx, c, cred.Key.Authorizer)
	switch {
	case err != nil && wechat.Judge(err) == wechat.Revoked:
		return r.cancelled(ctx, c, cred, now, err)
	case err != nil:
		wait := r.retryDelay(cred)
		if held, ok := events.After(err); ok {
			wait = max(wait, held)
		}
		return r.tryAgain(ctx, cred, wait, failing(now, cred.Failures, cause), cause)
	case info.RefreshToken != "" && info.RefreshToken != cred.RefreshToken:
		cred.RefreshTokenBefore, cred.RefreshToken = cred.RefreshToken, info.RefreshToken
		cred.Refusals = 0
		var wait time.Duration
		if cred.Failures > 1 {
			wait = r.retryDelay(cred) // should WeChat name another one each time
		}
		r.metrics.recovered.Inc()
		r.log.Warn().Stringer("key", cred.Key).Msg("refresh token recovered from WeChat")
		return r.tryAgain(ctx, cred, wait, failing(now, cred.Failures, cause), cause)
	}
	cred.Refusals++
	if cred.Refusals <= len(askAgainAfter) || !r.guard.open(now) {
		wait := askAgainAfter[min(cred.Refusals, len(askAgainAfter))-1]
		return r.tryAgain(ctx, cred, wait, failing(now, cred.Failures, cause), cause)
	}
	r.log.Error().Err(cause).Stringer("key", cred.Key).Msg("authorization needed")
	return r.tryAgain(ctx, cred, giveUpDelay, needsAuthorization(now, cred.Failures, cause), cause)
}

// cancelled ends an authorization that WeChat says is over.
func (r *Refresher) cancelled(ctx context.Context, c *component, cred store.Credential, at time.Time, cause error) error {
	if cause != nil && !r.guard.open(r.now()) {
		return r.tryAgain(ctx, cred, askAgainAfter[min(max(cred.Failures, 1), len(askAgainAfter))-1], failing(at, cred.Failures, cause), cause)
	}
	if cause != nil {
		at = at.Add(-maxAhead) // our clock; an authorization is dated by WeChat's
	}
	cred = released(cred)
	cred.RevokedAt = at.UTC().Truncate(time.Second) // as WeChat's times are, so that an authorization later in this second counts
	if cred.RefreshToken != "" {
		cred.RefreshTokenBefore, cred.RefreshToken = cred.RefreshToken, ""
	}
	if _, err := r.store.Revoke(ctx, cred); err != nil {
		if errors.Is(err, store.ErrLost) {
			return events.Later(lostDelay, err)
		}
		return err
	}
	r.log.Info().Err(cause).Stringer("key", cred.Key).Msg("authorization cancelled")
	return r.writeStatus(ctx, cred.Key, r.ifRevoked(ctx, cred.Key, true, revoked(r.now(), cause)))
}

// authorizerInfo asks WeChat for an authorizer: its profile and its refresh token.
func (r *Refresher) authorizerInfo(ctx context.Context, c *component, authorizer string) (info wechat.AuthorizerInfo, err error) {
	if err := r.pass(ctx, c, wechat.APIAuthorizerInfo); err != nil {
		return info, err
	}
	err = r.withComponentToken(ctx, c, func(token string) (err error) {
		info, err = r.wx.AuthorizerInfo(ctx, token, c.appid, authorizer)
		return err
	})
	return info, err
}

// listPage is how many authorizers are asked for at once (api_getauthorizerlist: 500 at most).
const listPage = 500

// reconcile compares what is stored with WeChat's list of authorizers. It only ever adds: an
// authorizer that the list lacks proves nothing.
func (r *Refresher) reconcile(ctx context.Context, appid string) error {
	c, ok := r.components[appid]
	if !ok {
		return events.Later(unknownDelay, fmt.Errorf("reconcile: component %s is not in the settings", appid))
	}
	found, total := 0, 1
	for offset := 0; offset < total; offset += listPage {
		if _, err := r.componentToken(c); err != nil {
			return err
		}
		if err := r.pass(ctx, c, wechat.APIAuthorizerList); err != nil {
			return err
		}
		page, err := r.listPage(ctx, c, offset)
		if err != nil {
			r.metrics.reconciled(appid, "failed", r.now())
			return events.Later(jittered(retryAfter[2]), fmt.Errorf("reconcile: %w", err))
		}
		total = page.Total
		for _, listed := range page.List {
			if r.stopping.Load() { // not done: somebody else begins anew
				return events.Later(retryAfter[0], errors.New("reconcile: this refresher is stopping"))
			}
			added, err := r.absorb(ctx, c, listed)
			if err != nil {
				return events.Later(jittered(retryAfter[0]), fmt.Errorf("reconcile: %w", err))
			}
			if added {
				found++
			}
		}
		if len(page.List) == 0 {
			break
		}
	}
	r.metrics.reconciled(appid, "ok", r.now())
	r.log.Info().Str("component", appid).Int("listed", total).Int("recovered", found).Msg("reconciled with WeChat's list")
	return nil
}

// listPage asks for one page of WeChat's list, a few times if need be: of a long list some page always fails.
func (r *Refresher) listPage(ctx context.Context, c *component, offset int) (page wechat.AuthorizerPage, err error) {
	for _, wait := range retryAfter[:4] {
		err = r.withComponentToken(ctx, c, func(token string) (err error) {
			page, err = r.wx.AuthorizerList(ctx, token, c.appid, offset, listPage)
			return err
		})
		if err == nil || wechat.Judge(err) != wechat.Retry || r.stopping.Load() {
			break
		}
		select {
		case <-ctx.Done():
			return page, err
		case <-time.After(jittered(wait)):
		}
	}
	return page, err
}

// absorb takes over what WeChat's list knows better than the store.
func (r *Refresher) absorb(ctx context.Context, c *component, listed wechat.ListedAuthorizer) (added bool, err error) {
	key := wxtoken.AuthorizerKey(c.appid, listed.AppID)
	if listed.RefreshToken == "" || !wxtoken.ValidAppID(listed.AppID) {
		return false, nil
	}
	cred, err := r.store.Credential(ctx, key)
	if errors.Is(err, store.ErrNewer) {
		return false, nil // whoever wrote it knows better
	}
	if err != nil && !errors.Is(err, store.ErrUnreadable) {
		return false, err
	}
	authTime := listed.AuthTime.UTC()
	switch {
	case cred.ClaimedAt(r.now()):
		return false, nil // whoever is at it knows better
	case !cred.RevokedAt.IsZero() && !authTime.After(cred.RevokedAt):
		// Listed, but older than the cancellation: the list may be late, or the cancellation wrong.
		info, err := r.authorizerInfo(ctx, c, listed.AppID)
		if err != nil && wechat.Judge(err) != wechat.Revoked {
			return false, err
		}
		if err != nil || info.RefreshToken == "" {
			return false, nil
		}
		listed.RefreshToken = info.RefreshToken
	case cred.RefreshToken == listed.RefreshToken:
		return false, nil
	case cred.RefreshToken != "" && !authTime.After(cred.AuthorizedAt):
		// Not a newer authorization. Should the stored refresh token be dead, its renewal will say so.
		return false, nil
	}
	if cred.RefreshToken != "" {
		cred.RefreshTokenBefore = cred.RefreshToken
	}
	cred.RefreshToken, cred.AuthorizedAt, cred.RevokedAt = listed.RefreshToken, authTime, time.Time{}
	if cred.Generation, err = r.generation(ctx, cred); err != nil {
		return false, err
	}
	cred, err = r.store.Save(ctx, released(cred))
	if errors.Is(err, store.ErrLost) {
		return false, nil // something newer came in between
	}
	if err != nil {
		return false, err
	}
	r.setStatus(ctx, key, r.ifRevoked(ctx, key, false, authorizedAt(authTime)))
	return true, r.store.MakeDue(ctx, events.Due{Key: key, Generation: cred.Generation, Reason: events.ReasonListed}, "")
}

// generation returns the generation of the newest token of a credential that may be new or have
// been lost: it never goes down.
func (r *Refresher) generation(ctx context.Context, cred store.Credential) (uint64, error) {
	t, _, err := r.store.Token(ctx, cred.Key)
	if err != nil && !errors.Is(err, wxtoken.ErrBadToken) {
		return 0, err
	}
	return max(cred.Generation, t.Generation), nil
}

// startPushEvery bounds how often a component asks WeChat to start pushing tickets.
const startPushEvery = time.Hour

// startPush asks WeChat to push tickets, once an hour at most.
func (r *Refresher) startPush(ctx context.Context, c *component) {
	if c.pausedUntil(wechat.APIStartPushTicket).After(r.now()) {
		return
	}
	c.pause(wechat.APIStartPushTicket, r.now().Add(startPushEvery))
	already, err := r.wx.StartPushTicket(ctx, c.appid, c.secret.Reveal())
	if err != nil {
		r.log.Warn().Err(err).Str("component", c.appid).Msg("ticket pushes not started")
		return
	}
	r.log.Info().Str("component", c.appid).Bool("were_on", already).Msg("ticket pushes started")
}
