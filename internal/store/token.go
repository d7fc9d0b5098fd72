package store

import (
	"encoding/json"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
)

// tokenRecord is a token as it lies in the bucket: a wxtoken.Token that shows its secrets, which a Token by itself does
// not. The fields are in the order in which a person reads them. To read one the Token is enough.
type tokenRecord struct {
	Key        wxtoken.Key     `json:"key"`
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

// TokenRecord returns the record of t for the bucket, with its value in the clear. The error wraps wxtoken.ErrBadKey for a
// token whose key can't be one.
func TokenRecord(t wxtoken.Token) ([]byte, error) {
	r := tokenRecord{
		Key: t.Key, Value: t.Value.Reveal(), Generation: t.Generation,
		ObtainedAt: t.ObtainedAt.UTC(), ExpiresAt: t.ExpiresAt.UTC(), RenewAt: t.RenewAt.UTC(),
	}
	if t.Previous != nil {
		r.Previous = &previousRecord{Value: t.Previous.Value.Reveal(), ValidUntil: t.Previous.ValidUntil.UTC()}
	}
	return json.Marshal(r)
}

// readToken reads a record of the bucket.
func readToken(record []byte, revision uint64) (t wxtoken.Token, err error) {
	err = t.UnmarshalJSON(record) // by itself: json.Unmarshal's own errors show a character
	t.Revision = revision
	return t, err
}

// readLife reads of a record of the bucket when its token lives. Its values are left alone: a view holds a million lives.
func readLife(record []byte, revision uint64) (account.Life, error) {
	var read struct {
		Key        wxtoken.Key `json:"key"`
		Value      filled      `json:"value"`
		Generation uint64      `json:"generation"`
		ObtainedAt time.Time   `json:"obtained_at"`
		ExpiresAt  time.Time   `json:"expires_at"`
		RenewAt    time.Time   `json:"renew_at"`
	}
	if json.Unmarshal(record, &read) != nil || read.Key == (wxtoken.Key{}) || !bool(read.Value) || read.ExpiresAt.IsZero() {
		return account.Life{}, fmt.Errorf("%w: it has no life", wxtoken.ErrBadToken)
	}
	return account.NewLife(revision, read.Generation, read.ObtainedAt, read.ExpiresAt, read.RenewAt), nil
}

// filled is whether a text has anything in it.
type filled bool

// UnmarshalText looks whether there is any text.
func (f *filled) UnmarshalText(text []byte) error {
	*f = len(text) > 0
	return nil
}
