package ingest

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/language"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/qrcode"
	"wxtoken/internal/wechat"
)

//go:embed page.html
var pageFiles embed.FS

var pageTemplates = template.Must(template.ParseFS(pageFiles, "page.html"))

// The templates.
const (
	templateLanding = "landing"
	templateNotice  = "notice"
)

// page is the data of the templates: texts in one language.
type page struct {
	language lang.Language

	Style, Logo string // paths
	Named       bool   // Who is a name from the settings
	Who         string
	Contact     string
	Reference   string // the link's id as in the log

	Mark, Title, Text, Do string
	Account               account
	Since, SinceLabel     string
	Refresh               int    // seconds until the page reloads; 0 means never
	Again                 bool   // reloading may help
	Landing               string // path of the landing page, to start again
	FromStart             bool   // show Landing

	// of the landing page
	ActionTitle        string
	Phone, Outside     bool // Outside: on a phone, but not in WeChat, where the authorization goes on
	PCLink, MobileLink string
	URL                string       // of this page
	QR                 template.URL // URL as a QR code
	Only               account      // the only account that the link is for
	Sets               []setGroup
	SetsNote           string
	Steps              []string
	Until, Cancel      string
}

// account is the account that was authorized, or will be.
type account struct{ Name, AppID string }

// setGroup are the permission sets of one kind of account.
type setGroup struct {
	Of    string // empty if there is only one group
	Names []string
}

// T returns the text of that name in the page's language.
func (p page) T(name string) string { return words[name].In(p.language) }

// HTMLLang returns the language as HTML and HTTP write it.
func (p page) HTMLLang() string {
	if p.language == lang.English {
		return "en"
	}
	return "zh-CN"
}

// pageAnswer is the answer to one visit.
type pageAnswer struct {
	status   int
	refused  bool   // counts against the limit of the client's address
	location string // of a redirect
	said     string // names the notice; empty for the landing page

	component string // of the link, if known
	id        string // of the link, if there is one
	opened    events.ConnectOpened
	userAgent string
	refresh   int // seconds
}

// redirect returns an answer that redirects the browser, with GET.
func redirect(to string) pageAnswer { return pageAnswer{status: http.StatusSeeOther, location: to} }

// notice returns the answer with the notice of that name.
func notice(said string) pageAnswer {
	a := pageAnswer{status: noticeOf(said, "", lang.Text{}).status, said: said}
	switch said {
	case saidUnknown, saidExpired, saidUsed, saidGone, saidForbidden, saidRejected, saidMethod, saidLimited:
		a.refused = true
	}
	return a
}

// write sends the answer.
func (a pageAnswer) write(w http.ResponseWriter, r *http.Request, looks *looks) {
	h := w.Header()
	if a.location != "" {
		h.Set("Location", a.location)
		w.WriteHeader(a.status)
		return
	}
	its := looks.lookOf(a.component)
	language := preferredLanguage(r.Header.Get("Accept-Language"))
	p := page{
		language: language, Style: its.style.path, Logo: its.logo.path,
		Named: its.named, Who: its.who.In(language), Contact: its.contact.In(language),
		Reference: a.id[:min(len(a.id), shownID)], Refresh: a.refresh,
	}
	name := templateNotice
	if a.said == "" {
		name = templateLanding
		p.fillLanding(a, its)
	} else {
		p.fillNotice(a, its)
	}
	var body bytes.Buffer
	if err := pageTemplates.ExecuteTemplate(&body, name, p); err != nil {
		panic(fmt.Errorf("make page %s: %w", name, err)) // can't happen: our own template with our own fields
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", p.HTMLLang())
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'")
	if a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	w.WriteHeader(a.status)
	_, _ = io.Copy(w, &body) // a browser that has gone is no concern of ours
}

// fillNotice fills in the page of a notice.
func (p *page) fillNotice(a pageAnswer, its *look) {
	n, in := noticeOf(a.said, a.opened.Reason, its.who), p.language
	p.Mark, p.Title, p.Text, p.Do = n.mark, n.title.In(in), n.text.In(in), n.do.In(in)
	p.Account = account{printable(a.opened.NickName), printable(a.opened.Authorizer)}
	switch a.said {
	case saidAuthorized, saidAlready, saidCancelled, saidUsed, saidConflict, saidFailed:
		p.Since = chinaTime(a.opened.EndedAt).In(in)
		p.SinceLabel = lang.T("Authorized", "授权时间").In(in)
		if a.said == saidFailed {
			p.SinceLabel = lang.T("When", "时间").In(in)
		}
	case saidExpired:
		p.Since, p.SinceLabel = chinaTime(a.opened.ExpiresAt).In(in), lang.T("Expired", "过期时间").In(in)
	case saidForbidden:
		p.Landing, p.FromStart = prefixConnect+a.id, true
	case saidUnavailable:
		p.Again = true
	}
	if n.mark == markGood { // no reason to contact anybody
		p.Contact, p.Reference = "", ""
	}
}

// fillLanding fills in the page that leads to WeChat.
func (p *page) fillLanding(a pageAnswer, its *look) {
	in, opened := p.language, a.opened
	text := func(t lang.Text) string { return t.In(in) }
	var inWeChat bool
	p.Phone, inWeChat = device(a.userAgent)
	p.Outside = p.Phone && !inWeChat
	p.PCLink, p.MobileLink, p.URL = opened.PCLink, opened.MobileLink, opened.URL
	if !p.Phone || p.Outside {
		p.QR = qrcode.Picture(opened.URL) // "" if it can't be made: the links are there all the same
	}
	p.Title = text(lang.T("Authorize your account", "授权您的账号"))
	if its.named {
		p.Title = text(lang.T("Authorize %s", "授权给%s", its.who))
	}
	p.Text = text(lang.T("%s asks to act for your %s on WeChat. The account's administrator confirms that on WeChat's own page; no password is asked for here.",
		"%s申请代您的%s调用微信接口。请由账号的管理员在微信的页面上确认，这里不会要求输入密码。", capitalize(its.who), kindOf(opened.AuthType)))
	if opened.BizAppID != "" {
		p.Only = account{printable(opened.NickName), printable(opened.BizAppID)}
	}
	switch {
	case p.Outside:
		p.ActionTitle = text(lang.T("Open this page in WeChat", "请在微信中打开本页面"))
	default:
		p.ActionTitle = text(lang.T("Confirm with WeChat", "到微信确认"))
	}
	p.Sets, p.SetsNote = permissions(opened, its, in)
	p.Steps = steps(*p, its, text)
	if !opened.ExpiresAt.IsZero() {
		p.Until = text(lang.T("This link is valid until %s.", "链接有效期至 %s。", chinaTime(opened.ExpiresAt)))
	}
	p.Cancel = text(lang.T("You can cancel the authorization at any time on mp.weixin.qq.com.", "授权之后，您可以随时登录微信公众平台（mp.weixin.qq.com）取消。"))
}

// steps returns what happens next, depending on the device.
func steps(p page, its *look, text func(lang.Text) string) []string {
	first := lang.T("WeChat shows a code: the administrator scans it with WeChat on a phone.", "微信显示二维码，由管理员用手机微信扫描。")
	switch {
	case p.Outside:
		first = lang.T("This page, opened in WeChat, leads on to WeChat's own.", "在微信中打开本页面，再前往微信的授权页面。")
	case p.Phone:
		first = lang.T("WeChat asks which account it is about.", "微信请您选择账号。")
	}
	return []string{
		text(first),
		text(lang.T("The administrator looks at the permissions and confirms.", "管理员查看权限并确认。")),
		text(lang.T("WeChat leads back here, and this page says that %s is connected.", "微信返回这里，页面显示已经接入%s。", its.who)),
	}
}

// permissions returns the names of the permission sets asked for, and a sentence about them.
func permissions(opened events.ConnectOpened, its *look, in lang.Language) (groups []setGroup, note string) {
	ids := []int(opened.CategoryIDs)
	fitting := map[wechat.AccountKind]bool{}
	if len(ids) == 0 {
		ids = its.sets
		switch {
		case opened.BizAppID != "": // its kind is not known here
		case opened.AuthType == 1:
			fitting = map[wechat.AccountKind]bool{wechat.OfficialAccount: true, 0: true}
		case opened.AuthType == 2:
			fitting = map[wechat.AccountKind]bool{wechat.MiniProgram: true, 0: true}
		case opened.AuthType == 3:
			fitting = map[wechat.AccountKind]bool{wechat.OfficialAccount: true, wechat.MiniProgram: true, 0: true}
		}
	}
	names := map[wechat.AccountKind][]string{}
	for _, id := range ids {
		if set := wechat.NamePermissionSet(id); len(fitting) == 0 || fitting[set.Kind] {
			names[set.Kind] = append(names[set.Kind], set.Name.In(in))
		}
	}
	for _, kind := range []wechat.AccountKind{wechat.OfficialAccount, wechat.MiniProgram, wechat.Channels, 0} {
		if len(names[kind]) > 0 {
			groups = append(groups, setGroup{kindName(kind).In(in), names[kind]})
		}
	}
	if len(groups) == 1 {
		groups[0].Of = ""
	}
	note = lang.T("WeChat's page lists all of it once more, before you confirm.", "确认之前，微信的页面会再次列出全部权限。").In(in)
	if len(groups) == 0 {
		note = lang.T("WeChat's page lists the permissions before you confirm.", "确认之前，微信的页面会列出申请的全部权限。").In(in)
	}
	return groups, note
}

func kindName(kind wechat.AccountKind) lang.Text {
	switch kind {
	case wechat.OfficialAccount:
		return lang.T("Official account", "公众号")
	case wechat.MiniProgram:
		return lang.T("Mini program", "小程序")
	case wechat.Channels:
		return lang.T("Channels", "视频号")
	}
	return lang.T("Others", "其他")
}

// capitalize returns a text for the beginning of a sentence.
func capitalize(t lang.Text) lang.Text {
	if rest, ok := strings.CutPrefix(t.EN, "the "); ok {
		t.EN = "The " + rest
	}
	return t
}

// chinaTime returns a time in China's time zone; an empty text for the zero time.
func chinaTime(at time.Time) lang.Text {
	if at.IsZero() {
		return lang.Text{}
	}
	at = wechat.InChina(at)
	return lang.T("%s (Beijing time)", "%s（北京时间）", lang.Given(at.Format("2 January 2006, 15:04"), at.Format("2006年1月2日 15:04")))
}

// maxShown bounds a foreign text on a page, in characters.
const maxShown = 80

// printable removes invisible characters and those that change the direction of text from a foreign
// text. One invisible character stays: the joiner of emoji.
func printable(foreign string) string {
	const joiner = '\u200d'
	seen := []rune(strings.Map(func(r rune) rune {
		if r == joiner || unicode.IsPrint(r) && r != unicode.ReplacementChar {
			return r
		}
		return -1
	}, foreign))
	if len(seen) > maxShown {
		seen = append(seen[:maxShown], '…')
	}
	return string(seen)
}

// matcher chooses among the languages of the pages; the first is the default.
var matcher = language.NewMatcher([]language.Tag{language.Chinese, language.TraditionalChinese, language.English})

// preferredLanguage returns English for a browser that prefers it, and Chinese for any other.
func preferredLanguage(header string) lang.Language {
	tag, _ := language.MatchStrings(matcher, header)
	if base, _ := tag.Base(); base.String() == "en" {
		return lang.English
	}
	return lang.Chinese
}

// device returns, from a User-Agent, whether the browser is on a phone, and whether it is WeChat's
// own.
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
