package refresher

import (
	"context"
)

// watchRefusals tells the log when the guard closes, and when it opens again; the status says so each time it is written. Meanwhile
// WeChat's list is asked what is true.
func (r *Refresher) watchRefusals(ctx context.Context, c *component) {
	doubted := !c.gate.Believes()
	if c.doubted == doubted {
		return
	}
	c.doubted = doubted
	if !doubted {
		r.log.Info().Str("component", c.appid).Msg("refused authorizations believed again")
		return
	}
	r.log.Error().Str("component", c.appid).Msg("too many authorizations refused at once, none is marked")
	if err := r.store.ScheduleReconcile(ctx, c.appid, r.cfg.ReconcileEvery, true); err != nil {
		r.log.Warn().Err(err).Str("component", c.appid).Msg("failed to ask for WeChat's list")
	}
}
