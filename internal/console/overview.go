package console

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
	"wxtoken/internal/truth"
)

// overviewPage is the first page that a person sees.
func (c *Console) overviewPage() Page {
	return Page{
		Path: "/{$}", Name: "overview", Nav: lang.T("Overview", "概览"), Title: lang.T("Overview", "概览"),
		Data: func(ctx context.Context, q *Request) (any, error) { return c.overview(ctx, q) },
		Text: func(out *bytes.Buffer, data any, q *Request) { writeOverview(out, data.(Overview), q) },
	}
}

// The verdicts of an overview.
const (
	verdictOK      = "ok"      // every authorized account can call WeChat
	verdictRisk    = "at_risk" // they can now, but not for long unless something is done
	verdictBroken  = "broken"  // some can't
	verdictLoading = "loading" // not known yet
	verdictAway    = "away"    // NATS does not answer
	verdictEmpty   = "empty"   // there is no account
)

// Overview is what the first page shows.
type Overview struct {
	At         time.Time       `json:"at"`
	Verdict    string          `json:"verdict"`
	Sentence   string          `json:"sentence"`       // in the language of the request
	More       []string        `json:"more,omitempty"` // further sentences, the gravest first
	Loading    *loading        `json:"loading,omitempty"`
	Tally      *Tally          `json:"accounts"`
	Components []ComponentView `json:"components"`
	LeftOut    int             `json:"components_left_out,omitempty"` // beyond the first 200
	Due        Plot            `json:"renewals_due"`
	History    []Plot          `json:"history"`
	Worst      []Worst         `json:"worst"` // what is wrong, the worst first: one key of each trouble
	Changed    []Row           `json:"changed_last"`

	listed []Row // the first accounts of the list, for a terminal
}

// ComponentView is what the overview shows of a component.
type ComponentView struct {
	Row
	Accounts *Tally    `json:"accounts"`
	APIs     []APICall `json:"apis"`                     // today's calls, as the refreshers count them
	Why      string    `json:"held_back_text,omitempty"` // in the language of the request
}

// Worst is a component in trouble, or the first of the accounts with the same trouble.
type Worst struct {
	Row
	Others int `json:"others,omitempty"` // further accounts with the same trouble

	trouble truth.Trouble
}

// OthersHref leads to all accounts with the same trouble, as far as a list can filter them.
func (w Worst) OthersHref() string {
	q := url.Values{"state": {string(w.State)}}
	if e := w.trouble.Error; e != nil {
		q.Set("errcode", strconv.Itoa(e.Code))
	}
	return "/accounts?" + q.Encode()
}

// How many components, keys that changed last, and troubles are shown at most.
const (
	maxComponents = 200
	maxChanged    = 8
	maxWorst      = 5
)

// overview makes the first page.
func (c *Console) overview(ctx context.Context, q *Request) (Overview, error) {
	all, of := c.index.tally(q.Now)
	o := Overview{
		At: q.Now, Loading: c.index.loading(), Tally: all, Components: []ComponentView{},
		Due: c.duePlot(q), History: c.historyPlots(q),
	}
	statuses := c.index.components()
	o.LeftOut = max(0, len(statuses)-maxComponents)
	var keys []wxtoken.Key
	for _, s := range statuses[:min(len(statuses), maxComponents)] {
		keys = append(keys, s.Key)
	}
	changed, troubles := c.index.changedLast(maxChanged), c.index.troubles(q.Now, maxWorst)
	var worst, listed []wxtoken.Key
	for _, t := range troubles {
		worst = append(worst, t.first)
	}
	if q.format == "text" {
		changed = nil
		listed, _ = c.index.find(filter{kind: wxtoken.KindAuthorizer, errcode: noErrcode, sort: byWorst}, q.Now, 0, defaultLimit)
	}
	rows, err := c.rowsOf(ctx, q, slices.Concat(keys, changed, worst, listed))
	if err != nil && !c.cfg.NATS.IsConnected() && len(statuses) > 0 {
		rows, err = c.rowsFromIndex(statuses[:len(keys)]), nil
		changed, worst, listed = nil, nil, nil
	}
	if err != nil {
		return o, err
	}
	for i, row := range rows[:len(keys)] {
		v := ComponentView{Row: row, Accounts: of[keys[i].Component], APIs: c.callsOf(ctx, q, keys[i].Component)}
		if v.Accounts == nil {
			v.Accounts = newTally()
		}
		if row.Held != nil {
			v.Why = q.Say(heldText(*row.Held, q.Now))
		}
		o.Components = append(o.Components, v)
	}
	rows = rows[len(keys):]
	o.Changed, rows = rows[:len(changed)], rows[len(changed):]
	o.Worst, o.listed = worstOf(o.Components, troubles[:len(worst)], rows[:len(worst)]), rows[len(worst):]
	c.judge(&o, q)
	return o, nil
}

// trouble is what is wrong with the component.
func (v ComponentView) trouble() truth.Trouble {
	return truth.Trouble{
		Cause: truth.OfComponent(v.status, !v.Valid && v.TokenSHA256 != ""), Error: v.LastError,
		Dead: v.Accounts.Dead, Accounts: v.Accounts.Serving + v.Accounts.Dead,
	}
}

// worstOf returns the components and accounts to look at first, in truth's order.
func worstOf(components []ComponentView, troubles []accountTrouble, rows []Row) []Worst {
	all := []Worst{}
	allHeld := !slices.ContainsFunc(components, func(v ComponentView) bool {
		return v.Held == nil && v.Accounts.Dead+v.Accounts.AtRisk > 0
	})
	for _, v := range components {
		// A cause without a severity is over in minutes.
		if t := v.trouble(); t.Cause != "" && truth.CauseOf(t.Cause).Severity != "" {
			all = append(all, Worst{Row: v.Row, trouble: t})
		}
	}
	for i, row := range rows {
		if cause := troubles[i].Cause; allHeld && (cause == truth.AccountTokenDead || cause == truth.RenewalFails) {
			continue // the account suffers from its component's trouble
		}
		all = append(all, Worst{Row: row, Others: troubles[i].Accounts - 1, trouble: troubles[i].Trouble})
	}
	slices.SortStableFunc(all, func(a, b Worst) int { return a.trouble.Compare(b.trouble) })
	return all[:min(len(all), maxWorst)]
}

// rowsFromIndex makes rows of components from the index, while NATS is away.
func (c *Console) rowsFromIndex(statuses []wxtoken.Status) []Row {
	rows := make([]Row, len(statuses))
	for i, s := range statuses {
		rows[i] = Row{
			Key: s.Key, State: s.State, Failures: s.Failures, LastError: s.LastError,
			Conditions: s.Conditions, TicketReceivedAt: s.TicketReceivedAt, status: s,
		}
	}
	return rows
}

// judge sets the verdict, the sentence that says it, and further sentences that say why.
func (c *Console) judge(o *Overview, q *Request) {
	t := o.Tally
	gravest := slices.SortedStableFunc(slices.Values(o.Components), func(a, b ComponentView) int {
		return a.trouble().Compare(b.trouble())
	})
	for _, component := range gravest {
		switch {
		case component.Held != nil:
			o.More = append(o.More, q.Say(lang.T("%s: renewals are held back: %s.", "%s：续期暂缓：%s。", component.Key.Component, component.Why)))
		case component.State != wxtoken.StateActive && component.State != "":
			o.More = append(o.More, q.Say(lang.T("%s: %s.", "%s：%s。", component.Key.Component, stateWord(string(component.State)))))
		case !component.Valid && component.TokenSHA256 != "":
			o.More = append(o.More, q.Say(lang.T("%s: the component's own token has expired.", "%s：第三方平台自己的令牌已过期。", component.Key.Component)))
		}
	}
	switch {
	case !c.cfg.NATS.IsConnected():
		o.Verdict, o.Sentence = verdictAway, q.Say(lang.T("NATS does not answer: the current state is unknown.", "NATS 没有应答：无法得知当前的情况。"))
	case o.Loading == nil && !c.index.alive():
		o.Verdict, o.Sentence = verdictLoading, q.Say(lang.T("The latest changes are being read again: %s accounts so far.", "正在重新读取最近的变化：目前 %s 个账号。", grouped(t.Accounts)))
	case o.Loading != nil:
		o.Verdict, o.Sentence = verdictLoading, q.Say(lang.T("Still loading: %s accounts so far.", "正在读取数据：目前 %s 个账号。", grouped(t.Accounts)))
	case t.Accounts == 0:
		o.Verdict, o.Sentence = verdictEmpty, q.Say(lang.T("No account has authorized yet.", "还没有账号授权。"))
	case t.Serving+t.Dead == 0:
		o.Verdict, o.Sentence = verdictEmpty, q.Say(cancelledSentence(t.Accounts))
	case t.Dead > 0:
		o.Verdict, o.Sentence = verdictBroken, q.Say(deadSentence(o, q.Now))
	case t.AtRisk > 0 || len(o.More) > 0:
		o.Verdict, o.Sentence = verdictRisk, q.Say(riskSentence(t, q.Now))
	default:
		o.Verdict, o.Sentence = verdictOK, q.Say(okSentence(t.Serving))
	}
	if o.Verdict == verdictBroken && t.AtRisk > 0 {
		o.More = append(o.More, q.Say(atRiskSentence(t.AtRisk)))
	}
}

// cancelledSentence says that no account is authorized any more.
func cancelledSentence(n int) lang.Text {
	if n == 1 {
		return lang.T("The one account has cancelled its authorization.", "唯一的账号已取消授权。")
	}
	return lang.T("All %s accounts have cancelled their authorization.", "全部 %s 个账号都已取消授权。", grouped(n))
}

// okSentence says that all is well.
func okSentence(n int) lang.Text {
	if n == 1 {
		return lang.T("The one account can call WeChat.", "唯一的账号可以调用微信。")
	}
	return lang.T("All %s accounts can call WeChat.", "全部 %s 个账号都可以调用微信。", grouped(n))
}

// deadSentence says how many accounts can't call WeChat, and why: what holds their components back,
// else what is wrong with the accounts themselves.
func deadSentence(o *Overview, now time.Time) lang.Text {
	n := lang.T("%s accounts have no valid token", "%s 个账号没有有效的令牌", grouped(o.Tally.Dead))
	if o.Tally.Dead == 1 {
		n = lang.T("1 account has no valid token", "1 个账号没有有效的令牌")
	}
	var why []lang.Text
	for _, component := range o.Components {
		if component.Held != nil && component.Accounts.Dead > 0 {
			if text := heldText(*component.Held, now); !slices.Contains(why, text) {
				why = append(why, text)
			}
		}
	}
	if len(why) == 0 {
		why = deadReasons(o.Tally)
	}
	return lang.T("%s: %s.", "%s：%s。", n, lang.Join(why, lang.T("; ", "；")))
}

// deadReasons says why accounts have no valid token: by WeChat's answers, else by their status.
func deadReasons(t *Tally) (why []lang.Text) {
	var codes []string
	refused := 0
	for _, code := range slices.Sorted(maps.Keys(t.Errcodes)) {
		if code > 0 || code < -1 { // some of WeChat's errcodes are negative; -1: it is busy
			refused += t.Errcodes[code]
			codes = append(codes, strconv.Itoa(code))
		}
	}
	shown := strings.Join(codes[:min(len(codes), 4)], ", ")
	switch silent := t.Errcodes[0] + t.Errcodes[-1]; t.Dead {
	case refused:
		return []lang.Text{lang.T("WeChat refused the renewal (errcode %s)", "微信拒绝了续期（errcode %s）", shown)}
	case silent:
		return []lang.Text{lang.T("WeChat was busy or did not answer", "微信繁忙或没有应答")}
	}
	if refused > 0 {
		why = append(why, lang.T("WeChat refused the renewal of %s (errcode %s)", "微信拒绝了 %s 个的续期（errcode %s）", grouped(refused), shown))
	}
	if silent := t.Errcodes[0] + t.Errcodes[-1]; silent > 0 {
		why = append(why, lang.T("WeChat was busy or did not answer for %s", "微信繁忙或没有应答（%s 个）", grouped(silent)))
	}
	for _, reason := range slices.Sorted(maps.Keys(t.Reasons)) {
		word := reasonWord(reason)
		if reason == "" || reason == wxtoken.ReasonRenewed {
			word = reasonWord(wxtoken.ReasonExpired)
		}
		if !slices.Contains(why, word) {
			why = append(why, word)
		}
	}
	return why[:min(len(why), 3)]
}

// riskSentence says that all is well now, but not for long.
func riskSentence(t *Tally, now time.Time) lang.Text {
	can := lang.T("All %s accounts can call WeChat now", "全部 %s 个账号目前都可以调用微信", grouped(t.Serving))
	if t.Serving == 1 {
		can = lang.T("The one account can call WeChat now", "唯一的账号目前可以调用微信")
	}
	if t.AtRisk == 0 {
		return lang.T("%s, but not all is well.", "%s，但存在问题。", can)
	}
	not := lang.T("%s are not being renewed", "有 %s 个没有续期", grouped(t.AtRisk))
	if t.AtRisk == 1 {
		not = lang.T("1 is not being renewed", "有 1 个没有续期")
	}
	return lang.T("%s, but %s: the first token expires %s.", "%s，但%s：第一个令牌 %s到期。", can, not, apart(t.FirstDies, now))
}

// atRiskSentence says how many accounts, beside those without a valid token, are not renewed.
func atRiskSentence(n int) lang.Text {
	if n == 1 {
		return lang.T("1 more can still call WeChat, but is not renewed on time.", "另有 1 个目前可以调用微信，但没有按时续期。")
	}
	return lang.T("%s more can still call WeChat, but are not renewed on time.", "另有 %s 个目前可以调用微信，但没有按时续期。", grouped(n))
}

// changedLast returns the n keys whose condition Ready changed last, the newest first.
func (x *index) changedLast(n int) []wxtoken.Key {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var last []*row // the newest, in order
	for i := range x.rows {
		r := &x.rows[i]
		if r.since == 0 || len(last) == n && r.since <= last[n-1].since {
			continue
		}
		at, _ := slices.BinarySearchFunc(last, r, func(a, b *row) int {
			return cmp.Or(cmp.Compare(b.since, a.since), cmp.Compare(a.appid, b.appid))
		})
		last = slices.Insert(last, at, r)
		last = last[:min(len(last), n)]
	}
	keys := make([]wxtoken.Key, len(last))
	for i, r := range last {
		keys[i] = x.key(r)
	}
	return keys
}
