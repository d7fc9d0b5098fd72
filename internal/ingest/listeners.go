package ingest

import (
	"sync"
	"time"
)

// What is remembered of subjects on which no service answers.
const (
	silenceLasts = time.Second
	silentAfter  = 8       // questions in a row within that time that had no listener
	maxSilent    = 100_000 // subjects; what is beyond is asked about
)

// listeners remembers where no service listens: a question there costs as much as half of the
// storing, for nothing. Of the questions on a subject the first few of each second are asked all
// the same, so that a service that begins to listen is heard within a second, and at once where
// messages are few.
type listeners struct {
	now func() time.Time

	mu    sync.Mutex
	since time.Time
	none  map[string]uint8 // by subject: questions since then that had no listener
}

// maybe reports whether a question on a subject may find a service.
func (l *listeners) maybe(subject string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.since) >= silenceLasts || now.Before(l.since) {
		l.since = now
		clear(l.none)
	}
	return l.none[subject] < silentAfter
}

// heard notes whether a service listens on a subject.
func (l *listeners) heard(subject string, listens bool) {
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
