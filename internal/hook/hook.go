// Package hook has what POSTs to other people's addresses have in common: the address, the
// signature of Standard Webhooks, the client, and how long to wait after a failure. Nothing here
// shows an address: it may contain a secret.
package hook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"wxtoken/internal/lang"
)

const (
	secretPrefix = "whsec_"
	// minSecret and maxSecret bound the length of a secret, in bytes ("Standard Webhooks": 24 to
	// 64).
	minSecret, maxSecret = 24, 64

	// maxSigned is the expected size of the longer of two texts: the signature, and what is signed
	// before the body, in bytes.
	maxSigned = 96

	// dialWithin bounds the time to connect to a receiver.
	dialWithin = 5 * time.Second
	// idleFor is how long a connection to a receiver is kept.
	idleFor = 90 * time.Second
	// maxHeader bounds the headers of an answer, in bytes.
	maxHeader = 64 << 10
	// maxRetryAfter is the longest wait that a receiver can ask for.
	maxRetryAfter = 10 * time.Minute
)

// backoff is how long to wait after each failed try; Pause subtracts up to a fifth at random.
var backoff = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
}

// Address parses the URL of a receiver. The error does not show it.
func Address(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, errors.New("want http://... or https://... without a password")
	}
	return u, nil
}

// Secret decodes whsec_<base64>. The error does not show it.
func Secret(text string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(raw) < minSecret || len(raw) > maxSecret {
		return nil, fmt.Errorf("want %s and the base64 of %d to %d bytes", secretPrefix, minSecret, maxSecret)
	}
	return raw, nil
}

// Signer signs with one secret ("Standard Webhooks", symmetric).
type Signer struct{ macs sync.Pool }

// NewSigner returns a signer that any number of goroutines may use.
func NewSigner(secret []byte) *Signer {
	// Pooled, because setting up an HMAC takes longer than signing a message of a kilobyte.
	return &Signer{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}}
}

// Sign sets the headers for id, time and signature of a body.
func (s *Signer) Sign(h http.Header, id string, at time.Time, body []byte) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	mac := s.macs.Get().(hash.Hash)
	defer s.macs.Put(mac)
	mac.Reset()
	text := make([]byte, 0, maxSigned)
	text = append(append(append(append(text, id...), '.'), timestamp...), '.')
	_, _ = mac.Write(text)
	_, _ = mac.Write(body)
	text = base64.StdEncoding.AppendEncode(append(text[:0], "v1,"...), mac.Sum(nil))
	values := [...]string{"wxtoken", id, timestamp, string(text)}
	for i, name := range [...]string{"User-Agent", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
		h[name] = values[i : i+1 : i+1]
	}
}

// Client returns a client that follows no redirects and keeps up to perHost idle connections to
// each receiver.
func Client(perHost int) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:       http.ProxyFromEnvironment,
			DialContext: (&net.Dialer{Timeout: dialWithin}).DialContext, TLSHandshakeTimeout: dialWithin,
			MaxIdleConnsPerHost: perHost, IdleConnTimeout: idleFor, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: maxHeader,
			DisableCompression: true, // a small answer could expand to a huge one
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Unanswered returns why there is no answer, in words without the address, and whether it was a
// timeout.
func Unanswered(err error) (timeout bool, why lang.Text) {
	var slow net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout() {
		return true, lang.T("no answer in time", "没有及时应答")
	}
	return false, lang.T("no connection, or it broke", "连接不上，或者连接中断")
}

// RetryAfter returns the Retry-After of an answer, at most maxRetryAfter; 0 if there is none in
// seconds.
func RetryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 32)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range it is the largest number
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// Pause returns how long to wait after the given number of tries, from 1: the backoff, less a random
// part, but no less than after, before which the receiver asked not to be called.
func Pause(tries int, after time.Duration) time.Duration {
	d := backoff[min(tries, len(backoff))-1]
	return max(d-rand.N(d/5+1), after)
}

// Sleep waits for d or until ctx ends, and returns false if ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
