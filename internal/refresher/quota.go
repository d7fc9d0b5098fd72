package refresher

import (
	"context"
	"errors"

	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// quota answers wxtoken.quota: what WeChat says is left, what the refreshers counted, and what is paused.
func (a *answers) quota(ctx context.Context, q events.QuotaRequest) (events.QuotaAnswer, error) {
	answer := events.QuotaAnswer{Component: q.Component}
	c, ok := a.component(q.Component)
	if !ok {
		return answer, events.UnknownComponent(q.Component)
	}
	if q.Clear {
		if q.Confirm != q.Component {
			return answer, events.BadRequest("confirm: want the component's appid once more: WeChat lets a quota be cleared ten times a month")
		}
		if err := c.gate.ClearQuota(ctx); err != nil {
			return answer, err
		}
		answer.Cleared = true
	}
	c.gate.AddCalls(ctx)
	known, err := a.store.Quota(ctx, c.appid)
	if err != nil && !errors.Is(err, store.ErrUnreadable) {
		return answer, err
	}
	for _, api := range wechat.ComponentAPIs() {
		entry := events.APIQuota{API: string(api)}
		if known.Day == wechat.Day(a.now()) {
			entry.Calls = known.Calls[entry.API]
		}
		if until := known.Paused[entry.API]; until.After(a.now()) {
			entry.PausedUntil = &until
		}
		if q.Own {
			answer.APIs = append(answer.APIs, entry)
			continue
		}
		if left, err := c.gate.QuotaLeft(ctx, api); err != nil {
			entry.Error = err.Error()
		} else {
			entry.QuotaLeft = &events.QuotaLeft{DailyLimit: left.DailyLimit, Used: left.Used, Remain: left.Remain}
		}
		answer.APIs = append(answer.APIs, entry)
	}
	return answer, nil
}
