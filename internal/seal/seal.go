// Package seal encrypts stored values, so that an administrator of NATS, or the finder of a disk or
// a backup, can't read them. A sealed value is encrypted with nkeys' curve keys (X25519, XSalsa20,
// Poly1305), and begins with [Prefix].
//
// ingest has the recipient's public key and can seal. Refreshers have the seeds: the first one
// seals, all of them open, so that the key can be changed without a gap. The subject of a message
// is sealed together with its data: a value that was moved to another subject does not open there.
// Sealing does not prove who wrote a value, since every holder of the public key can seal: NATS's
// permissions decide who may write.
package seal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/crypto/nacl/box"
)

// Prefix begins every sealed value.
const Prefix = nkeys.XKeyVersionV1

// The headers of a sealed message. Both hold public keys, which are no secret.
const (
	HeaderFor = "Wxtoken-Sealed-For" // who can open it
	HeaderBy  = "Wxtoken-Sealed-By"  // who sealed it; missing if it is the same key
)

// ErrNoKey is returned for a value that is sealed for a key whose seed these Keys don't have. With
// that seed it can be opened.
var ErrNoKey = errors.New("sealed for a key whose seed is not here")

// ErrBroken is returned for a value that is damaged, or was moved from another subject: the right
// key does not open it.
var ErrBroken = errors.New("sealed, and damaged or moved")

const (
	keyLen   = 32
	nonceLen = 24
)

// Keys seals, and opens if it has seeds. A nil *Keys seals nothing and opens nothing, but passes
// values in the clear through. Its methods may be called from several goroutines.
//
// nkeys' own Seal and Open derive the secret shared with the other side each time, which takes a
// hundred times as long as the rest. Keys does that once for each pair of keys; the sealed values
// are the same.
type Keys struct {
	to     string // public key of the recipient
	by     string // public key that seals
	shared *[keyLen]byte
	seeds  []seed

	mu      sync.Mutex
	senders map[pair]*[keyLen]byte
}

type seed struct {
	public         string
	private        [keyLen]byte
	sharedWithSelf *[keyLen]byte // the secret shared with itself
}

type pair struct{ by, to string }

// maxSenders bounds how many shared secrets are cached: each start of an ingest needs one.
const maxSenders = 1000

// Make returns a new seed and its public key.
func Make() (seed, public string, err error) {
	pair, err := nkeys.CreateCurveKeys()
	if err != nil {
		return "", "", fmt.Errorf("make a seal key: %w", err)
	}
	text, err := pair.Seed()
	if err != nil {
		return "", "", fmt.Errorf("make a seal key: %w", err)
	}
	public, err = pair.PublicKey()
	return string(text), public, err
}

// FromPublic returns Keys that seal for the owner of a public key, with a sender's key made for
// this process, and open nothing. The error never shows the text: it might be a seed.
func FromPublic(text string) (*Keys, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "SX") {
		return nil, errors.New("is a seed, which opens everything: ingest takes the public key that belongs to it, which begins with X")
	}
	to, err := publicKey(text)
	if err != nil {
		return nil, errors.New("is not the public key of a seal key: want 56 characters that begin with X, " +
			"as --make-seal-key of the refresher prints them")
	}
	made, _, err := Make()
	if err != nil {
		return nil, err
	}
	mine, err := parseSeed(made)
	if err != nil {
		return nil, err
	}
	k := &Keys{to: text, by: mine.public, shared: new([keyLen]byte)}
	box.Precompute(k.shared, to, &mine.private)
	return k, nil
}

// FromSeeds returns Keys that open with every seed of a text, one a line, and seal with the first.
// Empty lines and those that begin with # are ignored. The error names the line and never shows it.
func FromSeeds(text string) (*Keys, error) {
	k := &Keys{senders: map[pair]*[keyLen]byte{}}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s, err := parseSeed(line)
		switch {
		case err != nil && len(line) == 56 && line[0] == 'X':
			return nil, fmt.Errorf("line %d is a public key, which opens nothing: the refresher takes the seed, "+
				"which begins with SX", n)
		case err != nil:
			return nil, fmt.Errorf("line %d is not the seed of a seal key: want 58 characters that begin with SX, "+
				"as --make-seal-key writes them", n)
		case k.find(s.public) != nil:
			return nil, fmt.Errorf("line %d is there twice", n)
		}
		k.seeds = append(k.seeds, s)
	}
	if len(k.seeds) == 0 {
		return nil, errors.New("holds no seed: want one a line, each begins with SX")
	}
	first := k.seeds[0]
	k.to, k.by, k.shared = first.public, first.public, first.sharedWithSelf
	return k, nil
}

func parseSeed(text string) (s seed, err error) {
	pair, err := nkeys.FromCurveSeed([]byte(text))
	if err != nil {
		return s, err
	}
	if s.public, err = pair.PublicKey(); err != nil {
		return s, err
	}
	_, private, err := nkeys.DecodeSeed([]byte(text))
	if err != nil {
		return s, err
	}
	copy(s.private[:], private)
	public, err := publicKey(s.public)
	if err != nil {
		return s, err
	}
	s.sharedWithSelf = new([keyLen]byte)
	box.Precompute(s.sharedWithSelf, public, &s.private)
	return s, nil
}

func publicKey(text string) (*[keyLen]byte, error) {
	raw, err := nkeys.Decode(nkeys.PrefixByteCurve, []byte(text))
	if err != nil || len(raw) != keyLen {
		return nil, nkeys.ErrInvalidCurveKey
	}
	return (*[keyLen]byte)(raw), nil
}

// Public returns the public key for which k seals; "" if k is nil.
func (k *Keys) Public() string {
	if k == nil {
		return ""
	}
	return k.to
}

// Others returns the other public keys for which k can open.
func (k *Keys) Others() (all []string) {
	for _, s := range k.seeds {
		if s.public != k.to {
			all = append(all, s.public)
		}
	}
	return all
}

func (k *Keys) find(public string) *seed {
	for i := range k.seeds {
		if k.seeds[i].public == public {
			return &k.seeds[i]
		}
	}
	return nil
}

// Sealed reports whether data is a sealed value.
func Sealed(data []byte) bool { return bytes.HasPrefix(data, []byte(Prefix)) }

// Seal seals the data of a message for its subject, and sets the headers. A message that is already
// sealed stays as it is.
func (k *Keys) Seal(m *nats.Msg) { k.SealFor(m.Subject, m) }

// SealFor is Seal for another subject than the message's own: a copy on DEAD is sealed for the
// subject of its original.
func (k *Keys) SealFor(subject string, m *nats.Msg) {
	if k == nil || Sealed(m.Data) {
		return
	}
	m.Data = k.seal(subject, m.Data)
	m.Header.Set(HeaderFor, k.to)
	if k.by != k.to {
		m.Header.Set(HeaderBy, k.by)
	}
}

func (k *Keys) seal(subject string, data []byte) []byte {
	var nonce [nonceLen]byte
	_, _ = rand.Read(nonce[:]) // never returns an error
	out := make([]byte, 0, len(Prefix)+nonceLen+box.Overhead+len(subject)+1+len(data))
	out = append(append(out, Prefix...), nonce[:]...)
	return box.SealAfterPrecomputation(out, withSubject(subject, data), &nonce, k.shared)
}

// withSubject returns what is actually sealed: the subject, a line feed, the data. No subject
// contains a line feed.
func withSubject(subject string, data []byte) []byte {
	return append(append(append(make([]byte, 0, len(subject)+1+len(data)), subject...), '\n'), data...)
}

// Open returns the content of a message on a subject; data itself if it is not sealed. It returns
// ErrNoKey or ErrBroken if it can't be opened.
func (k *Keys) Open(subject string, h nats.Header, data []byte) ([]byte, error) {
	return k.open(subject, h.Get(HeaderFor), h.Get(HeaderBy), data)
}

// OpenOwn is Open for values that refreshers sealed for themselves: a value that was sealed with
// another key than the seed's does not open.
func (k *Keys) OpenOwn(subject string, h nats.Header, data []byte) ([]byte, error) {
	return k.open(subject, h.Get(HeaderFor), "", data)
}

func (k *Keys) open(subject, to, by string, data []byte) ([]byte, error) {
	if !Sealed(data) {
		return data, nil
	}
	if k == nil {
		return nil, ErrNoKey
	}
	s := k.find(to)
	if s == nil {
		return nil, ErrNoKey
	}
	shared := s.sharedWithSelf
	if by != "" && by != to {
		if shared = k.sender(by, s); shared == nil {
			return nil, ErrBroken
		}
	}
	if len(data) < len(Prefix)+nonceLen {
		return nil, ErrBroken
	}
	nonce := (*[nonceLen]byte)(data[len(Prefix):])
	text, ok := box.OpenAfterPrecomputation(nil, data[len(Prefix)+nonceLen:], nonce, shared)
	if !ok {
		return nil, ErrBroken
	}
	inner, text, ok := bytes.Cut(text, []byte{'\n'})
	if !ok || string(inner) != subject {
		return nil, ErrBroken
	}
	return text, nil
}

// sender returns the secret that s shares with the owner of a public key, nil if by is not a public
// key.
func (k *Keys) sender(by string, s *seed) *[keyLen]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := pair{by, s.public}
	if shared := k.senders[p]; shared != nil {
		return shared
	}
	public, err := publicKey(by)
	if err != nil {
		return nil
	}
	shared := new([keyLen]byte)
	box.Precompute(shared, public, &s.private)
	if len(k.senders) >= maxSenders {
		clear(k.senders)
	}
	k.senders[p] = shared
	return shared
}
