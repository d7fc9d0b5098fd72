package account

import (
	"errors"
	"slices"
	"time"

	"wxtoken/client"
	"wxtoken/internal/wechat"
)

// Change changes one aspect of a status.
type Change func(*wxtoken.Status)

// SetCondition sets one condition; since moves only when its status does.
func SetCondition(s *wxtoken.Status, kind wxtoken.ConditionType, now time.Time, ok bool, reason wxtoken.Reason, message string) {
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

// Active says: the token was renewed. A key that was cancelled stays so: this news may come late.
func Active(now time.Time) Change {
	return func(s *wxtoken.Status) {
		if s.State == wxtoken.StateRevoked || IsFalse(*s, wxtoken.ConditionEventsOpened) {
			return
		}
		s.State, s.Failures, s.LastError, s.ReauthorizeURL = wxtoken.StateActive, 0, nil, ""
		SetCondition(s, wxtoken.ConditionReady, now, true, wxtoken.ReasonRenewed, "")
	}
}

// AuthorizedAt says: an authorization is in force, again perhaps. ref is the caller's own id for
// it.
func AuthorizedAt(at time.Time, ref string) Change {
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

// Known says: what the credential tells of an account, where the status has lost it.
func Known(cred Credential) Change {
	return func(s *wxtoken.Status) {
		if s.Authorizer == nil && KindOf(cred.Key).OfMerchant {
			AuthorizedAt(cred.AuthorizedAt, cred.Ref)(s)
		}
	}
}

func FuncInfo(ids []int) Change {
	return func(s *wxtoken.Status) { account(s).FuncInfo = ids }
}

func ProfileOf(info wechat.AuthorizerInfo) Change {
	return func(s *wxtoken.Status) {
		a := account(s)
		if len(info.Profile) > 0 {
			a.Profile = info.Profile
		}
		if info.FuncInfo != nil {
			a.FuncInfo = info.FuncInfo
		}
	}
}

func account(s *wxtoken.Status) *wxtoken.Authorizer {
	if s.Authorizer == nil {
		s.Authorizer = &wxtoken.Authorizer{}
	}
	return s.Authorizer
}

// WithoutPermission says: the account is authorized and there is no token for it.
func WithoutPermission(now time.Time, link string) Change {
	return func(s *wxtoken.Status) {
		s.State, s.ReauthorizeURL = wxtoken.StateNeedsAuthorization, link
		SetCondition(s, wxtoken.ConditionReady, now, false, wxtoken.ReasonNoAPIPermission, "the account granted no API permission: WeChat gives no token")
	}
}

// ReadyReason returns the reason of the condition Ready.
func ReadyReason(s wxtoken.Status) wxtoken.Reason {
	for _, c := range s.Conditions {
		if c.Type == wxtoken.ConditionReady {
			return c.Reason
		}
	}
	return ""
}

// Failing says: a renewal failed and will be tried again.
func Failing(now time.Time, failures int, err error) Change {
	return Troubled(wxtoken.StateRenewingFailed, wxtoken.ReasonRenewalFailed, now, failures, err)
}

// stillFailing is Failing, but leaves an account alone whose merchant was asked to authorize again:
// that is so until it works.
func (c Credential) stillFailing(now time.Time, err error) Change {
	if c.AuthorizationNeeded {
		return nil
	}
	return Failing(now, c.Failures, err)
}

// Expired says: the token died before the next one came. Why there is no next one is the graver news,
// where only the merchant can help.
func Expired(now time.Time) Change {
	return func(s *wxtoken.Status) {
		if s.State == wxtoken.StateRevoked || s.State == wxtoken.StateNeedsAuthorization {
			return
		}
		if s.State == wxtoken.StateActive || s.State == "" {
			s.State = wxtoken.StateRenewingFailed
		}
		SetCondition(s, wxtoken.ConditionReady, now, false, wxtoken.ReasonExpired, "the token expired before the next one came")
	}
}

// NeedsAuthorization says: only the merchant can help, through the link.
func NeedsAuthorization(now time.Time, failures int, reason wxtoken.Reason, err error, link string) Change {
	return func(s *wxtoken.Status) {
		Troubled(wxtoken.StateNeedsAuthorization, reason, now, failures, err)(s)
		if s.State == wxtoken.StateNeedsAuthorization {
			s.ReauthorizeURL = link
		}
	}
}

// TicketRefused says: the component's ticket is no good; the next one may be.
func TicketRefused(now time.Time, failures int, err error) Change {
	return Troubled(wxtoken.StateWaitingForTicket, wxtoken.ReasonTicketRefused, now, failures, err)
}

// Operator says: a person must act.
func Operator(now time.Time, err error) Change {
	return func(s *wxtoken.Status) {
		Troubled(wxtoken.StateOperator, wxtoken.ReasonOperatorNeeded, now, s.Failures+1, err)(s)
	}
}

// Revoked says: the authorization is over.
func Revoked(now time.Time, cause error) Change {
	return func(s *wxtoken.Status) {
		s.State, s.Failures, s.ReauthorizeURL = wxtoken.StateRevoked, 0, ""
		if cause != nil {
			s.LastError = LastError(now, cause)
		}
		SetCondition(s, wxtoken.ConditionReady, now, false, wxtoken.ReasonCancelled, "the authorization was cancelled")
	}
}

func Troubled(state wxtoken.State, reason wxtoken.Reason, now time.Time, failures int, err error) Change {
	return func(s *wxtoken.Status) {
		if s.State == wxtoken.StateRevoked {
			return
		}
		s.State, s.Failures, s.LastError = state, failures, LastError(now, err)
		SetCondition(s, wxtoken.ConditionReady, now, false, reason, s.LastError.Message)
	}
}

// LastError keeps what WeChat said; an error of package wechat never shows a secret.
func LastError(now time.Time, err error) *wxtoken.LastError {
	e := &wxtoken.LastError{Message: err.Error(), At: now.UTC()}
	if w, ok := errors.AsType[*wechat.Error](err); ok {
		e.Code, e.RID, e.API = w.Code, w.RID, string(w.API)
	}
	return e
}

// WaitingForTicket says: nothing can be done for a component before its first ticket.
func WaitingForTicket(now time.Time) Change {
	return func(s *wxtoken.Status) {
		s.State = wxtoken.StateWaitingForTicket
		SetCondition(s, wxtoken.ConditionTicketFlowing, now, false, wxtoken.ReasonNoTicket, NoTicketYet)
	}
}

// NoTicketYet says what a component without a ticket waits for.
const NoTicketYet = "no component_verify_ticket came yet: WeChat pushes one every 10 minutes"

// TicketReceived says: a ticket came. good tells that the component has a token that is good.
func TicketReceived(now, received time.Time, good bool) Change {
	return func(s *wxtoken.Status) {
		at := received.UTC()
		s.TicketReceivedAt = &at
		SetCondition(s, wxtoken.ConditionTicketFlowing, now, true, wxtoken.ReasonTicketReceived, "")
		if IsFalse(*s, wxtoken.ConditionEventsOpened) {
			SetCondition(s, wxtoken.ConditionEventsOpened, now, true, wxtoken.ReasonOpened, "")
			s.State, s.LastError = wxtoken.StateWaitingForTicket, nil
		}
		switch {
		case s.State == "":
			s.State = wxtoken.StateWaitingForTicket // until the token is there
		case s.State == wxtoken.StateWaitingForTicket && good:
			Active(now)(s)
		}
	}
}

// TicketLate says: no ticket has come for a while. One that is too old to be used is as good as
// none.
func TicketLate(now time.Time, reason wxtoken.Reason, message string, unusable bool) Change {
	return func(s *wxtoken.Status) {
		SetCondition(s, wxtoken.ConditionTicketFlowing, now, false, reason, message)
		if unusable {
			s.State = wxtoken.StateWaitingForTicket
		}
	}
}

// Unopened says: an event of the component is sealed for a key whose seed is not here, so its
// tickets and codes can't be read.
func Unopened(now time.Time, err error) Change {
	return func(s *wxtoken.Status) {
		if s.State != wxtoken.StateOperator || s.LastError == nil || s.LastError.Message != err.Error() {
			s.State, s.LastError = wxtoken.StateOperator, LastError(now, err)
		}
		SetCondition(s, wxtoken.ConditionEventsOpened, now, false, wxtoken.ReasonSealKeyUnknown, err.Error())
	}
}

// RefusalsAreDoubted reports whether a status says that refusals are not believed.
func RefusalsAreDoubted(s wxtoken.Status) bool { return IsFalse(s, wxtoken.ConditionRefusalsBelieved) }

// IsFalse reports whether a status says that a condition does not hold.
func IsFalse(s wxtoken.Status, kind wxtoken.ConditionType) bool {
	return slices.ContainsFunc(s.Conditions, func(c wxtoken.Condition) bool { return c.Type == kind && c.Status == "False" })
}

// RefusalsDoubted says: so many authorizations are refused at once that none of it is believed (or
// are not any more).
func RefusalsDoubted(now time.Time, doubted bool) Change {
	return func(s *wxtoken.Status) {
		if !doubted {
			SetCondition(s, wxtoken.ConditionRefusalsBelieved, now, true, wxtoken.ReasonBelieved, "")
			return
		}
		SetCondition(s, wxtoken.ConditionRefusalsBelieved, now, false, wxtoken.ReasonManyAtOnce, ManyRefused)
	}
}

// ManyRefused says why refusals are not believed.
const ManyRefused = "more than a fifth of the renewals were refused as if the accounts had cancelled: none is marked until that ends"
