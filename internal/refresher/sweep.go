package refresher

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/store"
)

// sweeper looks for renewals that were missed until ctx ends. A schedule makes a renewal punctual,
// the sweep makes it certain. A server that was killed may have lost a due message that it had made: for a while after NATS
// came back the sweep looks more often, and at what is overdue by less.
func (r *Refresher) sweeper(ctx context.Context) {
	t := time.NewTicker(r.cfg.SweepEvery)
	defer t.Stop()
	connected := r.nc.StatusChanged(nats.CONNECTED)
	defer r.nc.RemoveStatusListener(connected)
	grace, looks := r.cfg.SweepEvery, 0 // looks are those still to come because NATS came back
	var soon <-chan time.Time           // the next of them; a server that comes back again puts it off no further
	for {
		var again <-chan time.Time
		for _, c := range r.all() {
			if !r.greet(ctx, c) {
				again = time.After(time.Second)
			}
		}
		began := time.Now()
		r.sweep(ctx, grace)
		took := time.Since(began)
		if grace = r.cfg.SweepEvery; looks > 0 && soon == nil {
			soon = time.After(returnedGrace)
		}
		var dies <-chan time.Time // the next token that no renewal came for: its status says so at once
		if left := r.dies.Sub(r.now()); !r.dies.IsZero() && left < r.cfg.SweepEvery {
			// Where many tokens die one after the other the looks take a tenth of the time at most.
			dies = time.After(max(left, dieLook, 9*took))
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			r.keepReconciling(ctx)
		case <-dies:
		case <-again:
		case <-r.changed: // the components
		case <-connected:
			looks = returnedLooks
		case <-soon:
			soon, looks = nil, looks-1
			grace = min(grace, returnedGrace)
		}
	}
}

// keepReconciling publishes schedules of reconciles anew that have stopped firing. Only now and then: just after NATS came back
// they are late, and fire by themselves.
func (r *Refresher) keepReconciling(ctx context.Context) {
	if r.store.Proof(ctx) != nil {
		return // told by the sweep
	}
	for _, c := range r.all() {
		if !c.greeted {
			continue
		}
		if err := r.store.KeepReconciling(ctx, c.appid, r.cfg.ReconcileEvery); err != nil {
			r.log.Warn().Err(err).Str("component", c.appid).Msg("failed to look after the schedule of reconciles")
		}
	}
}

const (
	// dieLook is the least time between two looks because tokens die.
	dieLook = 2 * time.Second
	// returnedGrace is the time between two looks after NATS came back, and by how much a key is overdue then. It is longer than
	// the server takes to make the due messages of what is overdue.
	returnedGrace = 2 * time.Second
	// returnedLooks is how often it is looked: for longer than a claim, which a refresher that died may have left.
	returnedLooks = int(account.ClaimFor/returnedGrace) + 2
	// sweptAgain is after how many times the grace a key that the sweep made due, and that is still overdue, is made due once more.
	sweptAgain = 5
	// lookAtOnce is how many keys are looked up in NATS at the same time.
	lookAtOnce = 16
)

// sweep makes every key due that should have been renewed longer than grace ago and that no handler is at, the one that dies first
// before the others. It looks after all else that no event asks for, too.
func (r *Refresher) sweep(ctx context.Context, grace time.Duration) {
	now := r.now()
	proof := r.store.Proof(ctx)
	for _, c := range r.all() {
		c.gate.NoteProof(ctx, proof)
	}
	defer r.notices.look() // also where NATS takes nothing more
	found := r.survey(ctx, now, grace)
	r.tallies.Store(&found.tallies)
	for _, c := range r.all() {
		if !found.unlisted[c] {
			c.gate.WantNoList()
		}
	}
	if !r.makeMissedDue(ctx, found.missed, now, grace) {
		return
	}
	r.metrics.swept.SetToCurrentTime()
	r.mu.Lock()
	r.swept = now
	r.mu.Unlock()
	r.tell.hand(found.dead)
	r.dies = found.dies
	for _, c := range r.all() {
		r.watchRefusals(ctx, c)
		r.pushes.watch(ctx, c)
		c.gate.Sweep(ctx)
	}
}

// survey is what a look at all keys found.
type survey struct {
	missed   map[*component]*firsts
	unlisted map[*component]bool // accounts wait for WeChat's list
	dead     []deadToken         // whose status does not say so yet
	dies     time.Time           // when the next token does
	tallies  map[string]*tally   // of the accounts, by component
}

// survey looks at all keys. What it takes grows with them, some 50 ns each: so it looks at outlines first, and asks of what
// is of interest only.
func (r *Refresher) survey(ctx context.Context, now time.Time, grace time.Duration) survey {
	known := map[string]*component{}
	for _, c := range r.all() {
		known[c.appid] = c
	}
	found := survey{missed: map[*component]*firsts{}, unlisted: map[*component]bool{}, tallies: map[string]*tally{}}
	for appid := range known {
		found.tallies[appid] = &tally{}
	}
	var first account.Life // of those that live, the one that dies first
	var appid string
	var c *component
	var t *tally
	look := func(key wxtoken.Key, e *store.Entry) bool {
		if key.Component != appid {
			appid, c, t = key.Component, known[key.Component], found.tallies[key.Component]
		}
		if t != nil && key.Kind == wxtoken.KindAuthorizer {
			t.add(key, e, now)
		}
		lives := e.Token.Lives(now)
		if lives && (!first.Exists() || e.Token.EndsBefore(first)) {
			first = e.Token
		}
		return c != nil && (e.Credential.Overdue(e.Token, now, grace) || !lives && e.Token.Exists() || r.derived.looksAfter(key))
	}
	r.view.Each(look, func(key wxtoken.Key, e store.Entry) { r.examine(ctx, known[key.Component], key, e, now, grace, &found) })
	found.dies = first.ExpiresAt()
	return found
}

// examine asks whether anything is to be done about a key.
func (r *Refresher) examine(ctx context.Context, c *component, key wxtoken.Key, e store.Entry, now time.Time, grace time.Duration, found *survey) {
	if ctx.Err() != nil {
		return
	}
	call := renewal(key, e)
	if !found.unlisted[c] && c.gate.Unlisted(call) {
		found.unlisted[c] = true
	}
	if e.Token.Exists() && !e.Token.Lives(now) && e.Credential.Renewable() && !e.Told && len(found.dead) < tellGathered {
		found.dead = append(found.dead, deadToken{key, e.Token.Revision})
	}
	if e.Credential.Overdue(e.Token, now, grace) {
		wait, _ := r.held(ctx, c, key, call)
		if wait == 0 && (grace == r.cfg.SweepEvery || !r.working(key)) { // else it waits for its turn
			if found.missed[c] == nil {
				found.missed[c] = &firsts{most: r.cfg.sweptAtMost()}
			}
			found.missed[c].add(missed{key, e})
		}
	}
	r.derived.sweep(ctx, key, e, now)
}

// makeMissedDue makes keys due. It reports false where NATS did not take that, or ctx ended.
func (r *Refresher) makeMissedDue(ctx context.Context, of map[*component]*firsts, now time.Time, grace time.Duration) bool {
	made := 0 // those really made due
	for _, those := range of {
		all := r.reallyMissed(ctx, those.inOrder())
		var wishes []store.Wish
		for _, m := range all {
			due := events.Due{Key: m.key, Generation: m.entry.Credential.Generation, Reason: events.ReasonSwept}
			// Many sweepers make one due message, or two where a period begins. After it there is another: the first may have been lost, too.
			wishes = append(wishes, store.Wish{Due: due, ID: fmt.Sprintf("%s/%d/sweep/%d", m.key, due.Generation, now.UnixNano()/int64(sweptAgain*grace))})
			if m.entry.Credential.Renewable() { // else it is only looked for again
				made++
			}
		}
		if ctx.Err() != nil {
			return false
		}
		if err := r.store.MakeAllDue(ctx, wishes); err != nil {
			r.log.Warn().Err(err).Int("keys", len(wishes)).Msg("sweep failed")
			return false
		}
	}
	if made > 0 {
		r.metrics.missed.Add(float64(made))
		r.log.Warn().Int("keys", made).Msg("missed renewals found")
	}
	return true
}

// reallyMissed returns those of which NATS, too, says that they were missed, in the same order.
func (r *Refresher) reallyMissed(ctx context.Context, all []missed) []missed {
	if len(all) == 0 {
		return nil
	}
	waits := r.store.Waiting(ctx)
	well := make([]bool, len(all))
	var group errgroup.Group
	group.SetLimit(lookAtOnce)
	for i, m := range all {
		group.Go(func() error {
			if waits(ctx, m.key) {
				well[i] = true // its turn comes: another message would take the place of this one, behind all others
			} else if m.entry.Token.Generation != m.entry.Credential.Generation {
				// The view may have been between the two messages of a commit: the token is there.
				t, ok, err := r.store.Token(ctx, m.key)
				well[i] = err == nil && ok && t.Generation >= m.entry.Credential.Generation
			}
			return nil
		})
	}
	_ = group.Wait() // what can't be found out counts as missed
	var really []missed
	for i, m := range all {
		if !well[i] {
			really = append(really, m)
		}
	}
	return really
}

// held answers how long a renewal of key would have to wait for something that concerns all keys of its component, and
// why; 0 if it would not. A ticket that is not wanted any more waits for nothing: it is ended, and that takes no call.
func (r *Refresher) held(ctx context.Context, c *component, key wxtoken.Key, call gate.Call) (wait time.Duration, why string) {
	if account.Derived(key) && !r.derived.wanted(key) {
		return 0, ""
	}
	return c.gate.Held(ctx, call)
}
