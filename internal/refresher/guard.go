package refresher

import (
	"context"
	"sync"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/wechat"
)

// guard keeps a fault of ours, or of WeChat's, from marking everybody as gone: when more than a
// fifth of the renewals end with WeChat saying that the authorization is no good, nobody is marked.
type guard struct {
	mu                 sync.Mutex
	renewals, refusals []time.Time // of the last guardWindow
}

const (
	guardWindow = 5 * time.Minute
	guardFew    = 3 // so many may be refused without a look at the others
)

// saw counts one renewal.
func (g *guard) saw(now time.Time, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renewals = append(recent(g.renewals, now), now)
	if v := wechat.Judge(err); err != nil && (v == wechat.Revoked || v == wechat.RecoverRefreshToken) {
		g.refusals = append(recent(g.refusals, now), now)
	}
}

// open reports whether a refusal may be believed.
func (g *guard) open(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renewals, g.refusals = recent(g.renewals, now), recent(g.refusals, now)
	return len(g.refusals) <= guardFew || len(g.refusals)*5 <= len(g.renewals)
}

func recent(times []time.Time, now time.Time) []time.Time {
	for len(times) > 0 && now.Sub(times[0]) > guardWindow {
		times = times[1:]
	}
	return times
}

// watchRefusals tells the operator when the guard closes, and when it opens again. Meanwhile WeChat's list is
// asked what is true.
func (r *Refresher) watchRefusals(ctx context.Context, c *component) {
	key, open := wxtoken.ComponentKey(c.appid), c.guard.open(r.now())
	c.mu.Lock()
	told := c.warned
	c.warned = !open
	c.mu.Unlock()
	if told == !open {
		return
	}
	if err := r.writeStatus(ctx, key, account.RefusalsDoubted(r.now(), !open)); err != nil {
		c.mu.Lock()
		c.warned = told // the next sweep tells
		c.mu.Unlock()
		r.log.Warn().Err(err).Stringer("key", key).Msg("status not written")
		return
	}
	if open {
		r.log.Info().Str("component", c.appid).Msg("refused authorizations believed again")
		return
	}
	r.log.Error().Str("component", c.appid).Msg("too many authorizations refused at once, nobody is marked")
	if err := r.store.ScheduleReconcile(ctx, c.appid, r.cfg.ReconcileEvery, true); err != nil {
		r.log.Warn().Err(err).Str("component", c.appid).Msg("reconcile not asked for")
	}
}
