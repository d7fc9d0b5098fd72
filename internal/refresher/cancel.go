package refresher

import (
	"context"
	"fmt"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/wechat"
)

// handleUnauthorized ends an authorization, unless a newer one is in force: the push may come late,
// or after the merchant has authorized again. WeChat's times decide, not the order in which things
// came; where two times are equal, or one is not known, WeChat is asked.
func (r *Refresher) handleUnauthorized(ctx context.Context, c *component, key wxtoken.Key, a events.Auth, m events.Msg) error {
	cred, err := r.store.Credential(ctx, key)
	if err != nil {
		return err
	}
	created := a.CreateTime.UTC()
	switch {
	case cred.Revision == 0:
		// Stored for an unknown account, too: a code of it may still be on its way, and its handler
		// must not revive the account without asking WeChat what is true now.
		return r.cancel(ctx, cred.Cancelled(created), nil)
	case !cred.RevokedAt.IsZero():
		// Once more: the refresher that stored it may have died before the status was written.
		r.setStatus(ctx, key, r.ifRevoked(ctx, key, true, account.Revoked(r.now(), nil)))
		return nil
	case created.Before(cred.AuthorizedAt):
		r.log.Info().Stringer("key", key).Time("create_time", created).Msg("cancellation ignored, a newer authorization is in force")
		return nil
	case cred.AuthorizedAt.IsZero() || created.Equal(cred.AuthorizedAt):
		// Which of the two came last only WeChat can tell.
		info, err := r.authorizerInfo(ctx, c, key.Authorizer)
		switch {
		case err == nil && info.RefreshToken == "" && m.Deliveries <= account.Retries:
			// That confirms nothing. WeChat's push is signed; should it have been an old one, the
			// list brings the account back.
			return events.Later(eventDelay(m, account.ErrNoRefreshToken), fmt.Errorf("check cancellation: %w", account.ErrNoRefreshToken))
		case err == nil && info.RefreshToken == "":
		case err == nil:
			r.log.Info().Stringer("key", key).Msg("cancellation ignored, WeChat says the authorization is in force")
			return nil
		case wechat.Judge(err) != wechat.Revoked:
			return events.Later(eventDelay(m, err), fmt.Errorf("check cancellation: %w", err))
		}
	}
	return r.cancel(ctx, cred.Cancelled(created), nil)
}

// cancel ends an authorization that WeChat says is over. cred is as account.Cancelled or
// FoundCancelled left it, cause WeChat's answer, nil if it was a push.
func (r *Refresher) cancel(ctx context.Context, cred account.Credential, cause error) error {
	if _, err := r.store.Revoke(ctx, cred); err != nil {
		return err
	}
	r.derived.end(ctx, cred.Key)
	r.log.Info().Err(cause).Stringer("key", cred.Key).Msg("authorization cancelled")
	return r.writeStatus(ctx, cred.Key, r.ifRevoked(ctx, cred.Key, true, account.Revoked(r.now(), cause)))
}

// cancelByAnswer ends an authorization that WeChat, in its answer to a call, says is over. While
// too many accounts are refused at once the answer is not believed: see gate.Believes.
func (r *Refresher) cancelByAnswer(ctx context.Context, c *component, cred account.Credential, cause error) error {
	if !c.gate.Believes() {
		cred, next := cred.Doubted(r.now(), cause)
		return r.tryAgain(ctx, cred, next, cause)
	}
	return r.cancel(ctx, cred.FoundCancelled(r.now()), cause)
}
