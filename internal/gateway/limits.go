package gateway

import (
	"net"
	"sync"
	"time"
)

const (
	// wrongKeys is how many wrong keys a second one address may try, and how many wrong tokens of
	// users.
	wrongKeys = 20

	// serviceCalls and accountCalls are how many calls of one service, and for one account, are
	// under way at once.
	serviceCalls = 512
	accountCalls = 128
	// serviceSpools is how many of a service's have a body without a length, which may lie on disk.
	serviceSpools = 16

	// failuresToOpen is after how many calls in a row without an answer WeChat counts as away, and
	// openFor how long calls are refused then, before one tries again.
	failuresToOpen = 10
	openFor        = 2 * time.Second
)

// hostOf is an address without its port: that of the connection, or the one that a proxy names
// (serve.Behind).
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

// take takes a slot, unless all are taken.
func (s *slots) take(name string) bool {
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

// give gives one back.
func (s *slots) give(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[name]--; s.of[name] <= 0 {
		delete(s.of, name)
	}
}

// breaker keeps calls from a WeChat that does not answer.
type breaker struct {
	mu       sync.Mutex
	failures int
	until    time.Time // no call before that, but the one that tries
}

// allow reports whether a call may be made. While WeChat is away that is one in openFor.
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
