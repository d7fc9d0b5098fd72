package wechatsim

import (
	"strings"
	"time"
)

const (
	userTokenLife   = 2 * time.Hour       // of a user's access token ("api_snsaccesstoken")
	userRefreshLife = 30 * 24 * time.Hour // of a user's refresh token ("api_snsrefreshtoken")
	scopeBase       = "snsapi_base"
	scopeUserInfo   = "snsapi_userinfo" // that of codes that begin with "userinfo"
)

// user is a user who has logged in to a page of an account, with what the user granted.
type user struct {
	component, account string // appids
	scope              string
	ends, refreshEnds  time.Time
}

// logIn checks a user's log-in to an account, and uses its code up. No page issues codes: any code
// works, once. It returns an errcode.
func (p *Platform) logIn(c *call, code string) int {
	if errcode := c.forUsers("authorization_code"); errcode != codeOK {
		return errcode
	}
	switch {
	case code == "":
		return codeLogInMissing
	case p.logIns[code]:
		return codeLogInUsed
	}
	p.logIns[code] = true
	return codeOK
}

// forUsers makes the checks that all calls for users of an account have in common. It returns an
// errcode.
func (c *call) forUsers(grant string) int {
	a := c.component.authorizers[c.request.AuthorizerAppID]
	switch {
	case c.request.AuthorizerAppID == "":
		return codeAppIDMissing
	case a == nil || !a.authorized:
		return codeNotAuthorized
	case c.query.Get("grant_type") != grant:
		return codeInvalidGrant
	}
	return codeOK
}

func (p *Platform) apiJSCode2Session(c *call) (object, int) {
	if errcode := p.logIn(c, c.query.Get("js_code")); errcode != codeOK {
		return nil, errcode
	}
	return object{{"openid", defaultOpenID}, {"session_key", p.makeSecret("session_key")}}, codeOK
}

// apiUserToken returns the tokens of a user who logged in to a page of an official account.
func (p *Platform) apiUserToken(c *call) (object, int) {
	code := c.query.Get("code")
	if errcode := p.logIn(c, code); errcode != codeOK {
		return nil, errcode
	}
	u := &user{
		component: c.component.AppID, account: c.request.AuthorizerAppID, scope: scopeBase, refreshEnds: p.now().Add(userRefreshLife),
	}
	if strings.HasPrefix(code, "userinfo") {
		u.scope = scopeUserInfo
	}
	refresh := p.makeSecret("user_refresh_token")
	p.userRefreshes[refresh] = u
	return p.userGrant(u, refresh), codeOK
}

// apiUserRefresh returns another access token for a user.
func (p *Platform) apiUserRefresh(c *call) (object, int) {
	if errcode := c.forUsers("refresh_token"); errcode != codeOK {
		return nil, errcode
	}
	refresh := c.query.Get("refresh_token")
	u := p.userRefreshes[refresh]
	switch {
	case refresh == "":
		return nil, codeUserRefreshMissing
	case u == nil, u.component != c.component.AppID, u.account != c.request.AuthorizerAppID, !p.now().Before(u.refreshEnds):
		return nil, codeUserRefreshInvalid
	}
	return p.userGrant(u, refresh), codeOK
}

// userGrant issues an access token to a user.
func (p *Platform) userGrant(u *user, refresh string) object {
	access := p.makeSecret("user_access_token")
	next := *u
	next.ends = p.now().Add(userTokenLife)
	p.users[access] = &next
	return object{
		{"access_token", access}, {"expires_in", int(userTokenLife / time.Second)},
		{"refresh_token", refresh}, {"openid", defaultOpenID}, {"scope", u.scope},
	}
}

// checkUser checks the user's token of a call. Tokens of accounts and components are not accepted.
// It returns an errcode.
func (p *Platform) checkUser(c *call) int {
	c.user = p.users[c.query.Get("access_token")]
	switch {
	case c.query.Get("access_token") == "":
		return codeTokenMissing
	case c.user == nil:
		return codeInvalidCredential
	case !p.now().Before(c.user.ends):
		return codeTokenExpired
	case c.query.Get("openid") != defaultOpenID:
		return codeInvalidOpenID
	}
	c.component, c.token = p.components[c.user.component], nil
	c.componentAppID, c.authorizer = c.user.component, c.user.account
	return codeOK
}

func (p *Platform) apiSNSUserInfo(c *call) (object, int) {
	if c.user.scope != scopeUserInfo {
		return nil, codeNotGranted
	}
	return object{
		{"openid", defaultOpenID}, {"nickname", "模拟用户"}, {"sex", 0}, {"language", ""}, {"city", ""}, {"province", ""},
		{"country", ""}, {"headimgurl", ""}, {"privilege", []string{}},
	}, codeOK
}

// apiSNSAuth returns that the token is valid: it has been checked already.
func (p *Platform) apiSNSAuth(*call) (object, int) { return done(), codeOK }
