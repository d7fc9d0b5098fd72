package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// emptyPatience is how many answers in a row without a body it takes for them to count as a
// refusal. WeChat answers a wrong appid or secret so at times.
const emptyPatience = 4

// report notes how a call ended. A refusal that the next call would meet too closes the gate for
// those calls, whichever process makes them, and is told for as long as it lasts; what ends it, an
// answer of another kind, too.
func (g *Gate) report(ctx context.Context, call Call, err error) {
	now := g.p.Now()
	before := g.reasons()
	g.hear(cmp.Or(call.Account, string(call.API)), err, now)
	// What an account's own quota and permissions don't allow is no concern of the others.
	if !call.API.OfAccount() {
		g.reopen(call.API, err, now) // first: the same answer may end one reason and begin another
		g.close(ctx, call.API, err, now)
	}
	// Told when the list changes, not with each answer: while WeChat refuses, hundreds of answers
	// say the same.
	if g.reasons() != before {
		g.tell(ctx)
	}
}

// close begins what an answer to a call of api proves to hold calls back.
func (g *Gate) close(ctx context.Context, api wechat.API, err error, now time.Time) {
	if err == nil {
		return
	}
	hold := store.Hold{Message: err.Error(), Error: account.LastError(now, err), SeenAt: now}
	switch wechat.Judge(err) {
	case wechat.SlowDown:
		g.pause(api, now.Add(wechat.MinuteLimit))
		g.halve(now)
		hold.Reason, hold.Until = wxtoken.HeldMinuteLimit, now.Add(wechat.MinuteLimit)
	case wechat.QuotaGone:
		g.closeForTheDay(ctx, api, err, now)
		return
	case wechat.WaitForTicket:
		hold.Reason = wxtoken.HeldNoTicket
	case wechat.Operator:
		if wechat.OfAccount(err) || kinds[api].aside && !wechat.OfComponent(err) {
			return // the others must not wait for it
		}
		hold.Reason, hold.Until = wxtoken.HeldRefused, now.Add(refusedFor)
		// Its own retries have their own times; without a token no other call is made.
		if api != wechat.APIComponentToken {
			g.pause(everyAPI, hold.Until)
		}
		api = refusedAPI(api, err)
	default:
		return
	}
	if !kinds[api].aside {
		g.begin(api, hold)
	}
}

// reopen ends what an answer to a call of api proves to be over. A wrong secret is wrong while
// nothing asks: so it is an answer that ends a reason, and not the time at which the next call may
// be made.
func (g *Gate) reopen(api wechat.API, err error, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if api == wechat.APIComponentToken {
		g.countEmpty(err, now)
	}
	if silent(err) {
		return
	}
	switch wechat.Judge(err) {
	case wechat.SlowDown, wechat.QuotaGone:
		return // they tell nothing of the rest: WeChat may count before it looks at secret and address
	case wechat.Operator:
		if !wechat.OfAccount(err) {
			return
		}
	}
	delete(g.own, holdKey(wxtoken.HeldMinuteLimit, api))
	delete(g.own, holdKey(wxtoken.HeldRefused, api))
	delete(g.own, holdKey(wxtoken.HeldRefused, everyAPI))
	if api == wechat.APIComponentToken && err == nil {
		delete(g.own, holdKey(wxtoken.HeldNoTicket, api))
	}
	if kinds[api].with == withSecret {
		delete(g.own, holdKey(wxtoken.HeldRefused, wechat.APIComponentToken))
	}
}

// countEmpty counts answers of api_component_token that have no body: no refusal stands in them,
// and they are often one. The caller holds g.mu.
func (g *Gate) countEmpty(err error, now time.Time) {
	switch e, ok := errors.AsType[*wechat.Error](err); {
	case ok && e.Empty:
		if g.empty++; g.empty >= emptyPatience {
			g.hold(wechat.APIComponentToken, store.Hold{Reason: wxtoken.HeldEmptyAnswers, Error: account.LastError(now, err), SeenAt: now,
				Message: fmt.Sprintf("%d answers in a row were empty: compare the component's appid and AppSecret with WeChat's console, and whether the API's address is WeChat's", g.empty)})
		}
	case !silent(err): // no answer says nothing about answers
		g.empty = 0
		delete(g.own, holdKey(wxtoken.HeldEmptyAnswers, wechat.APIComponentToken))
	}
}

// NoteProof notes whether NATS stored something when it was last asked to.
func (g *Gate) NoteProof(ctx context.Context, err error) {
	switch {
	case err == nil:
		g.end(wxtoken.HeldNATS, everyAPI)
	case ctx.Err() == nil: // else it was the caller that ended, and is no news of NATS
		g.begin(everyAPI, store.Hold{Reason: wxtoken.HeldNATS, SeenAt: g.p.Now(),
			Message: "NATS stores nothing, and an answer of WeChat's that can't be stored may end a token that services use"})
	}
}

// refusedAPI returns the call whose next answer tells whether a refusal is over: for the address,
// or the component's state, any call; for its secret one with the secret.
func refusedAPI(api wechat.API, err error) wechat.API {
	switch {
	case wechat.Concerns(err) == wechat.ConcernAddress:
		return everyAPI
	case kinds[api].with == withSecret:
		return wechat.APIComponentToken
	case wechat.OfComponent(err):
		return everyAPI
	}
	return api
}

// silent reports whether a call brought no answer, or none but "busy" (-1, -1000).
func silent(err error) bool {
	var e *wechat.Error
	return err != nil && (!errors.As(err, &e) || e.Code == 0 || e.Code == -1 || e.Code == -1000)
}
