package store

import (
	"encoding/json"
	"fmt"
	"time"

	"wxtoken/client"
)

// recordVersion is the version of the records that this program writes. A record with a higher
// one was written by a newer program; it is left alone.
const recordVersion = 1

// Credential is what it takes to get the next token of a key. Times are UTC.
type Credential struct {
	Key        wxtoken.Key `json:"key"`
	Version    int         `json:"v"`
	Generation uint64      `json:"generation"` // of the newest token; 0 before the first

	// of a component
	Ticket           string    `json:"ticket,omitempty"`
	TicketCreatedAt  time.Time `json:"ticket_created_at,omitzero"` // WeChat's CreateTime
	TicketReceivedAt time.Time `json:"ticket_received_at,omitzero"`
	// Refused is about the newest token that WeChat itself refused; nil if it never did.
	Refused *Refused `json:"refused,omitempty"`

	// of an authorizer
	RefreshToken       string    `json:"refresh_token,omitempty"`
	RefreshTokenBefore string    `json:"refresh_token_before,omitempty"` // the one that RefreshToken replaced
	AuthorizedAt       time.Time `json:"authorized_at,omitzero"`         // CreateTime or auth_time of the authorization in force; zero if only a redirect told of it
	CodeDigest         string    `json:"code_digest,omitempty"`          // SHA-256 of the auth code exchanged last
	Ref                string    `json:"ref,omitempty"`

	// Authorizations counts those of an authorizer. Of a ticket it tells for which of them it is kept, and Anew that the one stored was
	// fetched for one before.
	Authorizations uint64 `json:"authorizations,omitempty"`
	Anew           bool   `json:"anew,omitempty"`

	// RevokedAt is when the authorization was cancelled; zero while it is in force.
	RevokedAt time.Time `json:"revoked_at,omitzero"`

	// Claim is set while somebody is at it.
	Claim *Claim `json:"claim,omitempty"`
	// Trouble is empty while all is well.
	Trouble
	// ForcedAt is when a renewal was begun last that somebody asked for, Forced counts those of that day in China.
	Forced   int       `json:"forced,omitempty"`
	ForcedAt time.Time `json:"forced_at,omitzero"`

	// Commit is unique to each commit, so that a committer that got no answer can tell its own record.
	Commit string `json:"commit,omitempty"`

	// Revision is the sequence of the record in the stream, 0 for a record that isn't stored yet.
	Revision uint64 `json:"-"`
}

// Trouble is what went wrong since the last good renewal.
type Trouble struct {
	// Failures counts the failed renewals, Refusals those of them in which WeChat refused the refresh token and named no other
	// one, Recoveries those in which it did; RetryAt is when the next may start.
	Failures   int       `json:"failures,omitempty"`
	Refusals   int       `json:"refusals,omitempty"`
	Recoveries int       `json:"recoveries,omitempty"`
	RetryAt    time.Time `json:"retry_at,omitzero"`
	// RefreshRefused says that WeChat refused the refresh token and could not be asked yet which one is good.
	RefreshRefused bool `json:"refresh_refused,omitempty"`
	// SoughtAt is since when another refresh token is looked for, because this one was refused or there is none. WeChat's list
	// has to be read after that before the merchant is asked to authorize again, which AuthorizationNeeded says was done.
	SoughtAt            time.Time `json:"sought_at,omitzero"`
	AuthorizationNeeded bool      `json:"authorization_needed,omitempty"`
	// UnsureSince is when WeChat was first asked without its answer becoming known. If it did answer,
	// the stored token is one that was replaced then.
	UnsureSince time.Time `json:"unsure_since,omitzero"`
}

// Refused tells of a component's token that WeChat refused although it should have lived.
type Refused struct {
	Generation uint64    `json:"generation"` // of the token; newer ones were not refused
	At         time.Time `json:"at"`
	Early      int       `json:"early,omitempty"` // tokens in a row that were refused within a tenth of their life
}

// Claim says who is changing a credential, because of what, and until when at the longest.
type Claim struct {
	By    string    `json:"by"`  // the process
	For   string    `json:"for"` // the message that it handles
	Until time.Time `json:"until"`
}

// ClaimedAt reports whether somebody holds the credential at the given time.
func (c Credential) ClaimedAt(now time.Time) bool { return c.Claim != nil && now.Before(c.Claim.Until) }

// Renewable reports whether there is anything to get a token with.
func (c Credential) Renewable() bool {
	if !c.RevokedAt.IsZero() {
		return false
	}
	switch c.Key.Kind {
	case wxtoken.KindComponent:
		return c.Ticket != ""
	case wxtoken.KindAuthorizer:
		return c.RefreshToken != ""
	}
	return c.Revision > 0 // a ticket takes nothing but the account's token
}

// encode returns the record.
func (c Credential) encode() ([]byte, error) {
	c.Version = recordVersion
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode credential of %s: %w", c.Key, err)
	}
	return data, nil
}

// decodeCredential reads the record of key. The error never shows the record.
func decodeCredential(key wxtoken.Key, data []byte) (Credential, error) {
	var c Credential
	if err := json.Unmarshal(data, &c); err != nil {
		return Credential{}, fmt.Errorf("%w: credential of %s is not the JSON of one", ErrUnreadable, key)
	}
	if c.Version > recordVersion {
		return Credential{}, fmt.Errorf("%w: credential of %s has version %d, this program knows %d: run the newer program", ErrNewer, key, c.Version, recordVersion)
	}
	if c.Key != key {
		return Credential{}, fmt.Errorf("%w: credential of %s names another key", ErrUnreadable, key)
	}
	return c, nil
}
