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

// DeadLetter is a message on DEAD.
type DeadLetter struct {
	Sequence   uint64    `json:"sequence"`
	At         time.Time `json:"at"`      // when it was stored there
	Subject    string    `json:"subject"` // of the original
	Component  string    `json:"component,omitempty"`
	Reason     string    `json:"reason"` // in the language of the request
	EventID    string    `json:"event_id,omitempty"`
	Bytes      int       `json:"bytes"`
	SealedFor  string    `json:"sealed_for,omitempty"` // public key
	Replayable bool      `json:"replayable"`
	Kind       string    `json:"kind"` // push, webhook, renewal, other

	searched string
}

// deadLetter reads a message of DEAD, without its payload.
func deadLetter(m *jetstream.RawStreamMsg, q *Request) DeadLetter {
	why := events.ReasonOf(m.Header)
	d := DeadLetter{
		Sequence: m.Sequence, At: m.Time.UTC(), Reason: q.Say(why),
		EventID: m.Header.Get("ce-id"), Bytes: len(m.Data),
	}
	d.Subject = events.OriginalSubject(m.Subject)
	d.Component = events.ComponentOf(d.Subject)
	// A document that can't be parsed won't be the next time either.
	d.Replayable = events.IsAuth(d.Subject) && !unreadable(d.Subject)
	if seal.Sealed(m.Data) {
		d.SealedFor = m.Header.Get(seal.HeaderFor)
	}
	d.Kind = deadKind(d.Subject)
	d.searched = strings.ToLower(d.Subject + " " + why.EN + " " + why.ZH + " " + d.EventID)
	return d
}

// deadKinds name the kinds of dead letters.
var deadKinds = map[string]lang.Text{
	"push":    lang.T("a push", "推送"),
	"webhook": lang.T("a webhook's message", "Webhook 消息"),
	"renewal": lang.T("a renewal", "续期"),
	"other":   lang.T("something else", "其他"),
}

// deadKind returns the kind of a dead letter, by its original subject.
func deadKind(subject string) string {
	switch first, _, _ := strings.Cut(subject, "."); {
	case events.IsAuth(subject):
		return "push"
	case first == "webhook", first == "renewal":
		return first
	}
	return "other"
}

// KindText is the kind in words.
func (d DeadLetter) KindText() lang.Text { return deadKinds[d.Kind] }

func (d DeadLetter) sequence() uint64 { return d.Sequence }

func (d DeadLetter) matches(w pushFilter) bool {
	return (w.component == "" || d.Component == w.component) &&
		(w.appid == "" || strings.Contains(d.searched, "."+strings.ToLower(w.appid))) &&
		strings.Contains(d.searched, w.text)
}

// Href leads to its page.
func (d DeadLetter) Href() string { return "/pushes/dead/" + strconv.FormatUint(d.Sequence, 10) }

// SubjectText is the subject as it can be shown.
func (d DeadLetter) SubjectText() string { return printable(d.Subject) }

// ReasonText is the reason as it can be shown.
func (d DeadLetter) ReasonText() string { return printable(d.Reason) }

// EventIDText is the id of the event as it can be shown.
func (d DeadLetter) EventIDText() string { return printable(d.EventID) }

// SealedForText is the public key that it is sealed for, as it can be shown.
func (d DeadLetter) SealedForText() string { return printable(d.SealedFor) }

// unreadable reports whether a subject is that of a document that can't be parsed.
func unreadable(subject string) bool { return strings.HasSuffix(subject, "."+events.KindUnreadable) }

// ToDo says what to do about it.
func (d DeadLetter) ToDo() lang.Text {
	switch {
	case unreadable(d.Subject):
		return unmarkedText(runbook.DeadLetter.See(lang.T("WeChat sent a document that can't be parsed: read it by hand, then discard it", "微信的内容无法解析：人工查看后再丢弃")))
	case d.Replayable && d.SealedFor != "":
		return lang.T("if the seed of its seal key was missing, give it to the refreshers, then replay it", "如果缺少其密封密钥的种子，先提供给 refresher，再重放")
	case d.Replayable:
		return lang.T("once its cause is gone, replay it; a code in it expires after an hour at most, and then a replay is of no use", "排除原因后重放；其中的授权码最长一小时失效，此后重放无用")
	case strings.HasPrefix(d.Subject, "webhook."):
		return lang.T("the service refused it for a day: hand it over in another way, or discard it", "业务服务一天之内没有接收：用其他方式转交，或丢弃")
	}
	return lang.T("a newer one has replaced it: discard it", "已有更新的取代它：可丢弃")
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
	DeadLetter
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

// deadDocument returns what may be shown of a payload. Of an authorization event that is what it is
// about, and that there is a ticket or a code, never its value.
func deadDocument(m *jetstream.RawStreamMsg, q *Request) Document {
	none := func(why string) Document { return Document{Hidden: why, Fields: []Field{}} }
	subject := events.OriginalSubject(m.Subject)
	switch first, _, _ := strings.Cut(subject, "."); {
	case seal.Sealed(m.Data):
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
		return Document{Fields: []Field{
			{"key", due.Key.String()}, {"generation", strconv.FormatUint(due.Generation, 10)}, {"reason", due.Reason},
		}}
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
