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
	// filePoll is how often a file is read again.
	filePoll = 2 * time.Second
	// maxFile bounds the file, in bytes.
	maxFile = 16 << 20
)

// File is a file of settings that is read again while the process runs. A file that can't be read, or is faulty,
// changes nothing.
type File[T any] struct {
	what  string
	path  string
	parse func([]byte) (T, error)
	every time.Duration
	text  []byte // last content without a fault; written by OpenFile, then only by Run
	now   atomic.Pointer[T]

	// Run calls Changed with a new value, and Refused with a fault, once for each fault. By default
	// they log a line; they may be replaced before Run.
	Changed func(T)
	Refused func(why string)
}

// OpenFile reads a file; the error says what is wrong with it. what is its name for people: "users file".
func OpenFile[T any](what, path string, parse func([]byte) (T, error), log zerolog.Logger) (*File[T], error) {
	f := &File[T]{what: what, path: path, parse: parse, every: filePoll}
	value, text, err := f.read()
	if err != nil {
		return nil, err
	}
	f.text = text
	f.now.Store(&value)
	f.Changed = func(T) { log.Info().Str("file", what).Msg("file read") }
	f.Refused = func(why string) {
		log.Warn().Str("error", why).Str("hint", "the content of before stays in force").Str("file", what).Msg("file refused")
	}
	return f, nil
}

// Now returns the value in force.
func (f *File[T]) Now() T { return *f.now.Load() }

// Run reads the file again and again until ctx ends. While it is faulty, the last value stays in force.
func (f *File[T]) Run(ctx context.Context) error {
	logged := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(f.every):
		}
		value, text, err := f.read()
		switch {
		case err != nil:
			if err.Error() != logged {
				logged = err.Error()
				f.Refused(logged)
			}
		case bytes.Equal(text, f.text):
			logged = ""
		default:
			f.text, logged = text, ""
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

// DecodeJSON decodes a file of settings that is one JSON object. A field that into does not have is an error,
// since a misspelled setting would have no effect; want lists the known fields for the error, "" for none. The
// error shows no value of the file, which may be a secret.
func DecodeJSON(text []byte, into any, want string) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case err == nil:
	case errors.As(err, &kind):
		what, _, _ := strings.Cut(kind.Value, " ") // it may be "number 12", with the value
		return fmt.Errorf("%s: unexpected %s", kind.Field, what)
	case errors.As(err, &syntax):
		return fmt.Errorf("invalid JSON at byte %d", syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return errors.New("unexpected end")
	default:
		name, ok := strings.CutPrefix(err.Error(), "json: unknown field ")
		if !ok {
			return errors.New("unreadable value") // the error may quote it
		}
		if want != "" {
			want = ": want " + want
		}
		return fmt.Errorf("unknown field %.40s%s", name, want)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the JSON object")
	}
	return nil
}
