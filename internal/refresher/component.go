package refresher

import (
	"context"
	"errors"
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
	silent int                      // calls in a row that WeChat did not answer, or only with "busy"
	probe  time.Time                // while WeChat seems to be away: when the next call may be made
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

// heldBack reports whether any call is paused that is made to keep tokens.
func (c *component) heldBack(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for api, until := range c.paused {
		if api != wechat.APIStartPushTicket && until.After(now) {
			return true
		}
	}
	return false
}

const (
	// maxPause is the longest wait before a pause is looked at again.
	maxPause = 5 * time.Minute
	// awayAfter is how many calls in a row must fail for WeChat to count as away.
	awayAfter = 5
	// probeEvery is how often one call is made then, to see whether it is back.
	probeEvery = 10 * time.Second
)

// wait returns how long no call of api may be made; 0 if one may. A caller that got 0 while WeChat
// is away is the one that finds out whether it is back.
func (c *component) wait(api wechat.API, now time.Time) time.Duration {
	if left := c.pausedUntil(api).Sub(now); left > 0 {
		return min(left, maxPause)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent < awayAfter {
		return 0
	}
	if left := c.probe.Sub(now); left > 0 {
		return left
	}
	c.probe = now.Add(probeEvery)
	return 0
}

// seemsAway reports whether WeChat has not answered for a while.
func (c *component) seemsAway() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.silent >= awayAfter
}

// held returns how long a call of api would be held back, without asking for its turn; 0 if it would not be.
func (c *component) held(api wechat.API, now time.Time) time.Duration {
	if left := c.pausedUntil(api).Sub(now); left > 0 {
		return min(left, maxPause)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := c.probe.Sub(now); c.silent >= awayAfter && left > 0 {
		return left
	}
	return 0
}

// heard notes how a call ended. While WeChat is away each caller waits for the one that probes,
// instead of counting failures of its own: when it is back, all come at once and none comes late.
func (c *component) heard(err error, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !silent(err) {
		c.silent = 0
		return
	}
	c.silent++
	if c.silent == awayAfter {
		c.probe = now.Add(probeEvery)
	}
}

// silent reports whether a call brought no answer, or none but "busy" (-1, -1000).
func silent(err error) bool {
	var e *wechat.Error
	return err != nil && (!errors.As(err, &e) || e.Code == 0 || e.Code == -1 || e.Code == -1000)
}

// heard notes how a call ended. A refusal that the next call would meet too holds those calls back,
// whoever makes them; one that a person has to put right stands in the component's status.
func (r *Refresher) heard(ctx context.Context, c *component, err error) {
	now := r.now()
	c.heard(err, now)
	if err == nil {
		return
	}
	switch wechat.Judge(err) {
	case wechat.SlowDown:
		c.pause(errAPI(err), now.Add(slowDown))
		return
	case wechat.QuotaGone:
		c.pause(errAPI(err), nextDay(now))
	case wechat.Operator:
		if ofAccount(err) {
			return // the others must not wait for it
		}
		if errAPI(err) != wechat.APIComponentToken {
			c.pause(everyAPI, now.Add(retryAfter[len(retryAfter)-1]))
		}
	default:
		return
	}
	r.setStatus(ctx, wxtoken.ComponentKey(c.appid), operator(now, err))
}

// pass waits for the turn of one call of api. It answers with Later while none may be made.
func (r *Refresher) pass(ctx context.Context, c *component, api wechat.API) error {
	if wait := c.wait(api, r.now()); wait > 0 {
		return events.Later(jittered(wait), fmt.Errorf("call %s: held back for %s", api, wait.Round(time.Second)))
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
