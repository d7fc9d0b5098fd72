package refresher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// A component_verify_ticket is what the component's token is got with. WeChat pushes one every 10
// minutes, and each is good for 12 hours ("component_verify_ticket"), so pushes may stay away for
// half a day before anything is lost. It can't be asked for; api_start_push_ticket only turns the
// pushes on ("api_start_push_ticket"). The newest one is kept by WeChat's CreateTime. Whether a
// newer one ends those before, no page says.

const (
	// silence is how long no ticket may come before WeChat is asked to push them: they come every
	// 10 minutes ("component_verify_ticket").
	silence = 25 * time.Minute
	// askPushEvery bounds how often WeChat is asked to push a component's tickets, by all
	// refreshers together.
	askPushEvery = time.Hour
	// askPushAgain is when that is tried again after it failed.
	askPushAgain = 5 * time.Minute
)

// handleTicket stores a component_verify_ticket if it is the newest; pushes may come in any order.
// The ticket then waits in the record for the next renewal of the component's token. It does not
// cause one: each new component token ends the one before, and with a ticket every ten minutes that
// would be 144 tokens a day. A component without a valid token, or whose last renewal failed,
// perhaps for lack of a good ticket, gets one now.
//
// The order of the checks: a ticket that is old is dropped first, for a repeat must not wait for a
// renewal. One that comes while the component's token is being fetched waits half a second at a
// time: a save would move the revision on, and the token could not be stored, of all tokens the one
// that every call needs.
func (r *Refresher) handleTicket(ctx context.Context, key wxtoken.Key, a events.Auth) error {
	if a.Ticket == "" {
		return events.Never(lang.Error(lang.T("handle component_verify_ticket: the ticket is missing", "处理 component_verify_ticket：缺少验证票据"), nil))
	}
	created := a.CreateTime
	cred, err := r.store.Credential(ctx, key)
	switch {
	case errors.Is(err, store.ErrUnreadable):
		// Nothing else could bring it back: WeChat's list knows nothing of tickets.
		r.log.Error().Err(err).Stringer("key", key).Msg("credential unreadable, replaced")
	case errors.Is(err, store.ErrNewer):
		return events.Later(unknownDelay, err)
	case err != nil:
		return err
	}
	if !created.After(cred.TicketCreatedAt) {
		r.metrics.staleTickets.Inc()
		return nil
	}
	if cred.ClaimedAt(r.now()) {
		return events.Later(account.ClaimedDelay, fmt.Errorf("store ticket: %s is being renewed", key))
	}
	// Whether a token is needed now depends on the one that is there. It is read after the record,
	// so it may only be newer; one that is older was read from a replica that is behind.
	token, ok, err := r.store.Token(ctx, key)
	if err != nil && !errors.Is(err, wxtoken.ErrBadToken) {
		return err
	}
	if ok && token.Generation < cred.Generation {
		return events.Later(store.LostDelay, fmt.Errorf("store ticket: the token of %s was read from a server that is a moment behind", key))
	}
	cred, needed := cred.TicketReceived(a.Ticket, created, a.ReceivedAt, token, r.now())
	if cred, err = r.store.Save(ctx, cred); err != nil {
		return err
	}
	// The gate learns of it at once, and not by the view: with a ticket the reason NoTicket is
	// over.
	if c, ok := r.component(key.Component); ok {
		c.gate.KnowTicket(created)
	}
	r.log.Info().Stringer("key", key).Time("create_time", created).Msg("ticket received")
	r.setStatus(ctx, key, account.TicketReceived(r.now(), a.ReceivedAt, !needed))
	if !needed {
		return nil
	}
	// If this is lost with the process, the message is not acked, and the ticket is no news at its
	// next delivery: then it is the sweep that finds a component without a token that lives.
	return r.store.MakeDue(ctx, events.Due{Key: key, Generation: cred.Generation, Reason: events.ReasonTicket}, "")
}

// pushes looks after the component_verify_tickets that WeChat pushes, or does not.
type pushes struct {
	*statuses
	wx    *wechat.Client
	view  *store.View
	began time.Time // they may have come before, while no refresher ran
}

// watch says so when no ticket came for a while, and asks WeChat to push them.
//
// The silence is counted from the start of this process at the earliest (began): after a night
// without refreshers the tickets that lie on AUTH come first, and WeChat need not be asked. The
// status says how bad it is: late, while the ticket in use still works; expired after 12 hours,
// when the next component token can't be had (TestTicketsStayAway, TestNoTicketEver).
func (p *pushes) watch(ctx context.Context, c *component) {
	now := p.now()
	own, _ := p.view.Component(c.appid)
	received, last := own.TicketReceivedAt, own.TicketReceivedAt
	if last.Before(p.began) {
		last = p.began
	}
	if now.Sub(last) <= silence {
		c.late = ""
		return
	}
	p.ask(ctx, c)
	reason, message, unusable := wxtoken.ReasonNoTicket, account.NoTicketYet, true
	if !received.IsZero() {
		reason = wxtoken.ReasonTicketLate
		message = fmt.Sprintf("the last component_verify_ticket came at %s: WeChat pushes one every 10 minutes, and was asked to", received.Format(time.RFC3339))
		if unusable = now.Sub(own.TicketCreatedAt) > gate.TicketLife; unusable {
			reason = wxtoken.ReasonTicketExpired
		}
	}
	// Said once for each reason, by each refresher: the status is compared and set, and the log has
	// a line from each.
	if c.late == reason {
		return
	}
	if err := p.writeStatus(ctx, wxtoken.ComponentKey(c.appid), account.TicketLate(now, reason, message, unusable)); err != nil {
		p.log.Warn().Err(err).Str("component", c.appid).Msg("failed to store status")
		return
	}
	c.late = reason
	p.log.Error().Str("component", c.appid).Str("reason", string(reason)).Time("received_at", received).Msg("no component_verify_ticket received")
}

// ask asks WeChat to push tickets ("api_start_push_ticket"), once an hour at most, by all
// refreshers together: the time is in the shared record of the component's calls, and the refresher
// that wins the compare-and-set makes the call. If the call fails the time is set back, so that it
// is tried again in five minutes and not in an hour.
//
// WeChat says by the answer whether the pushes were off; either way there is nothing more to do
// here. The look at the view comes before the compare-and-set, so that in most sweeps nothing is
// read.
func (p *pushes) ask(ctx context.Context, c *component) {
	mine, now := false, p.now()
	// Without a sign: a time that lies far ahead is of a clock that was wrong, and means nothing.
	if now.Sub(c.gate.Shared().PushAskedAt).Abs() < askPushEvery {
		return
	}
	err := p.store().UpdateQuota(ctx, c.appid, func(q *store.Quota) bool {
		if mine = now.Sub(q.PushAskedAt).Abs() >= askPushEvery; mine {
			q.PushAskedAt = now.UTC()
		}
		return mine
	})
	if err == nil && mine {
		if err = p.start(ctx, c); err != nil { // it was not, so not for an hour
			err = errors.Join(err, p.store().UpdateQuota(ctx, c.appid, func(q *store.Quota) bool {
				q.PushAskedAt = now.Add(askPushAgain - askPushEvery).UTC()
				return true
			}))
		}
	}
	if err != nil {
		p.log.Warn().Err(err).Str("component", c.appid).Msg("failed to start ticket pushes")
	}
}

func (p *pushes) start(ctx context.Context, c *component) error {
	already := false
	err := c.gate.Do(ctx, gate.Call{API: wechat.APIStartPushTicket}, func(secret string) (err error) {
		already, err = p.wx.StartPushTicket(ctx, c.appid, secret)
		return err
	})
	if err == nil {
		p.log.Info().Str("component", c.appid).Bool("were_on", already).Msg("ticket pushes started")
	}
	return err
}
