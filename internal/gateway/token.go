package gateway

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wxtoken/client"
)

const (
	// TokenLife is the life of a gateway token: that of WeChat's ("Get_access_token"), so that an SDK
	// caches it as usual.
	TokenLife = 7200 * time.Second
	// tokenGrace is how much longer it is accepted: some SDKs use a token up to its last second, and
	// don't get another one when that was too late.
	tokenGrace = time.Minute
	// tokenPrefix begins each gateway token. WeChat's own begin with a number and "_".
	tokenPrefix = "wxg1_"
	// tokenKeyLen is the length of a signing key, in bytes.
	tokenKeyLen = 32
)

// Why a token is refused.
var (
	ErrForged  = errors.New("not a token of this gateway")
	ErrExpired = errors.New("expired token")
)

// Claims are what a gateway token says.
type Claims struct {
	Service string
	Key     wxtoken.Key // the account, or the component itself
	Ends    time.Time   // whole seconds

	// Generation is that of WeChat's token when this one was made. The relay always uses the newest.
	Generation uint64
}

// Signer signs and opens gateway tokens.
type Signer struct {
	keys        []*macKey
	noncePrefix string        // begins the nonces of this process
	nonceCount  atomic.Uint64 // ends them
}

// macKey is a signing key.
type macKey struct{ hashes sync.Pool }

func newMACKey(key []byte) *macKey {
	return &macKey{hashes: sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// What is signed is one line: service, key, end in seconds since 1970, generation and a nonce. The nonce
// makes each token different: SDKs compare tokens to see whether one was replaced.
const signedFields = 5

// ReadSigner reads the signing keys, one per line: the first signs, all are accepted. The error shows no
// key.
func ReadSigner(in io.Reader) (*Signer, error) {
	s := &Signer{noncePrefix: rand.Text()[:8]}
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != tokenKeyLen {
			return nil, fmt.Errorf("token keys: line %d: want the base64 of %d bytes (gateway --make-token-key prints one)", n, tokenKeyLen)
		}
		s.keys = append(s.keys, newMACKey(key))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("token keys: %w", err)
	}
	if len(s.keys) == 0 {
		return nil, errors.New("token keys: none (gateway --make-token-key prints one)")
	}
	return s, nil
}

// MakeTokenKey returns a new line for the file of signing keys.
func MakeTokenKey() string {
	key := make([]byte, tokenKeyLen)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	return base64.StdEncoding.EncodeToString(key)
}

// Sign returns a token with these claims.
func (s *Signer) Sign(c Claims) wxtoken.Secret {
	return wxtoken.NewSecret(string(s.appendToken(nil, c)))
}

// appendToken appends a token with these claims, for an answer that is sent at once: making a Secret of it
// would cost more than all the rest.
func (s *Signer) appendToken(to []byte, c Claims) []byte {
	raw := make([]byte, sha256.Size, sha256.Size+128)
	raw = append(append(raw, c.Service...), ' ')
	raw = append(append(raw, c.Key.String()...), ' ')
	raw = append(strconv.AppendInt(raw, c.Ends.Unix(), 10), ' ')
	raw = append(strconv.AppendUint(raw, c.Generation, 10), ' ')
	raw = strconv.AppendUint(append(raw, s.noncePrefix...), s.nonceCount.Add(1), 36)
	s.keys[0].appendMAC(raw[:0], raw[sha256.Size:])
	return base64.RawURLEncoding.AppendEncode(append(to, tokenPrefix...), raw)
}

// Open returns the claims of a token. It returns ErrForged where none of the keys signed it, and ErrExpired
// with the claims where it has expired.
func (s *Signer) Open(token string, now time.Time) (Claims, error) {
	encoded, ok := strings.CutPrefix(token, tokenPrefix)
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if !ok || err != nil || len(raw) <= sha256.Size {
		return Claims{}, ErrForged
	}
	sum, text := raw[:sha256.Size], raw[sha256.Size:]
	good := false
	for _, key := range s.keys {
		good = hmac.Equal(sum, key.appendMAC(nil, text)) || good
	}
	fields := strings.Split(string(text), " ")
	if !good || len(fields) != signedFields {
		return Claims{}, ErrForged
	}
	key, keyErr := wxtoken.ParseKey(fields[1])
	ends, endErr := strconv.ParseInt(fields[2], 10, 64)
	generation, err := strconv.ParseUint(fields[3], 10, 64)
	if errors.Join(keyErr, endErr, err) != nil {
		return Claims{}, ErrForged
	}
	c := Claims{Service: fields[0], Key: key, Ends: time.Unix(ends, 0).UTC(), Generation: generation}
	if !now.Before(c.Ends) {
		return c, ErrExpired
	}
	return c, nil
}

// appendMAC appends the HMAC-SHA256 of a token's text.
func (k *macKey) appendMAC(to, text []byte) []byte {
	h := k.hashes.Get().(hash.Hash)
	defer k.hashes.Put(h)
	h.Reset()
	h.Write([]byte(tokenPrefix))
	h.Write(text)
	return h.Sum(to)
}

// IsOurs reports whether a token looks like a gateway token.
func IsOurs(token string) bool { return strings.HasPrefix(token, tokenPrefix) }
