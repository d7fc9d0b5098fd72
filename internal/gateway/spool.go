package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// spool is the body of a call that came without a length. It goes on with one: WeChat answers HTTP
// 412 to a body in chunks.
type spool struct {
	memory []byte
	// Instead of memory, for a long body. It has no name any more: nothing is left of it, however
	// the process ends.
	file   *os.File
	length int64
}

// errSpool is the error for a body that can't be kept.
var errSpool = errors.New("no room for a body without a length")

// newSpool reads a body to its end: so many bytes of it into memory, and a longer one into a file
// in dir ("": where the system has such files). The error is that of body, or wraps errSpool.
func newSpool(body io.Reader, inMemory int64, dir string) (*spool, error) {
	var head bytes.Buffer
	if _, err := io.Copy(&head, io.LimitReader(body, inMemory+1)); err != nil {
		return nil, err
	}
	if int64(head.Len()) <= inMemory {
		return &spool{memory: head.Bytes(), length: int64(head.Len())}, nil
	}
	file, err := os.CreateTemp(dir, "wxtoken-gateway-")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSpool, err)
	}
	s := &spool{file: file}
	if err := os.Remove(file.Name()); err != nil {
		s.close()
		return nil, fmt.Errorf("%w: %w", errSpool, err)
	}
	if s.length, err = io.Copy(onDisk{file}, io.MultiReader(&head, body)); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// CheckSpool tells whether a file can be made for a long body.
func (c Config) CheckSpool() error {
	s, err := newSpool(bytes.NewReader([]byte{0}), 0, c.SpoolDir)
	if err != nil {
		return err
	}
	s.close()
	return nil
}

// onDisk tells a disk's errors from those of a body.
type onDisk struct{ file *os.File }

// Write writes to the file.
func (d onDisk) Write(data []byte) (int, error) {
	n, err := d.file.Write(data)
	if err != nil {
		err = fmt.Errorf("%w: %w", errSpool, err)
	}
	return n, err
}

// open returns the body, as often as it is wanted.
func (s *spool) open() (io.ReadCloser, error) {
	if s.file == nil {
		return io.NopCloser(bytes.NewReader(s.memory)), nil
	}
	return io.NopCloser(io.NewSectionReader(s.file, 0, s.length)), nil
}

// close lets go of it.
func (s *spool) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}
