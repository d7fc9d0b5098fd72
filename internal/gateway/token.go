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
	// TokenLife is how long a token of the gateway's is good: as long as WeChat's
	// ("Get_access_token"), so that an SDK caches it as it always did.
	TokenLife = 7200 * time.Second
	// tokenGrace is how much longer it is taken: some SDKs use a token to its last second, and ask
	// for no other when that was one too late.
	tokenGrace = time.Minute
	// tokenPrefix begins each of them. WeChat's own begin with a number and "_".
	tokenPrefix = "wxg1_"
	// tokenKeyLen is the length of a key that signs, in bytes.
	tokenKeyLen = 32
)

// Why a token is not taken.
var (
	ErrForged  = errors.New("no token of this gateway")
	ErrExpired = errors.New("expired token")
)

// Claims are what a token of the gateway's says.
type Claims struct {
	Service string
	Key     wxtoken.Key // the account, or the component itself
	Ends    time.Time   // whole seconds

	// Generation is that of WeChat's token when this one was made. The relay takes the newest,
	// whatever it is.
	Generation uint64
}

// Signer makes and reads tokens of the gateway's.
type Signer struct {
	keys  []*macKey
	start string        // of the nonces of this process
	count atomic.Uint64 // and their end
}

// macKey is a key that signs.
type macKey struct{ hashes sync.Pool }

func newMACKey(key []byte) *macKey {
	return &macKey{hashes: sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// What is signed is one line: service, key, end in seconds since 1970, generation and a nonce, so
// that no two are the same: SDKs tell by that whether a token was replaced.
const signedFields = 5

// ReadSigner reads the keys that sign, one a line: the first signs, all are believed. The error
// shows none of them.
func ReadSigner(in io.Reader) (*Signer, error) {
	s := &Signer{start: rand.Text()[:8]}
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

// MakeTokenKey returns a new line for the file of keys that sign.
func MakeTokenKey() string {
	key := make([]byte, tokenKeyLen)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	return base64.StdEncoding.EncodeToString(key)
}

// Sign returns the token that says claims.
func (s *Signer) Sign(c Claims) wxtoken.Secret {
	return wxtoken.NewSecret(string(s.appendToken(nil, c)))
}

// appendToken appends the token that says claims, which goes out at once: a Secret costs more than
// all the rest of it.
func (s *Signer) appendToken(to []byte, c Claims) []byte {
	raw := make([]byte, sha256.Size, sha256.Size+128)
	raw = append(append(raw, c.Service...), ' ')
	raw = append(append(raw, c.Key.String()...), ' ')
	raw = append(strconv.AppendInt(raw, c.Ends.Unix(), 10), ' ')
	raw = append(strconv.AppendUint(raw, c.Generation, 10), ' ')
	raw = strconv.AppendUint(append(raw, s.start...), s.count.Add(1), 36)
	s.keys[0].appendMAC(raw[:0], raw[sha256.Size:])
	return base64.RawURLEncoding.AppendEncode(append(to, tokenPrefix...), raw)
}

// Open returns what a token says. It returns ErrForged for what no key of ours signed, and
// ErrExpired, with the claims, for a token that has ended.
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

// IsOurs reports whether a token looks like one of the gateway's.
func IsOurs(token string) bool { return strings.HasPrefix(token, tokenPrefix) }
