package store

import (
	"encoding/json"
	"time"

	"wxtoken/client"
)

// tokenRecord is a token as it lies in the bucket: a wxtoken.Token that shows its secrets, which a Token by itself does
// not. Who reads one needs no more than the Token.
type tokenRecord struct {
	wxtoken.Token
	Value    string          `json:"value"`
	Previous *previousRecord `json:"previous,omitempty"`
}

type previousRecord struct {
	Value      string    `json:"value"`
	ValidUntil time.Time `json:"valid_until"`
}

// TokenRecord returns the record of t for the bucket, with its value in the clear. The error wraps wxtoken.ErrBadKey for a
// token whose key can't be one.
func TokenRecord(t wxtoken.Token) ([]byte, error) {
	r := tokenRecord{Token: t, Value: t.Value.Reveal()}
	r.ObtainedAt, r.ExpiresAt, r.RenewAt = t.ObtainedAt.UTC(), t.ExpiresAt.UTC(), t.RenewAt.UTC()
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
