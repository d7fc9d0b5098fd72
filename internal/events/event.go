package events

import (
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/lang"
	"wxtoken/internal/seal"
)

// Event is one message on AUTH or MESSAGES. Its attributes travel as CloudEvents 1.0 headers
// (NATS protocol binding, binary mode).
type Event struct {
	Subject string // NATS subject
	// Ce-id and Nats-Msg-Id: the same push has the same id, however often WeChat repeats it.
	ID          string
	Source      string    // ce-source: the path on which it came in, without a query
	Type        string    // ce-type: WeChat's own word for it
	About       string    // ce-subject: the appid that it is about
	Time        time.Time // ce-time: WeChat's CreateTime
	ContentType string
	Data        []byte
	Seal        *seal.Keys // seals Data if Subject is on AUTH; may be nil
}

// Headers that say why a message is on DEAD, in English and in Chinese; the latter only where it differs.
const (
	HeaderReason   = "Wxtoken-Reason"
	HeaderReasonZH = "Wxtoken-Reason-Zh"
)

// SetReason says in the headers of a message for DEAD why it is there.
func SetReason(h nats.Header, why lang.Text) {
	h.Set(HeaderReason, why.EN)
	if zh := chinese(why); zh != "" {
		h.Set(HeaderReasonZH, zh)
	}
}

// ReasonOf returns why a message is on DEAD.
func ReasonOf(h nats.Header) lang.Text { return bilingual(h.Get(HeaderReason), h.Get(HeaderReasonZH)) }

// IsReason reports whether a header says why a message is on DEAD.
func IsReason(name string) bool { return name == HeaderReason || name == HeaderReasonZH }

// CloudEvents headers in NATS binary mode.
const (
	headerSpecVersion = "ce-specversion"
	headerID          = "ce-id"
	headerSource      = "ce-source"
	headerType        = "ce-type"
	headerSubject     = "ce-subject"
	headerTime        = "ce-time"
	headerContentType = "Content-Type"
)

// Msg returns the message that carries the event, sealed if it is for AUTH.
func (e Event) Msg() *nats.Msg {
	attributes := [...][2]string{
		{headerSpecVersion, "1.0"},
		{headerID, e.ID},
		{headerSource, e.Source},
		{headerType, e.Type},
		{headerTime, e.Time.UTC().Format(time.RFC3339)},
		{headerContentType, e.ContentType},
		{jetstream.MsgIDHeader, e.ID},
		{headerSubject, e.About},
	}
	given := attributes[:]
	if e.About == "" {
		given = given[:len(given)-1]
	}
	m := &nats.Msg{Subject: e.Subject, Data: e.Data, Header: make(nats.Header, len(given))}
	values := make([]string, len(given)) // one allocation for all: there are thousands of messages a second
	for i, attribute := range given {
		values[i] = attribute[1]
		m.Header[attribute[0]] = values[i : i+1 : i+1]
	}
	if strings.HasPrefix(e.Subject, prefixAuth) {
		e.Seal.Seal(m)
	}
	return m
}
