package refresher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/counts"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/lang"
	"wxtoken/internal/links"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// An authorization may reach the refreshers three times: as WeChat's push (handleAuthorized), as
// the redirect of the merchant's browser (handleCode), and as an entry of WeChat's list (absorb).
// Push and redirect bring a code each, and no page of WeChat's says whether it is the same code.
// Either may be late, repeated or missing. TestConsent plays them in seven orders, with one code
// and with two.
//
// What is already there is asked in this order. First WeChat's times: an event that is older than
// the newest news changes nothing. Then the digest of the code: a code is good once. Then the link:
// one link is one authorization (docs/adr/0018).
//
// Four things keep two exchanges apart, from the cheapest on: the handlers of this process by key
// (alone), the claim on the link, which push and redirect share, the claim in the record, which all
// refreshers share, and last the compare-and-set of the commit, which is the only one that is
// needed for the data to be right. The other three save calls, and a merchant's code.

// handleUnreadable has a document put on DEAD, and WeChat's list asked where it may have been about
// an authorization (TestUnreadable). The list comes first: a refresher that dies before the
// document is on DEAD is followed by one that asks once more. The other way round the list would
// never be asked.
func (r *Refresher) handleUnreadable(ctx context.Context, a events.Auth) error {
	if a.AskList {
		if err := r.store.ScheduleReconcile(ctx, a.Component, r.cfg.ReconcileEvery, true); err != nil {
			return err
		}
	}
	return events.Never(lang.Error(lang.T("read push: %s", "无法解析推送：%s", wechat.UnreadableText(a.Detail)), nil))
}

// handleAuthorized exchanges the code of a push. The same code, and an authorization older than the
// one in force, change nothing: pushes may be repeated, late and out of order.
//
// The code is good once. Between the call that spends it and the commit lies the only moment in
// which an authorization can be lost, should this refresher die; then WeChat's profile or list
// still knows the refresh token, and endExchange asks for it when the message comes again.
//
// One merchant's consent may come twice, as a push and as the redirect of a link, in either order
// and with codes of their own. Whichever comes first brings the tokens; the other one only adds
// what it alone knows, the time or the ref.
//
// The caller has taken the key for this process (alone). Nothing else is locked while the record
// and the link are read: a handler elsewhere that changes one of them makes a claim below fail with
// ErrLost, and the message comes again after 50 ms.
func (r *Refresher) handleAuthorized(ctx context.Context, c *component, key wxtoken.Key, a events.Auth, m events.Msg) error {
	cred, err := r.store.Credential(ctx, key)
	if errors.Is(err, store.ErrNewer) {
		return events.Later(unknownDelay, err)
	}
	if err != nil && !errors.Is(err, store.ErrUnreadable) {
		return err
	}
	created := a.CreateTime.UTC()
	// A record that can't be read is as good as none here: the code brings all that it held, but
	// for the ref, which recollect takes from the status. A record of a newer program, or one that
	// is sealed with another key, is not replaced.
	link, err := r.links.Of(ctx, a)
	if err != nil {
		return err
	}
	if link, err = r.links.For(ctx, link, key.Authorizer); err != nil {
		return err
	}
	// That of a link whose end is not known yet is WeChat's to judge when only the list told of the
	// account: its ref must not get lost because the list came first. An older code exchanged over
	// a newer one would end the newer authorization.
	listed := link != nil && link.Authorizer == "" && (cred.CodeDigest == "" || cred.Brought(events.Digest(a.Code)))
	// WeChat's times are whole seconds. A cancellation of the same second does not hold an
	// authorization off: which of them came last is WeChat's to say, and the exchange asks it
	// (TestEventsOfTheSameSecond).
	if created.Before(cred.RevokedAt) || created.Before(cred.AuthorizedAt) && !listed {
		r.log.Info().Stringer("key", key).Time("create_time", created).Msg("authorization ignored, a newer event came before it")
		return r.links.Fail(ctx, link, "", wechat.Revoked.String())
	}
	// The list may date an authorization later than the push does. The time never goes back: a
	// cancellation that came in between would count again (TestRefOfAListedAccount).
	if created.Before(cred.AuthorizedAt) {
		created = cred.AuthorizedAt
		a.CreateTime = created
	}
	// One link is one authorization: if the redirect came first, its code has brought the tokens
	// already.
	redirected := link != nil && link.Authorizer == key.Authorizer && !created.After(link.EndedAt.Add(account.MaxAhead))
	if cred.Brought(events.Digest(a.Code)) || redirected && cred.RefreshToken != "" {
		return r.repeatAuthorization(ctx, cred, created, link, m)
	}
	// The order from here on: the turn, the reads, the link's claim, the record's claim, the call.
	// Turn and reads may take seconds, a claim lasts for 15 s, and the call may need 10 s of these.
	// So what can be waited for without a claim is.
	turn, err := c.gate.Admit(ctx, gate.Call{API: wechat.APIQueryAuth})
	if err != nil {
		return err
	}
	if cred, err = r.recollect(ctx, cred); err != nil {
		return err
	}
	// The link before the record: while this handler holds it, the redirect waits and does not
	// spend its own code. Where the record's claim then fails, the link's is not given back; the
	// message takes it over when it comes again, since it was made for this message.
	if err = r.links.Claim(ctx, link, m); err != nil {
		return err
	}
	if cred, err = r.claim(ctx, cred, account.ForAuth(m.Sequence), m.Redelivered); err != nil {
		return err
	}
	r.step("exchange.claimed")
	asked := r.now()
	granted, err := r.exchange(ctx, c, turn, a.Code)
	r.step("exchange.asked")
	if err != nil {
		// The code may be spent all the same: an answer that was lost looks like no answer. The
		// next delivery hears 61009 then (TestCodeSpent).
		return r.endExchange(ctx, c, cred, a, m, link, err)
	}
	if granted.AuthorizerAppID != key.Authorizer {
		// Nothing of the answer is kept. The account that it names has a push of its own, and
		// stands in WeChat's list; this one did not ask for it.
		if _, err := r.store.Save(ctx, cred.Declined()); err != nil && !errors.Is(err, store.ErrLost) {
			return err
		}
		if err := r.links.Fail(ctx, link, "", "another_account"); err != nil {
			return err
		}
		return events.Never(lang.Error(lang.T("exchange code: the push names %s, WeChat's answer another account", "换取令牌：推送的授权方是 %s，微信应答的是另一个", key.Authorizer), nil))
	}
	// ErrLost: an older cancellation, say, was stored meanwhile. The code is spent now; WeChat
	// knows its refresh token.
	return r.establish(ctx, c, cred, granted, a, created, asked, link)
}

// repeatAuthorization deals with a push about an authorization that has its tokens: with one that
// comes a second time, and with one whose redirect came first. It costs no call to WeChat.
func (r *Refresher) repeatAuthorization(ctx context.Context, cred account.Credential, created time.Time, link *store.Connect, m events.Msg) error {
	cred, err := r.noteAuthorization(ctx, cred, created, link)
	if err != nil {
		return err
	}
	// At its first delivery the event has nothing to make up for: the handler that stored the
	// tokens writes the status itself, or leaves its own message to be delivered again
	// (TestDeathBeforeTheNews).
	if err := r.links.Finish(ctx, link, cred); err != nil || !m.Redelivered {
		return err
	}
	// The refresher that had this event may have died before the status was written.
	changes := []account.Change{r.authorized(ctx, cred, created)}
	// A renewal that failed since is the newer news, and "active" would hide it.
	if _, ok, err := r.store.Token(ctx, cred.Key); err == nil && ok && cred.Failures == 0 && cred.Renewable() {
		changes = append(changes, account.Active(r.now()))
	}
	r.setStatusAndProfile(ctx, cred.Key, changes...)
	return nil
}

// noteAuthorization notes what a second event tells of an authorization that has its tokens: when
// it was, if a redirect had told of it, which does not say; and the link, if that was not known.
func (r *Refresher) noteAuthorization(ctx context.Context, cred account.Credential, created time.Time, link *store.Connect) (account.Credential, error) {
	ref := cred.Ref
	// A link that has ended gave its ref then. To take it again would undo what a later link did.
	if link != nil && link.Authorizer == "" {
		ref, _ = links.Ref(cred, link)
	}
	if ref == cred.Ref && !created.After(cred.AuthorizedAt) {
		return cred, nil
	}
	// A save would move the revision on, and the token that is being fetched could not be stored. A
	// renewal takes seconds; the time and the ref can wait for that.
	if cred.ClaimedAt(r.now()) {
		return cred, events.Later(account.ClaimedDelay, fmt.Errorf("note authorization: %s is being renewed", cred.Key))
	}
	cred = cred.Dated(created, ref)
	saved, err := r.store.Save(ctx, cred)
	if err != nil {
		return cred, err
	}
	r.setStatus(ctx, cred.Key, r.authorized(ctx, saved, saved.AuthorizedAt))
	return saved, nil
}

// exchange turns a code into the first tokens of an authorization. The turn was got before the
// claim, so that no claim runs out while the call waits for its turn.
func (r *Refresher) exchange(ctx context.Context, c *component, turn gate.Turn, code string) (a wechat.Authorization, err error) {
	err = turn.Make(ctx, func(token string) (err error) {
		// A code works once ("api_getauthorizerrefreshtoken"), and there is no way to ask whether
		// it still does. So the call is never made twice at the same time, and never as a probe.
		a, err = r.wx.QueryAuth(ctx, token, c.appid, code)
		return err
	})
	r.metrics.countExchange(err)
	return a, err
}

// establish stores an authorization of the given time, zero if not known: refresh token, token and
// schedule in one batch. It replaces what was there, and keeps no previous token: WeChat ends the
// old authorization.
//
// What follows the commit may be lost with this refresher. The status is written again when the
// event is delivered again, the profile with the next renewal, the tickets by the sweep.
//
// Profile before tickets, tickets before link: the profile may bring a refresh token that the
// answer lacked, a ticket costs no call here, and the page that waits for the link shows the
// account's name, which is in the profile. A browser so waits for one call more.
func (r *Refresher) establish(ctx context.Context, c *component, cred account.Credential, granted wechat.Authorization, a events.Auth, at, asked time.Time, link *store.Connect) error {
	key := cred.Key
	// An account of another ref keeps that, and its new tokens are stored all the same: WeChat made
	// the earlier refresh token invalid when it took the code ("api_getauthorizerrefreshtoken"), so
	// there is nothing left to keep (TestConflict).
	ref, conflict := links.Ref(cred, link)
	if conflict {
		r.log.Error().Stringer("key", key).Str("ref", cred.Ref).Str("other_ref", link.Ref).Msg("account belongs to another ref, left there")
	}
	r.counts.Add(counts.Exchanged, 1)
	cred = cred.Authorized(account.Authorization{
		By: r.host,
		At: at, CodeDigest: events.Digest(a.Code), RefreshToken: granted.RefreshToken, Token: granted.AccessToken != "", Ref: ref, Now: r.now(),
	})
	// The answer has tokens only if the account granted an API permission
	// ("api_getauthorizerrefreshtoken"). One from an earlier authorization must not stay in the
	// bucket, as if it were good (TestWithoutAPIPermission).
	if granted.AccessToken == "" {
		cred, err := r.store.Revoke(ctx, cred) // of its token, should there be one
		if err != nil {
			return fmt.Errorf("store authorization: %w", err)
		}
		r.log.Warn().Stringer("key", key).Msg("authorized without API permission")
		r.setStatus(ctx, key, r.authorized(ctx, cred, cred.AuthorizedAt), account.WithoutPermission(r.now(), r.links.Reauthorize(ctx, cred)))
		return r.links.Fail(ctx, link, key.Authorizer, "no_api_permission")
	}
	g := account.Grant{
		Key: key, Generation: cred.Generation, Value: granted.AccessToken, Asked: asked, Life: granted.ExpiresIn,
		Fraction: r.cfg.RenewFraction, Jitter: rand.Float64(),
	}
	// Life is counted from before the call, and without a token before this one.
	token := g.Token(wxtoken.Token{})
	cred, err := r.store.Commit(ctx, cred, token)
	if err != nil {
		return fmt.Errorf("store authorization: %w", err)
	}
	r.step("exchange.committed")
	r.log.Info().Stringer("key", key).Str("info_type", a.Kind).Uint64("generation", cred.Generation).
		Time("renew_at", token.RenewAt).Time("expires_at", token.ExpiresAt).Msg("authorizer authorized")
	// The batch is stored: what follows is news, and may be lost. AuthorizedAt comes before Active,
	// which changes nothing while the state is "revoked".
	change := account.Active(r.now())
	if !cred.Renewable() {
		change = account.Failing(r.now(), 1, account.ErrNoRefreshToken)
	}
	r.setStatus(ctx, key, r.authorized(ctx, cred, cred.AuthorizedAt), change, account.FuncInfo(granted.FuncInfo))
	info := r.fetchProfile(ctx, c, key)
	// The profile is fetched in any case; it is the second of three sources of a refresh token
	// (docs/adr/0037), and the cheapest one to ask now.
	if granted.RefreshToken == "" {
		if cred, err = r.fill(ctx, cred, info); err != nil {
			return err
		}
	}
	r.derived.begin(ctx, cred)
	return r.links.Finish(ctx, link, cred)
}

// fill completes an authorization whose answer had no refresh token: the profile, asked right
// after, may tell it. If it does not, it is looked for; one of an earlier authorization is kept
// until its renewal shows whether it is any good.
func (r *Refresher) fill(ctx context.Context, cred account.Credential, info wechat.AuthorizerInfo) (account.Credential, error) {
	if info.RefreshToken != "" && info.RefreshToken != cred.RefreshToken {
		filled, err := r.keepRecovered(ctx, cred, info)
		// ErrLost: the first renewal, or a cancellation, was faster. The search below reads the
		// record anew.
		if err == nil || !errors.Is(err, store.ErrLost) {
			return filled, err
		}
	}
	if cred.Renewable() {
		return cred, nil
	}
	// The due message leads to seek, which has time: the token that just came lives for two hours.
	return cred, r.store.MakeDue(ctx, events.Due{Key: cred.Key, Generation: cred.Generation, Reason: events.ReasonListed}, "")
}

// endExchange deals with a code that WeChat did not turn into tokens. A spent code is the ordinary
// case: the redirect of a link used it, or a refresher that died before it stored the answer. It is
// not tried again, for WeChat would say the same; the refresh token that it brought is asked for.
//
// WeChat says the same (61009) of a code that was used, that is of another kind, and that is none;
// 61010 is one that has expired ("Return_code_descriptions_new"). Which it was makes no difference
// here, for in each case the profile and the list know whether there is an authorization.
func (r *Refresher) endExchange(ctx context.Context, c *component, cred account.Credential, a events.Auth, m events.Msg, link *store.Connect, cause error) error {
	now := r.now()
	key := cred.Key
	// In memory only: each way out of here stores it once, with what it has found beside. A
	// refresher that dies before leaves the claim to its end, or to this message's next delivery.
	cred = cred.GivenBack()
	m = r.hurried(ctx, link, m)
	switch wechat.Judge(cause) {
	case wechat.CodeSpent:
		// Used by the redirect, or by a refresher that died before it stored the answer: the
		// refresh token that the code brought is WeChat's to tell.
		info, err := r.authorizerInfo(ctx, c, key.Authorizer)
		if err != nil && wechat.Judge(err) == wechat.Revoked {
			cause = err
			break // cancelled in the meantime; that event is on its way
		}
		if err != nil {
			return r.giveBack(ctx, cred, eventDelay(m, err), err)
		}
		if info.RefreshToken == "" {
			// No refresh token is no answer: not that there is none (docs/adr/0037).
			return r.seekSpent(ctx, c, cred, a, m, link, cause)
		}
		return r.storeSpent(ctx, cred, info, a.CreateTime.UTC(), a.Kind, link)
	case wechat.Revoked: // the account is no longer ours: that event is on its way
	case wechat.Operator:
		// A refusal that is about the account alone (a permission set that is missing, say) stands
		// in its status. One that is about the component, its secret or its address stands in the
		// component's: the gate has told it.
		if wechat.OfAccount(cause) {
			r.setStatus(ctx, key, account.Operator(now, cause))
		}
		return r.giveBack(ctx, cred, eventDelay(m, cause), cause)
	default:
		return r.giveBack(ctx, cred, eventDelay(m, cause), cause)
	}
	if _, err := r.store.Save(ctx, cred); err != nil {
		return err
	}
	r.log.Warn().Err(cause).Stringer("key", key).Msg("authorization came to nothing")
	return r.links.Fail(ctx, link, "", wechat.Judge(cause).String())
}

// storeSpent stores an authorization of the given time, zero if not known, whose code is spent,
// with the refresh token that WeChat tells, and has its token fetched.
//
// The code's digest is not noted, for it was not this exchange that brought the refresh token. So
// an event that comes once more walks the same way, to the same refresh token. The due message
// comes last; should it be lost, the sweep finds an account that can be renewed and has no token.
func (r *Refresher) storeSpent(ctx context.Context, cred account.Credential, info wechat.AuthorizerInfo, at time.Time, kind string, link *store.Connect) error {
	key := cred.Key
	ref, _ := links.Ref(cred, link)
	cred, err := r.store.Save(ctx, cred.Told(info.RefreshToken, ref, at))
	if err != nil {
		return err
	}
	if err := r.links.Finish(ctx, link, cred); err != nil {
		return err
	}
	r.log.Info().Stringer("key", key).Str("info_type", kind).Msg("authorizer authorized, its code was used already")
	r.setStatus(ctx, key, r.authorized(ctx, cred, cred.AuthorizedAt), account.ProfileOf(info))
	return r.store.MakeDue(ctx, events.Due{Key: key, Generation: cred.Generation, Reason: events.ReasonListed}, "")
}

// giveBack ends a claim and puts the event off. A lost compare-and-set is no fault here: another
// event of this account was stored meanwhile, and ended the claim.
func (r *Refresher) giveBack(ctx context.Context, cred account.Credential, wait time.Duration, cause error) error {
	if _, err := r.store.Save(ctx, cred); err != nil && !errors.Is(err, store.ErrLost) {
		return err
	}
	// After the save: the list takes over a record as it finds it, and one that is still claimed it
	// would leave alone.
	r.askList(ctx, cred)
	return events.Later(wait, fmt.Errorf("exchange code: %w", cause))
}
