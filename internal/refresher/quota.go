package refresher

import (
	"context"
	"errors"
	"maps"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// quota answers wxtoken.quota: what WeChat says is left, what the refreshers counted, and what is
// paused.
//
// Clearing comes first, so that what is shown is what is true after it. WeChat lets a quota be
// cleared ten times a month (48006 after that), hence Confirm. The figures of WeChat are asked for
// one API after the other, each a call of its own; a fault of one is shown beside the others
// (TestAskingForQuotaHarmsNothing). With Own nothing is asked of WeChat.
func (a *answers) quota(ctx context.Context, q events.QuotaRequest) (events.QuotaAnswer, error) {
	answer := events.QuotaAnswer{Component: q.Component}
	c, ok := a.component(q.Component)
	if !ok {
		return answer, events.UnknownComponent(q.Component)
	}
	if q.Clear {
		if q.Confirm != q.Component {
			return answer, events.BadRequest(lang.T("confirm: want the component's appid once more: WeChat lets a quota be cleared ten times a month", "confirm：请再次输入第三方平台的 appid；微信每月只允许清零十次"))
		}
		if err := c.gate.ClearQuota(ctx); err != nil {
			return answer, err
		}
		answer.Cleared = true
	}
	// Else the count would lack what this process called since its last sweep. The other
	// refreshers' part may be 30 s behind.
	c.gate.AddCalls(ctx)
	known, err := a.store.Quota(ctx, c.appid)
	if err != nil && !errors.Is(err, store.ErrUnreadable) {
		return answer, err
	}
	told := map[string]store.Limit{}
	for _, api := range wechat.ComponentAPIs() {
		entry := events.APIQuota{API: string(api)}
		if known.Day == wechat.Day(a.now()) {
			entry.Calls = known.Calls[entry.API]
		}
		if until := known.Paused[entry.API]; until.After(a.now()) {
			entry.PausedUntil = &until
		}
		if limit, ok := known.Limits[entry.API]; ok {
			entry.Told = &events.QuotaTold{DailyLimit: limit.Daily, Used: limit.Used, At: limit.At}
		}
		if q.Own {
			answer.APIs = append(answer.APIs, entry)
			continue
		}
		if left, err := c.gate.QuotaLeft(ctx, api); err != nil {
			why := lang.Of(err)
			entry.Error, entry.ErrorZH = why.EN, why.ZH
		} else {
			entry.QuotaLeft = &events.QuotaLeft{DailyLimit: left.DailyLimit, Used: left.Used, Remain: left.Remain}
			told[entry.API] = store.Limit{Daily: left.DailyLimit, Used: left.Used, At: a.now().UTC()}
		}
		answer.APIs = append(answer.APIs, entry)
	}
	a.remember(ctx, q.Component, told)
	return answer, nil
}

// remember keeps what WeChat said of its limits, for those who look without asking it.
//
// A lost note costs nothing but a figure on a page, so it is not worth a word to the asker.
func (a *answers) remember(ctx context.Context, component string, told map[string]store.Limit) {
	if len(told) == 0 {
		return
	}
	err := a.store.UpdateQuota(ctx, component, func(q *store.Quota) bool {
		if q.Limits == nil {
			q.Limits = map[string]store.Limit{}
		}
		maps.Copy(q.Limits, told)
		return true
	})
	if err != nil {
		a.log.Debug().Err(err).Str("component", component).Msg("failed to keep WeChat's limits")
	}
}
