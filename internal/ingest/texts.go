package ingest

import (
	"net/http"

	"wxtoken/internal/lang"
)

// What a page says: names of notices. All but the last two are values of the label result.
const (
	saidShown       = "shown"       // the landing page, with its links
	saidAccepted    = "accepted"    // the code is stored
	saidAuthorized  = "authorized"  // authorized just now
	saidAlready     = "already"     // authorized before, by this link
	saidCancelled   = "cancelled"   // authorized before, by this link, and cancelled or ended since
	saidConflict    = "conflict"    // the account belongs to another tenant
	saidFailed      = "failed"      // the code could not be exchanged
	saidWaiting     = "waiting"     // the result is not known yet
	saidBusy        = "busy"        // another browser's code is being exchanged
	saidUnknown     = "unknown"     // no such link
	saidExpired     = "expired"     // no merchant authorized in time
	saidUsed        = "used"        // a code of another browser was taken, and this one brings another code
	saidGone        = "gone"        // used or expired: a refresher of an earlier version does not say which
	saidForbidden   = "forbidden"   // not the browser that opened the link
	saidRejected    = "rejected"    // not a request that follows from WeChat's redirect
	saidUnavailable = "unavailable" // no answer from the refresher, or no publish ack
	saidMethod      = "method"      // counted as rejected
	saidLimited     = "limited"     // counted under the result without the limit
)

var connectPages = []string{pageLanding, pageCallback, pageResult}

var connectResults = []string{
	saidShown, saidAccepted, saidAuthorized, saidAlready, saidCancelled, saidConflict, saidFailed, saidWaiting, saidBusy,
	saidUnknown, saidExpired, saidUsed, saidGone, saidForbidden, saidRejected, saidUnavailable,
}

// isTrouble reports whether an operator may want to look into a visit with that result.
func isTrouble(said string) bool {
	switch said {
	case saidShown, saidAccepted, saidAuthorized, saidAlready, saidCancelled, saidWaiting:
		return false
	}
	return true
}

// Marks of notices; page.html draws them.
const (
	markGood = "good"
	markWait = "wait"
	markBad  = "bad"
)

// noticeText is the content of a notice: a page that says what happened, and what to do now.
type noticeText struct {
	status          int
	mark            string
	title, text, do lang.Text
}

// noticeOf returns the content of the notice of that name. who names who asks for the
// authorization; reason is why it failed.
func noticeOf(said, reason string, who lang.Text) noticeText {
	newLink := lang.T("To try again, ask %s for a new link.", "如需再次授权，请向%s索取新的链接。", who)
	switch said {
	case saidAuthorized:
		return noticeText{http.StatusOK, markGood, lang.T("Authorization completed", "授权成功"),
			lang.T("Your account is connected to %s.", "您的账号已经接入%s。", who),
			lang.T("Nothing more is to be done. You may close this page.", "不需要再做什么，可以关闭本页面。")}
	case saidAlready:
		return noticeText{http.StatusOK, markGood, lang.T("Already authorized", "已经授权，无需再次操作"),
			lang.T("This link was used before, and the authorization for %s is in force.", "这个链接已经用过，对%s的授权有效。", who),
			lang.T("Nothing more is to be done. For another account, ask for another link.", "不需要再做什么。授权另一个账号要用另一个链接。")}
	case saidCancelled:
		return noticeText{http.StatusOK, markWait, lang.T("The authorization is no longer in force", "授权已经失效"),
			lang.T("The account was authorized by this link, and the authorization was cancelled or ended later.", "账号曾经通过这个链接授权，后来授权被取消或者失效了。"),
			lang.T("To authorize it again, ask %s for a new link.", "如需重新授权，请向%s索取新的链接。", who)}
	case saidConflict:
		return noticeText{http.StatusConflict, markBad, lang.T("This account was connected before", "这个账号之前已经接入"),
			lang.T("It is with another customer of %s, and was left there.", "它在%s的另一个客户名下，归属没有改变。", who),
			lang.T("To have it moved to you, contact %s.", "如需转到您的名下，请联系%s。", who)}
	case saidFailed:
		text, do := failure(reason, who)
		return noticeText{http.StatusUnprocessableEntity, markBad, lang.T("The authorization was not completed", "授权没有完成"), text, do}
	case saidWaiting:
		return noticeText{http.StatusOK, markWait, lang.T("Completing the authorization", "正在完成授权"),
			lang.T("One moment please: this page refreshes by itself.", "请稍候，本页面会自动刷新。"), lang.Text{}}
	case saidBusy:
		return noticeText{http.StatusGone, markWait, lang.T("This link is in use right now", "这个链接正在使用中"),
			lang.T("An authorization in another browser is being completed with it. This page refreshes by itself and then shows how it ended.",
				"另一个浏览器正在用它完成授权。本页面会自动刷新，随后显示结果。"),
			lang.T("If that is neither you nor a colleague, contact %s.", "如果那不是您或您的同事，请联系%s。", who)}
	case saidUnknown:
		return noticeText{http.StatusNotFound, markBad, lang.T("No such link", "链接不存在"),
			lang.T("The address is not complete, or the link expired some time ago.", "地址不完整，或者链接早已过期。"),
			lang.T("Open the link again as you got it, or ask %s for a new one.", "请按收到的样子重新打开链接，或向%s索取新的链接。", who)}
	case saidExpired:
		return noticeText{http.StatusGone, markWait, lang.T("This link has expired", "链接已过期"),
			lang.T("Nothing was authorized with it.", "没有账号通过它授权。"),
			lang.T("Ask %s for a new link.", "请向%s索取新的链接。", who)}
	case saidUsed:
		return noticeText{http.StatusGone, markWait, lang.T("This link was used before", "这个链接已经用过"),
			lang.T("One link is for one authorization. It has authorized the account below, and takes no other.", "一个链接只用于一次授权。下面的账号已经通过它授权，它不再接受别的授权。"),
			lang.T("To connect another account, ask %s for another link.", "如需接入另一个账号，请向%s索取另一个链接。", who)}
	case saidGone:
		return noticeText{http.StatusGone, markWait, lang.T("The link is no longer valid", "链接已失效"),
			lang.T("It was used before, or it has expired.", "它已经用过，或者已经过期。"), newLink}
	case saidForbidden:
		return noticeText{http.StatusForbidden, markWait, lang.T("Please use the browser in which you began", "请在同一浏览器中完成授权"),
			lang.T("An authorization has to end in the browser that opened its page.", "授权必须在打开授权页面的浏览器中完成。"),
			lang.T("Begin again here, in this browser.", "请在这个浏览器里从头再试一次。")}
	case saidUnavailable:
		return noticeText{http.StatusServiceUnavailable, markWait, lang.T("Not available right now", "服务暂时不可用"),
			lang.T("Nothing is lost.", "已经完成的操作不会丢失。"), lang.T("Please try again in a moment.", "请稍后重试。")}
	case saidMethod:
		return noticeText{http.StatusMethodNotAllowed, markBad, lang.T("The request is not valid", "请求无效"),
			lang.T("This page can only be opened in a browser.", "本页面只能用浏览器打开。"), lang.T("Please open the authorization link in a browser.", "请用浏览器打开授权链接。")}
	case saidLimited:
		return noticeText{http.StatusTooManyRequests, markWait, lang.T("Too many requests", "请求过于频繁"),
			lang.T("There were too many requests from your network.", "您所在的网络发来的请求过多。"), lang.T("Please try again later.", "请稍后再试。")}
	}
	return noticeText{http.StatusBadRequest, markBad, lang.T("The request is not valid", "请求无效"),
		lang.T("What arrived here is not complete.", "收到的内容不完整。"), lang.T("Please begin again with the authorization link.", "请从授权链接重新开始。")}
}

// failure returns why an authorization failed, and what to do about it. The reasons are those that
// the refresher records for a link.
func failure(reason string, who lang.Text) (text, do lang.Text) {
	do = lang.T("Ask %s for a new link and authorize once more.", "请向%s索取新的链接，重新授权一次。", who)
	switch reason {
	case "code_spent":
		return lang.T("What WeChat gave to this browser was used before, or is too old.", "微信交给浏览器的凭据已经用过，或者已经过期。"), do
	case "revoked":
		return lang.T("According to WeChat this authorization was cancelled, or the account can't be used at present.", "微信表示这次授权已被取消，或者账号目前不能使用。"), do
	case "no_account":
		return lang.T("WeChat did not say which account was authorized.", "微信没有说明授权的是哪个账号。"), do
	case "another_account":
		return lang.T("This link is for one account, and another one was chosen on WeChat's page.", "这个链接只用于指定的账号，而在微信的页面上选择了另一个账号。"),
			lang.T("Ask %s for a new link, and choose the account that it names.", "请向%s索取新的链接，并选择链接指定的账号。", who)
	case "no_api_permission":
		return lang.T("The account has no API permission, so WeChat lets no service act for it.", "这个账号没有接口权限，微信不允许服务商代它操作。"),
			lang.T("Have the account verified with WeChat, or ask %s what it needs.", "请先完成账号的微信认证，或者向%s咨询所需条件。", who)
	}
	return lang.T("Something went wrong on our side. It is not your fault.", "我们这边出了问题，不是您的操作有误。"),
		lang.T("Tell %s the reference below.", "请把下面的参考编号告诉%s。", who)
}

// words are the other texts of pages, by name.
var words = map[string]lang.Text{
	"here":       lang.T("Continue to WeChat", "前往微信授权"),
	"by_pc":      lang.T("Show WeChat's code, to scan with another phone", "显示微信的二维码，用另一部手机扫码"),
	"by_mobile":  lang.T("In WeChat on a phone or tablet? Continue here", "在手机或平板的微信里？从这里继续"),
	"scan":       lang.T("Or scan this code with WeChat and continue on your phone:", "或者用手机微信扫描二维码，在手机上继续："),
	"save":       lang.T("Press and hold the code to save it. Then open “Scan” in WeChat and choose it from the album.", "长按保存二维码，打开微信的“扫一扫”，从相册中选取。"),
	"copy":       lang.T("Or copy this address, send it to yourself in WeChat (File Transfer), and open it there.", "或者复制下面的地址，在微信里发给“文件传输助手”，再点开它。"),
	"inside":     lang.T("I am in WeChat already: continue", "我已经在微信里，继续授权"),
	"qr":         lang.T("QR code of this page", "本页面的二维码"),
	"only":       lang.T("This link is for one account only: ", "这个链接只用于账号："),
	"sets":       lang.T("What is asked for", "申请的权限"),
	"next":       lang.T("What happens next", "接下来"),
	"account":    lang.T("Account", "账号"),
	"contact":    lang.T("Contact: ", "联系方式："),
	"reference":  lang.T("Reference: ", "参考编号："),
	"again":      lang.T("Try again", "重试"),
	"from_start": lang.T("Back to the beginning", "返回授权页面"),
}

// kindOf returns what WeChat calls the accounts that a link of that auth_type is for.
func kindOf(authType int) lang.Text {
	switch authType {
	case 1:
		return lang.T("official account", "公众号")
	case 2:
		return lang.T("mini program", "小程序")
	case 0, 3:
		return lang.T("official account or mini program", "公众号或小程序")
	case 5:
		return lang.T("Channels account", "视频号")
	}
	return lang.T("account", "账号")
}
