package console

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
	"wxtoken/internal/truth"
)

// maxNamed bounds the accounts of notices whose names are read for one page.
const maxNamed = 100

// noticesPage shows the notices to operators.
func (c *Console) noticesPage() Page {
	return Page{
		Path: "/notices", Name: "notices", Nav: lang.T("Notices", "通知"), Title: lang.T("Notices", "通知"),
		Params: []string{"component", "cause", "page", "limit"},
		Data:   func(ctx context.Context, q *Request) (any, error) { return c.notices(ctx, q) },
		Text:   func(out *bytes.Buffer, data any, q *Request) { writeNotices(out, data.(Notices), q) },
	}
}

// Notices is what the page shows.
type Notices struct {
	At       time.Time `json:"at"`
	Verdict  string    `json:"verdict"`  // broken: something needs a person, or ok
	Sentence string    `json:"sentence"` // in the language of the request
	Standing []Notice  `json:"standing"` // what needs a person now, the gravest first
	Over     []Notice  `json:"over"`     // what was reported and is over, the newest first
	Total    int       `json:"total"`    // of those that are over
	More     bool      `json:"older_left_out,omitempty"`
	Page     int       `json:"page"` // of those that are over, from 1
	Limit    int       `json:"limit"`

	query      *Request
	components []string
	names      map[string]string // of accounts, by key
}

// Notice is a problem, from its first notice to its last.
type Notice struct {
	Component string             `json:"component,omitempty"`
	Cause     string             `json:"cause"`
	Severity  string             `json:"severity"` // page: now, or ticket: today
	What      string             `json:"what"`     // in the language of the request, as is to_do
	ToDo      string             `json:"to_do,omitempty"`
	Since     time.Time          `json:"since"`
	Until     *time.Time         `json:"until,omitempty"`   // when it will end by itself, if that is known
	OverAt    time.Time          `json:"over_at,omitzero"`  // when the notice of its end was written
	Count     int                `json:"count"`             // in the last notice before its end
	Most      int                `json:"most"`              // the greatest in any notice
	Keys      []string           `json:"keys,omitempty"`    // the first few accounts
	Names     []string           `json:"names,omitempty"`   // copies that lag
	Error     *wxtoken.LastError `json:"error,omitempty"`   // WeChat's answer
	Runbook   string             `json:"runbook,omitempty"` // page of the entry that says more
	Told      []Told             `json:"told"`              // each notice, the oldest first

	data events.NoticeData // of the last notice
}

// Told is one of its notices.
type Told struct {
	At    time.Time    `json:"at"`
	Phase events.Phase `json:"phase"`
	Count int          `json:"count"`
}

// notices makes the page.
func (c *Console) notices(ctx context.Context, q *Request) (Notices, error) {
	page, limit, err := pageAndLimit(q, maxLimit, defaultLimit)
	if err != nil {
		return Notices{}, err
	}
	component, cause := q.Param("component"), q.Param("cause")
	if component != "" && !wxtoken.ValidAppID(component) {
		return Notices{}, badRequest(lang.T("component: want an appid", "component：应为 appid"))
	}
	n := Notices{At: q.Now, Standing: []Notice{}, Over: []Notice{}, Page: page, Limit: limit, query: q}
	all, more, err := c.readNotices(ctx, q)
	if err != nil {
		return Notices{}, err
	}
	n.More, n.components = more, c.componentAppIDs()
	standing := 0
	for _, one := range all {
		if one.OverAt.IsZero() {
			standing++
		}
		if one.Component != "" && !slices.Contains(n.components, one.Component) {
			n.components = append(n.components, one.Component) // a component that was removed
		}
		switch {
		case component != "" && one.Component != component, cause != "" && one.Cause != cause:
		case one.OverAt.IsZero():
			n.Standing = append(n.Standing, one)
		default:
			n.Over = append(n.Over, one)
		}
	}
	slices.SortStableFunc(n.Standing, func(a, b Notice) int { return truth.OfNotice(a.data).Compare(truth.OfNotice(b.data)) })
	slices.SortStableFunc(n.Over, func(a, b Notice) int { return b.OverAt.Compare(a.OverAt) })
	n.Total = len(n.Over)
	from := min((page-1)*limit, n.Total)
	n.Over = n.Over[from:min(from+limit, n.Total)]
	n.names, err = c.namesOf(ctx, q, slices.Concat(n.Standing, n.Over))
	n.Verdict, n.Sentence = verdictBroken, q.Say(lang.T("%d problems need a person now.", "目前有 %d 个问题需要处理。", standing))
	switch standing {
	case 0:
		n.Verdict, n.Sentence = verdictOK, q.Say(lang.T("No notice needs a person now.", "目前没有待处理的通知。"))
	case 1:
		n.Sentence = q.Say(lang.T("1 problem needs a person now.", "目前有 1 个问题需要处理。"))
	}
	return n, err
}

// readNotices reads all notices, and joins those of a problem from its beginning to its end. more: there
// were more than maxRecords, and the oldest are left out.
func (c *Console) readNotices(ctx context.Context, q *Request) (all []Notice, more bool, err error) {
	standing := map[string]*Notice{} // by subject
	err = c.journal(ctx, events.JournalFilter(events.JournalNotice), q.Now.Add(-events.NoticeLife), func(m jetstream.Msg) {
		n, err := events.ParseNotice(m.Data())
		if err != nil || n.Data.Cause == "" {
			return
		}
		one := standing[m.Subject()]
		if one == nil {
			one = &Notice{Component: n.Data.Component, Cause: n.Data.Cause}
			standing[m.Subject()] = one
		}
		one.add(n, q)
		if n.Data.Phase != events.PhaseOver {
			return
		}
		delete(standing, m.Subject())
		if all = append(all, *one); len(all) > maxRecords {
			all, more = all[1:], true
		}
	})
	for _, one := range standing {
		all = append(all, *one)
	}
	return all, more, err
}

// add takes over one more notice of the problem. The last one counts; but the notice of its end no longer
// says whom it was about and what to do, so those of the one before stay.
func (n *Notice) add(told events.Notice, q *Request) {
	d := told.Data
	if n.Since.IsZero() || d.Since.Before(n.Since) {
		n.Since = d.Since.UTC() // a problem that lasts is reported again once its first notices have expired
	}
	n.Told = append(n.Told, Told{told.Time.UTC(), d.Phase, d.Count})
	n.Severity, n.What, n.Most, n.data = d.Severity, q.Say(d.What), max(n.Most, d.Most, d.Count), d
	if d.Phase == events.PhaseOver {
		n.OverAt, n.Until = told.Time.UTC(), nil
		return
	}
	n.Count, n.Keys, n.Names, n.Until, n.Error = d.Count, d.Keys, d.Names, d.Until, d.Error
	n.ToDo = unmarked(q.Say(d.Do))
	if m := runbook.Mentions(n.ToDo); len(m) > 0 {
		n.Runbook = "/runbook/" + m[0].Entry.Anchor()
	}
}

// namesOf reads the names of the accounts in notices, by key.
func (c *Console) namesOf(ctx context.Context, q *Request, all []Notice) (map[string]string, error) {
	var keys []wxtoken.Key
	for _, n := range all {
		for _, text := range n.Keys {
			if key, err := wxtoken.ParseKey(text); err == nil && len(keys) < maxNamed {
				keys = append(keys, key)
			}
		}
	}
	rows, err := c.rowsOf(ctx, q, keys)
	names := map[string]string{}
	for _, r := range rows {
		names[r.Key.String()] = r.DisplayName()
	}
	return names, err
}

// Pager returns links to the other pages of what is over.
func (n Notices) Pager() Pager { return pager(n.query, n.Page, n.Total, n.Limit) }

// Components are the components that the form offers.
func (n Notices) Components() []string { return n.components }

// Filtered reports whether a filter is set.
func (n Notices) Filtered() bool { return n.query.Param("component")+n.query.Param("cause") != "" }

// Causes are the causes that the form offers: those of which there can be notices.
func (n Notices) Causes() (all []choice) {
	for _, c := range truth.Causes {
		if c.Severity != "" && c.Name != wxtoken.HeldNATS { // without NATS no notice can be stored
			all = append(all, choice{string(c.Name), c.What(nil)})
		}
	}
	return all
}

// NoticeAccount is an account that a notice names.
type NoticeAccount struct{ Href, DisplayName, AppID string }

// Accounts are the accounts that a notice names: the first few.
func (n Notices) Accounts(of Notice) (all []NoticeAccount) {
	for _, text := range of.Keys {
		key, err := wxtoken.ParseKey(text)
		if err != nil {
			continue
		}
		a := NoticeAccount{"/accounts/" + key.String(), cmp.Or(n.names[key.String()], key.Authorizer), key.Authorizer}
		if a.DisplayName == a.AppID {
			a.AppID = ""
		}
		all = append(all, a)
	}
	return all
}

// WhatText says what is wrong, as it can be shown: another refresher wrote it.
func (n Notice) WhatText() string { return printableLines(n.What) }

// ToDoText says what to do, as it can be shown.
func (n Notice) ToDoText() string { return printableLines(n.ToDo) }

// Urgency says how soon a person is needed.
func (n Notice) Urgency() lang.Text {
	switch n.Severity {
	case events.SeverityPage:
		return lang.T("at once", "立即处理")
	case events.SeverityTicket:
		return lang.T("today", "当天处理")
	}
	return lang.Same(printable(n.Severity))
}

// Tone is the class of its badge: that of a state with the same colour.
func (n Notice) Tone() string {
	if n.Severity == events.SeverityTicket {
		return "renewing_failed"
	}
	return "operator"
}

// Concerns says how many accounts, messages or copies the last notice was about; a zero text: only the
// component.
func (n Notice) Concerns() lang.Text { return n.countText(n.Count) }

// MostText says how many it was about at most.
func (n Notice) MostText() lang.Text { return n.countText(n.Most) }

func (n Notice) countText(count int) lang.Text {
	cause := truth.CauseOf(wxtoken.Reason(n.Cause))
	switch {
	case count == 0:
		return lang.Text{}
	case cause.Name == truth.MirrorBehind && count == 1:
		return lang.T("1 copy", "1 个只读副本")
	case cause.Name == truth.MirrorBehind:
		return lang.T("%s copies", "%s 个只读副本", grouped(count))
	case cause.Things && count == 1:
		return lang.T("1 message", "1 条消息")
	case cause.Things:
		return lang.T("%s messages", "%s 条消息", grouped(count))
	case cause.Accounts && count == 1:
		return lang.T("1 account", "1 个账号")
	case cause.Accounts:
		return lang.T("%s accounts", "%s 个账号", grouped(count))
	case count == 1:
		return lang.T("1 account without a valid token", "1 个账号没有有效令牌")
	}
	return lang.T("%s accounts without a valid token", "%s 个账号没有有效令牌", grouped(count))
}

// Others is the number of accounts that it is about but does not name.
func (n Notice) Others() int {
	if len(n.Keys) == 0 {
		return 0
	}
	return n.Count - len(n.Keys)
}

// Href leads to the list of what it is about, as it is now.
func (n Notice) Href() string {
	cause := truth.CauseOf(wxtoken.Reason(n.Cause))
	q := url.Values{}
	if n.Component != "" {
		q.Set("component", n.Component)
	}
	switch {
	case cause.Name == truth.DeadLetters:
		q.Set("show", showDead)
		return "/pushes?" + q.Encode()
	case n.Component == "":
		return ""
	case cause.Name == truth.AuthorizationNeeded, cause.Name == truth.NoAPIPermission:
		q.Set("state", string(wxtoken.StateNeedsAuthorization))
	case cause.Name == truth.PermissionMissing && n.Error != nil:
		q.Set("errcode", strconv.Itoa(n.Error.Code))
	case cause.Name == truth.AccountTokenDead, n.Count > 0:
		q.Set("token", "dead")
	default:
		return "/accounts/" + wxtoken.ComponentKey(n.Component).String()
	}
	return "/accounts?" + q.Encode()
}

// ComponentHref leads to the component.
func (n Notice) ComponentHref() string {
	return "/accounts/" + wxtoken.ComponentKey(n.Component).String()
}

// Lasted is how long the problem lasted.
func (n Notice) Lasted() time.Duration { return n.OverAt.Sub(n.Since) }

// writeNotices writes the page for a terminal.
func writeNotices(out *bytes.Buffer, n Notices, q *Request) {
	section := func(head string, all []Notice, last lang.Text, lastOf func(Notice) string) {
		fmt.Fprintf(out, "\n%s\n", head)
		t := table{head: []string{
			q.Say(lang.T("since", "开始")), q.Say(last), q.Say(lang.T("component", "第三方平台")),
			q.Say(lang.T("cause", "原因")), q.Say(lang.T("concerns", "涉及")),
		}}
		for _, one := range all {
			t.add([]string{
				one.Since.Format(time.DateTime) + " UTC", lastOf(one), cmp.Or(one.Component, "-"),
				printable(one.Cause), cmp.Or(q.Say(one.MostText()), "-"),
			}, one.WhatText(), toDoLine(one))
		}
		t.write(out)
	}
	fmt.Fprintln(out, n.Sentence)
	if len(n.Standing) > 0 {
		section(q.Say(lang.T("Needs a person now", "需要处理")), n.Standing, lang.T("urgency", "紧急程度"), func(one Notice) string { return q.Say(one.Urgency()) })
	}
	if len(n.Over) > 0 {
		section(fmt.Sprintf("%s (%d)", q.Say(lang.T("Over", "已恢复")), n.Total), n.Over, lang.T("over", "恢复"), func(one Notice) string { return one.OverAt.Format(time.DateTime) + " UTC" })
	}
}

// toDoLine says what to do about a notice that is not over.
func toDoLine(n Notice) string {
	if !n.OverAt.IsZero() || n.ToDo == "" {
		return ""
	}
	return "-> " + n.ToDoText()
}
