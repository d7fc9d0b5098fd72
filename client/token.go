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

// NewSecret returns a Secret that holds value, for instance for [Client.Report] of a token that does not come from a Client.
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

// UnmarshalText is NewSecret: settings and records are read straight into a Secret.
func (s *Secret) UnmarshalText(value []byte) error {
	*s = NewSecret(string(value))
	return nil
}

// Token is one access token. Its JSON is the record in the bucket and on token.updated.<key> (docs/contract.md), so a
// program that gets one without a Client reads it with json.Unmarshal; written, its secrets are "[redacted]".
// Times are UTC.
type Token struct {
	Key        Key       `json:"key"`
	Value      Secret    `json:"value"`       // what goes into access_token=
	Generation uint64    `json:"generation"`  // counts the renewals of this key from 1; never goes down
	ObtainedAt time.Time `json:"obtained_at"` // when WeChat was asked for it
	ExpiresAt  time.Time `json:"expires_at"`  // ObtainedAt plus WeChat's expires_in
	RenewAt    time.Time `json:"renew_at"`    // when wxtoken will fetch the next one
	Previous   *Previous `json:"previous,omitempty"`
	Revision   uint64    `json:"-"` // revision of the bucket's entry; 0 for a token that does not come from a Client
}

// Previous is the token before, for as long as WeChat still accepts it. A Token has none after a re-authorization. Those
// who read the Token share what it points to: don't change it.
type Previous struct {
	Value      Secret    `json:"value"`
	ValidUntil time.Time `json:"valid_until"` // the earlier of its own expiry and 5 minutes after its successor was obtained
}

// UnmarshalJSON reads a record of the bucket and ignores fields that it does not know. It returns an error that wraps
// ErrBadToken when the record is not a token; the error never shows the record.
func (t *Token) UnmarshalJSON(record []byte) error {
	type fields Token // without this method
	var read fields
	if err := json.Unmarshal(record, &read); err != nil {
		return fmt.Errorf("%w: not the JSON of a token", ErrBadToken)
	}
	if read.Key == (Key{}) || read.Value.IsZero() || read.ExpiresAt.IsZero() {
		return fmt.Errorf("%w: key, value or expires_at is missing", ErrBadToken)
	}
	for _, at := range []*time.Time{&read.ObtainedAt, &read.ExpiresAt, &read.RenewAt} {
		*at = at.UTC()
	}
	if read.Previous != nil {
		read.Previous.ValidUntil = read.Previous.ValidUntil.UTC()
	}
	*t = Token(read)
	return nil
}
