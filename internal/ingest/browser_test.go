package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"wxtoken/internal/browsertest"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/settings"
)

// hostile is a name that looks like markup, turns lines around, and is longer than any line.
var hostile = "\u202e<b onclick=alert(1)>小店</b>\u2066&amp;\"'\u0000" + strings.Repeat("很长的名字Supercalifragilistic", 12)

// brand is what merchants are told about the component of the tests.
var brand = settings.Page{
	Name: "示例云服务", NameEN: "Example Cloud", Contact: "客服 400-000-0000（工作日 9:00–18:00）", ContactEN: "support@example.com",
	Color: "#1a6dff", CategoryIDs: []int{1, 2, 7, 11, 15, 17, 18, 30, 45, 130, 7777},
	Logo: `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 44 44"><rect width="44" height="44" rx="10" fill="#1a6dff"/>` +
		`<path d="M12 26a7 7 0 0 1 3-13 9 9 0 0 1 17 2 6 6 0 0 1 0 11z" fill="#fff"/></svg>`, LogoType: "image/svg+xml",
}

const onSafari = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile/15E148 Safari/604.1"

// shownPage is one state of the pages: how a link comes to it, and what stands there in both languages.
type shownPage struct {
	name   string
	set    func(*link)
	agent  string
	path   string // behind that of the link
	zh, en string
}

var (
	authorizedAt = time.Date(2026, 11, 26, 2, 30, 0, 0, time.UTC)
	theAccount   = func(l *link) { l.Authorizer, l.NickName, l.EndedAt = authorizer, "某某小店", authorizedAt }
	failedOf     = func(reason string) func(*link) {
		return func(l *link) { l.State, l.Reason, l.EndedAt = events.ConnectFailed, reason, authorizedAt }
	}
	overWith = func(state string) func(*link) {
		return func(l *link) { theAccount(l); l.State, l.Over = state, events.OverEnded }
	}
	asked = func(l *link) {
		l.AuthType, l.ExpiresAt = 3, authorizedAt
	}
)

var shownPages = []shownPage{
	{"landing on a desk", asked, onPC, "", "授权给示例云服务", "Authorize Example Cloud"},
	{"landing in WeChat", func(l *link) { asked(l); l.AuthType = 2 }, onPhone, "", "小程序开发与数据分析", "development and data analysis"},
	{"landing outside WeChat", asked, onSafari, "", "请在微信中打开本页面", "Open this page in WeChat"},
	{"landing for one account", func(l *link) {
		asked(l)
		l.BizAppID, l.NickName, l.CategoryIDs = authorizer, hostile, events.Category{1, 18}
	}, onPC, "", "<b onclick=alert(1)>小店</b>", "<b onclick=alert(1)>小店</b>"},
	{"waiting", func(l *link) { l.State, l.CodeAt = events.ConnectExchanging, now }, onPhone, "/callback", "正在完成授权", "Completing"},
	{"authorized", func(l *link) { theAccount(l); l.State = events.ConnectAuthorized }, onPhone, "/callback", "2026年11月26日 10:30（北京时间）", "26 November 2026, 10:30 (Beijing time)"},
	{"authorized with a hostile name", func(l *link) { theAccount(l); l.State, l.NickName = events.ConnectAuthorized, hostile }, onPC, "/callback", "&amp;\"'很长", "&amp;\"'很长"},
	{"already authorized", overWith(events.ConnectAuthorized), onPhone, "", "已经授权，无需再次操作", "Already authorized"},
	{"cancelled since", func(l *link) { overWith(events.ConnectAuthorized)(l); l.Lapsed = true }, onPhone, "", "授权已经失效", "no longer in force"},
	{"conflict", overWith(events.ConnectConflict), onPhone, "", "归属没有改变", "another customer of Example Cloud"},
	{"used by another browser", overWith(events.ConnectAuthorized), onPhone, "/callback?auth_code=x", "这个链接已经用过", "This link was used before"},
	{"busy", func(l *link) { l.State, l.Over, l.CodeAt = events.ConnectExchanging, events.OverBusy, now }, onPhone, "", "正在使用中", "in use right now"},
	{"expired", func(l *link) { l.Over, l.ExpiresAt = events.OverExpired, authorizedAt }, onPhone, "", "请向示例云服务索取新的链接", "Ask Example Cloud for a new link"},
	{"used or expired", func(l *link) { l.code = 410 }, onPC, "", "链接已失效", "no longer valid"},
	{"failed: code_spent", failedOf("code_spent"), onPhone, "/callback", "已经用过，或者已经过期", "was used before"},
	{"failed: revoked", failedOf("revoked"), onPhone, "/callback", "已被取消", "was cancelled"},
	{"failed: no_account", failedOf("no_account"), onPhone, "/callback", "哪个账号", "which account"},
	{"failed: another_account", failedOf("another_account"), onPhone, "/callback", "另一个账号", "another one was chosen"},
	{"failed: no_api_permission", failedOf("no_api_permission"), onPhone, "/callback", "接口权限", "API permission"},
	{"failed: operator", failedOf("operator"), onPhone, "/callback", "我们这边出了问题", "on our side"},
	{"unknown", func(l *link) { l.code = 404 }, onPC, "", "链接不存在", "No such link"},
	{"another browser", func(l *link) { l.code = 403 }, onPhone, "/callback", "同一浏览器", "the browser in which you began"},
	{"not valid", func(*link) {}, onPhone, "/callback?expires_in=600", "请求无效", "not valid"},
	{"unavailable", func(l *link) { l.code = 503 }, onPhone, "", "暂时不可用", "Not available"},
}

// browser is one tab of Chromium.
type browser struct {
	*testing.T
	context.Context
	at     *url.URL
	axe    string // the script of axe-core, empty where npm is not there
	faults []string
}

func newBrowser(t *testing.T, at *url.URL) *browser {
	t.Helper()
	path := browsertest.Path()
	if path == "" {
		t.Skip("no Chromium here: install it to see the pages in a real browser")
	}
	ctx := browsertest.Start(t, path)
	b := &browser{T: t, Context: ctx, at: at, axe: browsertest.AxeCore(t)}
	if err := chromedp.Listen(ctx, func(event any) {
		if e, ok := event.(*log.EventEntryAdded); ok && e.Entry.Source == log.EntrySourceSecurity { // what the policy refused
			b.faults = append(b.faults, e.Entry.Text)
		}
	}); err != nil {
		t.Fatal(err)
	}
	command(b, log.Enable, cdp.Empty{})
	return b
}

// command makes a command of the browser's protocol.
func command[P, R any](b *browser, what cdp.Command[P, R], params P) {
	b.Helper()
	if _, err := chromedp.Run(b.Context, func(ctx context.Context, t *chromedp.Target) (R, error) {
		return cdp.Call(ctx, t, what, params)
	}); err != nil {
		b.Fatal(err)
	}
}

// eval returns the value of an expression on the page. A page that loads itself again meanwhile is asked again.
func eval[R any](b *browser, expression string) R {
	b.Helper()
	for began := time.Now(); ; {
		value, err := chromedp.Run(b.Context, chromedp.Evaluate[R](expression, chromedp.EvalAwaitPromise))
		if err == nil {
			return value
		}
		if time.Since(began) > time.Minute || b.Context.Err() != nil {
			b.Fatalf("%s: %v", expression[max(0, len(expression)-200):], err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// width changes the size of the window.
func (b *browser) width(pixels int64) {
	b.Helper()
	if err := chromedp.Do(b.Context, chromedp.EmulateViewport(pixels, 844)); err != nil {
		b.Fatal(err)
	}
}

// scheme is light or dark.
func (b *browser) scheme(name string) {
	b.Helper()
	command(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
}

// open opens a page as a browser of that kind and language.
func (b *browser) open(path, agent, language string) {
	b.Helper()
	command(b, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: agent, AcceptLanguage: language})
	command(b, network.SetCookie, network.SetCookieParams{Name: "wxtoken_connect", Value: linkSession, URL: b.at.String(), Path: "/connect/"})
	if err := chromedp.Do(b.Context, chromedp.Navigate(b.at.String()+path)); err != nil {
		b.Fatal(err)
	}
}

// overflowing names what is wider than the window, or is cut off.
const overflowing = `(() => {
	const wide = [];
	if (document.documentElement.scrollWidth > innerWidth) wide.push("the page: " + document.documentElement.scrollWidth + " of " + innerWidth);
	for (const e of document.body.querySelectorAll("*")) {
		const box = e.getBoundingClientRect();
		if (box.right > innerWidth + 1 || box.left < -1) wide.push(e.tagName + " " + e.className + " " + box.left + ".." + box.right);
		if (!e.closest("svg") && e.clientWidth && e.scrollWidth > e.clientWidth + 1) wide.push(e.tagName + " " + e.className + " is cut off");
	}
	return wide;
})()`

// check checks a page in four widths, by keyboard and with axe.
func (b *browser) check(name string) {
	b.Helper()
	for _, width := range []int64{360, 390, 768, 1440} {
		b.width(width)
		if wide := eval[[]string](b, overflowing); len(wide) > 0 {
			b.Errorf("at %d pixels: %s", width, strings.Join(wide, "; "))
		}
		b.savePicture(fmt.Sprintf("%s %d", name, width))
		switch width {
		case 390:
			b.checkAxe("at 390 pixels, light")
		case 1440:
			b.scheme("dark")
			b.savePicture(name + " dark")
			b.checkAxe("at 1440 pixels, dark")
			b.scheme("light")
		}
	}
	b.checkTabOrder()
}

// checkAxe has axe look for what is serious. A page that loads itself again takes nothing from its reader: it is one sentence,
// and the same one until the authorization is done.
func (b *browser) checkAxe(where string) {
	b.Helper()
	if b.axe == "" {
		return
	}
	found := eval[[]string](b, b.axe+`; axe.run().then(r => r.violations.filter(v => v.impact == "serious" || v.impact == "critical").filter(v => v.id != "meta-refresh").map(v => v.id + ": " + v.nodes.map(n => n.html + " " + n.failureSummary).join(" | ")))`)
	for _, fault := range found {
		b.Errorf("%s: %s", where, fault)
	}
}

// checkTabOrder goes through a page with the key Tab: it comes by each link, in the order in which they stand, and the focus is visible.
func (b *browser) checkTabOrder() {
	b.Helper()
	want := eval[[]string](b, `[...document.querySelectorAll("a")].map(a => a.getAttribute("href"))`)
	eval[any](b, "document.activeElement.blur(); null")
	var got []string
	for range want {
		if err := chromedp.Do(b.Context, chromedp.KeyEvent("\t")); err != nil {
			b.Fatal(err)
		}
		got = append(got, eval[string](b, `document.activeElement.getAttribute("href") ?? document.activeElement.tagName`))
		if outline := eval[string](b, "getComputedStyle(document.activeElement).outlineStyle"); outline != "solid" {
			b.Errorf("the outline of what has the focus is %q", outline)
		}
	}
	if !slices.Equal(got, want) {
		b.Errorf("by keyboard: %q, want %q", got, want)
	}
}

// savePicture saves a picture of the page into the directory that WXTOKEN_TEST_PICTURES names.
func (b *browser) savePicture(name string) {
	b.Helper()
	dir := os.Getenv("WXTOKEN_TEST_PICTURES")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.Context, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, strings.NewReplacer(" ", "-", ":", "").Replace(name)+".png"), png, 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// TestPages opens each page in Chromium, in both languages: what has to stand there can be read, nothing is cut off in four
// widths, all links are reached by keyboard, foreign names are text, and axe finds nothing serious, light or dark.
func TestPages(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	if err := r.ingest.SetComponents([]settings.Component{componentWith(brand)}); err != nil {
		t.Fatal(err)
	}
	f := newRefresher(t, srv)
	b := newBrowser(t, r.serve(t))
	for n, state := range shownPages {
		id := fmt.Sprintf("SEEN%04dabcdefghijklmn", n)
		l := &link{ConnectOpened: f.links[linkID].ConnectOpened}
		l.URL = "https://shop.example/connect/" + id
		state.set(l)
		l.used = "x" // by another browser, should a code come
		f.mu.Lock()
		f.links[id] = l
		f.mu.Unlock()
		for _, language := range []string{"zh-CN", "en"} {
			t.Run(state.name+" "+language, func(t *testing.T) {
				b := &browser{T: t, Context: b.Context, at: b.at, axe: b.axe}
				b.open("/connect/"+id+state.path, state.agent, language)
				text, want := eval[string](b, "document.body.innerText"), state.zh
				if language == "en" {
					want = state.en
				}
				if !strings.Contains(text, want) {
					t.Errorf("the page does not say %q: %s", want, text)
				}
				for _, inner := range []string{l.Reason, l.Over, "code_", "_account", "no_api", "errcode", "undefined", "%!", "SEKRET"} {
					if inner != "" && strings.Contains(strings.ReplaceAll(text, l.URL, ""), inner) && inner != "expired" && inner != "ended" {
						t.Errorf("the page says %q: %s", inner, text)
					}
				}
				if source := eval[string](b, "document.documentElement.outerHTML"); strings.Contains(source, linkSession) || strings.Contains(source, "queryauthcode") {
					t.Errorf("the page holds a secret: %s", source)
				}
				if eval[int](b, `document.querySelectorAll("b, script, [onclick]").length`) != 0 {
					t.Error("a foreign name became markup")
				}
				if eval[string](b, `getComputedStyle(document.querySelector("main")).borderRadius`) == "0px" {
					t.Error("the style sheet is not in force")
				}
				if strings.ContainsAny(text, "\u202e\u2066") {
					t.Error("a mark that turns the line around is on the page")
				}
				b.check(state.name + " " + language)
			})
		}
	}
	if len(b.faults) > 0 {
		t.Errorf("the browser refused to load: %s", errors.New(strings.Join(b.faults, "; ")))
	}
}
