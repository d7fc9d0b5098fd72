// Package logtest gives a test a log that it may read while others write to it.
package logtest

import (
	"bytes"
	"sync"

	"github.com/rs/zerolog"
)

// Buffer keeps what is written to it. The zero value is ready to use.
type Buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// New returns a logger, and what it writes.
func New() (zerolog.Logger, *Buffer) {
	out := &Buffer{}
	return zerolog.New(out), out
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String returns what was written.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Take returns what was written, and forgets it.
func (b *Buffer) Take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.text.String()
	b.text.Reset()
	return text
}
