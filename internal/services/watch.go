package services

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

const (
	// watchEvery is the time between two readings of the services file.
	watchEvery = 2 * time.Second
	// maxFile bounds the services file, in bytes.
	maxFile = 16 << 20
)

// Watch follows the services file. What it names is always whole: a file that can't be read, or is faulty, changes nothing.
type Watch struct {
	path  string
	every time.Duration
	log   zerolog.Logger
	text  []byte // of the file that was last in order; of Open, then of Run
	now   atomic.Pointer[Services]

	mu      sync.Mutex
	changed chan struct{} // closed at the next change
}

// Open reads the services file, and returns the error of that. Without a path there are no services.
func Open(path string, log zerolog.Logger) (*Watch, error) {
	w := &Watch{path: path, every: watchEvery, log: log, changed: make(chan struct{})}
	w.now.Store(&Services{})
	if path == "" {
		return w, nil
	}
	s, text, err := w.read()
	if err != nil {
		return nil, err
	}
	w.text = text
	w.now.Store(s)
	return w, nil
}

// Fixed returns services that don't change.
func Fixed(s *Services) *Watch {
	w := &Watch{changed: make(chan struct{})}
	w.now.Store(s)
	return w
}

// Now returns the services in force.
func (w *Watch) Now() *Services { return w.now.Load() }

// Changed returns a channel that is closed when others come into force.
func (w *Watch) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Run reads the file again and again until ctx ends. A fault is logged once, and what was in force stays so.
func (w *Watch) Run(ctx context.Context) error {
	if w.path == "" {
		<-ctx.Done()
		return nil
	}
	told := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.every):
		}
		s, text, err := w.read()
		switch {
		case err != nil:
			if err.Error() != told {
				told = err.Error()
				w.log.Warn().Str("error", told).Str("hint", "the services that were in force stay so").Msg("services file refused")
			}
			continue
		case bytes.Equal(text, w.text):
			told = ""
			continue
		}
		w.text, told = text, ""
		w.set(s)
		w.log.Info().Int("services", len(s.all)).Msg("services read")
	}
}

// set brings services into force.
func (w *Watch) set(s *Services) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now.Store(s)
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Watch) read() (*Services, []byte, error) {
	f, err := os.Open(w.path)
	if err != nil {
		return nil, nil, fmt.Errorf("services file: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("services file: %w", err)
	}
	if len(text) > maxFile {
		return nil, nil, errors.New("services file: larger than 16 MiB")
	}
	s, err := Parse(text)
	return s, text, err
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
