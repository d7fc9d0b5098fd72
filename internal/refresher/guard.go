package refresher

import (
	"sync"
	"time"

	"wxtoken/internal/wechat"
)

// guard keeps a fault of ours, or of WeChat's, from marking everybody as gone: when more than a
// fifth of the renewals end with WeChat saying that the authorization is no good, nobody is marked.
type guard struct {
	mu                 sync.Mutex
	renewals, refusals []time.Time // of the last guardWindow
}

const (
	guardWindow = 5 * time.Minute
	guardFew    = 3 // so many may be refused without a look at the others
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
