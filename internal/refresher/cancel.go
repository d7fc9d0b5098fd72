package refresher

import (
	"context"
	"fmt"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/wechat"
)

// An authorization ends in one of two ways: WeChat pushes "unauthorized" ("authorize_event"), or an
// answer says so: 61003 where the merchant cancelled, 50002 where the account was frozen or
// deregistered ("Return_code_descriptions_new"). That an account is missing from WeChat's list ends
// nothing (reconcile). A component can't end an authorization itself; only the merchant can, on
// WeChat's pages.
//
// Whether a token works on after a cancellation, no page says. So it is removed: a service that
// goes on with it would act for a merchant who has withdrawn that.

// handleUnauthorized ends an authorization, unless a newer one is in force: the push may come late,
// or after the merchant has authorized again. WeChat's times decide, not the order in which things
// came; where two times are equal, or one is not known, WeChat is asked.
//
// It runs without taking the key (see handleAuth) and looks at no claim, so a renewal or an
// exchange may be under way. The cancellation moves the revision on, and their commit is refused;
// what they do then, resolveLost and the next delivery say. TestUnauthorizedWhileRenewing and
// TestCancelledWhileRenewing hold WeChat's answer back for that.
func (r *Refresher) handleUnauthorized(ctx context.Context, c *component, key wxtoken.Key, a events.Auth, m events.Msg) error {
	// Also a record that can't be read is an error here: it can't be told from it whether a newer
	// authorization is in force. WeChat's list brings it back, and the push is looked at again
	// then.
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
		// Once more: the refresher that stored it may have died before the status was written, or NATS
		// not have taken that.
		return r.writeStatus(ctx, key, r.ifRevoked(ctx, key, true, account.Revoked(r.now(), nil)))
	// Both times are WeChat's own, so no clock of ours decides (TestLateUnauthorized).
	case created.Before(cred.AuthorizedAt):
		r.log.Info().Stringer("key", key).Time("create_time", created).Msg("cancellation ignored, a newer authorization is in force")
		return nil
	// After a redirect the time is not known until the push or the list tells it. Equal times are
	// those of a merchant who cancels and authorizes again within a second
	// (TestEventsOfTheSameSecond, TestCancellationOlderThanARedirect).
	case cred.AuthorizedAt.IsZero() || created.Equal(cred.AuthorizedAt):
		// Which of the two came last only WeChat can tell.
		info, err := r.authorizerInfo(ctx, c, key.Authorizer)
		switch {
		case err == nil && info.RefreshToken == "" && m.Deliveries <= account.Retries:
			// That confirms nothing. WeChat's push is signed; should it have been an old one, the
			// list brings the account back.
			return events.Later(eventDelay(m, account.ErrNoRefreshToken), fmt.Errorf("check cancellation: %w", account.ErrNoRefreshToken))
		// It was asked for one to two minutes: now the push counts, which WeChat signed
		// (docs/adr/0037).
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
//
// Record, deletion of the token and end of the schedule are one batch: no reader finds the token of
// an account that is over, and no schedule fires for it. A watch of a service hears the deletion.
// Tickets and status follow, and may be lost with this refresher. The tickets are then the sweep's
// to end (TestTicketsThatSomebodyLeft); the status is written when the message comes again, which
// is why its error is returned and not only logged.
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
//
// An answer is weaker than a push. The push names one account; the answers say the same of all
// accounts when WeChat has something against the component, and to believe them would take the
// tokens of all merchants away (TestManyRevoked, TestRefusalsDoubted). A push is not doubted,
// however many come.
func (r *Refresher) cancelByAnswer(ctx context.Context, c *component, cred account.Credential, cause error) error {
	if !c.gate.Believes() {
		cred, next := cred.Doubted(r.now(), cause)
		return r.tryAgain(ctx, cred, next, cause)
	}
	return r.cancel(ctx, cred.FoundCancelled(r.now()), cause)
}
