// Package runbook names the entries of the runbook, docs/operations.md, that remedies point to.
package runbook

import "wxtoken/internal/lang"

// Entry is an entry of the runbook.
type Entry int

// The entries.
const (
	None Entry = iota // no entry tells more
	AccountAuthorizes
	ComponentAddRemove
	ComponentOperator
	DataLost
	FullDisk
	HeldBack
	NATSAway
	NoTicket
	OldValues
	QuotaGone
	SealKeyChange
	SealKeyUnknown
	SealOn
	SecretWrong
	TokenRefused
)

// headings are the headings of the entries in the pages of both languages.
var headings = [...]lang.Text{
	AccountAuthorizes:  lang.Same("An authorizer is in state `needs_authorization` or `revoked`"),
	ComponentAddRemove: lang.Same("Add or remove a component"),
	ComponentOperator:  lang.Same("A component is in state `operator`"),
	DataLost:           lang.Same("All data of NATS is lost"),
	FullDisk:           lang.Same("A full disk under NATS"),
	HeldBack:           lang.Same("Renewals are held back"),
	NATSAway:           lang.Same("NATS is away"),
	NoTicket:           lang.Same("No ticket arrives"),
	OldValues:          lang.Same("Services read old values"),
	QuotaGone:          lang.Same("The day's quota is gone"),
	SealKeyChange:      lang.Same("Change the seal key"),
	SealKeyUnknown:     lang.Same("A refresher does not start: `record sealed for a key whose seed is not here`"),
	SealOn:             lang.Same("Turn sealing on"),
	SecretWrong:        lang.Same("The AppSecret is wrong"),
	TokenRefused:       lang.Same("A service gets 40001, 40014 or 42001"),
}

// Heading returns the entry's heading; that of None is empty.
func (e Entry) Heading() lang.Text { return headings[e] }

// See adds to a remedy which entry tells more.
func (e Entry) See(remedy lang.Text) lang.Text {
	if e == None {
		return remedy
	}
	return lang.T("%s; runbook: %s", "%s；运维手册：%s", remedy, headings[e])
}
