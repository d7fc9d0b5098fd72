package refresher

import (
	"context"
	"fmt"
	"time"

	"wxtoken/internal/events"
)

const (
	// unopenedDelay is when an event is tried again that is sealed for a key whose seed is not here.
	unopenedDelay = time.Minute
	// unopenedTries is how often. AUTH keeps an event for 24 hours; before that it goes to DEAD, sealed as it is.
	unopenedTries = 900
	// resealAgain is when records are looked at again that somebody held, and resealTries how often.
	resealAgain = 30 * time.Second
	resealTries = 20
)

// notOpened deals with an event that could be opened with a seed that is not here: it stays, so that nothing is lost when ingest
// was given a new key before the refreshers were.
func (r *Refresher) notOpened(m events.Msg, err error) error {
	r.metrics.unopened.Inc()
	err = fmt.Errorf("%w: it is kept; put the seed that belongs to ingest's --seal-key into --seal-key-file", err)
	if m.Deliveries > unopenedTries {
		return events.Never(err)
	}
	r.unopened.Do(func() { r.log.Error().Err(err).Str("subject", m.Subject).Msg("event can't be opened") })
	return events.Later(jittered(unopenedDelay), err)
}

// reseal has everything sealed with the first of the keys: after sealing was turned on, and after a key was changed. What is written
// later is sealed so in any case.
func (r *Refresher) reseal(ctx context.Context) {
	if r.seal == nil {
		r.log.Info().Msg("credentials are in the clear")
		return
	}
	log := r.log.With().Str("seal_key", r.seal.Public()).Logger()
	log.Info().Strs("opens_too", r.seal.Others()).Msg("credentials are sealed")
	for range resealTries {
		resealed, left, err := r.store.Reseal(ctx, r.now)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Warn().Err(err).Dur("delay", resealAgain).Msg("records not sealed anew")
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
