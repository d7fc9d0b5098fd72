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

// defaultMaxSpool is how long a body may be whose length was not said, in bytes: it takes room on a
// disk.
const defaultMaxSpool = 1 << 30

// ErrBodyTooLong is returned by Transport for a body whose length was not said and that is longer
// than MaxSpool.
var ErrBodyTooLong = errors.New("request body without a length is too long (set the request's ContentLength, or MaxSpool)")

// kept is a request's body that was read to its end: in memory, or in a file.
type kept struct {
	memory []byte
	file   *os.File
	name   string // of the file, where it could not be removed while it is open
	length int64
	users  atomic.Int32 // of the file: net/http may read the body yet when the answer is there
}

// keep reads a body to its end: up to so many bytes into memory, and what is longer into a file.
// The end of ctx ends it.
func (t *Transport) keep(ctx context.Context, from io.ReadCloser, inMemory int64) (*kept, error) {
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
	k, err := t.read(untilDone{ctx, from}, inMemory)
	if ctx.Err() != nil {
		k.release()
		return nil, ctx.Err()
	}
	return k, err
}

func (t *Transport) read(from io.Reader, inMemory int64) (*kept, error) {
	var head bytes.Buffer
	if _, err := io.Copy(&head, io.LimitReader(from, inMemory+1)); err != nil {
		return nil, err
	}
	if int64(head.Len()) <= inMemory {
		return &kept{memory: head.Bytes(), length: int64(head.Len())}, nil
	}
	file, err := os.CreateTemp(t.SpoolDir, "wxtoken-body-")
	if err != nil {
		return nil, fmt.Errorf("keep a request body without a length: %w", err)
	}
	k := &kept{file: file}
	k.users.Store(1)
	// Windows removes no open file; elsewhere nothing is left of it, however the process ends.
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

// open returns the body, as often as it is wanted before release.
func (k *kept) open() (io.ReadCloser, error) {
	switch {
	case k.length == 0:
		return http.NoBody, nil
	case k.file == nil:
		return io.NopCloser(bytes.NewReader(k.memory)), nil
	}
	k.users.Add(1)
	return &fromFile{Reader: io.NewSectionReader(k.file, 0, k.length), of: k}, nil
}

// release lets go of a body that nothing opens any more. The last who has it open closes the file.
func (k *kept) release() {
	if k == nil || k.file == nil || k.users.Add(-1) > 0 {
		return
	}
	_ = k.file.Close()
	if k.name != "" {
		_ = os.Remove(k.name)
	}
}

// fromFile is a body that is read from a file.
type fromFile struct {
	io.Reader
	of   *kept
	once sync.Once // net/http may close a body twice
}

// Close lets go of the file.
func (f *fromFile) Close() error {
	f.once.Do(f.of.release)
	return nil
}

// untilDone is a reader that ends with a context.
type untilDone struct {
	ctx  context.Context
	from io.Reader
}

// Read reads.
func (u untilDone) Read(into []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.from.Read(into)
}
