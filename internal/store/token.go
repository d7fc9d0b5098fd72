package store

import (
	"bytes"
	"encoding/json"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
)

// tokenRecord is the record of a token in the bucket. It is needed for writing only, because a
// wxtoken.Token redacts its secrets. The fields are in a readable order.
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

// TokenRecord returns the record of t for the bucket, with its value in the clear. The error wraps
// wxtoken.ErrBadKey for a malformed key.
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
	err = t.UnmarshalJSON(record) // not json.Unmarshal, whose errors quote a character
	t.Revision = revision
	return t, err
}

// readLife reads the life of a token from a record of the bucket, without its secret values: a view
// holds a million lives.
func readLife(record []byte, revision uint64) (account.Life, error) {
	if l, ok := scanLife(record, revision); ok {
		return l, nil
	}
	t, err := readToken(record, revision)
	return account.LifeOf(t), err
}

// scanLife is readLife for a record exactly as TokenRecord writes it, in a tenth of the time of
// json.Unmarshal; ok is false for any other form.
func scanLife(record []byte, revision uint64) (l account.Life, ok bool) {
	rest := scan{record}
	if !rest.skip(`{"key":"`) || len(rest.text()) == 0 ||
		!rest.skip(`,"value":"`) || len(rest.text()) == 0 ||
		!rest.skip(`,"generation":`) {
		return l, false
	}
	generation, ok := rest.number()
	if !ok || !rest.skip(`,"obtained_at":"`) {
		return l, false
	}
	obtained := rest.text()
	if !rest.skip(`,"expires_at":"`) {
		return l, false
	}
	expires := rest.text()
	if !rest.skip(`,"renew_at":"`) {
		return l, false
	}
	renew := rest.text()
	onlyPrevious := func() bool {
		return rest.skip(`,"previous":{`) && bytes.IndexByte(rest.left, '}') == len(rest.left)-2 &&
			bytes.HasSuffix(rest.left, []byte("}}"))
	}
	if string(rest.left) != "}" && !onlyPrevious() {
		return l, false // a later field may have the name of one that was read
	}
	var at [3]time.Time
	for i, text := range [][]byte{obtained, expires, renew} {
		if at[i].UnmarshalText(text) != nil {
			return l, false
		}
	}
	return account.NewLife(revision, generation, at[0], at[1], at[2]), !at[1].IsZero()
}
