package refresher

import (
	"context"
	"net/http"
	"slices"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/wechat"
)

// account answers wxtoken.account: what the record of a key tells that is no secret.
//
// It is the one window into a credential, so it names each field that goes out; what is added to
// the record stays inside (TestAccountTold). The day of forced_today is China's, like that of
// WeChat's quotas.
func (a *answers) account(ctx context.Context, q events.AccountRequest) (events.AccountAnswer, error) {
	if q.Key == (wxtoken.Key{}) {
		return events.AccountAnswer{}, errKey
	}
	cred, err := a.store.Credential(ctx, q.Key)
	if err != nil {
		return events.AccountAnswer{}, err
	}
	if cred.Revision == 0 {
		return events.AccountAnswer{}, events.Refused(http.StatusNotFound, lang.T("nothing is recorded of %s", "没有 %s 的记录", q.Key))
	}
	answer := events.AccountAnswer{
		Key: q.Key, Generation: cred.Generation, Ref: cred.Ref, AuthorizedAt: cred.AuthorizedAt, RevokedAt: cred.RevokedAt,
		Authorizations: cred.Authorizations, Failures: cred.Failures, RetryAt: cred.RetryAt, ForcedAt: cred.ForcedAt, History: []events.TokenPast{},
	}
	if cred.ClaimedAt(a.now()) {
		answer.ClaimedUntil = cred.Claim.Until
	}
	if wechat.Day(cred.ForcedAt) == wechat.Day(a.now()) {
		answer.Forced = cred.Forced
	}
	for _, p := range slices.Backward(cred.History) {
		answer.History = append(answer.History, events.TokenPast{
			Generation: p.Generation, At: p.At, Reason: p.Reason, LateMS: p.Late.Milliseconds(), TookMS: p.Took.Milliseconds(), By: p.By, ReportedBy: p.Reporter,
		})
	}
	return answer, nil
}
