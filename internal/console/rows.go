package console

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/truth"
	"wxtoken/internal/wechat"
)

// maxReads bounds how many records are read at the same time.
const maxReads = 16

// Row is what is known about one key.
type Row struct {
	Key              wxtoken.Key         `json:"key"`
	State            wxtoken.State       `json:"state,omitempty"` // by the status and the clock; empty: none is stored
	Valid            bool                `json:"token_valid"`     // there is a token that has not expired
	Name             string              `json:"nick_name,omitempty"`
	Principal        string              `json:"principal_name,omitempty"`
	Ref              string              `json:"ref,omitempty"`
	Generation       uint64              `json:"generation"`
	TokenSHA256      string              `json:"token_sha256_first_8,omitempty"` // empty: there is no token
	ObtainedAt       time.Time           `json:"obtained_at,omitzero"`
	ExpiresAt        time.Time           `json:"expires_at,omitzero"`
	RenewAt          time.Time           `json:"renew_at,omitzero"`
	TicketReceivedAt *time.Time          `json:"ticket_received_at,omitempty"`
	Failures         int                 `json:"failures"`
	LastError        *wxtoken.LastError  `json:"last_error,omitempty"`
	Held             *wxtoken.Condition  `json:"held_back,omitempty"` // what holds the renewals of its component back, where the key suffers from it
	Conditions       []wxtoken.Condition `json:"conditions"`
	ReauthorizeURL   string              `json:"reauthorize_url,omitempty"`
	ToDo             string              `json:"to_do,omitempty"` // what a person can do, in the language of the request

	status wxtoken.Status
}

// ErrorText is the last error in one line. WeChat's words, and NATS's, stay as they are.
func (r Row) ErrorText() lang.Text {
	e := r.LastError
	if e == nil {
		return lang.Text{}
	}
	if text, ok := wechat.NoAnswer(wechat.API(e.API), e.Message); ok && e.Code == 0 {
		return printableText(text)
	}
	if e.Message == account.ErrNoRefreshToken.Error() {
		return lang.Of(account.ErrNoRefreshToken)
	}
	text := printable(e.Message)
	if e.Code != 0 && !strings.Contains(e.Message, fmt.Sprint(e.Code)) {
		text += fmt.Sprintf(" (errcode %d)", e.Code)
	}
	if e.RID != "" && !strings.Contains(e.Message, e.RID) {
		text += fmt.Sprintf(" (rid %s)", printable(e.RID))
	}
	return lang.Same(text)
}

// awaits reports whether it is an account, or a ticket of one, that only needs a renewal.
func (r Row) awaits() bool {
	return r.Key.Kind != wxtoken.KindComponent && (r.State == wxtoken.StateRenewingFailed || r.State == wxtoken.StateActive && !r.Valid)
}

// Href leads to the page of the key.
func (r Row) Href() string { return "/accounts/" + r.Key.String() }

// rowsOf reads what is stored of each key.
func (c *Console) rowsOf(ctx context.Context, q *Request, keys []wxtoken.Key) ([]Row, error) {
	rows := make([]Row, len(keys))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxReads)
	for i, key := range keys {
		group.Go(func() (err error) {
			rows[i], err = c.rowOf(ctx, q, key)
			return err
		})
	}
	return rows, group.Wait()
}

// record reads the newest record on a subject of a stream; nil where there is none.
func (c *Console) record(ctx context.Context, stream, subject string) ([]byte, error) {
	m, err := c.cfg.NATS.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		return m.Data, nil
	case "404":
		return nil, nil
	default:
		return nil, fmt.Errorf("read %s: %s %s", subject, status, m.Header.Get("Description"))
	}
}

// rowOf reads one key. A record that can't be parsed counts as none.
func (c *Console) rowOf(ctx context.Context, q *Request, key wxtoken.Key) (Row, error) {
	r, known := Row{Key: key, Conditions: []wxtoken.Condition{}}, false
	data, err := c.record(ctx, events.StreamTokens, events.TokenSubject(key))
	if err != nil {
		return r, err
	}
	var t wxtoken.Token
	if len(data) > 0 && t.UnmarshalJSON(data) == nil { // a deletion is an empty record
		r.Generation, r.TokenSHA256 = t.Generation, events.Digest(t.Value.Reveal())[:8]
		r.ObtainedAt, r.ExpiresAt, r.RenewAt = t.ObtainedAt.UTC(), t.ExpiresAt.UTC(), t.RenewAt.UTC()
		r.Valid, known = q.Now.Before(t.ExpiresAt), true
		if r.Valid {
			r.State = wxtoken.StateActive // the status is about to be written
		}
	}
	if data, err = c.record(ctx, events.StreamStatus, events.StatusSubject(key)); err != nil {
		return r, err
	}
	var s wxtoken.Status
	if len(data) == 0 || json.Unmarshal(data, &s) != nil {
		return r, nil
	}
	s.Key, r.State = key, s.State
	if known { // the token may have expired since the status was written
		r.State = s.StateAt(q.Now, r.ExpiresAt)
		s.State = r.State
	}
	r.status, r.Failures, r.TicketReceivedAt, r.LastError, r.ReauthorizeURL = s, s.Failures, s.TicketReceivedAt, s.LastError, s.ReauthorizeURL
	if s.Conditions != nil {
		r.Conditions = s.Conditions
	}
	if held, ok := s.Held(); ok {
		r.Held = &held
	}
	if a := s.Authorizer; a != nil {
		r.Name, r.Principal, r.Ref = jsonString(a.Profile["nick_name"]), jsonString(a.Profile["principal_name"]), a.Ref
	}
	r.ToDo = unmarked(q.Say(whatToDo(s)))
	if held, ok := c.index.held(key.Component); ok && r.awaits() {
		r.Held = &held
		r.ToDo = cmp.Or(r.ToDo, unmarked(q.Say(truth.CauseOf(held.Reason).Do(nil))))
	}
	return r, nil
}
