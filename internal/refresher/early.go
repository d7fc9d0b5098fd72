package refresher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// ownToken returns the component's newest token that is known here, and whether WeChat refused it.
func (r *Refresher) ownToken(c *component) (t wxtoken.Token, refused bool) {
	view := r.knownView()
	seen := view.Seen() // before the look
	e, _ := view.Get(wxtoken.ComponentKey(c.appid))
	c.mu.Lock()
	defer c.mu.Unlock()
	if t = e.Token; seen <= c.newest.Revision {
		t = c.newest // the view is a moment behind
	}
	known := c.refusedGeneration
	if e.Credential.Refused != nil {
		known = max(known, e.Credential.Refused.Generation)
	}
	return t, known > 0 && known >= t.Generation
}

// componentRefused deals with a component token that WeChat refused to take: nothing more is called with it, and one renewal
// is asked for, however many calls were refused and by whichever refresher. WeChat's word need not be true for long, and so it is not
// asked whether the token is too young; the younger it is, and the more often that happened, the later is the next one.
func (r *Refresher) componentRefused(ctx context.Context, c *component, t wxtoken.Token) {
	c.mu.Lock()
	news := c.refusedGeneration < t.Generation
	c.refusedGeneration = max(c.refusedGeneration, t.Generation)
	c.mu.Unlock()
	if !news {
		return
	}
	if r.takenElsewhere(ctx, c, t) {
		c.mu.Lock()
		c.refusedGeneration = min(c.refusedGeneration, t.Generation-1)
		c.mu.Unlock()
		r.log.Warn().Stringer("key", t.Key).Msg("component token refused in one call and taken in another, kept")
		return
	}
	var err error
	for range 3 {
		if err = r.noteRefused(ctx, t); !errors.Is(err, store.ErrLost) {
			break
		}
	}
	if err != nil {
		c.mu.Lock()
		c.refusedGeneration = t.Generation - 1 // the next refusal asks again
		c.mu.Unlock()
		r.log.Warn().Err(err).Stringer("key", t.Key).Msg("failed to ask for a renewal")
	}
	r.tellHolds(ctx, c)
}

// takenElsewhere reports whether WeChat takes a component token that it refused in one call. Where that happens again within the life of a
// token it may be about that call's account alone, and all others would wait, longer each time, for a renewal that changes nothing. So a call
// about no account is made; its word counts for probeEvery.
func (r *Refresher) takenElsewhere(ctx context.Context, c *component, t wxtoken.Token) bool {
	now := r.now()
	own, _ := r.view.Get(t.Key)
	if last := own.Credential.Refused; last == nil || now.Sub(last.At) > t.ExpiresAt.Sub(t.ObtainedAt) {
		return false
	}
	c.mu.Lock()
	before := c.taken
	c.mu.Unlock()
	if age := now.Sub(before); age >= 0 && age < probeEvery {
		return true
	}
	if r.pass(ctx, c, wechat.APIQuotaGet) != nil {
		return false
	}
	r.calling(c, wechat.APIQuotaGet)
	_, err := r.wx.Quota(ctx, t.Value.Reveal(), wechat.APIAuthorizerToken)
	r.heard(ctx, c, wechat.APIQuotaGet, "", err)
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = now
	return true
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
		log.Msg("new token refused: does somebody else renew it?")
	} else {
		log.Msg("component token refused, renewing it")
	}
	due := events.Due{Key: t.Key, Generation: cred.Generation, Reason: events.ReasonRefused}
	return r.store.MakeDue(ctx, due, fmt.Sprintf("%s/%d/%s", t.Key, cred.Revision, events.ReasonRefused))
}

// fought reports whether another keeper seems to renew for the same component: two tokens in a row were refused early, and the
// newest has not outlived that age yet.
func fought(last *account.Refused, newest wxtoken.Token, now time.Time) bool {
	return last != nil && last.Early > 1 && now.Sub(newest.ObtainedAt) < newest.ExpiresAt.Sub(newest.ObtainedAt)/10
}

// anotherKeeper adds to a hold that another keeper may be the cause, where it looks like that.
func anotherKeeper(h store.Hold, last *account.Refused) store.Hold {
	if last != nil && last.Early > 1 {
		h.Message = fmt.Sprintf("WeChat refused %d new tokens of the component in a row: does another keeper renew it? Each renewal ends the token of the other", last.Early)
	}
	return h
}
