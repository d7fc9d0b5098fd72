package refresher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/settings"
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
	silent  int                      // calls in a row that WeChat did not answer, or only with "busy"
	unheard map[string]bool          // whom those calls were about: the first few accounts, or APIs
	probe   time.Time                // while WeChat seems to be away: when the next call may be made
	late    string                   // what the status says of tickets that stay away; the sweep's own
	warned  bool                     // that the guard is closed
	own     map[string]store.Hold    // what holds calls of this process back, by reason and API
	// refusedGeneration is the newest generation of the component's token that WeChat refused, as far as this process knows.
	refusedGeneration uint64
	taken             time.Time // when WeChat took the component's token last, after it had refused it in another call

	told        string        // the reasons that the log tells of
	empty       int           // answers in a row of api_component_token that had no body
	newest      wxtoken.Token // the component's newest token that this process stored, with its credential's revision
	ticket      time.Time     // when the newest ticket was created that this process knows to be there
	waiting     time.Time     // since when accounts wait for WeChat's list; zero while none does
	greeted     bool          // the sweep's own
	quotaLooked time.Time     // when it was asked last what is left of a quota that is gone; the sweep's own
	lost        bool          // something of what rested in NATS, and WeChat's list was not asked yet what; the sweep's own
}

// everyAPI stands for all calls of a component.
const everyAPI wechat.API = ""

func newComponent(c settings.Component, perSecond float64, quota func() store.Quota) *component {
	limiter := func() *rate.Limiter { return rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond))) }
	return &component{
		appid: c.AppID, secret: c.AppSecret, quota: quota,
		rate: limiter(), hurry: limiter(), full: rate.Limit(perSecond),
		paused: map[wechat.API]time.Time{}, calls: map[string]int{}, unheard: map[string]bool{}, own: map[string]store.Hold{},
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
		maps.DeleteFunc(c.own, func(_ string, h store.Hold) bool { return h.Reason == wxtoken.HeldRefused })
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
	delete(c.own, holdKey(wxtoken.HeldQuota, api))
}

// closed returns until when no call of api may be made, and why; a time that has passed if it may.
func (c *component) closed(api wechat.API, now time.Time) (until time.Time, why string) {
	until, why = c.quota().Paused[string(api)], "the day's quota is gone"
	c.mu.Lock()
	defer c.mu.Unlock()
	if all := c.paused[everyAPI]; all.After(until) {
		until, why = all, "WeChat refuses the component's calls"
	}
	if own := c.paused[api]; own.After(until) {
		until, why = own, "too many calls in a minute, or in the day"
	}
	if c.away() && !until.After(now) {
		until, why = c.probe, "WeChat does not answer"
	}
	return until, why
}

const (
	// maxPause is the longest wait before a pause is looked at again: it may be over any time, a quota cleared.
	maxPause = 10 * time.Second
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
	if left := c.held(api, now); left > 0 {
		return min(left, maxPause)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.away() {
		return 0
	}
	if left := c.probe.Sub(now); left > 0 { // another was faster
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
	until, _ := c.closed(api, now)
	return max(until.Sub(now), 0)
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

// forget drops what this process knows of records: the data of NATS may be others now.
func (c *component) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest, c.ticket, c.refusedGeneration, c.waiting = wxtoken.Token{}, time.Time{}, 0, time.Time{}
}

// knowTicket notes that a ticket is there.
func (c *component) knowTicket(created time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if created.After(c.ticket) {
		c.ticket = created
	}
}

// knowToken notes the component's newest token, which was stored right after the credential of that revision.
func (c *component) knowToken(t wxtoken.Token, revision uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Key.Kind == wxtoken.KindComponent && revision > c.newest.Revision {
		c.newest, c.newest.Revision = t, revision
	}
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
		delete(c.own, holdKey(wxtoken.HeldAway, everyAPI))
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
	if c.away() {
		c.hold(everyAPI, store.Hold{Reason: wxtoken.HeldAway, Until: c.probe, Message: "WeChat does not answer", Error: account.LastError(now, err), SeenAt: now})
	}
}

// silent reports whether a call brought no answer, or none but "busy" (-1, -1000).
func silent(err error) bool {
	var e *wechat.Error
	return err != nil && (!errors.As(err, &e) || e.Code == 0 || e.Code == -1 || e.Code == -1000)
}

// heard notes how a call of api about an account, "" if about none, ended. A refusal that the next call would meet too holds
// those calls back, whichever process makes them, and is told for as long as it lasts; what ends it, an answer of another kind, too.
func (r *Refresher) heard(ctx context.Context, c *component, api wechat.API, account string, err error) {
	now := r.now()
	before := c.reasons()
	c.heard(cmp.Or(account, string(api)), err, now)
	if !api.OfAccount() { // what an account's own quota and permissions don't allow is no concern of the others
		r.judgeHold(ctx, c, api, err, now)
	}
	if c.reasons() != before {
		r.tellHolds(ctx, c)
	}
}

// judgeHold begins or ends what holds calls of a component back, by the answer to one.
func (r *Refresher) judgeHold(ctx context.Context, c *component, api wechat.API, err error, now time.Time) {
	c.answered(api, err, now)
	if err == nil {
		return
	}
	hold := store.Hold{Message: err.Error(), Error: account.LastError(now, err), SeenAt: now}
	switch wechat.Judge(err) {
	case wechat.SlowDown:
		c.pause(api, now.Add(slowDown))
		c.slowDown(now)
		hold.Reason, hold.Until = wxtoken.HeldMinuteLimit, now.Add(slowDown)
	case wechat.QuotaGone:
		r.quotaGone(ctx, c, api, err, now)
		return
	case wechat.WaitForTicket:
		hold.Reason = wxtoken.HeldNoTicket
	case wechat.Operator:
		if ofAccount(err) || aside(api) && !ofComponent(err) {
			return // the others must not wait for it
		}
		hold.Reason, hold.Until = wxtoken.HeldRefused, now.Add(account.RetryAfter(account.Retries))
		if api != wechat.APIComponentToken {
			c.pause(everyAPI, hold.Until)
		}
		api = refusedAPI(api, err)
	default:
		return
	}
	if !aside(api) {
		c.begin(api, hold)
	}
}

// pass waits for the turn of one call of api. It answers with Later while none may be made. A call that somebody
// waits for, a merchant say, takes its turn from the others and waits only for its like.
func (r *Refresher) pass(ctx context.Context, c *component, api wechat.API) error {
	if wait := c.wait(api, r.now()); wait > 0 {
		until, why := c.closed(api, r.now())
		return events.Later(jittered(wait), fmt.Errorf("call %s: held back until %s: %s", api, until.UTC().Format(time.RFC3339), why))
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
	err := r.store.Proof(ctx)
	r.proved(ctx, c, err)
	if err != nil {
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
	t, refused := r.ownToken(c)
	switch {
	case t.Value.IsZero() || !r.now().Before(t.ExpiresAt):
		return wxtoken.Token{}, events.Later(jittered(componentDelay), fmt.Errorf("component %s has no valid token", c.appid))
	case refused:
		return wxtoken.Token{}, events.Later(jittered(componentDelay), fmt.Errorf("component %s: WeChat refused its token, a new one is on its way", c.appid))
	}
	return t, nil
}

// refused deals with an account's token that WeChat refused to take for one of our own calls.
func (r *Refresher) refused(ctx context.Context, t wxtoken.Token) {
	switch outcome, err := r.replace(ctx, t, events.ReasonRefused); {
	case err != nil:
		r.log.Warn().Err(err).Stringer("key", t.Key).Msg("renewal not asked for")
	case outcome == wxtoken.RejectTooSoon:
		r.log.Warn().Stringer("key", t.Key).Dur("age", r.now().Sub(t.ObtainedAt)).Msg("new token refused: does somebody else renew it?")
	}
}
