package wechatsim

import (
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"wxtoken/client"
)

// The pages of an authorization link ("Authorization_Process_Technical_Description"). The real ones
// are on hosts of their own, mp.weixin.qq.com and open.weixin.qq.com. Troubles of Fail and SetDown
// do not affect them.
var pages = map[string]func(*Platform, http.ResponseWriter, *http.Request){
	"/cgi-bin/componentloginpage": (*Platform).pcPage,
	"/wxaopen/safe/bindcomponent": (*Platform).mobilePage,
	"/safe/bindcomponent":         (*Platform).mobilePage, // older
	consentPath:                   (*Platform).consentForm,
}

// consentPath is where the form of a page goes. It takes the place of the administrator's phone.
const consentPath = "/sim/consent"

// maxListed is how many accounts a page lists; others can be typed in.
const maxListed = 100

// link is the content of an authorization link, and of the form on its page.
type link struct {
	Component   string
	PreAuthCode string
	RedirectURI string
	BizAppID    string
}

func readLink(v url.Values) link {
	return link{
		Component: v.Get("component_appid"), PreAuthCode: v.Get("pre_auth_code"),
		RedirectURI: v.Get("redirect_uri"), BizAppID: v.Get("biz_appid"),
	}
}

// pcPage is the page for a browser. The browser must come from a page on the host of redirect_uri.
func (p *Platform) pcPage(w http.ResponseWriter, r *http.Request) {
	p.showPage(w, r, func(l link, _ url.Values) error { return checkReferer(r.Referer(), l.RedirectURI) })
}

// mobilePage is the page inside WeChat. A scanned link has no Referer. It is not known whether
// WeChat checks one, so only a wrong one is refused.
func (p *Platform) mobilePage(w http.ResponseWriter, r *http.Request) {
	p.showPage(w, r, func(l link, query url.Values) error {
		switch {
		case query.Get("action") != "bindcomponent":
			return errors.New("action is not bindcomponent")
		case query.Get("no_scan") != "1":
			return errors.New("no_scan is not 1")
		case r.Referer() == "":
			return nil
		}
		return checkReferer(r.Referer(), l.RedirectURI)
	})
}

// checkReferer returns an error unless the page that led here is on the host and port of
// redirect_uri.
func checkReferer(referer, redirectURI string) error {
	host := func(raw string) string {
		if u, err := url.Parse(raw); err == nil && u.Host != "" {
			return u.Host
		}
		return "空"
	}
	from, back := host(referer), host(redirectURI)
	if !strings.EqualFold(from, back) {
		return fmt.Errorf("请确认授权入口页所在域名，与授权后回调页所在域名相同。授权入口页所在域名：%s；授权后回调页所在域名：%s", from, back)
	}
	return nil
}

// The forms of auth_type and category_id_list.
var (
	authType   = regexp.MustCompile(`^[1-68]$`)
	categories = regexp.MustCompile(`^[0-9]+(\|[0-9]+)*$`)
)

func (p *Platform) showPage(w http.ResponseWriter, r *http.Request, check func(link, url.Values) error) {
	if !hasMethod(w, r, http.MethodGet) {
		return
	}
	query := r.URL.Query()
	l := readLink(query)
	accounts, more, err := p.checkLink(l)
	switch {
	case err != nil:
	case !authType.MatchString(query.Get("auth_type")):
		err = errors.New("auth_type is not 1 to 6 or 8")
	case query.Has("category_id_list") && !categories.MatchString(query.Get("category_id_list")):
		err = errors.New("category_id_list is not ids with | between them")
	default:
		err = check(l, query)
	}
	p.mu.Lock()
	p.recordLink(EntryPage, l, "", strings.TrimPrefix(r.URL.Path, "/"), err)
	p.mu.Unlock()
	if err != nil {
		refusePage(w, err)
		return
	}
	writePage(w, linkPage, struct {
		link
		Action   string
		Accounts []string
		More     int
	}{l, consentPath, accounts, more})
}

// checkLink checks a link without using it up, and returns the accounts that may use it: those the
// platform knows, or the only one that the link is for. more is the number of accounts left out
// because they are too many for a page.
func (p *Platform) checkLink(l link) (accounts []string, more int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.components[l.Component]
	switch {
	case c == nil:
		return nil, 0, errors.New("component_appid is unknown")
	case l.BizAppID != "" && !wxtoken.ValidAppID(l.BizAppID):
		return nil, 0, errors.New("biz_appid is not an appid")
	}
	if _, err := parseURL(l.RedirectURI); err != nil {
		return nil, 0, errors.New("redirect_uri is not http:// or https:// with a host")
	}
	if _, err := p.checkPreAuth(c, l.PreAuthCode); err != nil {
		return nil, 0, err
	}
	if l.BizAppID != "" {
		return []string{l.BizAppID}, 0, nil
	}
	accounts = slices.Clone(c.Authorizers)
	for appid := range c.authorizers {
		accounts = append(accounts, appid)
	}
	slices.Sort(accounts)
	accounts = slices.Compact(accounts)
	if more = len(accounts) - maxListed; more > 0 {
		return accounts[:maxListed], more, nil
	}
	return accounts, 0, nil
}

// consentForm takes the form of a page: the account named there authorizes, and the browser goes
// to redirect_uri.
func (p *Platform) consentForm(w http.ResponseWriter, r *http.Request) {
	if !hasMethod(w, r, http.MethodPost) {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequestBody)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "bad form", http.StatusBadRequest)
		return
	}
	location, err := p.consentTo(readLink(r.PostForm), r.PostForm.Get("authorizer"))
	if err != nil {
		refusePage(w, err)
		return
	}
	http.Redirect(w, r, location, http.StatusFound)
}

// recordLink records that a page was shown or an account consented, or why not. The caller holds
// p.mu.
func (p *Platform) recordLink(kind EntryKind, l link, authorizer, page string, err error) {
	e := Entry{
		Kind: kind, Authorizer: claimed(authorizer), API: page, Outcome: OutcomeAnswered,
		What: whatPreAuthCode, Secret: fingerprintOrNone(l.PreAuthCode),
	}
	if p.components[l.Component] != nil {
		e.Component = l.Component
	}
	level := zerolog.InfoLevel
	if err != nil {
		e.Outcome, e.Text = OutcomeRefused, withoutSecret(err.Error())
		level = zerolog.WarnLevel
	}
	p.record(e)
	about(p.config.Log.WithLevel(level), e.Component, e.Authorizer).Str("kind", string(kind)).
		Str("outcome", e.Outcome).Str("reason", e.Text).Msg("authorization link used")
}

// hasMethod reports whether the request has the method, and answers with an error if not.
func hasMethod(w http.ResponseWriter, r *http.Request, want string) bool {
	if r.Method != want {
		w.Header().Set("Allow", want)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
	return r.Method == want
}

func refusePage(w http.ResponseWriter, err error) { writePage(w, errorPage, err.Error()) }

// writePage answers with a page. The status is always 200, as on WeChat's pages.
func writePage(w http.ResponseWriter, page *template.Template, data any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store") // it contains a pre-auth code
	_ = page.Execute(w, data)                   // the client may have gone
}

const pageHead = `<!DOCTYPE html>
<html lang="zh-CN">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>帐号授权（模拟）</title></head>
<body>
`

var errorPage = template.Must(template.New("error").Parse(pageHead + `<h1>请求授权失败</h1>
<p id="error">{{.}}</p>
</body>
</html>
`))

var linkPage = template.Must(template.New("link").Parse(pageHead + `<h1>帐号授权</h1>
<p>第三方平台 {{.Component}} 申请获得帐号的权限。这是模拟平台：选一个帐号，代替管理员扫码。</p>
{{define "hidden"}}<input type="hidden" name="component_appid" value="{{.Component}}">
<input type="hidden" name="pre_auth_code" value="{{.PreAuthCode}}">
<input type="hidden" name="redirect_uri" value="{{.RedirectURI}}">
<input type="hidden" name="biz_appid" value="{{.BizAppID}}">{{end}}
{{- range .Accounts}}<form method="post" action="{{$.Action}}">
{{template "hidden" $}}
<button name="authorizer" value="{{.}}">授权 {{.}}</button>
</form>
{{end}}{{if .More}}<p>另有 {{.More}} 个帐号未列出。</p>
{{end}}{{if not .BizAppID}}<form method="post" action="{{.Action}}">
{{template "hidden" .}}
<label>其他帐号 <input name="authorizer" placeholder="appid" required></label>
<button>授权</button>
</form>
{{end}}</body>
</html>
`))
