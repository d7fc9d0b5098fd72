package refresher

import (
	"context"
	"errors"
	"net/http"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// compare answers wxtoken.reconcile: for a component WeChat's list is read, for one account WeChat
// is asked for it, now. That one call is made within the request: a person waits for its answer,
// and to read the list may take minutes.
func (r *Refresher) compare(ctx context.Context, q events.ReconcileRequest) (answer events.Reconciling, err error) {
	if q.Authorizer == "" {
		return r.answers.reconcile(ctx, q)
	}
	c, ok := r.component(q.Component)
	switch {
	case !ok:
		return answer, events.UnknownComponent(q.Component)
	case !wxtoken.ValidAppID(q.Authorizer):
		return answer, events.BadRequest(lang.T("authorizer: not an appid", "authorizer：不是 appid"))
	}
	key := wxtoken.AuthorizerKey(q.Component, q.Authorizer)
	if err := notNow(c, wechat.APIAuthorizerInfo, 0); err != nil {
		return answer, err
	}
	// Where a handler of this process is at the key already, the person is told to ask again.
	err = r.alone(key, func() (err error) {
		answer.Outcome, err = r.compareOne(ctx, c, key)
		return err
	})
	if _, later := events.After(err); later {
		err = events.Refused(http.StatusServiceUnavailable, lang.T("not now: %v", "现在不行，请稍后再试：%v", err))
	}
	if err == nil {
		r.log.Info().Stringer("key", key).Str("outcome", answer.Outcome).Msg("account compared with WeChat")
	}
	return answer, err
}

// compareOne asks WeChat for an account, and takes over what is new. Of an account that has nothing
// to renew with, the list knows more.
//
// The answer counts as it does in a renewal, with the same doubts. Only nothing is tried again, for
// the person can do that.
func (r *Refresher) compareOne(ctx context.Context, c *component, key wxtoken.Key) (outcome string, err error) {
	cred, err := r.store.Credential(ctx, key)
	switch {
	case err != nil && !errors.Is(err, store.ErrUnreadable):
		return "", err
	case !cred.Renewable():
		listed, err := r.answers.reconcile(ctx, events.ReconcileRequest{Component: key.Component})
		return listed.Outcome, err
	case cred.ClaimedAt(r.now()):
		return "", events.Later(account.ClaimedDelay, lang.Error(lang.T("it is being renewed", "正在续期"), nil))
	}
	info, err := r.authorizerInfo(ctx, c, key.Authorizer)
	switch {
	case err != nil && wechat.Judge(err) == wechat.Revoked:
		if !c.gate.Believes() {
			return "", events.Refused(http.StatusServiceUnavailable, lang.T("WeChat says that it is cancelled, but that is said of so many that it is not believed: %v", "微信答复授权已取消，但同时被拒绝的账号过多，暂不采信：%v", err))
		}
		return events.ReconcileCancelled, r.cancelByAnswer(ctx, c, cred, err)
	case err != nil:
		return "", err
	case info.RefreshToken != "" && info.RefreshToken != cred.RefreshToken:
		_, err := r.keepRecovered(ctx, cred, info)
		return events.ReconcileRecovered, err
	}
	r.setStatus(ctx, key, account.ProfileOf(info))
	return events.ReconcileUnchanged, nil
}
