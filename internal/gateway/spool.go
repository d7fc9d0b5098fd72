package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// spool is the body of a call that came without a length. It is sent on with one: WeChat answers a
// chunked body with HTTP 412.
type spool struct {
	memory []byte
	// Instead of memory, for a long body. The file is already deleted, so nothing is left of it however
	// the process ends.
	file   *os.File
	length int64
}

// errSpool is the error for a body that can't be stored.
var errSpool = errors.New("no room for a body without a length")

// newSpool reads a body to its end: up to inMemory bytes into memory, a longer one into a file in dir
// ("": the system's folder for temporary files). The error is that of body, or wraps errSpool.
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

// CheckSpool returns an error where no file can be made for a long body.
func (c Config) CheckSpool() error {
	s, err := newSpool(bytes.NewReader([]byte{0}), 0, c.SpoolDir)
	if err != nil {
		return err
	}
	s.close()
	return nil
}

// onDisk marks errors of the disk, to tell them from those of the body.
type onDisk struct{ file *os.File }

// Write writes to the file.
func (d onDisk) Write(data []byte) (int, error) {
	n, err := d.file.Write(data)
	if err != nil {
		err = fmt.Errorf("%w: %w", errSpool, err)
	}
	return n, err
}

// open returns the body from its beginning, as often as it is called.
func (s *spool) open() (io.ReadCloser, error) {
	if s.file == nil {
		return io.NopCloser(bytes.NewReader(s.memory)), nil
	}
	return io.NopCloser(io.NewSectionReader(s.file, 0, s.length)), nil
}

// close releases the file.
func (s *spool) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}
