package gate

import (
	"slices"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

const (
	// MaxPause is the longest wait before a pause is looked at again: it may be over any time, a
	// quota cleared.
	MaxPause = 10 * time.Second
	// awayAfter is how many calls in a row must fail for WeChat to count as away, and awayFrom how
	// many accounts, or APIs that are about none, they must be about: one account that is always
	// answered "busy" is its own trouble.
	awayAfter = 5
	awayFrom  = 3
	// ProbeEvery is how often one call is made then, to see whether it is back.
	ProbeEvery = 10 * time.Second
	// slowFor is how long calls are made half as often after that.
	slowFor = 10 * time.Minute
	// refusedFor is how long no call is made after a refusal that all would meet: it is tried again
	// once a minute.
	refusedFor = time.Minute
)

// Why no call may be made.
var (
	callsRefused = lang.T("WeChat refuses the component's calls", "微信拒绝该第三方平台的调用")
	tooManyCalls = lang.T("too many calls in a minute, or in the day", "这一分钟或当天的调用次数已到上限")
	weChatAway   = lang.T("WeChat does not answer", "微信没有应答")
)

// pause lets no call of api through until the given time. A shorter pause ends no longer one.
func (g *Gate) pause(api wechat.API, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until.After(g.paused[api]) {
		g.paused[api] = until
	}
}

// resume ends a pause.
func (g *Gate) resume(api wechat.API) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.paused, api)
	delete(g.own, holdKey(wxtoken.HeldQuota, api))
}

// closed returns until when no call of api may be made, and why; a time that has passed if one may.
//
// Of several reasons it is the one that lasts longest, but for WeChat that is away: its probe is a
// matter of seconds and moves on, and is looked at only where nothing else closes the gate. A call
// whose quota is gone is no probe: its refusal would be an answer, and WeChat back, only because it
// was asked for something that it refuses.
func (g *Gate) closed(api wechat.API, now time.Time) (until time.Time, why lang.Text) {
	until, why = g.Shared().Paused[string(api)], quotaIsGone
	g.mu.Lock()
	defer g.mu.Unlock()
	if all := g.paused[everyAPI]; all.After(until) {
		until, why = all, callsRefused
	}
	if own := g.paused[api]; own.After(until) {
		until, why = own, tooManyCalls
	}
	if g.away() && !until.After(now) {
		until, why = g.probe, weChatAway
	}
	return until, why
}

// NotBefore tells a person who asked for a call of api, or for a token that it brings, until when
// it is held back, and why; the zero time if it is not. A wait of up to patience is none.
func (g *Gate) NotBefore(api wechat.API, patience time.Duration) (until time.Time, why lang.Text) {
	now := g.p.Now()
	until, why = g.closed(api, now)
	g.mu.Lock()
	own := g.own[holdKey(wxtoken.HeldQuota, api)]
	g.mu.Unlock()
	if own.Until.After(until) && now.Sub(own.SeenAt) <= quotaBridge { // it was met here a moment ago, and is not in the view yet
		until, why = own.Until, quotaIsGone
	}
	if patience > 0 && until.Sub(now) < patience {
		return time.Time{}, lang.Text{}
	}
	_, err := g.componentMeans() // which each account's next token takes, and its tickets
	if err != nil && !until.After(now) && api != wechat.APIComponentToken {
		until, why = now.Add(tokenDelay), lang.Of(err)
		// What holds back another call, the quota of the accounts' renewals above all, is not what the token waits for.
		holds := slices.DeleteFunc(g.Holds(), func(h store.Hold) bool {
			return slices.Contains([]wxtoken.Reason{wxtoken.HeldQuota, wxtoken.HeldMinuteLimit, wxtoken.HeldListFirst}, h.Reason) &&
				h.API != string(wechat.APIComponentToken)
		})
		if len(holds) > 0 {
			why = Message(holds, now)
			if later := holds[0].Until; later.After(until) {
				until = later
			}
		}
	}
	if !until.After(now) {
		return time.Time{}, lang.Text{}
	}
	return until, why
}

// wait returns how long no call of api may be made; 0 if one may. While WeChat is away the caller
// that gets 0 is the one that finds out whether it is back: between the look whether the gate is
// closed and the lock another may have taken the probe, so it is asked once more.
func (g *Gate) wait(api wechat.API, now time.Time) time.Duration {
	if until, _ := g.closed(api, now); until.After(now) {
		return min(until.Sub(now), MaxPause)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.away() {
		return 0
	}
	if left := g.probe.Sub(now); left > 0 {
		return left // another was faster
	}
	// Taken: should this caller never ask WeChat, another does after the same time.
	g.probe = now.Add(ProbeEvery)
	return 0
}

// Away reports whether WeChat has not answered for a while.
func (g *Gate) Away() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.away()
}

// away is Away for a caller that holds g.mu.
func (g *Gate) away() bool { return g.silent >= awayAfter && len(g.unheard) >= awayFrom }

// hear notes whether WeChat answered a call about an account, or one of an API that is about none.
// While WeChat is away each caller waits for the one that probes, instead of counting failures of
// its own: when it is back, all come at once and none comes late.
func (g *Gate) hear(about string, err error, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !silent(err) {
		g.silent = 0
		clear(g.unheard)
		delete(g.own, holdKey(wxtoken.HeldAway, everyAPI))
		return
	}
	before := g.away()
	g.silent++
	if len(g.unheard) < awayFrom {
		g.unheard[about] = true
	}
	if !before && g.away() {
		g.probe = now.Add(ProbeEvery) // later on each probe sets the time of the next
	}
	if g.away() {
		g.hold(everyAPI, store.Hold{Reason: wxtoken.HeldAway, Until: g.probe, Message: "WeChat does not answer", Error: account.LastError(now, err), SeenAt: now})
	}
}

// halve halves the rate for a while: WeChat said that there were too many calls in this minute. The
// call that it said so of rests for the minute; the rate is for what comes after, when all that
// waited would come at once. Each complaint begins the time anew, and does not halve what is
// halved.
func (g *Gate) halve(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.slow = now.Add(slowFor)
	g.rate.SetLimit(g.full / 2)
	g.urgent.SetLimit(g.full / 2)
}

// count counts a call that is made now, and ends a slow time that is over. No timer does: while no
// call is made, none is too many.
func (g *Gate) count(api wechat.API, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls[string(api)]++
	if !g.slow.IsZero() && now.After(g.slow) {
		g.slow = time.Time{}
		g.rate.SetLimit(g.full)
		g.urgent.SetLimit(g.full)
	}
}
