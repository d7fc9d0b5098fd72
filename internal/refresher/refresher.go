package refresher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"wxtoken/client"
	"wxtoken/internal/bus"
	"wxtoken/internal/counts"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/links"
	"wxtoken/internal/notify"
	"wxtoken/internal/seal"
	"wxtoken/internal/settings"
	"wxtoken/internal/store"
	"wxtoken/internal/streams"
	"wxtoken/internal/wechat"
)

// Deps is what a refresher works with.
type Deps struct {
	NATS       *nats.Conn
	Components []settings.Component
	Seal       *seal.Keys // seals and opens tickets, codes and refresh tokens; nil = they are in the clear
	Log        zerolog.Logger
	Metrics    prometheus.Registerer
	Transport  http.RoundTripper // to WeChat; nil = Go's default
	Now        func() time.Time  // nil = time.Now
	// Called at each step of a renewal; nil = nothing. Tests end the process there.
	Step      func(name string)
	Counts    *counts.Counter // what it does, by ten minutes; nil = it is not written down
	LookEvery time.Duration   // between two looks at the mirrors; 0 = 30 s
	// Direct is called with a notice that can't be told through NATS; nil = nothing.
	Direct func(events.Notice)
}

// Refresher is one of any number of refreshers that work side by side. It keeps nothing that it
// could not lose: records, tokens and timers are in NATS, and another refresher goes on where this
// one ends.
//
// Its fields fall into three lots. What New sets stays for the life of the process. What work sets
// (store, view and all that use them) lives from the moment at which the streams are there to the
// one at which they are gone; handlers run only in between, so they need no lock for it. What is
// asked from outside at any time, by /readyz, metrics or a reload of the settings, is guarded by
// mu.
type Refresher struct {
	*statuses
	hands

	cfg     Config
	id      string
	host    string // for people
	counts  *counts.Counter
	nc      *nats.Conn
	js      jetstream.JetStream
	wx      *wechat.Client
	seal    *seal.Keys
	changed bell // the components changed, or what holds them back: the sweep is to look
	log     zerolog.Logger
	metrics *metrics
	now     func() time.Time
	step    func(string)

	mirrors  *mirrors
	data     *data
	store    *store.Store // set by Run, before anything uses it
	view     *store.View
	derived  *derived // these six, too
	tell     *teller
	early    *early
	answers  *answers
	pushes   *pushes
	profiles *profiles

	last     lastSweep
	stopping atomic.Bool // nothing long is to be begun
	began    time.Time
	unopened rate.Sometimes // says that something can't be opened

	gates      gate.Process
	links      *links.Links
	notices    *notices
	mu         sync.Mutex
	components map[string]*component
	ready      bool
	trouble    error // of the start
}

// New returns a refresher; Run makes it work.
func New(cfg Config, deps Deps) (*Refresher, error) {
	wx, err := wechat.NewClient(wechat.ClientConfig{BaseURL: cfg.WechatAPIURL, Transport: deps.Transport, Timeout: callTimeout})
	if err != nil {
		return nil, fmt.Errorf("set up the client of WeChat's API: %w", err)
	}
	js, err := bus.JetStream(deps.NATS)
	if err != nil {
		return nil, fmt.Errorf("set up JetStream: %w", err)
	}
	r := &Refresher{
		cfg: cfg, id: nuid.Next(), nc: deps.NATS, js: js, wx: wx, seal: deps.Seal, log: deps.Log, now: deps.Now, step: deps.Step,
		changed: newBell(), counts: deps.Counts, unopened: rate.Sometimes{Interval: time.Minute},
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.host = hostname()
	if r.step == nil {
		r.step = func(string) {}
	}
	// Asked for each time: there is another one after the data was gone.
	opened := func() *store.Store { return r.store }
	gateOf := func(appid string) (*gate.Gate, bool) {
		if c, ok := r.component(appid); ok {
			return c.gate, true
		}
		return nil, false
	}
	r.statuses = &statuses{log: r.log, now: r.now, store: opened, gate: gateOf}
	r.links = &links.Links{Settings: cfg.Settings, ID: r.id, WeChat: wx, Log: r.log, Now: r.now, Store: opened, Gate: gateOf}
	r.gates = r.newGates(opened)
	r.SetComponents(deps.Components)
	if r.metrics, err = newMetrics(deps.Metrics, r); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	r.mirrors = &mirrors{cfg: cfg, nc: r.nc, js: js, every: cmp.Or(deps.LookEvery, mirrorEvery), log: r.log, metrics: r.metrics, now: r.now}
	r.notices = &notices{
		teller: &notify.Teller{JetStream: js, Log: r.log, Look: cfg.SweepEvery, Direct: deps.Direct},
		dead:   &deadLetters{js: js, log: r.log}, swept: newBell(), store: opened, components: r.all, last: &r.last, mirrors: r.mirrors, log: r.log,
	}
	r.notices.teller.Fresh = r.notices.freshDead
	r.data = &data{cfg: cfg, nc: r.nc, js: js, seal: r.seal, mirrors: r.mirrors, log: r.log, step: r.step, doubts: make(chan struct{}, 1)}
	return r, nil
}

// hostname returns the name of this machine as a record keeps it: people know it, and not the id of
// a process.
func hostname() string {
	name, _ := os.Hostname() // without a name nothing is lost but that
	return name[:min(len(name), 32)]
}

// newGates returns what the gates of this process have in common.
func (r *Refresher) newGates(opened func() *store.Store) gate.Process {
	return gate.Process{
		ID: r.id, Rate: r.cfg.APIRate, ListGood: 2 * r.cfg.ReconcileEvery, WeChat: r.wx, Log: r.log, Now: r.now,
		Store: opened, View: r.knownView,
		Counted: func(component string, api wechat.API) { r.metrics.calls.WithLabelValues(component, string(api)).Inc() },
		Changed: func(ctx context.Context, component string) { r.setStatus(ctx, wxtoken.ComponentKey(component)) },
		Refused: func(ctx context.Context, t wxtoken.Token) error { return r.early.replaceRefused(ctx, t) },
		Opened:  r.changed.ring,
	}
}

// Run works until ctx ends; then it takes nothing new, finishes what it is at and returns. It waits
// for NATS when that is away, at the start too. It returns an error when the NATS server can't be
// used at all, and when the connection was closed for good.
//
// When the streams in NATS vanish, Run ends all work and makes none: streams that were there may
// come back from a backup, and an empty one in their place would hide the loss. It begins anew,
// with nothing remembered, once there are streams again.
func (r *Refresher) Run(ctx context.Context) error {
	// The first round alone may make streams: that a process is started is a person's word for it
	// (docs/adr/0028). Later ones wait until the streams are there again.
	for ready := r.data.setup; ; ready = r.data.again {
		err := r.round(ctx, ready)
		if !errors.Is(err, store.ErrGone) {
			return err
		}
		for _, c := range r.all() {
			// No sweep runs now, so its fields may be set. The next one's greet has WeChat's list
			// asked because of it, and not hours later.
			c.lost = true
		}
		r.log.Error().Err(err).Str("hint", goneHint).Msg("data gone, renewals stopped")
		r.mu.Lock()
		r.ready, r.trouble = false, fmt.Errorf("%w: %s", err, goneHint)
		r.mu.Unlock()
	}
}

// round opens the data as soon as ready returns no error, and works with them.
func (r *Refresher) round(ctx context.Context, ready func(context.Context) error) error {
	begun := r.notices.untilBegun(ctx, r.cutOff, r.now)
	defer begun()
	opened, err := r.data.open(ctx, ready, r.notYetOpen)
	if err != nil || ctx.Err() != nil {
		return err
	}
	r.mu.Lock()
	r.store, r.trouble = opened, nil
	r.mu.Unlock()
	return r.work(ctx, begun)
}

// goneHint says what to do when a stream vanished.
const goneHint = "restore the backup, or restart one refresher: at its start it makes what is missing, and WeChat's list brings the accounts back"

// notYetOpen notes why the data can't be worked with yet. That it is gone is the graver news.
func (r *Refresher) notYetOpen(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !errors.Is(r.trouble, store.ErrGone) {
		r.trouble = why
	}
}

// cutOff reports whether NATS keeps a refresher from beginning. Buckets that are being raised above
// their mirrors don't: that takes its time, and gets on.
func (r *Refresher) cutOff() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.nc.IsConnected() || r.trouble != nil && !errors.Is(r.trouble, streams.ErrRaising)
}

// work is Run between the moment at which the streams are there and the one at which they are not
// any more. It calls begun when it has read them.
//
// Two contexts order the end. ctx ends when nothing new is to be begun: consumers pull no more, and
// the sweep stops. work ends after the last handler has: the committer, which stores what handlers
// hand it, and the view must outlive all of them, or a token that WeChat has just issued could not
// be stored. The deferred calls run in the reverse order of their lines, and each waits for the lot
// before it.
func (r *Refresher) work(ctx context.Context, begun func()) error {
	r.began = r.now()
	r.stopping.Store(false)
	for _, c := range r.all() {
		// What the gate knows of records may not be true of the data that are there now. What it
		// met with WeChat, a quota that is gone, say, still is.
		c.greeted = false
		c.gate.Forget()
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer context.AfterFunc(ctx, func() { r.stopping.Store(true) })()
	defer stop(nil)
	// The handlers finish what they are at when ctx ends; committer and view outlive them.
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	closed := r.nc.StatusChanged(nats.CLOSED)
	defer r.nc.RemoveStatusListener(closed)

	var background, working sync.WaitGroup
	defer background.Wait()
	defer end()
	defer func() {
		working.Wait()
		for _, c := range r.all() { // none is added any more
			// Without NATS each component would hold up the end for the 5 s of a request.
			if r.nc.IsConnected() {
				c.gate.Leave(work)
			}
		}
	}()
	background.Go(func() {
		select {
		case <-closed:
			stop(errors.New("the connection to NATS was closed for good"))
			end()
		case <-work.Done():
		}
	})
	background.Go(func() { r.store.Run(work) })
	unwatched := context.AfterFunc(ctx, end) // NATS may be away again, and there is nothing yet to finish
	view, wait, err := r.store.Watch(work, r.log, r.data.doubt)
	if err == nil {
		background.Go(wait)
	}
	if !unwatched() || err != nil {
		return ended(ctx)
	}
	begun()
	r.derived = &derived{cfg: r.cfg, store: r.store, view: view, log: r.log, now: r.now, setStatus: r.setStatus}
	r.pushes = &pushes{statuses: r.statuses, wx: r.wx, view: view, began: r.began}
	r.tell = &teller{
		statuses: r.statuses, view: view, store: r.store, log: r.log, now: r.now, again: r.changed.ring, batches: make(chan []deadToken),
	}
	r.profiles = &profiles{missing: make(chan wxtoken.Key, profilesMissing), calm: r.calm, fetch: r.fetchMissing}
	r.early = &early{store: r.store, log: r.log, now: r.now}
	r.answers = &answers{
		store: r.store, view: view, component: r.component, early: r.early, reconcileEvery: r.cfg.ReconcileEvery,
		js: r.js, journal: journal{js: r.js, log: r.log, now: r.now}, log: r.log, metrics: r.metrics, now: r.now,
	}
	// Of the data before, if there was any: metrics must not show accounts that are gone.
	r.last.tallies.Store(nil)
	r.mu.Lock()
	r.view, r.ready = view, true
	r.mu.Unlock()
	r.log.Info().Int("keys", view.Len()).Strs("components", appids(r.all())).Msg("refresher started")

	background.Go(func() {
		if err := r.data.watch(work, r.store, view); err != nil {
			stop(err)
			end() // nothing of what is under way can be stored
		}
	})
	sweeps := sweeper{
		statuses: r.statuses, cfg: r.cfg, nc: r.nc, store: r.store, view: view, derived: r.derived, pushes: r.pushes, tell: r.tell,
		metrics: r.metrics, components: r.all, working: r.working, changed: r.changed, swept: r.notices.swept, last: &r.last,
	}
	working.Go(func() { sweeps.run(ctx) })
	working.Go(func() { r.tell.run(ctx) })
	working.Go(func() { r.profiles.run(ctx, work) })
	working.Go(func() { r.notices.run(ctx, r.notices.tell, r.now) })
	// Beside all else, and not before: it may take minutes, and records that are sealed otherwise
	// can be read meanwhile.
	working.Go(func() { reseal(ctx, r.store, r.seal, r.log, r.now) })
	requests := door{nc: r.nc, log: r.log, metrics: r.metrics, endpoints: r.endpoints()}
	working.Go(func() { requests.serve(ctx, work) })
	working.Go(func() { r.mirrors.run(ctx) })
	consume := func(stream, durable, filter string, sealed *seal.Keys, handle events.Handler) {
		c := bus.Consumer{
			JS: r.js, Stream: stream, Durable: durable, Filter: filter, Concurrency: r.cfg.Concurrency,
			Log: r.log, Seal: sealed, Panicked: r.metrics.panics.Inc, Troubled: r.data.doubt, Step: r.step,
		}
		working.Go(func() { c.Run(ctx, work, handle) })
	}
	// Last: from here on work comes in, and all that it needs is there.
	consume(events.StreamAuth, events.DurableAuth, events.AllAuth, r.seal, r.auth)
	consume(events.StreamTokens, events.DurableDue, events.AllDue, nil, r.dueOrReconcile)
	<-ctx.Done()
	return ended(ctx)
}

// SetComponents replaces the components that the refresher acts for: a new one is taken up, for one
// that is gone nothing more is begun, and a secret that changed is used from the next call on. A
// component that stays keeps its gate, with all that it learned: a quota that is gone is still
// gone.
//
// It may be called at any time, also while the refresher starts or waits for its data
// (TestSetComponents, TestSetComponentsWhileStarting). A call for a component that is gone and that
// was admitted before is made, and its answer stored; messages about it are put off, for longer and
// longer (unknownFor), until it comes back or they end.
func (r *Refresher) SetComponents(components []settings.Component) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := map[string]*component{}
	for _, set := range components {
		c := r.components[set.AppID]
		if c == nil {
			c = &component{appid: set.AppID, gate: r.gates.New(set.AppID, set.AppSecret)}
		}
		c.gate.SetSecret(set.AppSecret)
		now[set.AppID] = c
	}
	r.components = now
	r.changed.ring()
}

// Components returns those that the refresher acts for now.
func (r *Refresher) Components() (out []settings.Component) {
	for _, c := range r.all() {
		out = append(out, settings.Component{AppID: c.appid, AppSecret: c.gate.Secret()})
	}
	return out
}

// component returns a component of the settings.
func (r *Refresher) component(appid string) (c *component, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok = r.components[appid]
	return c, ok
}

// all returns the components of the settings, by appid.
func (r *Refresher) all() []*component {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.components), func(a, b *component) int { return strings.Compare(a.appid, b.appid) })
}

// knownView returns the view, nil before there is one.
func (r *Refresher) knownView() *store.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.view
}

// ended returns why ctx ended, nil if it was cancelled.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// Ready returns an error while the refresher can't do its work, with what is missing. A sweep that
// has not come to its end for two rounds counts as "can't": something in it hangs, most likely
// NATS.
func (r *Refresher) Ready(ctx context.Context) error {
	r.mu.Lock()
	ready, trouble := r.ready, r.trouble
	r.mu.Unlock()
	swept := r.last.at()
	switch {
	case errors.Is(trouble, store.ErrGone):
		return trouble
	case !ready && trouble != nil:
		return fmt.Errorf("not started yet: %w", trouble)
	case !ready:
		return errors.New("the tokens are not loaded yet: is NATS reachable?")
	case !r.nc.IsConnected():
		return errors.New("not connected to NATS")
	case r.now().Sub(swept) > 2*r.cfg.SweepEvery+callTimeout:
		return fmt.Errorf("the last sweep was at %s", swept.UTC().Format(time.RFC3339))
	}
	if err := streams.CheckIntact(ctx, r.js, r.cfg.Setup()); err != nil {
		return fmt.Errorf("%w: was it deleted? A refresher makes what is missing when it starts", err)
	}
	return nil
}

// appids returns the appids of components.
func appids(components []*component) []string {
	var ids []string
	for _, c := range components {
		ids = append(ids, c.appid)
	}
	return ids
}
