package wechatsim

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

func (p *Platform) apiComponentToken(c *call) (object, int) {
	end, known := c.component.tickets[c.request.ComponentVerifyTicket]
	switch {
	case c.request.ComponentAppSecret == "":
		return nil, codeSecretMissing
	case !equal(c.request.ComponentAppSecret, c.component.secret):
		return nil, codeInvalidSecret
	case !known:
		return nil, codeTicketInvalid
	case !p.now().Before(end):
		return nil, codeTicketExpired
	}
	t := p.issueToken(c.component, nil)
	return object{{"component_access_token", t.value}, {"expires_in", p.expiresIn()}}, codeOK
}

func (p *Platform) expiresIn() int { return int(p.config.TokenLife / time.Second) }

func (p *Platform) apiStartPushTicket(c *call) (object, int) {
	switch {
	case c.request.ComponentSecret == "":
		return nil, codeSecretMissing
	case !equal(c.request.ComponentSecret, c.component.secret):
		return nil, codeInvalidSecret
	}
	errmsg := "in a normal state"
	if !c.component.pushing {
		errmsg = "ok"
		c.component.pushing = true
		c.component.failingSince = time.Time{}
	}
	return object{{"errcode", codeOK}, {"errmsg", errmsg}}, codeOK
}

func (p *Platform) apiCreatePreAuthCode(c *call) (object, int) {
	return object{{"pre_auth_code", p.issuePreAuth(c.component)}, {"expires_in", int(preAuthCodeLife / time.Second)}}, codeOK
}

func (p *Platform) apiQueryAuth(c *call) (object, int) {
	code := p.codes[c.request.AuthorizationCode]
	if code == nil || code.used || code.component != c.component.AppID {
		return nil, codeCodeInvalid
	}
	a := c.component.authorizers[code.authorizer]
	switch {
	case !a.authorized || a.epoch != code.epoch: // cancelled, or authorized again since
		return nil, codeCodeInvalid
	case !p.now().Before(code.expires):
		return nil, codeCodeExpired
	}
	code.used, a.exchanged = true, true
	t := p.issueToken(c.component, a)
	return object{{"authorization_info", object{
		{"authorizer_appid", a.appid},
		{"authorizer_access_token", t.value},
		{"expires_in", p.expiresIn()},
		{"authorizer_refresh_token", a.refresh},
		{"func_info", funcInfo()},
	}}}, codeOK
}

// funcInfo returns the permission sets that every account grants: messages, users, development.
func funcInfo() []object {
	var list []object
	for _, id := range []int{1, 2, 18} {
		list = append(list, object{{"funcscope_category", object{{"id", id}}}})
	}
	return list
}

func (p *Platform) apiAuthorizerToken(c *call) (object, int) {
	if c.request.AuthorizerAppID == "" {
		return nil, codeAppIDMissing
	}
	a := c.component.authorizers[c.request.AuthorizerAppID]
	if a == nil || !a.authorized {
		return nil, codeNotAuthorized
	}
	if c.refreshGeneration = p.refreshGenerationOf(a, c.request.AuthorizerRefresh); c.refreshGeneration == 0 {
		return nil, codeRefreshInvalid
	}
	switch p.config.Rotation {
	case RotateEach:
		p.issueRefresh(c.component, a, refreshTokenGrace)
	case RotateEachOldDead:
		clear(a.oldRefresh)
		p.issueRefresh(c.component, a, 0)
	}
	t := p.issueToken(c.component, a)
	return object{
		{"authorizer_access_token", t.value}, {"expires_in", p.expiresIn()}, {"authorizer_refresh_token", a.refresh},
	}, codeOK
}

func (p *Platform) apiGetAuthorizerInfo(c *call) (object, int) {
	if c.request.AuthorizerAppID == "" {
		return nil, codeAppIDMissing
	}
	a := c.component.authorizers[c.request.AuthorizerAppID]
	if a == nil || !a.authorized {
		return nil, codeNotAuthorized
	}
	authorization := object{{"authorizer_appid", a.appid}, {"func_info", funcInfo()}}
	if a.exchanged || !p.config.HideUnexchanged {
		authorization = append(authorization, field{"authorizer_refresh_token", a.refresh})
	}
	return object{
		{"authorizer_info", object{
			{"nick_name", "账号 " + a.appid},
			{"head_img", "http://wx.qlogo.cn/mmopen/sim/0"},
			{"service_type_info", object{{"id", 2}}},
			{"verify_type_info", object{{"id", 0}}},
			{"user_name", OriginalID(a.appid)},
			{"principal_name", "模拟有限公司"},
			{"alias", ""},
			{"business_info", object{{"open_store", 0}, {"open_scan", 0}, {"open_pay", 0}, {"open_card", 0}, {"open_shake", 0}}},
			{"qrcode_url", "http://mmbiz.qpic.cn/mmbiz_jpg/sim/0"},
			{"account_status", 1},
		}},
		{"authorization_info", authorization},
	}, codeOK
}

// OriginalID returns the gh_ id (原始ID) of an account: ToUserName of its messages and user_name in
// api_get_authorizer_info. ReleaseAccounts have their real ones.
func OriginalID(appid string) string {
	if account, known := lent(appid); known {
		return account.originalID
	}
	sum := sha256.Sum256([]byte(appid))
	return "gh_" + hex.EncodeToString(sum[:6])
}

func (p *Platform) apiGetAuthorizerList(c *call) (object, int) {
	if c.request.Count > maxListCount {
		return nil, codeTooManyArgs
	}
	var live []*authorizer
	for _, a := range c.component.authorizers {
		if a.authorized {
			live = append(live, a)
		}
	}
	// WeChat's order is not documented: this one has no meaning, but does not change.
	slices.SortFunc(live, func(a, b *authorizer) int { return strings.Compare(OriginalID(a.appid), OriginalID(b.appid)) })
	if p.config.ShuffleList {
		p.rng.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	}
	total := len(live)
	first := min(max(c.request.Offset, 0), total)
	last := min(first+max(c.request.Count, 0), total)
	list := []object{}
	for _, a := range live[first:last] {
		item := object{{"authorizer_appid", a.appid}}
		if a.exchanged || !p.config.HideUnexchanged {
			item = append(item, field{"refresh_token", a.refresh})
		}
		list = append(list, append(item, field{"auth_time", a.authTime.Unix()}))
	}
	return object{{"total_count", total}, {"list", list}}, codeOK
}

func (p *Platform) apiGetCallbackIP(*call) (object, int) {
	return object{{"ip_list", []string{"127.0.0.1"}}}, codeOK
}

// ticketTypes are the types of getticket ("api_getticket").
var ticketTypes = map[string]string{"jsapi": whatJSAPITicket, "wx_card": whatWxCardTicket}

// apiGetTicket returns the full life as expires_in however old the ticket is, as callers of the
// real platform found out.
func (p *Platform) apiGetTicket(c *call) (object, int) {
	what, known := ticketTypes[c.query.Get("type")]
	if !known {
		return nil, codeInvalidArgs
	}
	t := p.accountTicket(c.component, c.account(), what)
	return object{
		{"errcode", codeOK}, {"errmsg", "ok"}, {"ticket", t.value}, {"expires_in", int(p.config.AccountTicketLife / time.Second)},
	}, codeOK
}

// withoutSecret returns a text for the history: only its Fingerprint if it contains a secret.
func withoutSecret(text string) string {
	if strings.Contains(text, "SEKRET") {
		return "sha256:" + Fingerprint(text)
	}
	return text
}
