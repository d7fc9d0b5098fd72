package wxtoken

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash/maphash"
)

// Secret holds a value that must not be shown. It prints, logs and marshals as "[redacted]"; only
// Reveal returns the value. Two Secrets are == if their values are.
type Secret struct {
	// Masked, because package fmt calls no methods on unexported fields and prints their contents:
	// a Secret in an unexported field of another struct would show its value. A string, because a
	// Client holds millions of them: making a unique.Handle takes longer than reading the rest of a
	// token, and its bookkeeping more memory than the value.
	masked string // "" for ""
}

const redacted = "[redacted]"

// NewSecret returns a Secret that holds value, for instance for [Client.Report] of a token that
// does not come from a Client.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	masked := make([]byte, maskPrefix+len(value))
	binary.LittleEndian.PutUint64(masked, maphash.String(processMask.seed, value))
	copy(masked[maskPrefix:], value)
	processMask.toggle(masked)
	return Secret{string(masked)}
}

// Reveal returns the value itself. Call it where the value is used, not before.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	value := []byte(s.masked)
	processMask.toggle(value)
	return string(value[maskPrefix:])
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s == Secret{} }

// String returns "[redacted]".
func (s Secret) String() string { return redacted }

// GoString returns "[redacted]", so that %#v shows nothing either.
func (s Secret) GoString() string { return redacted }

// Format writes "[redacted]" whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText returns "[redacted]": a Secret that is marshalled by accident reveals nothing.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText does what NewSecret does: settings and records are read straight into a Secret.
func (s *Secret) UnmarshalText(value []byte) error {
	*s = NewSecret(string(value))
	return nil
}

// mask makes values unreadable in this process's memory: AES in counter mode, with a digest of the
// value as the first counter, so that equal values are equal when masked, and different ones share
// no key stream. Each process makes its own keys, and they never leave it.
type mask struct {
	seed  maphash.Seed
	block cipher.Block
}

// maskPrefix is the length of the digest before a masked value, in bytes.
const maskPrefix = 8

var processMask = newMask()

func newMask() mask {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	return mask{maphash.MakeSeed(), block}
}

// toggle masks or unmasks, in place, what follows the digest.
func (m mask) toggle(text []byte) {
	var counter, stream [aes.BlockSize]byte
	copy(counter[:], text[:maskPrefix])
	for n, rest := uint64(0), text[maskPrefix:]; len(rest) > 0; n++ {
		binary.LittleEndian.PutUint64(counter[maskPrefix:], n)
		m.block.Encrypt(stream[:], counter[:])
		rest = rest[subtle.XORBytes(rest, rest, stream[:]):]
	}
}
