// Package truth says in words why accounts can't call WeChat and what to do about it. Checks, pages and
// notices all ask here, so that they say the same.
package truth

import (
	"cmp"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
	"wxtoken/internal/wechat"
)

// The causes beside the reasons that hold a component back (wxtoken.Held...).
const (
	SealKeyUnknown = wxtoken.ReasonSealKeyUnknown // a component's events can't be opened
	// Accounts whose merchants have to authorize again.
	AuthorizationNeeded = "AuthorizationNeeded"
	// Accounts that granted no API permission: WeChat gives no token for them.
	NoAPIPermission = wxtoken.ReasonNoAPIPermission
	// Accounts whose renewal WeChat refuses because a permission set is missing.
	PermissionMissing = "PermissionMissing"
	// Accounts without a valid token, while nothing holds their component back.
	AccountTokenDead = wxtoken.Reason("AccountTokenDead")
	// Mirrors, which services read, lag behind.
	MirrorBehind = wxtoken.Reason("MirrorBehind")
	DeadLetters  = wxtoken.Reason("DeadLetters") // there are messages on DEAD
	// Accounts with a valid token whose renewal failed.
	RenewalFails = wxtoken.Reason("RenewalFails")
)

// Cause is one of the things that keep accounts from calling WeChat.
type Cause struct {
	Name wxtoken.Reason // a Held reason, or one of the constants above
	// Severity is events.SeverityPage or SeverityTicket; "": it ends by itself within minutes, without
	// a notice.
	Severity string
	Lasting  bool   // it may end by itself: the notice waits until it has lasted for a while
	Accounts bool   // it concerns single accounts, not their component
	Things   bool   // its count is of messages or mirrors, not of accounts
	Path     string // page of the console that shows it; "": the overview

	what      lang.Text
	do        lang.Text
	entry     runbook.Entry
	fixer     fixer // who can fix it
	byErrcode bool  // if WeChat refused a call, the errcode says what to do
}

// Causes are all causes.
var Causes = []Cause{
	{
		Name: wxtoken.HeldNATS, Severity: events.SeverityPage, Lasting: true, entry: runbook.NATSAway,
		what: lang.T("NATS is away or stores nothing: nothing is renewed, and pushes are answered with 503", "NATS 不可用或无法写入：暂停续期，推送一律回 503"),
		do:   lang.T("bring NATS back; services go on with the tokens that they have read", "恢复 NATS；业务服务继续使用已读到的令牌"),
	},
	{
		Name: wxtoken.HeldNoTicket, Severity: events.SeverityPage, Lasting: true, entry: runbook.NoTicket,
		what: lang.T("no component_verify_ticket arrives", "收不到 component_verify_ticket（验证票据）"),
		do: lang.T("compare 授权事件接收URL, 消息校验Token and 消息加解密Key on WeChat's console with the settings of ingest",
			"核对微信开放平台上的授权事件接收URL、消息校验Token、消息加解密Key 与 ingest 的设置"),
	},
	{
		Name: wxtoken.HeldRefused, Severity: events.SeverityPage, entry: runbook.ComponentOperator, byErrcode: true,
		what: lang.T("WeChat refuses the component's calls", "微信拒绝该第三方平台的调用"),
		do:   lang.T("act on WeChat's reason: secret, IP whitelist or state of the platform", "按微信返回的原因处理：AppSecret、IP 白名单或平台状态"),
	},
	{
		Name: wxtoken.HeldEmptyAnswers, Severity: events.SeverityPage, entry: runbook.HeldBack,
		what: lang.T("WeChat's answers to api_component_token are empty", "微信对 api_component_token 的应答一直为空"),
		do: lang.T("compare --component-appid and the AppSecret with WeChat's console; --wechat-api-url (WXTOKEN_WECHAT_API_URL) must be WeChat's API",
			"核对 --component-appid 和 AppSecret 与微信开放平台是否一致；--wechat-api-url (WXTOKEN_WECHAT_API_URL) 必须是微信的接口地址"),
	},
	{
		Name: wxtoken.HeldQuota, Severity: events.SeverityPage, entry: runbook.QuotaGone,
		what: lang.T("the day's quota of a call is gone", "当天的调用额度用完"),
		do:   lang.T("wait for the day to turn at UTC+8, or have the quota cleared", "等到北京时间零点，或者清零额度"),
	},
	{
		Name: wxtoken.HeldDoubted, Severity: events.SeverityPage, entry: runbook.ManyRefused,
		what: lang.T("too many accounts are refused at once: the refusals are not believed", "同时被拒的授权方太多，暂不采信"),
		do:   lang.T("look for the common cause before any merchant is asked to authorize again", "先查共同的原因，不要急着请商家重新授权"),
	},
	{
		Name: wxtoken.HeldAway, Severity: events.SeverityPage, Lasting: true, entry: runbook.WeChatAway, fixer: refreshers,
		what: lang.T("WeChat does not answer", "微信没有应答"),
		do:   lang.T("check the network to WeChat's API; renewals resume by themselves when it is back", "检查到微信接口的网络；恢复后会自动续期"),
	},
	{
		Name: wxtoken.HeldTokenRefused, Severity: events.SeverityPage, Lasting: true, entry: runbook.HeldBack,
		what: lang.T("WeChat refuses the component's token before its time", "微信提前拒绝了平台令牌"),
		do:   lang.T("find the other program that fetches tokens of this component, and stop it", "找出还在为该平台换取令牌的程序并停掉"),
	},
	{
		Name: wxtoken.HeldTokenDead, Severity: events.SeverityPage, Lasting: true, entry: runbook.ComponentTokenLate,
		what: lang.T("the component has no valid token", "平台令牌已过期"),
		do:   lang.T("request a renewal, and look at the last error", "请求续期，并查看最近的错误"),
	},
	{
		Name: wxtoken.HeldListFirst, entry: runbook.HeldBack, fixer: minutes,
		what: lang.T("WeChat's list is read before any renewal", "先读取微信的授权方列表，再续期"), do: nothing,
	},
	{
		Name: wxtoken.HeldMinuteLimit, entry: runbook.HeldBack, fixer: minutes,
		what: lang.T("WeChat's limit of calls per minute is reached", "这一分钟的调用次数已到上限"), do: nothing,
	},
	{
		Name: SealKeyUnknown, Severity: events.SeverityPage, entry: runbook.SealKeyUnknown,
		what: lang.T("what ingest sealed can't be opened: tickets and codes can't be read", "ingest 密封的内容打不开：验证票据和授权码无法读取"),
		do: lang.T("compare --seal-key-file (WXTOKEN_SEAL_KEY_FILE) of ingest and refreshers",
			"核对 ingest 和 refresher 的 --seal-key-file (WXTOKEN_SEAL_KEY_FILE)"),
	},
	{
		Name: AuthorizationNeeded, Severity: events.SeverityTicket, Lasting: true, Accounts: true, entry: runbook.AccountAuthorizes, fixer: merchant,
		what: lang.T("merchants have to authorize again", "需要商家重新授权"), do: sendLink,
	},
	{
		Name: NoAPIPermission, Severity: events.SeverityTicket, Lasting: true, Accounts: true, entry: runbook.AccountAuthorizes, fixer: merchant,
		what: lang.T("accounts were authorized without any API permission: WeChat gives no token for them", "授权时没有勾选任何接口权限，微信不给令牌"), do: sendLink,
	},
	{
		Name: PermissionMissing, Severity: events.SeverityTicket, Lasting: true, Accounts: true, entry: runbook.ComponentOperator, byErrcode: true,
		what: lang.T("WeChat refuses renewals because a permission set is missing", "缺少权限集，微信拒绝续期"),
		do: lang.T("grant the permission set on WeChat's console (权限集), and release the platform again if WeChat asks for that",
			"在微信开放平台勾选相应的权限集；微信要求时重新全网发布"),
	},
	{
		Name: AccountTokenDead, Severity: events.SeverityPage, Lasting: true, Accounts: true, entry: runbook.WeChatAway, fixer: refreshers, byErrcode: true,
		what: lang.T("tokens of accounts have expired", "授权方的令牌已过期"),
		do:   lang.T("look at the last error of the accounts", "查看这些授权方最近的错误"),
	},
	{
		Name: MirrorBehind, Severity: events.SeverityPage, Lasting: true, Things: true, entry: runbook.OldValues,
		what: lang.T("services read old values", "业务服务读到旧值"),
		do: lang.T("if they don't catch up within minutes, have the mirrors made anew; the refreshers' log says what is missing",
			"几分钟内没有自行恢复时，重建只读副本；缺什么见 refresher 的日志"),
	},
	{
		Name: DeadLetters, Severity: events.SeverityTicket, Lasting: true, Things: true, Path: "/pushes?show=dead", entry: runbook.DeadLetter,
		what: lang.T("messages could not be processed and were put on DEAD", "有消息无法处理，已放入 DEAD（死信）"),
		do:   lang.T("replay them once the cause is gone, or discard them", "原因消除后重放，或者丢弃"),
	},
	{
		Name: RenewalFails, Accounts: true, entry: runbook.WeChatAway, fixer: refreshers, byErrcode: true,
		what: lang.T("renewals fail and are tried again", "续期失败，正在重试"),
		do:   lang.T("look at the last error of the accounts", "查看这些授权方最近的错误"),
	},
}

// The remedies of several causes.
var (
	reasons = lang.T("see the runbook for what to do about each reason", "各种原因的处理方法见运维手册")

	nothing = lang.T("nothing: it ends by itself within minutes", "无需处理：几分钟内自行结束")

	sendLink = lang.T("send each merchant the reauthorize_url of its status; if many lack the same, check 权限集 on WeChat's console",
		"把各自状态里的 reauthorize_url 发给商家；如果很多账号缺少同一项，检查微信开放平台上的权限集")
)

// CauseOf returns a cause by its name. For a name of a later version it refers to the runbook.
func CauseOf(name wxtoken.Reason) Cause {
	for _, c := range Causes {
		if c.Name == name {
			return c
		}
	}
	return Cause{Name: name, Severity: events.SeverityPage, what: lang.Same(string(name)), do: reasons, entry: runbook.HeldBack}
}

// What says what is wrong, in a sentence without full stop. Of WeChat's answer it shows only errcode and
// call.
func (c Cause) What(e *wxtoken.LastError) lang.Text {
	if e == nil || e.Code == 0 {
		return c.what
	}
	return lang.T("%s: %s was answered errcode %d", "%s：%s 得到 errcode %d", c.what, cmp.Or(e.API, "api"), e.Code)
}

// Do says what to do about it, and which entry of the runbook says more. If WeChat refused calls, the
// errcode decides.
func (c Cause) Do(e *wxtoken.LastError) lang.Text {
	if c.refused(e) {
		return Refusal(e).Remedy()
	}
	return c.entry.See(c.do)
}

// Ends reports whether what holds a component back ends at its until; else it may last, and WeChat is asked again then.
func Ends(held wxtoken.Reason) bool {
	return held == wxtoken.HeldQuota || held == wxtoken.HeldMinuteLimit
}

// Refusal returns WeChat's answer as an error, for the table of errcodes.
func Refusal(e *wxtoken.LastError) *wechat.Error {
	return &wechat.Error{API: wechat.API(e.API), Code: e.Code, Message: e.Message}
}
