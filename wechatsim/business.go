package wechatsim

import (
	"cmp"
	"encoding/json"
	"net/http"
)

// maxButtons is how many buttons a menu may have at the top level.
const maxButtons = 3

// business are the APIs that services call with the token of an account or, to log its users in,
// with that of the component, and then with those of users.
var business = []*api{
	{name: "user/info", path: "/cgi-bin/user/info", token: accountToken, get: true, run: (*Platform).apiUserInfo},
	{name: "user/get", path: "/cgi-bin/user/get", token: accountToken, get: true, run: (*Platform).apiUserGet},
	{name: "message/custom/send", path: "/cgi-bin/message/custom/send", token: accountToken, run: (*Platform).apiCustomSend},
	{name: "message/template/send", path: "/cgi-bin/message/template/send", token: accountToken, run: (*Platform).apiTemplateSend},
	{name: "menu/create", path: "/cgi-bin/menu/create", token: accountToken, run: (*Platform).apiMenuCreate},
	{name: "menu/get", path: "/cgi-bin/menu/get", token: accountToken, get: true, run: (*Platform).apiMenuGet},
	{name: "menu/delete", path: "/cgi-bin/menu/delete", token: accountToken, get: true, run: (*Platform).apiMenuDelete},
	{name: "media/upload", path: "/cgi-bin/media/upload", token: accountToken, upload: true, run: (*Platform).apiMediaUpload},
	{name: mediaGet, path: "/cgi-bin/media/get", token: accountToken, get: true, run: (*Platform).apiMediaGet},
	{name: "get_api_domain_ip", path: "/cgi-bin/get_api_domain_ip", token: eitherToken, get: true, run: (*Platform).apiGetCallbackIP},
	{name: "sns/component/jscode2session", path: "/sns/component/jscode2session", token: componentToken, get: true, run: (*Platform).apiJSCode2Session},
	{name: "sns/oauth2/component/access_token", path: "/sns/oauth2/component/access_token", token: componentToken, get: true, run: (*Platform).apiUserToken},
	{name: "sns/oauth2/component/refresh_token", path: "/sns/oauth2/component/refresh_token", token: componentToken, get: true, run: (*Platform).apiUserRefresh},
	{name: "sns/userinfo", path: "/sns/userinfo", token: userToken, get: true, run: (*Platform).apiSNSUserInfo},
	{name: "sns/auth", path: "/sns/auth", token: userToken, get: true, run: (*Platform).apiSNSAuth},
}

// readQuery fills in the fields that calls with GET have in the query instead of the body.
func (c *call) readQuery() {
	if c.method == http.MethodGet {
		c.request.ComponentAppID, c.request.AuthorizerAppID = c.query.Get("component_appid"), c.query.Get("appid")
	}
}

// done returns the answer of an API that returns no data.
func done() object { return object{{"errcode", codeOK}, {"errmsg", "ok"}} }

// account returns the account whose token a call uses.
func (c *call) account() *authorizer { return c.component.authorizers[c.token.authorizer] }

func (p *Platform) apiUserInfo(c *call) (object, int) {
	return object{{"subscribe", 1}, {"openid", cmp.Or(c.query.Get("openid"), defaultOpenID)}, {"language", "zh_CN"}}, codeOK
}

// apiUserGet lists the one user that every account has. After the last user there is no list.
func (p *Platform) apiUserGet(c *call) (object, int) {
	if c.query.Get("next_openid") != "" {
		return object{{"total", 1}, {"count", 0}, {"next_openid", ""}}, codeOK
	}
	return object{{"total", 1}, {"count", 1}, {"data", object{{"openid", []string{defaultOpenID}}}}, {"next_openid", defaultOpenID}}, codeOK
}

func (p *Platform) apiCustomSend(c *call) (object, int) {
	c.text = withoutSecret(c.request.Text.Content)
	select {
	case c.account().sent <- customMessage{c.request.ToUser, c.request.MsgType, c.request.Text.Content}:
	default: // no release check is waiting for it
	}
	return done(), codeOK
}

func (p *Platform) apiTemplateSend(c *call) (object, int) {
	switch {
	case c.request.ToUser == "":
		return nil, codeInvalidOpenID
	case c.request.TemplateID == "":
		return nil, codeInvalidTemplate
	}
	c.text = withoutSecret(c.request.TemplateID)
	p.templates++
	return append(done(), field{"msgid", p.templates}), codeOK
}

func (p *Platform) apiMenuCreate(c *call) (object, int) {
	var buttons []json.RawMessage
	if err := json.Unmarshal(c.request.Button, &buttons); err != nil || len(buttons) == 0 || len(buttons) > maxButtons {
		return nil, codeInvalidButtons
	}
	c.account().menu = c.request.Button
	return done(), codeOK
}

func (p *Platform) apiMenuGet(c *call) (object, int) {
	menu := c.account().menu
	if menu == nil {
		return nil, codeNoMenu
	}
	return object{{"menu", object{{"button", menu}}}}, codeOK
}

func (p *Platform) apiMenuDelete(c *call) (object, int) {
	c.account().menu = nil
	return done(), codeOK
}
