package refresher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/internal/events"
	"wxtoken/internal/seal"
	"wxtoken/internal/store"
	"wxtoken/internal/streams"
)

// NATS is trusted with all that wxtoken knows, and so it is watched. Data can go in many ways: a
// stream is deleted, purged, or made anew by hand, a disk comes back from a copy of yesterday, a
// server starts with an empty directory. Some of these look like a quiet stream to a consumer.
//
// What is done about it is one rule (docs/adr/0028): a running refresher makes no stream. To make
// an empty one at once would hide the loss and stand in the way of the backup. So it ends all work
// and waits. A person restores the backup, or restarts one refresher; a start makes what is
// missing, and WeChat's list brings the accounts back. TestTokensVanish takes the data away in
// three ways, TestOlderCopy puts older data in its place.

// data is what is stored in NATS: is it there, can it be worked with, and is it still the same? A
// refresher that went on with other data than it knows would trust its view, which never removes
// what vanished without a word, and would find nothing to do.
type data struct {
	cfg     Config
	nc      *nats.Conn
	js      jetstream.JetStream
	seal    *seal.Keys
	mirrors *mirrors // who has them, which the streams are made for
	log     zerolog.Logger
	step    func(string)

	// One place: of several doubts before a look the look answers all.
	doubts chan struct{} // whether the stream is still there
}

// open opens the store as soon as NATS is there and ready returns no error. It calls trouble with
// what each try failed with. It returns an error when the server can't be used at all, or the store
// is sealed with other keys; it returns no error when ctx ends.
//
// It never gives up on a NATS that is away: a refresher that ended would be started again by
// whatever runs it, and wait the same way. The log is told a reason when it changes, and the same
// one every 30 s.
func (d *data) open(ctx context.Context, ready func(context.Context) error, trouble func(error)) (*store.Store, error) {
	said := ""
	var saidAt time.Time
	for {
		opened, err := d.tryOpen(ctx, ready)
		if err == nil || ctx.Err() != nil {
			return opened, nil
		}
		switch {
		case errors.Is(err, streams.ErrServerTooOld):
			return nil, err
		// Waiting would not help: the seeds of a process don't change while it runs. And the next
		// writes would be sealed for a key that the other refreshers don't have.
		case errors.Is(err, store.ErrSealed):
			return nil, fmt.Errorf("the seal keys are not those of the store, nothing was changed: %w", err)
		}
		trouble(err)
		if err.Error() != said || time.Since(saidAt) > complainEvery {
			said, saidAt = err.Error(), time.Now()
			d.log.Warn().Err(err).Dur("delay", prepareAgain).Msg("waiting for nats")
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(prepareAgain):
		}
	}
}

const (
	// prepareAgain is the wait between two tries to open the store.
	prepareAgain = 2 * time.Second
	// complainEvery is how often a reason that stays the same is told.
	complainEvery = 30 * time.Second
)

// tryOpen opens the store once. The seal keys are checked first, before anything is changed: with
// wrong keys a refresher would overwrite what it can't read. Mirrors are compared before anything
// is stored, because a mirror that is ahead of its stream would not take what comes.
func (d *data) tryOpen(ctx context.Context, ready func(context.Context) error) (*store.Store, error) {
	// One try may end in the middle of a stream or of raising a bucket. The next one goes on where
	// it was.
	opening := ctx
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if !d.nc.IsConnected() {
		return nil, errors.New("not connected")
	}
	if err := store.CheckSeal(ctx, d.js, d.seal); err != nil && !errors.Is(err, store.ErrUnreadable) {
		return nil, err // before anything is changed
	}
	if err := ready(ctx); err != nil {
		return nil, err
	}
	// Before anything is stored that services would not hear of.
	switch err := streams.Raise(ctx, d.nc, d.js, d.mirrors.setupConfig()); {
	case errors.Is(err, streams.ErrRaising):
		return nil, err
	case err != nil:
		d.log.Warn().Err(err).Msg("failed to compare mirrors with their streams")
	}
	// With time of its own: an account of services that does not answer has used up the other.
	opening, cancel = context.WithTimeout(opening, callTimeout)
	defer cancel()
	return store.Open(opening, d.nc, d.js, d.seal, d.step)
}

// setup makes the streams.
//
// Any number of refreshers may start at once: a stream that is there is brought to the settings of
// the process that asks last.
func (d *data) setup(ctx context.Context) error {
	d.mirrors.findServices(ctx)
	created, err := streams.Setup(ctx, d.nc, d.js, d.mirrors.setupConfig())
	switch {
	case len(created) == len(events.StreamNames()):
		d.log.Info().Strs("streams", created).Msg("streams created")
	case len(created) > 0: // where others were: were these deleted?
		d.log.Warn().Strs("streams", created).Msg("streams created")
	}
	return err
}

// again makes no stream: it only looks whether the one that all rests in is there again. What else
// is missing, readiness tells.
func (d *data) again(ctx context.Context) error {
	return streams.CheckIntact(ctx, d.js, d.cfg.Setup(), events.StreamTokens)
}

// watch looks after each sweep's time, and at once where a consumer ended, whether the stream is
// the one that this work began with. It returns ErrGone when it is not, for two looks in a row: one
// answer may come from a replica that is a moment behind, or from a reading that passed over records,
// which the first look has begun anew. To stop all renewals for that would be an outage of our own
// making.
//
// A look costs one question. It compares what the stream says of itself with what this process has
// seen in it and had acked, so a process that begins after the loss notices nothing.
//
// An error that is not ErrGone means only that NATS could not be asked, or that the view is being
// read again. No call is made to WeChat while that lasts (store.Prove), so there is no haste.
func (d *data) watch(ctx context.Context, opened *store.Store, view *store.View) error {
	every := time.NewTicker(d.cfg.SweepEvery)
	defer every.Stop()
	var again <-chan time.Time
	var first time.Time // of the looks at which it was gone
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		case <-d.doubts:
		case <-again:
		}
		err := opened.CheckSame(ctx, view)
		switch {
		case err == nil:
			again, first = nil, time.Time{}
		case !errors.Is(err, store.ErrGone): // it is not known
			again = time.After(lookAgainAfter)
		case first.IsZero():
			again, first = time.After(lookAgainAfter), time.Now()
		case time.Since(first) >= lookAgainAfter:
			return err
		}
	}
}

// lookAgainAfter is the time between two looks, where the first said nothing, or something bad: a
// replica may be a moment behind.
const lookAgainAfter = time.Second

// doubt has watch look now.
func (d *data) doubt() {
	select {
	case d.doubts <- struct{}{}:
	default:
	}
}
