package console

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
)

// What templates ask of the values that they are given. It says nothing that JSON does not.

// unknownState stands where no state is known, in addresses and style sheets.
const unknownState = "unknown"

// StateCount is how many accounts are in a state.
type StateCount struct {
	State, Param string
	Count        int
	Tone         string
}

// ByState returns the counts in the order in which people look at them.
func (t *Tally) ByState() (counts []StateCount) {
	for _, state := range []wxtoken.State{wxtoken.StateOperator, wxtoken.StateNeedsAuthorization, wxtoken.StateRenewingFailed, wxtoken.StateActive, wxtoken.StateRevoked, ""} {
		n := t.States[state]
		if state == "" && n == 0 {
			continue
		}
		tone := map[wxtoken.State]string{wxtoken.StateActive: "ok", wxtoken.StateRenewingFailed: "risk", wxtoken.StateOperator: "bad", wxtoken.StateNeedsAuthorization: "bad"}[state]
		counts = append(counts, StateCount{string(state), cmp.Or(string(state), unknownState), n, tone})
	}
	return counts
}

// tone is the class of a count: none of something is calm.
func tone[N int | int64 | uint64](n N, class string) string {
	if n == 0 {
		return "zero"
	}
	return class
}

// Shown is the state as the badge shows it.
func (r Row) Shown() string { return string(r.State) }

// Dead reports whether a key in force has no token that lives.
func (r Row) Dead() bool { return !r.Valid && r.State != wxtoken.StateRevoked }

// Called is the name of the account, else its appid.
func (r Row) Called() string { return cmp.Or(printable(r.Name), r.Key.Authorizer, r.Key.Component) }

// RefText is the ref for a page.
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

// First and Last are the places of the rows that are shown.
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

// choice is one of a select.
type choice struct {
	Param string
	Text  lang.Text
}

// withins are the times that are left.
func withins() (choices []choice) {
	for _, d := range []time.Duration{5 * time.Minute, 20 * time.Minute, time.Hour} {
		choices = append(choices, choice{strconv.Itoa(int(d.Seconds())), spanText(d)})
	}
	return choices
}

// sorts are the orders of a list.
func sorts() []choice {
	return []choice{
		{byWorst, lang.T("worst first", "问题优先")}, {byExpires, lang.T("ends soonest", "最先到期")},
		{bySince, lang.T("changed last", "最近变化")}, {byAppID, lang.T("by appid", "按 appid")},
	}
}

// Param is the id in an address.
func (l lackCount) Param() string { return strconv.Itoa(l.ID) }
