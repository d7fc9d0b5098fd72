package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"wxtoken/internal/console"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/login"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/services"
	"wxtoken/wxtokentest"
)

// sekret is in everything that no page may show.
const sekret = "SEKRET"

// hostile is what a stranger may write: no page may take it for anything but text.
const hostile = `<script>alert("x")</script>` + "\u202e\u0007"

// rig is the operator's page under the refresher's user, beside a wxtoken with users and accounts as they are shipped.
type rig struct {
	*testing.T
	k       *wxtokentest.Keeper
	handler http.Handler
	role    login.Role
	checks  func(line func(mark, name string, saw, remedy lang.Text))
}

func newRig(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	r := &rig{T: t, k: wxtokentest.New(t), role: login.Reader}
	page, err := console.New(console.Config{
		NATS: r.as("refresher"), Log: zerolog.Nop(),
		Checks: func(_ context.Context, line func(mark, name string, saw, remedy lang.Text)) { r.checks(line) },
	})
	r.must(err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = page.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	r.handler = page.Handler()
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// as connects as a user, whose password is its name.
func (r *rig) as(user string) *nats.Conn {
	r.Helper()
	return r.k.Connect(nats.UserInfo(user, user), nats.CustomInboxPrefix("_INBOX_"+user))
}

// put stores a message as a user.
func (r *rig) put(user, subject, data string, headers ...string) {
	r.Helper()
	js := natsdtest.JetStream(r.T, r.as(user))
	m := nats.NewMsg(subject)
	m.Data = []byte(data)
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	_, err := js.PublishMsg(r.Context(), m)
	r.must(err)
}

// ask makes a request as somebody with the role of the rig.
func (r *rig) ask(method, path string, form url.Values, headers ...string) *httptest.ResponseRecorder {
	r.Helper()
	req := httptest.NewRequestWithContext(login.WithPerson(r.Context(), login.Person{Name: "li", Role: r.role, FormToken: "form-token"}), method, path, strings.NewReader(form.Encode()))
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	r.handler.ServeHTTP(rec, req)
	return rec
}

// html returns a page as a browser gets it, in English and then in Chinese. Whatever it is of, it shows no secret and obeys
// no stranger.
func (r *rig) html(path string) string {
	r.Helper()
	both := ""
	for _, l := range []string{"en", "zh"} {
		rec := r.ask(http.MethodGet, path, nil, "Accept", "text/html", "Accept-Language", l)
		if rec.Code != http.StatusOK {
			r.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
		}
		both += r.clean(path, rec.Body.String())
	}
	return both
}

// read reads a page as a program does.
func (r *rig) read(path string, into any) {
	r.Helper()
	rec := r.ask(http.MethodGet, path, nil, "Accept", "application/json")
	if rec.Code != http.StatusOK {
		r.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
	}
	r.must(json.Unmarshal(rec.Body.Bytes(), into))
	if strings.Contains(rec.Body.String(), sekret) {
		r.Errorf("%s shows a secret: %s", path, rec.Body)
	}
}

// clean fails the test for a page that shows a secret, or a stranger's words as something else than text.
func (r *rig) clean(path, page string) string {
	r.Helper()
	if strings.Contains(page, sekret) {
		r.Errorf("%s shows a secret: %s", path, page)
	}
	if strings.Contains(page, `<script>alert`) || strings.Contains(page, "\u202e") || strings.Contains(page, "\x07") {
		r.Errorf("%s obeys what a stranger wrote", path)
	}
	return page
}

// has fails the test unless a page has all of the texts.
func (r *rig) has(page string, texts ...string) {
	r.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			r.Errorf("the page lacks %q: %s", text, main(page))
		}
	}
}

// main returns the content of a page, for an error.
func main(page string) string {
	_, rest, _ := strings.Cut(page, "<main")
	body, _, _ := strings.Cut(rest, "</main>")
	return body
}

var (
	keeper = wxtokentest.Component.Component
	shop   = wxtokentest.Merchant.Authorizer
	hotel  = wxtokentest.OtherMerchant.Authorizer
)

// TestMessages: what WeChat pushed, decoded, by account and kind, and with its secrets blanked even where they should not lie.
func TestMessages(t *testing.T) {
	r := newRig(t)
	r.k.Say(wxtokentest.Merchant, "good morning "+hostile)
	r.k.Say(wxtokentest.OtherMerchant, "a room, please")
	r.put("ingest", "wechat.notice."+keeper+".notify_third_fasteregister",
		"<xml><AppId>"+keeper+"</AppId><InfoType>notify_third_fasteregister</InfoType><auth_code>"+sekret+"</auth_code><msg>OK</msg></xml>", "ce-subject", shop)
	r.put("ingest", "wechat.notice."+keeper+"._", "no document: ComponentVerifyTicket="+sekret)

	var all console.Pushes
	looktest.Until(r, "three messages", func() bool {
		all = console.Pushes{}
		r.read("/pushes", &all)
		return len(all.Came) >= 4
	})
	r.has(r.html("/pushes"), "good morning &lt;script&gt;", "a room, please", "收到的推送", "wait for a refresher")
	for path, want := range map[string]int{
		"/pushes?appid=" + shop: 2, "/pushes?appid=" + hotel: 1, "/pushes?q=ROOM": 1, "/pushes?q=nothing+like+that": 0, "/pushes?q=fasteregister": 1,
		"/pushes?component=" + keeper + "&kind=text": 2, "/pushes?component=wx0ther": 0,
	} {
		var got console.Pushes
		r.read(path, &got)
		got.Came = hereOnly(got.Came)
		if len(got.Came) != want {
			t.Errorf("%s: %d messages, want %d", path, len(got.Came), want)
		}
		r.html(path)
	}
	for i, one := range all.Came {
		page := r.html(one.Href())
		if i == 0 {
			r.has(page, "can&#39;t be told apart from the rest")
		}
		if one.Event == "notify_third_fasteregister" {
			r.has(page, "auth_code", "<dd>OK</dd>")
		}
	}
	var two, rest console.Pushes
	r.read("/pushes?limit=2", &two)
	r.read(fmt.Sprintf("/pushes?limit=200&before=%d", two.Before), &rest)
	if len(two.Came) != 2 || len(two.Came)+len(rest.Came) != len(all.Came) || rest.Before != 0 || rest.Came[0] != all.Came[2] {
		t.Errorf("pages of 2 and %d of %d messages", len(rest.Came), len(all.Came))
	}
	for path, want := range map[string]int{
		"/pushes?show=what": 400, "/pushes?limit=0": 400, "/pushes?before=x": 400, "/pushes?appid=a.b": 400, "/pushes?result=x": 400, "/pushes?x=1": 400,
		"/pushes/messages/x": 400, "/pushes/messages/999999": 404, "/pushes/dead/1": 404,
	} {
		if rec := r.ask(http.MethodGet, path, nil, "Accept", "text/html"); rec.Code != want {
			t.Errorf("%s: %d, want %d", path, rec.Code, want)
		}
	}
}

// hereOnly leaves out what the start of the rig pushed.
func hereOnly(all []console.StoredPush) (here []console.StoredPush) {
	for _, one := range all {
		if one.Kind != events.MsgTypeNotice || strings.Contains(one.Event, "fasteregister") {
			here = append(here, one)
		}
	}
	return here
}

// TestRefused: what ingest wrote down, with what to do about it.
func TestRefused(t *testing.T) {
	r := newRig(t)
	put := func(p events.Push) {
		t.Helper()
		p.At, p.Method = time.Now().UTC(), http.MethodPost
		data, err := json.Marshal(p)
		r.must(err)
		r.put("ingest", events.JournalSubject(events.JournalPush, p.Component, p.Result), string(data))
	}
	put(events.Push{Result: "rejected", Reason: "signature", Detail: "msg_signature differs", Component: keeper, Path: "/wechat/" + keeper + "/auth", Status: 403, LeftOut: 12, From: "192.0.2.0/24", Kind: "other"})
	put(events.Push{Result: "rejected", Reason: "path", Path: "/" + hostile, Status: 404, Kind: "other"})
	put(events.Push{Result: "odd", Component: keeper, AppID: shop, Path: "/wechat/x", Oddities: []string{"twice: Content stands twice"}, Status: 200, Kind: "message"})
	r.put("refresher", "journal.push.x.rejected", "no JSON")
	for i := range 300 { // more than one window, of another sort
		r.put("refresher", fmt.Sprintf("journal.audit.%s.renew%d", keeper, i%3), "{}")
	}

	var all console.Pushes
	r.read("/pushes?show=refused", &all)
	if len(all.Refused) != 3 || all.Refused[0].Result != "odd" || all.Before != 0 {
		t.Fatalf("refused: %+v", all.Refused)
	}
	r.has(r.html("/pushes?show=refused"), "消息校验Token", "and 12 more", "192.0.2.0/24", "Content stands twice", "/&lt;script&gt;")
	for query, want := range map[string]int{"result=rejected": 2, "appid=" + shop: 1, "q=SIGNATURE": 1, "component=" + keeper: 2, "kind=message": 1} {
		var got console.Pushes
		r.read("/pushes?show=refused&"+query, &got)
		if len(got.Refused) != want {
			t.Errorf("%s: %d, want %d", query, len(got.Refused), want)
		}
	}
}

// TestDeadLetters: why each lies there and what it is about, no ticket and no code of it; an operator has one tried again
// and another discarded, a reader does not.
func TestDeadLetters(t *testing.T) {
	r := newRig(t)
	auth := func(a events.Auth) string {
		data, err := json.Marshal(a)
		r.must(err)
		return string(data)
	}
	created := time.Now().UTC().Add(-time.Minute)
	r.put("refresher", events.DeadSubject(events.AuthSubject(keeper, events.KindUnauthorized)),
		auth(events.Auth{Kind: events.KindUnauthorized, Component: keeper, Authorizer: shop, CreateTime: created, ReceivedAt: created}), events.HeaderReason, "the handler panicked "+hostile)
	r.put("refresher", events.DeadSubject(events.AuthSubject(keeper, events.KindAuthorized)), auth(events.Auth{
		Kind: events.KindAuthorized, Component: keeper, Authorizer: hotel, Code: sekret, Ticket: sekret, PreAuthCode: sekret, Connect: sekret, Document: sekret, CreateTime: created,
	}), events.HeaderReason, "record of a later version")
	r.put("refresher", events.DeadSubject(events.AuthSubject(keeper, "sealed")), "xkv1"+sekret, events.HeaderReason, "sealed for another key", "Wxtoken-Sealed-For", "XPUBLIC")
	r.put("refresher", events.DeadSubject(events.AuthSubject(keeper, "broken")), sekret, events.HeaderReason, "not the JSON of one")
	r.put("refresher", events.DeadWebhookSubject("shop", "wechat.message."+keeper+"."+shop+".text"), "<xml><Content>hello</Content><ComponentVerifyTicket>"+sekret+"</ComponentVerifyTicket></xml>",
		events.HeaderReason, "webhook at shop.example: 500")
	r.put("refresher", events.DeadSubject("renewal.due.x"), `{"key":"authorizer.wx1.wx2","generation":4,"reason":"scheduled"}`, events.HeaderReason, "unknown reason")
	r.put("refresher", events.DeadSubject(events.AuthSubject(keeper, events.KindUnreadable)), auth(events.Auth{Kind: events.KindUnreadable, Component: keeper, Document: sekret, CreateTime: created}))
	r.put("refresher", events.DeadSubject("other.x"), sekret)

	var all console.Pushes
	r.read("/pushes?show=dead", &all)
	if len(all.Dead) != 8 || *all.Figures.Dead != 8 {
		t.Fatalf("%d dead letters: %+v", len(all.Dead), all.Dead)
	}
	list := r.html("/pushes?show=dead")
	r.has(list, "the handler panicked &lt;script&gt;", "webhook at shop.example: 500", "sealed", "死信")
	if strings.Contains(list, "/act/dead") {
		t.Error("a reader has buttons")
	}
	for _, d := range all.Dead {
		page := r.html(d.Href())
		switch d.Subject {
		case events.AuthSubject(keeper, events.KindAuthorized):
			r.has(page, hotel, "pre_auth_code", "(blanked)", "（已隐去）")
		case events.AuthSubject(keeper, events.KindUnreadable):
			r.has(page, "can&#39;t be parsed", "微信的内容无法解析")
			if d.Replayable {
				t.Error("what can't be read can be replayed")
			}
		case events.AuthSubject(keeper, "sealed"):
			r.has(page, "XPUBLIC", "only the refreshers can open it")
		case "renewal.due.x":
			r.has(page, "authorizer.wx1.wx2", "scheduled")
		case events.DeadWebhookSubject("shop", "")[len("dead."):] + "wechat.message." + keeper + "." + shop + ".text":
			r.has(page, "<dd>hello</dd>", "ComponentVerifyTicket")
		}
	}
	for query, want := range map[string]int{"q=webhook.shop.": 1, "q=PANICKED": 1, "appid=" + shop: 1, "component=" + keeper: 6} {
		var got console.Pushes
		r.read("/pushes?show=dead&"+query, &got)
		if len(got.Dead) != want {
			t.Errorf("%s: %d, want %d", query, len(got.Dead), want)
		}
	}

	oldest := all.Dead[7]
	form := url.Values{"sequence": {fmt.Sprint(oldest.Sequence)}, "do": {"replay"}, "back": {"/pushes?show=dead"}, "form_token": {"form-token"}}
	if rec := r.ask(http.MethodPost, "/act/dead", form, "Accept", "application/json"); rec.Code != http.StatusForbidden {
		t.Errorf("a reader replays: %d", rec.Code)
	}
	r.role = login.Operator
	r.has(r.html("/pushes?show=dead"), `action="/act/dead"`, `value="replay"`, fmt.Sprintf(`name="sequence" value="%d"`, oldest.Sequence))
	if rec := r.ask(http.MethodPost, "/act/dead", form, "Accept", "application/json"); rec.Code != http.StatusOK {
		t.Fatalf("replay: %d %s", rec.Code, rec.Body)
	}
	looktest.Until(r, "the cancellation is acted on", func() bool {
		rec := r.ask(http.MethodGet, "/accounts/"+wxtokentest.Merchant.String(), nil, "Accept", "application/json")
		return strings.Contains(rec.Body.String(), `"revoked"`)
	})
	form.Set("do", "discard")
	form.Set("sequence", fmt.Sprint(all.Dead[0].Sequence))
	if rec := r.ask(http.MethodPost, "/act/dead", form, "Accept", "application/json"); rec.Code != http.StatusOK {
		t.Fatalf("discard: %d %s", rec.Code, rec.Body)
	}
	var left console.Pushes
	r.read("/pushes?show=dead", &left)
	if len(left.Dead) != 6 {
		t.Errorf("%d dead letters are left, want 6", len(left.Dead))
	}
}

// TestLinks: an operator makes a link, sees it once with its code, and then how it stands; the list opens none.
func TestLinks(t *testing.T) {
	r := newRig(t)
	looktest.Until(r, "the component is known", func() bool { return strings.Contains(r.html("/accounts"), shop) })
	if page := r.html("/links"); strings.Contains(page, "/act/link") || !strings.Contains(page, "No links yet.") {
		t.Errorf("for a reader: %s", main(page))
	}
	r.role = login.Operator
	r.has(r.html("/links"), `action="/act/link"`, `value="component.`+keeper+`"`, `name="return"`)
	form := url.Values{"key": {"component." + keeper}, "ref": {"tenant-17 " + `<script>alert("x")</script>`}, "expires_in": {"1800"}, "back": {"/links"}}
	rec := r.ask(http.MethodPost, "/act/link", form, "Accept", "text/html")
	if rec.Code != http.StatusSeeOther || rec.Header().Get("Location") != "/links" {
		t.Fatalf("make a link: %d %s", rec.Code, rec.Body)
	}
	shown := r.ask(http.MethodGet, "/links", nil, "Accept", "text/html", "Cookie", strings.Split(rec.Header().Get("Set-Cookie"), ";")[0]).Body.String()
	link := regexp.MustCompile(`https://wxtoken\.example/connect/[A-Z0-9]+`).FindString(shown)
	if link == "" || !strings.Contains(shown, `class="qr"`) {
		t.Fatalf("the link is not shown: %s", shown)
	}
	r.limits()
	page := r.html("/links")
	r.has(page, "tenant-17 &lt;script&gt;", "not opened yet", "尚未打开")
	if strings.Contains(page, link) {
		t.Error("the list shows what opens a link")
	}
	var all console.Links
	r.read("/links", &all)
	if len(all.Links) != 1 || all.Links[0].Standing != "waits" || all.Links[0].MadeAt.IsZero() || !strings.HasPrefix(link, "https://wxtoken.example/connect/"+all.Links[0].Link) {
		t.Fatalf("the list: %+v", all)
	}
	// A browser opens it.
	answer, err := r.as("ingest").Request(events.SubjectConnectOpen, fmt.Appendf(nil, `{"id":%q}`, link[strings.LastIndex(link, "/")+1:]), patience)
	r.must(err)
	if !strings.Contains(string(answer.Data), `"session"`) {
		t.Fatalf("opened: %s", answer.Data)
	}
	r.read("/links?state=opened&q=TENANT", &all)
	if len(all.Links) != 1 || all.Links[0].OpenedAt.IsZero() {
		t.Errorf("opened: %+v", all)
	}
	r.has(r.html("/links?state=opened"), "has not come back from WeChat", "尚未从微信返回")
	form.Set("return", "https://nobody.example/")
	rec = r.ask(http.MethodPost, "/act/link", form, "Accept", "application/json")
	if rec.Code != http.StatusBadRequest || !strings.Contains(rec.Body.String(), "not among") {
		t.Errorf("a host that is not allowed: %d %s", rec.Code, rec.Body)
	}
}

// limits has WeChat asked for its limits: until then the page says that it does not know them.
func (r *rig) limits() {
	r.Helper()
	r.has(r.html("/"), "limit unknown", "上限未知", `action="/act/limits"`)
	rec := r.ask(http.MethodPost, "/act/limits", url.Values{"key": {"component." + keeper}, "back": {"/"}}, "Accept", "application/json")
	if rec.Code != http.StatusOK {
		r.Fatalf("ask WeChat: %d %s", rec.Code, rec.Body)
	}
	looktest.Until(r, "the limits are not shown", func() bool { return strings.Contains(r.html("/"), "as of <time") })
	var o console.Overview
	r.read("/", &o)
	if api := o.Components[0].APIs[0]; api.Told == nil || api.Told.DailyLimit == 0 || api.Told.At.IsZero() {
		r.Errorf("the calls: %+v", o.Components[0].APIs)
	}
}

// TestServices: what gateways told, added up over a day and over gateways; one that says nothing more is silent.
func TestServices(t *testing.T) {
	r := newRig(t)
	r.has(r.html("/services"), "No gateway reported", "没有网关上报")
	now := time.Now().UTC()
	put := func(instance string, from, to time.Time, all ...services.ServedService) {
		t.Helper()
		records, err := services.Records(services.Served{Role: "gateway", Instance: instance, Host: instance + hostile, From: from, To: to}, all)
		r.must(err)
		for _, data := range records {
			r.put("gateway", "journal.count.gateway."+instance, string(data))
		}
	}
	one := func(name string, f services.Figures, use time.Time) services.ServedService {
		return services.ServedService{Summary: services.Summary{
			Name: name, May: []services.Right{services.RightRelay, "new" + hostile}, Accounts: []string{keeper + "/*", hostile},
			Webhooks: []services.WebhookSummary{{Host: "shop.example", Messages: []string{keeper + "/*/text"}}},
		}, Figures: f, LastUse: use}
	}
	put("a", now.Add(-20*time.Minute), now.Add(-10*time.Minute), one("shop", services.Figures{Calls: 100, Errors: 5, Tokens: 1, Pending: 9}, now.Add(-11*time.Minute)))
	put("a", now.Add(-10*time.Minute), now.Add(-time.Minute), one("shop", services.Figures{Calls: 1}, now.Add(-5*time.Minute)))
	put("a", now.Add(-10*time.Minute), now, one("shop", services.Figures{Calls: 20, Pending: 3}, now), one("idle", services.Figures{}, time.Time{})) // in place of the one before
	put("b", now.Add(-time.Minute), now, one("shop", services.Figures{Calls: 3, Unanswered: 2, Pending: 1}, now))
	put("gone", now.Add(-3*time.Hour), now.Add(-2*time.Hour), one("old", services.Figures{Calls: 7}, now.Add(-2*time.Hour)))
	r.put("refresher", events.DeadWebhookSubject("shop", "wechat.message."+keeper+"."+shop+".text"), "<xml/>", events.HeaderReason, "500")

	var all console.Services
	looktest.Until(r, "all gateways", func() bool {
		all = console.Services{}
		r.read("/services", &all)
		return len(all.Gateways) == 3 && len(all.Services) == 3
	})
	idle, old, shopping := all.Services[0], all.Services[1], all.Services[2]
	if want := (services.Figures{Calls: 123, Errors: 5, Tokens: 1, Unanswered: 2, Pending: 4}); shopping.LastDay != want || shopping.Gateways != 2 || shopping.DeadLetters != 1 || !shopping.LastUse.Equal(now) {
		t.Errorf("shop: %+v, want %+v", shopping, want)
	}
	if idle.Name != "idle" || !idle.LastUse.IsZero() || old.Gateways != 0 || !all.Gateways[2].Silent || all.Gateways[0].Silent {
		t.Errorf("idle %+v, old %+v, gateways %+v", idle, old, all.Gateways)
	}
	r.has(r.html("/services"), "5 with an errcode", "2 unanswered", "1 dead letter<", "calls WeChat through the gateway", "经网关调用微信", "no gateway serves it now", "shop.example", "silent")
}

// TestCheckPage: what --check says, in the words of the page.
func TestCheckPage(t *testing.T) {
	r := newRig(t)
	r.checks = func(line func(mark, name string, saw, remedy lang.Text)) {
		line("ok", "nats", lang.T("answers", "有应答"), lang.Text{})
		line("warn", "nats cipher", lang.T("off "+hostile, "未启用"), lang.T("turn it on", "请启用"))
		line("FAIL", "secret", lang.T("refused", "被拒绝"), lang.T("set another; runbook: The AppSecret is wrong", "更换；运维手册：AppSecret 不对"))
	}
	r.has(r.html("/check"), "1 of 3 checks failed.", "有 1 项检查未通过，共 3 项。", `runbook: <a href="/runbook/the-appsecret-is-wrong">The AppSecret is wrong</a>`, "有应答", "off &lt;script&gt;")
	r.has(r.html("/runbook/the-appsecret-is-wrong"), "docs/operations.md#the-appsecret-is-wrong", "docs/operations.zh-CN.md#appsecret-不对", "nats req wxtoken.renew")
	if text := r.ask(http.MethodGet, "/runbook/the-appsecret-is-wrong", nil, "User-Agent", "curl/8").Body.String(); !strings.HasPrefix(text, "The AppSecret is wrong\n\n*Sign:*") {
		t.Errorf("for a terminal: %s", text)
	}
	if rec := r.ask(http.MethodGet, "/runbook/nowhere", nil, "Accept", "text/html"); rec.Code != http.StatusNotFound {
		t.Errorf("an entry that is not there: %d", rec.Code)
	}
	var got console.CheckReport
	r.read("/check", &got)
	if len(got.Lines) != 3 || got.Verdict != "broken" || got.Lines[2].Mark != "FAIL" || got.Lines[2].Remedy == "" {
		t.Errorf("%+v", got)
	}
	r.checks = func(line func(mark, name string, saw, remedy lang.Text)) {
		line("ok", "nats", lang.T("answers", "有应答"), lang.Text{})
	}
	r.has(r.html("/check"), "The check passed.")
}
