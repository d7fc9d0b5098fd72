package serve

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxRemotes is how many addresses Tries remembers.
const maxRemotes = 10_000

// Tries bounds what one address may have refused: wrong keys, forged pushes, guessed links. IPv6
// addresses of one /64 count as one, for a single host has that many to send from.
type Tries struct {
	perSecond rate.Limit
	burst     int

	mu      sync.Mutex
	remotes map[netip.Prefix]*rate.Limiter
}

// NewTries allows each address burst failures at once, and perSecond from then on.
func NewTries(perSecond rate.Limit, burst int) *Tries {
	return &Tries{perSecond: perSecond, burst: burst, remotes: map[netip.Prefix]*rate.Limiter{}}
}

// Count counts one more failure of remote, "address:port", and reports whether it is within bounds.
func (t *Tries) Count(remote string, now time.Time) bool { return t.count(connection(remote), now) }

// CountOf is Count for an address that is known otherwise: a proxy that is believed named it.
func (t *Tries) CountOf(addr netip.Addr, now time.Time) bool { return t.count(network(addr), now) }

func (t *Tries) count(from netip.Prefix, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	limiter := t.remotes[from]
	if limiter == nil {
		if len(t.remotes) == maxRemotes {
			// A client with so many addresses gets past a limit per address anyway; the bound is
			// for memory.
			clear(t.remotes)
		}
		limiter = rate.NewLimiter(t.perSecond, t.burst)
		t.remotes[from] = limiter
	}
	return limiter.AllowN(now, 1)
}

// Spent reports whether one more failure of remote would be out of bounds.
func (t *Tries) Spent(remote string, now time.Time) bool {
	from := connection(remote)
	t.mu.Lock()
	defer t.mu.Unlock()
	limiter := t.remotes[from]
	return limiter != nil && limiter.TokensAt(now) < 1
}

// connection looks at the connection alone: any client can write what it likes into
// X-Forwarded-For. A server with Behind has put there what its proxies say.
func connection(remote string) netip.Prefix { return network(AddrOf(remote)) }

// network is what counts as one. The zero Prefix stands for all whose address can't be read.
func network(addr netip.Addr) (from netip.Prefix) {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	from, _ = addr.Prefix(bits) // these bits always fit
	return from
}
