package events

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/internal/lang"
)

// Actions that leave a record on JOURNAL: the last token of journal.audit.<component>.<action>.
const (
	ActionRenew     = "renew"
	ActionReconcile = "reconcile"
	ActionClear     = "clear_quota"
	ActionLink      = "link"
	ActionReveal    = "reveal"
	ActionReplay    = "replay"
	ActionDiscard   = "discard"
	ActionLogin     = "login"
	ActionLogout    = "logout"
)

// How an action was asked for.
const (
	ByConsole = "console" // a button of the operator's page: Actor and Role are proven
	ByNATS    = "nats"    // a request on NATS: Actor is what the request claims
)

// Outcomes of actions, besides those of Renew and of ReconcileRequest.
const (
	OutcomeRefused  = "refused"
	OutcomeDone     = "done"
	OutcomeRevealed = "revealed" // written before the answer goes out

	OutcomeReplayed  = "replayed" // of a message on DEAD; OutcomeDiscarded too
	OutcomeDiscarded = "discarded"
)

// Headers in which the operator's page says who asks. They are trusted on wxtoken.console.> only.
const (
	HeaderActor = "Wxtoken-Actor"
	HeaderRole  = "Wxtoken-Role"
)

// Audit is the record of an action that was done, or refused. It never holds a secret.
type Audit struct {
	At         time.Time      `json:"at"`
	Action     string         `json:"action"`
	Actor      string         `json:"actor,omitempty"`
	Role       string         `json:"role,omitempty"`  // of the actor, with ByConsole
	By         string         `json:"by"`              // ByConsole or ByNATS
	Inbox      string         `json:"inbox,omitempty"` // with ByNATS: the reply subject up to its first dot; it names the user if each has an inbox of its own
	From       string         `json:"from,omitempty"`  // of a login: the address
	Component  string         `json:"component,omitempty"`
	Key        string         `json:"key,omitempty"`
	Parameters map[string]any `json:"parameters,omitempty"`
	Outcome    string         `json:"outcome"`
	Status     int            `json:"status,omitempty"` // of a refusal, as in HTTP
	Detail     string         `json:"detail,omitempty"` // of a refusal: why
	DetailZH   string         `json:"detail_zh,omitempty"`
}

// Why is why it was refused, in both languages.
func (a Audit) Why() lang.Text { return bilingual(a.Detail, a.DetailZH) }

// maxDetail bounds a foreign text in a record, in bytes.
const maxDetail = 1000

// Msg returns the message that carries the record.
func (a Audit) Msg() (*nats.Msg, error) {
	for _, text := range []*string{&a.Detail, &a.DetailZH} {
		*text = strings.ToValidUTF8((*text)[:min(len(*text), maxDetail)], "")
	}
	a.At = a.At.UTC()
	data, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encode the record of %s: %w", a.Action, err)
	}
	m := nats.NewMsg(JournalSubject(JournalAudit, a.Component, a.Action))
	m.Data = data
	return m, nil
}

// Asker is who sent a request, as far as is known.
type Asker struct {
	Name  string
	Role  string // ByConsole alone
	By    string
	Inbox string
}

// AskerOf returns who sent a request. On subjects of the operator's page, to which no other process
// may publish, the headers are proof; elsewhere they are a claim: within an account, NATS does not
// tell who published a message.
func AskerOf(subject, reply string, header func(string) string) Asker {
	inbox, _, _ := strings.Cut(reply, ".")
	a := Asker{Name: clean(header(HeaderActor)), By: ByNATS, Inbox: Clip(inbox)}
	if strings.HasPrefix(subject, ConsolePrefix) {
		a.By, a.Role, a.Inbox = ByConsole, header(HeaderRole), ""
	}
	return a
}

// clean makes a claimed name short and printable.
func clean(name string) string {
	return strings.ToValidUTF8(Clip(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, name)), "")
}

// About returns a record about a key, with its other fields empty.
func About(key wxtoken.Key) Audit { return Audit{Component: key.Component, Key: key.String()} }
