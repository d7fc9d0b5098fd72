package refresher

import (
	"context"
	"errors"
	"slices"
	"time"

	"wxtoken/client"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// Types of conditions.
const (
	conditionReady    = "Ready"            // the token is good
	conditionTicket   = "TicketFlowing"    // a component's tickets arrive
	conditionRefusals = "RefusalsBelieved" // of a component: an account that WeChat refuses is marked
	conditionOpened   = "EventsOpened"     // of a component: what ingest seals can be opened
)

// statusChange changes one aspect of a status.
type statusChange func(*wxtoken.Status)

// setStatus changes the status of key. Where it can't be written that is only logged: the next renewal
// makes it again.
func (r *Refresher) setStatus(ctx context.Context, key wxtoken.Key, changes ...statusChange) {
	if err := r.writeStatus(ctx, key, changes...); err != nil {
		r.log.Warn().Err(err).Stringer("key", key).Msg("status not written")
	}
}

// writeStatus changes the status of key. That of a component says each time what holds it back, whatever else is said.
func (r *Refresher) writeStatus(ctx context.Context, key wxtoken.Key, changes ...statusChange) error {
	if c, ok := r.component(key.Component); ok && key.Kind == wxtoken.KindComponent {
		changes = append(slices.Clip(changes), r.renewing(c))
	}
	return r.store.UpdateStatus(ctx, key, func(s *wxtoken.Status) {
		for _, change := range changes {
			if change != nil {
				change(s)
			}
		}
	})
}

// condition sets one condition; since moves only when its status does.
func condition(s *wxtoken.Status, kind string, now time.Time, ok bool, reason, message string) {
	status := "False"
	if ok {
		status = "True"
	}
	c := wxtoken.Condition{Type: kind, Status: status, Reason: reason, Message: message, Since: now.UTC()}
	for i, old := range s.Conditions {
		if old.Type == kind {
			if old.Status == status {
				c.Since = old.Since
			}
			s.Conditions[i] = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}

// ifRevoked makes a change only while the authorization is over (over), or only while it is in force.
// News of an authorization and of its cancellation may overtake each other on their way here; the
// credential, read after the status that is to be replaced, says which of them is true.
func (r *Refresher) ifRevoked(ctx context.Context, key wxtoken.Key, over bool, change statusChange) statusChange {
	return func(s *wxtoken.Status) {
		cred, err := r.store.Credential(ctx, key)
		if err == nil && cred.RevokedAt.IsZero() == over {
			return
		}
		change(s)
	}
}

// inForce takes back that the authorization is over, where that is no longer so: a ticket that is kept again, or an account
// whose news was lost with whoever brought it back.
func (r *Refresher) inForce(ctx context.Context, key wxtoken.Key) statusChange {
	return func(s *wxtoken.Status) {
		if s.State != wxtoken.StateRevoked {
			return
		}
		if cred, err := r.store.Credential(ctx, key); err == nil && cred.RevokedAt.IsZero() {
			s.State = wxtoken.StateActive
		}
	}
}

// active: the token was renewed. A key that was cancelled stays so: this news may come late.
func active(now time.Time) statusChange {
	return func(s *wxtoken.Status) {
		if s.State == wxtoken.StateRevoked || isFalse(*s, conditionOpened) {
			return
		}
		s.State, s.Failures, s.LastError, s.ReauthorizeURL = wxtoken.StateActive, 0, nil, ""
		condition(s, conditionReady, now, true, "Renewed", "")
	}
}

// authorizedAt: an authorization is in force, again perhaps. ref is the caller's own id for it.
func authorizedAt(at time.Time, ref string) statusChange {
	return func(s *wxtoken.Status) {
		if s.State == wxtoken.StateRevoked || s.State == "" {
			s.State = wxtoken.StateActive
		}
		account(s).Ref = ref
		if !at.IsZero() {
			at := at.UTC()
			s.Authorizer.AuthorizedAt = &at
		}
	}
}

// known: what the credential tells of an account, where the status has lost it.
func known(cred store.Credential) statusChange {
	return func(s *wxtoken.Status) {
		if s.Authorizer == nil && cred.Key.Kind == wxtoken.KindAuthorizer {
			authorizedAt(cred.AuthorizedAt, cred.Ref)(s)
		}
	}
}

func funcInfo(ids []int) statusChange {
	return func(s *wxtoken.Status) { account(s).FuncInfo = ids }
}

func profile(info wechat.AuthorizerInfo) statusChange {
	return func(s *wxtoken.Status) {
		account(s).Profile = info.Profile
		if info.FuncInfo != nil {
			s.Authorizer.FuncInfo = info.FuncInfo
		}
	}
}

func account(s *wxtoken.Status) *wxtoken.Authorizer {
	if s.Authorizer == nil {
		s.Authorizer = &wxtoken.Authorizer{}
	}
	return s.Authorizer
}

// withoutPermission: the account is authorized and there is no token for it.
func withoutPermission(now time.Time, link string) statusChange {
	return func(s *wxtoken.Status) {
		s.State, s.ReauthorizeURL = wxtoken.StateNeedsAuthorization, link
		condition(s, conditionReady, now, false, noPermission, "the account granted no API permission: WeChat gives no token")
	}
}

// Reasons of the condition Ready that are asked for elsewhere.
const (
	noPermission   = "NoAPIPermission"
	noRefreshToken = "NoRefreshToken"
)

// readyReason returns the reason of the condition Ready.
func readyReason(s wxtoken.Status) string {
	for _, c := range s.Conditions {
		if c.Type == conditionReady {
			return c.Reason
		}
	}
	return ""
}

// failing: a renewal failed and will be tried again.
func failing(now time.Time, failures int, err error) statusChange {
	return troubled(wxtoken.StateRenewingFailed, "RenewalFailed", now, failures, err)
}

// stillFailing is failing, but leaves an account alone whose merchant was asked to authorize again: that is so until it works.
func stillFailing(now time.Time, cred store.Credential, err error) statusChange {
	if cred.AuthorizationNeeded {
		return nil
	}
	return failing(now, cred.Failures, err)
}

// expired: the token died before the next one came.
func expired(now time.Time) statusChange {
	return func(s *wxtoken.Status) {
		if s.State == wxtoken.StateActive || s.State == "" {
			s.State = wxtoken.StateRenewingFailed
		}
		condition(s, conditionReady, now, false, "Expired", "the token expired before the next one came")
	}
}

// needsAuthorization: only the merchant can help, through the link.
func needsAuthorization(now time.Time, failures int, reason string, err error, link string) statusChange {
	return func(s *wxtoken.Status) {
		troubled(wxtoken.StateNeedsAuthorization, reason, now, failures, err)(s)
		if s.State == wxtoken.StateNeedsAuthorization {
			s.ReauthorizeURL = link
		}
	}
}

// ticketRefused: the component's ticket is no good; the next one may be.
func ticketRefused(now time.Time, failures int, err error) statusChange {
	return troubled(wxtoken.StateWaitingForTicket, "TicketRefused", now, failures, err)
}

// operator: a person must act.
func operator(now time.Time, err error) statusChange {
	return func(s *wxtoken.Status) {
		troubled(wxtoken.StateOperator, "OperatorNeeded", now, s.Failures+1, err)(s)
	}
}

// revoked: the authorization is over.
func revoked(now time.Time, cause error) statusChange {
	return func(s *wxtoken.Status) {
		s.State, s.Failures = wxtoken.StateRevoked, 0
		if cause != nil {
			s.LastError = lastError(now, cause)
		}
		condition(s, conditionReady, now, false, "Cancelled", "the authorization was cancelled")
	}
}

func troubled(state wxtoken.State, reason string, now time.Time, failures int, err error) statusChange {
	return func(s *wxtoken.Status) {
		if s.State == wxtoken.StateRevoked {
			return
		}
		s.State, s.Failures, s.LastError = state, failures, lastError(now, err)
		condition(s, conditionReady, now, false, reason, s.LastError.Message)
	}
}

// lastError keeps what WeChat said; an error of package wechat never shows a secret.
func lastError(now time.Time, err error) *wxtoken.LastError {
	e := &wxtoken.LastError{Message: err.Error(), At: now.UTC()}
	if w, ok := errors.AsType[*wechat.Error](err); ok {
		e.Code, e.RID, e.API = w.Code, w.RID, string(w.API)
	}
	return e
}

// waitingForTicket: nothing can be done for a component before its first ticket.
func waitingForTicket(now time.Time) statusChange {
	return func(s *wxtoken.Status) {
		s.State = wxtoken.StateWaitingForTicket
		condition(s, conditionTicket, now, false, "NoTicket", noTicketYet)
	}
}

// noTicketYet says what a component without a ticket waits for.
const noTicketYet = "no component_verify_ticket came yet: WeChat pushes one every 10 minutes"

// ticketReceived: a ticket came. good tells that the component has a token that is good.
func ticketReceived(now, received time.Time, good bool) statusChange {
	return func(s *wxtoken.Status) {
		at := received.UTC()
		s.TicketReceivedAt = &at
		condition(s, conditionTicket, now, true, "TicketReceived", "")
		if isFalse(*s, conditionOpened) {
			condition(s, conditionOpened, now, true, "Opened", "")
			s.State, s.LastError = wxtoken.StateWaitingForTicket, nil
		}
		switch {
		case s.State == "":
			s.State = wxtoken.StateWaitingForTicket // until the token is there
		case s.State == wxtoken.StateWaitingForTicket && good:
			active(now)(s)
		}
	}
}

// ticketLate: tickets stay away. One that is too old to be used is as good as none.
func ticketLate(now time.Time, reason, message string, unusable bool) statusChange {
	return func(s *wxtoken.Status) {
		condition(s, conditionTicket, now, false, reason, message)
		if unusable {
			s.State = wxtoken.StateWaitingForTicket
		}
	}
}

// unopened: an event of the component is sealed for a key whose seed is not here, so its tickets and codes can't be read.
func unopened(now time.Time, err error) statusChange {
	return func(s *wxtoken.Status) {
		if s.State != wxtoken.StateOperator || s.LastError == nil || s.LastError.Message != err.Error() {
			s.State, s.LastError = wxtoken.StateOperator, lastError(now, err)
		}
		condition(s, conditionOpened, now, false, "SealKeyUnknown", err.Error())
	}
}

// doubted reports whether a status says that refusals are not believed.
func doubted(s wxtoken.Status) bool { return isFalse(s, conditionRefusals) }

// isFalse reports whether a status says that a condition does not hold.
func isFalse(s wxtoken.Status, kind string) bool {
	return slices.ContainsFunc(s.Conditions, func(c wxtoken.Condition) bool { return c.Type == kind && c.Status == "False" })
}

// refusalsDoubted: so many authorizations are refused at once that none of it is believed (or are not any more).
func refusalsDoubted(now time.Time, doubted bool) statusChange {
	return func(s *wxtoken.Status) {
		if !doubted {
			condition(s, conditionRefusals, now, true, "Believed", "")
			return
		}
		condition(s, conditionRefusals, now, false, "ManyAtOnce", manyRefused)
	}
}

// manyRefused says why refusals are not believed.
const manyRefused = "more than a fifth of the renewals were refused as if the accounts had cancelled: nobody is marked until that ends"
