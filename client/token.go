package wxtoken

import (
	"encoding/json"
	"fmt"
	"time"
)

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
func (t *Token) UnmarshalJSON(text []byte) error {
	token, err := readToken(text, time.Time{})
	if err == nil {
		*t = token
	}
	return err
}

// tokenRecord is the JSON of a Token as it is read: a Secret is made of what is kept, and of nothing else.
type tokenRecord struct {
	Key        string
	Value      string
	Generation uint64
	ObtainedAt time.Time `json:"obtained_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	RenewAt    time.Time `json:"renew_at"`
	Previous   *struct {
		Value      string
		ValidUntil time.Time `json:"valid_until"`
	}
}

// readToken reads a record of the bucket, and the token before if that is valid at a time.
func readToken(text []byte, at time.Time) (Token, error) {
	var r tokenRecord
	if err := json.Unmarshal(text, &r); err != nil {
		return Token{}, fmt.Errorf("%w: not the JSON of a token", ErrBadToken)
	}
	if r.Key == "" || r.Value == "" || r.ExpiresAt.IsZero() {
		return Token{}, fmt.Errorf("%w: key, value or expires_at is missing", ErrBadToken)
	}
	key, err := ParseKey(r.Key)
	if err != nil {
		return Token{}, fmt.Errorf("%w: not the JSON of a token", ErrBadToken)
	}
	token := Token{
		Key: key, Value: NewSecret(r.Value), Generation: r.Generation,
		ObtainedAt: r.ObtainedAt.UTC(), ExpiresAt: r.ExpiresAt.UTC(), RenewAt: r.RenewAt.UTC(),
	}
	if p := r.Previous; p != nil && !p.ValidUntil.Before(at) {
		token.Previous = &Previous{NewSecret(p.Value), p.ValidUntil.UTC()}
	}
	return token, nil
}
