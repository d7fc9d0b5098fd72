package gate

import (
	"context"
	"maps"
	"slices"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

const (
	// quotaBridge is how long a process holds calls back by itself, until it sees in its view that
	// all do.
	quotaBridge = 5 * time.Second
	// quotaLook is how often WeChat is asked whether there is something left of a quota that was
	// gone.
	quotaLook = 10 * time.Minute
)

// quotaIsGone says why a call rests until the day turns.
var quotaIsGone = lang.T("the day's quota is gone", "当天的调用额度用完")

// closeForTheDay keeps all refreshers from making a call until the day turns, or until its quota is
// cleared. All hear of it through their views. Until this one sees its own write there, it is
// closed by a pause of its own: of 64 handlers that are under way the others would make the call
// once more, and a refused call counts, too.
func (g *Gate) closeForTheDay(ctx context.Context, api wechat.API, cause error, now time.Time) {
	until, said := wechat.QuotaBack(now), account.LastError(now, cause)
	g.pause(api, now.Add(quotaBridge))
	if !kinds[api].aside {
		g.begin(api, store.Hold{Reason: wxtoken.HeldQuota, Until: until, Message: quotaIsGone.EN, Error: said, SeenAt: now})
	}
	err := g.p.Store().UpdateQuota(ctx, g.appid, func(q *store.Quota) bool {
		if q.Paused[string(api)].Equal(until) {
			return false // another refresher met it first
		}
		if !kinds[api].aside {
			q.QuotaError = said
		}
		q.Paused = maps.Clone(q.Paused)
		if q.Paused == nil {
			q.Paused = map[string]time.Time{}
		}
		q.Paused[string(api)] = until
		return true
	})
	if err != nil { // the next call meets it again
		g.p.Log.Warn().Err(err).Str("component", g.appid).Str("api", string(api)).Msg("failed to share that a quota is gone")
	}
}

// Calls are counted in memory and added to the shared record by each sweep and at the end: one
// write for all calls of half a minute, instead of one for each. A process that is killed takes the
// count of that half minute with it. The count is for people; what WeChat counts itself is asked
// for beside it.

// takeCalls returns the calls that are not in the shared count yet, and takes them for added.
func (g *Gate) takeCalls() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := g.calls
	g.calls = map[string]int{}
	return taken
}

// giveCalls takes back what takeCalls gave, because it could not be added. Calls that were made
// meanwhile are kept.
func (g *Gate) giveCalls(calls map[string]int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for api, n := range calls {
		g.calls[api] += n
	}
}

// AddCalls adds what this process called to the shared count of the day.
func (g *Gate) AddCalls(ctx context.Context) {
	calls := g.takeCalls()
	if len(calls) == 0 {
		return
	}
	now := g.p.Now()
	err := g.p.Store().UpdateQuota(ctx, g.appid, func(q *store.Quota) bool {
		if day := wechat.Day(now); q.Day != day {
			// The first to write on a new day begins the count anew, and takes out the pauses that
			// ended with the old one. A pause that was set in the first minutes of the day, for a
			// quota of the day before, is kept.
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
		g.giveCalls(calls)
		g.p.Log.Warn().Err(err).Str("component", g.appid).Msg("failed to add up the calls")
	}
}

// QuotaLeft asks WeChat what is left of the day's quota of a call ("openapi/quota/get").
func (g *Gate) QuotaLeft(ctx context.Context, api wechat.API) (left wechat.Quota, err error) {
	err = g.Do(ctx, Call{API: wechat.APIQuotaGet}, func(token string) (err error) {
		left, err = g.p.WeChat.Quota(ctx, token, api)
		return err
	})
	return left, err
}

// ClearQuota has WeChat count from zero ("component/clear_quota/v2"), and lets all refreshers call
// again.
func (g *Gate) ClearQuota(ctx context.Context) error {
	err := g.Do(ctx, Call{API: wechat.APIClearQuota}, func(secret string) error {
		return g.p.WeChat.ClearQuota(ctx, g.appid, secret)
	})
	if err != nil {
		return err
	}
	g.p.Log.Warn().Str("component", g.appid).Msg("quota cleared")
	return g.callAgain(ctx, func(string) bool { return true })
}

// callAgain lets all refreshers make the calls again that rest for want of a quota, as far as that
// is over.
//
// The shared record is changed first and this process's own pause ended after it: the other way
// round a call in between would find the gate open here and closed there. The own pause has to go
// too, for it may outlive the record's by quotaBridge.
func (g *Gate) callAgain(ctx context.Context, over func(api string) bool) error {
	var freed []string // set anew by each try of the compare-and-set
	err := g.p.Store().UpdateQuota(ctx, g.appid, func(q *store.Quota) bool {
		freed = slices.DeleteFunc(slices.Collect(maps.Keys(q.Paused)), func(api string) bool { return !over(api) })
		q.Paused = maps.Clone(q.Paused)
		maps.DeleteFunc(q.Paused, func(api string, _ time.Time) bool { return over(api) })
		if q.QuotaError != nil && over(q.QuotaError.API) {
			q.QuotaError = nil
		}
		return len(freed) > 0
	})
	for _, api := range freed {
		g.resume(wechat.API(api))
	}
	if err == nil {
		g.p.Opened()
	}
	return err
}

// watchQuota ends the rest of calls whose quota was cleared elsewhere, or raised. It asks for the
// figures: the call itself is not made before the day turns.
func (g *Gate) watchQuota(ctx context.Context) {
	now := g.p.Now()
	var rest []string
	for api, until := range g.Shared().Paused {
		if until.After(now) {
			rest = append(rest, api)
		}
	}
	if len(rest) > 0 && now.Sub(g.quotaLooked).Abs() < quotaLook {
		return
	}
	g.quotaLooked = now
	var again []string
	for _, api := range rest {
		if left, err := g.QuotaLeft(ctx, wechat.API(api)); err == nil && left.Remain > 0 {
			again = append(again, api)
		}
	}
	if len(again) == 0 {
		return
	}
	g.p.Log.Warn().Str("component", g.appid).Strs("apis", again).Msg("quota found cleared")
	if err := g.callAgain(ctx, func(api string) bool { return slices.Contains(again, api) }); err != nil {
		g.p.Log.Warn().Err(err).Str("component", g.appid).Msg("failed to end the rest of calls")
	}
}
