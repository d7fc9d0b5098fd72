package refresher

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/settings"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// Life of an authorization link.
const (
	connectLife    = 30 * time.Minute
	minConnectLife = time.Minute
	maxConnectLife = 30 * 24 * time.Hour
	// reauthorizeLife is that of the link in the status of an account that has to authorize again.
	reauthorizeLife = 7 * 24 * time.Hour
	// preAuthLeft is how much life a pre-auth code must have left to be shown again.
	preAuthLeft = 5 * time.Minute
	// preAuthTries is how often a pre-auth code is asked for while a page is being made, preAuthPause the time between.
	preAuthTries = 3
	preAuthPause = 200 * time.Millisecond // maxReturn bounds the address to which a browser is sent, in bytes.
	maxReturn    = 2048
)

// authTypes are WeChat's ("Authorization_Process_Technical_Description").
var authTypes = []int{1, 2, 3, 4, 5, 6, 8}

// connectCreate answers wxtoken.connect.create with a new link.
func (r *Refresher) connectCreate(ctx context.Context, q events.ConnectCreate) (events.ConnectCreated, error) {
	if r.cfg.PublicURL == "" {
		return events.ConnectCreated{}, events.Refused(http.StatusServiceUnavailable, "no links without %s at the refresher", settings.Name("public-url"))
	}
	if _, ok := r.component(q.Component); !ok {
		return events.ConnectCreated{}, events.UnknownComponent(q.Component)
	}
	const minExpires, maxExpires = int(minConnectLife / time.Second), int(maxConnectLife / time.Second)
	if q.ExpiresIn == 0 {
		q.ExpiresIn = int(connectLife / time.Second)
	}
	if q.AuthType == 0 {
		q.AuthType = 3
	}
	switch {
	case len(q.Ref) > account.MaxRef || strings.ContainsFunc(q.Ref, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return events.ConnectCreated{}, events.BadRequest("ref: want at most %d bytes without control characters", account.MaxRef)
	case !slices.Contains(authTypes, q.AuthType):
		return events.ConnectCreated{}, events.BadRequest("auth_type: want one of %v", authTypes)
	case q.BizAppID != "" && !wxtoken.ValidAppID(q.BizAppID):
		return events.ConnectCreated{}, events.BadRequest("biz_appid: not an appid")
	case slices.ContainsFunc(q.CategoryIDs, func(id int) bool { return id <= 0 }) || len(q.CategoryIDs) > 200:
		return events.ConnectCreated{}, events.BadRequest("category_id_list: want ids of permission sets")
	case q.ExpiresIn < minExpires || q.ExpiresIn > maxExpires: // as numbers: no product that is too long for a duration
		return events.ConnectCreated{}, events.BadRequest("expires_in: want %d to %d seconds", minExpires, maxExpires)
	}
	if err := r.checkReturn(q.Return); err != nil {
		return events.ConnectCreated{}, err
	}
	return r.newConnect(ctx, q, time.Duration(q.ExpiresIn)*time.Second)
}

func (r *Refresher) newConnect(ctx context.Context, q events.ConnectCreate, life time.Duration) (events.ConnectCreated, error) {
	now := r.now().UTC()
	c := store.Connect{
		ID: rand.Text(), Component: q.Component, Ref: q.Ref, Return: q.Return, AuthType: q.AuthType, BizAppID: q.BizAppID,
		Categories: q.CategoryIDs.String(), Move: q.Move,
		ExpiresAt: now.Add(life), Secret: rand.Text(), State: events.ConnectPending,
	}
	if _, err := r.store.SaveConnect(ctx, c, now); err != nil {
		return events.ConnectCreated{}, err
	}
	r.log.Info().Str("component", c.Component).Str("connect", c.ID[:8]).Str("ref", c.Ref).Time("expires_at", c.ExpiresAt).Msg("authorization link made")
	return events.ConnectCreated{URL: r.connectURL(c), ID: c.ID, ExpiresAt: c.ExpiresAt}, nil
}

func (r *Refresher) connectURL(c store.Connect) string {
	return strings.TrimRight(r.cfg.PublicURL, "/") + "/connect/" + c.ID
}

// checkReturn says whether a browser may be sent to an address.
func (r *Refresher) checkReturn(address string) error {
	if address == "" {
		return nil
	}
	if len(address) > maxReturn {
		return events.BadRequest("return: want at most %d bytes", maxReturn)
	}
	u, err := url.Parse(address)
	if err != nil || strings.ContainsAny(address, "\\\r\n\t ") || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Opaque != "" {
		return events.BadRequest("return: want https://host/path without a user")
	}
	host := strings.ToLower(u.Host)
	for _, allowed := range r.cfg.ReturnHosts {
		allowed = strings.ToLower(allowed)
		if host != allowed && (u.Port() == "" || strings.ToLower(u.Hostname()) != allowed) {
			continue
		}
		if u.Scheme == "http" && !loopbackHost(u.Hostname()) {
			return events.BadRequest("return: want https")
		}
		return nil
	}
	return events.BadRequest("return: host %q is not among %s", events.Clip(u.Host), settings.Name("return-hosts"))
}

// connectOpen answers wxtoken.connect.open, ingest's question about a link.
func (r *Refresher) connectOpen(ctx context.Context, q events.ConnectOpen) (events.ConnectOpened, error) {
	if q.Step == events.StepSeal {
		return r.sealOf(q.SealKey), nil
	}
	if q.Step == events.StepHeld {
		return events.ConnectOpened{Held: r.heldConditions(ctx)}, nil
	}
	if q.ID == "" || len(q.ID) > 64 || !wxtoken.ValidAppID(q.ID) { // the same alphabet
		return events.ConnectOpened{}, events.Refused(http.StatusNotFound, "no such link")
	}
	if q.Step == "" || q.Step == events.StepLanding {
		return r.landing(ctx, q.ID)
	}
	for {
		c, err := r.link(ctx, q.ID)
		if err != nil {
			return events.ConnectOpened{}, err
		}
		opened, err := r.connectStep(ctx, c, q)
		if !errors.Is(err, store.ErrLost) || ctx.Err() != nil {
			return opened, err
		}
	}
}

// link returns a link that somebody asks for.
func (r *Refresher) link(ctx context.Context, id string) (store.Connect, error) {
	c, ok, err := r.store.Connect(ctx, id)
	if err == nil && !ok {
		err = events.Refused(http.StatusNotFound, "no such link")
	}
	return c, err
}

var errLinkOver = events.Refused(http.StatusGone, "the link was used or has expired")

func (r *Refresher) opened(c store.Connect) events.ConnectOpened {
	return events.ConnectOpened{State: c.State, Component: c.Component, URL: r.connectURL(c)}
}

// landing answers for the page that leads to WeChat. All who open a link while WeChat is asked share its answer: the page
// can be loaded again and again, and by many.
func (r *Refresher) landing(ctx context.Context, id string) (events.ConnectOpened, error) {
	shared, err, _ := r.landings.Do(id, func() (any, error) {
		for {
			c, err := r.link(ctx, id)
			if err == nil && (c.State != events.ConnectPending || r.now().After(c.ExpiresAt)) {
				err = errLinkOver
			}
			if err == nil {
				c, err = r.preAuth(ctx, c)
			}
			if !errors.Is(err, store.ErrLost) || ctx.Err() != nil { // lost: another refresher was faster
				return c, err
			}
		}
	})
	if err != nil {
		return events.ConnectOpened{}, err
	}
	c := shared.(store.Connect)
	opened := r.opened(c)
	link := wechat.LinkParams{
		Component: c.Component, PreAuthCode: c.PreAuthCode, RedirectURI: opened.URL + "/callback",
		AuthType: c.AuthType, BizAppID: c.BizAppID, Categories: c.Categories,
	}
	opened.Session, opened.PCLink, opened.MobileLink = newSession(c), link.PC(r.cfg.WechatPageURL), link.Mobile(r.cfg.WechatPageURL)
	return opened, nil
}

// newSession returns what the landing page gives to one browser. No two have the same, and nothing is stored for any.
func newSession(c store.Connect) string {
	visit := rand.Text()
	return visit + "." + sessionSum(c, visit)
}

func isSession(c store.Connect, session string) bool {
	visit, sum, _ := strings.Cut(session, ".")
	return hmac.Equal([]byte(sum), []byte(sessionSum(c, visit)))
}

func sessionSum(c store.Connect, visit string) string {
	mac := hmac.New(sha256.New, []byte(c.Secret))
	mac.Write([]byte(c.ID + visit)) // all ids are of one length
	return hex.EncodeToString(mac.Sum(nil))
}

// connectStep takes one step of an authorization by link after the first. ErrLost: somebody else took one meanwhile.
func (r *Refresher) connectStep(ctx context.Context, c store.Connect, q events.ConnectOpen) (events.ConnectOpened, error) {
	now := r.now()
	opened := r.opened(c)
	if !isSession(c, q.Session) {
		return opened, events.Refused(http.StatusForbidden, "this browser did not open the link")
	}
	expired := now.After(c.ExpiresAt) && now.After(c.PreAuthExpiresAt)
	switch q.Step {
	case events.StepCallback:
		switch {
		case !events.IsDigest(q.CodeSHA256):
			return opened, events.BadRequest("code_sha256: want the hex SHA-256 of the code")
		case strings.EqualFold(c.CodeDigest, q.CodeSHA256): // again: the back button, or a reload
		case c.CodeDigest != "" && !cameToNothing(c):
			return opened, errLinkOver
		case expired:
			return opened, errLinkOver
		default:
			c.CodeDigest, c.CodeAt = strings.ToLower(q.CodeSHA256), now.UTC()
			if c.Authorizer == "" { // otherwise the push came first
				c.State, c.Reason, c.EndedAt, c.SpentAt = events.ConnectExchanging, "", time.Time{}, time.Time{}
			}
			if _, err := r.store.SaveConnect(ctx, c, now); err != nil {
				return opened, err
			}
		}
	case events.StepResult:
		if c.State == events.ConnectPending && expired {
			return opened, errLinkOver
		}
	default:
		return opened, events.BadRequest("step: want %s, %s or %s", events.StepLanding, events.StepCallback, events.StepResult)
	}
	opened.State, opened.CodeAt, opened.Authorizer, opened.Reason = c.State, c.CodeAt, c.Authorizer, c.Reason
	if c.Authorizer != "" {
		opened.NickName = r.nickName(ctx, wxtoken.AuthorizerKey(c.Component, c.Authorizer))
	}
	if c.State == events.ConnectAuthorized && c.Return != "" {
		opened.ReturnTo = returnTo(c)
	}
	return opened, nil
}

// cameToNothing reports whether a link's code is known to be no good, so that it must not keep out the next one: anybody who
// has the link can open it and come back with nonsense.
func cameToNothing(c store.Connect) bool {
	return c.Authorizer == "" && (c.State == events.ConnectFailed || !c.SpentAt.IsZero())
}

// preAuth returns the link with a pre-auth code that is good for a while. One that was shown before is shown again, so that
// a page that is loaded a hundred times costs WeChat one call.
func (r *Refresher) preAuth(ctx context.Context, c store.Connect) (store.Connect, error) {
	now := r.now()
	if c.PreAuthCode != "" && c.PreAuthExpiresAt.Sub(now) > preAuthLeft {
		return c, nil
	}
	comp, ok := r.component(c.Component)
	if !ok {
		return c, events.UnknownComponent(c.Component)
	}
	var code wechat.PreAuthCode
	var err error
	for try := range preAuthTries { // a person waits: a WeChat that is busy once is asked again at once
		turn, held := comp.gate.Admit(ctx, gate.Call{API: wechat.APICreatePreAuthCode})
		if held != nil {
			return c, held
		}
		err = turn.Make(ctx, func(token string) (err error) {
			code, err = r.wx.CreatePreAuthCode(ctx, token, c.Component)
			return err
		})
		if err == nil || wechat.Judge(err) != wechat.Retry || try == preAuthTries-1 {
			break
		}
		select {
		case <-ctx.Done():
			return c, fmt.Errorf("get a pre-auth code: %w", err)
		case <-time.After(preAuthPause):
		}
	}
	if err != nil {
		return c, fmt.Errorf("get a pre-auth code: %w", err)
	}
	c.PreAuthCode, c.PreAuthExpiresAt = code.Code, now.Add(code.ExpiresIn).UTC()
	// First: once the merchant has the code, its push may come.
	if err := r.store.IndexConnect(ctx, c, now); err != nil {
		return c, err
	}
	return r.store.SaveConnect(ctx, c, now)
}

func (r *Refresher) nickName(ctx context.Context, key wxtoken.Key) string {
	s, _, err := r.store.Status(ctx, key)
	if err != nil || s.Authorizer == nil {
		return ""
	}
	var name string
	_ = json.Unmarshal(s.Authorizer.Profile["nick_name"], &name) // WeChat's; no name is no fault
	return name
}

// returnTo is the caller's address with what it has to know.
func returnTo(c store.Connect) string {
	u, err := url.Parse(c.Return)
	if err != nil {
		return "" // it was read when the link was made
	}
	v := u.Query()
	v.Set("component_appid", c.Component)
	v.Set("authorizer_appid", c.Authorizer)
	if c.Ref != "" {
		v.Set("ref", c.Ref)
	}
	u.RawQuery = v.Encode()
	return u.String()
}

// connectOf returns the link through which an event came, nil if through none.
func (r *Refresher) connectOf(ctx context.Context, a events.Auth) (*store.Connect, error) {
	var c store.Connect
	var ok bool
	var err error
	if a.Connect != "" {
		c, ok, err = r.store.Connect(ctx, a.Connect)
	} else {
		c, ok, err = r.store.ConnectOf(ctx, a.PreAuthCode)
	}
	if errors.Is(err, store.ErrUnreadable) || err == nil && (!ok || c.Component != a.Component) {
		return nil, nil // no more than a ref is lost
	}
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// linkFor returns the link if it is one for that account, and nil if not: a link is one authorization, and may be limited to
// one account. What another account authorized stands, without the link's ref.
func (r *Refresher) linkFor(ctx context.Context, link *store.Connect, account string) (*store.Connect, error) {
	switch {
	case link == nil || link.Authorizer != "" && link.Authorizer != account:
		return nil, nil
	case forAnother(link, account):
		r.log.Warn().Str("component", link.Component).Str("connect", link.ID[:8]).Str("account", account).Str("biz_appid", link.BizAppID).
			Msg("another account was authorized than the link is for")
		return nil, r.connected(ctx, link, events.ConnectFailed, "", "another_account")
	}
	return link, nil
}

// forAnother reports whether a link is limited to another account. WeChat's page sees to that, but a redirect's code may come
// from anywhere.
func forAnother(link *store.Connect, account string) bool {
	return link != nil && link.BizAppID != "" && link.BizAppID != account
}

// claimLink takes a link for a code, so that redirect and push don't both have theirs exchanged. It respects somebody
// else's claim as claim does.
func (r *Refresher) claimLink(ctx context.Context, link *store.Connect, m events.Msg) error {
	if link == nil {
		return nil
	}
	now, purpose := r.now(), fmt.Sprintf("auth/%d", m.Sequence)
	if held := link.Claim; held != nil && now.Before(held.Until) && !(m.Redelivered && held.For == purpose) {
		return events.Later(claimedDelay, errors.New("exchange code: the other code of the link is being exchanged"))
	}
	link.Claim = &account.Claim{By: r.id, For: purpose, Until: now.Add(account.ClaimFor).UTC()}
	saved, err := r.store.SaveConnect(ctx, *link, now)
	if errors.Is(err, store.ErrLost) {
		return events.Later(lostDelay, err)
	}
	if err != nil {
		return err
	}
	*link = saved
	return nil
}

// refFor returns the ref of a credential that was authorized through link.
func refFor(cred account.Credential, link *store.Connect) (ref string, conflict bool) {
	if link == nil {
		return cred.Ref, false
	}
	return cred.RefThrough(link.Ref, link.Move)
}

// connected notes on a link how its authorization ended.
func (r *Refresher) connected(ctx context.Context, link *store.Connect, state, authorizer, reason string) error {
	if link == nil {
		return nil
	}
	return r.store.UpdateConnect(ctx, link.ID, r.now(), func(c *store.Connect) bool {
		if c.State == state && c.Authorizer == authorizer && c.Reason == reason || c.Authorizer != "" {
			return false // whoever knows the account knows best
		}
		c.State, c.Authorizer, c.Reason, c.EndedAt, c.Claim = state, authorizer, reason, r.now().UTC(), nil
		return true
	})
}

// reauthorizeURL returns a link for an account that has to authorize again; "" where no links are made.
func (r *Refresher) reauthorizeURL(ctx context.Context, cred account.Credential) string {
	if r.cfg.PublicURL == "" || cred.Key.Kind != wxtoken.KindAuthorizer {
		return ""
	}
	link, err := r.newConnect(ctx, events.ConnectCreate{
		Component: cred.Key.Component, Ref: cred.Ref, AuthType: 3, BizAppID: cred.Key.Authorizer,
	}, reauthorizeLife)
	if err != nil {
		r.log.Warn().Err(err).Stringer("key", cred.Key).Msg("authorization link not made")
	}
	return link.URL
}
