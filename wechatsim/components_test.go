package wechatsim_test

import (
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

// TestDemoComponents checks that the first is the well-known one, and that no two share anything.
func TestDemoComponents(t *testing.T) {
	t.Parallel()
	first := wechatsim.DemoComponent(1)
	if first.AppID != wechatsim.DemoAppID || first.AppSecret != wechatsim.DemoAppSecret || first.Token != wechatsim.DemoToken || first.EncodingAESKey != wechatsim.DemoEncodingAESKey {
		t.Errorf("the first is %+v", first)
	}
	seen := map[string]int{}
	for n := 1; n <= 9999; n++ {
		c := wechatsim.DemoComponent(n)
		key, err := wechatsim.AESKey(c.EncodingAESKey)
		if err != nil || len(c.AppID) != len(wechatsim.DemoAppID) || len(c.AppSecret) != len(wechatsim.DemoAppSecret) {
			t.Fatalf("%d: %+v, %v", n, c, err)
		}
		for _, value := range []string{c.AppID, c.AppSecret, c.Token, string(key)} {
			if seen[value] > 0 {
				t.Fatalf("%d and %d share %q", seen[value], n, value)
			}
			seen[value] = n
		}
	}
	config := wechatsim.DemoOf(3, time.Minute, 2, "http://ingest/")
	if _, err := wechatsim.New(config); err != nil {
		t.Error(err)
	}
	if c := config.Components[2]; c.AppID != "wxc0ffee0000000003" || c.AuthURL != "http://ingest/wechat/wxc0ffee0000000003/auth" ||
		c.MessageURL != "http://ingest/wechat/wxc0ffee0000000003/message/$APPID$" || len(c.Authorizers) != 2 || c.Authorizers[1] != config.Components[0].Authorizers[1] {
		t.Errorf("the third is %+v", c)
	}
	if one := wechatsim.Demo(time.Minute, 2, "http://ingest"); len(one.Components) != 1 || one.Components[0].AppID != wechatsim.DemoAppID {
		t.Errorf("the demonstration has %+v", one.Components)
	}
}

// demoInbox takes the pushes of several demonstration components, each with its own keys.
type demoInbox struct {
	t  *testing.T
	mu sync.Mutex
	// by component and "/" and account: the newest code; by component and "/": the newest ticket
	newest map[string]string
}

func (in *demoInbox) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	appid := strings.Split(r.URL.Path, "/")[2]
	var component wechatsim.Component
	for n := range 3 {
		if c := wechatsim.DemoComponent(n + 1); c.AppID == appid {
			component = c
		}
	}
	body, _ := io.ReadAll(r.Body)
	document, err := func() (text []byte, err error) {
		c, err := wechat.NewCrypter(wechat.Keys{AppID: component.AppID, Tokens: []string{component.Token}, AESKeys: []string{component.EncodingAESKey}})
		if err != nil {
			return nil, err
		}
		q, err := wechat.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return nil, err
		}
		envelope, err := wechat.ParseEnvelope(body)
		if err != nil {
			return nil, err
		}
		opened, err := c.Open(q, envelope.Encrypt)
		return opened.Text, err
	}()
	var event struct {
		ComponentVerifyTicket, AuthorizerAppid, AuthorizationCode string
	}
	if err != nil || xml.Unmarshal(document, &event) != nil {
		in.t.Errorf("%s: %v", r.URL.Path, err)
		return
	}
	in.mu.Lock()
	in.newest[appid+"/"+event.AuthorizerAppid] = event.AuthorizationCode + event.ComponentVerifyTicket
	in.mu.Unlock()
	_, _ = io.WriteString(rw, "success")
}

func (in *demoInbox) get(component, account string) string {
	synctest.Wait()
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.newest[component+"/"+account]
}

// TestSharedAccounts has the same accounts authorize two components, and looks for what one does to
// the other.
func TestSharedAccounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		demo := wechatsim.DemoOf(2, 2*time.Hour, 2, "http://ingest")
		for i := range demo.Components {
			demo.Components[i].AutoPush = false // not before a receiver can read it
		}
		config := wechatsim.Config{Components: demo.Components, DailyLimit: map[string]int{"user/info": 1}}
		one, two, account := demo.Components[0].AppID, demo.Components[1].AppID, demo.Components[0].Authorizers[0]
		w := start(t, config)
		in := &demoInbox{t: t, newest: map[string]string{}}
		w.setHandler(in.ServeHTTP)
		for _, c := range demo.Components {
			if err := w.p.PushTicket(c.AppID); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute) // the accounts authorize
		client, ctx := w.wechat(), t.Context()
		tokens, access, refresh, tickets := map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}
		for _, c := range demo.Components {
			grant, err := client.ComponentToken(ctx, c.AppID, c.AppSecret, in.get(c.AppID, ""))
			if err != nil {
				t.Fatal(err)
			}
			tokens[c.AppID] = grant.AccessToken
			authorization, err := client.QueryAuth(ctx, grant.AccessToken, c.AppID, in.get(c.AppID, account))
			if err != nil {
				t.Fatal(err)
			}
			access[c.AppID], refresh[c.AppID] = authorization.AccessToken, authorization.RefreshToken
			ticket, err := client.Ticket(ctx, authorization.AccessToken, wechat.TicketJSAPI)
			if err != nil {
				t.Fatal(err)
			}
			tickets[c.AppID] = ticket.Value
			page, err := client.AuthorizerList(ctx, grant.AccessToken, c.AppID, 0, 500)
			if err != nil || page.Total != 2 {
				t.Errorf("%s lists %d accounts: %v", c.AppID, page.Total, err)
			}
		}
		if tickets[one] == tickets[two] || w.p.AcceptsAccountTicket(one, account, "jsapi", tickets[two]) {
			t.Error("a ticket of one component's account serves the other")
		}
		if _, err := client.AuthorizerToken(ctx, tokens[one], one, account, refresh[two]); errcodeOf(err) != 61023 {
			t.Errorf("the other's refresh token: %v", err)
		}
		if first, second := w.businessErrcode(access[one]), w.businessErrcode(access[two]); first != 0 || second != 45009 {
			t.Errorf("the account's quota, by one and by the other: %d, %d; want 0 and 45009", first, second)
		}

		code, err := client.CreatePreAuthCode(ctx, tokens[one], one)
		if err != nil {
			t.Fatal(err)
		}
		l := wechat.LinkParams{Component: two, PreAuthCode: code.Code, RedirectURI: "http://a.example/", AuthType: 1}
		if shown := w.visit(l.PC("http://api"), l.RedirectURI); shown.err == "" {
			t.Error("a pre-auth code serves the other component")
		}
		l.Component = one
		form := url.Values{"action": {"/sim/consent"}, "component_appid": {two}, "pre_auth_code": {code.Code}, "redirect_uri": {l.RedirectURI}, "authorizer": {account}}
		if _, failure := w.submit(form); failure == "" {
			t.Error("a form made the other component authorized")
		}
		if shown := w.visit(l.PC("http://api"), l.RedirectURI); len(shown.forms) != 3 {
			t.Errorf("page %+v", shown)
		}

		if err := w.p.Cancel(one, account); err != nil {
			t.Fatal(err)
		}
		if w.p.Accepts(one, account, access[one]) || w.p.AcceptsAccountTicket(one, account, "jsapi", tickets[one]) {
			t.Error("cancelled, and still accepted")
		}
		if !w.p.Accepts(two, account, access[two]) || !w.p.AcceptsRefresh(two, account, refresh[two]) || !w.p.AcceptsAccountTicket(two, account, "jsapi", tickets[two]) {
			t.Error("cancelling one component did something to the other")
		}
		if err := w.p.Fail(wechatsim.Fault{API: "api_authorizer_token", Component: two, Errcode: 61003}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.AuthorizerToken(ctx, tokens[two], two, account, refresh[two]); errcodeOf(err) != 61003 {
			t.Errorf("a fault of one component: %v", err)
		}
	})
}
