package wechatsim

import "time"

// EntryKind says what an Entry is about.
type EntryKind string

// The kinds of entry.
const (
	EntryPush       EntryKind = "push"        // one try of a push
	EntryPushAnswer EntryKind = "push_answer" // what the receiver answered to that try
	EntryCall       EntryKind = "call"        // a call of the API
	EntryIssue      EntryKind = "issue"       // a ticket, token, refresh token or code was issued
	EntryInvalidate EntryKind = "invalidate"  // an issued one is not accepted after ValidUntil
	EntryAuthorize  EntryKind = "authorize"   // an account authorized or authorized again
	EntryCancel     EntryKind = "cancel"      // an account cancelled its authorization
	EntryPage       EntryKind = "page"        // an authorization page was shown, or an error in its place
	EntryConsent    EntryKind = "consent"     // an account used an authorization link, or failed to
	EntryVerify     EntryKind = "verify"      // an echostr was sent to a push address
	EntryFault      EntryKind = "fault"       // a trouble was switched on or off
)

// The outcomes of calls, pushes and push answers.
const (
	OutcomeAnswered = "answered" // call: executed and answered, with an errcode or without; page, consent: done
	OutcomeLost     = "lost"     // call: executed, the answer was cut off
	OutcomeBusy     = "busy"     // call: answered -1, not executed
	OutcomeFaked    = "faked"    // call: answered by a Fault, not executed
	OutcomeDropped  = "dropped"  // call or push: vanished on its way, not executed
	OutcomeDown     = "down"     // call: the platform was down
	OutcomeSent     = "sent"     // push: on its way
	OutcomeSuccess  = "success"  // push answer, verify: as WeChat wants it
	// Push answer, verify: any other answer; page, consent: an error, which is in Text.
	OutcomeRefused = "refused"
	OutcomeFailed  = "failed" // push answer, verify: no answer (no connection, or not within 5 s)
)

// Entry is one line of the history. Fields that do not apply are zero. It has only Fingerprints of
// secrets.
type Entry struct {
	Seq        int       `json:"seq"`  // counts from 1
	Time       time.Time `json:"time"` // UTC
	Kind       EntryKind `json:"kind"`
	Component  string    `json:"component,omitempty"`
	Authorizer string    `json:"authorizer,omitempty"`
	API        string    `json:"api,omitempty"` // name as in Fault.API; of a page, its path
	Errcode    int       `json:"errcode,omitempty"`
	Outcome    string    `json:"outcome,omitempty"`

	InfoType   string `json:"info_type,omitempty"`   // of a push; for messages MsgType or MsgType.Event
	Push       int    `json:"push,omitempty"`        // number of the push, the same for all its tries
	Attempt    int    `json:"attempt,omitempty"`     // try of that push, from 1
	CreateTime int64  `json:"create_time,omitempty"` // of a push, Unix seconds
	Digest     string `json:"digest,omitempty"`      // Fingerprint of the decrypted push, or of the file that a call uploaded
	Size       int64  `json:"size,omitempty"`        // of that file, in bytes
	Status     int    `json:"status,omitempty"`      // HTTP status of a push answer

	What              string    `json:"what,omitempty"`               // issue, invalidate, page, consent: ticket, component_access_token, authorizer_access_token, refresh_token, auth_code, pre_auth_code, jsapi_ticket, wx_card_ticket
	Secret            string    `json:"secret,omitempty"`             // Fingerprint of it
	Generation        int       `json:"generation,omitempty"`         // its number, from 1
	RefreshGeneration int       `json:"refresh_generation,omitempty"` // of a refresh: the number of the refresh token that was sent
	ValidUntil        time.Time `json:"valid_until,omitzero"`

	// A text with a secret is only sha256:<Fingerprint> here.
	MsgType string `json:"msg_type,omitempty"` // of a passive reply
	Content string `json:"content,omitempty"`  // of a passive reply of MsgType text
	Text    string `json:"text,omitempty"`     // the whole passive reply or customer message; the fault; or why something was refused
}

// record appends an entry. The caller holds p.mu.
func (p *Platform) record(e Entry) {
	p.seq++
	e.Seq, e.Time = p.seq, p.now()
	p.history = append(p.history, e)
}

// History returns a copy of everything that happened since New or ClearHistory, oldest first.
func (p *Platform) History() []Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Entry(nil), p.history...)
}

// HistorySince returns the entries after the one numbered seq.
func (p *Platform) HistorySince(seq int) []Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := len(p.history) - (p.seq - seq)
	first = min(max(first, 0), len(p.history))
	return append([]Entry(nil), p.history[first:]...)
}

// ClearHistory forgets the entries; the numbering goes on.
func (p *Platform) ClearHistory() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history = nil
}
