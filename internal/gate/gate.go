package gate

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// Process is what the gates of one process have in common: what they look into, and whom they tell.
type Process struct {
	ID       string        // stands beside what this process met in the record that all share
	Rate     float64       // calls a second and component
	ListGood time.Duration // for how long a reading of WeChat's list counts
	WeChat   *wechat.Client
	Log      zerolog.Logger
	Now      func() time.Time
	Store    func() *store.Store // asked for each time: after the data was gone there is another one
	View     func() *store.View  // nil before it was read

	// Counted is called for each call that is made.
	Counted func(component string, api wechat.API)
	// Changed is called when what holds a component back may be something else than before. It must
	// not block for long.
	Changed func(ctx context.Context, component string)
	// Refused has a token renewed that WeChat refused in a call.
	Refused func(ctx context.Context, t wxtoken.Token) error
	// Opened is called when calls may be made again that had to wait.
	Opened func()
}

// Gate is what every call for one component goes through. All its methods may be called from
// several goroutines.
type Gate struct {
	p     *Process
	appid string
	// Calls that a person or a service waits for have a limiter of their own, so that they don't
	// queue up behind thousands of renewals. They take their turn from the renewals all the same:
	// see pass.
	rate   *rate.Limiter
	urgent *rate.Limiter
	full   rate.Limit // of both, while WeChat does not complain
	guard  guard

	quotaLooked time.Time // when it was asked last what is left of a quota that is gone; Sweep's own

	// mu guards what follows. It is held for a few lookups and never while something is asked or
	// stored: 64 handlers and the sweep, which looks at each key, go through here. What has to be
	// stored because of it is stored after it was let go, and may be overtaken; the records are
	// compared and set, and each sweep writes them again.
	mu     sync.Mutex
	secret wxtoken.Secret
	calls  map[string]int           // by API, since they were last added to the shared count
	slow   time.Time                // until when the rate is halved; zero if it is not
	paused map[wechat.API]time.Time // until when; everyAPI = all of them
	own    map[string]store.Hold    // what this process met that holds calls back, by reason and API
	told   string                   // the reasons that the log told last

	silent  int             // calls in a row that WeChat did not answer, or only with "busy"
	unheard map[string]bool // whom those calls were about: the first few accounts, or APIs
	probe   time.Time       // while WeChat is away: when the next call may be made
	empty   int             // answers in a row of api_component_token that had no body

	// The component's newest token that this process stored, with its credential's revision.
	newest wxtoken.Token
	// The newest generation of the component's token that WeChat refused, as far as this process
	// knows.
	refused uint64
	// When WeChat took the component's token last, after it had refused it in another call.
	taken   time.Time
	ticket  time.Time // when the newest ticket was created that this process stored
	waiting time.Time // since when accounts wait for WeChat's list; zero while none does
	unread  time.Time // when the list was read before they began to wait
}

// everyAPI stands for all calls of a component.
const everyAPI wechat.API = ""

// New returns the gate of a component. Everything is open.
func (p *Process) New(appid string, secret wxtoken.Secret) *Gate {
	limiter := func() *rate.Limiter { return rate.NewLimiter(rate.Limit(p.Rate), max(1, int(p.Rate))) }
	return &Gate{
		p: p, appid: appid, secret: secret,
		rate: limiter(), urgent: limiter(), full: rate.Limit(p.Rate),
		calls: map[string]int{}, paused: map[wechat.API]time.Time{}, own: map[string]store.Hold{}, unheard: map[string]bool{},
	}
}

// Call is one call to WeChat.
type Call struct {
	API     wechat.API
	Account string // appid of the authorizer that it is about; "" if it is about none
	// Last is the life of the token that a renewal replaces, zero for any other call. Where it is
	// long dead the data is old, and the renewal waits for WeChat's list.
	Last account.Life
}

// Turn is an admitted call. It is good for one call, made soon.
type Turn struct {
	g    *Gate
	call Call
}

// Admit waits for the turn of a call. While the call may not be made it answers at once with an
// error of events.Later, which says for how long and why. A turn need not be used: another
// refresher may have been faster.
func (g *Gate) Admit(ctx context.Context, call Call) (Turn, error) {
	if _, err := g.meansFor(ctx, call); err != nil {
		return Turn{}, err
	}
	if g.listFirst(ctx, call) {
		return Turn{}, events.Later(Jittered(g.Delay()), lang.Error(lang.T("call %s: %s", "调用 %s：%s", call.API, listIsRead), nil))
	}
	if err := g.pass(ctx, call.API); err != nil {
		return Turn{}, err
	}
	return Turn{g, call}, nil
}

// Make makes an admitted call: it counts it, calls ask with the secret that the call is made with
// (a token, or the component's AppSecret), and learns from the answer what is closed or open from
// now on. A token that WeChat refused is renewed. The error is ask's; or one of events.Later, and
// ask was not called: the token died while the turn was waited for.
func (t Turn) Make(ctx context.Context, ask func(secret string) error) error {
	with, err := t.g.meansFor(ctx, t.call)
	if err != nil {
		return err
	}
	return t.g.make(ctx, t.call, with, ask)
}

// Do is Admit and Make in one, for a call that claims nothing in between.
func (g *Gate) Do(ctx context.Context, call Call, ask func(secret string) error) error {
	turn, err := g.Admit(ctx, call)
	if err != nil {
		return err
	}
	return turn.Make(ctx, ask)
}

// pass waits for the turn of one call of api.
func (g *Gate) pass(ctx context.Context, api wechat.API) error {
	if wait := g.wait(api, g.p.Now()); wait > 0 {
		until, why := g.closed(api, g.p.Now())
		return events.Later(Jittered(wait), lang.Error(lang.T("call %s: held back until %s: %s", "调用 %s：暂缓至 %s：%s", api, wechat.Stamp(until), why), nil))
	}
	limiter := g.rate
	if kinds[api].urgent {
		// Its turn is taken from the renewals without waiting for it. So both together stay below
		// the rate, but for one burst, and an urgent call waits for its like only.
		g.rate.Reserve()
		limiter = g.urgent
	}
	if err := limiter.Wait(ctx); err != nil {
		return fmt.Errorf("call %s: wait for the rate: %w", api, err)
	}
	err := g.p.Store().Prove(ctx)
	g.NoteProof(ctx, err)
	if err != nil {
		return events.Later(Jittered(g.Delay()), lang.Error(lang.T("call %s: NATS stores nothing now: %v", "调用 %s：NATS 目前无法写入：%v", api, err), err))
	}
	return nil
}

// make is Make with what the call is made with. Here alone a call is counted, made and heard.
func (g *Gate) make(ctx context.Context, call Call, with means, ask func(secret string) error) error {
	began := g.p.Now()
	g.count(call.API, began)
	g.p.Counted(g.appid, call.API)
	err := ask(with.secret)
	g.report(ctx, call, err)
	if call.API == wechat.APIAuthorizerToken {
		g.CountRenewal(began, err)
	}
	switch {
	case err == nil || with.token.Key == (wxtoken.Key{}): // nothing was refused, or nothing that can be renewed
	case wechat.Judge(err) == wechat.RenewComponentToken:
		g.tokenRefused(ctx, with.token)
	case wechat.Judge(err) == wechat.RenewAccountToken:
		if err := g.p.Refused(ctx, with.token); err != nil {
			g.p.Log.Warn().Err(err).Stringer("key", with.token.Key).Msg("failed to ask for a renewal")
		}
	}
	return err
}

// Held answers how long a call would be held back now, and why; 0 if it would not be. It looks at
// nothing but this process's memory and takes no turn. That accounts wait for WeChat's list it has
// to store, once for all of them.
//
// No wait is long, whatever the reason: a quota may be cleared, an address be let in, and none
// waits longer than it must. The more keys there are, the longer each waits, so that together they
// look a few hundred times a second.
func (g *Gate) Held(ctx context.Context, call Call) (wait time.Duration, why string) {
	if why := g.lacks(call); why != "" {
		return g.Delay(), why
	}
	now := g.p.Now()
	if until, why := g.closed(call.API, now); until.After(now) {
		return min(until.Sub(now), max(g.Delay(), ProbeEvery)), why.EN
	}
	if g.listFirst(ctx, call) {
		return g.Delay(), listIsRead.EN
	}
	return 0, ""
}

const (
	// heldDelay is the wait of what is held back for a token that is not there, or for WeChat's
	// list.
	heldDelay = 5 * time.Second
	// heldRate is how often a second all that wait so look again, together.
	heldRate = 200
)

// Delay is the wait for something that all keys of a component wait for.
func (g *Gate) Delay() time.Duration {
	return max(heldDelay, time.Duration(g.keys())*time.Second/heldRate)
}

// keys returns how many keys there are, of all components.
func (g *Gate) keys() int {
	if view := g.p.View(); view != nil {
		return view.Len()
	}
	return 0
}

// Idle reports whether a call would be made without waiting for its turn.
func (g *Gate) Idle() bool { return g.rate.TokensAt(time.Now()) >= 1 }

// Secret returns the component's AppSecret as it is now.
func (g *Gate) Secret() wxtoken.Secret {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.secret
}

// SetSecret gives the component another AppSecret. Calls that were refused for the old one may be
// made again.
func (g *Gate) SetSecret(secret wxtoken.Secret) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.secret == secret {
		return
	}
	g.secret = secret
	delete(g.paused, everyAPI)
	maps.DeleteFunc(g.own, func(_ string, h store.Hold) bool { return h.Reason == wxtoken.HeldRefused })
}

// Forget drops what this process knows of records: the data of NATS may be others now. What it met
// with WeChat stays.
func (g *Gate) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.newest, g.ticket, g.refused, g.waiting = wxtoken.Token{}, time.Time{}, 0, time.Time{}
}

// Shared returns what this process knows of the record that all processes share; an empty one when
// nothing is known.
func (g *Gate) Shared() store.Quota {
	if view := g.p.View(); view != nil {
		return view.Quota(g.appid)
	}
	return store.Quota{}
}

// Sweep does what no event asks for: it adds up the calls, looks whether a quota is there again,
// and tells what holds the component back. It is called every few seconds to minutes, never twice
// at once.
func (g *Gate) Sweep(ctx context.Context) {
	g.AddCalls(ctx)
	g.watchQuota(ctx)
	g.tell(ctx)
}

// Leave stores what nothing could store later, because this process ends: the calls that it made.
// And it takes back what it met: no other process would know when that is over. The view is not asked
// whether there is anything to take back, for it may not have heard yet of what was met last
// (TestLeaveBeforeTheViewHears).
func (g *Gate) Leave(ctx context.Context) {
	g.AddCalls(ctx)
	if err := g.replaceHolds(ctx, nil, g.p.Now()); err != nil {
		g.p.Log.Warn().Err(err).Str("component", g.appid).Msg("failed to share why calls are held back")
	}
}

// Jittered spreads a wait over d to 1.5 d, so that those who wait together do not come together.
func Jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Float64()*float64(d)/2)
}
