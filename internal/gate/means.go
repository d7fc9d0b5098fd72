package gate

import (
	"context"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/wechat"
)

// with is what a call is made with.
type with int

const (
	withComponentToken with = iota
	withAccountToken
	withSecret // the component's AppSecret: an answer proves that WeChat takes it
)

// kinds are the calls. urgent ones are waited for by a person, by a service, or, as the component's
// own token is, by all others. One that is aside is needed for no token: what becomes of it is told
// to those who make it, and is no reason.
var kinds = map[wechat.API]struct {
	with          with
	urgent, aside bool
}{
	wechat.APIComponentToken:    {with: withSecret, urgent: true},
	wechat.APICreatePreAuthCode: {urgent: true},
	wechat.APIQueryAuth:         {urgent: true},
	wechat.APIAuthorizerToken:   {},
	wechat.APIAuthorizerInfo:    {urgent: true},
	wechat.APIAuthorizerList:    {},
	wechat.APIStartPushTicket:   {with: withSecret, aside: true},
	wechat.APIGetTicket:         {with: withAccountToken},
	wechat.APICustomSend:        {with: withAccountToken, urgent: true},
	wechat.APIQuotaGet:          {urgent: true, aside: true},
	wechat.APIClearQuota:        {with: withSecret, urgent: true, aside: true},
}

// means is what a call is made with: secret, and the token that it is, if it is one.
type means struct {
	secret string
	token  wxtoken.Token
}

// tokenDelay is the wait of a call for a component access token that is not there: a renewal is
// under way, or waits for a ticket.
const tokenDelay = time.Second

// meansFor returns what a call is made with. Without a token that is good for it the error is one
// of events.Later.
func (g *Gate) meansFor(ctx context.Context, call Call) (means, error) {
	switch kinds[call.API].with {
	case withSecret:
		return means{secret: g.Secret().Reveal()}, nil
	case withAccountToken:
		t, err := g.AccountToken(ctx, call.Account)
		return means{t.Value.Reveal(), t}, err
	}
	return g.componentMeans()
}

// componentMeans is meansFor for a call that is made with the component's token.
func (g *Gate) componentMeans() (means, error) {
	t, refused := g.componentToken()
	switch {
	case t.Value.IsZero() || !g.p.Now().Before(t.ExpiresAt):
		return means{}, events.Later(Jittered(tokenDelay), lang.Error(lang.T("component %s has no valid token", "第三方平台 %s 没有有效令牌", g.appid), nil))
	case refused:
		return means{}, events.Later(Jittered(tokenDelay), lang.Error(lang.T("component %s: WeChat refused its token, a new one is on its way", "第三方平台 %s 的令牌被微信拒绝，正在换取新的", g.appid), nil))
	}
	return means{t.Value.Reveal(), t}, nil
}

// lacks says what a call lacks to be made with, in words; "" if nothing. It is meansFor without the
// cost of an error, for the sweep.
func (g *Gate) lacks(call Call) string {
	switch kinds[call.API].with {
	case withSecret:
	case withAccountToken:
		if !g.accountLife(call.Account).Lives(g.p.Now()) {
			return "the account has no valid token"
		}
	default:
		if t, refused := g.componentToken(); refused || !g.p.Now().Before(t.ExpiresAt) {
			return "the component has no valid token"
		}
	}
	return ""
}

func (g *Gate) accountLife(appid string) account.Life {
	view := g.p.View()
	if view == nil {
		return account.Life{}
	}
	e, _ := view.Get(wxtoken.AuthorizerKey(g.appid, appid))
	return e.Token
}

// AccountToken returns an account's token that is good for a call. Without one the error is one of
// events.Later. The view says whether there is one; it is read from NATS, because the view holds
// none.
func (g *Gate) AccountToken(ctx context.Context, appid string) (wxtoken.Token, error) {
	key, life, now := wxtoken.AuthorizerKey(g.appid, appid), g.accountLife(appid), g.p.Now()
	if !life.Lives(now) {
		return wxtoken.Token{}, events.Later(Jittered(heldDelay), lang.Error(lang.T("%s has no valid token", "%s 没有有效令牌", key), nil))
	}
	t, ok, err := g.p.Store().Token(ctx, key)
	switch {
	case err != nil:
		return wxtoken.Token{}, events.Later(Jittered(tokenDelay), fmt.Errorf("read the token of %s: %w", key, err))
	case !ok, !now.Before(t.ExpiresAt), t.Revision < life.Revision: // it went just now, or a server that is behind was asked
		return wxtoken.Token{}, events.Later(Jittered(tokenDelay), lang.Error(lang.T("%s has no valid token", "%s 没有有效令牌", key), nil))
	}
	return t, nil
}

// componentToken returns the component's newest token that is known here, and whether WeChat
// refused it.
//
// The view is a moment behind what this process stored itself. Without a look at that each renewal
// of the component would be followed by calls with the token that it has just ended.
func (g *Gate) componentToken() (t wxtoken.Token, refused bool) {
	view := g.p.View()
	if view == nil {
		return t, false
	}
	// Before the look: what comes in between makes the view newer than it seems, never older.
	seen := view.Seen()
	own, t := view.Component(g.appid)
	g.mu.Lock()
	defer g.mu.Unlock()
	if seen <= g.newest.Revision {
		t = g.newest
	}
	known := g.refused
	if own.Refused != nil {
		known = max(known, own.Refused.Generation)
	}
	return t, known > 0 && known >= t.Generation
}

// KnowToken notes a token that this process stored, with the revision of the credential that was
// stored just before it.
func (g *Gate) KnowToken(t wxtoken.Token, revision uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if account.KindOf(t.Key).OfComponent && revision > g.newest.Revision {
		g.newest, g.newest.Revision = t, revision
	}
}

// KnowTicket notes that a ticket is there, by its CreateTime.
func (g *Gate) KnowTicket(created time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if created.After(g.ticket) {
		g.ticket = created
	}
}

// tokenRefused deals with a component token that WeChat refused: nothing more is called with it,
// and one renewal is asked for, however many calls were refused and by whichever refresher. It is
// not asked whether the token is too young, as for an account's: WeChat's word need not be true for
// long. The younger the token is, and the more often that happened, the later is the next one.
func (g *Gate) tokenRefused(ctx context.Context, t wxtoken.Token) {
	// The mark is set before anything is asked, under the lock: from here on no call gets this
	// token, and of 64 calls that are refused at once the first one goes on.
	g.mu.Lock()
	news := g.refused < t.Generation
	g.refused = max(g.refused, t.Generation)
	g.mu.Unlock()
	if !news {
		return
	}
	if g.takenElsewhere(ctx, t) {
		g.mu.Lock()
		g.refused = min(g.refused, t.Generation-1)
		g.mu.Unlock()
		g.p.Log.Warn().Stringer("key", t.Key).Msg("component token refused in one call and taken in another, kept")
		return
	}
	if err := g.p.Refused(ctx, t); err != nil {
		g.mu.Lock()
		g.refused = t.Generation - 1 // the next refusal asks again
		g.mu.Unlock()
		g.p.Log.Warn().Err(err).Stringer("key", t.Key).Msg("failed to ask for a renewal")
	}
	g.tell(ctx)
}

// takenElsewhere reports whether WeChat takes a component token that it refused in one call. Where
// that happens again within the life of a token it may be about that call's account alone, and all
// others would wait, longer each time, for a renewal that changes nothing. So a call about no
// account is made; its word counts for ProbeEvery.
//
// The call is made past Admit, which would not let it through: the token counts as refused by now,
// so that nothing else is called with it while WeChat is asked.
func (g *Gate) takenElsewhere(ctx context.Context, t wxtoken.Token) bool {
	now := g.p.Now()
	own, _ := g.p.View().Component(g.appid)
	if last := own.Refused; last == nil || now.Sub(last.At) > t.ExpiresAt.Sub(t.ObtainedAt) {
		return false
	}
	g.mu.Lock()
	before := g.taken
	g.mu.Unlock()
	if age := now.Sub(before); age >= 0 && age < ProbeEvery {
		return true
	}
	if g.pass(ctx, wechat.APIQuotaGet) != nil {
		return false
	}
	// Without the token in means: a refusal of this call, too, must not lead back here.
	err := g.make(ctx, Call{API: wechat.APIQuotaGet}, means{secret: t.Value.Reveal()}, func(token string) error {
		_, err := g.p.WeChat.Quota(ctx, token, wechat.APIAuthorizerToken)
		return err
	})
	if err != nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.taken = now
	return true
}
