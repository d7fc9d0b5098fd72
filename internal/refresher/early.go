package refresher

import (
	"context"
	"errors"
	"fmt"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
)

// renewRefused has a token renewed that WeChat refused to take for one of our own calls.
func (r *Refresher) renewRefused(ctx context.Context, t wxtoken.Token) (err error) {
	if t.Key.Kind == wxtoken.KindComponent {
		for range 3 {
			if err = r.noteRefused(ctx, t); !errors.Is(err, store.ErrLost) {
				break
			}
		}
		return err
	}
	outcome, err := r.replace(ctx, t, events.ReasonRefused)
	if outcome == wxtoken.OutcomeTooSoon {
		r.log.Warn().Stringer("key", t.Key).Dur("age", r.now().Sub(t.ObtainedAt)).Msg("new token refused: does another keeper renew it?")
	}
	return err
}

// noteRefused stores that WeChat refused the component token t, and asks for the next one.
func (r *Refresher) noteRefused(ctx context.Context, t wxtoken.Token) error {
	cred, err := r.store.Credential(ctx, t.Key)
	now := r.now()
	if err != nil || cred.RefusedAlready(t.Generation) {
		return err // it is replaced, or another refresher was refused first
	}
	if cred.ClaimedAt(now) {
		return nil // it is being replaced
	}
	cred, wait := cred.TokenRefused(t, now)
	early := cred.Refused.Early
	if cred, err = r.store.Save(ctx, cred); err != nil {
		return fmt.Errorf("note that the component token was refused: %w", err)
	}
	log := r.log.Warn().Stringer("key", t.Key).Dur("age", now.Sub(t.ObtainedAt)).Int("early", early).Dur("delay", wait)
	if early > 1 {
		log.Msg("new token refused: does another keeper renew it?")
	} else {
		log.Msg("component token refused, renewing it")
	}
	due := events.Due{Key: t.Key, Generation: cred.Generation, Reason: events.ReasonRefused}
	return r.store.MakeDue(ctx, due, fmt.Sprintf("%s/%d/%s", t.Key, cred.Revision, events.ReasonRefused))
}
