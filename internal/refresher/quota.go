package refresher

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// quotaGone keeps all refreshers from making a call until the day turns, or until somebody clears the quota.
func (r *Refresher) quotaGone(ctx context.Context, c *component, api wechat.API, cause error, now time.Time) {
	until, said := wechat.QuotaBack(now), account.LastError(now, cause)
	c.pause(api, now.Add(quotaBridge))
	if !aside(api) {
		c.begin(api, store.Hold{Reason: wxtoken.HeldQuota, Until: until, Message: "the day's quota is gone", Error: said, SeenAt: now})
	}
	err := r.store.UpdateQuota(ctx, c.appid, func(q *store.Quota) bool {
		if q.Paused[string(api)].Equal(until) {
			return false
		}
		if !aside(api) {
			q.QuotaError = said
		}
		q.Paused = maps.Clone(q.Paused)
		if q.Paused == nil {
			q.Paused = map[string]time.Time{}
		}
		q.Paused[string(api)] = until
		return true
	})
	if err != nil {
		r.log.Warn().Err(err).Str("component", c.appid).Str("api", string(api)).Msg("quota not noted")
	}
}

// quotaBridge is how long a process holds calls back by itself, until it sees in its view that all do.
const quotaBridge = 5 * time.Second

// addCalls adds what this process called to the shared count of the day.
func (r *Refresher) addCalls(ctx context.Context, c *component) {
	calls := c.takeCalls()
	if len(calls) == 0 {
		return
	}
	now := r.now()
	err := r.store.UpdateQuota(ctx, c.appid, func(q *store.Quota) bool {
		if day := wechat.Day(now); q.Day != day {
			q.Day, q.Calls = day, nil
			q.Paused = maps.Clone(q.Paused)
			maps.DeleteFunc(q.Paused, func(_ string, until time.Time) bool { return !until.After(now) })
		}
		q.Calls = maps.Clone(q.Calls)
		if q.Calls == nil {
			q.Calls = map[string]int{}
		}
		for api, n := range calls {
			q.Calls[api] += n
		}
		return true
	})
	if err != nil {
		c.giveCalls(calls)
		r.log.Warn().Err(err).Str("component", c.appid).Msg("calls not counted")
	}
}

// quota answers wxtoken.quota: what WeChat says is left, what the refreshers counted, and what is paused.
func (r *Refresher) quota(ctx context.Context, q events.QuotaRequest) (events.QuotaAnswer, error) {
	answer := events.QuotaAnswer{Component: q.Component}
	c, ok := r.component(q.Component)
	if !ok {
		return answer, unknownComponent(q.Component)
	}
	if q.Clear {
		if q.Confirm != q.Component {
			return answer, badRequest("confirm: want the component's appid once more: WeChat lets a quota be cleared ten times a month")
		}
		if err := r.clearQuota(ctx, c); err != nil {
			return answer, err
		}
		answer.Cleared = true
	}
	r.addCalls(ctx, c)
	known, err := r.store.Quota(ctx, c.appid)
	if err != nil && !errors.Is(err, store.ErrUnreadable) {
		return answer, err
	}
	for _, api := range wechat.ComponentAPIs() {
		entry := events.APIQuota{API: string(api)}
		if known.Day == wechat.Day(r.now()) {
			entry.Calls = known.Calls[entry.API]
		}
		if until := known.Paused[entry.API]; until.After(r.now()) {
			entry.PausedUntil = &until
		}
		if left, err := r.askQuota(ctx, c, api); err != nil {
			entry.Error = err.Error()
		} else {
			entry.QuotaLeft = &events.QuotaLeft{DailyLimit: left.DailyLimit, Used: left.Used, Remain: left.Remain}
		}
		answer.APIs = append(answer.APIs, entry)
	}
	return answer, nil
}

func (r *Refresher) askQuota(ctx context.Context, c *component, api wechat.API) (left wechat.Quota, err error) {
	if err := r.pass(ctx, c, wechat.APIQuotaGet); err != nil {
		return left, err
	}
	err = r.withComponentToken(ctx, c, wechat.APIQuotaGet, "", func(token string) (err error) {
		left, err = r.wx.Quota(ctx, token, api)
		return err
	})
	return left, err
}

// clearQuota has WeChat count from zero, and lets all refreshers call again.
func (r *Refresher) clearQuota(ctx context.Context, c *component) error {
	if err := r.pass(ctx, c, wechat.APIClearQuota); err != nil {
		return err
	}
	r.calling(c, wechat.APIClearQuota)
	err := r.wx.ClearQuota(ctx, c.appid, c.appSecret())
	r.heard(ctx, c, wechat.APIClearQuota, "", err)
	if err != nil {
		return err
	}
	r.log.Warn().Str("component", c.appid).Msg("quota cleared")
	return r.callAgain(ctx, c, func(string) bool { return true })
}

// callAgain lets all refreshers make the calls again that rest for want of a quota, as far as that is over.
func (r *Refresher) callAgain(ctx context.Context, c *component, over func(api string) bool) error {
	var freed []string
	err := r.store.UpdateQuota(ctx, c.appid, func(q *store.Quota) bool {
		freed = slices.DeleteFunc(slices.Collect(maps.Keys(q.Paused)), func(api string) bool { return !over(api) })
		q.Paused = maps.Clone(q.Paused)
		maps.DeleteFunc(q.Paused, func(api string, _ time.Time) bool { return over(api) })
		if q.QuotaError != nil && over(q.QuotaError.API) {
			q.QuotaError = nil
		}
		return len(freed) > 0
	})
	for _, api := range freed {
		c.resume(wechat.API(api))
	}
	if err == nil {
		r.lookNow() // for all that had to wait
	}
	return err
}

// quotaLook is how often WeChat is asked whether there is something left of a quota that was gone.
const quotaLook = 10 * time.Minute

// watchQuota ends the rest of calls whose quota was cleared by somebody else, or raised. It asks for the figures: the call itself is not
// made before the day turns.
func (r *Refresher) watchQuota(ctx context.Context, c *component) {
	now := r.now()
	var rest []string
	for api, until := range c.quota().Paused {
		if until.After(now) {
			rest = append(rest, api)
		}
	}
	if len(rest) > 0 && now.Sub(c.quotaLooked).Abs() < quotaLook {
		return
	}
	c.quotaLooked = now
	if len(rest) == 0 {
		return
	}
	var again []string
	for _, api := range rest {
		if left, err := r.askQuota(ctx, c, wechat.API(api)); err == nil && left.Remain > 0 {
			again = append(again, api)
		}
	}
	if len(again) == 0 {
		return
	}
	r.log.Warn().Str("component", c.appid).Strs("apis", again).Msg("quota there again, cleared elsewhere")
	if err := r.callAgain(ctx, c, func(api string) bool { return slices.Contains(again, api) }); err != nil {
		r.log.Warn().Err(err).Str("component", c.appid).Msg("failed to end the rest of calls")
	}
}
