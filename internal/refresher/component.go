package refresher

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"wxtoken"
	"wxtoken/internal/events"
	"wxtoken/internal/wechat"
)

// component is one third-party platform: its secret, and the gate that every call for it passes.
type component struct {
	appid  string
	secret wxtoken.Secret
	rate   *rate.Limiter

	mu     sync.Mutex
	paused map[wechat.API]time.Time // until when; everyAPI = all of them
	looked time.Time                // when the component's status was last looked at
}

// everyAPI stands for all calls of a component.
const everyAPI wechat.API = ""

func newComponent(c Component, perSecond float64) *component {
	return &component{
		appid: c.AppID, secret: c.AppSecret,
		rate:   rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond))),
		paused: map[wechat.API]time.Time{},
	}
}

// pause lets no call of api through until the given time.
func (c *component) pause(api wechat.API, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until.After(c.paused[api]) {
		c.paused[api] = until
	}
}

// pausedUntil returns until when no call of api may be made; a time that has passed if it may.
func (c *component) pausedUntil(api wechat.API) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := c.paused[everyAPI]; until.After(c.paused[api]) {
		return until
	}
	return c.paused[api]
}

// lookEvery bounds how often a good answer has the component's status looked at.
const lookEvery = time.Minute

// lookAgain reports whether it is time to look at the component's status.
func (c *component) lookAgain(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.looked) < lookEvery {
		return false
	}
	c.looked = now
	return true
}

// maxPause is the longest wait before a pause is looked at again: somebody may have ended it.
const maxPause = 5 * time.Minute

// pass waits for the turn of one call of api. It answers with Later while the api is paused.
func (r *Refresher) pass(ctx context.Context, c *component, api wechat.API) error {
	if left := c.pausedUntil(api).Sub(r.now()); left > 0 {
		return events.Later(jittered(min(left, maxPause)), fmt.Errorf("call %s: paused for %s", api, left.Round(time.Second)))
	}
	if err := c.rate.Wait(ctx); err != nil {
		return fmt.Errorf("call %s: wait for the rate: %w", api, err)
	}
	return nil
}

// componentToken returns a component access token that is good for a call. Without one it answers
// with Later; the component's own renewal is under way or waits for a ticket.
func (r *Refresher) componentToken(c *component) (wxtoken.Token, error) {
	e, _ := r.view.Get(wxtoken.ComponentKey(c.appid))
	if e.Token.Value.IsZero() || !r.now().Before(e.Token.ExpiresAt) {
		return wxtoken.Token{}, events.Later(jittered(componentDelay), fmt.Errorf("component %s has no valid token", c.appid))
	}
	return e.Token, nil
}

// refused deals with a component access token that WeChat refused: the component is renewed, once
// for that token however many calls it was refused to, and not again within the cool-down.
func (r *Refresher) refused(ctx context.Context, c *component, t wxtoken.Token) {
	age, cool := r.now().Sub(t.ObtainedAt), cooldown(t.ExpiresAt.Sub(t.ObtainedAt))
	if age < cool {
		r.log.Warn().Stringer("key", t.Key).Dur("age", age).Msg("new component token refused: does somebody else renew it?")
		return
	}
	due := events.Due{Key: t.Key, Generation: t.Generation, Reason: events.ReasonRefused}
	if err := r.store.MakeDue(ctx, due, fmt.Sprintf("%s/%d/refused", t.Key, t.Generation)); err != nil {
		r.log.Warn().Err(err).Stringer("key", t.Key).Msg("renewal not asked for")
	}
}
