package refresher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// WeChat's list (api_get_authorizer_list) is the net below everything else: it names each account
// with its refresh token, and so brings back what a lost push, a lost code, a lost record or a
// restored backup left behind. With all data gone, one ticket and the list are enough
// (TestEverybodyComesBack, TestReconcileFromNothing).
//
// It is a witness with faults. It may be late, the order of its pages is not promised and they may
// shift while they are read, and an account whose code was never exchanged may stand there without
// a refresh token. So an entry is compared with the record (account.Credential.Against), the record
// wins where it changed since the reading began, and nothing is removed for being missing
// (docs/adr/0021).
//
// It is read at the first start, every six hours, on request, and when something is unclear: a
// damaged record, a code that came to nothing, a refresh token that WeChat refused. Before old data
// is renewed it is read first: gate.Unlisted finds that by the tokens, which are dead for longer
// than they lived, and their renewals wait until gate.NoteList says that it was read, or for two
// minutes and a little more (docs/adr/0029, TestRestoredBackup, TestListWaitEnds).

const (
	// listPage is how many authorizers are asked for at once. WeChat refuses more with 40170
	// ("api_getauthorizerlist").
	listPage = 500
	// absorbAtOnce is how many listed authorizers are compared with the store at the same time.
	// What they store shares batches.
	absorbAtOnce = 32
	// listTries is how often a page is asked for: a list of 100,000 accounts has 200 pages, and one
	// that fails would have all of them read again.
	listTries = 4
	// maxListed bounds what is believed of total_count. With a figure that is nonsense, and pages
	// that repeat what was told, a reading would never end.
	maxListed = 10_000_000
)

// reconcile compares what is stored with WeChat's list of authorizers. It only ever adds: an
// authorizer that the list lacks proves nothing, for pages may shift while they are read. The
// oldest authorization comes first, since its merchant has waited longest.
//
// It may end anywhere and begin anew: what was taken over is skipped then without a call or a read.
// That is why it needs no cursor, which into a list without a promised order would be worth little.
//
// Any number of refreshers may be at it at once, for two wishes that came together say. Each entry
// is then compared twice, and the second one finds it taken over.
func (r *Refresher) reconcile(ctx context.Context, appid string, m events.Msg) error {
	c, ok := r.component(appid)
	if !ok {
		return events.Later(unknownFor(m), fmt.Errorf("reconcile: component %s is not in the settings", appid))
	}
	// Both are taken before the first page is asked for. A record that changed after that (seen),
	// or that sought its refresh token after that (began), is not judged by this reading.
	began, seen := r.now(), r.view.Seen()
	listed, total, listErr := lister{r.wx, r.log, r.stopping.Load}.read(ctx, c)
	// A list that broke off is good for what it told.
	found, unkept, err := r.absorbAll(ctx, c, listed, reading{seen: seen, began: began, insist: m.Deliveries < account.Retries})
	switch {
	// Only a list that was read whole and taken over counts as read: those who wait for it would
	// else be renewed with what it did not come to tell.
	case listErr == nil && err == nil:
		c.gate.NoteList(ctx, began)
	// No call was made, so nothing failed and no metric counts it. The gate says when the next try
	// is worth it.
	case len(listed) == 0 && isHeld(listErr):
		return listErr // not a fault, only not yet
	default:
		r.metrics.countReconcile(appid, "failed", r.now())
		err = errors.Join(listErr, err)
		// From 5 s to 90 s, and longer where the gate says so. What was taken over until now stays,
		// so the next reading costs its pages and little else.
		wait := jittered(max(account.RetryAfter(3), account.RetryAfter(m.Deliveries)))
		if held, ok := events.After(err); ok {
			wait = max(wait, held)
		}
		return events.Later(wait, fmt.Errorf("reconcile: %w", err))
	}
	r.metrics.countReconcile(appid, "ok", r.now())
	r.metrics.unkept.WithLabelValues(appid).Set(float64(unkept))
	r.log.Info().Str("component", appid).Int("listed", total).Int("recovered", found).Int("unkept", unkept).Msg("reconciled with WeChat's list")
	if unkept > 0 {
		r.log.Warn().Str("component", appid).Int("unkept", unkept).Msg("WeChat's list names accounts that have no token here")
	}
	return nil
}

// isHeld reports whether an error says that a call was not made yet, and when it may be.
func isHeld(err error) bool {
	_, held := events.After(err)
	return held
}

// reading is one reading of WeChat's list.
type reading struct {
	began  time.Time
	seen   uint64 // the newest message of the store from before
	insist bool   // an account that could not be asked about is an error; else it is left for the next time
}

// absorbAll takes over what WeChat's list knows better than the store. It returns how many accounts
// that were, and how many the list names that have nothing here to get a token with.
//
// The view is asked first and answers for nearly all: only accounts with news cost a read. What is
// stored at the same time shares batches, so 32 at once store far more in a second than one after
// the other could.
//
// While it is at work no profile is fetched that is only missing (calm): the tokens of the accounts
// that come back are what services wait for.
func (r *Refresher) absorbAll(ctx context.Context, c *component, all []wechat.ListedAuthorizer, from reading) (found, unkept int, err error) {
	r.absorbing.Add(1)
	defer r.absorbing.Add(-1)
	var group errgroup.Group
	group.SetLimit(absorbAtOnce)
	results := make([]bool, len(all))
	for i, listed := range all {
		if !wxtoken.ValidAppID(listed.AppID) {
			continue
		}
		key := wxtoken.AuthorizerKey(c.appid, listed.AppID)
		if e, ok := r.view.Get(key); ok && e.Credential.Has(listed.RefreshToken) && !listed.AuthTime.After(e.Credential.AuthorizedAt()) {
			continue // nothing new; the view may lag, but not by six hours
		} else if listed.RefreshToken == "" && e.Credential.Renewable() {
			continue // it knows less than we do
		}
		// What is begun is finished: group.Wait below is reached in any case.
		if r.stopping.Load() { // not done: another refresher begins anew
			err = errStopping
			break
		}
		group.Go(func() (err error) {
			if listed.RefreshToken == "" {
				return r.absorbEmpty(ctx, key, listed.AuthTime.UTC(), from.began)
			}
			results[i], err = r.absorb(ctx, c, key, listed, from)
			return err
		})
	}
	// The first fault of many is told; the others go on, since no context of the group is
	// cancelled.
	err = cmp.Or(group.Wait(), err)
	for i, listed := range all {
		e, _ := r.view.Get(wxtoken.AuthorizerKey(c.appid, listed.AppID))
		switch {
		case results[i]:
			found++
		case !e.Credential.Renewable():
			unkept++
		}
	}
	return found, unkept, err
}

// absorb takes over what the list says of one account, if it knows better than the store. Which of
// two refresh tokens is the newer one is the account's to say (account.Credential.Against); where
// only WeChat can tell, the profile is asked. A record that changed meanwhile wins: its writer knew
// more than a list that was read before.
//
// The key is not taken and the record not claimed: an entry is one save, and that compares and
// sets. A handler that is at the account makes it ListBusy, or lost.
func (r *Refresher) absorb(ctx context.Context, c *component, key wxtoken.Key, listed wechat.ListedAuthorizer, from reading) (added bool, err error) {
	cred, err := r.unclaimed(ctx, key)
	if errors.Is(err, store.ErrNewer) {
		return false, nil // a newer program wrote it, and knows better
	}
	if err != nil && !errors.Is(err, store.ErrUnreadable) {
		return false, err
	}
	its := account.Listing{RefreshToken: listed.RefreshToken, At: listed.AuthTime.UTC(), Began: from.began, Seen: from.seen}
	at, compared := its.At, cred.Against(its, r.now())
	switch compared {
	case account.ListBusy, account.ListKnown:
		return false, nil
	// A refresher died between the save and the first due message, or NATS did not answer. The id
	// holds the revision, so that this is asked once for each state of the record and two minutes.
	case account.ListUnasked:
		return true, r.store.MakeDue(ctx, events.Due{Key: key, Reason: events.ReasonListed}, fmt.Sprintf("%s/%d/listed", key, cred.Revision))
	case account.ListDated:
		return r.dateListed(ctx, cred, at)
	// The list tells of no newer authorization, and has another refresh token. Normally the stored
	// one is then the newer: WeChat may have changed it with a renewal since. Where nothing was
	// renewed for two lives it can't be (docs/adr/0029).
	case account.ListOlder:
		if old, err := r.longUnrenewed(ctx, key); err != nil || !old {
			return false, err
		}
		at = cred.AuthorizedAt
	case account.ListInstead:
		at = cred.AuthorizedAt
	}
	// The profile costs a call for the one account, where the list takes one for 500. So it is
	// asked only where the list's word and the record's contradict each other in time.
	if compared == account.ListUnsure || at != its.At && cred.Unclear(its) {
		told, err := r.profileToken(ctx, c, cred, from)
		if err != nil || told == "" {
			return false, err
		}
		its.RefreshToken = told
	}
	// A record that was lost has no generation and no ref. Generations must not begin anew under
	// readers that go by them, and the ref may be in the status still (TestRefOfALostCredential).
	if cred, err = r.recollect(ctx, cred); err != nil {
		return false, err
	}
	// Record and due message in one batch: an account whose refresh token is stored is also
	// renewed, and up to 32 accounts share a flush to the disk.
	cred, err = r.store.SaveDue(ctx, cred.Listed(its.RefreshToken, at, compared == account.ListInstead), events.ReasonListed)
	if errors.Is(err, store.ErrLost) {
		return false, nil // something newer came in between
	}
	if err != nil {
		return false, err
	}
	r.step("listed")
	r.setStatus(ctx, key, r.authorized(ctx, cred, at))
	return true, nil
}

// profileToken returns the refresh token that an account's profile tells, "" if it is the one that
// is stored, or none can be had: all others must not be listed again and again for the sake of this
// one. While the list is new (insist, the first five deliveries) an account that could not be asked
// is an error, and the list is read again; later it is left for the next time
// (TestOneThatCannotBeAskedAbout).
func (r *Refresher) profileToken(ctx context.Context, c *component, cred account.Credential, from reading) (string, error) {
	info, err := r.authorizerInfo(ctx, c, cred.Key.Authorizer)
	switch {
	case err != nil && wechat.Judge(err) == wechat.Retry && from.insist:
		return "", err
	case err != nil || info.RefreshToken == cred.RefreshToken:
		return "", nil
	}
	return info.RefreshToken, nil
}

// errStopping leaves what is not done to another refresher.
var errStopping = lang.Error(lang.T("this refresher is stopping", "这个 refresher 正在退出"), nil)

// unclaimed reads a credential. One that has nothing yet to renew with, and is claimed, is waited
// for as long as a claim lasts: another refresher is exchanging the account's code, and will store
// the refresh token in a moment. Should that refresher be gone, and the code with it because NATS
// lost what came after, the list is all that is left of the authorization.
//
// It polls, once a second: NATS tells nothing when a claim runs out, because nothing happens then.
// All 32 hands may wait here at once, for 16 s each; the rest of the list waits that long at most
// for each such group (TestReconcileWaitsForAClaim).
func (r *Refresher) unclaimed(ctx context.Context, key wxtoken.Key) (cred account.Credential, err error) {
	for waited := time.Duration(0); ; waited += time.Second {
		cred, err = r.store.Credential(ctx, key)
		if err != nil || cred.RefreshToken != "" || !cred.ClaimedAt(r.now()) || waited > account.ClaimFor {
			return cred, err
		}
		if r.stopping.Load() {
			return cred, errStopping
		}
		select {
		case <-ctx.Done():
			return cred, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// dateListed notes the time of an authorization of which the list is the first to tell it. Where it
// is another one than that stored, the account is renewed at once.
func (r *Refresher) dateListed(ctx context.Context, cred account.Credential, authTime time.Time) (added bool, err error) {
	if !authTime.After(cred.AuthorizedAt) {
		return false, nil
	}
	cred, added = cred.DatedByList(authTime)
	if cred, err = r.store.Save(ctx, cred); err != nil {
		if errors.Is(err, store.ErrLost) {
			return false, nil // something newer came in between
		}
		return false, err
	}
	r.setStatus(ctx, cred.Key, r.authorized(ctx, cred, authTime))
	if !added {
		return false, nil
	}
	return true, r.store.MakeDue(ctx, events.Due{Key: cred.Key, Generation: cred.Generation, Reason: events.ReasonListed}, "")
}

// longUnrenewed reports whether the stored token of key is long dead: then WeChat's list, read just
// now, knows the newer refresh token. The token is read after the credential, so that a renewal in
// between is either seen here or makes the credential's compare-and-set fail.
func (r *Refresher) longUnrenewed(ctx context.Context, key wxtoken.Key) (bool, error) {
	t, _, err := r.store.Token(ctx, key)
	if errors.Is(err, wxtoken.ErrBadToken) {
		return false, nil
	}
	return account.LifeOf(t).LongDead(r.now()), err
}
