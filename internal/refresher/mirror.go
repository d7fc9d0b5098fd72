package refresher

import (
	"context"
	"time"

	"wxtoken/internal/events"
)

const (
	mirrorEvery = 30 * time.Second // between two looks at the mirrors
	mirrorDead  = time.Minute      // of silence after which a person is told
)

// mirror makes the read copies in the accounts of the services, and looks after them until ctx ends. Nothing else waits
// for them: tokens are renewed while nobody can read them, too.
func (r *Refresher) mirror(ctx context.Context) {
	if len(r.cfg.ServicesAPI) == 0 {
		return
	}
	t := time.NewTicker(mirrorEvery)
	defer t.Stop()
	for {
		for _, api := range r.cfg.ServicesAPI {
			r.lookAtMirrors(ctx, api)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (r *Refresher) lookAtMirrors(ctx context.Context, api string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	all, err := events.SetupMirrors(ctx, r.nc, r.js, api, r.setupConfig())
	if err != nil && ctx.Err() == nil {
		r.log.Warn().Err(err).Str("hint", "services read old tokens: does the account import what --services-api names?").Msg("mirrors not set up")
	}
	for _, m := range all {
		if m.Created {
			r.log.Info().Str("account", m.Account).Str("stream", m.Stream).Msg("mirror created")
			continue
		}
		r.metrics.mirrorLag.WithLabelValues(m.Account, m.Stream).Set(float64(m.Lag))
		if m.Silent < 0 {
			continue
		}
		r.metrics.mirrored.WithLabelValues(m.Account, m.Stream).Set(seconds(r.now().Add(-m.Silent)))
		if m.Silent > mirrorDead {
			r.log.Error().Str("account", m.Account).Str("stream", m.Stream).Dur("silent", m.Silent).Msg("mirror not fed: services read old values")
		}
	}
}
