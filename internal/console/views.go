package console

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
)

// Methods that templates call on their data. They show nothing that JSON does not.

// unknownState stands for no known state in addresses.
const unknownState = "unknown"

// StateCount is how many accounts are in a state.
type StateCount struct {
	State, Param string
	Count        int
	Tone         string
}

// ByState returns the counts, the states that need a person first.
func (t *Tally) ByState() (counts []StateCount) {
	tones := map[wxtoken.State]string{
		wxtoken.StateActive: "ok", wxtoken.StateRenewingFailed: "risk", wxtoken.StateOperator: "bad", wxtoken.StateNeedsAuthorization: "bad",
	}
	for _, state := range []wxtoken.State{
		wxtoken.StateOperator, wxtoken.StateNeedsAuthorization, wxtoken.StateRenewingFailed, wxtoken.StateActive, wxtoken.StateRevoked, "",
	} {
		n := t.States[state]
		if state == "" && n == 0 {
			continue
		}
		counts = append(counts, StateCount{string(state), cmp.Or(string(state), unknownState), n, tones[state]})
	}
	return counts
}

// tone is the class of a count: a zero has no colour.
func tone[N int | int64 | uint64](n N, class string) string {
	if n == 0 {
		return "zero"
	}
	return class
}

// BadgeState is the state as the badge shows it.
func (r Row) BadgeState() string { return string(r.State) }

// Dead reports whether the key should have a valid token and has none.
func (r Row) Dead() bool { return !r.Valid && r.State != wxtoken.StateRevoked }

// DisplayName is the name of the account, else its appid.
func (r Row) DisplayName() string {
	return cmp.Or(printable(r.Name), r.Key.Authorizer, r.Key.Component)
}

// RefText is the ref as it can be shown.
func (r Row) RefText() string { return printable(r.Ref) }

// Ready is the condition Ready.
func (r Row) Ready() (c wxtoken.Condition) {
	if i := slices.IndexFunc(r.Conditions, func(c wxtoken.Condition) bool { return c.Type == wxtoken.ConditionReady }); i >= 0 {
		c = r.Conditions[i]
	}
	return c
}

// Verdict is the class of an account's sentence.
func (a Account) Verdict() string {
	switch {
	case a.State == wxtoken.StateRevoked:
		return ""
	case a.Valid && a.State == wxtoken.StateActive:
		return verdictOK
	case a.Valid:
		return verdictRisk
	}
	return verdictBroken
}

// First is the place of the first row that is shown.
func (a Accounts) First() int { return (a.Page-1)*a.Limit + 1 }

// Last is the place of the last row that is shown.
func (a Accounts) Last() int { return (a.Page-1)*a.Limit + len(a.Rows) }

// Filtered reports whether the list is of some accounts only.
func (a Accounts) Filtered() bool {
	return slices.ContainsFunc([]string{"q", "state", "token", "component", "lacks", "within", "errcode", "kind"}, func(name string) bool { return a.query.Query.Get(name) != "" })
}

// Param returns a parameter of the query.
func (r *Request) Param(name string) string { return r.Query.Get(name) }

// Param is the code in an address.
func (e errcodeCount) Param() string { return strconv.Itoa(e.Code) }

// choice is an option of a select.
type choice struct {
	Param string
	Text  lang.Text
}

// timesLeft are the choices for the time until a token expires.
func timesLeft() (choices []choice) {
	for _, d := range []time.Duration{5 * time.Minute, 20 * time.Minute, time.Hour} {
		choices = append(choices, choice{strconv.Itoa(int(d.Seconds())), spanText(d)})
	}
	return choices
}

// sorts are the choices for the order of a list.
func sorts() []choice {
	return []choice{
		{byWorst, lang.T("worst first", "问题优先")}, {byExpires, lang.T("expires soonest", "最先到期")},
		{bySince, lang.T("changed last", "最近变化")}, {byAppID, lang.T("by appid", "按 appid")},
	}
}

// Param is the id in an address.
func (l lackCount) Param() string { return strconv.Itoa(l.ID) }
