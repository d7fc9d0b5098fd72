package refresher

import (
	"context"
	"errors"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// recover asks WeChat itself which refresh token is good, after it refused the one that is stored.
// One refusal proves nothing: the stored one may be old because another refresher, another program
// or a restored backup came in between, and a merchant who is asked to authorize again for nothing
// may not do it twice. What follows from the answer is the account's to say: see
// account.Credential.Asked.
func (r *Refresher) recover(ctx context.Context, c *component, cred account.Credential, cause error) error {
	now, again, before := r.now(), cred.RefreshRefused, cred.RefreshToken
	info, err := r.authorizerInfo(ctx, c, cred.Key.Authorizer)
	held, notAsked := events.After(err)
	cred, next := cred.Asked(account.Profile{
		RefreshToken: info.RefreshToken, Failure: r.failure(c, cred.Key, err), Held: held, NotAsked: notAsked,
		ListedAt: c.gate.Shared().ListedAt, Believed: c.gate.Believes(), Cause: cause,
	})
	switch {
	case next.Do == account.DoCancel:
		if again {
			c.gate.CountRenewal(now, err) // else it is the same refusal
		}
		return r.cancelByAnswer(ctx, c, cred, err)
	case cred.RefreshToken != before:
		r.metrics.recovered.Inc()
		r.log.Warn().Stringer("key", cred.Key).Msg("refresh token recovered from WeChat")
	}
	return r.tryAgain(ctx, cred, next, cause)
}

// errRefused stands for the refusal of a refresh token that WeChat was not asked about yet.
var errRefused = &wechat.Error{API: wechat.APIAuthorizerToken, Code: 61023, Message: "refresh_token is invalid"}

// authorizerInfo asks WeChat for an authorizer: its profile and its refresh token.
func (r *Refresher) authorizerInfo(ctx context.Context, c *component, authorizer string) (info wechat.AuthorizerInfo, err error) {
	err = c.gate.Do(ctx, gate.Call{API: wechat.APIAuthorizerInfo, Account: authorizer}, func(token string) (err error) {
		info, err = r.wx.AuthorizerInfo(ctx, token, c.appid, authorizer)
		return err
	})
	return info, err
}

// newestGeneration returns the generation of the newest token of a key, 0 if there is none that can
// be read. A record that is new, or was lost, does not know it; the token does. Generations never
// go down, because readers and due messages go by them.
func newestGeneration(ctx context.Context, s *store.Store, key wxtoken.Key) (uint64, error) {
	t, _, err := s.Token(ctx, key)
	if err != nil && !errors.Is(err, wxtoken.ErrBadToken) {
		return 0, err
	}
	return t.Generation, nil
}

// recollect returns a credential that may be new, or was lost and made anew, with what the token
// and the status still tell of it: the generation, and the caller's ref. The status of an account
// that cancelled tells of a ref that is free.
func (r *Refresher) recollect(ctx context.Context, cred account.Credential) (account.Credential, error) {
	ref := ""
	if cred.Blank() {
		s, _, err := r.store.Status(ctx, cred.Key)
		if err != nil {
			return cred, err
		}
		if s.Authorizer != nil && s.State != wxtoken.StateRevoked {
			ref = s.Authorizer.Ref
		}
	}
	generation, err := newestGeneration(ctx, r.store, cred.Key)
	return cred.Found(generation, ref), err
}
