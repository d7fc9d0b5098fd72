package settings

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

const (
	// fileEvery is the time between two readings of a file that is followed.
	fileEvery = 2 * time.Second
	// maxFile bounds such a file, in bytes.
	maxFile = 16 << 20
)

// File is a file of settings that is followed while the process runs. What it says is always whole:
// a file that can't be read, or is faulty, changes nothing.
type File[T any] struct {
	what  string
	path  string
	parse func([]byte) (T, error)
	every time.Duration
	text  []byte // that was last in order; of OpenFile, then of Run
	now   atomic.Pointer[T]

	// Changed is called by Run with what came into force, and Refused with a fault, once for each;
	// they may be replaced before. By themselves they write a line of log.
	Changed func(T)
	Refused func(why string)
}

// OpenFile reads a file, and returns the error of that. what is its name for people: "users file".
func OpenFile[T any](what, path string, parse func([]byte) (T, error), log zerolog.Logger) (*File[T], error) {
	f := &File[T]{what: what, path: path, parse: parse, every: fileEvery}
	value, text, err := f.read()
	if err != nil {
		return nil, err
	}
	f.text = text
	f.now.Store(&value)
	f.Changed = func(T) { log.Info().Str("file", what).Msg("file read") }
	f.Refused = func(why string) {
		log.Warn().Str("error", why).Str("hint", "what was in force stays so").Str("file", what).Msg("file refused")
	}
	return f, nil
}

// Now returns what is in force.
func (f *File[T]) Now() T { return *f.now.Load() }

// Run reads the file again and again until ctx ends. A fault is logged once, and what was in force
// stays so.
func (f *File[T]) Run(ctx context.Context) error {
	told := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(f.every):
		}
		value, text, err := f.read()
		switch {
		case err != nil:
			if err.Error() != told {
				told = err.Error()
				f.Refused(told)
			}
		case bytes.Equal(text, f.text):
			told = ""
		default:
			f.text, told = text, ""
			f.now.Store(&value)
			f.Changed(value)
		}
	}
}

func (f *File[T]) read() (value T, text []byte, err error) {
	file, err := os.Open(f.path)
	if err != nil {
		return value, nil, fmt.Errorf("%s: %w", f.what, err)
	}
	defer func() { _ = file.Close() }()
	text, err = io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return value, nil, fmt.Errorf("%s: %w", f.what, err)
	}
	if len(text) > maxFile {
		return value, nil, fmt.Errorf("%s: larger than 16 MiB", f.what)
	}
	if value, err = f.parse(text); err != nil {
		return value, nil, fmt.Errorf("%s: %w", f.what, err)
	}
	return value, text, nil
}

// DecodeJSON reads a file of settings that is one JSON object. A field that into does not have is a
// fault, since a misspelled one would be a setting without effect; want names the right ones, "" for
// no hint. The error shows no value of the file: it may be a secret.
func DecodeJSON(text []byte, into any, want string) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case err == nil:
	case errors.As(err, &kind):
		what, _, _ := strings.Cut(kind.Value, " ") // "number 12" is what it says where a whole one does not fit
		return fmt.Errorf("%s: a %s stands where another kind of value belongs", kind.Field, what)
	case errors.As(err, &syntax):
		return fmt.Errorf("no JSON at byte %d", syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return errors.New("it ends too early")
	default:
		if want != "" {
			want = ": want " + want
		}
		name, _ := strings.CutPrefix(err.Error(), "json: unknown field ")
		return fmt.Errorf("unknown field %.40s%s", name, want)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows its end")
	}
	return nil
}
