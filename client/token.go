package wxtoken

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Token is one access token. Its JSON is the record in the bucket and on token.updated.<key>
// (docs/contract.md), so a program without a Client can read one with json.Unmarshal; marshalled,
// its secrets are "[redacted]". Times are UTC.
type Token struct {
	Key        Key       `json:"key"`
	Value      Secret    `json:"value"`       // the value of access_token=
	Generation uint64    `json:"generation"`  // counts the renewals of this key from 1; never goes down
	ObtainedAt time.Time `json:"obtained_at"` // when WeChat was asked for the token
	ExpiresAt  time.Time `json:"expires_at"`  // ObtainedAt plus WeChat's expires_in
	RenewAt    time.Time `json:"renew_at"`    // when wxtoken will fetch the next one
	Previous   *Previous `json:"previous,omitempty"`
	Revision   uint64    `json:"-"` // revision of the bucket's entry; 0 for a token that does not come from a Client
}

// Previous is the token before this one, while WeChat still accepts it. A Token has none after a
// re-authorization. All readers of the Token share it: don't change it.
type Previous struct {
	Value      Secret    `json:"value"`
	ValidUntil time.Time `json:"valid_until"` // the earlier of its own expiry and 5 minutes after its successor was obtained
}

// UnmarshalJSON reads a record of the bucket and ignores fields that it does not know. It returns
// an error that wraps ErrBadToken when the record is not a token; the error never quotes the
// record.
func (t *Token) UnmarshalJSON(text []byte) error {
	token, err := readToken(text, time.Time{})
	if err == nil {
		*t = token
	}
	return err
}

// tokenRecord is the JSON of a Token with plain strings: Secrets are made only of the values that
// are used.
type tokenRecord struct {
	Key        string
	Value      string
	Generation uint64
	ObtainedAt time.Time `json:"obtained_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	RenewAt    time.Time `json:"renew_at"`
	Previous   *previousRecord
}

type previousRecord struct {
	Value      string
	ValidUntil time.Time `json:"valid_until"`
}

// parsePlain reads a record exactly as wxtoken writes it, several times as fast as encoding/json: a
// Client may read a million of them before it is ready. ok is false for any other form; r must not
// be used then.
func (r *tokenRecord) parsePlain(text []byte) (ok bool) {
	value := func(before, behind string) []byte {
		rest, found := bytes.CutPrefix(text, []byte(before))
		value, rest, ends := bytes.Cut(rest, []byte(behind))
		ok = ok && found && ends && !slices.ContainsFunc(value, func(c byte) bool { return c < ' ' || c > '~' || c == '\\' })
		text = rest
		return value
	}
	at := func(t *time.Time, before string) {
		ok = t.UnmarshalText(value(before, `"`)) == nil && ok
	}
	ok = true
	r.Key = string(value(`{"key":"`, `"`))
	r.Value = string(value(`,"value":"`, `"`))
	generation := value(`,"generation":`, `,`)
	at(&r.ObtainedAt, `"obtained_at":"`)
	at(&r.ExpiresAt, `,"expires_at":"`)
	at(&r.RenewAt, `,"renew_at":"`)
	if ok && len(text) > 1 {
		r.Previous = &previousRecord{Value: string(value(`,"previous":{"value":"`, `"`))}
		at(&r.Previous.ValidUntil, `,"valid_until":"`)
		ok = ok && bytes.HasPrefix(text, []byte("}"))
		text = text[min(1, len(text)):]
	}
	n, err := strconv.ParseUint(string(generation), 10, 64)
	r.Generation = n
	return ok && err == nil && (generation[0] != '0' || n == 0 && len(generation) == 1) && string(text) == "}"
}

// readToken reads a record of the bucket, with its previous token if that is still valid at the
// time at.
func readToken(text []byte, at time.Time) (Token, error) {
	var r tokenRecord
	if !r.parsePlain(text) {
		r = tokenRecord{}
		if err := json.Unmarshal(text, &r); err != nil {
			return Token{}, fmt.Errorf("%w: not the JSON of a token", ErrBadToken)
		}
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
