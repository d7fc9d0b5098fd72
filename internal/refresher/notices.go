package refresher

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/notify"
	"wxtoken/internal/store"
	"wxtoken/internal/truth"
)

// maxAsked is how many statuses of accounts are read in one look, for their last errors.
const maxAsked = 200

// notices has operators told after each sweep. The sweep does not wait: it makes renewals certain, and what reads statuses and JOURNAL
// may take seconds for each component where NATS is slow.
type notices struct {
	teller *notify.Teller
	dead   *deadLetters
	swept  chan struct{} // holds one, while there was a sweep since the last look
}

// look asks for a look.
func (n notices) look() {
	select {
	case n.swept <- struct{}{}:
	default: // one is to come
	}
}

// run looks when it is asked to, until ctx ends.
func (n notices) run(ctx context.Context, notice func(context.Context, time.Time), now func() time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.swept:
			notice(ctx, now())
		}
	}
}

// notice tells operators what is wrong, and what is over. It sees what the statuses say: the reasons of the gates, the conditions of the
// components, the records of the accounts.
func (r *Refresher) notice(ctx context.Context, now time.Time) {
	told := appids(r.all())
	var wrong []events.NoticeData
	for _, c := range r.all() {
		wrong = append(wrong, r.wrong(ctx, c, now)...)
	}
	wrong = append(r.wrongAccounts(ctx, wrong, now), r.mirrors.wrong()...)
	if !slices.ContainsFunc(wrong, func(d events.NoticeData) bool { return d.Cause == string(wxtoken.HeldNATS) }) {
		wrong = append(wrong, r.notices.dead.wrong(ctx, r)...)
	}
	if err := r.notices.teller.Tell(ctx, now, told, wrong); err != nil && ctx.Err() == nil {
		r.log.Warn().Err(err).Msg("failed to tell what is wrong")
	}
}

// wrong returns what is wrong with a component.
func (r *Refresher) wrong(ctx context.Context, c *component, now time.Time) (wrong []events.NoticeData) {
	s, _, err := r.store.Status(ctx, wxtoken.ComponentKey(c.appid))
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
		if h.Until.After(now) && (h.Reason == wxtoken.HeldQuota || h.Reason == wxtoken.HeldTokenDead) {
			until := h.Until.UTC()
			d.Until = &until // of the others it is when they are tried again, in seconds
		}
		add(d)
	}
	for _, condition := range s.Conditions {
		switch {
		case condition.Status != "False":
		case condition.Type == wxtoken.ConditionEventsOpened:
			add(events.NoticeData{Cause: string(truth.SealKeyUnknown), Since: condition.Since})
		case condition.Type == wxtoken.ConditionTicketFlowing:
			add(events.NoticeData{Cause: string(wxtoken.HeldNoTicket), Since: condition.Since})
		}
	}
	return wrong
}

// deadLetters is what lies on DEAD, as far as the last look could tell.
type deadLetters struct {
	stream jetstream.Stream
	state  jetstream.StreamState // when it was counted
	of     map[string]int        // by component, "" where a message names none
}

// wrong returns how many messages lie on DEAD, by the components that are looked after here. The subjects are counted only where the
// stream has changed: most looks cost one small question. Where NATS does not tell, it is as it was.
func (d *deadLetters) wrong(ctx context.Context, r *Refresher) (wrong []events.NoticeData) {
	if r.nc.IsConnected() { // a look that waits for NATS would tell late that it is away
		if err := d.count(ctx, r.js); err != nil && ctx.Err() == nil {
			r.log.Debug().Err(err).Msg("failed to count dead letters")
		}
	}
	sums := map[string]int{}
	for component, n := range d.of {
		if _, ours := r.component(component); !ours {
			component = ""
		}
		sums[component] += n
	}
	for component, n := range sums {
		wrong = append(wrong, events.NoticeData{Component: component, Cause: string(truth.DeadLetters), Count: n})
	}
	return wrong
}

func (d *deadLetters) count(ctx context.Context, js jetstream.JetStream) (err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if d.stream == nil {
		if d.stream, err = js.Stream(ctx, events.StreamDead); err != nil {
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
		original, _ := events.OriginalSubject(subject)
		of[events.ComponentOf(original)] += int(n)
	}
	d.state, d.of = info.State, of
	return nil
}

// wrongAccounts adds the accounts to what is wrong: to each cause of their component those whose token is dead, and causes of their own.
func (r *Refresher) wrongAccounts(ctx context.Context, wrong []events.NoticeData, now time.Time) []events.NoticeData {
	held := map[string][]int{} // by component: places in wrong
	for i, d := range wrong {
		held[d.Component] = append(held[d.Component], i)
	}
	type about struct {
		component string
		cause     wxtoken.Reason
	}
	groups := map[about]*events.NoticeData{}
	asked := 0
	r.view.Each(func(key wxtoken.Key, e *store.Entry) bool {
		if key.Kind != wxtoken.KindAuthorizer {
			return false
		}
		cause, _, _ := accountCause(*e, now)
		return cause != "" || e.Credential.Failing()
	}, func(key wxtoken.Key, e store.Entry) {
		if _, ours := r.component(key.Component); !ours {
			return
		}
		cause, since, dead := accountCause(e, now)
		needy := cause == truth.AuthorizationNeeded || cause == truth.NoAPIPermission
		if !needy && len(held[key.Component]) > 0 { // a failure, or a dead token, is then the component's
			for _, i := range held[key.Component] {
				if dead {
					count(&wrong[i], key)
				}
			}
			return
		}
		var last *wxtoken.LastError
		if !needy && asked < maxAsked {
			asked++
			if s, _, err := r.store.Status(ctx, key); err == nil && s.LastError != nil && s.Failures > 0 {
				last = s.LastError
				if truth.Refusal(last).LacksPermission() {
					cause = truth.PermissionMissing
				}
			}
		}
		if cause == "" {
			return // it is being tried again, and its token lives
		}
		d := groups[about{key.Component, cause}]
		if d == nil {
			d = &events.NoticeData{Component: key.Component, Cause: string(cause), Since: since, Error: last}
			groups[about{key.Component, cause}] = d
		}
		if !since.IsZero() && (d.Since.IsZero() || since.Before(d.Since)) {
			d.Since = since
		}
		count(d, key)
	})
	for _, d := range groups {
		wrong = append(wrong, *d)
	}
	return wrong
}

// count adds an account to a notice, which names the first few.
func count(d *events.NoticeData, key wxtoken.Key) {
	d.Count++
	name := key.String()
	at, _ := slices.BinarySearch(d.Keys, name)
	if at < events.NoticeKeys {
		d.Keys = slices.Insert(d.Keys, at, name)
		d.Keys = d.Keys[:min(len(d.Keys), events.NoticeKeys)]
	}
}

// accountCause returns what is wrong with an account by its record alone, since when as far as that is in it, and whether its token is dead.
func accountCause(e store.Entry, now time.Time) (cause wxtoken.Reason, since time.Time, dead bool) {
	cred := e.Credential
	dead = !e.Token.Lives(now)
	switch cred.State(e.Token, now) {
	case wxtoken.StateRevoked, wxtoken.StateActive:
		return "", since, false
	case wxtoken.StateNeedsAuthorization:
		switch {
		case cred.BeingAuthorized(now):
			return "", since, false
		case cred.GrantedNothing(now):
			return truth.NoAPIPermission, cred.AuthorizedAt(), dead
		}
		return truth.AuthorizationNeeded, since, dead
	}
	if dead {
		return truth.AccountTokenDead, e.Token.ExpiresAt(), true
	}
	return "", since, false
}
