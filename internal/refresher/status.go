package refresher

import (
	"context"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/gate"
	"wxtoken/internal/store"
)

// Many write a status: a renewal says that it worked, the sweep that a token died, a push when the
// account authorized, the gate what holds its component back. None of them knows the whole. So each
// hands over a change of what it knows, which is applied to the status as it is stored, and a lost
// compare-and-set applies it once more to what is there then.
//
// Nothing is decided by a status that a record or a token could decide, so one that is lost or late
// harms nobody but its readers, and is written again. Some things it alone knows, such as the
// profile, and that an account granted no API permission. And where a record is lost it remembers
// the caller's ref (recollect).
//
// News is told after what it tells of is stored, never before, so it may be late. Two handlers may
// tell theirs in the wrong order, and a refresher may die in between. ifRevoked and inForce are for
// the first, redelivery and sweep for the second (TestNewsOvertaken, TestDeathBeforeTheNews).

// statuses writes what the bucket status says of keys.
type statuses struct {
	log zerolog.Logger
	now func() time.Time
	// Asked for each time: after the data was gone there is another one.
	store func() *store.Store
	gate  func(component string) (g *gate.Gate, ok bool) // of a component of the settings
}

// setStatus changes the status of key. Where it can't be written that is only logged: the next
// renewal makes it again.
//
// Callers for whom the news is all that is left to do take writeStatus, and have their message come
// again.
func (t *statuses) setStatus(ctx context.Context, key wxtoken.Key, changes ...account.Change) {
	if err := t.writeStatus(ctx, key, changes...); err != nil {
		t.log.Warn().Err(err).Stringer("key", key).Msg("failed to store status")
	}
}

// writeStatus changes the status of key, by compare-and-set: a change gets the stored status and
// says what is different, so that two handlers that tell different things both get through. That of
// a component says each time what holds it back, whatever else is said.
func (t *statuses) writeStatus(ctx context.Context, key wxtoken.Key, changes ...account.Change) error {
	// Last, so that it has the last word: a renewal of the component's token says "active", also
	// while a quota is gone and all its accounts die (TestQuotaGoneIsSeen).
	if g, ok := t.gate(key.Component); ok && account.KindOf(key).OfComponent {
		changes = append(slices.Clip(changes), renewing(g, t.now))
	}
	return t.store().UpdateStatus(ctx, key, func(s *wxtoken.Status) {
		for _, change := range changes {
			// Some answers of WeChat's change nothing that a status says (account.Next.Status is
			// nil then).
			if change != nil {
				change(s)
			}
		}
	})
}

// ifRevoked makes a change only while the authorization is over (over), or only while it is in
// force. News of an authorization and of its cancellation may overtake each other on their way
// here; the credential, read after the status that is to be replaced, says which of them is true.
//
// The record is read within the change, and so again at each try of the compare-and-set. Where it
// can't be read the change is made: news that may be wrong beats none.
func (t *statuses) ifRevoked(ctx context.Context, key wxtoken.Key, over bool, change account.Change) account.Change {
	return func(s *wxtoken.Status) {
		cred, err := t.store().Credential(ctx, key)
		if err == nil && cred.RevokedAt.IsZero() == over {
			return
		}
		change(s)
	}
}

// authorized says that the authorization that cred is about is in force, since at. Of two that bring
// one, the list and a redirect, say, the second to store may be the first to tell. So where the
// record is newer by then, it tells the ref and the time, as ifRevoked has it tell that it is over:
// nobody would write the ref again (TestRefOvertaken).
func (t *statuses) authorized(ctx context.Context, cred account.Credential, at time.Time) account.Change {
	return func(s *wxtoken.Status) {
		now, err := t.store().Credential(ctx, cred.Key)
		if err != nil || now.Revision < cred.Revision {
			now = cred // read from a replica that is behind
		}
		if !now.RevokedAt.IsZero() {
			return
		}
		since := at
		if now.AuthorizedAt.After(at) {
			since = now.AuthorizedAt
		}
		account.AuthorizedAt(since, now.Ref)(s)
	}
}

// inForce takes back that the authorization is over, where that is no longer so: a ticket that is
// kept again, or an account whose news was lost with the refresher that brought it back.
func (t *statuses) inForce(ctx context.Context, key wxtoken.Key) account.Change {
	return func(s *wxtoken.Status) {
		if s.State != wxtoken.StateRevoked {
			return
		}
		if cred, err := t.store().Credential(ctx, key); err == nil && cred.RevokedAt.IsZero() {
			s.State = wxtoken.StateActive
		}
	}
}
