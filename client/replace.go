package wxtoken

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// replaceTimeout bounds Replace: a renewal takes less than a second, and while WeChat is away a
// caller should not wait longer.
const replaceTimeout = 30 * time.Second

// Replace gets another token after WeChat refused token: errcode 40001, 40014 or 42001 in the
// answer to a call made with it. It reports the token as [Client.Report] does, waits as
// [Client.Next] does until the view has another one, and returns that one: repeat the call with it,
// once only. If the view already has a newer one, it is returned at once. However many callers and
// services report one token, WeChat is asked for one new token only.
//
// It takes 30 s at most, less where ctx ends earlier. The errors:
//
//   - ErrTooSoon, at once: the token is younger than a tenth of its life (a minute at most), or it was replaced on
//     request very often today. It is hardly what WeChat refused: look at the errmsg, and whether another system
//     renews the tokens of this component.
//   - ErrNotKept, at once: wxtoken has no token under this key that it could renew. Status tells why.
//   - ErrNoToken, at once: the client does not watch this key, see Config.Keys.
//   - ErrRevoked, as soon as the authorization is cancelled, and ErrClosed.
//   - a *RequestError of code 503, at once: something holds renewals back, its text says until when. The report is kept:
//     the token is renewed by itself then.
//   - what Report returns where the report was not heard; it wraps nats.ErrNoResponders when no refresher is listening.
//   - one that wraps context.DeadlineExceeded when no other token came in time. Status tells why.
//
// With an error the Token is empty.
func (c *Client) Replace(ctx context.Context, token Token) (Token, error) {
	if len(c.declared) > 0 && !c.declared[token.Key] {
		_, err := c.Token(token.Key) // its text says what to do; waiting would be in vain
		return Token{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, replaceTimeout)
	defer cancel()
	if newer, ok := c.newer(token); ok {
		return newer, nil
	}
	if _, err := c.Token(token.Key); errors.Is(err, ErrRevoked) {
		return Token{}, err
	}
	outcome, err := c.Report(ctx, token)
	if err != nil {
		if newer, ok := c.newer(token); ok { // it came while the request got no answer
			return newer, nil
		}
		return Token{}, err
	}
	switch outcome {
	case OutcomeRenewing, OutcomeAlreadyRenewed:
		return c.Next(ctx, token)
	case OutcomeTooSoon:
		return Token{}, fmt.Errorf("replace the refused token of %s: %w (look at WeChat's errmsg, and whether another "+
			"system renews the tokens of this component)", token.Key, ErrTooSoon)
	case OutcomeUnknownKey:
		return Token{}, fmt.Errorf("replace the refused token of %s: %w that could be renewed (Client.Status tells why)",
			token.Key, ErrNotKept)
	}
	return Token{}, fmt.Errorf("replace the refused token of %s: the refresher answered %q, which this version does "+
		"not know (update this package)", token.Key, outcome)
}

// newer returns the view's token for the key of token, if it came later. A token that is not from a
// Client has no Revision, and can't be compared.
func (c *Client) newer(token Token) (Token, bool) {
	now, err := c.Token(token.Key)
	return now, err == nil && token.Revision > 0 && now.Revision > token.Revision && now.Value != token.Value
}
