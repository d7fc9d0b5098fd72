package refresher

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/store"
)

// deadToken is a token that has expired.
type deadToken struct {
	key      wxtoken.Key
	revision uint64
}

// teller has the status say of each dead token that it is dead, once: whatever kept the next one
// away, the key is not active. The sweep finds them, and does not wait: where a hundred thousand
// die together that takes minutes.
//
// A reader who compares expires_at with the clock sees the same at once (wxtoken.Status.StateAt).
// The status is written for those who read only the record (docs/adr/0036), and may be late.
type teller struct {
	*statuses
	view  *store.View
	store *store.Store
	log   zerolog.Logger
	now   func() time.Time
	again func() // has the sweep look at once

	batches chan []deadToken
	more    atomic.Bool // the sweep found some while a batch was being told
}

const (
	// tellAtOnce is how many statuses are written at the same time.
	tellAtOnce = 16
	// tellGathered is how many dead tokens the sweep hands over in one go. With more of them the
	// next sweep brings the rest: run has it look as soon as these are told.
	tellGathered = 10_000
)

// hand gives the teller what the sweep found. The channel has no room, so it takes something only
// while run waits for it; a teller that is busy has the sweep look again when it is not.
func (t *teller) hand(dead []deadToken) {
	if len(dead) == 0 {
		return
	}
	select {
	case t.batches <- dead:
	default:
		t.more.Store(true)
	}
}

// run tells until ctx ends.
func (t *teller) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case dead := <-t.batches:
			t.tellAll(ctx, dead)
			if t.more.Swap(false) || len(dead) == tellGathered {
				t.again()
			}
		}
	}
}

// tellAll tells of a batch, sixteen statuses at a time: each is a read and a write in NATS. What
// was told is noted in the view, with the token's revision, so that no later sweep finds it again.
//
// Told is a mark of this process. Each refresher tells once, and the second one writes nothing, for
// the status says so already. After a restart each dead token is looked at once more.
func (t *teller) tellAll(ctx context.Context, dead []deadToken) {
	var group errgroup.Group
	group.SetLimit(tellAtOnce)
	for _, d := range dead {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if t.tell(ctx, d, t.now()) {
				t.view.NoteTold(d.key, d.revision)
			}
			return nil
		})
	}
	_ = group.Wait() // each has told what went wrong
}

// tell has the status say that a token is dead, and reports whether that was written, or is true no
// more. A renewal may store the next token between the look and the write; then its "active" would
// be overwritten. So the token is read again after the write, and if it lives the status says so.
func (t *teller) tell(ctx context.Context, d deadToken, now time.Time) bool {
	if e, _ := t.view.Get(d.key); e.Token.Revision != d.revision {
		return true
	}
	if err := t.writeStatus(ctx, d.key, account.Expired(now)); err != nil {
		t.log.Warn().Err(err).Stringer("key", d.key).Msg("failed to store status")
		return false
	}
	// The view may lag: should the next token have come meanwhile, that is the newer news.
	if next, ok, err := t.store.Token(ctx, d.key); err == nil && ok && now.Before(next.ExpiresAt) {
		t.setStatus(ctx, d.key, account.Active(now))
	}
	return true
}
