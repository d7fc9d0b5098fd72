package refresher

import (
	"context"
	"errors"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// recover climbs the ladder for a refresh token that WeChat refused (61023). One refusal proves
// nothing: WeChat itself is asked for the refresh token, and only if it keeps confirming the
// one that it refuses does the merchant have to authorize again.
func (r *Refresher) recover(ctx context.Context, c *component, cred store.Credential, cause error) error {
	now, again := r.now(), cred.RefreshRefused
	info, err := r.authorizerInfo(ctx, c, cred.Key.Authorizer)
	held, notAsked := events.After(err)
	if again && !notAsked {
		cred.Failures++ // where WeChat's refusal began this, that is counted already
	}
	cred.RefreshRefused = err != nil // then the next try begins here, and not with the refresh token that was refused
	switch {
	case err != nil && wechat.Judge(err) == wechat.Revoked:
		if again {
			c.guard.saw(now, err) // else it is the same refusal
		}
		return r.cancelled(ctx, c, cred, now, err)
	case err != nil:
		wait := max(r.retryDelay(cred), held)
		if ofAccount(err) && wechat.Judge(err) == wechat.Operator {
			wait = askAgainAfter[min(max(cred.Failures, 1), len(askAgainAfter))-1]
		}
		return r.tryAgain(ctx, cred, wait, stillFailing(now, cred, cause), cause)
	case info.RefreshToken != "" && info.RefreshToken != cred.RefreshToken:
		cred.RefreshTokenBefore, cred.RefreshToken = cred.RefreshToken, info.RefreshToken
		cred.Refusals = 0
		cred.Recoveries++
		cred.Authorizations++ // for all we know
		// The first time at once: the old token may be dead. Should WeChat name another one each time, later and later.
		wait := askAgainAfter[1]
		if cred.Recoveries <= len(retryAfter) {
			wait = recoveredAfter(cred.Recoveries)
		}
		r.metrics.recovered.Inc()
		r.log.Warn().Stringer("key", cred.Key).Msg("refresh token recovered from WeChat")
		return r.tryAgain(ctx, cred, wait, stillFailing(now, cred, cause), cause)
	}
	// WeChat named no other one. An answer that names none at all confirms nothing, and so the list is asked, too.
	cred.Refusals++
	read := (cred.Refusals > 1 || info.RefreshToken == "") && r.sought(c, &cred)
	if cred.Refusals <= len(askAgainAfter) || !c.guard.open(now) || !read && cred.Refusals <= len(askAgainAfter)+1 {
		wait := askAgainAfter[min(cred.Refusals, len(askAgainAfter))-1]
		return r.tryAgain(ctx, cred, wait, stillFailing(now, cred, cause), cause)
	}
	r.log.Error().Err(cause).Stringer("key", cred.Key).Msg("authorization needed")
	cred.AuthorizationNeeded = true
	change := needsAuthorization(now, cred.Failures, "RefreshTokenInvalid", cause, r.reauthorizeURL(ctx, cred))
	return r.tryAgain(ctx, cred, giveUpDelay, change, cause)
}

// recoveredAfter is the wait before the nth refresh token in a row that WeChat named is tried, n up to len(retryAfter).
func recoveredAfter(n int) time.Duration {
	if n == 1 {
		return 0
	}
	return retryAfter[n-2]
}

// errRefused stands for the refusal of a refresh token that WeChat was not asked about yet.
var errRefused = &wechat.Error{API: wechat.APIAuthorizerToken, Code: 61023, Message: "refresh_token is invalid"}

// authorizerInfo asks WeChat for an authorizer: its profile and its refresh token.
func (r *Refresher) authorizerInfo(ctx context.Context, c *component, authorizer string) (info wechat.AuthorizerInfo, err error) {
	if err := r.pass(ctx, c, wechat.APIAuthorizerInfo); err != nil {
		return info, err
	}
	err = r.withComponentToken(ctx, c, wechat.APIAuthorizerInfo, authorizer, func(token string) (err error) {
		info, err = r.wx.AuthorizerInfo(ctx, token, c.appid, authorizer)
		return err
	})
	return info, err
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

// found returns a credential that may be new or have been lost with what the token and the status still tell of it. The status
// of an account that cancelled tells of a ref that is free.
func (r *Refresher) found(ctx context.Context, cred store.Credential) (store.Credential, error) {
	var err error
	if cred.Generation != 0 || cred.RefreshToken != "" || !cred.RevokedAt.IsZero() {
		cred.Generation, err = r.generation(ctx, cred)
		return cred, err
	}
	s, _, err := r.store.Status(ctx, cred.Key)
	if err != nil {
		return cred, err
	}
	if s.Authorizer != nil && s.State != wxtoken.StateRevoked && cred.Ref == "" {
		cred.Ref = s.Authorizer.Ref
	}
	cred.Generation, err = r.generation(ctx, cred)
	return cred, err
}
