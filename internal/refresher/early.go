package refresher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
)

// A token may die before its time: WeChat refuses it with 40001, 40014 or 42001, because another
// program fetched one for the same key, say. Then it has to be replaced, once, however many calls
// and services find out. And not again and again: each new token ends the one before, so two
// keepers that answer each refusal with a renewal would keep each other's tokens dead, and burn the
// day's quota.

// early has tokens replaced before their time. It asks WeChat nothing: it makes due messages, and
// keeps count in the records, which all refreshers share.
type early struct {
	store *store.Store
	log   zerolog.Logger
	now   func() time.Time
}

// replaceRefused has a token renewed that WeChat refused to take for one of our own calls.
//
// For a component's token it is noted in the record first, so that no refresher makes another call
// with it; the compare-and-set is tried again, for a ticket that comes in between changes the
// record, too. For an account's token the same rules hold as for a report by a service.
//
// Three tries are enough: what changes a component's record is a ticket, each ten minutes, or
// another refresher that was refused or renews, and then there is nothing left to do.
func (e *early) replaceRefused(ctx context.Context, t wxtoken.Token) (err error) {
	if account.KindOf(t.Key).OfComponent {
		for range 3 {
			if err = e.noteRefusal(ctx, t); !errors.Is(err, store.ErrLost) {
				break
			}
		}
		return err
	}
	outcome, err := e.replace(ctx, t, events.ReasonRefused, "")
	if outcome == wxtoken.OutcomeTooSoon {
		e.log.Warn().Stringer("key", t.Key).Dur("age", e.now().Sub(t.ObtainedAt)).Msg("new token refused: does another keeper renew it?")
	}
	return err
}

// noteRefusal stores that WeChat refused the component token t, and asks for the next one.
func (e *early) noteRefusal(ctx context.Context, t wxtoken.Token) error {
	cred, err := e.store.Credential(ctx, t.Key)
	now := e.now()
	if err != nil || cred.RefusedAlready(t.Generation) {
		return err // it is replaced, or another refresher was refused first
	}
	// The claim would be lost by a write here, and with it the token that mends all.
	if cred.ClaimedAt(now) {
		return nil // it is being replaced
	}
	cred, wait := cred.TokenRefused(t, now)
	count := cred.Refused.Early
	if cred, err = e.store.Save(ctx, cred); err != nil {
		return fmt.Errorf("note that the component token was refused: %w", err)
	}
	log := e.log.Warn().Stringer("key", t.Key).Dur("age", now.Sub(t.ObtainedAt)).Int("early", count).Dur("delay", wait)
	if count > 1 {
		log.Msg("new token refused: does another keeper renew it?")
	} else {
		log.Msg("component token refused, renewing it")
	}
	// After the record: a refresher that dies in between leaves a component whose token counts as
	// refused, which the sweep takes for overdue from then on.
	due := events.Due{Key: t.Key, Generation: cred.Generation, Reason: events.ReasonRefused}
	return e.store.MakeDue(ctx, due, fmt.Sprintf("%s/%d/%s", t.Key, cred.Revision, events.ReasonRefused))
}

// replace has the token t of a key replaced before its time, where the account lets it: not twice
// for the same token, not while it is new, and not more often in a day than WeChat bears. by is the
// service that reported it, as far as that is known.
//
// Services report in crowds: of all reports of one token the first makes the due message, and the
// message id, which holds the record's revision, makes one of those that come at the same time.
//
// Whether it is asked for by a person or by a refusal makes a difference to one rule only: a person
// need not wait while the last renewals failed, since it may be known by now why they did.
func (e *early) replace(ctx context.Context, t wxtoken.Token, reason, by string) (wxtoken.Outcome, error) {
	cred, err := e.store.Credential(ctx, t.Key)
	if err != nil {
		return "", err
	}
	outcome, underWay := cred.Replaceable(t, reason != events.ReasonRefused, e.now())
	switch {
	case outcome == wxtoken.OutcomeTooSoon && cred.ForcedOften(e.now()):
		e.log.Warn().Stringer("key", t.Key).Int("renewals", cred.Forced).Msg("too many renewals asked for today")
		return outcome, nil
	case outcome != wxtoken.OutcomeRenewing || underWay:
		return outcome, nil
	}
	due := events.Due{Key: t.Key, Generation: cred.Generation, Reason: reason, By: by, Revision: cred.Revision}
	// The revision stands in the id, so that who asks again after a failure is heard again.
	if err := e.store.MakeDue(ctx, due, fmt.Sprintf("%s/%d/%s", t.Key, cred.Revision, reason)); err != nil {
		return "", err
	}
	return wxtoken.OutcomeRenewing, nil
}
