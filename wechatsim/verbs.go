package wechatsim

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"wxtoken/client"
)

// Authorize lets an account authorize the component, without a browser: the platform lists it and
// pushes "authorized" with a code. It returns an error if the account is authorized already.
// componentAppID may be empty, here and below, if there is only one component.
func (p *Platform) Authorize(componentAppID, authorizer string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return fmt.Errorf("authorize: %w", err)
	}
	if !wxtoken.ValidAppID(authorizer) {
		return fmt.Errorf("authorize: %q is not an appid", authorizer)
	}
	if a := c.authorizers[authorizer]; a != nil && a.authorized {
		return fmt.Errorf("authorize: account %q authorizes component %q already: cancel it or reauthorize", authorizer, c.AppID)
	}
	p.authorize(c, authorizer, "")
	return nil
}

// Reauthorize lets an account change its permissions: it gets a new refresh token, the old one is
// invalid at once, its access tokens stay valid for Overlap, and "updateauthorized" is pushed with
// a code.
func (p *Platform) Reauthorize(componentAppID, authorizer string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, a, err := p.account(componentAppID, authorizer)
	if err != nil {
		return fmt.Errorf("reauthorize: %w", err)
	}
	p.authorize(c, a.appid, "")
	return nil
}

// Consent lets an account authorize through an authorization link. It uses up the link's pre-auth
// code and returns the address to which WeChat sends the browser: redirectURI with auth_code and
// expires_in. The event is pushed as well.
func (p *Platform) Consent(componentAppID, authorizer, preAuthCode, redirectURI string) (location string, err error) {
	return p.consentTo(link{Component: componentAppID, PreAuthCode: preAuthCode, RedirectURI: redirectURI}, authorizer)
}

// consentTo does what Consent does, and records it.
func (p *Platform) consentTo(l link, authorizer string) (location string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(l.Component)
	if err == nil {
		l.Component = c.AppID
		location, err = p.consent(c, l, authorizer)
	}
	p.recordLink(EntryConsent, l, authorizer, "", err)
	if err != nil {
		return "", fmt.Errorf("consent: %w", err)
	}
	return location, nil
}

// consent authorizes an account and uses its link up. The caller holds p.mu.
func (p *Platform) consent(c *component, l link, authorizer string) (location string, err error) {
	redirect, err := parseURL(l.RedirectURI)
	if err != nil {
		return "", errors.New("redirect_uri is not http:// or https:// with a host")
	}
	if !wxtoken.ValidAppID(authorizer) {
		return "", fmt.Errorf("%q is not an appid", authorizer)
	}
	if l.BizAppID != "" && authorizer != l.BizAppID {
		return "", fmt.Errorf("the link is for account %q alone, not for %q", l.BizAppID, authorizer)
	}
	pre, err := p.checkPreAuth(c, l.PreAuthCode)
	if err != nil {
		return "", err
	}
	pre.used = true
	code, _ := p.authorize(c, authorizer, l.PreAuthCode)
	if p.config.TwoCodes {
		code = p.issueCode(c, c.authorizers[authorizer])
	}
	query := "auth_code=" + url.QueryEscape(code) + "&expires_in=" + strconv.Itoa(int(p.config.CodeLife/time.Second))
	if redirect.RawQuery != "" {
		query = redirect.RawQuery + "&" + query
	}
	redirect.RawQuery = query
	return redirect.String(), nil
}

// checkPreAuth returns a pre-auth code, or an error if it can't be used any more. The caller holds
// p.mu.
func (p *Platform) checkPreAuth(c *component, value string) (*preAuthCode, error) {
	pre := c.preAuth[value]
	switch {
	case pre == nil || !p.now().Before(pre.expires):
		return nil, errors.New("the pre-auth code is unknown or expired")
	case pre.used:
		return nil, errors.New("the pre-auth code was used already")
	}
	return pre, nil
}

// Register plays the quick registration of a mini program: the new account authorizes the
// component, and "notify_third_fasteregister" is pushed with the code instead of "authorized".
func (p *Platform) Register(componentAppID, authorizer string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	if !wxtoken.ValidAppID(authorizer) || c.authorizers[authorizer] != nil {
		return fmt.Errorf("register: %q is not an appid, or not a new one", authorizer)
	}
	a := p.grant(c, authorizer)
	p.pushInfo(c, a.appid, "notify_third_fasteregister",
		field{"appid", a.appid}, field{"status", 0}, field{"auth_code", p.issueCode(c, a)}, field{"msg", "OK"},
		field{"info", object{
			{"name", "模拟有限公司"}, {"code", "91440000SIM0000000"}, {"code_type", 1},
			{"legal_persona_wechat", "sim"}, {"legal_persona_name", "模拟"}, {"component_phone", "0"},
		}})
	return nil
}

// grant makes an account authorize, for the first time or again, without a push. The caller holds
// p.mu.
func (p *Platform) grant(c *component, appid string) *authorizer {
	a := c.authorizers[appid]
	if a == nil {
		a = &authorizer{appid: appid, oldRefresh: map[string]oldRefresh{}, tickets: map[string]*token{}}
		c.authorizers[appid] = a
	}
	a.epoch++
	a.authorized, a.exchanged = true, false
	a.authTime = p.now().Truncate(time.Second) // WeChat's times are whole seconds
	p.record(Entry{Kind: EntryAuthorize, Component: c.AppID, Authorizer: appid, Generation: a.epoch})
	about(p.config.Log.Info(), c.AppID, appid).Int("times", a.epoch).Msg("account authorized")
	clear(a.oldRefresh)
	p.issueRefresh(c, a, 0)
	p.retire(&a.live, p.config.Overlap)
	return a
}

// authorize makes an account authorize, and pushes the event with a code. It returns both. The
// caller holds p.mu.
func (p *Platform) authorize(c *component, appid, preAuthCode string) (code string, event *push) {
	infoType := "authorized"
	if a := c.authorizers[appid]; a != nil && a.authorized {
		infoType = "updateauthorized"
	}
	if preAuthCode == "" {
		preAuthCode = p.issuePreAuth(c)
		c.preAuth[preAuthCode].used = true
	}
	a := p.grant(c, appid)
	code = p.issueCode(c, a)
	expires := p.codes[code].expires.Unix()
	if vary := p.vary(); vary != nil && vary.IntN(4) == 0 {
		// The page says "in seconds" and no more; samples show both readings.
		expires = int64(p.config.CodeLife / time.Second)
	}
	return code, p.pushInfo(c, appid, infoType,
		field{"AuthorizerAppid", appid}, field{"AuthorizationCode", code},
		field{"AuthorizationCodeExpiredTime", expires}, field{"PreAuthCode", preAuthCode})
}

// Cancel lets an account cancel its authorization: refresh tokens, codes and (unless
// KeepTokensOnCancel) access tokens and tickets are invalid at once, and "unauthorized" is pushed.
func (p *Platform) Cancel(componentAppID, authorizer string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, a, err := p.account(componentAppID, authorizer)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	p.cancel(c, a)
	return nil
}

// cancel does what Cancel does, and returns the event. The caller holds p.mu.
func (p *Platform) cancel(c *component, a *authorizer) *push {
	a.authorized = false
	p.record(Entry{Kind: EntryCancel, Component: c.AppID, Authorizer: a.appid, Generation: a.epoch})
	about(p.config.Log.Info(), c.AppID, a.appid).Msg("authorization cancelled")
	p.killRefresh(c, a)
	if !p.config.KeepTokensOnCancel {
		p.retire(&a.live, 0)
		tickets := slices.SortedFunc(maps.Values(a.tickets), func(a, b *token) int { return strings.Compare(a.what, b.what) })
		p.retire(&tickets, 0)
	}
	return p.pushInfo(c, a.appid, "unauthorized", field{"AuthorizerAppid", a.appid})
}

// Invalidate makes the access tokens of an account invalid at once, or those of the component
// itself if authorizer is empty: as when another program renews them.
func (p *Platform) Invalidate(componentAppID, authorizer string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return fmt.Errorf("invalidate: %w", err)
	}
	live := &c.live
	if authorizer != "" {
		a := c.authorizers[authorizer]
		if a == nil {
			return fmt.Errorf("invalidate: unknown account %q", authorizer)
		}
		live = &a.live
	}
	p.retire(live, 0)
	return nil
}

// PushTicket makes a new ticket and pushes it now, even if tickets are stopped.
func (p *Platform) PushTicket(componentAppID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return fmt.Errorf("push ticket: %w", err)
	}
	p.pushTicket(c)
	return nil
}

// StopTickets stops the regular tickets of a component; api_start_push_ticket does not bring them
// back.
func (p *Platform) StopTickets(componentAppID string) error {
	return p.setStopped(componentAppID, true)
}

// StartTickets starts the regular tickets again, from the next time they are due.
func (p *Platform) StartTickets(componentAppID string) error {
	return p.setStopped(componentAppID, false)
}

func (p *Platform) setStopped(componentAppID string, stopped bool) error {
	text := "start tickets"
	if stopped {
		text = "stop tickets"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	c.stopped = stopped
	p.record(Entry{Kind: EntryFault, Component: c.AppID, Text: text})
	return nil
}

// SetSecret changes the AppSecret of a component, as its operator does on the console. The old one
// is refused at once; tokens and tickets stay.
func (p *Platform) SetSecret(componentAppID, secret string) error {
	if strings.TrimSpace(secret) == "" {
		return errors.New("set secret: empty secret")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component(componentAppID)
	if err != nil {
		return fmt.Errorf("set secret: %w", err)
	}
	c.secret = secret
	p.secrets = append(p.secrets, secret)
	p.record(Entry{Kind: EntryFault, Component: c.AppID, Text: "appsecret changed"})
	return nil
}
