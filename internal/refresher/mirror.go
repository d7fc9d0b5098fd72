package refresher

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/internal/events"
	"wxtoken/internal/streams"
	"wxtoken/internal/truth"
)

// mirrorEvery is the time between two looks at the mirrors.
const mirrorEvery = 30 * time.Second

// mirrorLook is what was found at a look at a mirror.
type mirrorLook struct {
	newest uint64 // what it was to have
	has    uint64 // what it had
	ahead  bool   // it had more
}

// mirrors looks after the copies of streams that services read in NATS accounts of their own. A
// copy that stands still looks well from where services are: they read a token and don't know that
// it is old. So it is compared from here. No renewal waits for any of this.
type mirrors struct {
	cfg     Config
	nc      *nats.Conn
	js      jetstream.JetStream
	every   time.Duration // between two looks
	log     zerolog.Logger
	metrics *metrics
	now     func() time.Time

	// Prefixes of the API in the accounts that were found. Only one goroutine at a time is at them.
	services []string

	mu    sync.Mutex
	since map[string]time.Time // when copies were first seen to lag, by <account>/<stream>
}

// note notes whether a copy lags.
func (m *mirrors) note(one streams.MirrorOf, behind bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := one.Account + "/" + one.Stream
	switch {
	case !behind:
		delete(m.since, name)
	case m.since[name].IsZero():
		if m.since == nil {
			m.since = map[string]time.Time{}
		}
		m.since[name] = m.now()
	}
}

// wrong returns that services read old values, where they do.
func (m *mirrors) wrong() []events.NoticeData {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.since) == 0 {
		return nil
	}
	d := events.NoticeData{Cause: string(truth.MirrorBehind), Count: len(m.since), Names: slices.Sorted(maps.Keys(m.since))}
	d.Names = d.Names[:min(len(d.Names), events.NoticeKeys)]
	for _, since := range m.since {
		if d.Since.IsZero() || since.Before(d.Since) {
			d.Since = since
		}
	}
	return []events.NoticeData{d}
}

// run makes the read copies, and looks after them until ctx ends.
func (m *mirrors) run(ctx context.Context) {
	t := time.NewTicker(m.every)
	defer t.Stop()
	before := map[streams.MirrorOf]mirrorLook{}
	for {
		m.findServices(ctx)
		for _, api := range m.services {
			m.look(ctx, api, before)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// look makes what is missing in one account, and compares each copy with what its stream had at the
// look before: a copy is always a moment behind, and only one that did not move in the meantime
// stands still. The same holds for one that is ahead, after a stream was put back from a backup.
func (m *mirrors) look(ctx context.Context, api string, before map[streams.MirrorOf]mirrorLook) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	limit, err := streams.MaxConsumers(ctx, m.nc, api)
	if err != nil {
		m.log.Debug().Err(err).Msg("failed to read limits of services' account")
	}
	for _, one := range streams.SetupMirrors(ctx, m.nc, m.js, api, m.setupConfig()) {
		if ctx.Err() != nil {
			return
		}
		m.countWatches(one, limit)
		log := m.log.With().Str("account", one.Account).Str("stream", one.Stream).Logger()
		last, now := before[one.MirrorOf], mirrorLook{newest: one.Newest, has: one.Has, ahead: one.Has > one.Last}
		before[one.MirrorOf] = now
		behind := 1.0
		switch {
		case one.Err != nil:
			log.Warn().Err(one.Err).Str("hint", notMirrored(one.Err)).Msg("failed to set up mirror")
		case one.Created:
			behind = 0
			log.Info().Msg("mirror created")
		case now.ahead && last.ahead: // a stream that was put back from a backup, for instance
			log.Error().Str("hint", "purge that account with the system user (nats server account purge), and it is made anew").Msg("mirror ahead of its stream: services read old values")
		case one.Has < last.newest && one.Has > last.has: // it is on its way
		case one.Has < last.newest:
			err := streams.FeedAnew(ctx, m.js, one.MirrorOf, one.Has)
			log.Error().Err(err).Dur("silent", one.Silent).Msg("mirror behind: services read old values; it is fed anew")
		default:
			behind = 0
		}
		m.metrics.mirrorsBehind.WithLabelValues(one.Account, one.Stream).Set(behind)
		m.note(one.MirrorOf, behind > 0)
	}
}

// countWatches tells how many consumers services have on a mirror: where there are as many as may
// be, no service that starts gets a watch.
func (m *mirrors) countWatches(one streams.Mirror, limit int) {
	m.metrics.watches.WithLabelValues(one.Account, one.Stream).Set(float64(one.Watches))
	if limit == 0 {
		m.metrics.maxWatches.DeleteLabelValues(one.Account, one.Stream)
		return
	}
	m.metrics.maxWatches.WithLabelValues(one.Account, one.Stream).Set(float64(limit))
	if one.Watches*5 >= limit*4 {
		m.log.Warn().Str("account", one.Account).Str("stream", one.Stream).Int("consumers", one.Watches).Int("max_consumers", limit).
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

// insufficientStorage is nats-server's JSStorageResourcesExceededErr, which the client has no name
// for.
const insufficientStorage = 10047

// setupConfig says how the streams are to be, and who has mirrors of them.
func (m *mirrors) setupConfig() events.SetupConfig {
	cfg := m.cfg.Setup()
	cfg.ServicesAPI = m.services
	return cfg
}

// findServices looks for accounts of services that were not found yet: one may have been slow to
// answer, or may be made later. The default is there only where the NATS server is set up for it.
func (m *mirrors) findServices(ctx context.Context) {
	for _, api := range m.cfg.ServicesAPI {
		switch {
		case slices.Contains(m.services, api):
		case streams.HasServices(ctx, m.nc, api):
			m.services = append(m.services, api)
			m.log.Info().Str("api", api).Msg("account of services found")
		case api != events.DefaultServicesAPI && ctx.Err() == nil: // it was asked for in the settings
			m.log.Warn().Str("api", api).Str("hint", "do both accounts export and import what --services-api needs?").Msg("account of services not found, nothing is mirrored for it")
		}
	}
}
