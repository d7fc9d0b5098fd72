package serve

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificate is a certificate and its key in files that may be replaced at any time.
type certificate struct {
	cert, key string

	mu   sync.Mutex
	read time.Time // modification time of the newer file when they were read
	now  *tls.Certificate
}

// get is the GetCertificate of a tls.Config. While the files can't be read, the last certificate stays.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, err := lastChange(c.cert, c.key)
	if err == nil && c.now != nil && changed.Equal(c.read) {
		return c.now, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.cert, c.key); err == nil {
			c.now, c.read = &pair, changed
		}
	}
	if c.now == nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	return c.now, nil
}

// lastChange returns the latest modification time of files.
func lastChange(files ...string) (at time.Time, err error) {
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return time.Time{}, err
		}
		if info.ModTime().After(at) {
			at = info.ModTime()
		}
	}
	return at, nil
}
