package refresher

import (
	"context"
	"fmt"
	"time"

	"wxtoken"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// sweeper looks for renewals that were missed until ctx ends. A schedule makes a renewal punctual,
// the sweep makes it certain.
func (r *Refresher) sweeper(ctx context.Context) {
	t := time.NewTicker(r.cfg.SweepEvery)
	defer t.Stop()
	for {
		r.sweep(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// sweep makes every key due that should have been renewed and that nobody is at.
func (r *Refresher) sweep(ctx context.Context) {
	now := r.now()
	missed := 0
	for key, e := range r.view.All() {
		if ctx.Err() != nil {
			return
		}
		c, ok := r.components[key.Component]
		if !ok {
			continue
		}
		if !overdue(e, now, r.cfg.SweepEvery) || r.held(c, key) > 0 {
			continue
		}
		due := events.Due{Key: key, Generation: e.Credential.Generation, Reason: events.ReasonSwept}
		// Many sweepers make one due message.
		id := fmt.Sprintf("%s/%d/sweep", key, e.Credential.Generation)
		if err := r.store.MakeDue(ctx, due, id); err != nil {
			r.log.Warn().Err(err).Stringer("key", key).Msg("sweep failed")
			return
		}
		missed++
	}
	if missed > 0 {
		r.metrics.missed.Add(float64(missed))
		r.log.Warn().Int("keys", missed).Msg("missed renewals found")
	}
	r.metrics.swept.SetToCurrentTime()
	r.mu.Lock()
	r.swept = now
	r.mu.Unlock()
	for key, e := range r.view.All() {
		if c, ok := r.components[key.Component]; ok && ctx.Err() == nil {
			r.tellExpired(ctx, c, key, e, now)
		}
	}
	for _, c := range r.components {
		r.watchTickets(ctx, c)
	}
}

// silence is how long no ticket may come before WeChat is asked to push them: they come every 10
// minutes ("component_verify_ticket").
const silence = 25 * time.Minute

// watchTickets asks WeChat to push tickets when none came for a while.
func (r *Refresher) watchTickets(ctx context.Context, c *component) {
	own, _ := r.view.Get(wxtoken.ComponentKey(c.appid))
	last := own.Credential.TicketReceivedAt
	if last.Before(r.began) {
		last = r.began // they may have come while nobody was here
	}
	if r.now().Sub(last) > silence {
		r.startPush(ctx, c)
	}
}

// tellExpired has the status say that a token is dead, once for each token: whatever kept the next
// one away, the key is not active.
func (r *Refresher) tellExpired(ctx context.Context, c *component, key wxtoken.Key, e store.Entry, now time.Time) {
	if e.Token.Value.IsZero() || now.Before(e.Token.ExpiresAt) || !e.Credential.Renewable() || r.dead[key] == e.Token.Generation {
		return
	}
	if err := r.writeStatus(ctx, key, expired(now)); err != nil {
		r.log.Warn().Err(err).Stringer("key", key).Msg("status not written")
		return
	}
	r.dead[key] = e.Token.Generation
	// The view may lag: should the next token have come meanwhile, that is the newer news.
	if t, ok, err := r.store.Token(ctx, key); err == nil && ok && now.Before(t.ExpiresAt) {
		r.setStatus(ctx, key, c.working(key, now))
	}
}

// overdue reports whether a key should have been renewed longer than grace ago.
func overdue(e store.Entry, now time.Time, grace time.Duration) bool {
	if !e.Credential.Renewable() || e.Credential.ClaimedAt(now) {
		return false
	}
	latest := e.Token.RenewAt
	if e.Credential.RetryAt.After(latest) {
		latest = e.Credential.RetryAt
	}
	return now.After(latest.Add(grace))
}

// held returns how long a renewal of key would have to wait for something that concerns all keys of its
// component; 0 if it would not. It looks at nothing but this process's memory: there may be a hundred
// thousand keys that wait.
func (r *Refresher) held(c *component, key wxtoken.Key) time.Duration {
	if key.Kind == wxtoken.KindComponent {
		return c.held(wechat.APIComponentToken, r.now())
	}
	if _, err := r.componentToken(c); err != nil {
		// The more wait, the longer each: together they ask a few hundred times a second at most.
		return max(heldDelay, time.Duration(r.view.Len())*time.Second/heldRate)
	}
	return c.held(wechat.APIAuthorizerToken, r.now())
}
