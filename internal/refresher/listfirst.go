package refresher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/store"
)

const (
	// listPatience is how long the accounts of a component wait for WeChat's list before they are renewed with what is stored,
	// and listRate how many accounts a second are compared with it at the least.
	listPatience = 2 * time.Minute
	listRate     = 200
	// clockSlack is how far in the future a reading of the list may lie: clocks differ. One beyond it says nothing.
	clockSlack = 5 * time.Minute
)

// unlisted reports whether WeChat's list is to be read before an account is renewed: its token is long dead, and the list
// was not read since. A mark that is old itself may have come out of the same backup.
func (r *Refresher) unlisted(c *component, key wxtoken.Key, e store.Entry, now time.Time) bool {
	if key.Kind != wxtoken.KindAuthorizer || !e.Credential.Renewable() || !account.LongDead(e.Token, now) {
		return false
	}
	read := c.quota().ListedAt
	return read.Before(e.Token.ExpiresAt) || now.Sub(read) > 2*r.cfg.ReconcileEvery || read.Sub(now) > clockSlack
}

// awaitsList reports whether an account has to wait for WeChat's list. Should the list fail while other calls work, nobody
// waits for it for ever.
func (r *Refresher) awaitsList(c *component, key wxtoken.Key, e store.Entry, now time.Time) bool {
	if !r.unlisted(c, key, e, now) {
		return false
	}
	since := c.listWantedSince()
	return since.IsZero() || now.Sub(since) < listPatience+time.Duration(r.view.Len())*time.Second/listRate
}

// wantList asks for WeChat's list, once for all accounts of a component that wait for it and for all refreshers.
func (r *Refresher) wantList(ctx context.Context, c *component, now time.Time) {
	if !c.wantList(now) {
		return
	}
	r.log.Warn().Str("component", c.appid).Msg("tokens long dead, reading WeChat's list before any renewal")
	id := fmt.Sprintf("%s/%d/list", c.appid, c.quota().ListedAt.UnixNano())
	if err := r.store.MakeReconcileDue(ctx, c.appid, id); err != nil {
		c.wantNoList()
		r.log.Warn().Err(err).Str("component", c.appid).Msg("list not asked for")
	}
}

// listRead notes for all refreshers that WeChat's list was read whole at the given time, and taken over.
func (r *Refresher) listRead(ctx context.Context, c *component, at time.Time) {
	err := r.store.UpdateQuota(ctx, c.appid, func(q *store.Quota) bool {
		q.ListedAt = at.UTC()
		return true
	})
	if err != nil { // the list need not be read again for that: whoever waits for it does not wait for ever
		r.log.Warn().Err(err).Str("component", c.appid).Msg("reading of the list not noted")
	}
}

// longUnrenewed reports whether the stored token of key is long dead: then WeChat's list, read just now, knows the newer
// refresh token. The token is read after the credential, so that a renewal in between is either seen here or makes the
// credential's compare-and-set fail.
func (r *Refresher) longUnrenewed(ctx context.Context, key wxtoken.Key) (bool, error) {
	t, _, err := r.store.Token(ctx, key)
	if errors.Is(err, wxtoken.ErrBadToken) {
		return false, nil
	}
	return account.LongDead(t, r.now()), err
}
