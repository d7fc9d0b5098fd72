package login

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// How many passwords one address may try: a few at once, and then one each ten seconds.
	triesEvery = 10 * time.Second
	triesBurst = 5
	maxRemotes = 4096 // addresses that are remembered
	// How many refused tries leave a record, from all addresses together: JOURNAL drops its oldest records for new ones.
	recordsEvery = 10 * time.Second
	recordsBurst = 20
)

// tries counts the passwords that each address has tried.
type tries struct {
	now     func() time.Time
	mu      sync.Mutex
	remotes map[netip.Prefix]*rate.Limiter
	records *rate.Limiter
}

func newTries(now func() time.Time) *tries {
	return &tries{now: now, remotes: map[netip.Prefix]*rate.Limiter{}, records: rate.NewLimiter(rate.Every(recordsEvery), recordsBurst)}
}

// allow counts one more try of an address, and reports whether it is within bounds. It counts before the password is looked at, so
// that a crowd at once tries no more than one after the other.
func (t *tries) allow(addr netip.Addr) bool {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64 // one host has that many addresses to send from
	}
	from, _ := addr.Prefix(bits) // the zero Prefix stands for all whose address can't be read
	t.mu.Lock()
	defer t.mu.Unlock()
	limiter := t.remotes[from]
	if limiter == nil {
		if len(t.remotes) == maxRemotes {
			clear(t.remotes) // who has so many addresses gets past a limit for each anyway; the bound is for memory
		}
		limiter = rate.NewLimiter(rate.Every(triesEvery), triesBurst)
		t.remotes[from] = limiter
	}
	return limiter.AllowN(t.now(), 1)
}

// recorded reports whether a refused try leaves a record.
func (t *tries) recorded() bool { return t.records.AllowN(t.now(), 1) }
