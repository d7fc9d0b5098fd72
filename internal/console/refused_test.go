package console_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"wxtoken/internal/console"
	"wxtoken/internal/events"
	"wxtoken/internal/login"
	"wxtoken/internal/looktest"
)

// sentence is a piece of English in a text: three words of small letters.
var sentence = regexp.MustCompile(`\b[a-z']{2,} [a-z']{2,} [a-z']{2,}\b`)

// TestRefusedInBothLanguages: whatever a button is refused for, the Chinese page says so in Chinese, the English one in
// English, and the audit and the dead letters say it in the same words.
func TestRefusedInBothLanguages(t *testing.T) {
	r := newRig(t)
	r.role = login.Admin
	looktest.Until(r, "the component is known", func() bool { return strings.Contains(r.html("/accounts"), shop) })
	component, nobody := "component."+keeper, "authorizer."+keeper+".wxnobody"
	foreign := "component.wxnotours"

	r.put("refresher", events.DeadSubject("renewal.due.x"), "{}", events.HeaderReason, "old")
	var dead console.Pushes
	r.read("/pushes?show=dead", &dead)

	for _, one := range []struct{ path, form, en, zh string }{
		{"/act/renew", "key=nonsense", "key: want component.&lt;appid&gt;", "key：应为"},
		{"/act/clear_quota", "key=" + component + "&confirm=wx", "confirm: want the component&#39;s appid once more", "confirm：请再次输入第三方平台的 appid"},
		{"/act/clear_quota", "key=" + foreign, "is not in the settings of the refreshers", "refresher 的设置中没有第三方平台"},
		{"/act/limits", "key=" + foreign, "is not in the settings of the refreshers", "refresher 的设置中没有第三方平台"},
		{"/act/reconcile", "key=" + foreign, "is not in the settings of the refreshers", "refresher 的设置中没有第三方平台"},
		{"/act/link", "key=" + component + "&expires_in=x", "expires_in: want seconds", "expires_in：应为秒数"},
		{"/act/link", "key=" + component + "&expires_in=1", "expires_in: want 60 to", "expires_in：应为 60 到"},
		{"/act/link", "key=" + component + "&expires_in=60&ref=" + strings.Repeat("x", 300), "ref: want at most", "ref：最多"},
		{"/act/link", "key=" + component + "&expires_in=60&return=http://a", "return: host", "return：主机"},
		{"/act/dead", "sequence=x&do=replay", "sequence: want that of a message", "sequence：应为 DEAD 中某条消息的序号"},
		{"/act/dead", "sequence=4711&do=replay", "no message 4711 is on DEAD", "没有消息 4711"},
		{"/act/dead", fmt.Sprintf("sequence=%d&do=replay", dead.Dead[0].Sequence), "it is a schedule", "这是一条定时消息"},
		{"/act/dead", fmt.Sprintf("sequence=%d&do=eat", dead.Dead[0].Sequence), "do: want replay or discard", "do：应为 replay 或 discard"},
		{"/reveal", "key=" + nobody, "has no token", "没有令牌"},
		{"/reveal", "key=x", "key: want component", "key：应为"},
	} {
		form, err := url.ParseQuery(one.form)
		r.must(err)
		for _, l := range []struct{ accept, want string }{{"en", one.en}, {"zh", one.zh}} {
			rec := r.ask(http.MethodPost, one.path, form, "Accept", "text/html", "Accept-Language", l.accept)
			page := rec.Body.String()
			if rec.Code == http.StatusSeeOther {
				page = r.ask(http.MethodGet, "/", nil, "Accept", "text/html", "Accept-Language", l.accept, "Cookie", strings.Split(rec.Header().Get("Set-Cookie"), ";")[0]).Body.String()
				page, _, _ = strings.Cut(page, `<main`)
				_, page, _ = strings.Cut(page, `<div class="said">`)
			} else {
				page = main(page)
			}
			if !strings.Contains(page, l.want) || l.accept == "zh" && sentence.MatchString(page) {
				t.Errorf("%s %s in %s: want %q: %s", one.path, one.form, l.accept, l.want, page)
			}
			var answer struct{ Detail, Error string }
			r.must(json.Unmarshal(r.ask(http.MethodPost, one.path, form, "Accept", "application/json", "Accept-Language", l.accept).Body.Bytes(), &answer))
			if l.accept == "zh" && sentence.MatchString(answer.Detail+answer.Error) || answer.Detail+answer.Error == "" {
				t.Errorf("%s %s: a program that wants %s is told %q", one.path, one.form, l.accept, answer)
			}
		}
	}

	// A token stays on the page: it can't be had again with GET, as console.js would.
	for key, want := range map[string]int{component: http.StatusOK, nobody: http.StatusNotFound} {
		shown := r.ask(http.MethodPost, "/reveal", url.Values{"key": {key}}, "Accept", "text/html")
		if shown.Code != want || !strings.Contains(shown.Body.String(), `data-events=""`) {
			t.Errorf("%s: %d, and the page follows events", key, shown.Code)
		}
	}

	// What a refresher gives up, and what was refused.
	code, err := json.Marshal(events.Auth{Kind: events.KindAuthorized, Component: keeper, Authorizer: shop, CreateTime: time.Now().UTC()})
	r.must(err)
	r.put("ingest", events.AuthSubject(keeper, events.KindAuthorized), string(code))
	looktest.Until(r, "the push without a code lies on DEAD", func() bool {
		r.read("/pushes?show=dead", &dead)
		return len(dead.Dead) == 2
	})
	for path, want := range map[string][2]string{
		"/pushes?show=dead":   {"handle authorized: authorizer or code is missing", "处理 authorized：缺少授权方或授权码"},
		dead.Dead[0].Href():   {"handle authorized: authorizer or code is missing", "处理 authorized：缺少授权方或授权码"},
		"/audit?action=link":  {"expires_in: want 60 to", "expires_in：应为 60 到"},
		"/audit?q=设置":         {"is not in the settings of the refreshers", "refresher 的设置中没有第三方平台"},
		"/links?component=wx": {"is not in the settings of the refreshers", "refresher 的设置中没有第三方平台"},
	} {
		for i, l := range []string{"en", "zh"} {
			page := r.ask(http.MethodGet, path, nil, "Accept", "text/html", "Accept-Language", l).Body.String()
			if !strings.Contains(page, want[i]) || strings.Contains(page, want[1-i]) {
				t.Errorf("%s in %s: want %q: %s", path, l, want[i], main(page))
			}
		}
	}
}
