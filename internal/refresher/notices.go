package refresher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/notify"
	"wxtoken/internal/store"
	"wxtoken/internal/truth"
)

// A notice tells a person in a chat what needs one, and that it is over. Any number of refreshers
// see the same trouble, so each cause of each component has a subject on JOURNAL, and its last
// record is what was told. notify.Teller compares what is seen with that record, and writes the
// next one on condition that the record is still the last: of several refreshers one writes, and no
// leader is needed (docs/adr/0053). What is seen is gathered here, from the places that status,
// page, metrics and checks look at too, so that all say the same.
//
// That NATS is away can't be told through NATS. The teller gives it to Direct, each refresher for
// itself.

// notices has operators told after each sweep, in a goroutine of its own. The sweep does not wait
// for it: the sweep makes renewals certain, and reading statuses and JOURNAL may take seconds for
// each component where NATS is slow. One goroutine is at teller and dead, so they need no lock.
type notices struct {
	teller     *notify.Teller
	dead       *deadLetters
	swept      bell // there was a sweep since the last look
	store      func() *store.Store
	components func() []*component
	last       *lastSweep
	mirrors    *mirrors
	log        zerolog.Logger
}

// run looks when a sweep was made, until ctx ends. A look that takes long misses sweeps and not
// news: the bell holds one ring, and the next look sees what is so by then
// (TestNoticesHoldUpNoSweep). notice is tell; a test has another.
func (n *notices) run(ctx context.Context, notice func(context.Context, time.Time), now func() time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.swept:
			notice(ctx, now())
		}
	}
}

// untilBegun has operators told that NATS is away until begun is called: a refresher that was
// started meanwhile, or whose streams vanished, makes no sweeps, after which run looks. cutOff says
// whether that holds it up. begun returns when nobody is at teller any more, so that run can be.
func (n *notices) untilBegun(ctx context.Context, cutOff func() bool, now func() time.Time) (begun func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		look := time.NewTicker(n.teller.Look)
		defer look.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			}
			if cutOff() { // then nothing is read or written
				_ = n.teller.Tell(ctx, now(), nil, []events.NoticeData{{Cause: string(wxtoken.HeldNATS)}})
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// tell tells operators what is wrong, and what is over. It looks at what the statuses say: the
// reasons of the gates, the conditions of the components, the records of the accounts. Any number
// of refreshers do so; the teller writes a notice only if JOURNAL does not have it yet.
func (n *notices) tell(ctx context.Context, now time.Time) {
	told := appids(n.components())
	var wrong []events.NoticeData
	for _, c := range n.components() {
		wrong = append(wrong, n.wrong(ctx, c, now)...)
	}
	wrong = append(n.wrongAccounts(ctx, wrong, n.last.tallied()), n.mirrors.wrong()...)
	// While NATS is away the count of dead letters would be that of before, and nothing of it could
	// be written.
	if !slices.ContainsFunc(wrong, func(d events.NoticeData) bool { return d.Cause == string(wxtoken.HeldNATS) }) {
		wrong = append(wrong, n.dead.wrong(ctx, told)...)
	}
	if err := n.teller.Tell(ctx, now, told, wrong); err != nil && ctx.Err() == nil {
		n.log.Warn().Err(err).Msg("failed to tell what is wrong")
	}
}

// wrong returns what is wrong with a component.
//
// The gate comes first: it knows at once, and also without NATS. The status adds since when, and
// what no gate knows, such as a seal key that is missing. A cause that both name is told once.
func (n *notices) wrong(ctx context.Context, c *component, now time.Time) (wrong []events.NoticeData) {
	s, _, err := n.store().Status(ctx, wxtoken.ComponentKey(c.appid))
	if err != nil { // NATS is away, and that is among what the gate knows
		s = wxtoken.Status{}
	}
	add := func(d events.NoticeData) {
		d.Component = c.appid
		if !slices.ContainsFunc(wrong, func(other events.NoticeData) bool { return other.Cause == d.Cause }) {
			wrong = append(wrong, d)
		}
	}
	for _, h := range c.gate.Holds() {
		d := events.NoticeData{Cause: string(h.Reason), Error: h.Error}
		if held, ok := s.Held(); ok && held.Reason == h.Reason {
			d.Since = held.Since
		}
		if h.Until.After(now) && truth.Ends(h.Reason) {
			until := h.Until.UTC()
			d.Until = &until
		}
		add(d)
	}
	for _, condition := range s.Conditions {
		if cause := truth.OfCondition(condition); cause != "" {
			add(events.NoticeData{Cause: string(cause), Since: condition.Since})
		}
	}
	return wrong
}

// deadLetters is what lies on DEAD, as far as the last look could tell.
type deadLetters struct {
	js     jetstream.JetStream
	log    zerolog.Logger
	stream jetstream.Stream
	state  jetstream.StreamState // when it was counted
	of     map[string]int        // by component, "" where a message names none
}

// wrong returns how many messages lie on DEAD, by the components that are looked after here. The
// subjects are counted only where the stream has changed: most looks cost one small question. Where
// NATS does not tell, it is as it was.
//
// A component that is not in the settings here may be in those of another refresher while they are
// changed. Its messages, and those that name none, are counted together, so that they are told all
// the same.
func (d *deadLetters) wrong(ctx context.Context, components []string) (wrong []events.NoticeData) {
	if d.js.Conn().IsConnected() { // a look that waits for NATS would tell late that it is away
		if err := d.count(ctx); err != nil && ctx.Err() == nil {
			d.log.Debug().Err(err).Msg("failed to count dead letters")
		}
	}
	sums := map[string]int{}
	for component, n := range d.of {
		sums[ours(components, component)] += n
	}
	for component, n := range sums {
		wrong = append(wrong, events.NoticeData{Component: component, Cause: string(truth.DeadLetters), Count: n, Upto: d.state.LastSeq})
	}
	return wrong
}

// ours returns component if it is among those that are looked after here, "" for any other.
func ours(components []string, component string) string {
	if !slices.Contains(components, component) {
		return ""
	}
	return component
}

// maxFresh is how many messages are looked at that came to DEAD since its state was told. Beyond
// them they are not counted one by one: so many have been told by their number.
const maxFresh = 500

// freshDead returns how many messages of a component lie on DEAD beyond a sequence.
//
// The teller asks it while it decides whether more has come since the last notice: a number alone
// does not tell that where some were discarded and others came. One read takes the next message in
// the order of the stream, so what was discarded costs nothing.
func (n *notices) freshDead(ctx context.Context, component string, sequence uint64) (fresh int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stream, err := n.dead.js.Stream(ctx, events.StreamDead)
	if err != nil {
		return 0, fmt.Errorf("look up stream %s: %w", events.StreamDead, err)
	}
	components := appids(n.components())
	// A read of sequence+1 returns the next message there is, for sequences have gaps.
	for range maxFresh {
		m, err := stream.GetMsg(ctx, sequence+1, jetstream.WithGetMsgSubject(events.DeadSubject(">")))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", events.StreamDead, err)
		}
		sequence = m.Sequence
		if ours(components, events.ComponentOf(events.OriginalSubject(m.Subject))) == component {
			fresh++
		}
	}
	return fresh, nil
}

// count asks NATS how many messages lie on DEAD, by component. A new message moves the last
// sequence on and a removal lowers the number, so where both are as they were nothing has changed.
// The subjects, which may be thousands, are listed only after a change.
func (d *deadLetters) count(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if d.stream == nil {
		if d.stream, err = d.js.Stream(ctx, events.StreamDead); err != nil {
			return fmt.Errorf("look up stream %s: %w", events.StreamDead, err)
		}
	}
	info, err := d.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", events.StreamDead, err)
	}
	if s := info.State; s.Msgs == d.state.Msgs && s.LastSeq == d.state.LastSeq && s.FirstSeq == d.state.FirstSeq {
		return nil
	}
	of := map[string]int{}
	if info.State.Msgs > 0 {
		if info, err = d.stream.Info(ctx, jetstream.WithSubjectFilter(events.DeadSubject(">"))); err != nil {
			return fmt.Errorf("look at stream %s: %w", events.StreamDead, err)
		}
	}
	for subject, n := range info.State.Subjects {
		original := events.OriginalSubject(subject)
		of[events.ComponentOf(original)] += int(n)
	}
	d.state, d.of = info.State, of
	return nil
}

// wrongAccounts adds the accounts to what is wrong: to each cause of their component those whose
// token is dead, and causes of their own. While the component itself is held back, its accounts are
// counted there and get no notice of their own: a thousand dead tokens with one cause are one
// notice.
//
// What the sweep put aside (tally.fail) is looked up here, one status each, 200 at most, and only
// while the component itself is well: else the cause is the component's.
func (n *notices) wrongAccounts(ctx context.Context, wrong []events.NoticeData, tallies map[string]*tally) []events.NoticeData {
	for component, t := range tallies {
		held := false
		groups := map[wxtoken.Reason]*events.NoticeData{}
		add := func(cause wxtoken.Reason, n int, since time.Time, last *wxtoken.LastError, names ...string) {
			if groups[cause] == nil {
				groups[cause] = &events.NoticeData{Component: component, Cause: string(cause), Error: last}
			}
			count(groups[cause], n, since, names...)
		}
		for i := range wrong {
			d := &wrong[i]
			if d.Component != component {
				continue
			}
			held = true // a failure, or a dead token, is then the component's
			if dead := t.wrong[truth.AccountTokenDead]; dead != nil {
				count(d, dead.Count, time.Time{}, dead.Keys...)
			}
			for _, f := range t.fail {
				if f.dead {
					count(d, 1, time.Time{}, f.key.String())
				}
			}
		}
		for cause, d := range t.wrong {
			if held && cause == truth.AccountTokenDead {
				continue
			}
			var last *wxtoken.LastError
			if cause == truth.PermissionMissing { // WeChat's word is not in the record
				last = n.lastError(ctx, d.Keys[0])
			}
			add(cause, d.Count, d.Since, last, d.Keys...)
		}
		for _, f := range t.fail {
			if held {
				break
			}
			if cause, last := n.known(ctx, f); cause != "" {
				add(cause, 1, f.since, last, f.key.String())
			}
		}
		for _, d := range groups {
			wrong = append(wrong, *d)
		}
	}
	return wrong
}

// lastError returns the last error of an account, nil if its status has none.
func (n *notices) lastError(ctx context.Context, account string) *wxtoken.LastError {
	key, err := wxtoken.ParseKey(account)
	if err != nil {
		return nil
	}
	s, _, err := n.store().Status(ctx, key)
	if err != nil {
		return nil
	}
	return s.LastError
}

// known returns what is wrong with an account that fails, and its last error: its status may know
// better than its record.
//
// WeChat's word beats the record's: that a permission set is missing is mended on WeChat's console,
// and no renewal brings it to an end.
func (n *notices) known(ctx context.Context, f troubled) (wxtoken.Reason, *wxtoken.LastError) {
	s, _, err := n.store().Status(ctx, f.key)
	switch {
	case err != nil || s.LastError == nil || s.Failures == 0:
		return f.cause, nil
	case truth.Refusal(s.LastError).LacksPermission():
		return truth.PermissionMissing, s.LastError
	}
	return f.cause, s.LastError
}
