package refresher

import (
	"slices"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/truth"
)

// tally is what the last look at all keys found of a component's accounts. Metrics and notices are
// made from it: a look of their own would cost each of them as much as the sweep (docs/adr/0047).
//
// The sweep fills it while it goes through the view, one goroutine, and gives it away when it is at
// the end (lastSweep). From then on it is read by others and never changed: the next sweep makes
// another. So there is no lock, and a reader never sees half a count. What it says may be as old as
// a sweep's round; what is true now, a key's status and token say.
type tally struct {
	// Each account is in one of the first four. invalid counts across them: those in force whose
	// token has expired, whatever the reason.
	active, retrying, revoked, needy, invalid int

	first account.Life                          // of the tokens of those in force, the one that dies first
	wrong map[wxtoken.Reason]*events.NoticeData // accounts by what is wrong with them
	// The first few that fail and are not in wrong: their statuses may know why.
	fail []troubled
}

// troubled is an account whose renewals fail.
type troubled struct {
	key   wxtoken.Key
	cause wxtoken.Reason // "" while its token lives
	since time.Time
	dead  bool
}

// maxFail is how many accounts are in fail, and so how many statuses are read in one look, for
// their last errors. Of those beyond, the ones whose token is dead are counted all the same; the
// ones whose token lives are tried again, and nobody is told of them.
const maxFail = 200

// add counts an account.
//
// It runs under the view's lock for each of up to a million keys: it asks nothing, and allocates
// nothing for an account that is well. State goes by record, token and clock, so that what is
// counted here and what the status says agree; no record says that a token expired.
func (t *tally) add(key wxtoken.Key, e *store.Entry, now time.Time) {
	state := e.Credential.State(e.Token, now)
	switch state {
	case wxtoken.StateRevoked:
		t.revoked++
		return
	case wxtoken.StateNeedsAuthorization:
		t.needy++
	case wxtoken.StateActive:
		t.active++
	default:
		t.retrying++
	}
	// An account that granted no API, or whose refresh token never came, has no token that could be
	// dead. It is counted as needy, and not once more as invalid: the alert on that would never
	// end.
	if e.Token.Exists() || !e.Credential.Unrenewable() { // else it never had a token
		if !e.Token.Lives(now) {
			t.invalid++
		}
		if e.Token.Exists() && (!t.first.Exists() || e.Token.EndsBefore(t.first)) {
			t.first = e.Token
		}
	}
	if state != wxtoken.StateActive {
		t.note(key, e, state, now)
	}
}

// note notes what is wrong with an account, if anything is. What the record alone can't tell is put
// aside, up to maxFail accounts, for notices to look up in the statuses.
func (t *tally) note(key wxtoken.Key, e *store.Entry, state wxtoken.State, now time.Time) {
	cause, since, dead := accountCause(e, state, now)
	switch {
	case cause == "" && !e.Credential.Failing():
		return
	// Here the record says all.
	case cause == truth.AuthorizationNeeded, cause == truth.NoAPIPermission, cause == truth.PermissionMissing:
	case len(t.fail) < maxFail:
		t.fail = append(t.fail, troubled{key, cause, since, dead})
		return
	}
	if cause == "" {
		return // it is being tried again, and its token lives
	}
	if t.wrong == nil {
		t.wrong = map[wxtoken.Reason]*events.NoticeData{}
	}
	d := t.wrong[cause]
	if d == nil {
		d = &events.NoticeData{Component: key.Component, Cause: string(cause)}
		t.wrong[cause] = d
	}
	count(d, 1, since, key.String())
}

// count adds n accounts to a notice, which names the first few. since is when that began, zero if
// not known.
func count(d *events.NoticeData, n int, since time.Time, names ...string) {
	d.Count += n
	if !since.IsZero() && (d.Since.IsZero() || since.Before(d.Since)) {
		d.Since = since
	}
	for _, name := range names {
		// The first few by name, not by the order in which the sweep meets them: so the same
		// accounts are named by each refresher, and in each notice.
		if at, _ := slices.BinarySearch(d.Keys, name); at < events.NoticeKeys {
			d.Keys = slices.Insert(d.Keys, at, name)
			d.Keys = d.Keys[:min(len(d.Keys), events.NoticeKeys)]
		}
	}
}

// accountCause returns what is wrong with an account by its record alone, since when as far as that
// is in it, and whether its token is dead. The words are those for a status (truth.OfAccount). What
// the record does not have is WeChat's last error: where that could tell more, the cause is "".
//
// An account that is just being authorized for the first time has no cause: its code is with
// WeChat, and a notice would be over before it is read.
func accountCause(e *store.Entry, state wxtoken.State, now time.Time) (cause wxtoken.Reason, since time.Time, dead bool) {
	if state == wxtoken.StateNeedsAuthorization && e.Credential.BeingAuthorized(now) {
		return "", since, false
	}
	var ready wxtoken.Reason
	if state == wxtoken.StateNeedsAuthorization && e.Credential.GrantedNothing(now) {
		ready = wxtoken.ReasonNoAPIPermission
	}
	dead = !e.Token.Lives(now)
	if state == wxtoken.StateRenewingFailed && e.Credential.LacksPermission() {
		if dead {
			since = e.Token.ExpiresAt()
		}
		return truth.PermissionMissing, since, dead
	}
	switch cause = truth.OfAccount(state, ready, nil, dead); cause {
	case truth.NoAPIPermission:
		since = e.Credential.AuthorizedAt()
	case truth.AccountTokenDead:
		since = e.Token.ExpiresAt()
	case truth.RenewalFails:
		cause = "" // its status may know more
	}
	return cause, since, dead
}
