package refresher

import (
	"context"

	"wxtoken/client"
	"wxtoken/internal/account"
)

// watchRefusals tells the operator when the guard closes, and when it opens again. Meanwhile WeChat's list is
// asked what is true.
func (r *Refresher) watchRefusals(ctx context.Context, c *component) {
	key, open := wxtoken.ComponentKey(c.appid), c.gate.Believes()
	if c.doubted == !open {
		return
	}
	if err := r.writeStatus(ctx, key, account.RefusalsDoubted(r.now(), !open)); err != nil {
		r.log.Warn().Err(err).Stringer("key", key).Msg("status not written")
		return // the next sweep tells
	}
	c.doubted = !open
	if open {
		r.log.Info().Str("component", c.appid).Msg("refused authorizations believed again")
		return
	}
	r.log.Error().Str("component", c.appid).Msg("too many authorizations refused at once, none is marked")
	if err := r.store.ScheduleReconcile(ctx, c.appid, r.cfg.ReconcileEvery, true); err != nil {
		r.log.Warn().Err(err).Str("component", c.appid).Msg("reconcile not asked for")
	}
}
