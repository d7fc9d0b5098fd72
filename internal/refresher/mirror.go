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

// Services have a NATS account of their own, and read mirrors there (docs/adr/0025). The server
// copies by itself; what the refreshers add is to make the mirrors, once there is such an account,
// and to look whether they move.
//
// A mirror can be wrong in two ways that services can't see, since a read of it works. It stands
// still, because the consumer that feeds it was reset, say: then it is fed anew from behind what it
// has. It is ahead, after its stream was put back from a backup: then it skips all that is stored
// below its own last sequence, with a lag of 0 and no error
// (findings/restored-origin-silences-mirror.sh); streams.Raise mends that at the next start, for
// buckets. That a mirror is missing services notice by themselves: there is no bucket to open.
//
// All refreshers look, and don't agree on who does: streams.SetupMirrors may be run by several at
// once.

// mirrorEvery is the time between two looks at the mirrors.
//
// Two looks tell whether a mirror stands still. So old values are noticed within a minute, while a
// token that was replaced works for five more.
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

	// Prefixes of the API in the accounts that were found. Only one goroutine at a time is at them:
	// data.open before work begins, and run after that.
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
//
// The call is bounded by 10 s for all three mirrors of an account, so that an account that does not
// answer holds up the others by no more than that.
func (m *mirrors) look(ctx context.Context, api string, before map[streams.MirrorOf]mirrorLook) {
	bounded, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	limit, err := streams.MaxConsumers(bounded, m.nc, api)
	if err != nil {
		m.log.Debug().Err(err).Msg("failed to read limits of services' account")
	}
	for _, one := range streams.SetupMirrors(bounded, m.nc, m.js, api, m.setupConfig()) {
		if ctx.Err() != nil { // this refresher ends; an account that does not answer in time is told
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
		// At one look a mirror may be ahead of what its stream said a moment before.
		case now.ahead && last.ahead: // a stream that was put back from a backup, for instance
			log.Error().Str("hint", "purge that account with the system user (nats server account purge), and it is made anew").Msg("mirror ahead of its stream: services read old values")
		case one.Has < last.newest && one.Has > last.has: // it is on its way
		// It lacks what its stream had at the look before, and did not move since.
		case one.Has < last.newest:
			err := streams.FeedAnew(bounded, m.js, one.MirrorOf, one.Has)
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
//
// Nothing fails for those that run when the last one is taken; only a service that starts
// afterwards gets an error (10026). So it is told at four fifths.
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
//
// The first two are errors that say little, and were met: 10039 after an account was added and the
// server reloaded, 10047 where MESSAGES reserves its bytes a second time (docs/operations.md,
// docs/nats.md, TestNotMirrored).
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
//
// An account that was found stays found: one that is away for a moment must not have its mirrors
// left out of what data.tryOpen compares.
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
