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

// Secret holds a value that must not be shown. It prints, logs and marshals as "[redacted]";
// only Reveal gives the value. Two Secrets are == when their values are.
type Secret struct {
	// Masked, since package fmt calls no method of a field that is not exported and prints what it
	// finds in there, which would be the value wherever a Secret lies in such a field of another
	// struct. A string, since a Client holds millions of them: what a unique.Handle keeps beside a
	// value takes longer to make than the rest of a token to read, and more memory than the value.
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
	binary.LittleEndian.PutUint64(masked, maphash.String(ours.seed, value))
	copy(masked[maskPrefix:], value)
	ours.turn(masked)
	return Secret{string(masked)}
}

// Reveal returns the value itself. Call it where the value is used, not before.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	value := []byte(s.masked)
	ours.turn(value)
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

// MarshalText returns "[redacted]": a Secret that is marshalled by accident says nothing.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText is NewSecret: settings and records are read straight into a Secret.
func (s *Secret) UnmarshalText(value []byte) error {
	*s = NewSecret(string(value))
	return nil
}

// mask makes values unreadable within this process: AES in counter mode, begun at a digest of the
// value, so that equal values are equal when they are masked, and others share no key stream. Its
// keys are made anew in each process and never leave it.
type mask struct {
	seed  maphash.Seed
	block cipher.Block
}

// maskPrefix is how long the digest before a masked value is, in bytes.
const maskPrefix = 8

var ours = newMask()

func newMask() mask {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	return mask{maphash.MakeSeed(), block}
}

// turn masks what stands behind the digest, or takes the mask off.
func (m mask) turn(text []byte) {
	var counter, stream [aes.BlockSize]byte
	copy(counter[:], text[:maskPrefix])
	for n, rest := uint64(0), text[maskPrefix:]; len(rest) > 0; n++ {
		binary.LittleEndian.PutUint64(counter[maskPrefix:], n)
		m.block.Encrypt(stream[:], counter[:])
		rest = rest[subtle.XORBytes(rest, rest, stream[:]):]
	}
}
