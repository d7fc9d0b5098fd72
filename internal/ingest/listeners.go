package ingest

import (
	"sync"
	"time"
)

// Bounds of what listeners remembers.
const (
	silenceLasts = time.Second
	silentAfter  = 8       // requests without a listener, within silenceLasts, after which a subject is silent
	maxSilent    = 100_000 // subjects; requests on further ones are always sent
)

// listeners remembers on which subjects no service listens: a request there costs half as much as
// storing the message, for nothing. The first few requests of each second on a subject are sent all
// the same, so that a service that starts to listen gets its first request within a second, or at
// once if messages are few.
type listeners struct {
	now func() time.Time

	mu    sync.Mutex
	since time.Time
	none  map[string]uint8 // by subject: requests without a listener since then
}

// mayListen reports whether a service may be listening on a subject.
func (l *listeners) mayListen(subject string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.since) >= silenceLasts || now.Before(l.since) {
		l.since = now
		clear(l.none)
	}
	return l.none[subject] < silentAfter
}

// record records whether a service listened on a subject.
func (l *listeners) record(subject string, listens bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case listens:
		delete(l.none, subject)
	case l.none == nil:
		l.none = map[string]uint8{subject: 1}
	case l.none[subject] < silentAfter && (l.none[subject] > 0 || len(l.none) < maxSilent):
		l.none[subject]++
	}
}
