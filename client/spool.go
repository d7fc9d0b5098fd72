package wxtoken

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
)

// defaultMaxSpool is the longest body without a Content-Length that is spooled to disk, in bytes.
const defaultMaxSpool = 1 << 30

// ErrBodyTooLong is returned by Transport for a body without a length that is longer than MaxSpool.
var ErrBodyTooLong = errors.New("request body without a length is too long (set the request's ContentLength, or MaxSpool)")

// bufferedBody is a request's body that was read to its end: in memory, or in a file.
type bufferedBody struct {
	memory []byte
	file   *os.File
	name   string // of the file, where it could not be removed while it is open
	length int64
	users  atomic.Int32 // of the file: net/http may still read the body after the answer came
}

// buffer reads a body to its end: into memory up to inMemory bytes, a longer one into a file. It
// stops when ctx ends.
func (t *Transport) buffer(ctx context.Context, from io.ReadCloser, inMemory int64) (*bufferedBody, error) {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = from.Close() // a read that waits returns
	})
	defer func() {
		if !stop() {
			<-ended
		}
	}()
	k, err := t.readBody(contextReader{ctx, from}, inMemory)
	if ctx.Err() != nil {
		k.release()
		return nil, ctx.Err()
	}
	return k, err
}

func (t *Transport) readBody(from io.Reader, inMemory int64) (*bufferedBody, error) {
	var head bytes.Buffer
	if _, err := io.Copy(&head, io.LimitReader(from, inMemory+1)); err != nil {
		return nil, err
	}
	if int64(head.Len()) <= inMemory {
		return &bufferedBody{memory: head.Bytes(), length: int64(head.Len())}, nil
	}
	file, err := os.CreateTemp(t.SpoolDir, "wxtoken-body-")
	if err != nil {
		return nil, fmt.Errorf("keep a request body without a length: %w", err)
	}
	k := &bufferedBody{file: file}
	k.users.Store(1)
	// Removed while open, so that nothing is left however the process ends. Windows can't do that.
	if os.Remove(file.Name()) != nil {
		k.name = file.Name()
	}
	most := t.MaxSpool
	if most == 0 {
		most = defaultMaxSpool
	}
	if k.length, err = io.Copy(file, io.LimitReader(io.MultiReader(&head, from), most+1)); err == nil && k.length > most {
		err = ErrBodyTooLong
	}
	if err != nil {
		k.release()
		return nil, err
	}
	return k, nil
}

// open returns the body from its beginning. It may be called several times before release.
func (k *bufferedBody) open() (io.ReadCloser, error) {
	switch {
	case k.length == 0:
		return http.NoBody, nil
	case k.file == nil:
		return io.NopCloser(bytes.NewReader(k.memory)), nil
	}
	k.users.Add(1)
	return &fileBody{Reader: io.NewSectionReader(k.file, 0, k.length), of: k}, nil
}

// release gives up one use of the body. The last one closes the file.
func (k *bufferedBody) release() {
	if k == nil || k.file == nil || k.users.Add(-1) > 0 {
		return
	}
	_ = k.file.Close()
	if k.name != "" {
		_ = os.Remove(k.name)
	}
}

// fileBody is a body that is read from a file.
type fileBody struct {
	io.Reader
	of   *bufferedBody
	once sync.Once // net/http may close a body twice
}

// Close releases the file.
func (f *fileBody) Close() error {
	f.once.Do(f.of.release)
	return nil
}

// contextReader is a reader that fails once its context has ended.
type contextReader struct {
	ctx  context.Context
	from io.Reader
}

// Read reads from the reader, or returns the context's error.
func (u contextReader) Read(into []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.from.Read(into)
}
