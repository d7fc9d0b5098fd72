package truth_test

import (
	"slices"
	"testing"

	"wxtoken/client"
	"wxtoken/internal/truth"
)

// TestOrder: what an operator can mend comes first, then renewals that fail, then what only merchants can do; among those what leaves
// the most accounts without a token.
func TestOrder(t *testing.T) {
	t.Parallel()
	refused := func(code int) *wxtoken.LastError {
		return &wxtoken.LastError{Code: code, API: "api_authorizer_token"}
	}
	order := []struct {
		what string
		truth.Trouble
	}{
		{"an operator's, 40 dead", truth.Trouble{Cause: wxtoken.HeldQuota, Dead: 40, Accounts: 40}},
		{"an operator's, 12 dead", truth.Trouble{Cause: wxtoken.HeldRefused, Dead: 12, Accounts: 5000}},
		{"a dead token that an operator can mend", truth.Trouble{Cause: truth.AccountTokenDead, Error: refused(61004), Dead: 2, Accounts: 2}},
		{"a permission set, none dead yet", truth.Trouble{Cause: truth.PermissionMissing, Error: refused(61007), Accounts: 300}},
		{"a renewal that an operator can mend", truth.Trouble{Cause: truth.RenewalFails, Error: refused(61004), Accounts: 200}},
		{"another component without tickets, nothing lost yet", truth.Trouble{Cause: wxtoken.HeldNoTicket, Accounts: 7}},
		{"WeChat is away, 900 dead", truth.Trouble{Cause: wxtoken.HeldAway, Dead: 900, Accounts: 900}},
		{"dead, WeChat is busy", truth.Trouble{Cause: truth.AccountTokenDead, Error: refused(-1), Dead: 3, Accounts: 3}},
		{"tried again, and alive", truth.Trouble{Cause: truth.RenewalFails, Accounts: 4000}},
		{"merchants, 80", truth.Trouble{Cause: truth.AuthorizationNeeded, Dead: 80, Accounts: 80}},
		{"merchants, 6", truth.Trouble{Cause: truth.NoAPIPermission, Dead: 6, Accounts: 6}},
		{"over in a minute", truth.Trouble{Cause: wxtoken.HeldMinuteLimit, Dead: 100, Accounts: 100}},
	}
	for i, a := range order {
		for j, b := range order {
			if got := a.Compare(b.Trouble); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%q against %q: %d", a.what, b.what, got)
			}
		}
	}
}

// TestCauseByStatus: what a status says is wrong.
func TestCauseByStatus(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		state wxtoken.State
		ready wxtoken.Reason
		code  int
		dead  bool
		want  wxtoken.Reason
	}{
		{wxtoken.StateActive, wxtoken.ReasonRenewed, 0, false, ""},
		{wxtoken.StateRevoked, wxtoken.ReasonCancelled, 0, true, ""},
		{"", "", 0, false, ""},
		{wxtoken.StateRenewingFailed, wxtoken.ReasonExpired, 0, true, truth.AccountTokenDead},
		{wxtoken.StateRenewingFailed, wxtoken.ReasonRenewalFailed, -1, false, truth.RenewalFails},
		{wxtoken.StateOperator, wxtoken.ReasonOperatorNeeded, 61007, false, truth.PermissionMissing},
		{wxtoken.StateOperator, wxtoken.ReasonOperatorNeeded, 61007, true, truth.PermissionMissing},
		{wxtoken.StateNeedsAuthorization, wxtoken.ReasonRefreshTokenInvalid, 61023, false, truth.AuthorizationNeeded},
		{wxtoken.StateNeedsAuthorization, wxtoken.ReasonNoAPIPermission, 0, true, truth.NoAPIPermission},
	} {
		var e *wxtoken.LastError
		if row.code != 0 {
			e = &wxtoken.LastError{Code: row.code, API: "api_authorizer_token"}
		}
		if got := truth.OfAccount(row.state, row.ready, e, row.dead); got != row.want {
			t.Errorf("%+v: %q", row, got)
		}
	}
	condition := func(of wxtoken.ConditionType, reason wxtoken.Reason) []wxtoken.Condition {
		return []wxtoken.Condition{{Type: of, Status: "False", Reason: reason}}
	}
	for _, row := range []struct {
		status wxtoken.Status
		dead   bool
		want   wxtoken.Reason
	}{
		{wxtoken.Status{State: wxtoken.StateActive}, false, ""},
		{wxtoken.Status{}, true, ""},
		{wxtoken.Status{State: wxtoken.StateOperator, Conditions: condition(wxtoken.ConditionRenewing, wxtoken.HeldQuota)}, true, wxtoken.HeldQuota},
		{wxtoken.Status{State: wxtoken.StateOperator, Conditions: condition(wxtoken.ConditionEventsOpened, wxtoken.ReasonSealKeyUnknown)}, false, truth.SealKeyUnknown},
		{wxtoken.Status{State: wxtoken.StateActive, Conditions: condition(wxtoken.ConditionTicketFlowing, wxtoken.ReasonTicketLate)}, false, wxtoken.HeldNoTicket},
		{wxtoken.Status{State: wxtoken.StateOperator}, false, wxtoken.HeldRefused},
		{wxtoken.Status{State: wxtoken.StateRenewingFailed}, true, wxtoken.HeldTokenDead},
		{wxtoken.Status{State: wxtoken.StateRenewingFailed}, false, wxtoken.HeldAway},
	} {
		if got := truth.OfComponent(row.status, row.dead); got != row.want {
			t.Errorf("%+v: %q", row.status, got)
		}
	}
	if !slices.ContainsFunc(truth.Causes, func(c truth.Cause) bool { return c.Name == truth.RenewalFails }) {
		t.Error("an account whose renewal fails has no words")
	}
}
