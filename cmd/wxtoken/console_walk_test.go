//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"wxtoken/client"
	"wxtoken/internal/browsertest"
	"wxtoken/wechatsim"
)

// onDesk is the User-Agent of a browser that is not WeChat's.
const onDesk = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0 Safari/537.36"

// walker is a person with a real browser at the operator's page.
type walker struct {
	*testing.T
	ctx        context.Context
	base       string
	axe        string // the script of axe-core, empty where npm is not there
	complaints *complaints
}

// complaints are what the browser found fault with: scripts that failed, what did not load, what the policy refused.
type complaints struct {
	mu  sync.Mutex
	all []string
}

// nowhere is the page of an account that nobody knows. The browser complains of its status, rightly.
var nowhere = "/accounts/" + wxtoken.AuthorizerKey(wechatsim.DemoAppID, "wxnobody").String()

func (c *complaints) hear(event any) {
	var text string
	switch e := event.(type) {
	case *log.EventEntryAdded:
		own := e.Entry.Source == log.EntrySourceNetwork && strings.HasSuffix(e.Entry.URL, nowhere)
		if (e.Entry.Level == log.EntryLevelError || e.Entry.Source == log.EntrySourceSecurity) && !own {
			text = fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *runtime.EventExceptionThrown:
		text = e.ExceptionDetails.Text + " " + e.ExceptionDetails.URL
		if thrown := e.ExceptionDetails.Exception; thrown != nil {
			text += " " + thrown.Description
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			text = "console." + e.Type.String()
		}
	}
	if text != "" {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = append(c.all, text)
	}
}

// taken returns the complaints since it was called last.
func (c *complaints) taken() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = nil
	return all
}

// newWalker starts a browser.
func newWalker(t *testing.T, base string) *walker {
	t.Helper()
	path := browsertest.Path()
	if path == "" {
		t.Skip("no Chromium here: install it to walk through the operator's page with a real browser")
	}
	ctx := browsertest.Start(t, path)
	w := &walker{T: t, ctx: ctx, base: base, axe: browsertest.AxeCore(t), complaints: &complaints{}}
	if err := chromedp.Listen(ctx, w.complaints.hear); err != nil {
		t.Fatal(err)
	}
	command(t, ctx, log.Enable, cdp.Empty{})
	return w
}

// command makes a command of the browser's protocol.
func command[P, R any](t *testing.T, ctx context.Context, what cdp.Command[P, R], params P) {
	t.Helper()
	if _, err := chromedp.Run(ctx, func(ctx context.Context, tab *chromedp.Target) (R, error) {
		return cdp.Call(ctx, tab, what, params)
	}); err != nil {
		t.Fatal(err)
	}
}

// speak makes the browser one of that kind and language.
func speak(t *testing.T, ctx context.Context, agent, language string) {
	t.Helper()
	command(t, ctx, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: agent, AcceptLanguage: language})
}

// eval returns the value of an expression on the page. A page that is being loaded is asked again.
func eval[R any](w *walker, expression string) (value R) {
	w.Helper()
	eventually(w.T, "the page to answer", func() (err error) {
		value, err = chromedp.Run(w.ctx, chromedp.Evaluate[R](expression, chromedp.EvalAwaitPromise))
		return err
	})
	return value
}

func (w *walker) do(steps ...chromedp.Action[chromedp.Void]) {
	w.Helper()
	if err := chromedp.Do(w.ctx, steps...); err != nil {
		w.Fatal(err)
	}
}

// login begins anew, as a person of the users file.
func (w *walker) login(name, password string) {
	w.Helper()
	command(w.T, w.ctx, network.ClearBrowserCookies, cdp.Empty{})
	w.do(chromedp.Navigate(w.base+"/links"), chromedp.SendKeys("#name", name), chromedp.SendKeys("#password", password+"\n"))
	eventually(w.T, "the page that was asked for", func() error {
		if at := eval[string](w, `location.pathname + " " + (document.querySelector(".who")?.innerText ?? "")`); !strings.HasPrefix(at, "/links "+name) {
			return errors.New(at)
		}
		return nil
	})
}

// outside names what goes beyond the window. What stands in a box that scrolls by itself, or is for screen readers, does not.
const outside = `(() => {
	const wide = [];
	if (document.documentElement.scrollWidth > innerWidth) wide.push("the page: " + document.documentElement.scrollWidth + " of " + innerWidth);
	for (const e of document.body.querySelectorAll("*:not(.skip, .wide *, .unseen, .unseen *)")) {
		const box = e.getBoundingClientRect();
		if (box.right > innerWidth + 1 || box.left < -1) wide.push(e.tagName + " " + e.className + " " + box.left + ".." + box.right);
	}
	return wide;
})()`

// open opens a page, which is answered with a status and has a title in the language that is asked for.
func (w *walker) open(path, language string, status int) {
	w.Helper()
	speak(w.T, w.ctx, onDesk, language)
	w.do(chromedp.Navigate(w.base + path))
	if got := eval[int](w, `performance.getEntriesByType("navigation")[0].responseStatus`); got != status {
		w.Errorf("status %d, want %d", got, status)
	}
	if got := eval[string](w, "document.documentElement.lang"); got != language {
		w.Errorf("the page is in %q", got)
	}
	if titles := eval[[]string](w, `[...document.querySelectorAll("h1")].map(h => h.innerText.trim())`); len(titles) != 1 || titles[0] == "" {
		w.Errorf("titles %q, want one", titles)
	}
}

// fits looks whether the page fits into a window.
func (w *walker) fits(pixels int64) {
	w.Helper()
	w.do(chromedp.EmulateViewport(pixels, 844))
	if wide := eval[[]string](w, outside); len(wide) > 0 {
		w.Errorf("at %d pixels: %s", pixels, strings.Join(wide, "; "))
	}
}

// audit has axe look for what is serious, light or dark.
func (w *walker) audit(scheme string) {
	w.Helper()
	command(w.T, w.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if w.axe == "" {
		return
	}
	eval[any](w, w.axe+"; null")
	for _, fault := range eval[[]string](w, `axe.run({resultTypes: ["violations"]}).then(r => r.violations.filter(v => v.impact == "serious" || v.impact == "critical")
		.map(v => v.id + ": " + v.nodes.map(n => n.html + " " + n.failureSummary).join(" | ")))`) {
		w.Errorf("%s: %s", scheme, fault)
	}
}

// tab goes through the top of the page with the key Tab: it comes by each link and button as they stand, and one sees where it is.
func (w *walker) tab() {
	w.Helper()
	const name = `(e => e.getAttribute("href") ?? e.innerText)`
	want := eval[[]string](w, `[...document.querySelectorAll(".skip, .top a, .top button")].map(`+name+`)`)
	var got []string
	for range want {
		w.do(chromedp.KeyEvent("\t"))
		got = append(got, eval[string](w, name+`(document.activeElement)`))
		if seen := eval[string](w, `(e => getComputedStyle(e).outlineStyle + (e.getBoundingClientRect().left < 0 ? ", out of sight" : ""))(document.activeElement)`); seen != "solid" {
			w.Errorf("the focus on %s: outline %s", got[len(got)-1], seen)
		}
	}
	if !slices.Equal(got, want) {
		w.Errorf("by keyboard: %q, want %q", got, want)
	}
}

// consoleUsers makes a users file with a reader, an operator and an admin, and returns their passwords.
func consoleUsers(t *testing.T) (file string, passwords map[string]string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "users.json")
	passwords = map[string]string{}
	for name, role := range map[string]string{"rui": "reader", "li": "operator", "wang": "admin"} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "wxtoken"), "--console-users-file="+file, "--make-console-user="+name+":"+role).Output()
		if err != nil {
			t.Fatal(err)
		}
		passwords[name] = strings.TrimSpace(string(out))
	}
	return file, passwords
}

// busyDay has things happen that the pages tell of: an account that needs a person, one that cancels, messages, and pushes that can't
// be used.
func busyDay(t *testing.T, sim simRun) {
	t.Helper()
	sim.post(t, "fail", url.Values{"api": {"api_authorizer_token"}, "errcode": {"48001"}, "authorizer": {"wxa000000000000002"}, "times": {"100"}})
	sim.post(t, "cancel", url.Values{"authorizer": {"wxa000000000000003"}})
	sim.post(t, "push", url.Values{"authorizer": {"wxa000000000000001"}, "content": {"你好 " + strings.Repeat("Supercalifragilistic", 12)}})
	sim.post(t, "push", url.Values{"authorizer": {"wxa000000000000001"}, "event": {"subscribe"}})
	sim.post(t, "push", url.Values{"document": {"<xml><AppId>" + wechatsim.DemoAppID + "</AppId><InfoType>authorized</InfoType></xml>"}})
	sim.post(t, "push", url.Values{"document": {"no XML " + strings.Repeat("Supercalifragilistic", 12)}})
}

// TestConsoleWalk walks through the operator's page with a real browser, in both languages, on a phone and a desk, light and dark: each
// page loads with all that belongs to it, fits into the window, can be used by keyboard, and axe finds nothing serious. It then
// presses a button, does without scripts, sees as a reader that there are no buttons, and looks at 10,000 accounts.
func TestConsoleWalk(t *testing.T) {
	t.Parallel()
	if browsertest.Path() == "" {
		t.Skip("no Chromium here: install it to walk through the operator's page with a real browser")
	}
	file, passwords := consoleUsers(t)
	sim := simulate(t, "--sim-authorizers=6", "--console-users-file="+file)
	busyDay(t, sim)
	aLink(t, t.Context(), sim)
	w := newWalker(t, sim.ops)
	account := "/accounts/" + wxtoken.AuthorizerKey(wechatsim.DemoAppID, "wxa000000000000001").String()
	speak(t, w.ctx, onDesk, "en")
	w.login("wang", passwords["wang"])
	pages := []string{
		"/", "/accounts", "/accounts?q=nothing+like+it", account, "/accounts/" + wxtoken.ComponentKey(wechatsim.DemoAppID).String(), nowhere,
		"/pushes", w.first("/pushes", "/pushes/messages/"), "/pushes?show=refused", "/pushes?show=dead", w.first("/pushes?show=dead", "/pushes/dead/"),
		"/notices", "/links", "/services", "/check", "/runbook", "/runbook/a-component-is-in-state-operator", "/audit", "/login",
	}
	for _, language := range []string{"en", "zh-CN"} {
		for _, path := range pages {
			t.Run(language+path, func(t *testing.T) {
				w.in(t).look(path, language)
			})
		}
	}
	t.Run("renew now", func(t *testing.T) { w.in(t).renew(account) })
	t.Run("without scripts", func(t *testing.T) {
		w := w.in(t)
		command(t, w.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		for _, path := range pages {
			t.Run(path, func(t *testing.T) {
				w := w.in(t)
				w.open(path, "en", statusOf(path))
				w.fits(390)
				if eval[bool](w, `document.querySelector("#live")?.checkVisibility() ?? false`) {
					t.Error("the page says that it follows by itself")
				}
			})
		}
		w.renew(account)
		command(t, w.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: false})
	})
	t.Run("a reader", func(t *testing.T) {
		w := w.in(t)
		w.login("rui", passwords["rui"])
		for _, path := range pages[:len(pages)-1] {
			w.open(path, "en", statusOf(path))
			if forms := eval[[]string](w, `[...document.querySelectorAll('form[method="post"]')].map(f => f.getAttribute("action"))`); !slices.Equal(forms, []string{"/logout"}) {
				t.Errorf("%s: a reader may post to %q", path, forms)
			}
		}
	})
	w.walkMany()
	if all := w.complaints.taken(); len(all) > 0 {
		t.Errorf("the browser complains: %s", strings.Join(all, "; "))
	}
}

// in is w for a part of the test.
func (w *walker) in(t *testing.T) *walker {
	part := *w
	part.T = t
	return &part
}

func statusOf(path string) int {
	if path == nowhere {
		return 404
	}
	return 200
}

// first waits until a page has a link to an address that begins so, and returns it.
func (w *walker) first(path, begin string) (href string) {
	w.Helper()
	eventually(w.T, "a link to "+begin, func() error {
		w.do(chromedp.Navigate(w.base + path))
		if href = eval[string](w, `document.querySelector('main a[href^="`+begin+`"]')?.getAttribute("href") ?? ""`); href == "" {
			return errors.New(eval[string](w, "document.body.innerText"))
		}
		return nil
	})
	return href
}

// look is all that is looked at on a page.
func (w *walker) look(path, language string) {
	w.Helper()
	w.open(path, language, statusOf(path))
	w.fits(390)
	picture(w.T, w.ctx, "walk"+strings.ReplaceAll(path, "/", "_")+" "+language+" 390")
	if language == "en" {
		w.audit("light")
		w.tab()
	}
	w.fits(1440)
	if language != "en" {
		w.audit("dark")
	}
	picture(w.T, w.ctx, "walk"+strings.ReplaceAll(path, "/", "_")+" "+language+" 1440")
	if all := w.complaints.taken(); len(all) > 0 {
		w.Errorf("the browser complains: %s", strings.Join(all, "; "))
	}
}

// renew presses the button, and waits for what came of it.
func (w *walker) renew(account string) {
	w.Helper()
	w.open(account, "en", 200)
	w.do(chromedp.Click(`form[action="/act/renew"] button`))
	eventually(w.T, "the outcome", func() error {
		said := eval[string](w, `location.pathname + ": " + (document.querySelector(".said")?.innerText ?? "")`)
		for _, outcome := range []string{"The token is being renewed.", "It was renewed just now.", "Not renewed: the token is younger"} {
			if strings.HasPrefix(said, account+": "+outcome) {
				return nil
			}
		}
		return errors.New(said)
	})
}
