package truth

import (
	"cmp"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/wechat"
)

// Trouble is a cause with the accounts that suffer from it.
type Trouble struct {
	Cause    wxtoken.Reason
	Error    *wxtoken.LastError // the call that WeChat refused, where there is one
	Dead     int                // accounts without a valid token
	Accounts int                // all accounts that are concerned
}

// fixer is who can fix a cause.
type fixer uint8

// In the order in which an operator looks at causes: the first are those that only an operator can fix.
const (
	operator   fixer = iota
	refreshers       // they try again
	merchant
	minutes // it is over before a person has read about it
)

// Compare orders troubles by what to look at first: what an operator can fix, then renewals that fail and are
// tried again, then what only merchants can do. Among those comes first what leaves the most accounts
// without a valid token, then what concerns the most accounts.
func (t Trouble) Compare(other Trouble) int {
	return cmp.Or(cmp.Compare(t.fixer(), other.fixer()), cmp.Compare(other.Dead, t.Dead), cmp.Compare(other.Accounts, t.Accounts),
		cmp.Compare(t.Cause, other.Cause))
}

// OfNotice returns the trouble that a notice is about.
func OfNotice(d events.NoticeData) Trouble {
	t := Trouble{Cause: wxtoken.Reason(d.Cause), Error: d.Error, Accounts: d.Count}
	switch cause := CauseOf(t.Cause); {
	case cause.Things:
		t.Accounts = 0
	case !cause.Accounts, t.Cause == AccountTokenDead:
		t.Dead = d.Count
	}
	return t
}

func (t Trouble) fixer() fixer {
	c := CauseOf(t.Cause)
	if c.refused(t.Error) {
		return operator
	}
	return c.fixer
}

// refused reports whether WeChat's errcode decides: it says that an operator has to act.
func (c Cause) refused(e *wxtoken.LastError) bool {
	return e != nil && c.byErrcode && wechat.Judge(Refusal(e)) == wechat.Operator
}

// OfAccount returns what is wrong with an account, by its status: e is the error of a renewal that failed
// since the last successful one, nil if none failed; dead: it has no valid token. It returns "" for an account
// that is as it should be, and for one that has cancelled.
func OfAccount(state wxtoken.State, ready wxtoken.Reason, e *wxtoken.LastError, dead bool) wxtoken.Reason {
	switch {
	case state == wxtoken.StateRevoked:
		return ""
	case ready == wxtoken.ReasonNoAPIPermission:
		return NoAPIPermission
	case state == wxtoken.StateNeedsAuthorization:
		return AuthorizationNeeded
	case e != nil && Refusal(e).LacksPermission():
		return PermissionMissing
	case dead:
		return AccountTokenDead
	case state == wxtoken.StateActive, state == "":
		return ""
	}
	return RenewalFails
}

// OfCondition returns what is wrong with a component, by one of its conditions other than Renewing; "" if that
// is as it should be.
func OfCondition(c wxtoken.Condition) wxtoken.Reason {
	switch {
	case c.Status != "False":
	case c.Type == wxtoken.ConditionEventsOpened:
		return SealKeyUnknown
	case c.Type == wxtoken.ConditionTicketFlowing:
		return wxtoken.HeldNoTicket
	}
	return ""
}

// OfComponent returns what is wrong with a component, by its status; dead: it has no valid token. It returns ""
// for a component that is as it should be.
func OfComponent(s wxtoken.Status, dead bool) wxtoken.Reason {
	if held, ok := s.Held(); ok {
		return held.Reason
	}
	for _, condition := range s.Conditions {
		if cause := OfCondition(condition); cause != "" {
			return cause
		}
	}
	switch {
	case s.State == wxtoken.StateOperator:
		return wxtoken.HeldRefused
	case s.State == wxtoken.StateWaitingForTicket:
		return wxtoken.HeldNoTicket
	case dead && s.State != "":
		return wxtoken.HeldTokenDead
	case s.State == wxtoken.StateRenewingFailed:
		return wxtoken.HeldAway
	}
	return ""
}
