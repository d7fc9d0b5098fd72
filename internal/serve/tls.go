package serve

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// certificate is a certificate and its key in files that may be replaced at any time.
type certificate struct {
	cert, key string
	log       zerolog.Logger // set before the server listens

	mu    sync.Mutex
	read  time.Time // modification time of the newer file when they were read
	now   *tls.Certificate
	fault string // why they can't be read now, as the log has it
}

// get is the GetCertificate of a tls.Config. While the files can't be read, the last certificate stays, and the log
// says why, once: a new certificate that nobody uses is noticed when the old one ends.
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
			c.now, c.read, c.fault = &pair, changed, ""
		}
	}
	if c.now == nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	if err != nil && err.Error() != c.fault {
		c.fault = err.Error()
		c.log.Warn().Err(err).Str("cert", c.cert).Str("key_file", c.key).
			Str("hint", "put a certificate and its key there; until then the one of before is used").Msg("failed to read the certificate again")
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
