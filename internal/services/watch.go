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

// Watch follows the services file. What it names is always whole: a file that can't be read, or is
// faulty, changes nothing.
type Watch struct {
	file  *settings.File[*Services] // nil: fixed is in force
	fixed *Services

	mu      sync.Mutex
	changed chan struct{} // closed at the next change
}

// Open reads the services file, and returns the error of that. Without a path there are no
// services.
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
		w.tell()
		log.Info().Int("services", len(s.all)).Msg("services read")
	}
	file.Refused = func(why string) {
		log.Warn().Str("error", why).Str("hint", "the services that were in force stay so").Msg("services file refused")
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

// Changed returns a channel that is closed when others come into force.
func (w *Watch) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Run reads the file again and again until ctx ends. A fault is logged once, and what was in force
// stays so.
func (w *Watch) Run(ctx context.Context) error {
	if w.file == nil {
		<-ctx.Done()
		return nil
	}
	return w.file.Run(ctx)
}

// tell ends the wait of all who wait for a change. Others are in force already, so that who looks
// now misses none.
func (w *Watch) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}

// MakeKey returns a new key for a service, and the digest of it that stands in the services file.
func MakeKey() (key, digest string) {
	key = "wxk_" + rand.Text()
	return key, Digest(key)
}

// Digest is what stands in the services file for a key.
func Digest(key string) string {
	sum := sha256.Sum256([]byte(key))
	return digestPrefix + hex.EncodeToString(sum[:])
}
