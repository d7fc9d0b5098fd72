package refresher

import (
	"context"
	"time"

	"wxtoken/internal/events"
)

// The time between two looks at the mirrors, and while one waits for the first token.
const (
	mirrorEvery = 30 * time.Second
	mirrorSoon  = time.Second
)

// mirror makes the read copies in the accounts of the services, and looks after them until ctx ends. Nothing else waits
// for them: tokens are renewed while nobody can read them, too.
func (r *Refresher) mirror(ctx context.Context) {
	if len(r.cfg.ServicesAPI) == 0 {
		return
	}
	t := time.NewTicker(mirrorEvery)
	defer t.Stop()
	before := map[events.MirrorOf]uint64{} // what a mirror was to have at the last look
	for {
		next := mirrorEvery
		for _, api := range r.cfg.ServicesAPI {
			if r.lookAtMirrors(ctx, api, before) {
				next = mirrorSoon
			}
		}
		t.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// lookAtMirrors makes what is missing in one account, and reports whether a mirror waits.
func (r *Refresher) lookAtMirrors(ctx context.Context, api string, before map[events.MirrorOf]uint64) (waiting bool) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	all, err := events.SetupMirrors(ctx, r.nc, r.js, api, r.cfg.Setup())
	if err != nil && ctx.Err() == nil {
		r.log.Warn().Err(err).Str("hint", "services may read old tokens: do both accounts export and import what --services-api needs?").Msg("mirrors not set up")
	}
	for _, m := range all {
		if m.Waiting {
			waiting = true
			continue
		}
		log := r.log.With().Str("account", m.Account).Str("stream", m.Stream).Logger()
		expected := before[m.MirrorOf]
		before[m.MirrorOf] = m.Newest
		behind := 0.0
		switch {
		case m.Created:
			log.Info().Msg("mirror created")
		case m.Has > m.Newest && m.Newest > 0:
			// A stream that was put back from a backup, for instance.
			behind = 1
			log.Error().Str("hint", "purge that account with the system user (nats server account purge), and it is made anew").Msg("mirror ahead of its stream: services read old values")
		case m.Has < expected:
			behind = 1
			log.Error().Dur("silent", m.Silent).Msg("mirror behind: services read old values")
		}
		r.metrics.mirrorsBehind.WithLabelValues(m.Account, m.Stream).Set(behind)
	}
	return waiting
}
