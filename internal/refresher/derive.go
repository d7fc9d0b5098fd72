package refresher

import (
	"context"
	"errors"
	"slices"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// keeps reports whether the settings ask for a ticket.
func (c Config) keeps(key wxtoken.Key) bool {
	return slices.Contains(c.Derive, string(account.TicketTypes[key.Kind])) &&
		(len(c.DeriveFor) == 0 || slices.Contains(c.DeriveFor, key.Authorizer))
}

// ticketsOf returns the keys of the tickets that the settings ask for beside an account's token.
func (r *Refresher) ticketsOf(owner wxtoken.Key) (keys []wxtoken.Key) {
	if owner.Kind != wxtoken.KindAuthorizer || len(r.cfg.Derive) == 0 {
		return nil
	}
	for kind := range account.TicketTypes {
		if key := (wxtoken.Key{Kind: kind, Component: owner.Component, Authorizer: owner.Authorizer}); r.cfg.keeps(key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// deriveFrom begins to keep the tickets of an account that has a token now. It costs a look into the view for those that are kept.
func (r *Refresher) deriveFrom(ctx context.Context, owner account.Credential) {
	for _, key := range r.ticketsOf(owner.Key) {
		if e, _ := r.view.Get(key); e.Credential.KeptFor(owner.Authorizations) {
			continue
		}
		if err := r.keep(ctx, key, owner.Authorizations); err != nil {
			r.log.Warn().Err(err).Stringer("key", key).Msg("ticket not begun") // the sweep does
		}
	}
}

// keep has a ticket fetched for an authorization of its account, its record made if need be. After a new one it is fetched anew, at once.
func (r *Refresher) keep(ctx context.Context, key wxtoken.Key, authorizations uint64) error {
	cred, err := r.store.Credential(ctx, key)
	if err != nil && !errors.Is(err, store.ErrUnreadable) || err == nil && cred.KeptFor(authorizations) {
		return err
	}
	generation, err := r.generation(ctx, key)
	if err != nil {
		return err
	}
	if cred, err = r.store.Save(ctx, cred.Kept(authorizations, generation)); err != nil {
		if errors.Is(err, store.ErrLost) {
			return nil // another refresher does
		}
		return err
	}
	return r.store.MakeDue(ctx, events.Due{Key: key, Generation: cred.Generation, Reason: events.ReasonDerived}, "")
}

// underive ends the tickets of an account whose authorization is over.
func (r *Refresher) underive(ctx context.Context, owner wxtoken.Key) {
	for kind := range account.TicketTypes {
		key := wxtoken.Key{Kind: kind, Component: owner.Component, Authorizer: owner.Authorizer}
		if e, ok := r.view.Get(key); !ok || !e.Credential.Renewable() {
			continue
		}
		if err := r.dropTicket(ctx, key); err != nil {
			r.log.Warn().Err(err).Stringer("key", key).Msg("ticket not ended") // its next renewal does
		}
	}
}

// sweepTickets has the tickets of an account follow it: whoever stored its authorization, or the end of it, may have died before that.
func (r *Refresher) sweepTickets(ctx context.Context, owner wxtoken.Key, all map[wxtoken.Key]store.Entry, now time.Time) {
	e := all[owner]
	follows := func(key wxtoken.Key) bool { return all[key].Credential.Follows(e.Credential, e.Token, now) }
	if !slices.ContainsFunc(r.ticketsOf(owner), func(key wxtoken.Key) bool { return !follows(key) }) {
		return
	}
	cred, err := r.store.Credential(ctx, owner) // the view may lag
	switch {
	case err != nil:
		r.log.Warn().Err(err).Stringer("key", owner).Msg("tickets not compared with their account")
	case cred.Renewable():
		r.deriveFrom(ctx, cred)
	default:
		r.underive(ctx, owner)
	}
}

// dropTicket removes a ticket and ends its schedule.
func (r *Refresher) dropTicket(ctx context.Context, key wxtoken.Key) error {
	cred, err := r.load(ctx, key)
	if err != nil || !cred.Renewable() {
		return err
	}
	if _, err := r.store.Revoke(ctx, cred.Dropped(r.now())); err != nil {
		if errors.Is(err, store.ErrLost) {
			return events.Later(lostDelay, err)
		}
		return err
	}
	r.log.Info().Stringer("key", key).Msg("ticket ended")
	r.setStatus(ctx, key, account.Revoked(r.now(), nil))
	return nil
}

// unwanted reports whether a ticket is to be kept no longer. What wanted says of an account that authorized just now may be old.
func (r *Refresher) unwanted(ctx context.Context, key wxtoken.Key) (bool, error) {
	if !r.cfg.keeps(key) {
		return true, nil
	}
	cred, err := r.load(ctx, account.Owner(key))
	return err == nil && !cred.Renewable(), err
}

// wanted reports whether a ticket is still to be kept: asked for, and of an account that authorizes.
func (r *Refresher) wanted(key wxtoken.Key) bool {
	e, ok := r.view.Get(account.Owner(key))
	return r.cfg.keeps(key) && ok && e.Credential.Renewable()
}

// askTicket gets a ticket with its account's token.
func askTicket(ctx context.Context, wx *wechat.Client, cred account.Credential, accountToken string) (wechat.Grant, error) {
	ticket, err := wx.Ticket(ctx, accountToken, account.TicketTypes[cred.Key.Kind])
	return wechat.Grant{AccessToken: ticket.Value, ExpiresIn: ticket.ExpiresIn}, err
}
