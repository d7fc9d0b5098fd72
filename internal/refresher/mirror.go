package refresher

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/streams"
)

// mirrorEvery is the time between two looks at the mirrors.
const mirrorEvery = 30 * time.Second

// mirrorLook is what was found at a look at a mirror.
type mirrorLook struct {
	newest uint64 // what it was to have
	has    uint64 // what it had
	ahead  bool   // it had more
}

// mirror makes the read copies in the accounts of the services, and looks after them until ctx ends. No renewal waits for them.
func (r *Refresher) mirror(ctx context.Context) {
	t := time.NewTicker(r.lookEvery)
	defer t.Stop()
	before := map[streams.MirrorOf]mirrorLook{}
	for {
		r.findServices(ctx)
		for _, api := range r.services {
			r.lookAtMirrors(ctx, api, before)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// lookAtMirrors makes what is missing in one account. It believes what is wrong at the second look only: a replica may be a moment behind.
func (r *Refresher) lookAtMirrors(ctx context.Context, api string, before map[streams.MirrorOf]mirrorLook) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	limit, err := streams.MaxConsumers(ctx, r.nc, api)
	if err != nil {
		r.log.Debug().Err(err).Msg("limits of the services' account not known")
	}
	for _, m := range streams.SetupMirrors(ctx, r.nc, r.js, api, r.setupConfig()) {
		if ctx.Err() != nil {
			return
		}
		r.countWatches(m, limit)
		log := r.log.With().Str("account", m.Account).Str("stream", m.Stream).Logger()
		last, now := before[m.MirrorOf], mirrorLook{newest: m.Newest, has: m.Has, ahead: m.Has > m.Last}
		before[m.MirrorOf] = now
		behind := 1.0
		switch {
		case m.Err != nil:
			log.Warn().Err(m.Err).Str("hint", notMirrored(m.Err)).Msg("mirror not set up")
		case m.Created:
			behind = 0
			log.Info().Msg("mirror created")
		case now.ahead && last.ahead: // a stream that was put back from a backup, for instance
			log.Error().Str("hint", "purge that account with the system user (nats server account purge), and it is made anew").Msg("mirror ahead of its stream: services read old values")
		case m.Has < last.newest && m.Has > last.has: // it is on its way
		case m.Has < last.newest:
			err := streams.FeedAnew(ctx, r.js, m.MirrorOf, m.Has)
			log.Error().Err(err).Dur("silent", m.Silent).Msg("mirror behind: services read old values; it is fed anew")
		default:
			behind = 0
		}
		r.metrics.mirrorsBehind.WithLabelValues(m.Account, m.Stream).Set(behind)
	}
}

// countWatches tells how many consumers services have on a mirror: where there are as many as may be, no service that starts gets a watch.
func (r *Refresher) countWatches(m streams.Mirror, limit int) {
	r.metrics.watches.WithLabelValues(m.Account, m.Stream).Set(float64(m.Watches))
	if limit == 0 {
		r.metrics.maxWatches.DeleteLabelValues(m.Account, m.Stream)
		return
	}
	r.metrics.maxWatches.WithLabelValues(m.Account, m.Stream).Set(float64(limit))
	if m.Watches*5 >= limit*4 {
		r.log.Warn().Str("account", m.Account).Str("stream", m.Stream).Int("consumers", m.Watches).Int("max_consumers", limit).
			Str("hint", "raise max_consumers of that account in nats-server.conf and reload, or have services end what they don't use").Msg("few consumers left for services")
	}
}

// notMirrored says what to do when a mirror can't be made or looked at.
func notMirrored(err error) string {
	if errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return "an account that is new in the NATS server's settings gets its JetStream at the second reload: have it reload once more"
	}
	if refused, ok := errors.AsType[*jetstream.APIError](err); ok && refused.ErrorCode == insufficientStorage {
		return "raise NATS's max_file_store, or lower --messages-max-bytes: the copy of MESSAGES reserves as much once more"
	}
	return "services may read old values: do both accounts export and import what --services-api needs?"
}

// insufficientStorage is nats-server's JSStorageResourcesExceededErr, which the client has no name for.
const insufficientStorage = 10047

// setupConfig says how the streams are to be, and who has mirrors of them.
func (r *Refresher) setupConfig() events.SetupConfig {
	cfg := r.cfg.Setup()
	cfg.ServicesAPI = r.services
	return cfg
}

// findServices looks for accounts of services that were not found yet: one may have been slow to answer, or may be made later. The
// default is there only where the NATS server is set up for it.
func (r *Refresher) findServices(ctx context.Context) {
	for _, api := range r.cfg.ServicesAPI {
		switch {
		case slices.Contains(r.services, api):
		case streams.HasServices(ctx, r.nc, api):
			r.services = append(r.services, api)
			r.log.Info().Str("api", api).Msg("account of services found")
		case api != events.DefaultServicesAPI && ctx.Err() == nil: // somebody asked for it
			r.log.Warn().Str("api", api).Str("hint", "do both accounts export and import what --services-api needs?").Msg("account of services not found, nothing is mirrored for it")
		}
	}
}
