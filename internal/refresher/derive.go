package refresher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// ticketTypes are the tickets that can be kept beside an account's token, by the kind of their key.
var ticketTypes = map[wxtoken.Kind]wechat.TicketType{
	wxtoken.KindJSAPITicket:  wechat.TicketJSAPI,
	wxtoken.KindWxCardTicket: wechat.TicketWxCard,
}

// derived reports whether a key is that of a ticket that is got with an account's token.
func derived(key wxtoken.Key) bool { return ticketTypes[key.Kind] != "" }

// owner returns the key of the token with which a ticket is got.
func owner(key wxtoken.Key) wxtoken.Key { return wxtoken.AuthorizerKey(key.Component, key.Authorizer) }

// keeps reports whether the settings ask for a ticket.
func (c Config) keeps(key wxtoken.Key) bool {
	return slices.Contains(c.Derive, string(ticketTypes[key.Kind])) &&
		(len(c.DeriveFor) == 0 || slices.Contains(c.DeriveFor, key.Authorizer))
}

// ticketsOf returns the keys of the tickets that the settings ask for beside an account's token.
func (r *Refresher) ticketsOf(account wxtoken.Key) (keys []wxtoken.Key) {
	if account.Kind != wxtoken.KindAuthorizer || len(r.cfg.Derive) == 0 {
		return nil
	}
	for kind := range ticketTypes {
		if key := (wxtoken.Key{Kind: kind, Component: account.Component, Authorizer: account.Authorizer}); r.cfg.keeps(key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// deriveFrom begins to keep the tickets of an account that has a token now. It costs a look into the view for those that are kept.
func (r *Refresher) deriveFrom(ctx context.Context, account store.Credential) {
	for _, key := range r.ticketsOf(account.Key) {
		if e, _ := r.view.Get(key); e.Credential.Renewable() && e.Credential.Authorizations == account.Authorizations {
			continue
		}
		if err := r.keep(ctx, key, account.Authorizations); err != nil {
			r.log.Warn().Err(err).Stringer("key", key).Msg("ticket not begun") // the sweep does
		}
	}
}

// keep has a ticket fetched for an authorization of its account, its record made if need be. After a new one it is fetched anew, at once:
// whether it outlives a cancellation, which we may have missed, is not known, and what WeChat refused it for may be over.
func (r *Refresher) keep(ctx context.Context, key wxtoken.Key, authorizations uint64) error {
	cred, err := r.store.Credential(ctx, key)
	if err != nil && !errors.Is(err, store.ErrUnreadable) || err == nil && cred.Renewable() && cred.Authorizations == authorizations {
		return err
	}
	if cred.Generation, err = r.generation(ctx, cred); err != nil {
		return err
	}
	cred.RevokedAt, cred.Authorizations, cred.Anew = time.Time{}, authorizations, true
	if cred, err = r.store.Save(ctx, released(cred)); err != nil {
		if errors.Is(err, store.ErrLost) {
			return nil // somebody else does
		}
		return err
	}
	return r.store.MakeDue(ctx, events.Due{Key: key, Generation: cred.Generation, Reason: events.ReasonDerived}, "")
}

// underive ends the tickets of an account whose authorization is over.
func (r *Refresher) underive(ctx context.Context, account wxtoken.Key) {
	for kind := range ticketTypes {
		key := wxtoken.Key{Kind: kind, Component: account.Component, Authorizer: account.Authorizer}
		if e, ok := r.view.Get(key); !ok || !e.Credential.Renewable() {
			continue
		}
		if err := r.dropTicket(ctx, key); err != nil {
			r.log.Warn().Err(err).Stringer("key", key).Msg("ticket not ended") // its next renewal does
		}
	}
}

// droppedFor is how long a ticket stays ended that is to be kept: refreshers with other settings may be running still, and end it again.
const droppedFor = 5 * time.Minute

// sweepTickets has the tickets of an account follow it: whoever stored its authorization, or the end of it, may have died before that.
func (r *Refresher) sweepTickets(ctx context.Context, account wxtoken.Key, all map[wxtoken.Key]store.Entry, now time.Time) {
	e := all[account]
	follows := func(key wxtoken.Key) bool {
		ticket := all[key].Credential
		if !e.Credential.Renewable() {
			return !ticket.Renewable()
		}
		kept := ticket.Renewable() || now.Sub(ticket.RevokedAt) < droppedFor
		return kept && ticket.Authorizations == e.Credential.Authorizations || !now.Before(e.Token.ExpiresAt)
	}
	if !slices.ContainsFunc(r.ticketsOf(account), func(key wxtoken.Key) bool { return !follows(key) }) {
		return
	}
	cred, err := r.store.Credential(ctx, account) // the view may lag
	switch {
	case err != nil:
		r.log.Warn().Err(err).Stringer("key", account).Msg("tickets not compared with their account")
	case cred.Renewable():
		r.deriveFrom(ctx, cred)
	default:
		r.underive(ctx, account)
	}
}

// dropTicket removes a ticket and ends its schedule.
func (r *Refresher) dropTicket(ctx context.Context, key wxtoken.Key) error {
	cred, err := r.load(ctx, key)
	if err != nil || !cred.Renewable() {
		return err
	}
	cred = released(cred)
	cred.RevokedAt = r.now().UTC()
	if _, err := r.store.Revoke(ctx, cred); err != nil {
		if errors.Is(err, store.ErrLost) {
			return events.Later(lostDelay, err)
		}
		return err
	}
	r.log.Info().Stringer("key", key).Msg("ticket ended")
	r.setStatus(ctx, key, revoked(r.now(), nil))
	return nil
}

// unwanted reports whether a ticket is to be kept no longer. What wanted says of an account that authorized just now may be old.
func (r *Refresher) unwanted(ctx context.Context, key wxtoken.Key) (bool, error) {
	if !r.cfg.keeps(key) {
		return true, nil
	}
	cred, err := r.load(ctx, owner(key))
	return err == nil && !cred.Renewable(), err
}

// wanted reports whether a ticket is still to be kept: asked for, and of an account that authorizes.
func (r *Refresher) wanted(key wxtoken.Key) bool {
	e, ok := r.view.Get(owner(key))
	return r.cfg.keeps(key) && ok && e.Credential.Renewable()
}

// accountToken returns an account's token that is good for a call. Without one it answers with Later.
func (r *Refresher) accountToken(key wxtoken.Key) (wxtoken.Token, error) {
	e, _ := r.view.Get(key)
	if e.Token.Value.IsZero() || !r.now().Before(e.Token.ExpiresAt) {
		return wxtoken.Token{}, events.Later(jittered(heldDelay), fmt.Errorf("%s has no valid token", key))
	}
	return e.Token, nil
}

// prepareTicket returns the call that gets a ticket.
func (r *Refresher) prepareTicket(ctx context.Context, c *component, key wxtoken.Key) (ask, error) {
	if _, err := r.accountToken(owner(key)); err != nil {
		return nil, err
	}
	if err := r.pass(ctx, c, wechat.APIGetTicket); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (wechat.Grant, error) {
		t, err := r.accountToken(owner(key))
		if err != nil {
			return wechat.Grant{}, err
		}
		r.calling(c, wechat.APIGetTicket)
		ticket, err := r.wx.Ticket(ctx, t.Value.Reveal(), ticketTypes[key.Kind])
		r.heard(ctx, c, wechat.APIGetTicket, key.Authorizer, err)
		if err != nil && wechat.Judge(err) == wechat.RenewAccountToken {
			r.refused(ctx, t)
		}
		return wechat.Grant{AccessToken: ticket.Value, ExpiresIn: ticket.ExpiresIn}, err
	}, nil
}

// nextTicket returns the ticket that follows old. WeChat answers with the same one as long as it lives, and says each
// time that it has its full life before it ("api_getticket"): a value that is known already gains no life by that.
//
// The ticket was answered to a call of asked. It may have been made for an earlier one whose answer was lost, at since or later: it is
// believed until it ends if it was made then, and ends at the latest a life after the first answer that brought it. Until a new one
// can be had it is asked for twice more: shortly before the end, and at the end. From then on each answer proves that it still lives.
func nextTicket(old wxtoken.Token, key wxtoken.Key, generation uint64, value string, since, asked time.Time, life time.Duration, fraction float64) wxtoken.Token {
	t := old
	t.Generation, t.Previous, t.Revision = generation, nil, 0
	if old.Value.Reveal() != value {
		t = nextToken(wxtoken.Token{}, key, generation, value, since, life, fraction)
		t.ObtainedAt = asked.UTC()
	}
	before := life / ticketMargin
	switch left := t.ExpiresAt.Sub(asked); {
	case left <= ticketSlack:
		step := ticketStep(t.ObtainedAt.Add(life).Sub(asked), before)
		t.RenewAt = asked.Add(step)
		if end := t.RenewAt.Add(time.Second); end.After(t.ExpiresAt) {
			t.ExpiresAt = end.UTC()
		}
	case old.Value.Reveal() != value:
	case left > before+ticketSlack:
		t.RenewAt = t.ExpiresAt.Add(-before)
	default:
		t.RenewAt = t.ExpiresAt
	}
	if least := asked.Add(time.Second); t.RenewAt.Before(least) {
		t.RenewAt = least
	}
	t.RenewAt = t.RenewAt.UTC().Truncate(time.Second)
	return t
}

// ticketStep returns when to look again at a ticket that WeChat still gives although it may have ended: at its latest end, left away, or
// before. Somebody who lives longer than that is looked at less and less often.
func ticketStep(left, before time.Duration) time.Duration {
	if left > 0 {
		return max(time.Second, min(left, before/2))
	}
	return max(time.Second, min(-left, 2*before))
}

const (
	// ticketMargin divides the life of a ticket: that part before its end it is asked for once more.
	ticketMargin = 60
	// ticketSlack is how long before its end a ticket counts as ended: the second by which it outlives the next look at it, and the one
	// to which a schedule is cut.
	ticketSlack = 2 * time.Second
)
