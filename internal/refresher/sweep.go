package refresher

import (
	"cmp"
	"context"
	"fmt"
	"slices"
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
)

// sweep makes every key due that should have been renewed longer than grace ago and that no handler is at, the one that dies first
// before the others. It looks after all else that no event asks for, too.
func (r *Refresher) sweep(ctx context.Context, grace time.Duration) {
	now := r.now()
	proof := r.store.Proof(ctx)
	for _, c := range r.all() {
		c.gate.NoteProof(ctx, proof)
	}
	all := r.view.All()
	var missed []wxtoken.Key
	unlisted := map[*component]bool{}
	for key, e := range all {
		c, ok := r.component(key.Component)
		if !ok {
			continue
		}
		call := renewal(key, e)
		unlisted[c] = unlisted[c] || c.gate.Unlisted(call)
		if !e.Credential.Overdue(e.Token, now, grace) {
			continue
		}
		if wait, _ := r.held(ctx, c, key, call); wait > 0 {
			continue
		}
		if grace == r.cfg.SweepEvery || !r.working(key) { // else it waits for its turn
			missed = append(missed, key)
		}
	}
	for _, c := range r.all() {
		if !unlisted[c] {
			c.gate.WantNoList()
		}
	}
	slices.SortFunc(missed, func(a, b wxtoken.Key) int {
		x, y := all[a], all[b]
		return cmp.Or(x.Token.ExpiresAt.Compare(y.Token.ExpiresAt), x.Credential.AuthorizedAt.Compare(y.Credential.AuthorizedAt))
	})
	made := 0 // those really made due
	for _, key := range missed {
		if ctx.Err() != nil {
			return
		}
		e := all[key]
		if e.Token.Generation != e.Credential.Generation {
			// The view may have been between the two messages of a commit: the token is there.
			if t, ok, err := r.store.Token(ctx, key); err == nil && ok && t.Generation >= e.Credential.Generation {
				continue
			}
		}
		due := events.Due{Key: key, Generation: e.Credential.Generation, Reason: events.ReasonSwept}
		// Many sweepers make one due message, or two where a period begins. After it there is another: the first may have been lost, too.
		id := fmt.Sprintf("%s/%d/sweep/%d", key, due.Generation, now.UnixNano()/int64(sweptAgain*grace))
		if err := r.store.MakeDue(ctx, due, id); err != nil {
			r.log.Warn().Err(err).Stringer("key", key).Msg("sweep failed")
			return
		}
		if e.Credential.Renewable() { // else it was only looked for again
			made++
		}
	}
	if made > 0 {
		r.metrics.missed.Add(float64(made))
		r.log.Warn().Int("keys", made).Msg("missed renewals found")
	}
	r.metrics.swept.SetToCurrentTime()
	r.mu.Lock()
	r.swept = now
	r.mu.Unlock()
	r.tellExpired(ctx, all, now)
	r.dies = time.Time{}
	for key, e := range all {
		if end := e.Token.ExpiresAt; end.After(now) && (r.dies.IsZero() || end.Before(r.dies)) {
			r.dies = end
		}
		if _, ok := r.component(key.Component); ok && ctx.Err() == nil {
			r.derived.sweep(ctx, key, all, now)
		}
	}
	for _, c := range r.all() {
		r.watchRefusals(ctx, c)
		r.pushes.watch(ctx, c)
		c.gate.Sweep(ctx)
	}
}

// tellAtOnce is how many statuses are written at the same time: where all tokens die together, what is due next is not to wait for them.
const tellAtOnce = 16

// tellExpired has the status say of each dead token that it is dead, once: whatever kept the next
// one away, the key is not active.
func (r *Refresher) tellExpired(ctx context.Context, all map[wxtoken.Key]store.Entry, now time.Time) {
	var dead []wxtoken.Key
	for key, e := range all {
		if e.Token.Value.IsZero() || now.Before(e.Token.ExpiresAt) || !e.Credential.Renewable() || r.dead[key] == e.Token.Generation {
			continue
		}
		if _, ok := r.component(key.Component); ok {
			dead = append(dead, key)
		}
	}
	told := make([]bool, len(dead))
	var group errgroup.Group
	group.SetLimit(tellAtOnce)
	for i, key := range dead {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			told[i] = r.tellDead(ctx, key, now)
			return nil
		})
	}
	_ = group.Wait() // each has told what went wrong
	for i, key := range dead {
		if told[i] {
			r.dead[key] = all[key].Token.Generation
		}
	}
}

// tellDead has the status of key say that its token is dead, and reports whether that was written.
func (r *Refresher) tellDead(ctx context.Context, key wxtoken.Key, now time.Time) bool {
	if err := r.writeStatus(ctx, key, account.Expired(now)); err != nil {
		r.log.Warn().Err(err).Stringer("key", key).Msg("status not written")
		return false
	}
	// The view may lag: should the next token have come meanwhile, that is the newer news.
	if t, ok, err := r.store.Token(ctx, key); err == nil && ok && now.Before(t.ExpiresAt) {
		r.setStatus(ctx, key, account.Active(now))
	}
	return true
}

// held answers how long a renewal of key would have to wait for something that concerns all keys of its component, and
// why; 0 if it would not. A ticket that is not wanted any more waits for nothing: it is ended, and that takes no call.
func (r *Refresher) held(ctx context.Context, c *component, key wxtoken.Key, call gate.Call) (wait time.Duration, why string) {
	if account.Derived(key) && !r.derived.wanted(key) {
		return 0, ""
	}
	return c.gate.Held(ctx, call)
}
