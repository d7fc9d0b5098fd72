package ingest

import (
	"bytes"
	"crypto/rand"
	"embed"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/text/language"
	"rsc.io/qr"

	"wxtoken/internal/events"
)

//go:embed page_*.html
var pageFiles embed.FS

var pageTemplates = template.Must(template.ParseFS(pageFiles, "page_*.html"))

// What a page says. All but the last two are values of the label result.
const (
	saidShown       = "shown"       // the landing page, with its links
	saidAccepted    = "accepted"    // the code is stored
	saidAuthorized  = "authorized"  // it is done
	saidConflict    = "conflict"    // the account belongs to another tenant
	saidFailed      = "failed"      // the code came to nothing
	saidWaiting     = "waiting"     // not done yet
	saidUnknown     = "unknown"     // no such link
	saidGone        = "gone"        // used or expired
	saidForbidden   = "forbidden"   // another browser
	saidRejected    = "rejected"    // not a request that WeChat sends a browser with
	saidUnavailable = "unavailable" // no answer from the refresher, or no publish ack
	saidMethod      = "method"      // counted as rejected
	saidLimited     = "limited"     // counted as what it would have been
)

var connectPages = []string{pageLanding, pageCallback, pageResult}

var connectResults = []string{
	saidShown, saidAccepted, saidAuthorized, saidConflict, saidFailed, saidWaiting,
	saidUnknown, saidGone, saidForbidden, saidRejected, saidUnavailable,
}

// isTrouble reports whether an operator may want to look into it.
func isTrouble(said string) bool {
	switch said {
	case saidShown, saidAccepted, saidAuthorized, saidWaiting:
		return false
	}
	return true
}

// phrase is one text in both languages.
type phrase struct{ zh, en string }

// notices are the pages that tell one thing.
var notices = map[string]struct {
	status      int
	title, text phrase
}{
	saidAuthorized: {http.StatusOK, phrase{"授权成功", "Authorization completed"},
		phrase{"您的账号已经接入，可以关闭本页面。", "Your account is connected. You may close this page."}},
	saidConflict: {http.StatusConflict, phrase{"该账号已属于其他租户", "The account belongs to another tenant"},
		phrase{"该账号此前已由另一个租户接入，归属没有改变。如需转移，请联系服务商。", "The account was connected by another tenant before and was left where it was. To move it, ask your service provider."}},
	saidFailed: {http.StatusUnprocessableEntity, phrase{"授权没有完成", "The authorization was not completed"},
		phrase{"微信没有接受这次授权。请向服务商索取新的授权链接，重新授权一次。", "WeChat did not accept this authorization. Ask your service provider for a new link and authorize once more."}},
	saidWaiting: {http.StatusOK, phrase{"正在完成授权", "Completing the authorization"},
		phrase{"请稍候，本页面会自动刷新。", "One moment please: this page refreshes by itself."}},
	saidUnknown: {http.StatusNotFound, phrase{"链接不存在", "No such link"},
		phrase{"请检查链接是否完整，或向服务商索取新的授权链接。", "Check that the link is complete, or ask your service provider for a new one."}},
	saidGone: {http.StatusGone, phrase{"链接已失效", "The link is no longer valid"},
		phrase{"该链接已使用或已过期。请向服务商索取新的授权链接。", "It was used already or has expired. Ask your service provider for a new one."}},
	saidForbidden: {http.StatusForbidden, phrase{"请在同一浏览器中完成授权", "Please use the browser in which you began"},
		phrase{"授权必须在打开授权页面的浏览器中完成。请从头再试一次。", "An authorization has to end in the browser that opened its page. Please begin again."}},
	saidRejected: {http.StatusBadRequest, phrase{"请求无效", "The request is not valid"},
		phrase{"请从授权链接重新开始。", "Please begin again with the authorization link."}},
	saidUnavailable: {http.StatusServiceUnavailable, phrase{"服务暂时不可用", "The service is not available right now"},
		phrase{"请稍后重试，授权不会丢失。", "Please try again in a moment. Nothing is lost."}},
	saidMethod: {http.StatusMethodNotAllowed, phrase{"请求无效", "The request is not valid"},
		phrase{"请用浏览器打开授权链接。", "Please open the authorization link in a browser."}},
	saidLimited: {http.StatusTooManyRequests, phrase{"请求过于频繁", "Too many requests"},
		phrase{"请稍后再试。", "Please try again later."}},
}

// phrases are the other texts.
var phrases = map[string]phrase{
	"landing":    {"授权您的账号", "Authorize your account"},
	"lead":       {"请由公众号或小程序的管理员在微信的页面上确认授权。", "The administrator of the official account or mini program confirms on a page of WeChat's."},
	"here":       {"前往微信授权", "Continue to WeChat"},
	"by_pc":      {"在电脑上扫码授权", "Authorize on a computer instead"},
	"by_mobile":  {"在手机微信中直接授权", "Authorize inside WeChat on a phone instead"},
	"in_wechat":  {"请在微信中打开本页面，再点击上面的按钮。", "Open this page inside WeChat before you press the button."},
	"scan":       {"或用手机微信扫描二维码，在手机上授权：", "Or scan this code with WeChat to authorize on your phone:"},
	"qr":         {"本页面的二维码", "QR code of this page"},
	"account":    {"账号", "Account"},
	"reason":     {"原因", "Reason"},
	"again":      {"重试", "Try again"},
	"from_start": {"返回授权页面", "Back to the beginning"},
}

// page is what the templates are made of.
type page struct {
	Language string
	Nonce    string // of the style sheet

	Title, Text          string
	NickName, Authorizer string
	Reason               string
	Refresh              int    // seconds until the page loads itself again; 0: never
	Again                bool   // loading it again may help
	Landing              string // path of the landing page, where one should begin again
	FromStart            bool   // show Landing

	Phone, InWeChat    bool
	PCLink, MobileLink string
	QR                 qrCode
}

// T returns the phrase of that name in the page's language.
func (p page) T(name string) string { return phrases[name].in(p.Language) }

func (p phrase) in(language string) string {
	if language == "en" {
		return p.en
	}
	return p.zh
}

// pageAnswer is the answer to one visit.
type pageAnswer struct {
	status   int
	refused  bool   // counts against the address that it came from
	location string // of a redirect
	template string
	said     string // names the notice
	page     page
}

// redirect sends the browser on with GET.
func redirect(to string) pageAnswer { return pageAnswer{status: http.StatusSeeOther, location: to} }

// notice is the page that says what notices has.
func notice(said string) pageAnswer {
	a := pageAnswer{status: notices[said].status, template: "page_notice.html", said: said}
	switch said {
	case saidUnknown, saidGone, saidForbidden, saidRejected, saidMethod, saidLimited:
		a.refused = true
	}
	switch said {
	case saidWaiting:
		a.page.Refresh = retryAfter
	case saidUnavailable:
		a.page.Again = true
	case saidForbidden:
		a.page.FromStart = true
	}
	return a
}

// landingPage is the page that leads to WeChat.
func landingPage(opened events.ConnectOpened, userAgent string) pageAnswer {
	p := page{PCLink: opened.PCLink, MobileLink: opened.MobileLink}
	p.Phone, p.InWeChat = device(userAgent)
	if !p.Phone {
		p.QR = newQRCode(opened.URL)
	}
	return pageAnswer{status: http.StatusOK, template: "page_landing.html", page: p}
}

// write sends the answer.
func (a pageAnswer) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if a.location != "" {
		h.Set("Location", a.location)
		w.WriteHeader(a.status)
		return
	}
	p := a.page
	p.Language = preferred(r.Header.Get("Accept-Language"))
	p.Nonce = rand.Text()
	if n, ok := notices[a.said]; ok {
		p.Title, p.Text = n.title.in(p.Language), n.text.in(p.Language)
	} else {
		p.Title, p.Text = p.T("landing"), p.T("lead")
	}
	var body bytes.Buffer
	if err := pageTemplates.ExecuteTemplate(&body, a.template, p); err != nil {
		panic(fmt.Errorf("make page %s: %w", a.template, err)) // our own template with our own fields
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", map[string]string{"zh": "zh-CN", "en": "en"}[p.Language])
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+p.Nonce+"'; img-src data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'")
	if a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	w.WriteHeader(a.status)
	_, _ = io.Copy(w, &body) // a browser that has gone is no concern of ours
}

// matcher chooses among the languages of the pages; the first is for those who want another.
var matcher = language.NewMatcher([]language.Tag{language.Chinese, language.TraditionalChinese, language.English})

// preferred returns "en" for a browser that prefers English, and "zh" for any other.
func preferred(header string) string {
	tag, _ := language.MatchStrings(matcher, header)
	base, _ := tag.Base()
	return base.String()
}

// device tells from a User-Agent whether the browser is on a phone, and whether it is WeChat's own.
func device(userAgent string) (phone, inWeChat bool) {
	has := func(words ...string) bool {
		for _, word := range words {
			if strings.Contains(userAgent, word) {
				return true
			}
		}
		return false
	}
	inWeChat = has("MicroMessenger")
	// WeChat on a computer calls itself MicroMessenger too.
	computer := has("WindowsWechat", "MacWechat", "Windows NT", "Macintosh", "X11;")
	return !computer && (inWeChat || has("Mobile", "Android", "iPhone", "iPad", "HarmonyOS")), inWeChat
}

// qrCode is a QR code as the path of an SVG, one unit for each module. The zero qrCode is none.
type qrCode struct {
	Size int // with the quiet zone
	Path string
}

// quietZone is the white edge that a scanner needs, in modules.
const quietZone = 4

func newQRCode(text string) qrCode {
	code, err := qr.Encode(text, qr.M)
	if err != nil || text == "" {
		return qrCode{} // the links are there all the same
	}
	var path strings.Builder
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			from := x
			for x < code.Size && code.Black(x, y) {
				x++
			}
			if x > from {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", from+quietZone, y+quietZone, x-from, x-from)
			}
		}
	}
	return qrCode{Size: code.Size + 2*quietZone, Path: path.String()}
}
