package account

import (
	"fmt"
	"time"

	"wxtoken/client"
)

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
	RefreshToken string    `json:"refresh_token,omitempty"`
	AuthorizedAt time.Time `json:"authorized_at,omitzero"` // CreateTime or auth_time of the authorization in force; zero if only a redirect told of it
	CodeDigest   string    `json:"code_digest,omitempty"`  // SHA-256 of the auth code exchanged last
	Ref          string    `json:"ref,omitempty"`

	// Authorizations counts those of an authorizer. Of a ticket it tells for which of them it is
	// kept, and Anew that the one stored was fetched for one before.
	Authorizations uint64 `json:"authorizations,omitempty"`
	Anew           bool   `json:"anew,omitempty"`

	// RevokedAt is when the authorization was cancelled; zero while it is in force.
	RevokedAt time.Time `json:"revoked_at,omitzero"`

	// Claim is set while a refresher is at it.
	Claim *Claim `json:"claim,omitempty"`
	// Trouble is empty while all is well.
	Trouble
	// ForcedAt is when a renewal that was asked for began last, Forced counts those of that day in
	// China.
	Forced   int       `json:"forced,omitempty"`
	ForcedAt time.Time `json:"forced_at,omitzero"`

	// History tells of the last tokens, the oldest first.
	History []Past `json:"history,omitempty"`

	// Commit is unique to each commit, so that a committer that got no answer can tell its own
	// record.
	Commit string `json:"commit,omitempty"`

	// Revision is the sequence of the record in the stream, 0 for a record that isn't stored yet.
	Revision uint64 `json:"-"`
}

// Trouble is what went wrong since the last good renewal.
type Trouble struct {
	// Failures counts the failed renewals, Refusals those of them in which WeChat refused the
	// refresh token and named no other one, Recoveries those in which it did; RetryAt is when the
	// next may start.
	Failures   int       `json:"failures,omitempty"`
	Refusals   int       `json:"refusals,omitempty"`
	Recoveries int       `json:"recoveries,omitempty"`
	RetryAt    time.Time `json:"retry_at,omitzero"`
	// RefreshRefused says that WeChat refused the refresh token and could not be asked yet which
	// one is good.
	RefreshRefused bool `json:"refresh_refused,omitempty"`
	// LacksPermission says that WeChat's last refusal was for a permission set that is missing: so
	// these accounts are counted without a look at the status of each.
	LacksPermission bool `json:"lacks_permission,omitempty"`
	// SoughtAt is since when another refresh token is looked for, because this one was refused or
	// there is none. WeChat's list has to be read after that before the merchant is asked to
	// authorize again, which AuthorizationNeeded says was done.
	SoughtAt            time.Time `json:"sought_at,omitzero"`
	AuthorizationNeeded bool      `json:"authorization_needed,omitempty"`
	// UnsureSince is when WeChat was first asked without its answer becoming known. If it did
	// answer, the stored token is one that was replaced then.
	UnsureSince time.Time `json:"unsure_since,omitzero"`
}

// Refused tells of a component's token that WeChat refused although it should have lived.
type Refused struct {
	Generation uint64    `json:"generation"` // of the token; newer ones were not refused
	At         time.Time `json:"at"`
	Early      int       `json:"early,omitempty"` // tokens in a row that were refused within a tenth of their life
}

// Claim says who is changing a record, because of what, and until when at the longest.
type Claim struct {
	By    string    `json:"by"`  // the process
	For   string    `json:"for"` // the message that it handles: see ForAuth, ForDue
	Until time.Time `json:"until"`
}

// ForAuth names an event on AUTH in a claim, by its sequence in the stream.
func ForAuth(sequence uint64) string { return fmt.Sprintf("auth/%d", sequence) }

// ForDue names a due message in a claim, by its sequence in the stream.
func ForDue(sequence uint64) string { return fmt.Sprintf("due/%d", sequence) }

// KeepsOff reports whether a claim keeps the handler of a message from the record. It does so until
// its end, unless it was made for the same message: that is delivered again only when the claim's
// owner has put it off, or is no longer heard of. No claim (nil) keeps nobody off.
func (c *Claim) KeepsOff(purpose string, redelivered bool, now time.Time) bool {
	return c.inForce(now) && !(redelivered && c.For == purpose)
}

func (c *Claim) inForce(now time.Time) bool { return c != nil && now.Before(c.Until) }

// ClaimedAt reports whether a refresher holds the credential at the given time.
func (c Credential) ClaimedAt(now time.Time) bool { return c.Claim.inForce(now) }

// Renewable reports whether there is anything to get a token with.
func (c Credential) Renewable() bool {
	return c.RevokedAt.IsZero() && KindOf(c.Key).has(c)
}

// Unrenewable reports whether an account is authorized and there is nothing to renew its token
// with, and no code is being exchanged that will bring it.
func (c Credential) Unrenewable() bool {
	return KindOf(c.Key).OfMerchant && c.RevokedAt.IsZero() && c.RefreshToken == "" && c.Revision > 0 &&
		(c.Generation > 0 || !c.SoughtAt.IsZero() || c.AuthorizationNeeded)
}

// Brought reports whether the tokens of a credential came from the code of that digest.
func (c Credential) Brought(codeDigest string) bool {
	return c.RevokedAt.IsZero() && (c.Generation > 0 || c.AuthorizationNeeded) && c.CodeDigest == codeDigest
}

// Wish is what a due message asks of a credential.
type Wish int

// The wishes.
const (
	WishRenewal   Wish = iota // ask WeChat for the next token
	WishTooEarly              // the message speaks of a generation that the record read does not have yet
	WishUncertain             // nothing to renew with, as far as this reading says: look again
	WishCancelled             // the authorization is over: say so
	WishSought                // the refresh token is missing: look for it
	WishNothing               // there is nothing to be done
	WishDone                  // the generation is past: the renewal was made
)

const (
	// sureAfter is with which delivery it is believed that there is nothing to renew: one of
	// several servers may answer that is a moment behind, and what sent the message stored first
	// what there is to renew.
	sureAfter = 3
	// patience is how often a wish is put off for an authorization that may never come.
	patience = 100
)

// Wish returns what a due message about the token of a generation asks for, at its nth delivery,
// from 1.
func (c Credential) Wish(generation uint64, deliveries int) Wish {
	switch {
	case generation > c.Generation && (c.Renewable() || deliveries < patience):
		return WishTooEarly
	case !c.Renewable() && deliveries < sureAfter:
		return WishUncertain
	case !c.RevokedAt.IsZero():
		return WishCancelled
	case c.Unrenewable():
		return WishSought
	case !c.Renewable():
		return WishNothing
	case generation < c.Generation:
		return WishDone
	}
	return WishRenewal
}

// Missing reports whether a credential that was seen before is gone from the store, at the nth
// reading.
func (c Credential) Missing(seen bool, deliveries int) bool {
	return c.Revision == 0 && seen && deliveries >= sureAfter
}
