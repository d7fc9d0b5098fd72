package refresher

import (
	"context"
	"slices"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/gate"
	"wxtoken/internal/store"
)

// renewing sets the conditions that say what holds a component back, RefusalsBelieved among them,
// and the state because of it: all from one look, so that they agree. When nothing holds it back
// any more, the state is again that of its own token.
//
// It is the last of all changes that are made to a component's status (writeStatus), and made at
// each of them. So no writer has to know of it, and none can hide a reason that lasts
// (docs/adr/0036).
func renewing(g *gate.Gate, clock func() time.Time) account.Change {
	return func(s *wxtoken.Status) {
		now := clock()
		holds := g.Holds()
		if len(holds) == 0 {
			account.SetCondition(s, wxtoken.ConditionRenewing, now, true, wxtoken.ReasonUnhindered, "")
		} else {
			account.SetCondition(s, wxtoken.ConditionRenewing, now, false, holds[0].Reason, gate.Message(holds, now).EN)
			for i := range s.Conditions {
				if s.Conditions[i].Type == wxtoken.ConditionRenewing {
					s.Conditions[i].Until = heldUntil(holds)
				}
			}
		}
		doubted := slices.ContainsFunc(holds, func(h store.Hold) bool { return h.Reason == wxtoken.HeldDoubted })
		if doubted != account.RefusalsAreDoubted(*s) {
			account.RefusalsDoubted(now, doubted)(s)
		}
		if account.IsFalse(*s, wxtoken.ConditionEventsOpened) {
			return // its tickets can't even be read
		}
		// The gravest reason that has a state gives it. Some have none, such as a list that is
		// being read: they delay renewals and are no trouble of the component.
		for _, h := range holds {
			if state := gate.State(h); state != "" {
				s.State = state
				if h.Error != nil {
					s.LastError = h.Error
				} else if state == wxtoken.StateOperator && s.Failures == 0 {
					s.LastError = nil
				}
				return
			}
		}
		// The state was a reason's, which is over, and the component's own renewals have not
		// failed. Where they have, they say so themselves.
		if s.Failures == 0 && slices.Contains([]wxtoken.State{wxtoken.StateOperator, wxtoken.StateRenewingFailed, wxtoken.StateWaitingForTicket}, s.State) {
			account.Active(now)(s)
		}
	}
}

// heldConditions returns the condition Renewing of each component that is held back. The page and
// --check ask for it, and must get an answer while NATS stores nothing: so it is made from what
// this process knows, and the status adds since when, if it can be read.
//
// Several refreshers may answer differently for a moment, since each knows at once what it met
// itself, and what others met by its view.
func (r *Refresher) heldConditions(ctx context.Context) map[string]wxtoken.Condition {
	held := map[string]wxtoken.Condition{}
	for _, c := range r.all() {
		// Since when; if it can't be read, this is told all the same.
		s, _, _ := r.store.Status(ctx, wxtoken.ComponentKey(c.appid))
		renewing(c.gate, r.now)(&s)
		if condition, ok := s.Held(); ok {
			held[c.appid] = condition
		}
	}
	return held
}

// heldUntil returns when the gravest of the reasons ends, or is looked at again; nil if that is not
// known.
func heldUntil(holds []store.Hold) *time.Time {
	if holds[0].Until.IsZero() {
		return nil
	}
	until := holds[0].Until.UTC()
	return &until
}
