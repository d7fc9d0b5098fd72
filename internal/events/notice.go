package events

import (
	"encoding/json"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
)

// NoticeLife is how long JOURNAL keeps a notice. A cause that lasts longer is reported again.
const NoticeLife = 30 * day

// NoticeKeys is how many accounts a notice names at most.
const NoticeKeys = 5

// Phase is the phase of its cause about which a notice tells.
type Phase string

// The phases.
const (
	PhaseBegan Phase = "began"
	PhaseGrew  Phase = "grew" // it concerns more accounts or messages than were reported
	PhaseOver  Phase = "over"
	PhaseTest  Phase = "test" // sent to test an address, never stored
)

// The severities. They are the labels of the alerts, too.
const (
	SeverityPage   = "page"   // to be handled now
	SeverityTicket = "ticket" // to be handled today
)

// Notice tells operators that something needs a person, or that it is over: a CloudEvent in the
// structured JSON format, on journal.notice.<component>.<cause>. The last one on a subject is the
// current state.
type Notice struct {
	SpecVersion string     `json:"specversion"`
	ID          string     `json:"id"`
	Source      string     `json:"source"`
	Type        string     `json:"type"`
	Subject     string     `json:"subject,omitempty"` // the component
	Time        time.Time  `json:"time"`
	ContentType string     `json:"datacontenttype"`
	Data        NoticeData `json:"data"`
}

// NoticeData is what a notice says.
type NoticeData struct {
	Phase     Phase              `json:"phase"`
	Cause     string             `json:"cause"`    // of package truth
	Severity  string             `json:"severity"` // SeverityPage or SeverityTicket
	Component string             `json:"component,omitempty"`
	Since     time.Time          `json:"since"`
	Until     *time.Time         `json:"until,omitempty"`    // when it ends or is tried again, if known
	Count     int                `json:"count"`              // accounts that it leaves without a valid token or authorization; or copies, or messages on DEAD
	Most      int                `json:"most"`               // the highest Count reported
	Upto      uint64             `json:"upto,omitempty"`     // of messages on DEAD: the sequence up to which they were counted
	Keys      []string           `json:"keys,omitempty"`     // NoticeKeys of them
	Names     []string           `json:"names,omitempty"`    // copies that lag, as <account>/<stream>
	Instance  string             `json:"instance,omitempty"` // in a notice sent directly: host of the refresher that is cut off
	Error     *wxtoken.LastError `json:"error,omitempty"`    // WeChat's error
	What      lang.Text          `json:"what"`               // what is wrong, in a sentence
	Do        lang.Text          `json:"do,omitzero"`        // what to do about it, and which entry of the runbook tells more
}

// NewNotice returns a notice with a time.
func NewNotice(at time.Time, data NoticeData) Notice {
	at = at.UTC()
	return Notice{
		SpecVersion: "1.0", ID: fmt.Sprintf("%s.%s.%d", token(data.Component), data.Cause, at.UnixMilli()), Source: "/wxtoken",
		Type: "wxtoken.notice." + data.Cause, Subject: data.Component, Time: at, ContentType: "application/json", Data: data,
	}
}

// ParseNotice reads a notice from JOURNAL.
func ParseNotice(data []byte) (n Notice, err error) {
	err = json.Unmarshal(data, &n)
	return n, err
}
