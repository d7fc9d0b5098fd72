package refresher

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/seal"
	"wxtoken/internal/store"
)

// What rests in NATS and gives access to accounts may be sealed: ingest seals what it publishes on
// AUTH with a public key and can't open it again, and only refreshers have the seeds
// (docs/adr/0024). Keys are changed while everything runs, and the processes don't change at the
// same moment. So for a while one may meet what it can't open, and none of that is damaged: it is
// left as it is, for the one that can.

const (
	// unopenedDelay is when an event is tried again that is sealed for a key whose seed is not
	// here. The message goes to any refresher then, so one that has the seed gets it sooner or
	// later.
	unopenedDelay = time.Minute
	// unopenedTries is how often. AUTH keeps an event for 24 hours; before that it goes to DEAD,
	// sealed as it is.
	unopenedTries = 900
	// resealAgain is when records are looked at again that were claimed, and resealTries how
	// often.
	resealAgain = 30 * time.Second
	resealTries = 20
)

// keepUnopened deals with an event that could be opened with a seed that is not here: it stays, so
// that nothing is lost when ingest was given a new key before the refreshers were. The status of
// its component says so until a ticket could be opened that is newer: then ingest has a right key
// again, and of what came before a ticket is of no use any more.
//
// What an unopened event is about is told by its subject and headers (events.AuthAbout). A ticket
// that is older than the one in use would be dropped if it could be read, so it is dropped unread
// (TestSealedForAnUnknownKeyOnce).
func (r *Refresher) keepUnopened(ctx context.Context, m events.Msg, err error) error {
	component, kind, created := events.AuthAbout(m)
	key := wxtoken.ComponentKey(component)
	own, _ := r.view.Component(component)
	over := !created.IsZero() && !created.After(own.TicketCreatedAt)
	if over && kind == events.KindTicket {
		r.metrics.staleTickets.Inc()
		return nil
	}
	r.metrics.unopened.Inc()
	err = lang.Error(lang.T("%v (%s): it is kept; put the seed that belongs to ingest's --seal-key into --seal-key-file, or give ingest the public key that belongs to the seed here (%s)",
		"没有密封密钥的种子：%v（%s）：消息会保留；请把 ingest 的 --seal-key 对应的种子放入 --seal-key-file，或让 ingest 改用这里的种子对应的公钥（%s）",
		err, cmp.Or(m.Header.Get(seal.HeaderFor), "-"), cmp.Or(r.seal.Public(), "-")), err)
	if _, ours := r.component(component); ours && !over {
		r.setStatus(ctx, key, account.Unopened(r.now(), err))
	}
	if m.Deliveries > unopenedTries {
		return events.Never(err)
	}
	r.unopened.Do(func() { r.log.Error().Err(err).Str("subject", m.Subject).Msg("event can't be opened") })
	return events.Later(jittered(unopenedDelay), err)
}

// sealOf answers whether a refresher with these keys opens what ingest seals for a public key.
//
// ingest's --check asks it: sealing for a key that no refresher opens would lose nothing, and bring
// everything to a stop.
func sealOf(own *seal.Keys, public string) events.ConnectOpened {
	var keys []string
	if own != nil {
		keys = append([]string{own.Public()}, own.Others()...)
	}
	state := events.SealUnknown
	switch {
	case slices.Contains(keys, public):
		state = events.SealOpened
	case public == "" && keys == nil:
		state = events.SealUnused
	case public == "":
		state = events.SealMissing
	}
	return events.ConnectOpened{State: state, SealKeys: keys}
}

// reseal has every record sealed with the first of the keys: after sealing was turned on, and after
// a key was changed. What is written later is sealed so in any case. Records that are claimed are
// left for the next round, for rewriting one would make the renewal lose its compare-and-set.
//
// Each record is compared and set, so it runs in each refresher at each start, beside all else. It
// ends, loudly, after ten minutes: what is left by then is sealed for a key that is not here, or
// claimed each time, and another round would not mend it.
func reseal(ctx context.Context, s *store.Store, keys *seal.Keys, log zerolog.Logger, now func() time.Time) {
	if keys == nil {
		log.Info().Msg("credentials are in the clear")
		return
	}
	log = log.With().Str("seal_key", keys.Public()).Logger()
	log.Info().Strs("opens_too", keys.Others()).Msg("credentials are sealed")
	for range resealTries {
		resealed, left, err := s.Reseal(ctx, now)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Warn().Err(err).Dur("delay", resealAgain).Msg("failed to seal records anew")
		case left == 0:
			log.Info().Int("resealed", resealed).Msg("all records are sealed with the first key")
			return
		default:
			log.Info().Int("resealed", resealed).Int("left", left).Dur("delay", resealAgain).Msg("records sealed anew, others are being used")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(resealAgain):
		}
	}
	log.Error().Msg("records are left that are not sealed with the first key: wxtoken_sealed_records tells which keys they are sealed for")
}

// short names a public key in a label.
func short(public string) string {
	if public == "" {
		return "none"
	}
	return public[:min(len(public), 8)]
}
