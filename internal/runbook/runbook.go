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
	AccountAuthorizes:  untranslated("An authorizer is in state `needs_authorization` or `revoked`"),
	ComponentAddRemove: untranslated("Add or remove a component"),
	ComponentOperator:  untranslated("A component is in state `operator`"),
	DataLost:           untranslated("All data of NATS is lost"),
	FullDisk:           untranslated("A full disk under NATS"),
	HeldBack:           untranslated("Renewals are held back"),
	NATSAway:           untranslated("NATS is away"),
	NoTicket:           untranslated("No ticket arrives"),
	OldValues:          untranslated("Services read old values"),
	QuotaGone:          untranslated("The day's quota is gone"),
	SealKeyChange:      untranslated("Change the seal key"),
	SealKeyUnknown:     untranslated("A refresher does not start: `record sealed for a key whose seed is not here`"),
	SealOn:             untranslated("Turn sealing on"),
	SecretWrong:        untranslated("The AppSecret is wrong"),
	TokenRefused:       untranslated("A service gets 40001, 40014 or 42001"),
}

// untranslated is a heading of a page that is there in English alone.
func untranslated(heading string) lang.Text { return lang.Same(heading) }

// Heading returns the entry's heading; that of None is empty.
func (e Entry) Heading() lang.Text { return headings[e] }

// See adds to a remedy which entry tells more.
func (e Entry) See(remedy lang.Text) lang.Text {
	if e == None {
		return remedy
	}
	return lang.T("%s; runbook: %s", "%s；运维手册：%s", remedy, headings[e])
}
