package wechat

import (
	"fmt"
	"net/url"
)

// LinkParams are the parameters of an authorization link
// ("Authorization_Process_Technical_Description").
type LinkParams struct {
	Component   string // component_appid
	PreAuthCode string // a new one: it serves one authorization
	RedirectURI string // on the host that WeChat's console names
	AuthType    int    // 1 official accounts, 2 mini programs, 3 both, 4 to 6 and 8 others
	BizAppID    string // the only account that may authorize; empty for any
	Categories  string // ids of permission sets with | between them; empty for those already released
}

// The hosts of WeChat's authorization pages.
const (
	pcHost     = "https://mp.weixin.qq.com"
	mobileHost = "https://open.weixin.qq.com"
)

func (p LinkParams) values() url.Values {
	v := url.Values{
		"component_appid": {p.Component}, "pre_auth_code": {p.PreAuthCode}, "redirect_uri": {p.RedirectURI},
		"auth_type": {fmt.Sprint(p.AuthType)},
	}
	if p.BizAppID != "" {
		v.Set("biz_appid", p.BizAppID)
	}
	if p.Categories != "" {
		v.Set("category_id_list", p.Categories)
	}
	return v
}

// PC returns the address of the page with a QR code that an administrator scans. WeChat checks the
// Referer: the browser must come from a page on the host of RedirectURI. base replaces WeChat's
// host if it is not empty.
func (p LinkParams) PC(base string) string {
	return orDefault(base, pcHost) + "/cgi-bin/componentloginpage?" + p.values().Encode()
}

// Mobile returns the address of the page for an administrator who is in WeChat on a phone. base
// replaces WeChat's host if it is not empty.
func (p LinkParams) Mobile(base string) string {
	v := p.values()
	v.Set("action", "bindcomponent")
	v.Set("no_scan", "1")
	return orDefault(base, mobileHost) + "/wxaopen/safe/bindcomponent?" + v.Encode() + "#wechat_redirect"
}

func orDefault(base, host string) string {
	if base == "" {
		return host
	}
	return base
}
