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

// unauthorized ends an authorization, unless a newer one is in force: the push may come late.
func (r *Refresher) unauthorized(ctx context.Context, c *component, key wxtoken.Key, a events.Auth, m events.Msg) error {
	cred, err := r.load(ctx, key)
	if err != nil {
		return err
	}
	created := a.CreateTime.UTC()
	switch {
	case cred.Revision == 0:
		// Remembered, for a code of it may be on its way: whoever exchanges that finds out what WeChat says now.
		return r.cancelled(ctx, c, cred, created, nil)
	case !cred.RevokedAt.IsZero():
		// Again, in case that whoever stored it died before the status was written.
		r.setStatus(ctx, key, r.ifRevoked(ctx, key, true, revoked(r.now(), nil)))
		return nil
	case created.Before(cred.AuthorizedAt):
		r.log.Info().Stringer("key", key).Time("create_time", created).Msg("cancellation ignored, a newer authorization is in force")
		return nil
	case cred.AuthorizedAt.IsZero() || created.Equal(cred.AuthorizedAt):
		// Which of the two came last only WeChat can tell.
		info, err := r.authorizerInfo(ctx, c, key.Authorizer)
		switch {
		case err == nil && info.RefreshToken == "" && m.Deliveries <= len(retryAfter):
			// That confirms nothing. WeChat's push is signed; should it have been an old one, the list brings the account back.
			return events.Later(eventDelay(m, errNoRefreshToken), fmt.Errorf("check cancellation: %w", errNoRefreshToken))
		case err == nil && info.RefreshToken == "":
		case err == nil:
			r.log.Info().Stringer("key", key).Msg("cancellation ignored, WeChat says the authorization is in force")
			return nil
		case wechat.Judge(err) != wechat.Revoked:
			return events.Later(eventDelay(m, err), fmt.Errorf("check cancellation: %w", err))
		}
	}
	return r.cancelled(ctx, c, cred, created, nil)
}

// cancelled ends an authorization that WeChat says is over.
func (r *Refresher) cancelled(ctx context.Context, c *component, cred store.Credential, at time.Time, cause error) error {
	if cause != nil && !c.guard.open(r.now()) {
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
	r.underive(ctx, cred.Key)
	r.log.Info().Err(cause).Stringer("key", cred.Key).Msg("authorization cancelled")
	return r.writeStatus(ctx, cred.Key, r.ifRevoked(ctx, cred.Key, true, revoked(r.now(), cause)))
}
