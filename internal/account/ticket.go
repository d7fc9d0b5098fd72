package account

import (
	"time"

	"wxtoken/client"
)

// Owner returns the key of the token with which a ticket is got.
func Owner(key wxtoken.Key) wxtoken.Key { return wxtoken.AuthorizerKey(key.Component, key.Authorizer) }

// DroppedFor is how long a ticket stays ended that is to be kept: refreshers with other settings
// may be running still, and end it again.
const DroppedFor = 5 * time.Minute

// Kept is a derived ticket from the given authorization of its account on, counted as
// Credential.Authorizations is. It is fetched anew: whether the one that is there outlives a
// cancellation, which may have been missed, is not known, and what WeChat refused it for may be
// over. But a call whose answer was lost, or that is under way, may have made the ticket that WeChat
// gives from now on. generation is that of the newest ticket that is stored.
func (c Credential) Kept(authorizations, generation uint64) Credential {
	c.RevokedAt, c.Authorizations, c.Anew = time.Time{}, authorizations, true
	c.Generation = max(c.Generation, generation)
	since := c.unsure().UnsureSince
	c = c.well()
	c.UnsureSince = since
	return c
}

// KeptFor reports whether a ticket is kept for that authorization of its account.
func (c Credential) KeptFor(authorizations uint64) bool {
	return c.Renewable() && c.Authorizations == authorizations
}

// Dropped is a derived ticket that is not kept any more.
func (c Credential) Dropped(now time.Time) Credential {
	c = c.well()
	c.RevokedAt = now.UTC()
	return c
}

// TicketReceived is a component with a newer component_verify_ticket. It waits for the next renewal
// there, because each new component access token ends the one before, unless needed: the component
// has no valid token, or its last renewal failed, for want of a good ticket perhaps. t is the token
// that is stored, the zero Token if none.
func (c Credential) TicketReceived(ticket string, created, received time.Time, t wxtoken.Token, now time.Time) (_ Credential, needed bool) {
	c.Ticket, c.TicketCreatedAt, c.TicketReceivedAt = ticket, created.UTC(), received.UTC()
	needed = t.Value.IsZero() || !now.Before(t.ExpiresAt) || c.Failures > 0
	c.Generation = max(c.Generation, t.Generation)
	if needed {
		c.RetryAt = time.Time{}
	}
	return c, needed
}

// earlyAfter is how long to wait with the next component token after the 1st, 2nd, ... in a row
// that WeChat refused within a tenth of its life; the last one goes on. The first may be a slip of
// WeChat's. More in a row are what it looks like when another keeper renews for the same component:
// each ends the token of the other, and one that renews at once has the other do the same.
var earlyAfter = []time.Duration{0, time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour}

// TokenRefused is a component whose token t WeChat itself refused to take. The younger the token,
// and the more often that happened, the later is the next one: after wait.
func (c Credential) TokenRefused(t wxtoken.Token, now time.Time) (_ Credential, wait time.Duration) {
	life := t.ExpiresAt.Sub(t.ObtainedAt)
	next := Refused{Generation: t.Generation, At: now.UTC()}
	if now.Sub(t.ObtainedAt) < life/10 {
		next.Early = 1
		if last := c.Refused; last != nil && now.Sub(last.At) < life {
			next.Early += last.Early
		}
		wait = earlyAfter[min(next.Early, len(earlyAfter))-1]
	}
	if c.ForcedOften(now) {
		wait = earlyAfter[len(earlyAfter)-1]
	}
	c.Refused = &next
	if until := now.Add(wait).UTC(); wait > 0 && until.After(c.RetryAt) {
		c.RetryAt = until
	}
	return c, wait
}

// RefusedAlready reports whether it is known of a token of that generation that WeChat refused it,
// or it was replaced.
func (c Credential) RefusedAlready(generation uint64) bool {
	return c.Generation > generation || c.Refused != nil && c.Refused.Generation >= generation
}
