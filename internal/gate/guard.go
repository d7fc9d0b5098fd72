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
type guard struct {
	mu                 sync.Mutex // its own: all handlers count here, and none of them needs Gate.mu for it
	renewals, refusals []time.Time
}

const (
	guardWindow = 5 * time.Minute // renewals and refusals of before are forgotten
	guardFew    = 3               // so many may be refused without a look at the others
)

// saw counts one renewal.
func (g *guard) saw(now time.Time, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renewals = append(recent(g.renewals, now), now)
	if v := wechat.Judge(err); err != nil && (v == wechat.Revoked || v == wechat.RecoverRefreshToken) {
		g.refusals = append(recent(g.refusals, now), now)
	}
}

// open reports whether a refusal may be believed.
func (g *guard) open(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renewals, g.refusals = recent(g.renewals, now), recent(g.refusals, now)
	return len(g.refusals) <= guardFew || len(g.refusals)*5 <= len(g.renewals)
}

func recent(times []time.Time, now time.Time) []time.Time {
	for len(times) > 0 && now.Sub(times[0]) > guardWindow {
		times = times[1:]
	}
	return times
}

// Believes reports whether it is believed when WeChat says that an authorization is no good. While
// it says so of many at once it is not.
func (g *Gate) Believes() bool { return g.guard.open(g.p.Now()) }

// CountRenewal counts how a renewal ended that began at the given time. Make does so for each
// api_authorizer_token; an answer to another call that says the same of an account is its caller's
// to count.
func (g *Gate) CountRenewal(began time.Time, err error) { g.guard.saw(began, err) }
