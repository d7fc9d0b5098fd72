package serve

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxRemotes is how many addresses Tries remembers.
const maxRemotes = 10_000

// Tries limits failures per address: wrong keys, forged pushes, guessed links. All IPv6 addresses of a /64
// count as one, since a single host can send from any of them.
type Tries struct {
	perSecond rate.Limit
	burst     int

	mu      sync.Mutex
	remotes map[netip.Prefix]*rate.Limiter
}

// NewTries allows each address burst failures at once, and then perSecond.
func NewTries(perSecond rate.Limit, burst int) *Tries {
	return &Tries{perSecond: perSecond, burst: burst, remotes: map[netip.Prefix]*rate.Limiter{}}
}

// Count counts a failure of remote, "address:port", and reports whether it is within the limit.
func (t *Tries) Count(remote string, now time.Time) bool { return t.count(connection(remote), now) }

// CountOf is Count for an address, such as one that a trusted proxy named.
func (t *Tries) CountOf(addr netip.Addr, now time.Time) bool { return t.count(hostNetwork(addr), now) }

func (t *Tries) count(from netip.Prefix, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	limiter := t.remotes[from]
	if limiter == nil {
		if len(t.remotes) == maxRemotes {
			// A client with so many addresses evades a limit per address anyway; this bounds the
			// memory.
			clear(t.remotes)
		}
		limiter = rate.NewLimiter(t.perSecond, t.burst)
		t.remotes[from] = limiter
	}
	return limiter.AllowN(now, 1)
}

// Spent reports whether another failure of remote would exceed the limit.
func (t *Tries) Spent(remote string, now time.Time) bool {
	from := connection(remote)
	t.mu.Lock()
	defer t.mu.Unlock()
	limiter := t.remotes[from]
	return limiter != nil && limiter.TokensAt(now) < 1
}

// connection returns the network of a RemoteAddr. X-Forwarded-For does not count here, since any client can
// set it; a server with Behind has already set RemoteAddr to what its proxies say.
func connection(remote string) netip.Prefix { return hostNetwork(AddrOf(remote)) }

// hostNetwork returns the network that counts as one host. The zero Prefix stands for all addresses that
// can't be parsed.
func hostNetwork(addr netip.Addr) (from netip.Prefix) {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	from, _ = addr.Prefix(bits) // these bits always fit
	return from
}
