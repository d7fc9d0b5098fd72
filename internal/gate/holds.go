package gate

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/truth"
	"wxtoken/internal/wechat"
)

// The list of reasons has three sources:
//
//   - what one process met: a refusal, no answer. It is in Gate.own, and the others see it in the shared record of the
//     calls, so that they agree about the status, whichever of them writes it. It lasts until this process gets another
//     answer to that call, not until the next call is made.
//   - what all share by itself: the day's quota.
//   - what the component's record and token tell: no ticket, a dead token.

const (
	// holdLasts is how long a reason counts that was not seen again, by the process that met it or
	// because that process is gone. A call that is refused is tried again once a minute.
	holdLasts = 3 * time.Minute
	// shareAgain is how often a reason that lasts is shared again.
	shareAgain = time.Minute
	// TicketLife is how long a ticket works ("component_verify_ticket").
	TicketLife = 12 * time.Hour
)

// Reason is one of the things that hold a component back.
type Reason struct {
	Name  wxtoken.Reason // wxtoken.Held...: in the condition Renewing, and the label of the metric
	State wxtoken.State  // of the component because of it; "" leaves it as it is
}

// Reasons are all of them, the gravest first.
var Reasons = []Reason{
	{wxtoken.HeldNATS, wxtoken.StateRenewingFailed},
	{wxtoken.HeldNoTicket, wxtoken.StateWaitingForTicket},
	{wxtoken.HeldRefused, wxtoken.StateOperator},
	{wxtoken.HeldEmptyAnswers, wxtoken.StateOperator},
	{wxtoken.HeldQuota, wxtoken.StateOperator},
	{wxtoken.HeldDoubted, wxtoken.StateOperator},
	{wxtoken.HeldAway, wxtoken.StateRenewingFailed},
	{wxtoken.HeldTokenRefused, wxtoken.StateRenewingFailed},
	{wxtoken.HeldTokenDead, wxtoken.StateRenewingFailed},
	{wxtoken.HeldListFirst, ""},
	{wxtoken.HeldMinuteLimit, ""},
}

// gravity is the place of a reason among Reasons; -1 for one of a newer release, whose process
// shares its record with this one.
func gravity(h store.Hold) int {
	return slices.IndexFunc(Reasons, func(r Reason) bool { return r.Name == h.Reason })
}

// State returns the state of a component because of a hold; "" if it leaves it as it is.
func State(h store.Hold) wxtoken.State {
	if i := gravity(h); i >= 0 {
		return Reasons[i].State
	}
	return ""
}

// holdKey names a hold in Gate.own.
func holdKey(reason wxtoken.Reason, api wechat.API) string { return string(reason) + "/" + string(api) }

// begin notes that calls are held back.
func (g *Gate) begin(api wechat.API, h store.Hold) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold(api, h)
}

// hold is begin for a caller that holds g.mu.
func (g *Gate) hold(api wechat.API, h store.Hold) {
	h.API, h.Until, h.SeenAt = string(api), h.Until.UTC(), h.SeenAt.UTC()
	g.own[holdKey(h.Reason, api)] = h
}

// end notes that calls are not held back for that reason any more.
func (g *Gate) end(reason wxtoken.Reason, api wechat.API) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.own, holdKey(reason, api))
}

// reasons returns the keys of what this process met, in order.
func (g *Gate) reasons() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(g.own)), " ")
}

// Holds returns what holds the component back, the gravest first; none if nothing does.
func (g *Gate) Holds() []store.Hold {
	now := g.p.Now()
	all := g.met(now)
	q := g.Shared()
	for api, until := range q.Paused {
		if !kinds[wechat.API(api)].aside && until.After(now) {
			h := store.Hold{Reason: wxtoken.HeldQuota, API: api, Until: until, Message: quotaIsGone.EN}
			if e := q.QuotaError; e != nil && e.API == api {
				h.Error = e
			}
			all[holdKey(wxtoken.HeldQuota, wechat.API(api))] = h
		}
	}
	if token, _ := g.componentToken(); !token.Value.IsZero() {
		// Some refresher got a token since: whatever kept this one from it is over, although it did
		// not ask again.
		maps.DeleteFunc(all, func(_ string, h store.Hold) bool {
			return h.API == string(wechat.APIComponentToken) && h.Reason != wxtoken.HeldQuota && token.ObtainedAt.After(h.SeenAt)
		})
	}
	out := append(slices.Collect(maps.Values(all)), g.known(now)...)
	slices.SortFunc(out, func(a, b store.Hold) int { return cmp.Or(gravity(a)-gravity(b), cmp.Compare(a.API, b.API)) })
	return out
}

// met returns what processes met, this one and the others. What this one met itself is the newer
// news: the record says what it was a moment ago, so its own entries there are passed over.
func (g *Gate) met(now time.Time) map[string]store.Hold {
	all := map[string]store.Hold{}
	for by, h := range g.Shared().Held {
		if !strings.HasPrefix(by, g.p.ID+"/") && lasts(h, now) {
			_, key, _ := strings.Cut(by, "/")
			all[key] = h
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, h := range g.own {
		if h.Reason == wxtoken.HeldQuota && now.Sub(h.SeenAt) > quotaBridge {
			continue // by now all see it in Paused, or it was cleared
		}
		if lasts(h, now) {
			all[key] = h
		}
	}
	return all
}

// lasts reports whether a hold still counts.
func lasts(h store.Hold, now time.Time) bool {
	return now.Sub(h.SeenAt) < holdLasts || h.Until.Add(holdLasts).After(now) && !h.Until.IsZero()
}

// known returns what the component's record and token tell, and what this process knows by itself.
func (g *Gate) known(now time.Time) (out []store.Hold) {
	view := g.p.View()
	if view == nil {
		return nil
	}
	if h, ok := g.tokenHold(view, now); ok {
		out = append(out, h)
	}
	if !g.Believes() {
		out = append(out, store.Hold{Reason: wxtoken.HeldDoubted, Message: account.ManyRefused})
	}
	g.mu.Lock()
	waiting := g.waiting
	g.mu.Unlock()
	if !waiting.IsZero() {
		out = append(out, store.Hold{Reason: wxtoken.HeldListFirst, API: string(wechat.APIAuthorizerToken),
			Message: "tokens are dead for longer than they lived: WeChat's list is read before any renewal"})
	}
	return out
}

// tokenHold returns what is wrong with the component's ticket, or with its token.
func (g *Gate) tokenHold(view *store.View, now time.Time) (h store.Hold, ok bool) {
	own, _ := view.Component(g.appid)
	token, refused := g.componentToken()
	g.mu.Lock()
	created := g.ticket // the view may be behind what this process stored
	g.mu.Unlock()
	if own.TicketCreatedAt.After(created) {
		created = own.TicketCreatedAt
	}
	switch {
	case created.IsZero():
		return store.Hold{Reason: wxtoken.HeldNoTicket, API: string(wechat.APIComponentToken), Message: account.NoTicketYet}, true
	case now.Sub(created) > TicketLife:
		return store.Hold{Reason: wxtoken.HeldNoTicket, API: string(wechat.APIComponentToken),
			Message: fmt.Sprintf("the last component_verify_ticket is of %s and works for 12 hours", created.UTC().Format(time.RFC3339))}, true
	case refused:
		h = anotherKeeper(store.Hold{Reason: wxtoken.HeldTokenRefused, Message: "WeChat refused the component's token, a new one is asked for"}, own.Refused)
	case fought(own.Refused, token, now):
		return anotherKeeper(store.Hold{Reason: wxtoken.HeldTokenRefused}, own.Refused), true
	case !now.Before(token.ExpiresAt):
		h = store.Hold{Reason: wxtoken.HeldTokenDead, Message: "the component has no token that lives: no account is renewed without"}
	default:
		return h, false
	}
	if own.RetryAt.After(now) {
		h.Until = own.RetryAt
	}
	return h, true
}

// fought reports whether another keeper seems to renew for the same component: two tokens in a row
// were refused early, and the newest has not outlived that age yet.
func fought(last *account.Refused, newest wxtoken.Token, now time.Time) bool {
	return last != nil && last.Early > 1 && now.Sub(newest.ObtainedAt) < newest.ExpiresAt.Sub(newest.ObtainedAt)/10
}

// anotherKeeper says in a hold that another keeper may be the cause, where it looks like that.
func anotherKeeper(h store.Hold, last *account.Refused) store.Hold {
	if last != nil && last.Early > 1 {
		h.Message = fmt.Sprintf("WeChat refused %d new tokens of the component in a row: does another keeper renew it? Each renewal ends the token of the other", last.Early)
	}
	return h
}

// Message tells all reasons in one text.
func Message(holds []store.Hold, now time.Time) lang.Text {
	var en, zh []string
	for _, h := range holds {
		text := lang.Given(h.Message, truth.CauseOf(h.Reason).What(h.Error).ZH)
		if h.API != "" && !strings.Contains(h.Message, h.API) {
			text.EN = h.API + ": " + text.EN
		}
		if h.Until.After(now) && h.Reason == wxtoken.HeldQuota {
			until := wechat.Stamp(h.Until)
			text = lang.Given(text.EN+" until "+until.EN, text.ZH+"，至 "+until.ZH)
		}
		if !slices.Contains(en, text.EN) {
			en = append(en, text.EN)
		}
		if !slices.Contains(zh, text.ZH) {
			zh = append(zh, text.ZH)
		}
	}
	return lang.Given(strings.Join(en, "; "), strings.Join(zh, "；"))
}

// tell lets the others know what holds the component back: the log, the other refreshers, the
// status. The shared record is written before the status: the next refresher that writes the status
// makes it from the record, and must not take back what this one said.
func (g *Gate) tell(ctx context.Context) {
	now := g.p.Now()
	g.log(g.Holds(), now)
	if err := g.share(ctx, now); err != nil {
		g.p.Log.Warn().Err(err).Str("component", g.appid).Msg("failed to share why calls are held back")
	}
	g.p.Changed(ctx, g.appid)
}

// log logs when a reason begins or ends. What is compared are the names: the texts hold times and
// counts, and would make a line of each probe. Two handlers that tell at once may log in the other
// order than they looked; the next sweep puts it right.
func (g *Gate) log(holds []store.Hold, now time.Time) {
	var names []string
	for _, h := range holds {
		names = append(names, string(h.Reason))
	}
	reasons := strings.Join(slices.Compact(names), " ")
	g.mu.Lock()
	before := g.told
	g.told = reasons
	g.mu.Unlock()
	switch {
	case reasons == before:
	case reasons == "":
		g.p.Log.Info().Str("component", g.appid).Str("before", before).Msg("calls no longer held back")
	default:
		g.p.Log.Warn().Str("component", g.appid).Str("reason", reasons).Str("detail", Message(holds, now).EN).Msg("calls held back")
	}
}

// share writes what this process met into the shared record, where that says otherwise, and takes
// out what is over: its own, and what processes left behind that were killed. Any process may take
// that out, for the time of SeenAt says it to all. A quota stands in Paused alone; and what NATS
// does not store can't be shared through it.
func (g *Gate) share(ctx context.Context, now time.Time) error {
	g.mu.Lock()
	maps.DeleteFunc(g.own, func(_ string, h store.Hold) bool { return !lasts(h, now) })
	mine := map[string]store.Hold{}
	for key, h := range g.own {
		if h.Reason != wxtoken.HeldQuota && h.Reason != wxtoken.HeldNATS {
			mine[g.p.ID+"/"+key] = h
		}
	}
	g.mu.Unlock()
	if !g.Believes() {
		mine[g.p.ID+"/"+holdKey(wxtoken.HeldDoubted, everyAPI)] = store.Hold{Reason: wxtoken.HeldDoubted, Message: account.ManyRefused, SeenAt: now.UTC()}
	}
	// The view is asked first whether there is anything to write: it costs nothing, and most of the
	// time there is not. What it has not heard of yet is found by the next sweep.
	if !g.differs(g.Shared().Held, mine, now) {
		return nil
	}
	return g.replaceHolds(ctx, mine, now)
}

// differs reports whether held is to be replaced, where this process has mine to say.
func (g *Gate) differs(held, mine map[string]store.Hold, now time.Time) bool {
	for by, h := range held {
		if _, still := mine[by]; strings.HasPrefix(by, g.p.ID+"/") && !still || !lasts(h, now) {
			return true
		}
	}
	for by, h := range mine {
		if known, ok := held[by]; !ok || h.SeenAt.Sub(known.SeenAt) > shareAgain {
			return true
		}
	}
	return false
}

// replaceHolds replaces what the shared record says of this process, under compare-and-set.
func (g *Gate) replaceHolds(ctx context.Context, mine map[string]store.Hold, now time.Time) error {
	return g.p.Store().UpdateQuota(ctx, g.appid, func(q *store.Quota) bool {
		if !g.differs(q.Held, mine, now) {
			return false
		}
		held := map[string]store.Hold{}
		for by, h := range q.Held {
			if !strings.HasPrefix(by, g.p.ID+"/") && lasts(h, now) {
				held[by] = h
			}
		}
		maps.Copy(held, mine)
		q.Held = held
		return true
	})
}
