package refresher

import (
	"context"
	"fmt"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/lang"
	"wxtoken/internal/wechat"
)

// Before WeChat releases a third-party platform to all accounts (全网发布) it plays a script with an
// account of its own: it writes QUERY_AUTH_CODE:<code> as a user, wants an empty answer within 5 s,
// and then <code>_from_api as a message of the account, sent with a token that was got with that
// code ("releases_instructions"). ingest gives the empty answer and publishes the rest, since it
// has no token. The account is authorized for the check like any other, so its push comes as well,
// with the same code: whichever is first spends it.
//
// Nothing is kept of what was answered. A refresher that dies after the message and before the ack
// has it sent once more.

// handleReleaseCheck does what the full-network-release check wants of a text with a code: exchange
// it, and send the code back to the user by the account's own API ("releases_instructions"). ingest
// has answered the text itself.
func (r *Refresher) handleReleaseCheck(ctx context.Context, c *component, a events.Auth, m events.Msg) error {
	key := wxtoken.AuthorizerKey(a.Component, a.Authorizer)
	// Without a user there is nobody to write to; the code is worth exchanging all the same.
	if a.OpenID == "" || a.Authorizer == "" {
		return r.handleCode(ctx, c, a, m)
	}
	// The push may have brought the code a moment ago: the view may not know yet, the store does.
	cred, err := r.store.Credential(ctx, key)
	if err != nil {
		return err
	}
	// A code that this record came from is not sent again. Nor is any at a later delivery while
	// there is a token: the first delivery has spent it, and what failed since is the message.
	if _, err := c.gate.AccountToken(ctx, key.Authorizer); !cred.Brought(events.Digest(a.Code)) && (err != nil || !m.Redelivered) {
		if err := r.handleCode(ctx, c, a, m); err != nil {
			return err
		}
	}
	if _, err := c.gate.AccountToken(ctx, key.Authorizer); err != nil {
		// The view sees the token in a moment; if the code was spent, the push brings it.
		if m.Deliveries > releaseTries {
			return events.Never(lang.Error(lang.T("answer the release check: %v", "应答全网发布检测：%v", err), err))
		}
		return events.Later(account.ClaimedDelay, err)
	}
	// The token may have been refused since: the gate has it renewed, and a later try takes the new
	// one (TestReleaseCheck, "the token is refused").
	turn, err := c.gate.Admit(ctx, gate.Call{API: wechat.APICustomSend, Account: key.Authorizer})
	if err != nil {
		return err
	}
	err = turn.Make(ctx, func(token string) error { return r.wx.SendText(ctx, token, a.OpenID, a.Code+"_from_api") })
	if err != nil {
		if m.Deliveries > releaseTries {
			return events.Never(lang.Error(lang.T("answer the release check: %v", "应答全网发布检测：%v", err), err))
		}
		return events.Later(account.ClaimedDelay, fmt.Errorf("answer the release check: %w", err))
	}
	r.log.Info().Stringer("key", key).Msg("release check answered")
	return nil
}

// releaseTries is how often the answer is tried, half a second apart: the check waits for seconds,
// not for hours. After that the event lies on DEAD, where an operator sees why the check failed.
const releaseTries = 20
