package store

import (
	"bytes"
	"encoding/json"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
)

// tokenRecord is a token as it lies in the bucket: a wxtoken.Token that shows its secrets, which a
// Token by itself does not. The fields are in the order in which a person reads them. To read one
// the Token is enough.
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
// wxtoken.ErrBadKey for a token whose key can't be one.
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

// readLife reads of a record of the bucket when its token lives. Its values are left alone: a view
// holds a million lives.
func readLife(record []byte, revision uint64) (account.Life, error) {
	if l, ok := scanLife(record, revision); ok {
		return l, nil
	}
	t, err := readToken(record, revision)
	return account.LifeOf(t), err
}

// scanLife is readLife for a record as TokenRecord writes it, in a tenth of the time that the JSON
// of any would take; ok is false for another.
func scanLife(record []byte, revision uint64) (l account.Life, ok bool) {
	rest := scan{record}
	if !rest.skip(`{"key":"`) || len(rest.text()) == 0 || !rest.skip(`,"value":"`) || len(rest.text()) == 0 || !rest.skip(`,"generation":`) {
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
	if string(rest.left) != "}" && !(rest.skip(`,"previous":{`) && bytes.IndexByte(rest.left, '}') == len(rest.left)-2 && bytes.HasSuffix(rest.left, []byte("}}"))) {
		return l, false // another field might come, of a name that was read
	}
	var at [3]time.Time
	for i, text := range [][]byte{obtained, expires, renew} {
		if at[i].UnmarshalText(text) != nil {
			return l, false
		}
	}
	return account.NewLife(revision, generation, at[0], at[1], at[2]), !at[1].IsZero()
}
