package wechatsim_test

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

var (
	formPattern   = regexp.MustCompile(`(?s)<form method="post" action="([^"]*)">.*?</form>`)
	fieldPattern  = regexp.MustCompile(`<(?:input|button)[^>]* name="([^"]*)"(?: value="([^"]*)")?`)
	errorOfPage   = regexp.MustCompile(`<p id="error">(.*)</p>`)
	noRedirecting = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
)

// page is what a browser makes of a page.
type page struct {
	text  string
	err   string       // what an error page says
	forms []url.Values // a text field to be filled in is empty
}

// visit opens a link in a browser, coming from a page, or from nowhere.
func (w *world) visit(link, referer string) page {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, link, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if referer != "" {
		request.Header.Set("Referer", referer)
	}
	response, err := w.client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	p := page{text: readAll(w.t, response)}
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/html; charset=utf-8" || response.Header.Get("Cache-Control") != "no-store" {
		w.t.Fatalf("%s %s", response.Status, p.text)
	}
	if match := errorOfPage.FindStringSubmatch(p.text); match != nil {
		p.err = html.UnescapeString(match[1])
	}
	for _, form := range formPattern.FindAllStringSubmatch(p.text, -1) {
		values := url.Values{"action": {form[1]}}
		for _, field := range fieldPattern.FindAllStringSubmatch(form[0], -1) {
			values.Set(field[1], html.UnescapeString(field[2]))
		}
		p.forms = append(p.forms, values)
	}
	return p
}

// accounts returns the accounts that a page offers, "" for a text field.
func (p page) accounts() (list []string) {
	for _, form := range p.forms {
		list = append(list, form.Get("authorizer"))
	}
	return list
}

// submit posts a form and returns where the browser goes, or what the error page says.
func (w *world) submit(form url.Values) (location *url.URL, failure string) {
	w.t.Helper()
	client := *w.client
	client.CheckRedirect = noRedirecting
	response, err := client.PostForm("http://api"+form.Get("action"), form)
	if err != nil {
		w.t.Fatal(err)
	}
	text := readAll(w.t, response)
	if response.StatusCode == http.StatusFound {
		location, err := response.Location()
		if err != nil {
			w.t.Fatal(err)
		}
		return location, ""
	}
	match := errorOfPage.FindStringSubmatch(text)
	if response.StatusCode != http.StatusOK || match == nil {
		w.t.Fatalf("%s %s", response.Status, text)
	}
	return nil, html.UnescapeString(match[1])
}

// link returns a link with a fresh pre-auth code.
func (w *world) link(token string) wechat.LinkParams {
	w.t.Helper()
	code, err := w.wechat().CreatePreAuthCode(w.t.Context(), token, compID)
	if err != nil {
		w.t.Fatal(err)
	}
	return wechat.LinkParams{Component: compID, PreAuthCode: code.Code, RedirectURI: "https://token.example.com:8443/connect/7/callback?ref=a&b=%20c", AuthType: 3}
}

// TestAuthorizationPages walks from the link to the exchanged code: each page, from the merchant's
// page and without one.
func TestAuthorizationPages(t *testing.T) {
	const landing = "https://token.example.com:8443/connect/7"
	for _, row := range []struct {
		name    string
		address func(wechat.LinkParams) string
		referer string
	}{
		{"pc", func(l wechat.LinkParams) string { return l.PC("http://api") }, landing},
		{"pc, host in capitals", func(l wechat.LinkParams) string { return l.PC("http://api") }, "https://Token.Example.com:8443/"},
		{"mobile, scanned", func(l wechat.LinkParams) string { return l.Mobile("http://api") }, ""},
		{"mobile, followed", func(l wechat.LinkParams) string { return l.Mobile("http://api") }, landing},
		{"mobile, older path", func(l wechat.LinkParams) string { return strings.Replace(l.Mobile("http://api"), "/wxaopen", "", 1) }, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.Components[0].Authorizers = []string{accountB}
				w := start(t, config)
				time.Sleep(time.Second) // accountB authorizes
				token := w.componentToken()
				for _, typed := range []bool{false, true} {
					l := w.link(token)
					shown := w.visit(row.address(l), row.referer)
					known := []string{accountB, ""}
					if typed {
						known = []string{accountA, accountB, ""}
					}
					if !slices.Equal(shown.accounts(), known) {
						t.Fatalf("the page offers %q, want %q:\n%s", shown.accounts(), known, shown.text)
					}
					form, account, event := shown.forms[len(known)-1], accountA, "authorized"
					form.Set("authorizer", accountA)
					if typed {
						form, account, event = shown.forms[1], accountB, "updateauthorized"
					}
					back, failure := w.submit(form)
					if failure != "" {
						t.Fatal(failure)
					}
					query := back.Query()
					if back.Host != "token.example.com:8443" || back.Path != "/connect/7/callback" || query.Get("ref") != "a" || query.Get("b") != " c" || query.Get("expires_in") != "3600" {
						t.Errorf("the browser goes to %s", back)
					}
					if pushed := w.last(event).fields; pushed["PreAuthCode"] != l.PreAuthCode || pushed["AuthorizerAppid"] != account {
						t.Errorf("pushed %v", pushed)
					}
					got, err := w.wechat().QueryAuth(t.Context(), token, compID, query.Get("auth_code"))
					if err != nil || got.AuthorizerAppID != account {
						t.Errorf("the code is of %q: %v", got.AuthorizerAppID, err)
					}
					if again := w.visit(row.address(l), row.referer); again.err != "the pre-auth code was used already" {
						t.Errorf("the link, a second time: %q", again.err)
					}
					if _, failure := w.submit(form); !strings.Contains(failure, "used already") {
						t.Errorf("the form, a second time: %q", failure)
					}
				}
			})
		})
	}
}

// TestAuthorizationPageRefuses changes one thing of a good link in turn.
func TestAuthorizationPageRefuses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		expired := w.link(token).PreAuthCode
		time.Sleep(10 * time.Minute)
		w.pushed("") // the ticket that comes now
		l := w.link(token)
		const pc, mobile, landing = "/cgi-bin/componentloginpage", "/wxaopen/safe/bindcomponent", "https://token.example.com:8443/connect/7"
		for _, row := range []struct {
			name, path, referer string
			field, value        string // of the query; no value takes it out
			want                string
		}{
			{"as it is", pc, landing, "", "", ""},
			{"no component", pc, landing, "component_appid", "", "component_appid is unknown"},
			{"unknown component", pc, landing, "component_appid", "wx0", "component_appid is unknown"},
			{"no code", pc, landing, "pre_auth_code", "", "the pre-auth code is unknown or expired"},
			{"unknown code", pc, landing, "pre_auth_code", "preauthcode@@@x", "the pre-auth code is unknown or expired"},
			{"expired code", pc, landing, "pre_auth_code", expired, "the pre-auth code is unknown or expired"},
			{"no redirect_uri", pc, landing, "redirect_uri", "", "redirect_uri is not"},
			{"redirect_uri without a host", pc, landing, "redirect_uri", "/connect/7", "redirect_uri is not"},
			{"redirect_uri of another scheme", pc, landing, "redirect_uri", "javascript://token.example.com:8443/%0aalert(1)", "redirect_uri is not"},
			{"no auth_type", pc, landing, "auth_type", "", "auth_type is not"},
			{"unknown auth_type", pc, landing, "auth_type", "7", "auth_type is not"},
			{"all categories", pc, landing, "category_id_list", "1|15|149", ""},
			{"odd categories", pc, landing, "category_id_list", "1,15", "category_id_list is not"},
			{"odd biz_appid", pc, landing, "biz_appid", "<b>", "biz_appid is not"},
			{"no Referer", pc, "", "", "", "授权入口页所在域名：空；授权后回调页所在域名：token.example.com:8443"},
			{"Referer that is none", pc, "about:blank", "", "", "授权入口页所在域名：空"},
			{"Referer of another host", pc, "https://example.com/", "", "", "授权入口页所在域名：example.com；"},
			{"Referer of another port", pc, "https://token.example.com/", "", "", "授权入口页所在域名：token.example.com；"},
			{"mobile as it is", mobile, "", "", "", ""},
			{"mobile, Referer of another host", mobile, "https://example.com/", "", "", "授权入口页所在域名：example.com"},
			{"mobile without action", mobile, "", "action", "", "action is not"},
			{"mobile without no_scan", mobile, "", "no_scan", "", "no_scan is not"},
		} {
			good, err := url.Parse(l.Mobile("http://api"))
			if err != nil {
				t.Fatal(err)
			}
			query := good.Query()
			if query.Del(row.field); row.value != "" {
				query.Set(row.field, row.value)
			}
			shown := w.visit("http://api"+row.path+"?"+query.Encode(), row.referer)
			if (row.want == "") != (shown.err == "") || !strings.Contains(shown.err, row.want) || (len(shown.forms) > 0) != (row.want == "") {
				t.Errorf("%s: %q and %d forms, want %q", row.name, shown.err, len(shown.forms), row.want)
			}
			history := w.p.History()
			e, outcome := history[len(history)-1], wechatsim.OutcomeAnswered
			if row.want != "" {
				outcome = wechatsim.OutcomeRefused
			}
			if e.Kind != wechatsim.EntryPage || e.API != row.path[1:] || e.Outcome != outcome || e.Text != shown.err {
				t.Errorf("%s: recorded %+v", row.name, e)
			}
		}
		for _, row := range []struct{ method, path string }{{http.MethodPost, pc}, {http.MethodGet, "/sim/consent"}} {
			request, err := http.NewRequestWithContext(t.Context(), row.method, "http://api"+row.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := w.client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			if readAll(t, response); response.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %s", row.method, row.path, response.Status)
			}
		}
	})
}

// TestConsentForm sends forms that no page has.
func TestConsentForm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		l := w.link(token)
		l.BizAppID = accountA
		shown := w.visit(l.PC("http://api"), l.RedirectURI)
		if !slices.Equal(shown.accounts(), []string{accountA}) {
			t.Fatalf("a link for one account offers %q", shown.accounts())
		}
		for _, row := range []struct{ field, value, want string }{
			{"authorizer", accountB, "the link is for account"},
			{"authorizer", "a.b", "is not an appid"},
			{"component_appid", "wx0", "unknown component"},
			{"pre_auth_code", "x", "unknown or expired"},
			{"redirect_uri", "ftp://example.com", "redirect_uri is not"},
		} {
			form := url.Values{}
			for name := range shown.forms[0] {
				form.Set(name, shown.forms[0].Get(name))
			}
			form.Set(row.field, row.value)
			if _, failure := w.submit(form); !strings.Contains(failure, row.want) {
				t.Errorf("%s %q: %q, want %q", row.field, row.value, failure, row.want)
			}
		}
		if w.p.Truth(compID, accountB).Live {
			t.Error("another account than the link's authorized")
		}
		if _, failure := w.submit(shown.forms[0]); failure != "" {
			t.Error(failure)
		}
		var consents []string
		for _, e := range w.p.History() {
			if e.Kind == wechatsim.EntryConsent {
				consents = append(consents, fmt.Sprint(e.Component, e.Authorizer, e.Outcome, e.Secret == wechatsim.Fingerprint(l.PreAuthCode)))
			}
		}
		want := []string{
			compID + accountB + "refused" + "true", compID + "refused" + "true", accountA + "refused" + "true", compID + accountA + "refused" + "false",
			compID + accountA + "refused" + "true", compID + accountA + "answered" + "true",
		}
		if fmt.Sprint(consents) != fmt.Sprint(want) {
			t.Errorf("recorded %q, want %q", consents, want)
		}
	})
}

// TestPagesEscape puts markup wherever a link has room for it.
func TestPagesEscape(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		l := w.link(w.componentToken())
		const markup = `"><script>alert(1)</script>`
		l.RedirectURI = "https://example.com/?" + markup
		shown := w.visit(l.PC("http://api"), "https://example.com/")
		if strings.Contains(shown.text, "<script") || len(shown.forms) != 1 || shown.forms[0].Get("redirect_uri") != l.RedirectURI {
			t.Errorf("redirect_uri %q in\n%s", shown.forms[0].Get("redirect_uri"), shown.text)
		}
		shown = w.visit(l.PC("http://api"), `https://<script>alert(1)<`+`/script>`)
		if strings.Contains(shown.text, "<script") || shown.err == "" {
			t.Errorf("Referer in\n%s", shown.text)
		}
		l.Component = markup
		if shown = w.visit(l.PC("http://api"), "https://example.com/"); strings.Contains(shown.text, "<script") || shown.err == "" {
			t.Errorf("component_appid in\n%s", shown.text)
		}
		form := url.Values{"action": {"/sim/consent"}, "component_appid": {markup}, "authorizer": {markup}}
		if _, failure := w.submit(form); !strings.Contains(failure, "unknown component") {
			t.Errorf("form: %s", failure)
		}
	})
}

// TestPageOfMany has more accounts than a page lists.
func TestPageOfMany(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		for i := range 150 {
			config.Components[0].Authorizers = append(config.Components[0].Authorizers, fmt.Sprintf("wx%016d", i))
		}
		w := start(t, config)
		l := w.link(w.componentToken())
		shown := w.visit(l.PC("http://api"), l.RedirectURI)
		if len(shown.forms) != 101 || !strings.Contains(shown.text, "另有 50 个帐号") {
			t.Errorf("%d forms in\n%s", len(shown.forms), shown.text)
		}
	})
}
