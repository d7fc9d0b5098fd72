package services

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"sync"

	"github.com/rs/zerolog"

	"wxtoken/internal/settings"
)

// Watch follows the services file. A file that can't be read, or is faulty, changes nothing.
type Watch struct {
	file  *settings.File[*Services] // nil: fixed counts
	fixed *Services

	mu      sync.Mutex
	changed chan struct{} // closed at the next change
}

// Open reads the services file; the error says what is wrong with it. Without a path there are no services.
func Open(path string, log zerolog.Logger) (*Watch, error) {
	if path == "" {
		return Fixed(&Services{}), nil
	}
	file, err := settings.OpenFile("services file", path, parse, log)
	if err != nil {
		return nil, err
	}
	w := &Watch{file: file, changed: make(chan struct{})}
	file.Changed = func(s *Services) {
		w.notify()
		log.Info().Int("services", len(s.all)).Msg("services read")
	}
	file.Refused = func(why string) {
		log.Warn().Str("error", why).Str("hint", "the services of before stay in force").Msg("services file refused")
	}
	return w, nil
}

// Fixed returns services that don't change.
func Fixed(s *Services) *Watch { return &Watch{fixed: s, changed: make(chan struct{})} }

// Now returns the services in force.
func (w *Watch) Now() *Services {
	if w.file == nil {
		return w.fixed
	}
	return w.file.Now()
}

// Changed returns a channel that is closed when the services change.
func (w *Watch) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Run reads the file again and again until ctx ends. A fault is logged once, and the services stay as they
// were.
func (w *Watch) Run(ctx context.Context) error {
	if w.file == nil {
		<-ctx.Done()
		return nil
	}
	return w.file.Run(ctx)
}

// notify wakes all that wait for a change. The new services are in force before, so that a waiter that calls
// Now sees them.
func (w *Watch) notify() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}

// MakeKey returns a new key for a service, and its digest for the services file.
func MakeKey() (key, digest string) {
	key = "wxk_" + rand.Text()
	return key, Digest(key)
}

// Digest returns the digest of a key, as it stands in the services file.
func Digest(key string) string {
	sum := sha256.Sum256([]byte(key))
	return digestPrefix + hex.EncodeToString(sum[:])
}
