package refresher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// What keeps the tokens of a component from being renewed is one list of reasons, each with the call that rests and until when.
// The condition Renewing of the component's status, the metric wxtoken_held_back, the log and the answers to requests are made
// from it. Three kinds of reasons are in it:
//
//   - what one process met: a refusal, no answer. It is in component.own, and the others see it in the shared record of the calls,
//     so that they agree about the status, whichever of them writes it. It lasts until this process gets another answer to
//     that call, not until the next call is made: a wrong secret is still wrong while nothing asks.
//   - what all share by itself: the day's quota.
//   - what the component's record and token tell: no ticket, a dead token.

// holdLasts is how long a reason counts that was not seen again, by the process that met it or because that process is gone.
// A call that is refused is tried again once a minute.
const holdLasts = 3 * time.Minute

// shareAgain is how often a reason that lasts is shared again.
const shareAgain = time.Minute

// emptyPatience is how many answers in a row without a body it takes for them to count as a refusal. WeChat answers a wrong
// appid or secret so at times.
const emptyPatience = 4

// holdStates are the reasons, the gravest first, and the state of a component because of them; "" leaves it as it is.
var holdStates = []struct {
	reason string
	state  wxtoken.State
}{
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

// gravity is the place of a reason in holdStates.
func gravity(h store.Hold) int {
	return slices.IndexFunc(holdStates, func(row struct {
		reason string
		state  wxtoken.State
	}) bool {
		return row.reason == h.Reason
	})
}

// holdKey names a hold in component.own.
func holdKey(reason string, api wechat.API) string { return reason + "/" + string(api) }

// begin notes that calls are held back.
func (c *component) begin(api wechat.API, h store.Hold) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold(api, h)
}

// hold is begin for a caller that has c.mu.
func (c *component) hold(api wechat.API, h store.Hold) {
	h.API, h.Until, h.SeenAt = string(api), h.Until.UTC(), h.SeenAt.UTC()
	c.own[holdKey(h.Reason, api)] = h
}

// end notes that calls are not held back for that reason any more.
func (c *component) end(reason string, api wechat.API) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.own, holdKey(reason, api))
}

// reasons returns the keys of what this process met, in order.
func (c *component) reasons() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(c.own)), " ")
}

// answered ends what an answer to a call of api proves to be over.
func (c *component) answered(api wechat.API, err error, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if api == wechat.APIComponentToken {
		c.countEmpty(err, now)
	}
	if silent(err) {
		return
	}
	switch wechat.Judge(err) {
	case wechat.SlowDown, wechat.QuotaGone:
		return
	case wechat.Operator:
		if !ofAccount(err) {
			return
		}
	}
	delete(c.own, holdKey(wxtoken.HeldMinuteLimit, api))
	delete(c.own, holdKey(wxtoken.HeldRefused, api))
	delete(c.own, holdKey(wxtoken.HeldRefused, everyAPI))
	if api == wechat.APIComponentToken && err == nil {
		delete(c.own, holdKey(wxtoken.HeldNoTicket, api))
	}
	if withSecret(api) {
		delete(c.own, holdKey(wxtoken.HeldRefused, wechat.APIComponentToken))
	}
}

// countEmpty counts answers of api_component_token that have no body: no refusal stands in them, and they are often one.
func (c *component) countEmpty(err error, now time.Time) {
	switch e, ok := errors.AsType[*wechat.Error](err); {
	case ok && e.Empty:
		if c.empty++; c.empty >= emptyPatience {
			c.hold(wechat.APIComponentToken, store.Hold{Reason: wxtoken.HeldEmptyAnswers, Error: account.LastError(now, err), SeenAt: now,
				Message: fmt.Sprintf("%d answers in a row were empty: compare the component's appid and AppSecret with WeChat's console, and whether the API's address is WeChat's", c.empty)})
		}
	case !silent(err): // no answer says nothing about answers
		c.empty = 0
		delete(c.own, holdKey(wxtoken.HeldEmptyAnswers, wechat.APIComponentToken))
	}
}

// withSecret reports whether a call proves that WeChat takes the component's secret.
func withSecret(api wechat.API) bool {
	return api == wechat.APIComponentToken || api == wechat.APIStartPushTicket || api == wechat.APIClearQuota
}

// refusedAPI returns the call whose next answer tells whether a refusal is over: for the address, or the component's state,
// any call; for its secret one with the secret.
func refusedAPI(api wechat.API, err error) wechat.API {
	switch {
	case ofAddress(err):
		return everyAPI
	case withSecret(api):
		return wechat.APIComponentToken
	case ofComponent(err):
		return everyAPI
	}
	return api
}

// holds returns the reasons why the tokens of a component are not renewed, the gravest first.
func (r *Refresher) holds(c *component, now time.Time) []store.Hold {
	all := map[string]store.Hold{}
	q := c.quota()
	for by, h := range q.Held {
		if !strings.HasPrefix(by, r.id+"/") && lasts(h, now) {
			_, key, _ := strings.Cut(by, "/")
			all[key] = h
		}
	}
	c.mu.Lock()
	for key, h := range c.own {
		if h.Reason == wxtoken.HeldQuota && now.Sub(h.SeenAt) > quotaBridge { // all see it in Paused, or it was cleared
			continue
		}
		if lasts(h, now) {
			all[key] = h
		}
	}
	c.mu.Unlock()
	for api, until := range q.Paused {
		if !aside(wechat.API(api)) && until.After(now) {
			h := store.Hold{Reason: wxtoken.HeldQuota, API: api, Until: until, Message: "the day's quota is gone"}
			if e := q.QuotaError; e != nil && e.API == api {
				h.Error = e
			}
			all[holdKey(wxtoken.HeldQuota, wechat.API(api))] = h
		}
	}
	if r.knownView() != nil {
		token, _ := r.ownToken(c)
		maps.DeleteFunc(all, func(_ string, h store.Hold) bool { // some refresher got a token since
			return h.API == string(wechat.APIComponentToken) && h.Reason != wxtoken.HeldQuota && token.ObtainedAt.After(h.SeenAt)
		})
	}
	out := append(slices.Collect(maps.Values(all)), r.ownHolds(c, now)...)
	slices.SortFunc(out, func(a, b store.Hold) int { return cmp.Or(gravity(a)-gravity(b), cmp.Compare(a.API, b.API)) })
	return out
}

// lasts reports whether a hold still counts.
func lasts(h store.Hold, now time.Time) bool {
	return now.Sub(h.SeenAt) < holdLasts || h.Until.Add(holdLasts).After(now) && !h.Until.IsZero()
}

// ownHolds returns what the component's record and token tell.
func (r *Refresher) ownHolds(c *component, now time.Time) (out []store.Hold) {
	view := r.knownView()
	if view == nil {
		return nil
	}
	own, _ := view.Get(wxtoken.ComponentKey(c.appid))
	token, refused := r.ownToken(c)
	c.mu.Lock()
	created := c.ticket
	waiting := c.waiting
	c.mu.Unlock()
	if own.Credential.TicketCreatedAt.After(created) {
		created = own.Credential.TicketCreatedAt
	}
	switch {
	case created.IsZero():
		out = append(out, store.Hold{Reason: wxtoken.HeldNoTicket, API: string(wechat.APIComponentToken), Message: account.NoTicketYet})
	case now.Sub(created) > ticketLife:
		out = append(out, store.Hold{Reason: wxtoken.HeldNoTicket, API: string(wechat.APIComponentToken),
			Message: fmt.Sprintf("the last component_verify_ticket is of %s and works for 12 hours", created.UTC().Format(time.RFC3339))})
	case refused:
		h := store.Hold{Reason: wxtoken.HeldTokenRefused, Message: "WeChat refused the component's token, a new one is asked for"}
		if own.Credential.RetryAt.After(now) {
			h.Until = own.Credential.RetryAt
		}
		out = append(out, anotherKeeper(h, own.Credential.Refused))
	case fought(own.Credential.Refused, token, now):
		out = append(out, anotherKeeper(store.Hold{Reason: wxtoken.HeldTokenRefused}, own.Credential.Refused))
	case !now.Before(token.ExpiresAt):
		h := store.Hold{Reason: wxtoken.HeldTokenDead, Message: "the component has no token that lives: no account is renewed without"}
		if own.Credential.RetryAt.After(now) {
			h.Until = own.Credential.RetryAt
		}
		out = append(out, h)
	}
	if !c.guard.open(now) {
		out = append(out, store.Hold{Reason: wxtoken.HeldDoubted, Message: account.ManyRefused})
	}
	if !waiting.IsZero() {
		out = append(out, store.Hold{Reason: wxtoken.HeldListFirst, API: string(wechat.APIAuthorizerToken),
			Message: "tokens are dead for longer than they lived: WeChat's list is read before any renewal"})
	}
	return out
}

// tellHolds has everybody know what holds calls of a component back: the other refreshers, the status, the log.
func (r *Refresher) tellHolds(ctx context.Context, c *component) {
	now := r.now()
	r.logHolds(c, r.holds(c, now), now)
	if err := r.shareHolds(ctx, c, now); err != nil {
		r.log.Warn().Err(err).Str("component", c.appid).Msg("failed to share why calls are held back")
	}
	r.setStatus(ctx, wxtoken.ComponentKey(c.appid))
}

// logHolds logs when a reason begins or ends.
func (r *Refresher) logHolds(c *component, holds []store.Hold, now time.Time) {
	var names []string
	for _, h := range holds {
		names = append(names, h.Reason)
	}
	reasons := strings.Join(slices.Compact(names), " ")
	c.mu.Lock()
	before := c.told
	c.told = reasons
	c.mu.Unlock()
	switch {
	case reasons == before:
	case reasons == "":
		r.log.Info().Str("component", c.appid).Str("before", before).Msg("calls no longer held back")
	default:
		r.log.Warn().Str("component", c.appid).Str("reason", reasons).Str("detail", heldMessage(holds, now)).Msg("calls held back")
	}
}

// shareHolds writes what this process met into the shared record, where that says otherwise, and takes out what is over.
func (r *Refresher) shareHolds(ctx context.Context, c *component, now time.Time) error {
	c.mu.Lock()
	maps.DeleteFunc(c.own, func(_ string, h store.Hold) bool { return !lasts(h, now) })
	mine := map[string]store.Hold{}
	for key, h := range c.own {
		if h.Reason != wxtoken.HeldQuota && h.Reason != wxtoken.HeldNATS {
			mine[r.id+"/"+key] = h
		}
	}
	c.mu.Unlock()
	if !c.guard.open(now) {
		mine[r.id+"/"+holdKey(wxtoken.HeldDoubted, everyAPI)] = store.Hold{Reason: wxtoken.HeldDoubted, Message: account.ManyRefused, SeenAt: now.UTC()}
	}
	return r.replaceHolds(ctx, c, mine, now)
}

// replaceHolds replaces what the shared record says of this process.
func (r *Refresher) replaceHolds(ctx context.Context, c *component, mine map[string]store.Hold, now time.Time) error {
	differs := func(held map[string]store.Hold) bool {
		for by, h := range held {
			if _, still := mine[by]; strings.HasPrefix(by, r.id+"/") && !still || !lasts(h, now) {
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
	if !differs(c.quota().Held) {
		return nil
	}
	return r.store.UpdateQuota(ctx, c.appid, func(q *store.Quota) bool {
		if !differs(q.Held) {
			return false
		}
		held := map[string]store.Hold{}
		for by, h := range q.Held {
			if !strings.HasPrefix(by, r.id+"/") && lasts(h, now) {
				held[by] = h
			}
		}
		maps.Copy(held, mine)
		q.Held = held
		return true
	})
}

// leaveHolds takes out of the shared record what this process met: it ends, and nobody else would know when that is over.
func (r *Refresher) leaveHolds(ctx context.Context, c *component) {
	if err := r.replaceHolds(ctx, c, nil, r.now()); err != nil {
		r.log.Warn().Err(err).Str("component", c.appid).Msg("failed to share why calls are held back")
	}
}

// proved notes whether NATS stores what it is given. It is no news for NATS.
func (r *Refresher) proved(ctx context.Context, c *component, err error) {
	if err == nil {
		c.end(wxtoken.HeldNATS, everyAPI)
	} else if ctx.Err() == nil {
		now := r.now()
		c.begin(everyAPI, store.Hold{Reason: wxtoken.HeldNATS, Message: "NATS stores nothing, and an answer of WeChat's that can't be stored may end a token that services use", SeenAt: now})
	}
}

// renewing sets the condition that says what holds a component back, and the state because of it. When nothing does any more,
// the state is again that of its own token.
func (r *Refresher) renewing(c *component) account.Change {
	return func(s *wxtoken.Status) {
		now := r.now()
		holds := r.holds(c, now)
		if len(holds) == 0 {
			account.SetCondition(s, wxtoken.ConditionRenewing, now, true, "Unhindered", "")
		} else {
			account.SetCondition(s, wxtoken.ConditionRenewing, now, false, holds[0].Reason, heldMessage(holds, now))
			for i := range s.Conditions {
				if s.Conditions[i].Type == wxtoken.ConditionRenewing {
					s.Conditions[i].Until = heldUntil(holds)
				}
			}
		}
		if account.IsFalse(*s, account.ConditionOpened) {
			return // its tickets can't even be read
		}
		for _, h := range holds {
			if state := holdStates[gravity(h)].state; state != "" {
				s.State = state
				if h.Error != nil {
					s.LastError = h.Error
				} else if state == wxtoken.StateOperator && s.Failures == 0 {
					s.LastError = nil
				}
				return
			}
		}
		if s.Failures == 0 && slices.Contains([]wxtoken.State{wxtoken.StateOperator, wxtoken.StateRenewingFailed, wxtoken.StateWaitingForTicket}, s.State) {
			account.Active(now)(s)
		}
	}
}

// heldConditions returns the condition Renewing of each component that is held back.
func (r *Refresher) heldConditions(ctx context.Context) map[string]wxtoken.Condition {
	held := map[string]wxtoken.Condition{}
	for _, c := range r.all() {
		s, _, _ := r.store.Status(ctx, wxtoken.ComponentKey(c.appid)) // since when; if it can't be read, this is told all the same
		r.renewing(c)(&s)
		if condition, ok := s.Held(); ok {
			held[c.appid] = condition
		}
	}
	return held
}

// heldMessage tells all reasons in one text.
func heldMessage(holds []store.Hold, now time.Time) string {
	var parts []string
	for _, h := range holds {
		text := h.Message
		if h.API != "" && !strings.Contains(text, h.API) {
			text = h.API + ": " + text
		}
		if h.Until.After(now) && h.Reason == wxtoken.HeldQuota {
			text += " until " + h.Until.UTC().Format(time.RFC3339)
		}
		if !slices.Contains(parts, text) {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, "; ")
}

// heldUntil returns when the gravest of the reasons ends, or is looked at again; nil if that is not known.
func heldUntil(holds []store.Hold) *time.Time {
	if holds[0].Until.IsZero() {
		return nil
	}
	until := holds[0].Until.UTC()
	return &until
}
