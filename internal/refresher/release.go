package refresher

import (
	"context"
	"fmt"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/wechat"
)

// handleReleaseCheck does what the full-network-release check wants of a text with a code: exchange
// it, and send the code back to the user by the account's own API ("releases_instructions"). ingest
// has answered the text itself.
func (r *Refresher) handleReleaseCheck(ctx context.Context, c *component, a events.Auth, m events.Msg) error {
	key := wxtoken.AuthorizerKey(a.Component, a.Authorizer)
	if a.OpenID == "" || a.Authorizer == "" {
		return r.handleCode(ctx, c, a, m)
	}
	// The push may have brought the code a moment ago: the view may not know yet, the store does.
	cred, err := r.store.Credential(ctx, key)
	if err != nil {
		return err
	}
	if _, err := c.gate.AccountToken(ctx, key.Authorizer); !cred.Brought(events.Digest(a.Code)) && (err != nil || !m.Redelivered) {
		if err := r.handleCode(ctx, c, a, m); err != nil {
			return err
		}
	}
	if _, err := c.gate.AccountToken(ctx, key.Authorizer); err != nil {
		// The view sees the token in a moment; if the code was spent, the push brings it.
		if m.Deliveries > releaseTries {
			return events.Never(fmt.Errorf("answer the release check: %w", err))
		}
		return events.Later(account.ClaimedDelay, err)
	}
	turn, err := c.gate.Admit(ctx, gate.Call{API: wechat.APICustomSend, Account: key.Authorizer})
	if err != nil {
		return err
	}
	err = turn.Make(ctx, func(token string) error { return r.wx.SendText(ctx, token, a.OpenID, a.Code+"_from_api") })
	if err != nil {
		if m.Deliveries > releaseTries {
			return events.Never(fmt.Errorf("answer the release check: %w", err))
		}
		return events.Later(account.ClaimedDelay, fmt.Errorf("answer the release check: %w", err))
	}
	r.log.Info().Stringer("key", key).Msg("release check answered")
	return nil
}

// releaseTries is how often the answer is tried: the check waits for seconds, not for hours.
const releaseTries = 20
