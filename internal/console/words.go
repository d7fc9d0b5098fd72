package console

import (
	"strings"
	"time"
	"unicode"

	"wxtoken/client"
	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
	"wxtoken/internal/truth"
	"wxtoken/internal/wechat"
)

// stateWords are the contract's states in words.
var stateWords = map[wxtoken.State]lang.Text{
	wxtoken.StateActive:             lang.T("active", "正常"),
	wxtoken.StateRenewingFailed:     lang.T("renewal fails", "续期失败"),
	wxtoken.StateNeedsAuthorization: lang.T("needs authorization", "需重新授权"),
	wxtoken.StateRevoked:            lang.T("cancelled", "已取消授权"),
	wxtoken.StateWaitingForTicket:   lang.T("waits for a ticket", "等待验证票据"),
	wxtoken.StateOperator:           lang.T("needs an operator", "需运维处理"),
	"":                              lang.T("not known yet", "尚无状态"),
}

// stateWord returns the word for a state.
func stateWord(s string) lang.Text {
	if word, ok := stateWords[wxtoken.State(s)]; ok {
		return word
	}
	return lang.Same(printable(s)) // of a later refresher
}

// stateClass is the class of a badge: the state, if this program knows it.
func stateClass(s string) string {
	if _, ok := stateWords[wxtoken.State(s)]; ok {
		return s
	}
	return ""
}

// reasonWords say why a condition is as it is.
var reasonWords = map[wxtoken.Reason]lang.Text{
	wxtoken.ReasonRenewed:             lang.T("the token was renewed", "已续期"),
	wxtoken.ReasonRenewalFailed:       lang.T("the last renewal failed and is tried again", "上次续期失败，正在重试"),
	wxtoken.ReasonExpired:             lang.T("the token expired before the next one came", "令牌在续期成功之前已过期"),
	wxtoken.ReasonRefreshTokenInvalid: lang.T("WeChat refuses the refresh token", "微信拒绝了刷新令牌"),
	wxtoken.ReasonNoRefreshToken:      lang.T("there is no refresh token", "没有刷新令牌"),
	wxtoken.ReasonNoAPIPermission:     lang.T("the account granted no API permission", "该账号没有授予接口权限"),
	wxtoken.ReasonTicketRefused:       lang.T("WeChat refuses the component_verify_ticket", "微信拒绝了验证票据"),
	wxtoken.ReasonOperatorNeeded:      lang.T("an operator has to act", "需要运维处理"),
	wxtoken.ReasonCancelled:           lang.T("the merchant cancelled the authorization", "商家取消了授权"),
	wxtoken.ReasonTicketReceived:      lang.T("tickets arrive", "票据正常"),
	wxtoken.ReasonNoTicket:            lang.T("no component_verify_ticket came yet", "还没有收到验证票据"),
	wxtoken.ReasonTicketLate:          lang.T("no ticket came for 25 minutes", "25 分钟没有收到票据"),
	wxtoken.ReasonTicketExpired:       lang.T("the last ticket is older than 12 hours", "最近的票据已超过 12 小时"),
	wxtoken.ReasonBelieved:            lang.T("refusals are believed", "拒绝可信"),
	wxtoken.ReasonManyAtOnce:          lang.T("too many accounts are refused at once: the refusals are not believed", "同时被拒绝的账号过多，暂不采信"),
	wxtoken.ReasonOpened:              lang.T("what ingest sealed can be opened", "ingest 密封的内容可以打开"),
	wxtoken.ReasonSealKeyUnknown:      lang.T("the refreshers lack the seed of ingest's seal key", "refresher 没有 ingest 所用密封密钥的种子"),
	wxtoken.ReasonUnhindered:          lang.T("nothing holds renewals back", "没有暂缓"),
	wxtoken.HeldNATS:                  lang.T("NATS stores nothing", "NATS 无法写入"),
	wxtoken.HeldRefused:               lang.T("WeChat refuses the component's calls", "微信拒绝第三方平台的调用"),
	wxtoken.HeldEmptyAnswers:          lang.T("WeChat's answers are empty", "微信返回空应答"),
	wxtoken.HeldQuota:                 lang.T("the day's quota is gone", "当天的调用额度用完"),
	wxtoken.HeldDoubted:               lang.T("too many accounts are refused at once: the refusals are not believed", "同时被拒绝的账号过多，暂不采信"),
	wxtoken.HeldAway:                  lang.T("WeChat does not answer", "微信没有应答"),
	wxtoken.HeldTokenRefused:          lang.T("WeChat refused the component's token early", "微信提前拒绝了第三方平台的令牌"),
	wxtoken.HeldTokenDead:             lang.T("the component's token has expired", "第三方平台的令牌已过期"),
	wxtoken.HeldListFirst:             lang.T("WeChat's list of accounts is read first", "先读取微信的授权方列表"),
	wxtoken.HeldMinuteLimit:           lang.T("WeChat's limit of calls per minute is reached", "这一分钟的调用次数已到上限"),
}

// reasonWord returns the words for a reason.
func reasonWord(r wxtoken.Reason) lang.Text {
	if word, ok := reasonWords[r]; ok {
		return word
	}
	return lang.Same(printable(string(r))) // of a later refresher
}

// conditionWords name the conditions of a key.
var conditionWords = map[wxtoken.ConditionType]lang.Text{
	wxtoken.ConditionReady:            lang.T("Token", "令牌"),
	wxtoken.ConditionTicketFlowing:    lang.T("Tickets", "验证票据"),
	wxtoken.ConditionRefusalsBelieved: lang.T("Refusals", "拒绝的可信度"),
	wxtoken.ConditionEventsOpened:     lang.T("Sealed events", "密封的事件"),
	wxtoken.ConditionRenewing:         lang.T("Renewals", "续期"),
}

// conditionWord returns the word for a condition.
func conditionWord(c wxtoken.ConditionType) lang.Text {
	if word, ok := conditionWords[c]; ok {
		return word
	}
	return lang.Same(printable(string(c))) // of a later refresher
}

// clock writes a time: midnight in China, when WeChat's quotas begin anew, as such; others in UTC.
func clock(at, now time.Time) string {
	switch local := wechat.InChina(at); {
	case local.Format("15:04:05") == "00:00:00":
		return "00:00 (UTC+8)"
	case at.Sub(now).Abs() < 20*time.Hour:
		return at.UTC().Format("15:04:05") + " UTC"
	}
	return at.UTC().Format("2006-01-02 15:04") + " UTC"
}

// heldText says what holds renewals back, with the call it is about, and until when.
func heldText(held wxtoken.Condition, now time.Time) lang.Text {
	text := heldWhy(held)
	switch {
	case held.Until == nil || !held.Until.After(now):
	case truth.Ends(held.Reason):
		text = lang.T("%s until %s", "%s，至 %s", text, clock(*held.Until, now))
	default:
		text = lang.T("%s, next try at %s", "%s，%s 再试", text, clock(*held.Until, now))
	}
	return text
}

// heldWhy is heldText without the time.
func heldWhy(held wxtoken.Condition) lang.Text {
	api, _, named := strings.Cut(held.Message, ":")
	switch {
	case !named || !strings.HasPrefix(api, "api_"):
		return reasonWord(held.Reason)
	case held.Reason == wxtoken.HeldQuota:
		return lang.T("the day's quota of %s is gone", "%s 当天的调用额度用完", printable(api))
	}
	return lang.T("%[2]s (%[1]s)", "%[2]s（%[1]s）", printable(api), reasonWord(held.Reason))
}

// whatToDo says what a person can do about a key in trouble; a zero text: nothing. --check and notices
// say the same.
func whatToDo(s wxtoken.Status) lang.Text {
	if held, ok := s.Held(); ok {
		return truth.CauseOf(held.Reason).Do(s.LastError)
	}
	switch s.State {
	case wxtoken.StateActive, "":
		return lang.Text{}
	case wxtoken.StateNeedsAuthorization, wxtoken.StateRevoked:
		return runbook.AccountAuthorizes.See(lang.T("have the merchant authorize again, by a link", "用授权链接请商家重新授权"))
	}
	if e := s.LastError; e != nil && e.Code != 0 {
		return truth.Refusal(e).Remedy()
	}
	if s.State == wxtoken.StateWaitingForTicket {
		return truth.CauseOf(wxtoken.HeldNoTicket).Do(nil)
	}
	return lang.Text{}
}

// printableText is printable for a text in both languages.
func printableText(t lang.Text) lang.Text { return lang.Given(printable(t.EN), printable(t.ZH)) }

// maxText bounds a foreign text, in characters.
const maxText = 200

// printable replaces in a foreign text what could control a terminal or reverse a line.
func printable(text string) string {
	runes := []rune(strings.ToValidUTF8(text, "\uFFFD"))
	if len(runes) > maxText {
		runes = append(runes[:maxText], '…')
	}
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = '\uFFFD'
		}
	}
	return string(runes)
}
