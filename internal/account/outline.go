package account

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"time"

	"wxtoken/client"
)

// Outline is what a credential says about when and whether, without what the next token is got
// with. A refresher holds one for each of a million keys: so it is small, and has no pointer that
// the garbage collector would follow.
type Outline struct {
	Revision       uint64 // 0 if no credential is known
	Generation     uint64
	Authorizations uint64

	refreshToken, code digest
	refusedGeneration  uint64

	authorizedAt, revokedAt, retryAt, claimedUntil, refusedAt instant

	renewable, unrenewable, needed, failing, lacking, anew, refused bool
}

// OutlineOf returns the outline of a credential.
func OutlineOf(c Credential) Outline {
	o := Outline{
		Revision: c.Revision, Generation: c.Generation, Authorizations: c.Authorizations,
		refreshToken: digestOf(c.RefreshToken), code: digestOf(c.CodeDigest),
		authorizedAt: instantOf(c.AuthorizedAt), revokedAt: instantOf(c.RevokedAt), retryAt: instantOf(c.RetryAt),
		renewable: c.Renewable(), unrenewable: c.Unrenewable(), needed: c.AuthorizationNeeded, failing: c.Failures > 0, lacking: c.LacksPermission,
		anew: c.Anew,
	}
	if c.Claim != nil {
		o.claimedUntil = instantOf(c.Claim.Until)
	}
	if c.Refused != nil {
		o.refused, o.refusedGeneration, o.refusedAt = true, c.Refused.Generation, instantOf(c.Refused.At)
	}
	return o
}

// Renewable reports whether there is anything to get a token with.
func (o Outline) Renewable() bool { return o.renewable }

// Failing reports whether the last renewal failed.
func (o Outline) Failing() bool { return o.failing }

// LacksPermission reports whether WeChat refused the last renewal because a permission set is
// missing.
func (o Outline) LacksPermission() bool { return o.failing && o.lacking }

// BeingAuthorized reports whether an account that never had a token is about to get its first: its
// code is being exchanged.
func (o Outline) BeingAuthorized(now time.Time) bool {
	return o.Revision > 0 && !o.needed && o.Generation == 0 && instantOf(now) < o.claimedUntil
}

// JustBegun reports whether the record is as it is stored together with an account's first token.
func (o Outline) JustBegun() bool {
	return o.Generation == 1 && o.renewable && !o.needed && !o.failing && o.revokedAt == 0 && o.claimedUntil == 0
}

// GrantedNothing reports whether an account that is in force never had a token, and none is being
// fetched: it granted no API. One whose merchant was asked, and that came from no code, is another
// matter: no refresh token was found for it.
func (o Outline) GrantedNothing(now time.Time) bool {
	return o.Revision > 0 && !o.renewable && (!o.needed || o.code != 0) && o.Generation == 0 && instantOf(now) >= o.claimedUntil
}

// Unrenewable is Credential.Unrenewable.
func (o Outline) Unrenewable() bool { return o.unrenewable }

// AuthorizedAt is Credential.AuthorizedAt.
func (o Outline) AuthorizedAt() time.Time { return o.authorizedAt.time() }

// RevokedAt is Credential.RevokedAt.
func (o Outline) RevokedAt() time.Time { return o.revokedAt.time() }

// CameFrom reports whether the code exchanged last has that digest.
func (o Outline) CameFrom(codeDigest string) bool { return o.code == digestOf(codeDigest) }

// Has reports whether an account that is in force and had a token has that refresh token.
func (o Outline) Has(refreshToken string) bool {
	return o.refreshToken == digestOf(refreshToken) && o.revokedAt == 0 && o.Generation > 0
}

// KeptFor reports whether a ticket is kept for that authorization of its account.
func (o Outline) KeptFor(authorizations uint64) bool {
	return o.renewable && o.Authorizations == authorizations
}

// State returns the state of an account by its record, its token and the clock: metrics count by
// it, and what the status says agrees with it.
func (o Outline) State(l Life, now time.Time) wxtoken.State {
	switch {
	case o.revokedAt != 0:
		return wxtoken.StateRevoked
	case o.needed:
		return wxtoken.StateNeedsAuthorization
	case !o.renewable && !o.unrenewable: // an older program gave it up
		return wxtoken.StateNeedsAuthorization
	case !o.renewable || o.failing || !l.Lives(now):
		return wxtoken.StateRenewingFailed
	}
	return wxtoken.StateActive
}

// Overdue reports whether a key should have been renewed longer than grace ago. l is the life of
// its token.
func (o Outline) Overdue(l Life, now time.Time, grace time.Duration) bool {
	at := instantOf(now)
	if !o.renewable && !o.unrenewable || at < o.claimedUntil {
		return false
	}
	latest := l.renewAt
	if o.refused && o.refusedGeneration >= l.Generation {
		latest = o.refusedAt // it is no good any more
	}
	if o.anew {
		latest = 0
	}
	return at > max(latest, o.retryAt)+instant(grace)
}

// Follows reports whether a ticket is as its account is: kept for its authorization, or ended with
// it. owned is the life of the account's token: without one that lives no ticket can be got.
func (o Outline) Follows(owner Outline, owned Life, now time.Time) bool {
	if !owner.renewable {
		return !o.renewable
	}
	kept := o.renewable || now.Sub(o.RevokedAt()) < DroppedFor
	return kept && o.Authorizations == owner.Authorizations || !owned.Lives(now)
}

// Life is when a token lives, without its value. The zero Life is that of no token.
type Life struct {
	Revision   uint64
	Generation uint64

	obtainedAt, expiresAt, renewAt instant
}

// LifeOf returns the life of a token; none of one without a value.
func LifeOf(t wxtoken.Token) Life {
	if t.Value.IsZero() {
		return Life{}
	}
	return NewLife(t.Revision, t.Generation, t.ObtainedAt, t.ExpiresAt, t.RenewAt)
}

// NewLife returns the life of a token that was read without its value.
func NewLife(revision, generation uint64, obtainedAt, expiresAt, renewAt time.Time) Life {
	return Life{revision, generation, instantOf(obtainedAt), instantOf(expiresAt), instantOf(renewAt)}
}

// Exists reports whether there is a token.
func (l Life) Exists() bool { return l.expiresAt != 0 }

// ExpiresAt returns when the token expires; zero if there is none.
func (l Life) ExpiresAt() time.Time { return l.expiresAt.time() }

// RenewAt returns when the token is to be renewed; zero if there is none.
func (l Life) RenewAt() time.Time { return l.renewAt.time() }

// Lives reports whether there is a token that has not expired.
func (l Life) Lives(now time.Time) bool { return instantOf(now) < l.expiresAt }

// EndsBefore reports whether l ends before another.
func (l Life) EndsBefore(other Life) bool { return l.expiresAt < other.expiresAt }

// LongDead reports whether a token has been dead for longer than it lived. A refresher that was
// there would have replaced it: the data is that of a backup, or nothing could be renewed for
// hours. Either way the refresh token beside it may be an old one.
func (l Life) LongDead(now time.Time) bool {
	return l.Exists() && instantOf(now)-l.expiresAt > l.expiresAt-l.obtainedAt
}

// DiesSoon reports whether a token lives, and so short that another try may come too late for it.
func (l Life) DiesSoon(now time.Time) bool {
	left := l.expiresAt - instantOf(now)
	return left > 0 && left < min(instant(seekBefore), (l.expiresAt-l.obtainedAt)/3)
}

// seekBefore is how long before a token dies the merchant is asked, whatever was not asked yet.
const seekBefore = 2 * time.Minute

// instant is a time in 8 bytes, in nanoseconds since 1970; 0 is no time. What lies further away
// than 146 years is clipped.
type instant int64

func instantOf(t time.Time) instant {
	if t.IsZero() {
		return 0
	}
	if s := t.Unix(); s < -farthest/int64(time.Second) || s > farthest/int64(time.Second) {
		return instant(farthest * int64(cmp.Compare(s, 0)))
	}
	return instant(t.UnixNano())
}

// farthest leaves room: two instants can be subtracted.
const farthest = math.MaxInt64 / 2

func (i instant) time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(i)).UTC()
}

// digest stands for a text of which it is only asked whether another is the same; 0 for none.
type digest uint64

func digestOf(text string) digest {
	if text == "" {
		return 0
	}
	sum := sha256.Sum256([]byte(text))
	return digest(binary.BigEndian.Uint64(sum[:]))
}
