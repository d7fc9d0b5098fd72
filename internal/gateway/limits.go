package gateway

import (
	"net"
	"sync"
	"time"
)

const (
	// wrongKeys is how many wrong keys, and how many wrong tokens of users, one address may try a
	// second.
	wrongKeys = 20

	// serviceCalls and accountCalls bound the calls of one service, and for one account, that are
	// under way at once.
	serviceCalls = 512
	accountCalls = 128
	// serviceSpools bounds those of a service whose body has no length, and may be on disk.
	serviceSpools = 16

	// After failuresToOpen calls in a row without an answer WeChat counts as away; then calls are
	// refused for openFor, before one may try again.
	failuresToOpen = 10
	openFor        = 2 * time.Second
)

// hostOf is an address without its port. It may be one that a proxy named (serve.Behind).
func hostOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// slots counts calls that are under way, by name.
type slots struct {
	mu  sync.Mutex
	of  map[string]int
	max int
}

// acquire takes a slot, unless all are taken.
func (s *slots) acquire(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[name] >= s.max {
		return false
	}
	if s.of == nil {
		s.of = map[string]int{}
	}
	s.of[name]++
	return true
}

// release gives a slot back.
func (s *slots) release(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[name]--; s.of[name] <= 0 {
		delete(s.of, name)
	}
}

// breaker refuses calls while WeChat does not answer.
type breaker struct {
	mu       sync.Mutex
	failures int
	until    time.Time // no further call before then
}

// allow reports whether a call may be made: while WeChat is away, one per openFor.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < failuresToOpen {
		return true
	}
	if now.Before(b.until) {
		return false
	}
	b.until = now.Add(openFor)
	return true
}

// note notes how a call ended.
func (b *breaker) note(now time.Time, answered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if answered {
		b.failures = 0
		return
	}
	if b.failures++; b.failures >= failuresToOpen {
		b.until = now.Add(openFor)
	}
}
