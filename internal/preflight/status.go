package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/truth"
)

const (
	ticketLate  = 25 * time.Minute // WeChat pushes one every 10 minutes
	maxStatuses = 2000             // statuses that are read
	maxNamed    = 5                // accounts that a line names
	readsAtOnce = 16
)

// statuses checks the statuses that the refreshers wrote: tickets, refusals, permissions.
func (c *Checker) statuses(ctx context.Context) []Line {
	if !c.Statuses {
		return nil
	}
	const name = "tickets"
	if c.NATS == nil || !c.NATS.IsConnected() {
		return []Line{skip(name, lang.T("NATS does not answer", "NATS 没有应答"))}
	}
	stream, err := c.js.Stream(ctx, events.StreamStatus)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return []Line{skip(name, lang.T("no refresher has run yet", "还没有运行过 refresher"))}
	}
	if err != nil {
		return []Line{skip(name, lang.T("the statuses can't be read%s", "读不到状态%s", because(err)))}
	}
	var lines []Line
	for _, component := range c.components() {
		status, err := read(ctx, stream, wxtoken.ComponentKey(component.AppID))
		if err != nil {
			lines = append(lines, skip(name+" "+component.AppID, lang.T("the status can't be read%s",
				"读不到状态%s", because(err))))
			continue
		}
		lines = append(lines, c.ticketLine(name+" "+component.AppID, status), renewalsLine("renewals "+component.AppID, status))
		if unopened := unopenedEvents(status); unopened != "" {
			lines = append(lines, Line{Fail, "seal key " + component.AppID, lang.Same(unopened),
				truth.CauseOf(truth.SealKeyUnknown).Do(nil)})
		} else if status != nil && status.State == wxtoken.StateOperator && status.LastError != nil && status.LastError.Code != 0 {
			last := status.LastError
			lines = append(lines, Line{Fail, "component " + component.AppID, lang.T("state operator: %s was answered errcode %d: %s (at %s)",
				"状态 operator：%s 得到 errcode %d：%s（%s）", last.API, last.Code, last.Message, last.At.UTC().Format(time.RFC3339)),
				truth.Refusal(last).Remedy()})
		}
	}
	return append(lines, c.permissions(ctx, stream)...)
}

// unopenedEvents says why a component's events can't be opened, "" if they can.
func unopenedEvents(s *wxtoken.Status) string {
	if s == nil {
		return ""
	}
	for _, condition := range s.Conditions {
		if condition.Type == wxtoken.ConditionEventsOpened && condition.Status == "False" {
			return condition.Message
		}
	}
	return ""
}

// ticketLine judges the age of a component's ticket.
func (c *Checker) ticketLine(name string, status *wxtoken.Status) Line {
	remedy := truth.CauseOf(wxtoken.HeldNoTicket).Do(nil)
	switch {
	case status == nil:
		return skip(name, lang.T("no refresher has run for it yet", "还没有 refresher 处理过它"))
	case status.TicketReceivedAt == nil:
		return Line{Fail, name, lang.T("none received yet; WeChat pushes one every 10 minutes",
			"还没有收到过；微信每 10 分钟推送一次"),
			lang.T("wait 10 minutes once WeChat can reach ingest, then %s",
				"ingest 可以访问后等 10 分钟，然后%s", remedy)}
	}
	age := c.Now().Sub(*status.TicketReceivedAt).Round(time.Second)
	if age > ticketLate {
		return Line{Fail, name, lang.T("the last one came %s ago; WeChat pushes one every 10 minutes",
			"最近一次在 %s 前；微信每 10 分钟推送一次", age), remedy}
	}
	return ok(name, lang.T("the last one came %s ago", "最近一次在 %s 前", age))
}

// nothingHeld says that renewals are not held back.
func nothingHeld() lang.Text { return lang.T("nothing holds them back", "没有暂缓") }

// renewalsLine says whether the renewals of a component are held back, and why.
func renewalsLine(name string, status *wxtoken.Status) Line {
	if status == nil {
		return skip(name, lang.T("no refresher has run for it yet", "还没有 refresher 处理过它"))
	}
	held, ok := status.Held()
	if !ok {
		return Line{OK, name, nothingHeld(), lang.Text{}}
	}
	why := truth.CauseOf(held.Reason).What(nil).ZH // the message is English; of it WeChat's words stay
	if strings.Contains(held.Message, "errcode") {
		why += "：" + held.Message
	}
	saw := lang.T("held back since %s: %s: %s",
		"自 %s 起暂缓：%s：%s", held.Since.UTC().Format(time.RFC3339), held.Reason, lang.Given(held.Message, why))
	if at := held.Until; at != nil && truth.Ends(held.Reason) {
		saw = lang.T("%s (until %s)", "%s（至 %s）", saw, at.UTC().Format(time.RFC3339))
	} else if at != nil {
		saw = lang.T("%s (next try at %s)", "%s（%s 再试）", saw, at.UTC().Format(time.RFC3339))
	}
	mark, cause := Fail, truth.CauseOf(held.Reason)
	if cause.Severity == "" {
		mark = Warn // it ends by itself, in minutes
	}
	return Line{mark, name, saw, cause.Do(status.LastError)}
}

// permissions checks for accounts that can't be renewed, lack permissions, or have an expired token.
func (c *Checker) permissions(ctx context.Context, stream jetstream.Stream) []Line {
	const name = "permissions"
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(events.AllStatuses))
	if err != nil {
		return []Line{skip(name, lang.T("the statuses can't be listed%s", "列不出状态%s", because(err)))}
	}
	var keys []wxtoken.Key
	for subject := range info.State.Subjects {
		if key, ok := events.StatusKey(subject); ok && key.Kind == wxtoken.KindAuthorizer {
			keys = append(keys, key)
		}
	}
	all := len(keys)
	slices.SortFunc(keys, func(a, b wxtoken.Key) int { return strings.Compare(a.String(), b.String()) })
	keys = keys[:min(all, maxStatuses)]
	why := make([]lack, len(keys))
	expired := make([]bool, len(keys))
	tokens, noTokens := c.js.Stream(ctx, events.StreamTokens)
	unread := 0
	var fault error // of one of those that could not be read
	var working errgroup.Group
	working.SetLimit(readsAtOnce)
	var mu sync.Mutex
	for i, key := range keys {
		working.Go(func() error {
			status, err := read(ctx, stream, key)
			if why[i] = lacking(status); err == nil && needsLook(status) {
				if err = noTokens; err == nil {
					expired[i], err = c.tokenExpired(ctx, tokens, key)
				}
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				unread, fault = unread+1, err
			}
			return nil
		})
	}
	_ = working.Wait()
	if unread > 0 && unread == len(keys) {
		why := lang.T("the statuses and tokens can't be read%s", "读不到状态和令牌%s", because(fault))
		return []Line{skip(name, why), skip("accounts", why)}
	}
	looked := lang.T("%d accounts", "%d 个授权方", all)
	if len(keys) < all || unread > 0 {
		looked = lang.T("%d of %d accounts checked", "检查了 %d 个授权方，共 %d 个", len(keys)-unread, all)
	}
	var lacks, remedies, without []lang.Text
	for _, t := range troubles(why) {
		remedies = append(remedies, truth.CauseOf(t.Cause).Do(nil))
		for i, key := range keys {
			if w := why[i]; w.cause == t.Cause {
				lacks = append(lacks, lang.T("%s (%s)", "%s（%s）", key, w.what))
			}
		}
	}
	remedies = slices.Compact(remedies) // two causes share one
	for i, key := range keys {
		if expired[i] {
			without = append(without, lang.Same(key.String()))
		}
	}
	lines := []Line{
		ok(name, lang.T("%s, none lacks a permission", "%s，都不缺权限", looked)),
		ok("accounts", lang.T("%s, no token has expired", "%s，令牌都没有过期", looked)),
	}
	if n := len(lacks); n > 0 {
		lines[0] = Line{Warn, name, lang.T("%s, %d lack something: %s",
			"%s，%d 个缺少授权或权限：%s", looked, n, few(lacks)), lang.Join(remedies, lang.T("; ", "；"))}
	}
	if n := len(without); n > 0 {
		lines[1] = Line{Fail, "accounts", lang.T("%s, tokens expired for %d: %s", "%s，%d 个的令牌已过期：%s", looked, n, few(without)), truth.CauseOf(truth.AccountTokenDead).Do(nil)}
	}
	return lines
}

// troubles counts what accounts lack, in truth's order.
func troubles(why []lack) (all []truth.Trouble) {
	counts := map[wxtoken.Reason]int{}
	for _, w := range why {
		counts[w.cause]++
	}
	delete(counts, "")
	for cause, n := range counts {
		all = append(all, truth.Trouble{Cause: cause, Accounts: n})
	}
	slices.SortFunc(all, truth.Trouble.Compare)
	return all
}

// few lists the first maxNamed of many, and how many more there are.
func few(all []lang.Text) lang.Text {
	comma := lang.T(", ", "、")
	if more := len(all) - maxNamed; more > 0 {
		return lang.Join(append(all[:maxNamed:maxNamed], lang.T("and %d more", "另有 %d 个", more)), comma)
	}
	return lang.Join(all, comma)
}

// needsLook reports whether an account should have a valid token and may have none. The status alone does not tell: a
// renewal that failed after the token expired says only that it failed.
func needsLook(s *wxtoken.Status) bool {
	switch {
	case s == nil:
		return false
	case s.State == wxtoken.StateRevoked || s.State == wxtoken.StateNeedsAuthorization:
		return false // it needs the merchant, and counts among those that lack something
	case s.State == wxtoken.StateActive && !account.IsFalse(*s, wxtoken.ConditionReady):
		return false // the refreshers note within seconds that a token has expired
	}
	return true
}

// tokenExpired reports whether an account has no valid token.
func (c *Checker) tokenExpired(ctx context.Context, tokens jetstream.Stream, key wxtoken.Key) (bool, error) {
	m, err := tokens.GetLastMsgForSubject(ctx, events.TokenSubject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	var t wxtoken.Token
	return json.Unmarshal(m.Data, &t) == nil && !c.Now().Before(t.ExpiresAt), nil
}

// lack is what an account lacks; the zero lack is nothing.
type lack struct {
	cause wxtoken.Reason
	what  lang.Text
}

// lacking returns what an account lacks, by its status.
func lacking(s *wxtoken.Status) (l lack) {
	if s == nil {
		return l
	}
	ready := wxtoken.Reason("")
	for _, condition := range s.Conditions {
		if condition.Type == wxtoken.ConditionReady && condition.Status == "False" {
			ready = condition.Reason
		}
	}
	switch cause := truth.OfAccount(s.State, ready, s.LastError, false); cause {
	case truth.NoAPIPermission:
		return lack{cause, lang.T("no API permission", "没有接口权限")}
	case truth.AuthorizationNeeded:
		return lack{cause, lang.Same(string(s.State))}
	case truth.PermissionMissing:
		return lack{cause, lang.T("errcode %d on %s", "得到 errcode %d：%s", s.LastError.Code, s.LastError.API)}
	}
	return l
}

// read reads a status; nil if there is none.
func read(ctx context.Context, stream jetstream.Stream, key wxtoken.Key) (*wxtoken.Status, error) {
	m, err := stream.GetLastMsgForSubject(ctx, events.StatusSubject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s wxtoken.Status
	if json.Unmarshal(m.Data, &s) != nil {
		return nil, nil // the next renewal writes it anew
	}
	return &s, nil
}

// joined lists names.
func joined(names []string) lang.Text {
	if len(names) == 0 {
		return lang.T("none", "无")
	}
	return lang.Same(strings.Join(names, ", "))
}
