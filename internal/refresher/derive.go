package refresher

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// Tickets are odd tokens. WeChat answers with the same one as long as it lives, and says each time
// that it has two hours before it ("api_getticket"): the answer doesn't tell how old it is, so a
// value that is known gains no life (account.Grant, docs/adr/0020). A ticket is got with its
// account's access token, is charged to the account's own quota, and the one before is dead when
// the next one is there, so readers are told no previous one.
//
// Each ticket is a key of its own, with a record, a schedule and renewals like any other. What is
// here is only how it follows its account. The record holds nothing to renew with; it says for
// which authorization of its account it is kept, by count.
//
// While settings are changed, two refreshers may have different ones, and each begins and ends what
// its own say. account.Outline.Follows takes a ticket that was ended less than five minutes ago for
// one that is to stay so, and so the two don't undo each other's work with each sweep
// (TestTicketsSwitchedOnAgain).

// keeps reports whether the settings ask for a ticket of an account.
func (c Config) keeps(ticket wechat.TicketType, authorizer string) bool {
	return slices.Contains(c.Derive, string(ticket)) && (len(c.DeriveFor) == 0 || slices.Contains(c.DeriveFor, authorizer))
}

// derived keeps the tickets that the settings ask for beside the tokens of accounts (jsapi_ticket,
// wx_card_ticket). They follow their account: they begin with its token, and end with its
// authorization. Once there, a ticket is renewed like any other key.
//
// Nothing stores account and tickets together. A refresher may die between the two, so the sweep
// compares them, by counting authorizations: a ticket remembers which one it is kept for.
type derived struct {
	cfg   Config
	store *store.Store
	view  *store.View
	log   zerolog.Logger
	now   func() time.Time

	setStatus func(context.Context, wxtoken.Key, ...account.Change)
}

// of returns the keys of the tickets that the settings ask for beside an account's token.
func (d *derived) of(owner wxtoken.Key) (keys []wxtoken.Key) {
	if !d.looksAfter(owner) {
		return nil
	}
	for _, kind := range account.TicketKinds {
		if key := (wxtoken.Key{Kind: kind, Component: owner.Component, Authorizer: owner.Authorizer}); d.cfg.keeps(account.KindOf(key).Ticket, key.Authorizer) {
			keys = append(keys, key)
		}
	}
	return keys
}

// looksAfter reports whether the settings ask for tickets beside the token of a key.
//
// The sweep asks for each key, under the view's lock: it is a look at the settings and no more.
func (d *derived) looksAfter(owner wxtoken.Key) bool {
	return len(d.cfg.Derive) > 0 && account.KindOf(owner).OfMerchant
}

// begin has the tickets of an account kept, which has a token now. It costs a look into the view
// for those that are kept.
func (d *derived) begin(ctx context.Context, owner account.Credential) {
	for _, key := range d.of(owner.Key) {
		if e, _ := d.view.Get(key); e.Credential.KeptFor(owner.Authorizations) {
			continue
		}
		if err := d.keep(ctx, key, owner.Authorizations); err != nil {
			d.log.Warn().Err(err).Stringer("key", key).Msg("failed to start keeping ticket") // the sweep does
		}
	}
}

// keep has a ticket fetched for an authorization of its account, its record made if need be. After
// a new authorization it is fetched anew at once, since the old one may have died with the old
// token. When two refreshers do this at the same time, one loses its compare-and-set and has
// nothing to do.
//
// Record and due message are not one batch: should the message be lost, the sweep finds a key that
// can be renewed and has no token. Should the record be missing, too, it finds an account whose
// tickets don't follow it (TestTicketDeaths).
func (d *derived) keep(ctx context.Context, key wxtoken.Key, authorizations uint64) error {
	cred, err := d.store.Credential(ctx, key)
	if err != nil && !errors.Is(err, store.ErrUnreadable) || err == nil && cred.KeptFor(authorizations) {
		return err
	}
	generation, err := newestGeneration(ctx, d.store, key)
	if err != nil {
		return err
	}
	// Also over a record that can't be read: it holds nothing that could not be made anew.
	if cred, err = d.store.Save(ctx, cred.Kept(authorizations, generation)); err != nil {
		if errors.Is(err, store.ErrLost) {
			return nil // another refresher does
		}
		return err
	}
	return d.store.MakeDue(ctx, events.Due{Key: key, Generation: cred.Generation, Reason: events.ReasonDerived}, "")
}

// end ends the tickets of an account whose authorization is over. All kinds are looked at, also
// those that the settings no longer ask for: one may be left from before.
func (d *derived) end(ctx context.Context, owner wxtoken.Key) {
	for _, kind := range account.TicketKinds {
		key := wxtoken.Key{Kind: kind, Component: owner.Component, Authorizer: owner.Authorizer}
		// The view lags, and may not know a ticket that was begun a moment ago. That one ends with
		// its next renewal, or with the sweep.
		if e, ok := d.view.Get(key); !ok || !e.Credential.Renewable() {
			continue
		}
		cred, err := d.store.Credential(ctx, key)
		if err == nil {
			err = d.drop(ctx, cred)
		}
		if err != nil {
			d.log.Warn().Err(err).Stringer("key", key).Msg("failed to end ticket") // its next renewal does
		}
	}
}

// sweep has the tickets of an account follow it: the refresher that stored its authorization, or
// the end of it, may have died before it told the tickets.
//
// Nearly all accounts are as they are to be, and that the view tells. Only where it finds a
// difference is the record read: a ticket must not be ended because the view has not heard yet of
// an authorization.
func (d *derived) sweep(ctx context.Context, owner wxtoken.Key, e store.Entry, now time.Time) {
	follows := func(key wxtoken.Key) bool {
		ticket, _ := d.view.Get(key)
		return ticket.Credential.Follows(e.Credential, e.Token, now)
	}
	if !slices.ContainsFunc(d.of(owner), func(key wxtoken.Key) bool { return !follows(key) }) {
		return
	}
	cred, err := d.store.Credential(ctx, owner) // the view may lag
	switch {
	case err != nil:
		d.log.Warn().Err(err).Stringer("key", owner).Msg("failed to compare tickets with their account")
	case cred.Renewable():
		d.begin(ctx, cred)
	default:
		d.end(ctx, owner)
	}
}

// drop removes a ticket and ends its schedule.
//
// It is a revocation like an account's: record, deletion of the ticket and end of the schedule are
// one batch. A lost compare-and-set is returned, and the next renewal or sweep tries again.
func (d *derived) drop(ctx context.Context, cred account.Credential) error {
	if !cred.Renewable() {
		return nil
	}
	if _, err := d.store.Revoke(ctx, cred.Dropped(d.now())); err != nil {
		return err
	}
	d.log.Info().Stringer("key", cred.Key).Msg("ticket ended")
	d.setStatus(ctx, cred.Key, account.Revoked(d.now(), nil))
	return nil
}

// dropUnwanted removes a ticket that wanted says is not to be kept any longer, and reports whether
// it did. wanted asks the view, which lags: the account may have authorized just now.
//
// It belongs to a renewal, and while the account is in force it is the only end of a ticket that
// the settings stopped to ask for: the sweep follows accounts, and looks at no ticket that no
// setting names (TestTicketsSwitchedOff).
func (d *derived) dropUnwanted(ctx context.Context, cred account.Credential) (dropped bool, err error) {
	if d.cfg.keeps(account.KindOf(cred.Key).Ticket, cred.Key.Authorizer) {
		owner, err := d.store.Credential(ctx, account.Owner(cred.Key))
		if err != nil || owner.Renewable() {
			return false, err
		}
	}
	return true, d.drop(ctx, cred)
}

// wanted reports whether a key is still to be renewed. A ticket is while the settings ask for it
// and its account authorizes; any other key always is.
func (d *derived) wanted(key wxtoken.Key) bool {
	ticket := account.KindOf(key).Ticket
	if ticket == "" {
		return true
	}
	e, ok := d.view.Get(account.Owner(key))
	return d.cfg.keeps(ticket, key.Authorizer) && ok && e.Credential.Renewable()
}

// askTicket gets a ticket with its account's token.
func askTicket(ctx context.Context, wx *wechat.Client, cred account.Credential, accountToken string) (wechat.Grant, error) {
	ticket, err := wx.Ticket(ctx, accountToken, account.KindOf(cred.Key).Ticket)
	return wechat.Grant{AccessToken: ticket.Value, ExpiresIn: ticket.ExpiresIn}, err
}
