package console

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/login"
)

const (
	// auditWindow is how far back the page looks by default.
	auditWindow = 30 * 24 * time.Hour
	// maxRecords bounds the records that a page reads: of more, the oldest are left out.
	maxRecords = 20_000
	// journalBatch is how many are fetched at once, and journalIdle how long the server keeps the
	// consumer of a reader that has gone.
	journalBatch = 1000
	journalIdle  = 10 * time.Second
)

// actionWords name the actions that leave a record.
var actionWords = map[string]lang.Text{
	events.ActionRenew:     lang.T("renew", "续期"),
	events.ActionReconcile: lang.T("ask WeChat", "向微信核实"),
	events.ActionClear:     lang.T("clear quota", "清零额度"),
	events.ActionLink:      lang.T("make a link", "生成链接"),
	events.ActionReveal:    lang.T("show a token", "显示令牌"),
	events.ActionReplay:    lang.T("replay a dead letter", "重放死信"),
	events.ActionDiscard:   lang.T("discard a dead letter", "丢弃死信"),
	events.ActionLogin:     lang.T("log in", "登录"),
	events.ActionLogout:    lang.T("log out", "退出"),
}

// outcomeWords are the outcomes of actions, in a word or two.
var outcomeWords = map[string]lang.Text{
	events.OutcomeRefused:                 lang.T("refused", "被拒绝"),
	events.OutcomeDone:                    lang.T("done", "已完成"),
	events.OutcomeRevealed:                lang.T("shown", "已显示"),
	string(wxtoken.OutcomeRenewing):       lang.T("being renewed", "正在续期"),
	string(wxtoken.OutcomeAlreadyRenewed): lang.T("renewed already", "已是新令牌"),
	string(wxtoken.OutcomeTooSoon):        lang.T("too soon", "过于频繁"),
	string(wxtoken.OutcomeUnknownKey):     lang.T("unknown key", "没有这个 key"),
	events.ReconcileListed:                lang.T("WeChat's list is read", "读取微信的列表"),
	events.ReconcileUnchanged:             lang.T("unchanged", "没有变化"),
	events.ReconcileRecovered:             lang.T("another refresh token came", "换回了刷新令牌"),
	events.ReconcileCancelled:             lang.T("cancelled at WeChat", "微信侧已取消授权"),
	events.OutcomeReplayed:                lang.T("tried again", "已重放"),
	events.OutcomeDiscarded:               lang.T("discarded", "已丢弃"),
}

// auditPage shows who did what.
func (c *Console) auditPage() Page {
	return Page{
		Path: "/audit", Name: "audit", Nav: lang.T("Audit", "操作记录"), Title: lang.T("Audit", "操作记录"),
		Params: []string{"q", "action", "from", "to", "page", "limit"},
		Data:   func(ctx context.Context, q *Request) (any, error) { return c.audit(ctx, q) },
		Text:   func(out *bytes.Buffer, data any, q *Request) { writeAudit(out, data.(Audit), q) },
		CSV:    func(out io.Writer, data any, _ *Request) error { return writeAuditCSV(out, data.(Audit)) },
	}
}

// Audit is what the page shows.
type Audit struct {
	At      time.Time  `json:"at"`
	Total   int        `json:"total"`
	More    bool       `json:"older_left_out,omitempty"` // there are more than maxRecords
	Page    int        `json:"page"`                     // from 1
	Limit   int        `json:"limit"`
	Records []Recorded `json:"records"` // the newest first

	query *Request
	wants auditFilter
}

// Recorded is one record.
type Recorded struct{ events.Audit }

// auditFilter says which records are asked for.
type auditFilter struct {
	words    []string
	action   string
	from, to time.Time // to is the first moment after the period
}

func (f auditFilter) matches(r Recorded) bool {
	if f.action != "" && r.Action != f.action || r.At.Before(f.from) || !f.to.IsZero() && !r.At.Before(f.to) {
		return false
	}
	text := strings.ToLower(strings.Join([]string{r.Actor, r.Role, r.By, r.Inbox, r.From, r.Component, r.Key, r.Params(), r.Detail, r.DetailZH}, "\n"))
	return !slices.ContainsFunc(f.words, func(word string) bool { return !strings.Contains(text, word) })
}

func readAuditFilter(q *Request) (f auditFilter, page, limit int, err error) {
	get := func(name string) string { return strings.TrimSpace(q.Query.Get(name)) }
	f = auditFilter{words: strings.Fields(strings.ToLower(get("q"))), action: get("action"), from: q.Now.Add(-auditWindow)}
	if _, known := actionWords[f.action]; f.action != "" && !known {
		return f, 0, 0, badRequest(lang.T("action: want one of %s", "action：可以是 %s", strings.Join(slices.Sorted(maps.Keys(actionWords)), ", ")))
	}
	if len(get("q")) > maxQuery {
		return f, 0, 0, badRequest(lang.T("q: %d bytes at most", "q：最多 %d 字节", maxQuery))
	}
	for name, at := range map[string]*time.Time{"from": &f.from, "to": &f.to} {
		text := get(name)
		if text == "" {
			continue
		}
		day, dayErr := time.Parse(time.DateOnly, text)
		moment, err := time.Parse(time.RFC3339, text)
		switch {
		case dayErr == nil && name == "to":
			*at = day.AddDate(0, 0, 1) // up to the end of that day
		case dayErr == nil:
			*at = day
		case err == nil:
			*at = moment
		default:
			return f, 0, 0, badRequest(lang.T("%s: want a day such as 2026-11-28, or a time such as 2026-11-28T08:00:00Z", "%s：请给出日期（如 2026-11-28）或时间（如 2026-11-28T08:00:00Z）", name))
		}
	}
	most, otherwise := maxLimit, defaultLimit
	if q.format == "csv" {
		most, otherwise = maxRecords, maxRecords
	}
	page, limit, err = pageAndLimit(q, most, otherwise)
	return f, page, limit, err
}

// pageAndLimit reads which part of a list is asked for.
func pageAndLimit(q *Request, most, otherwise int) (page, limit int, err error) {
	page, pageErr := strconv.Atoi(cmp.Or(strings.TrimSpace(q.Param("page")), "1"))
	limit, limitErr := strconv.Atoi(cmp.Or(strings.TrimSpace(q.Param("limit")), strconv.Itoa(otherwise)))
	if pageErr != nil || limitErr != nil || page < 1 || page > maxRecords || limit < 1 || limit > most {
		return 0, 0, badRequest(lang.T("page and limit: want numbers from 1, limit up to %d", "page 和 limit：应为从 1 开始的数字，limit 最大 %d", most))
	}
	return page, limit, nil
}

func (c *Console) audit(ctx context.Context, q *Request) (Audit, error) {
	f, page, limit, err := readAuditFilter(q)
	if err != nil {
		return Audit{}, err
	}
	all, more, err := c.records(ctx, f)
	if err != nil {
		return Audit{}, err
	}
	a := Audit{At: q.Now, Total: len(all), More: more, Page: page, Limit: limit, Records: []Recorded{}, query: q, wants: f}
	slices.Reverse(all)
	if from := (page - 1) * limit; from < len(all) {
		a.Records = all[from:min(from+limit, len(all))]
	}
	return a, nil
}

// records reads the records that match, the oldest first. more: there were more than maxRecords, and
// the oldest are left out.
func (c *Console) records(ctx context.Context, f auditFilter) (all []Recorded, more bool, err error) {
	subject := events.JournalFilter(events.JournalAudit)
	if f.action != "" {
		subject = events.JournalSubject(events.JournalAudit, "*", f.action)
	}
	err = c.journal(ctx, subject, f.from, func(m jetstream.Msg) {
		var r Recorded
		if json.Unmarshal(m.Data(), &r.Audit) != nil || !f.matches(r) {
			return
		}
		if all = append(all, r); len(all) > maxRecords {
			all, more = all[1:], true
		}
	})
	return all, more, err
}

// journal passes the messages of JOURNAL on a subject since a time to take, the oldest first.
func (c *Console) journal(ctx context.Context, subject string, from time.Time, take func(jetstream.Msg)) error {
	consumer, err := c.js.CreateConsumer(ctx, events.StreamJournal, jetstream.ConsumerConfig{
		FilterSubject: subject, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &from,
		AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: journalIdle, MemoryStorage: true, Replicas: 1,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", events.StreamJournal, err)
	}
	for left, came := consumer.CachedInfo().NumPending, uint64(0); left > 0; {
		batch, err := consumer.FetchNoWait(journalBatch)
		if err != nil {
			return fmt.Errorf("read %s: %w", events.StreamJournal, err)
		}
		got := uint64(0)
		for m := range batch.Messages() {
			got++
			take(m)
		}
		came += got
		switch {
		case batch.Error() != nil:
			return fmt.Errorf("read %s: %w", events.StreamJournal, batch.Error())
		case ctx.Err() != nil:
			return &Fault{http.StatusServiceUnavailable, lang.T("too many records to read in time: choose a shorter period", "记录过多，来不及读取：请缩短时间范围")}
		case got == 0:
			if left, err = leftOver(ctx, consumer, came); err != nil {
				return fmt.Errorf("read %s: %w", events.StreamJournal, err)
			}
		default:
			left -= min(got, left)
		}
	}
	return nil
}

// leftOver returns how many messages are still to come from a consumer of which so many came. What NATS
// sent, but not within the second that FetchNoWait waits, is lost: a page without it would be an untruth.
func leftOver(ctx context.Context, consumer jetstream.Consumer, came uint64) (uint64, error) {
	info, err := consumer.Info(ctx)
	if err != nil {
		return 0, err
	}
	if sent := info.Delivered.Consumer; sent > came {
		return 0, fmt.Errorf("%d of %d messages did not come in time", sent-came, sent)
	}
	return info.NumPending, nil
}

// Pager returns links to the other pages.
func (a Audit) Pager() Pager { return pager(a.query, a.Page, a.Total, a.Limit) }

// FromDay is the first day of the period, for the form.
func (a Audit) FromDay() string { return a.wants.from.UTC().Format(time.DateOnly) }

// ToDay is the last day of the period, "" for none.
func (a Audit) ToDay() string {
	if a.wants.to.IsZero() {
		return ""
	}
	return a.wants.to.Add(-time.Nanosecond).UTC().Format(time.DateOnly)
}

// actionChoice is an action that the form offers.
type actionChoice struct {
	Name string
	Word lang.Text
}

// Actions are the actions that leave a record.
func (a Audit) Actions() (all []actionChoice) {
	for _, name := range slices.Sorted(maps.Keys(actionWords)) {
		all = append(all, actionChoice{name, actionWords[name]})
	}
	return all
}

// Who says who did it. A name that came on NATS is a claim, and marked as one.
func (r Recorded) Who(q *Request) string {
	name := printable(r.Actor)
	switch {
	case r.By == events.ByConsole && name == "":
		return q.Say(lang.T("unknown, from %s", "未知，来自 %s", printable(r.From)))
	case r.By == events.ByConsole:
		return name + " (" + q.Say(roleWord(login.Role(r.Role))) + ")"
	case name == "":
		return q.Say(lang.T("a user of NATS (%s)", "NATS 用户（%s）", printable(r.Inbox)))
	}
	return q.Say(lang.T("a user of NATS (%s), as %s", "NATS 用户（%s），自称 %s", printable(r.Inbox), name))
}

// What is the action in words.
func (r Recorded) What(q *Request) string {
	if word, ok := actionWords[r.Action]; ok {
		return q.Say(word)
	}
	return printable(r.Action)
}

// OfWhat is the target: the key, else the component, else the address.
func (r Recorded) OfWhat() string { return printable(cmp.Or(r.Key, r.Component, r.From)) }

// Href leads to the account.
func (r Recorded) Href() string {
	if _, err := wxtoken.ParseKey(r.Key); err != nil {
		return ""
	}
	return "/accounts/" + url.PathEscape(r.Key)
}

// Params are the parameters, by name.
func (r Recorded) Params() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r.Parameters)) {
		value := r.Parameters[name]
		if number, ok := value.(float64); ok {
			value = strconv.FormatFloat(number, 'f', -1, 64)
		}
		parts = append(parts, printable(fmt.Sprintf("%s=%v", name, value)))
	}
	return strings.Join(parts, " ")
}

// Refused reports whether the action was refused.
func (r Recorded) Refused() bool { return r.Outcome == events.OutcomeRefused }

// OutcomeText is the outcome in words.
func (r Recorded) OutcomeText(q *Request) string {
	if word, ok := outcomeWords[r.Outcome]; ok {
		return q.Say(word)
	}
	return printable(r.Outcome) // of a later refresher
}

// DetailText says why it was refused.
func (r Recorded) DetailText(q *Request) string {
	return printable(q.Say(r.Why()))
}

func writeAudit(out *bytes.Buffer, a Audit, q *Request) {
	t := table{head: []string{
		q.Say(lang.T("when", "时间")), q.Say(lang.T("who", "谁")), q.Say(lang.T("what", "操作")),
		q.Say(lang.T("target", "对象")), q.Say(lang.T("outcome", "结果")),
	}}
	for _, r := range a.Records {
		note := ""
		if r.Refused() {
			note = strings.TrimSpace(fmt.Sprint(r.Status, " ", r.DetailText(q)))
		}
		t.add([]string{
			r.At.UTC().Format(time.DateTime), r.Who(q), r.What(q), strings.TrimSpace(r.OfWhat() + " " + r.Params()), r.OutcomeText(q),
		}, note)
	}
	t.write(out)
}

func writeAuditCSV(out io.Writer, a Audit) error {
	rows := [][]string{{"at", "action", "actor", "role", "by", "inbox", "from", "component", "key", "parameters", "outcome", "status", "detail"}}
	for _, r := range a.Records {
		status := ""
		if r.Status != 0 {
			status = strconv.Itoa(r.Status)
		}
		rows = append(rows, []string{stamp(r.At), r.Action, r.Actor, r.Role, r.By, r.Inbox, r.From, r.Component, r.Key, r.Params(), r.Outcome, status, r.Detail})
	}
	return writeCells(out, rows)
}
