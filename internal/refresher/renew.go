package refresher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/counts"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// seedTries is how often a record that this refresher has no seed for is offered to the others at
// once: while the seal key is changed, some refreshers have the new seed and some don't yet.
const seedTries = 10

// due handles a due message: the time of a key has come, or a renewal was asked for.
//
// Two locks keep two renewals of a key apart. In this process it is alone, which costs nothing and
// makes the second handler wait without a read. Between processes it is the claim in the record,
// which outlives the process that took it. Neither is trusted with the data: the commit compares
// and sets.
//
// A record that is sealed with a key whose seed is not here goes to the other refreshers at once,
// ten times: while the seal key is changed, one of them has the seed.
func (r *Refresher) due(ctx context.Context, due events.Due, m events.Msg) error {
	err := r.alone(due.Key, func() error { return r.renew(ctx, due, m) })
	if errors.Is(err, store.ErrSealed) && m.Deliveries <= seedTries {
		return events.Later(jittered(account.ClaimedDelay), err)
	}
	return err
}

// hands knows at which keys the handlers of this process are, and how many are at work. Profiles
// are fetched only while hands are free.
type hands struct {
	atWork sync.Map     // wxtoken.Key -> struct{}
	busy   atomic.Int64 // how many are at work

	absorbing atomic.Int64 // how many lists of accounts are being taken over
}

// alone runs f unless another handler of this process is at the same key; then the message comes
// again after a moment. It does not wait for the other handler: that would take a hand away from
// other keys for as long as WeChat takes to answer.
func (h *hands) alone(key wxtoken.Key, f func() error) error {
	if _, busy := h.atWork.LoadOrStore(key, struct{}{}); busy {
		return events.Later(account.ClaimedDelay, fmt.Errorf("%s is being worked at here", key))
	}
	h.busy.Add(1)
	defer h.busy.Add(-1)
	defer h.atWork.Delete(key)
	return f()
}

// working reports whether a handler of this process is at a key.
func (h *hands) working(key wxtoken.Key) bool {
	_, busy := h.atWork.Load(key)
	return busy
}

// renew is the story of a renewal; see the package's comment for the steps.
//
// The order of the checks is an order of cost. What is held back is known from memory and is put
// off before anything is read: while WeChat is away, or a quota is gone, a hundred thousand due
// messages come by here every few minutes. Then one read, of the record, decides whether there is
// anything to do. Then comes the turn at the gate, which may take seconds; and only when the call
// may really be made is the key claimed, so that no other refresher waits for one that waits.
//
// From the claim on every return either commits, gives the claim back, or leaves it to its
// deadline.
func (r *Refresher) renew(ctx context.Context, due events.Due, m events.Msg) error {
	key := due.Key
	c, ok := r.component(key.Component)
	if !ok {
		return events.Later(unknownFor(m), fmt.Errorf("renew %s: component %s is not in the settings", key, key.Component))
	}
	e, _ := r.view.Get(key)
	// A derived ticket that is not to be kept any more is no matter for the gate: it is ended
	// without a call.
	wanted := r.derived.wanted(key)
	call := renewal(key, e)
	if due.Reason == events.ReasonListed {
		call.Last = account.Life{} // the list was read: it says so
	}
	if wanted { // ending a ticket takes no call, and must not have the list read for it
		if wait, why := c.gate.Held(ctx, call); wait > 0 {
			return events.Later(jittered(wait), fmt.Errorf("renew %s: held back for %s: %s", key, wait.Round(time.Second), why))
		}
	}

	// a. Load.
	cred, err := r.store.Credential(ctx, key)
	if err != nil {
		return err
	}
	if cred.Missing(r.knows(key), m.Deliveries) {
		return r.restoreRecord(ctx, c, cred, m)
	}
	if done, err := r.settle(ctx, c, cred, due, m); done || err != nil {
		return err
	}
	if !wanted {
		if dropped, err := r.derived.dropUnwanted(ctx, cred); dropped || err != nil {
			return err
		}
	}
	// An operator's wish need not wait for the backoff, for its first try: the revision tells
	// whether any refresher has tried since the wish. A delivery that was put off because the key
	// was being worked at is still the first.
	untried := !m.Redelivered || due.Revision == cred.Revision
	asked := due.Reason == events.ReasonAsked && untried
	if wait := cred.RetryAt.Sub(r.now()); wait > 0 && !asked {
		return events.Later(wait, fmt.Errorf("renew %s: waiting after %d failures", key, cred.Failures))
	}
	var ask func(context.Context) (wechat.Grant, error)
	if !cred.RefreshRefused { // else another call comes first
		if ask, err = r.admit(ctx, c, call, cred); err != nil {
			return err
		}
	}
	r.step("loaded")

	// b. Claim.
	if (untried || cred.Failures == 0) && (due.Reason == events.ReasonAsked || due.Reason == events.ReasonRefused) {
		cred = cred.WasForced(r.now())
	}
	if cred, err = r.claim(ctx, cred, account.ForDue(m.Sequence), m.Redelivered); err != nil {
		return err
	}
	r.step("claimed")

	// c. Ask. Life is counted from before the request.
	if cred.RefreshRefused {
		return r.recover(ctx, c, cred.GivenBack(), errRefused)
	}
	// WeChat counts a life from when it made the token, which is between here and the answer.
	// Counting from here errs by seconds to the safe side.
	began := r.now()
	grant, err := ask(ctx)
	r.step("asked")
	// The call was not made after all: the token that it needs died while the turn was waited for.
	// The claim is given back, so that the message need not wait for it when it comes again.
	if wait, ok := events.After(err); ok {
		if _, err := r.store.Save(ctx, cred.GivenBack()); err != nil {
			return err
		}
		return events.Later(wait, err)
	}
	r.metrics.countCall(key.Kind, due.Reason, err, r.now().Sub(began))

	// d. Judge.
	if err != nil {
		r.counts.Add(counts.Failed, 1)
		return r.fail(ctx, c, cred, err)
	}
	return r.commit(ctx, c, cred, grant, account.Past{
		At: began, Reason: due.Reason, Late: lateness(e.Token, cred, began), Took: r.now().Sub(began), By: r.host, Reporter: due.By,
	})
}

// commit stores what WeChat granted: credential, token and next schedule in one batch, on the
// revision of the claim. So a late answer never replaces a newer token: whatever was stored since
// the claim, by a cancellation or by a refresher that took it over, has moved the revision on.
func (r *Refresher) commit(ctx context.Context, c *component, cred account.Credential, grant wechat.Grant, how account.Past) error {
	next := cred.Renewed(grant.RefreshToken, how)
	token := r.tokenFrom(ctx, cred, next.Generation, grant, how.Reason, how.At)
	r.step("judged")

	// e. Commit.
	stored, err := r.store.Commit(ctx, next, token)
	switch {
	case err == nil:
		c.gate.KnowToken(token, stored.Revision)
		r.step("committed")
		r.announce(ctx, token, cred, how.Reason, how.At)
		r.counts.Add(counts.Renewed, 1)
		r.counts.Most(counts.LatestMS, how.Late.Milliseconds())
		return nil // f. Ack: the consumer's, last.
	case errors.Is(err, store.ErrLost):
		return r.resolveLost(ctx, cred.Key)
	}
	return err // delivered again, and taken up at a. or b.
}

// lateness returns how long after its time the token t, which is that of cred, is replaced.
func lateness(l account.Life, cred account.Credential, now time.Time) time.Duration {
	if l.Generation != cred.Generation || !l.Exists() {
		return 0
	}
	return max(0, now.Sub(l.RenewAt()))
}

// settle deals with a due message that asks for no renewal, or for none yet; it reports false for
// any other. What the message asks is the account's to say: see account.Credential.Wish.
//
// Reads may be answered by a replica that is a moment behind. So "the record is older than the
// message" and "there is nothing to renew with" are not believed at once: the message comes again.
func (r *Refresher) settle(ctx context.Context, c *component, cred account.Credential, due events.Due, m events.Msg) (bool, error) {
	key := due.Key
	switch cred.Wish(due.Generation, m.Deliveries) {
	case account.WishTooEarly:
		wait := account.ClaimedDelay
		if m.Deliveries > 10 {
			wait = heldDelay
		}
		return true, events.Later(wait, fmt.Errorf("renew %s: the record read is of generation %d, the due message of %d", key, cred.Generation, due.Generation))
	case account.WishUncertain:
		return true, events.Later(account.ClaimedDelay, fmt.Errorf("renew %s: nothing to renew with, looking again", key))
	case account.WishCancelled:
		// The refresher that stored that may have died before the status was written.
		return true, r.writeStatus(ctx, key, r.ifRevoked(ctx, key, true, account.Revoked(r.now(), nil)))
	case account.WishSought:
		return true, r.seek(ctx, c, cred)
	case account.WishNothing:
		return true, nil
	case account.WishDone:
		return true, r.fulfill(ctx, cred)
	}
	return false, nil
}

// knows reports whether a credential of key was seen.
func (r *Refresher) knows(key wxtoken.Key) bool {
	e, _ := r.view.Get(key)
	return e.Credential.Revision > 0
}

// restoreRecord brings back a credential that was seen and is gone: no program removes one, but a
// person with the nats command may. A component's comes with the next ticket, a derived ticket's is
// made anew, and of an account WeChat knows the refresh token.
//
// That a record is gone is said by the stream's leader alone. A replica that is behind has not got
// it yet, and taking its word would ask WeChat about accounts that are well.
func (r *Refresher) restoreRecord(ctx context.Context, c *component, cred account.Credential, m events.Msg) error {
	key := cred.Key
	if holds, err := r.store.HasCredential(ctx, key); err != nil || holds {
		return events.Later(account.ClaimedDelay, errors.Join(fmt.Errorf("renew %s: a server that is behind has no credential", key), err))
	}
	r.log.Error().Stringer("key", key).Msg("credential gone: it was removed from the stream")
	gone := fmt.Errorf("renew %s: its credential is gone", key)
	switch {
	case account.KindOf(key).OfComponent:
		return events.Later(unknownFor(m), gone)
	case account.Derived(key):
		owner, _ := r.view.Get(account.Owner(key))
		return r.derived.keep(ctx, key, owner.Credential.Authorizations)
	}
	info, err := r.authorizerInfo(ctx, c, key.Authorizer)
	if _, later := events.After(err); later { // it was not asked yet
		return err
	}
	cause := err
	if cred, err = r.recollect(ctx, cred); err != nil {
		return err
	}
	switch {
	case cause != nil && wechat.Judge(cause) == wechat.Revoked && c.gate.Believes():
		// Only a record with something to renew with is stored in its place; any other stays
		// missing.
		return r.cancel(ctx, cred.FoundCancelled(r.now()), cause)
	case cause != nil, info.RefreshToken == "":
		return events.Later(unknownFor(m), errors.Join(gone, cause))
	}
	if cred, err = r.store.Save(ctx, cred.Restored(info.RefreshToken)); err != nil {
		return err
	}
	return r.store.MakeDue(ctx, events.Due{Key: key, Generation: cred.Generation, Reason: events.ReasonListed}, "")
}

// claim takes the credential for the message that purpose names: a lease of 15 seconds, longer than a
// call to WeChat lasts.
//
// The claim names the message. A message that is delivered again is so because its first handler
// died, or gave it back; so the handler that gets it may take the claim over at once, and a
// refresher that died delays a renewal by seconds only. For any other message the claim stands
// until its end.
func (r *Refresher) claim(ctx context.Context, cred account.Credential, purpose string, redelivered bool) (account.Credential, error) {
	if cred.Claim.KeepsOff(purpose, redelivered, r.now()) {
		return cred, events.Later(account.ClaimedDelay, fmt.Errorf("%s is claimed by another refresher", cred.Key))
	}
	return r.store.Claim(ctx, cred.Claimed(r.id, purpose, r.now()))
}

// fulfill ends a due message whose generation is past.
//
// NATS loses a schedule that is replaced in the moment in which it fires: the old one fires, and
// takes its successor with it. This message, for a generation that is over, is the only sign of
// that. So the current schedule is published again; where it was not lost, it replaces itself and
// nothing changes.
func (r *Refresher) fulfill(ctx context.Context, cred account.Credential) error {
	token, ok, err := r.store.Token(ctx, cred.Key)
	if err != nil || !ok {
		return err
	}
	// They are stored together: it was read from a server that is a moment behind.
	if token.Generation < cred.Generation {
		return events.Later(account.ClaimedDelay, fmt.Errorf("renew %s: the token read is of generation %d, the record of %d", cred.Key, token.Generation, cred.Generation))
	}
	if err := r.store.Reschedule(ctx, token); err != nil {
		return err
	}
	r.metrics.rescheduled.Inc()
	if cred.Failures == 0 { // else the next renewal was tried already, and its failure is the newer news
		r.setStatus(ctx, cred.Key, account.Active(r.now()))
	}
	return nil
}

// renewals are the calls that get the next token of a key, by its kind. secret is what the call is
// made with.
var renewals = map[wxtoken.Kind]struct {
	api wechat.API
	ask func(ctx context.Context, wx *wechat.Client, cred account.Credential, secret string) (wechat.Grant, error)
}{
	wxtoken.KindComponent: {wechat.APIComponentToken, func(ctx context.Context, wx *wechat.Client, cred account.Credential, secret string) (wechat.Grant, error) {
		return wx.ComponentToken(ctx, cred.Key.Component, secret, cred.Ticket)
	}},
	wxtoken.KindAuthorizer: {wechat.APIAuthorizerToken, func(ctx context.Context, wx *wechat.Client, cred account.Credential, secret string) (wechat.Grant, error) {
		return wx.AuthorizerToken(ctx, secret, cred.Key.Component, cred.Key.Authorizer, cred.RefreshToken)
	}},
	wxtoken.KindJSAPITicket:  {wechat.APIGetTicket, askTicket},
	wxtoken.KindWxCardTicket: {wechat.APIGetTicket, askTicket},
}

// renewal returns the call that gets the next token of key, of which e is known.
func renewal(key wxtoken.Key, e store.Entry) gate.Call {
	call := gate.Call{API: renewals[key.Kind].api, Account: key.Authorizer}
	if e.Credential.Renewable() {
		call.Last = e.Token
	}
	return call
}

// admit waits for the turn of the call that gets the next token, and returns the call. The gate is
// asked before the key is claimed: a key that can't be asked for is left to others and to its next
// message. The call itself is counted when it is made, after the claim; if the claim was lost it is
// not made, and only its turn is.
func (r *Refresher) admit(ctx context.Context, c *component, call gate.Call, cred account.Credential) (ask func(context.Context) (wechat.Grant, error), err error) {
	turn, err := c.gate.Admit(ctx, call)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (grant wechat.Grant, err error) {
		err = turn.Make(ctx, func(secret string) (err error) {
			grant, err = renewals[cred.Key.Kind].ask(ctx, r.wx, cred, secret)
			return err
		})
		return grant, err
	}, nil
}

// tokenFrom returns the token of a grant, which follows that of cred. Readers are told the previous
// token, too, for WeChat takes it for five minutes more; unless it was refused, or belongs to
// another authorization.
func (r *Refresher) tokenFrom(ctx context.Context, cred account.Credential, generation uint64, grant wechat.Grant, reason string, began time.Time) wxtoken.Token {
	key := cred.Key
	var old wxtoken.Token
	// A token that was refused, or of another authorization, is of no use to a reader. A ticket is
	// the same until its end.
	if !slices.Contains([]string{events.ReasonRefused, events.ReasonListed, events.ReasonImported}, reason) || account.Derived(key) {
		var err error
		if old, _, err = r.store.Token(ctx, key); err != nil {
			r.log.Warn().Err(err).Stringer("key", key).Msg("failed to read previous token")
		}
		if old.Generation != cred.Generation && !account.Derived(key) {
			old = wxtoken.Token{} // read from a server that is a moment behind: not the previous one
		}
	}
	g := account.Grant{
		Key: key, Generation: generation, Value: grant.AccessToken, Asked: began, Life: grant.ExpiresIn,
		Fraction: r.cfg.RenewFraction, Jitter: rand.Float64(), UnsureSince: cred.UnsureSince,
	}
	return g.Token(old)
}

// announce tells log, status and tickets that a token was stored. All of it comes after the commit:
// a refresher that dies here has renewed the token, and the status is written again by the next one
// to come by.
func (r *Refresher) announce(ctx context.Context, t wxtoken.Token, before account.Credential, reason string, asked time.Time) {
	log := r.log.Info().Stringer("key", t.Key).Uint64("generation", t.Generation).Str("reason", reason).
		Dur("duration", r.now().Sub(asked)).Time("renew_at", t.RenewAt).Time("expires_at", t.ExpiresAt)
	if before.Failures > 0 {
		log = log.Int("attempt", before.Failures+1)
	}
	log.Msg("token renewed")
	r.setStatusAndProfile(ctx, t.Key, r.inForce(ctx, t.Key), account.Known(before), account.Active(r.now()))
	if account.KindOf(t.Key).OfMerchant {
		r.derived.begin(ctx, before)
	}
}

// setStatusAndProfile changes the status of key, and has the profile fetched of an account that has
// none.
func (r *Refresher) setStatusAndProfile(ctx context.Context, key wxtoken.Key, changes ...account.Change) {
	unknown := false
	r.setStatus(ctx, key, append(changes, func(s *wxtoken.Status) {
		unknown = lacksProfile(*s)
	})...)
	if unknown && account.KindOf(key).OfMerchant {
		r.profiles.want(key)
	}
}

// resolveLost deals with a token that was not stored because the record had changed meanwhile. If
// another token was stored, two calls overlapped: only WeChat knows which of the two it takes, so
// the key is renewed once more, alone.
func (r *Refresher) resolveLost(ctx context.Context, key wxtoken.Key) error {
	r.metrics.overlaps.Inc()
	cred, err := r.store.Credential(ctx, key)
	if err != nil || !cred.Renewable() {
		return err
	}
	r.log.Warn().Stringer("key", key).Uint64("generation", cred.Generation).Msg("two renewals overlapped, renewing once more")
	due := events.Due{Key: key, Generation: cred.Generation, Reason: events.ReasonOverlap}
	if cred.ClaimedAt(r.now()) {
		due.Generation++ // after what is being fetched now
	}
	return r.store.MakeDue(ctx, due, "")
}

// fail deals with a renewal that WeChat did not answer with a token: it stores when to try again,
// gives the claim back and says so. The account decides what follows, from the verdict on the
// errcode; here it is done.
func (r *Refresher) fail(ctx context.Context, c *component, cred account.Credential, err error) error {
	cred, next := cred.Failed(r.failure(c, cred.Key, err))
	switch next.Do {
	case account.DoAskProfile:
		return r.recover(ctx, c, cred, err)
	case account.DoCancel:
		return r.cancelByAnswer(ctx, c, cred, err)
	case account.DoAskPush:
		r.pushes.ask(ctx, c)
	}
	return r.tryAgain(ctx, cred, next, err)
}

// failure tells what is known about an answer of WeChat's that is no token.
func (r *Refresher) failure(c *component, key wxtoken.Key, err error) account.Failure {
	e, _ := r.view.Get(key)
	f := account.Failure{Err: err, Now: r.now(), Dies: e.Token.ExpiresAt(), Jitter: rand.Float64()}
	if c.gate.Away() {
		f.Away = gate.ProbeEvery
	}
	return f
}

// tryAgain stores that cred failed and when it may be tried again, and answers with Later. The
// record is stored first. Should NATS not take it, the message comes again after the ack wait and
// the failure is not counted, which is better than a delay that no record tells of.
func (r *Refresher) tryAgain(ctx context.Context, cred account.Credential, next account.Next, cause error) error {
	if _, err := r.store.Save(ctx, cred); err != nil {
		return err
	}
	r.step("failed")
	r.askList(ctx, cred)
	r.log.Warn().Err(cause).Stringer("key", cred.Key).Int("attempt", cred.Failures).Dur("delay", next.Wait).Msg("renewal delayed")
	if change := r.changeFor(ctx, cred, next, cause); change != nil {
		r.setStatus(ctx, cred.Key, change)
	}
	return events.Later(next.Wait, cause)
}

// changeFor returns what the status says of what follows. Where only the merchant can help that is
// a link for a new authorization.
func (r *Refresher) changeFor(ctx context.Context, cred account.Credential, next account.Next, cause error) account.Change {
	if next.Merchant == "" {
		return next.Status
	}
	r.log.Error().Err(cause).Stringer("key", cred.Key).Msg("authorization needed")
	return account.NeedsAuthorization(r.now(), cred.Failures, next.Merchant, cause, r.links.Reauthorize(ctx, cred))
}
