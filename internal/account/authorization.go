package account

import (
	"time"
)

const (
	// MaxRef bounds the caller's own id for an account, in bytes.
	MaxRef = 256
	// MaxAhead is how far in the future a push's CreateTime may lie: clocks differ.
	MaxAhead = 5 * time.Minute
	// sameAuthorization is how far WeChat's two times of one authorization may lie apart, that of
	// the push and that of the list.
	sameAuthorization = time.Minute
)

// Authorization is what a code brought.
type Authorization struct {
	At           time.Time // the push's CreateTime; zero after a redirect, which does not say
	CodeDigest   string
	RefreshToken string // "" where the answer had none: the one that is there is kept
	Token        bool   // the answer had an access token
	Ref          string // as RefThrough says
	Now          time.Time
	By           string // the host that exchanged it
}

// Authorized is the credential after the exchange of a code. Without a token the account gives no
// API permission, and there is nothing to keep ("api_getauthorizerrefreshtoken").
func (c Credential) Authorized(a Authorization) Credential {
	if a.RefreshToken != "" {
		c.RefreshToken = a.RefreshToken
	}
	c.Ref, c.CodeDigest, c.AuthorizedAt, c.RevokedAt = a.Ref, a.CodeDigest, a.At, time.Time{}
	c.Authorizations++
	c = c.well()
	if !a.Token {
		c, _ = c.GaveUp(a.Now)
		return c
	}
	c.Generation++
	return c.noted(Past{At: a.Now, Reason: ReasonAuthorized, By: a.By})
}

// Told is the credential after an authorization whose code was used elsewhere: WeChat told its
// refresh token. at is when it was, zero if not known.
func (c Credential) Told(refreshToken, ref string, at time.Time) Credential {
	c.RefreshToken, c.Ref, c.AuthorizedAt, c.RevokedAt = refreshToken, ref, at, time.Time{}
	c.Authorizations++
	return c.well()
}

// RefThrough returns the ref of an account that was authorized through a link. An account that
// belongs to another ref stays there: who made the link has to say that it may move.
func (c Credential) RefThrough(ref string, move bool) (_ string, conflict bool) {
	switch {
	case ref == "":
		return c.Ref, false
	case c.Ref == "" || c.Ref == ref || move || !c.RevokedAt.IsZero():
		return ref, false
	}
	return c.Ref, true
}

// Dated notes what a second event tells of an authorization that has its tokens: when it was, if
// the first did not say, and the ref.
func (c Credential) Dated(at time.Time, ref string) Credential {
	c.Ref = ref
	if at.After(c.AuthorizedAt) {
		c.AuthorizedAt = at
	}
	return c
}

// Same reports whether an authorization of that time is the one in force, and has a refresh token.
func (c Credential) Same(at time.Time) bool {
	return c.RefreshToken != "" && !c.AuthorizedAt.IsZero() && !c.AuthorizedAt.Before(at.Add(-sameAuthorization))
}

// Cancelled is the credential after WeChat's push of a cancellation that was created at the given
// time. The time is cut to whole seconds, as WeChat's are, so that an authorization later in this
// second counts.
func (c Credential) Cancelled(at time.Time) Credential {
	c = c.well()
	c.RevokedAt, c.RefreshToken = at.UTC().Truncate(time.Second), ""
	return c
}

// FoundCancelled is the credential after an answer of WeChat's that says that the authorization is
// over. now is our clock's, and an authorization is dated by WeChat's: one that came right before
// must still be able to win.
func (c Credential) FoundCancelled(now time.Time) Credential { return c.Cancelled(now.Add(-MaxAhead)) }

// Doubted is the credential after such an answer while so many accounts are refused that none of it
// is believed.
func (c Credential) Doubted(now time.Time, cause error) (Credential, Next) {
	next := Next{Wait: c.doubtedWait(c.Failures), Status: c.stillFailing(now, cause)}
	return c.retried(now, next), next
}

// Imported is the credential after moving in from another keeper: what a line of a file says of it.
// generation is that of the newest token that is there.
func (c Credential) Imported(refreshToken, ref string, at time.Time, generation uint64) Credential {
	known := c.RefreshToken == refreshToken
	c.RefreshToken, c.RevokedAt, c.Generation = refreshToken, time.Time{}, max(c.Generation, generation)
	if ref != "" {
		c.Ref = ref
	}
	if at.After(c.AuthorizedAt) {
		c.AuthorizedAt = at
	}
	if known {
		return c
	}
	c = c.well()
	c.Authorizations++
	return c
}

// Listing is what WeChat's list says of an account (api_get_authorizer_list).
type Listing struct {
	RefreshToken string
	At           time.Time // auth_time
	Began        time.Time // when the reading of the list did
	Seen         uint64    // the newest message of the store from before
}

// Comparison is what the list's word is worth against the record.
type Comparison int

// What comparing a record with the list comes to.
const (
	ListKnown   Comparison = iota // the list knows nothing better
	ListBusy                      // a refresher is at the record and knows better
	ListUnasked                   // it was taken over before, and its first token never asked for
	ListDated                     // the same refresh token: its time may be news
	ListUnsure                    // which of the two is the newer one only WeChat can tell
	ListNewer                     // the list's is newer
	// The stored one was refused before the list was read: take the list's, and go on up the
	// ladder.
	ListInstead
	ListOlder // not a newer authorization; good only where the stored token is long dead
)

// Against compares a credential with what the list says of it.
func (c Credential) Against(l Listing, now time.Time) Comparison {
	inForce := c.RevokedAt.IsZero()
	switch {
	case c.ClaimedAt(now):
		return ListBusy
	case c.RefreshToken == l.RefreshToken && inForce && c.Generation == 0:
		// Stored by a reading that died, or that got no answer from NATS, before it had the first
		// token fetched.
		return ListUnasked
	case c.RefreshToken == l.RefreshToken && inForce:
		return ListDated
	case !inForce && !l.At.After(c.RevokedAt), c.RefreshToken != "" && c.AuthorizedAt.IsZero():
		// Listed, but older than the cancellation: the list may be late, or the cancellation wrong.
		// Or not the refresh token of an authorization whose time is not known.
		return ListUnsure
	case c.RefreshToken == "" || l.At.After(c.AuthorizedAt):
		return ListNewer
	case !c.SoughtAt.IsZero() && !l.Began.Before(c.SoughtAt):
		return ListInstead
	case c.Revision > l.Seen:
		// Our clock alone does not tell that the record is older than the list: not where it
		// changed since the list was read.
		return ListKnown
	}
	// Should the stored refresh token be dead, its renewal will say so, unless nothing was renewed
	// for so long that the stored one is surely not newer than the list.
	return ListOlder
}

// Unclear reports whether WeChat itself has to say which of the two refresh tokens is good,
// although the list's is to be taken.
func (c Credential) Unclear(l Listing) bool {
	return !l.At.IsZero() && c.AuthorizedAt.Sub(l.At) > sameAuthorization
}

// Listed is the credential with what the list, or the profile, told. instead keeps the trouble:
// list and profile may name different ones, and WeChat refuse both.
func (c Credential) Listed(refreshToken string, at time.Time, instead bool) Credential {
	tried := c.Trouble
	c.RefreshToken, c.AuthorizedAt, c.RevokedAt = refreshToken, at, time.Time{}
	c.Authorizations++
	c = c.well()
	if instead {
		tried.RetryAt, tried.RefreshRefused = time.Time{}, false
		c.Trouble = tried
	}
	return c
}

// DatedByList notes the time of an authorization of which the list is the first to tell it. A newer
// one that left the refresh token as it was replaced the access token all the same: then the
// account is renewed anew, at once, whatever it was refused for before. So it is when it is in
// trouble and nothing tells of which authorization.
func (c Credential) DatedByList(at time.Time) (_ Credential, anew bool) {
	anew = at.Sub(c.AuthorizedAt) > sameAuthorization && (c.Failures > 0 || !c.AuthorizedAt.IsZero())
	c.AuthorizedAt = at
	if anew {
		c = c.well()
		c.Authorizations++
	}
	return c, anew
}

// ListedWithout is an account that the list names without a refresh token, because its code was
// never exchanged perhaps. Its time stays unknown: the push about it may come yet, and must not
// count as an old one. It is asked about in a moment, when the list is read to its end and a push
// under way has come. began is when the reading of the list did.
func (c Credential) ListedWithout(began, now time.Time) Credential {
	c.RevokedAt, c.AuthorizedAt = time.Time{}, time.Time{}
	c = c.well()
	c.Authorizations++ // for all we know
	c.SoughtAt, c.RetryAt = began.UTC(), now.Add(seekPatience).UTC()
	return c
}

// LookedAfter reports whether an account is looked after already, or cancelled since, so that a
// list without its refresh token is no news.
func (c Credential) LookedAfter(at, now time.Time) bool {
	return c.ClaimedAt(now) || c.RefreshToken != "" || c.Unrenewable() || !c.RevokedAt.IsZero() && !at.After(c.RevokedAt)
}
