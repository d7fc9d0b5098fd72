package refresher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"wxtoken"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// component is one third-party platform: its secret, and the gate that every call for it passes.
type component struct {
	appid string
	rate  *rate.Limiter      // for all calls
	hurry *rate.Limiter      // for those that somebody waits for: they don't queue up behind renewals
	full  rate.Limit         // of rate, while WeChat does not complain
	quota func() store.Quota // what all refreshers know of the day's calls
	guard guard

	mu      sync.Mutex
	secret  wxtoken.Secret
	calls   map[string]int           // by API, since they were last added to the shared count
	slow    time.Time                // until when rate is halved
	paused  map[wechat.API]time.Time // until when; everyAPI = all of them
	looked  time.Time                // when the component's status was last looked at
	silent  int                      // calls in a row that WeChat did not answer, or only with "busy"
	unheard map[string]bool          // whom those calls were about: the first few accounts, or APIs
	probe   time.Time                // while WeChat seems to be away: when the next call may be made
	late    string                   // what the status says of tickets that stay away; the sweep's own
	warned  bool                     // that the guard is closed
	waiting time.Time                // since when accounts wait for WeChat's list; zero while none does
	greeted bool                     // the sweep's own
	lost    bool                     // something of what rested in NATS, and WeChat's list was not asked yet what; the sweep's own
}

// everyAPI stands for all calls of a component.
const everyAPI wechat.API = ""

func newComponent(c Component, perSecond float64, quota func() store.Quota) *component {
	limiter := func() *rate.Limiter { return rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond))) }
	return &component{
		appid: c.AppID, secret: c.AppSecret, quota: quota,
		rate: limiter(), hurry: limiter(), full: rate.Limit(perSecond),
		paused: map[wechat.API]time.Time{}, calls: map[string]int{}, unheard: map[string]bool{},
	}
}

// appSecret returns the component's secret as it is now.
func (c *component) appSecret() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.secret.Reveal()
}

// setSecret gives the component another secret. Calls that were refused for the old one may be made again.
func (c *component) setSecret(secret wxtoken.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.secret != secret {
		c.secret = secret
		delete(c.paused, everyAPI)
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

// resume ends a pause.
func (c *component) resume(api wechat.API) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.paused, api)
}

// pausedUntil returns until when no call of api may be made; a time that has passed if it may.
func (c *component) pausedUntil(api wechat.API) time.Time {
	daily := c.quota().Paused[string(api)]
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.MaxFunc([]time.Time{daily, c.paused[everyAPI], c.paused[api]}, time.Time.Compare)
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

// heldBack reports whether any call is paused that is made to keep tokens, or refusals are not believed.
func (c *component) heldBack(now time.Time) bool {
	for api, until := range c.quota().Paused {
		if !aside(wechat.API(api)) && until.After(now) {
			return true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.warned {
		return true
	}
	for api, until := range c.paused {
		if !aside(api) && until.After(now) {
			return true
		}
	}
	return false
}

const (
	// maxPause is the longest wait before a pause is looked at again.
	maxPause = 5 * time.Minute
	// awayAfter is how many calls in a row must fail for WeChat to count as away, and awayFrom how many accounts, or
	// APIs that are about none, they must be about: one account that is always answered "busy" is its own trouble.
	awayAfter = 5
	awayFrom  = 3
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
	if !c.away() {
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
	return c.away()
}

// away is seemsAway for who holds c.mu.
func (c *component) away() bool { return c.silent >= awayAfter && len(c.unheard) >= awayFrom }

// held returns how long a call of api would be held back, without asking for its turn; 0 if it would not be.
func (c *component) held(api wechat.API, now time.Time) time.Duration {
	if left := c.pausedUntil(api).Sub(now); left > 0 {
		return min(left, maxPause)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := c.probe.Sub(now); c.away() && left > 0 {
		return left
	}
	return 0
}

// listWantedSince returns since when accounts wait for WeChat's list; zero if none does.
func (c *component) listWantedSince() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting
}

// wantList notes that accounts wait for WeChat's list from now on. It reports whether none did so far.
func (c *component) wantList(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.waiting.IsZero() {
		return false
	}
	c.waiting = now
	return true
}

// wantNoList notes that no account waits for WeChat's list any more.
func (c *component) wantNoList() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = time.Time{}
}

// slowDown halves the rate for a while: WeChat said that there were too many calls in this minute.
func (c *component) slowDown(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow = now.Add(slowFor)
	c.rate.SetLimit(c.full / 2)
	c.hurry.SetLimit(c.full / 2)
}

// called counts a call that is made now, and ends a slow time that is over.
func (c *component) called(api wechat.API, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[string(api)]++
	if !c.slow.IsZero() && now.After(c.slow) {
		c.slow = time.Time{}
		c.rate.SetLimit(c.full)
		c.hurry.SetLimit(c.full)
	}
}

// takeCalls returns the calls that are not in the shared count yet, and takes them for added.
func (c *component) takeCalls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.calls
	c.calls = map[string]int{}
	return taken
}

// giveCalls takes back what takeCalls gave, because it could not be added.
func (c *component) giveCalls(calls map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for api, n := range calls {
		c.calls[api] += n
	}
}

// heard notes how a call about an account, or an API that is about none, ended. While WeChat is away each caller waits for
// the one that probes, instead of counting failures of its own: when it is back, all come at once and none comes late.
func (c *component) heard(about string, err error, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !silent(err) {
		c.silent = 0
		clear(c.unheard)
		return
	}
	before := c.away()
	c.silent++
	if len(c.unheard) < awayFrom {
		c.unheard[about] = true
	}
	if !before && c.away() {
		c.probe = now.Add(probeEvery)
	}
}

// silent reports whether a call brought no answer, or none but "busy" (-1, -1000).
func silent(err error) bool {
	var e *wechat.Error
	return err != nil && (!errors.As(err, &e) || e.Code == 0 || e.Code == -1 || e.Code == -1000)
}

// heard notes how a call about an account, "" if about none, ended. A refusal that the next call would meet too holds those
// calls back, whoever makes them; one that a person has to put right stands in the component's status.
func (r *Refresher) heard(ctx context.Context, c *component, account string, err error) {
	now := r.now()
	c.heard(cmp.Or(account, string(errAPI(err))), err, now)
	if err == nil || errAPI(err).OfAccount() {
		return // what an account's own quota and permissions don't allow is no concern of the others
	}
	switch wechat.Judge(err) {
	case wechat.SlowDown:
		c.pause(errAPI(err), now.Add(slowDown))
		c.slowDown(now)
		return
	case wechat.QuotaGone:
		r.quotaGone(ctx, c, errAPI(err), now)
		if aside(errAPI(err)) {
			return
		}
	case wechat.Operator:
		if ofAccount(err) || aside(errAPI(err)) && !ofComponent(err) {
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

// pass waits for the turn of one call of api. It answers with Later while none may be made. A call that somebody
// waits for, a merchant say, takes its turn from the others and waits only for its like.
func (r *Refresher) pass(ctx context.Context, c *component, api wechat.API) error {
	if wait := c.wait(api, r.now()); wait > 0 {
		return events.Later(jittered(wait), fmt.Errorf("call %s: held back for %s", api, wait.Round(time.Second)))
	}
	limiter := c.rate
	if slices.Contains(hurried, api) {
		c.rate.Reserve()
		limiter = c.hurry
	}
	if err := limiter.Wait(ctx); err != nil {
		return fmt.Errorf("call %s: wait for the rate: %w", api, err)
	}
	// A call whose answer can't be stored may end a token that services still use, and brings them no other.
	if err := r.store.Proof(ctx); err != nil {
		return events.Later(jittered(r.heldDelay()), fmt.Errorf("call %s: NATS stores nothing now: %w", api, err))
	}
	return nil
}

// calling counts a call that is made now. Not every turn is used: somebody else may have been faster.
func (r *Refresher) calling(c *component, api wechat.API) {
	c.called(api, r.now())
	r.metrics.calls.WithLabelValues(c.appid, string(api)).Inc()
}

// hurried are the calls that somebody waits for, or everybody.
var hurried = []wechat.API{wechat.APIComponentToken, wechat.APIQueryAuth, wechat.APICreatePreAuthCode, wechat.APIAuthorizerInfo, wechat.APICustomSend,
	wechat.APIQuotaGet, wechat.APIClearQuota}

// aside reports whether an API is one without which every token can be kept: what becomes of its calls is for those who make them.
func aside(api wechat.API) bool {
	return api == wechat.APIStartPushTicket || api == wechat.APIQuotaGet || api == wechat.APIClearQuota
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

// refused deals with a token that WeChat refused to take for one of our own calls.
func (r *Refresher) refused(ctx context.Context, t wxtoken.Token) {
	switch outcome, err := r.replace(ctx, t, events.ReasonRefused); {
	case err != nil:
		r.log.Warn().Err(err).Stringer("key", t.Key).Msg("renewal not asked for")
	case outcome == wxtoken.RejectTooSoon:
		r.log.Warn().Stringer("key", t.Key).Dur("age", r.now().Sub(t.ObtainedAt)).Msg("new token refused: does somebody else renew it?")
	}
}
