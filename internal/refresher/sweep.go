package refresher

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
)

// bell wakes a goroutine. It holds one ring: however often it is rung before it is heard, the
// goroutine wakes once, and who rings never waits.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default: // one is to be heard already
	}
}

// lastSweep is what the newest sweep found. Metrics, notices and /readyz ask for it from their own
// goroutines.
type lastSweep struct {
	tallies atomic.Pointer[map[string]*tally] // by component; never changed once it is here
	began   atomic.Pointer[time.Time]         // of the newest that came to its end
}

// tallied returns what was found of the accounts, by component; nothing before the first sweep.
func (l *lastSweep) tallied() map[string]*tally {
	if t := l.tallies.Load(); t != nil {
		return *t
	}
	return nil
}

// at returns when the newest sweep began that came to its end, zero before the first.
func (l *lastSweep) at() time.Time {
	if t := l.began.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// sweeper looks through all keys, again and again. A schedule makes a renewal punctual; the sweep
// makes it certain, whatever was lost on the way: a schedule, a due message, a consumer. It also
// does what no event asks for: it notices tickets that don't come and tokens that died.
//
// All of it is one goroutine, so dies and a component's own fields for the sweep need no lock.
type sweeper struct {
	*statuses
	cfg        Config
	nc         *nats.Conn
	store      *store.Store
	view       *store.View
	derived    *derived
	pushes     *pushes
	tell       *teller
	metrics    *metrics
	components func() []*component
	working    func(wxtoken.Key) bool // whether a handler of this process is at a key
	changed    bell                   // the components changed, or what holds them back
	swept      bell                   // rung after each sweep
	last       *lastSweep

	dies time.Time // when the first token dies, as of the last sweep
}

// run sweeps until ctx ends. A NATS server that was killed may have lost a due message that it had
// already made: for a while after NATS came back run sweeps more often, and looks for what is
// overdue by less (TestReturnedNATSLostADueMessage).
//
// Each round first greets new components, so that they are looked at in this sweep, then sweeps,
// and then waits for what comes first: the tick, the death of the next token, a component that
// could not be greeted, a change of the settings or of what holds a component back, NATS, or the
// next of the looks after NATS came back. A round is never begun beside another.
func (s *sweeper) run(ctx context.Context) {
	t := time.NewTicker(s.cfg.SweepEvery)
	defer t.Stop()
	connected := s.nc.StatusChanged(nats.CONNECTED)
	defer s.nc.RemoveStatusListener(connected)
	grace, looks := s.cfg.SweepEvery, 0 // looks are those still to come because NATS came back
	// The next of them; a server that comes back again puts it off no further.
	var soon <-chan time.Time
	for {
		var again <-chan time.Time
		for _, c := range s.components() {
			if !s.greet(ctx, c) {
				again = time.After(time.Second)
			}
		}
		// Of the real clock, unlike all else here: it is this machine's time that is bounded.
		began := time.Now()
		s.sweep(ctx, grace)
		took := time.Since(began)
		// The short grace is good for one look. Between two of them the tick, or a bell, may have
		// the sweep look with the long one: that finds less, and harms nothing.
		if grace = s.cfg.SweepEvery; looks > 0 && soon == nil {
			soon = time.After(returnedGrace)
		}
		var dies <-chan time.Time // the next token that no renewal came for: its status says so at once
		if left := s.dies.Sub(s.now()); !s.dies.IsZero() && left < s.cfg.SweepEvery {
			// Where many tokens die one after the other the looks take a tenth of the time at most.
			dies = time.After(max(left, dieLook, 9*took))
		}
		select {
		case <-ctx.Done():
			return
		// Only here, and not at each look: it asks NATS three questions for each component.
		case <-t.C:
			s.keepReconciling(ctx)
		case <-dies:
		case <-again:
		case <-s.changed: // the components
		// A look with the long grace follows at once. Those with the short one begin returnedGrace
		// later, when the server has had time to make what is overdue due by itself.
		case <-connected:
			looks = returnedLooks
		case <-soon:
			soon, looks = nil, looks-1
			grace = min(grace, returnedGrace)
		}
	}
}

// keepReconciling publishes schedules of reconciles anew that have stopped firing: one that came
// due while the server's store was full never fires again by itself
// (findings/full-store-stops-schedules.sh), and where the sweep finds a key that was missed, a
// reconcile has only this. Only now and then: just after NATS came back they are late, and fire by
// themselves.
func (s *sweeper) keepReconciling(ctx context.Context) {
	if s.store.Prove(ctx) != nil {
		return // told by the sweep
	}
	now, err := s.store.ServerTime(ctx)
	if err != nil {
		s.log.Warn().Err(err).Msg("failed to look after the schedules of reconciles")
		return
	}
	for _, c := range s.components() {
		// It has no schedule yet, or none that is known to be right.
		if !c.greeted {
			continue
		}
		if err := s.store.KeepReconciling(ctx, c.appid, s.cfg.ReconcileEvery, now); err != nil {
			s.log.Warn().Err(err).Str("component", c.appid).Msg("failed to look after the schedule of reconciles")
		}
	}
}

const (
	// dieLook is the least time between two looks because tokens die.
	dieLook = 2 * time.Second
	// returnedGrace is the time between two looks after NATS came back, and by how much a key is
	// overdue then. It is longer than the server takes to make the due messages of what is overdue.
	returnedGrace = 2 * time.Second
	// returnedLooks is how often it is looked: for longer than a claim, which a refresher that died
	// may have left.
	returnedLooks = int(account.ClaimFor/returnedGrace) + 2
	// sweptAgain is after how many times the grace a key that the sweep made due, and that is still
	// overdue, is made due once more.
	sweptAgain = 5
	// lookAtOnce is how many keys are looked up in NATS at the same time.
	lookAtOnce = 16
)

// sweep makes every key due that should have been renewed longer than grace ago and that no handler
// is at, the one that dies first before the others.
//
// All refreshers sweep, and don't agree on who does: a sweep costs milliseconds, an election would
// have to be right. Several sweeps of one key make one due message, by its message id.
//
// The due messages come before the statuses, because a token that is got late costs more than a
// status that is told late, and the statuses only if NATS took the due messages: where it does not,
// nothing else would be stored either. The tallies are given away before both. Metrics, page and
// notices are made from them, and are needed most while NATS stores nothing.
func (s *sweeper) sweep(ctx context.Context, grace time.Duration) {
	now := s.now()
	// While NATS stores nothing no call is made that would find it out. So the sweep asks, for the
	// status and the metrics, and to have the reason end when NATS is back.
	proof := s.store.Prove(ctx)
	for _, c := range s.components() {
		c.gate.NoteProof(ctx, proof)
	}
	defer s.swept.ring() // also where NATS takes nothing more
	found := s.survey(ctx, now, grace)
	s.last.tallies.Store(&found.tallies)
	for _, c := range s.components() {
		// Only a look at all accounts can tell that none waits for WeChat's list any more. The wait
		// of the next one then begins anew, and not where one ended days ago.
		if !found.unlisted[c] {
			c.gate.WantNoList()
		}
	}
	if !s.makeMissedDue(ctx, found.missed, now, grace) {
		return
	}
	s.metrics.swept.SetToCurrentTime()
	// When the sweep began, not when it ended: readiness counts from here, and a sweep that takes
	// long is to be seen (Ready).
	s.last.began.Store(&now)
	// Handed over, and not written here: a hundred thousand statuses take minutes, and the next
	// sweep would come as much late (TestTellerHoldsUpNoSweep).
	s.tell.hand(found.dead)
	s.dies = found.dies
	for _, c := range s.components() {
		s.watchRefusals(ctx, c)
		s.pushes.watch(ctx, c)
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

// survey looks at all keys. What it takes grows with them, some 50 ns each: so it looks at outlines
// first, and asks of what is of interest only. A heap of what is due next was tried and left
// (docs/adr/0047): each change of a record would have to find its place in it, and a key that fell
// out would never be looked at again.
//
// look runs with the view locked, a chunk at a time, and so asks neither the view nor NATS. What it
// picks out is copied, and examine may ask whatever it needs. Where keys of one component follow
// one another, their component is looked up once.
func (s *sweeper) survey(ctx context.Context, now time.Time, grace time.Duration) survey {
	known := map[string]*component{}
	for _, c := range s.components() {
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
		if t != nil && account.KindOf(key).OfMerchant {
			t.add(key, e, now)
		}
		lives := e.Token.Lives(now)
		if lives && (!first.Exists() || e.Token.EndsBefore(first)) {
			first = e.Token
		}
		// Three sorts are of interest: those to be renewed, those whose status has to say that the
		// token is dead, and those that may have tickets beside their token. A key of a component
		// that is not in the settings is counted nowhere and left alone; its token lives on to its
		// end.
		return c != nil && (e.Credential.Overdue(e.Token, now, grace) || !lives && e.Token.Exists() || s.derived.looksAfter(key))
	}
	s.view.Each(look, func(key wxtoken.Key, e store.Entry) { s.examine(ctx, known[key.Component], key, e, now, grace, &found) })
	found.dies = first.ExpiresAt()
	return found
}

// examine looks closer at a key that survey's quick look picked out: does it wait for WeChat's
// list, is its status to say that its token is dead, was its renewal missed, do its tickets follow
// it?
func (s *sweeper) examine(ctx context.Context, c *component, key wxtoken.Key, e store.Entry, now time.Time, grace time.Duration, found *survey) {
	if ctx.Err() != nil {
		return
	}
	if !found.unlisted[c] && c.gate.Unlisted(renewal(key, e)) {
		found.unlisted[c] = true
	}
	if e.Token.Exists() && !e.Token.Lives(now) && e.Credential.Renewable() && !e.Told && len(found.dead) < tellGathered {
		found.dead = append(found.dead, deadToken{key, e.Token.Revision})
	}
	if e.Credential.Overdue(e.Token, now, grace) {
		// One that is held back waits for its turn: its due message is put off, and another one
		// would be too. With the short grace a key that a handler here is at may not be claimed
		// yet, since it waits for its turn at the gate. After the long one it is made due all the
		// same.
		if !s.held(ctx, c, key, e) && (grace == s.cfg.SweepEvery || !s.working(key)) {
			if found.missed[c] == nil {
				found.missed[c] = &firsts{most: s.cfg.sweptAtMost()}
			}
			found.missed[c].add(missed{key, e})
		}
	}
	s.derived.sweep(ctx, key, e, now)
}

// makeMissedDue makes keys due. It reports false where NATS did not take that, or ctx ended.
//
// The message id holds the period, five times the grace, in which the key was found. So of many
// sweepers one makes the message, and should that one be lost as well, the next period makes
// another.
//
// NATS knows an id for two minutes (the stream's duplicate window), and a period is 150 s with the
// defaults. So a key that stays overdue is made due again every two minutes or so, however many
// refreshers sweep. Of two due messages for one key the later finds the claim of the first, or a
// generation that is past.
//
// The components come in no order. Their calls have a rate each, so none waits for another's.
func (s *sweeper) makeMissedDue(ctx context.Context, of map[*component]*firsts, now time.Time, grace time.Duration) bool {
	made := 0 // those really made due
	for _, those := range of {
		all := s.reallyMissed(ctx, those.inOrder())
		var wishes []store.DueRequest
		for _, m := range all {
			due := events.Due{Key: m.key, Generation: m.entry.Credential.Generation, Reason: events.ReasonSwept}
			// Many sweepers make one due message, or two where a period begins. After it there is
			// another: the first may have been lost, too.
			wishes = append(wishes, store.DueRequest{Due: due, ID: fmt.Sprintf("%s/%d/sweep/%d", m.key, due.Generation, now.UnixNano()/int64(sweptAgain*grace))})
			if m.entry.Credential.Renewable() { // else it is only looked for again
				made++
			}
		}
		if ctx.Err() != nil {
			return false
		}
		if err := s.store.MakeAllDue(ctx, wishes); err != nil {
			s.log.Warn().Err(err).Int("keys", len(wishes)).Msg("failed to make missed renewals due")
			return false
		}
	}
	if made > 0 {
		s.metrics.missed.Add(float64(made))
		s.log.Warn().Int("keys", made).Msg("missed renewals found")
	}
	return true
}

// reallyMissed returns those of which NATS, too, says that they were missed, in the same order. The
// view lags, and after an outage a hundred thousand due messages wait in the stream for their turn.
// To make those due again would be worse than useless: a subject keeps one message, and the new one
// would lie behind all the others.
func (s *sweeper) reallyMissed(ctx context.Context, all []missed) []missed {
	if len(all) == 0 {
		return nil
	}
	// Asked once for all keys. Where NATS does not tell, a key may be made due whose message waits.
	// The new one takes the place of that, behind all others: the key is renewed later, and once.
	waits := s.store.DueWaiting(ctx)
	well := make([]bool, len(all))
	var group errgroup.Group
	group.SetLimit(lookAtOnce)
	for i, m := range all {
		group.Go(func() error {
			if waits(ctx, m.key) {
				// Its turn comes: another message would take the place of this one, behind all
				// others.
				well[i] = true
			} else if m.entry.Token.Generation != m.entry.Credential.Generation {
				// The view may have been between the two messages of a commit: the token is there.
				t, ok, err := s.store.Token(ctx, m.key)
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

// held reports whether a renewal of key would have to wait for something that concerns all keys of
// its component. A derived ticket that is not wanted any more waits for nothing: ending it takes no
// call to WeChat.
func (s *sweeper) held(ctx context.Context, c *component, key wxtoken.Key, e store.Entry) bool {
	if !s.derived.wanted(key) {
		return false
	}
	wait, _ := c.gate.Held(ctx, renewal(key, e))
	return wait > 0
}

// greet says what is known of a component that is new here, and has it compared with WeChat's list
// if that was never done. It reports whether that worked. It is part of the sweep, and not of the
// start: components come and go while a refresher runs, and NATS may be away when one comes.
//
// What it does may be done again and by several refreshers at once: the status is compared and set,
// and a schedule takes the place of the one before. So greeted is set last, and any fault begins
// all of it anew a second later. A record that can't be read, or may not be, is no fault here. Its
// status would be a guess and is not written; the list is what may bring it back.
func (s *sweeper) greet(ctx context.Context, c *component) bool {
	if c.greeted {
		return true
	}
	key := wxtoken.ComponentKey(c.appid)
	cred, err := s.store.Credential(ctx, key)
	if err == nil && cred.Ticket == "" {
		s.setStatus(ctx, key, func(status *wxtoken.Status) {
			// Read once more: the first ticket may come in this moment.
			if cred, err := s.store.Credential(ctx, key); err == nil && cred.Ticket == "" {
				account.WaitingForTicket(s.now())(status)
			}
		})
	}
	if err == nil || errors.Is(err, store.ErrUnreadable) || errors.Is(err, store.ErrNewer) {
		if err = s.store.ScheduleReconcile(ctx, c.appid, s.cfg.ReconcileEvery, c.lost); err == nil {
			c.lost = false
		}
	}
	if err == nil {
		var status wxtoken.Status
		status, _, err = s.store.Status(ctx, key)
		// By a refresher that has stopped since: it is for this one to say that it has ended.
		c.doubted = account.RefusalsAreDoubted(status)
	}
	if err != nil {
		s.log.Warn().Err(err).Stringer("key", key).Msg("failed to prepare component")
		return false
	}
	c.greeted = true
	return true
}

// watchRefusals tells the log when the guard against mass refusals closes, and when it opens again;
// the status says so each time it is written. While it is closed no account is marked as gone, so
// WeChat's list is asked what is true.
func (s *sweeper) watchRefusals(ctx context.Context, c *component) {
	doubted := !c.gate.Believes()
	if c.doubted == doubted {
		return
	}
	c.doubted = doubted
	if !doubted {
		s.log.Info().Str("component", c.appid).Msg("refused authorizations believed again")
		return
	}
	s.log.Error().Str("component", c.appid).Msg("mass refusals doubted, no account marked")
	if err := s.store.ScheduleReconcile(ctx, c.appid, s.cfg.ReconcileEvery, true); err != nil {
		s.log.Warn().Err(err).Str("component", c.appid).Msg("failed to ask for WeChat's list")
	}
}
