package wxtoken

import (
	"encoding/json"
	"fmt"
	"time"
	"unique"
)

// Secret holds a value that must not be shown. It prints, logs and marshals as "[redacted]";
// only Reveal gives the value. Two Secrets are == when their values are.
type Secret struct {
	// A handle, not a string: package fmt calls no method of a field that is not exported and prints what
	// it finds in there, which would be the value wherever a Secret lies in such a field of another struct.
	value unique.Handle[string] // zero for ""
}

const redacted = "[redacted]"

// NewSecret returns a Secret that holds value.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{value: unique.Make(value)}
}

// Reveal returns the value itself. Call it where the value is used, not before.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return s.value.Value()
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

// Token is one access token as it lies in the bucket. Times are UTC.
type Token struct {
	Key        Key
	Value      Secret    // what goes into access_token=
	Generation uint64    // counts the renewals of this key from 1; never goes down
	ObtainedAt time.Time // when WeChat was asked for it
	ExpiresAt  time.Time // ObtainedAt plus WeChat's expires_in
	RenewAt    time.Time // when wxtoken will fetch the next one
	Previous   *Previous // the token before, while WeChat still accepts it; nil after a re-authorization. Don't change what it points to: readers share it
	Revision   uint64    // revision of the bucket's entry; 0 for a token that does not come from the bucket
}

// Previous is a token that was replaced by an ordinary renewal.
type Previous struct {
	Value      Secret
	ValidUntil time.Time // the earlier of its own expiry and 5 minutes after its successor was obtained
}

// tokenRecord is the JSON of a Token in the bucket (docs/contract.md).
type tokenRecord struct {
	Key        Key             `json:"key"`
	Value      string          `json:"value"`
	Generation uint64          `json:"generation"`
	ObtainedAt time.Time       `json:"obtained_at"`
	ExpiresAt  time.Time       `json:"expires_at"`
	RenewAt    time.Time       `json:"renew_at"`
	Previous   *previousRecord `json:"previous,omitempty"`
}

type previousRecord struct {
	Value      string    `json:"value"`
	ValidUntil time.Time `json:"valid_until"`
}

// Record returns the token as JSON for the bucket, with its value in the clear.
func (t Token) Record() ([]byte, error) {
	r := tokenRecord{
		Key: t.Key, Value: t.Value.Reveal(), Generation: t.Generation,
		ObtainedAt: t.ObtainedAt.UTC(), ExpiresAt: t.ExpiresAt.UTC(), RenewAt: t.RenewAt.UTC(),
	}
	if t.Previous != nil {
		r.Previous = &previousRecord{Value: t.Previous.Value.Reveal(), ValidUntil: t.Previous.ValidUntil.UTC()}
	}
	return json.Marshal(r)
}

// ParseToken reads a token as Record writes it and ignores fields that it does not know.
// It returns an error that wraps ErrBadToken when the record is not a token;
// the error never shows the record.
func ParseToken(record []byte) (Token, error) {
	var r tokenRecord
	if err := json.Unmarshal(record, &r); err != nil {
		return Token{}, fmt.Errorf("%w: not the JSON of a token", ErrBadToken)
	}
	if r.Key == (Key{}) || r.Value == "" || r.ExpiresAt.IsZero() {
		return Token{}, fmt.Errorf("%w: key, value or expires_at is missing", ErrBadToken)
	}
	t := Token{
		Key: r.Key, Value: NewSecret(r.Value), Generation: r.Generation,
		ObtainedAt: r.ObtainedAt.UTC(), ExpiresAt: r.ExpiresAt.UTC(), RenewAt: r.RenewAt.UTC(),
	}
	if r.Previous != nil {
		t.Previous = &Previous{Value: NewSecret(r.Previous.Value), ValidUntil: r.Previous.ValidUntil.UTC()}
	}
	return t, nil
}
