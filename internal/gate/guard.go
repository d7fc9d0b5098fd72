package gate

import (
	"sync"
	"time"

	"wxtoken/internal/wechat"
)

// A renewal that is refused may mean two things: the merchant cancelled, or something is wrong that
// all accounts have in common. One by one they look the same, and to believe the second kind would
// take the tokens of a whole fleet away, which only their merchants could bring back. Merchants
// cancel one at a time; so the guard looks at the share.

// guard keeps a fault of ours, or of WeChat's, from marking all accounts as gone: when more than a
// fifth of the renewals end with WeChat saying that the authorization is no good, none is marked.
//
// Two shares are looked at. That of the last few renewals tells at once: where thousands were
// renewed in the minutes before, as many accounts would be marked before a fifth of them all are
// refused. That of the last minutes tells where few are renewed, and keeps the doubt up while those
// that were refused wait for their next try.
type guard struct {
	mu       sync.Mutex // its own: all handlers count here, and none of them needs Gate.mu for it
	renewals []outcome  // of the last guardWindow, in the order in which they ended
	refusals int        // of them
}

// outcome is how a renewal ended.
type outcome struct {
	at      time.Time
	refused bool
}

const (
	guardWindow = 5 * time.Minute // renewals of before are forgotten
	guardFew    = 3               // so many may be refused without a look at the others
	guardLast   = 25              // renewals that are the last few: six of them refused are more than a fifth
)

// saw counts one renewal.
func (g *guard) saw(now time.Time, err error) {
	v := wechat.Judge(err)
	refused := err != nil && (v == wechat.Revoked || v == wechat.RecoverRefreshToken)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(now)
	g.renewals = append(g.renewals, outcome{now, refused})
	if refused {
		g.refusals++
	}
}

// open reports whether a refusal may be believed.
func (g *guard) open(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(now)
	if g.refusals <= guardFew {
		return true
	}
	last, refused := g.renewals[max(0, len(g.renewals)-guardLast):], 0
	for _, o := range last {
		if o.refused {
			refused++
		}
	}
	return g.refusals*5 <= len(g.renewals) && refused*5 <= len(last)
}

// forget drops what is too old to count. The lock is held.
func (g *guard) forget(now time.Time) {
	for len(g.renewals) > 0 && now.Sub(g.renewals[0].at) > guardWindow {
		if g.renewals[0].refused {
			g.refusals--
		}
		g.renewals = g.renewals[1:]
	}
}

// Believes reports whether it is believed when WeChat says that an authorization is no good. While
// it says so of many at once it is not.
func (g *Gate) Believes() bool { return g.guard.open(g.p.Now()) }

// CountRenewal counts how a renewal ended that began at the given time. Make does so for each
// api_authorizer_token; an answer to another call that says the same of an account is its caller's
// to count.
func (g *Gate) CountRenewal(began time.Time, err error) { g.guard.saw(began, err) }
