package console

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
	"wxtoken/internal/seal"
)

// Dead is a message on DEAD.
type Dead struct {
	Sequence   uint64    `json:"sequence"`
	At         time.Time `json:"at"`      // when it was put there
	Subject    string    `json:"subject"` // of the original
	Component  string    `json:"component,omitempty"`
	Reason     string    `json:"reason"`
	EventID    string    `json:"event_id,omitempty"`
	Bytes      int       `json:"bytes"`
	SealedFor  string    `json:"sealed_for,omitempty"` // public key
	Replayable bool      `json:"replayable"`
	Kind       string    `json:"kind"` // push, webhook, renewal, other

	searched string
}

// deadLetter reads a message of DEAD; nothing of its payload.
func deadLetter(m *jetstream.RawStreamMsg, q *Request) Dead {
	d := Dead{Sequence: m.Sequence, At: m.Time.UTC(), Reason: m.Header.Get(events.HeaderReason), EventID: m.Header.Get("ce-id"), Bytes: len(m.Data)}
	d.Subject, _ = events.OriginalSubject(m.Subject)
	d.Component = events.ComponentOf(d.Subject)
	// What can't be read, can't the next time either.
	d.Replayable = events.IsAuth(d.Subject) && !unreadable(d.Subject)
	if sealed(m) {
		d.SealedFor = m.Header.Get(seal.HeaderFor)
	}
	d.Kind = deadKind(d.Subject)
	d.searched = strings.ToLower(d.Subject + " " + d.Reason + " " + d.EventID)
	return d
}

// sealed reports whether a payload is sealed.
func sealed(m *jetstream.RawStreamMsg) bool {
	return strings.HasPrefix(string(m.Data[:min(len(m.Data), len(seal.Prefix))]), seal.Prefix)
}

// deadKinds are what dead letters are of, by their names in JSON.
var deadKinds = map[string]lang.Text{
	"push": lang.T("a push", "推送"), "webhook": lang.T("a webhook's message", "Webhook 消息"), "renewal": lang.T("a renewal", "续期"), "other": lang.T("something else", "其他"),
}

// deadKind returns what a subject is of.
func deadKind(subject string) string {
	switch first, _, _ := strings.Cut(subject, "."); {
	case events.IsAuth(subject):
		return "push"
	case first == "webhook", first == "renewal":
		return first
	}
	return "other"
}

// KindText says what it is of.
func (d Dead) KindText() lang.Text { return deadKinds[d.Kind] }

func (d Dead) sequence() uint64 { return d.Sequence }

func (d Dead) matches(w wantedPushes) bool {
	return (w.component == "" || d.Component == w.component) && (w.appid == "" || strings.Contains(d.searched, "."+strings.ToLower(w.appid))) && strings.Contains(d.searched, w.text)
}

// Href is where all of it is shown.
func (d Dead) Href() string { return "/pushes/dead/" + strconv.FormatUint(d.Sequence, 10) }

// SubjectText and ReasonText are what can be shown of foreign texts.
func (d Dead) SubjectText() string { return printable(d.Subject) }

// ReasonText says why it lies there.
func (d Dead) ReasonText() string { return printable(d.Reason) }

// EventIDText is the id of the event.
func (d Dead) EventIDText() string { return printable(d.EventID) }

// SealedForText is the public key that it is sealed for.
func (d Dead) SealedForText() string { return printable(d.SealedFor) }

// unreadable reports whether a subject is of a document of WeChat's that can't be read.
func unreadable(subject string) bool { return strings.HasSuffix(subject, "."+events.KindUnreadable) }

// ToDo says what to do about it.
func (d Dead) ToDo() lang.Text {
	switch {
	case unreadable(d.Subject):
		return unmarkedText(runbook.DeadLetter.See(lang.T("WeChat wrote what can't be read: read it by hand, then discard it", "微信的内容无法解析：人工读出后再丢弃")))
	case d.Replayable && d.SealedFor != "":
		return lang.T("if the seed of its seal key was missing, give it to the refreshers, then replay it", "如果缺少其密封密钥的种子，先提供给 refresher，再重放")
	case d.Replayable:
		return lang.T("once its cause is gone, replay it; a code in it is dead after an hour at most, and a replay is of no use then", "排除原因后重放；其中的授权码最长一小时失效，此后重放无用")
	case strings.HasPrefix(d.Subject, "webhook."):
		return lang.T("the service did not take it for a day: hand it over in another way, or discard it", "业务服务一天之内没有接收：用其他方式转交，或丢弃")
	}
	return lang.T("it has been replaced since: discard it", "它已被取代：可丢弃")
}

// deadLetterPage is the page of a message on DEAD.
func (c *Console) deadLetterPage() Page {
	return Page{
		Path: "/pushes/dead/{sequence}", Name: "deadletter", Under: "/pushes", Title: lang.T("Dead letter", "死信"),
		Data: func(ctx context.Context, q *Request) (any, error) { return c.deadLetter(ctx, q) },
	}
}

// DeadDocument is what the page of a message on DEAD shows.
type DeadDocument struct {
	Now time.Time `json:"now"`
	Dead
	Document Document `json:"document"`
}

// deadLetter makes the page of a message on DEAD.
func (c *Console) deadLetter(ctx context.Context, q *Request) (DeadDocument, error) {
	m, err := c.message(ctx, events.StreamDead, q.PathValue("sequence"))
	if err != nil {
		return DeadDocument{}, err
	}
	return DeadDocument{q.Now, deadLetter(m, q), deadDocument(m, q)}, nil
}

// Why a document on DEAD is not shown.
const (
	hiddenSealed  = "sealed"
	hiddenUnknown = "unknown"
)

// deadDocument shows what may be shown of a payload: of an event that the refreshers act on what it
// is about, and that there is a ticket or a code, never which.
func deadDocument(m *jetstream.RawStreamMsg, q *Request) Document {
	none := func(why string) Document { return Document{Hidden: why, Fields: []Field{}} }
	subject, _ := events.OriginalSubject(m.Subject)
	switch first, _, _ := strings.Cut(subject, "."); {
	case sealed(m):
		return none(hiddenSealed)
	case events.IsAuth(subject):
		a, err := events.ParseAuth(m.Data)
		if err != nil {
			return none(hiddenUnknown)
		}
		return Document{Fields: authFields(a, q)}
	case first == "webhook":
		return decode(m.Data)
	case first == "renewal":
		due, err := events.ParseDue(m.Data)
		if err != nil {
			return none(hiddenUnknown)
		}
		return Document{Fields: []Field{{"key", due.Key.String()}, {"generation", strconv.FormatUint(due.Generation, 10)}, {"reason", due.Reason}}}
	}
	return none(hiddenUnknown)
}

// authFields says what an event is about, without its secrets.
func authFields(a events.Auth, q *Request) []Field {
	fields := []Field{{"kind", a.Kind}, {"component", a.Component}}
	add := func(name, value string) {
		if value != "" {
			fields = append(fields, Field{name, value})
		}
	}
	blank := func(name, value string) {
		if value != "" {
			fields = append(fields, Field{name, q.Say(lang.T("(blanked)", "（已隐去）"))})
		}
	}
	add("authorizer", a.Authorizer)
	add("create_time", a.CreateTime.UTC().Format(time.RFC3339))
	add("received_at", a.ReceivedAt.UTC().Format(time.RFC3339))
	blank("ticket", a.Ticket)
	blank("code", a.Code)
	blank("pre_auth_code", a.PreAuthCode)
	blank("connect", a.Connect) // who knows it can open the link
	blank("document", a.Document)
	add("detail", a.Detail)
	return fields
}
