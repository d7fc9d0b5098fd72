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

// recover asks WeChat itself which refresh token is good, after it refused the one that is stored
// (61023, 42007). One refusal proves nothing: the stored one may be old because another refresher,
// another program or a restored backup came in between, and a merchant who is asked to authorize
// again for nothing may not do it twice. What follows from the answer is the account's to say: see
// account.Credential.Asked.
//
// The claim was given back by the caller, in memory. It is given back in the store by what is saved
// at the end, with all that was learned. A refresher that dies before leaves a claim that the
// message takes over when it comes again, and the refused refresh token may be sent once more: that
// costs one call.
func (r *Refresher) recover(ctx context.Context, c *component, cred account.Credential, cause error) error {
	now, again, before := r.now(), cred.RefreshRefused, cred.RefreshToken
	info, err := r.authorizerInfo(ctx, c, cred.Key.Authorizer)
	// A call that was not made is no answer. RefreshRefused then stands in the record, and the next
	// try begins here and not with the refresh token that WeChat refused (TestAskedFirst).
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
//
// It answers three questions that nothing else answers about one account: is the authorization in
// force, which refresh token is good, and what is the account called. An answer without a refresh
// token answers the third alone (docs/adr/0037).
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
//
// The two are stored together, so a token that is ahead of its record can only be left over from
// one that was lost.
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
//
// It takes the newest generation also for a record that is there: a token may be ahead of a record
// that was put back.
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
