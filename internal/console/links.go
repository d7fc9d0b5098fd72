package console

import (
	"context"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/wechat"
)

// linksPage shows the authorization links.
func (c *Console) linksPage() Page {
	return Page{
		Path: "/links", Name: "links", Nav: lang.T("Links", "授权链接"), Title: lang.T("Authorization links", "授权链接"),
		Params: []string{"component", "state", "q"},
		Data:   func(ctx context.Context, q *Request) (any, error) { return c.links(ctx, q) },
	}
}

// Links is what the page of links shows.
type Links struct {
	At         time.Time  `json:"at"`
	Links      []LinkView `json:"links"`
	More       bool       `json:"more"` // older ones are left out
	Components []string   `json:"components"`

	filtered bool
}

// LinkView is a link and its state now.
type LinkView struct {
	events.ConnectSeen
	Standing string `json:"standing"` // waits, opened, expired, or the state that is stored
}

// The states of a link that are not stored, but follow from its times.
const (
	linkWaits   = "waits"
	linkOpened  = "opened"
	linkExpired = "expired"
)

// links makes the page of links.
func (c *Console) links(ctx context.Context, q *Request) (Links, error) {
	component, standing, text := q.Query.Get("component"), q.Query.Get("state"), strings.ToLower(strings.TrimSpace(q.Query.Get("q")))
	if component != "" && !wxtoken.ValidAppID(component) {
		return Links{}, badRequest(lang.T("component: want an appid", "component：应为 appid"))
	}
	l := Links{At: q.Now, Links: []LinkView{}, Components: c.componentAppIDs(), filtered: component+standing+text != ""}
	var answer events.ConnectListed
	if err := c.ask(ctx, events.SubjectConnectList, events.ConnectList{Component: component, Limit: events.MaxConnectList}, &answer); err != nil {
		return Links{}, err
	}
	l.More = answer.More
	for _, one := range answer.Links {
		v := LinkView{one, standingOf(one, q.Now)}
		searched := strings.ToLower(strings.Join([]string{one.Link, one.Component, one.Ref, one.BizAppID, one.Authorizer, one.ReturnHost}, " "))
		if (standing == "" || v.Standing == standing) && strings.Contains(searched, text) {
			l.Links = append(l.Links, v)
		}
	}
	return l, nil
}

// standingOf returns the state of a link at a time.
func standingOf(one events.ConnectSeen, now time.Time) string {
	over := now.After(one.ExpiresAt)
	switch {
	case one.State != events.ConnectPending:
		return one.State
	case over:
		return linkExpired
	case !one.OpenedAt.IsZero():
		return linkOpened
	}
	return linkWaits
}

// linkStandings are the states of links in words.
var linkStandings = []choice{
	{linkWaits, lang.T("not opened yet", "尚未打开")},
	{linkOpened, lang.T("opened", "已打开")},
	{events.ConnectExchanging, lang.T("being authorized", "授权处理中")},
	{events.ConnectAuthorized, lang.T("authorized", "已授权")},
	{events.ConnectConflict, lang.T("authorized, but has another ref", "已授权，但 ref 不同")},
	{events.ConnectFailed, lang.T("failed", "未成功")},
	{linkExpired, lang.T("expired", "已过期")},
}

// Standings are the states that the form offers.
func (l Links) Standings() []choice { return linkStandings }

// Filtered reports whether a filter is set.
func (l Links) Filtered() bool { return l.filtered }

// Word is the state in words.
func (v LinkView) Word() lang.Text {
	for _, s := range linkStandings {
		if s.Param == v.Standing {
			return s.Text
		}
	}
	return lang.Same(printable(v.Standing))
}

// Tone is the class of its badge: that of a state with the same colour.
func (v LinkView) Tone() string {
	switch v.Standing {
	case events.ConnectAuthorized:
		return "active"
	case events.ConnectConflict, linkOpened, events.ConnectExchanging:
		return "renewing_failed"
	case events.ConnectFailed:
		return "operator"
	}
	return ""
}

// linkReasons say why a link failed.
var linkReasons = map[string]lang.Text{
	"another_account":   lang.T("the merchant authorized another account than the link is for; its tokens are kept, without the ref", "授权的账号不是链接指定的账号；其令牌已保存，但没有 ref"),
	"no_api_permission": lang.T("the merchant granted no API permission, so WeChat gives no token", "商家没有授予任何接口权限，微信不给令牌"),

	wechat.Retry.String():               lang.T("WeChat was busy or did not answer until the code had expired", "微信繁忙或没有应答，直到授权码失效"),
	wechat.SlowDown.String():            lang.T("WeChat accepted no more calls until the code had expired", "微信限制了调用频率，直到授权码失效"),
	wechat.QuotaGone.String():           lang.T("the day's quota of the call is gone", "该接口当天的调用额度用完"),
	wechat.RenewComponentToken.String(): lang.T("WeChat refused the component's token", "微信拒绝了第三方平台的令牌"),
	wechat.RenewAccountToken.String():   lang.T("WeChat refused the account's token", "微信拒绝了该账号的令牌"),
	wechat.WaitForTicket.String():       lang.T("the component has no ticket that WeChat accepts", "第三方平台没有微信认可的验证票据"),
	wechat.RecoverRefreshToken.String(): lang.T("WeChat refused the refresh token", "微信拒绝了刷新令牌"),
	wechat.Revoked.String():             lang.T("the merchant cancelled at once", "商家随即取消了授权"),
	wechat.CodeSpent.String():           lang.T("WeChat says that the code is spent or has expired", "微信答复：授权码已使用或已失效"),
	wechat.Operator.String():            lang.T("WeChat refuses the component's calls: see the overview", "微信拒绝第三方平台的调用：见概览"),
}

// Outcome says in a sentence how the link stands.
func (v LinkView) Outcome() lang.Text {
	switch v.Standing {
	case linkWaits:
		return lang.T("It was not opened yet.", "尚未打开。")
	case linkOpened:
		return lang.T("It was opened; the browser has not come back from WeChat yet.", "已在浏览器中打开，尚未从微信返回。")
	case linkExpired:
		if v.OpenedAt.IsZero() {
			return lang.T("It expired without being opened. Make another.", "未打开即已过期。请重新生成。")
		}
		return lang.T("It was opened, but expired before the merchant confirmed. Make another.", "打开过，但商家确认之前已过期。请重新生成。")
	case events.ConnectExchanging:
		return lang.T("A code came and is being exchanged.", "已收到授权码，正在换取令牌。")
	case events.ConnectAuthorized:
		return lang.T("The merchant authorized.", "商家已授权。")
	case events.ConnectConflict:
		return lang.T("The merchant authorized, but the account already has another ref, which was not changed.", "商家已授权，但该账号已属于另一个 ref，未变更。")
	case events.ConnectFailed:
		if text, ok := linkReasons[v.Reason]; ok {
			return lang.T("It failed: %s.", "未成功：%s。", text)
		}
		return lang.T("It failed: %s. Until it expires it can be tried again.", "未成功：%s。有效期内可以再试。", printable(v.Reason))
	}
	return v.Word()
}

// AccountHref leads to the account that authorized; "" if none did.
func (v LinkView) AccountHref() string {
	if v.Authorizer == "" {
		return ""
	}
	return Row{Key: wxtoken.AuthorizerKey(v.Component, v.Authorizer)}.Href()
}

// RefText is the ref as it can be shown.
func (v LinkView) RefText() string { return printable(v.Ref) }
