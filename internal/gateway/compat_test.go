package gateway_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"wxtoken/wxtokentest"
)

// TestTokens gets tokens as SDKs do, with every fault that they can make.
func TestTokens(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	merchant, other := wxtokentest.Merchant.Authorizer, wxtokentest.OtherMerchant.Authorizer
	query := func(appid, secret string) string {
		return "/cgi-bin/token?grant_type=client_credential&appid=" + appid + "&secret=" + secret
	}
	stable := func(grant, appid, secret string) string {
		return fmt.Sprintf(`{"grant_type":%q,"appid":%q,"secret":%q,"force_refresh":true}`, grant, appid, secret)
	}
	own := func(appid, secret string) string {
		return fmt.Sprintf(`{"component_appid":%q,"component_appsecret":%q,"component_verify_ticket":"t"}`, appid, secret)
	}
	for name, row := range map[string]struct {
		path, body string
		errcode    string // "" for a token
	}{
		"token":                       {path: query(merchant, shopKey)},
		"with the component":          {path: query(component+"/"+merchant, shopKey)},
		"stable token":                {path: "/cgi-bin/stable_token", body: stable("client_credential", merchant, shopKey)},
		"the component's":             {path: query(component, allKey)},
		"as a component":              {path: "/cgi-bin/component/api_component_token", body: own(component, allKey)},
		"wrong key":                   {path: query(merchant, "nonsense"), errcode: "40125"},
		"no key":                      {path: query(merchant, ""), errcode: "41004"},
		"no key in JSON":              {path: "/cgi-bin/stable_token?secret=" + shopKey, body: stable("client_credential", merchant, ""), errcode: "41004"},
		"no key of a component":       {path: "/cgi-bin/component/api_component_token", body: own(component, ""), errcode: "41004"},
		"a key twice":                 {path: query(merchant, shopKey) + "&secret=nonsense", errcode: "47001"},
		"an account twice":            {path: query(merchant, shopKey) + "&appid=" + other, errcode: "47001"},
		"in a form":                   {path: "/cgi-bin/token", body: "grant_type=client_credential&appid=" + merchant + "&secret=" + shopKey, errcode: "41002"},
		"by POST":                     {path: query(merchant, shopKey), body: "{}"},
		"another's account":           {path: query(other, shopKey), errcode: "40013"},
		"unknown account":             {path: query("wxnobody", allKey), errcode: "40013"},
		"no account":                  {path: query("", allKey), errcode: "41002"},
		"another component":           {path: query("wxother/"+merchant, allKey), errcode: "40013"},
		"component without right":     {path: query(component, shopKey), errcode: "40013"},
		"wrong grant":                 {path: "/cgi-bin/stable_token", body: stable("password", merchant, shopKey), errcode: "40002"},
		"stable token by GET":         {path: "/cgi-bin/stable_token", errcode: "43002"},
		"no JSON":                     {path: "/cgi-bin/stable_token", body: "<xml>", errcode: "47001"},
		"component without the right": {path: "/cgi-bin/component/api_component_token", body: own(component, shopKey), errcode: "48001"},
		"unknown component":           {path: "/cgi-bin/component/api_component_token", body: own("wxother", allKey), errcode: "40013"},
		"code":                        {path: "/cgi-bin/component/api_query_auth", body: "{}", errcode: "48001"},
		"ticket":                      {path: "/cgi-bin/component/api_start_push_ticket", body: "{}", errcode: "48001"},
		"quota":                       {path: "/cgi-bin/component/clear_quota/v2", body: "{}", errcode: "48001"},
	} {
		t.Run(name, func(t *testing.T) {
			method := http.MethodGet
			if row.body != "" {
				method = http.MethodPost
			}
			a := r.call(method, row.path, []byte(row.body))
			if a.status != http.StatusOK || a.get("errcode") != row.errcode {
				t.Errorf("%d %s, want errcode %q", a.status, a.body, row.errcode)
			}
			got := a.get("access_token") + a.get("component_access_token")
			if (got == "") != (row.errcode != "") || got != "" && (!strings.HasPrefix(got, "wxg1_") || a.get("expires_in") != "7200") {
				t.Errorf("token %q for %s", got, a.get("expires_in"))
			}
			if strings.Contains(string(a.body), "SEKRET") {
				t.Errorf("a key comes back: %s", a.body)
			}
		})
	}
	if calls := r.wechat.take(); len(calls) > 0 {
		t.Errorf("WeChat heard of it: %+v", calls)
	}
}

// TestRealTokens hands WeChat's own to a service that may have them, for no longer than they are good.
func TestRealTokens(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	want, asked := r.k.Token(wxtokentest.Merchant), time.Now()
	a := r.call("GET", "/cgi-bin/token?grant_type=client_credential&appid="+wxtokentest.Merchant.Authorizer+"&secret="+realKey, nil)
	if a.get("access_token") != want.Value.Reveal() {
		t.Fatalf("not the token of the bucket: %d", a.status)
	}
	left, replaced := want.ExpiresAt.Sub(asked), want.RenewAt.Add(5*time.Minute).Sub(asked)
	v1 := r.v1(realKey, "GET", "tokens/"+wxtokentest.Merchant.String(), "")
	for door, a := range map[string]answer{"/cgi-bin/token": a, "/v1": v1} {
		if life, err := time.ParseDuration(a.get("expires_in") + "s"); err != nil || life <= 0 || life > left || life > replaced {
			t.Errorf("%s: expires_in %s, %v: it lives for %s, and is good for %s after its renewal", door, a.get("expires_in"), err, left, replaced)
		}
	}
	if ends, err := time.Parse(time.RFC3339, v1.get("expires_at")); err != nil || ends.After(want.RenewAt.Add(5*time.Minute)) {
		t.Errorf("expires_at %s, %v: it is renewed at %s", v1.get("expires_at"), err, want.RenewAt)
	}
	r.k.Expire(wxtokentest.Merchant)
	r.until("a dead token is handed out", func() bool {
		a = r.call("GET", "/cgi-bin/token?grant_type=client_credential&appid="+wxtokentest.Merchant.Authorizer+"&secret="+realKey, nil)
		return a.status == http.StatusServiceUnavailable && a.get("errcode") == "-1"
	})
}

// TestRefreshStaysHere plays an SDK that keeps tokens for a component: it finds refresh tokens that are none, and gets tokens of ours
// for them.
func TestRefreshStaysHere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.wechat.answer(func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write([]byte(`{"total_count":1,"list":[{"authorizer_appid":"wxa","refresh_token":"refreshtoken@@@SEKRET","auth_time":12345678901234567890}],
			"authorization_info":{"authorizer_refresh_token":"refreshtoken@@@SEKRET","func_info":[{"funcscope_category":{"id":1}}]}}`))
		return true
	})
	token := r.componentToken()
	for _, api := range []string{"api_get_authorizer_list", "api_get_authorizer_info", "api_get_authorizer_info/", "API_get_authorizer_Info"} {
		a := r.call("POST", "/cgi-bin/component/"+api+"?component_access_token="+token, []byte(`{}`))
		if text := string(a.body); strings.Contains(text, "SEKRET") || strings.Count(text, "refreshtoken@@@kept-by-wxtoken") != 2 || !strings.Contains(text, "12345678901234567890") {
			t.Errorf("%s: %d %s", api, a.status, text)
		}
	}
	r.wechat.answer(nil)
	question := fmt.Appendf(nil, `{"component_appid":%q,"authorizer_appid":%q,"authorizer_refresh_token":"refreshtoken@@@kept-by-wxtoken"}`, component, wxtokentest.OtherMerchant.Authorizer)
	a := r.call("POST", "/cgi-bin/component/api_authorizer_token?component_access_token="+token, question)
	if a.get("authorizer_refresh_token") != "refreshtoken@@@kept-by-wxtoken" || a.get("expires_in") != "7200" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a = r.call("GET", "/cgi-bin/user/info?access_token="+a.get("authorizer_access_token"), nil); a.get("for") != wxtokentest.OtherMerchant.String() {
		t.Errorf("the account's token: %d %s", a.status, a.body)
	}
	if a = r.call("POST", "/cgi-bin/component/api_authorizer_token?component_access_token="+r.token(wxtokentest.Merchant.Authorizer, allKey), question); a.get("errcode") != "48001" {
		t.Errorf("with an account's token: %s", a.body)
	}
	for _, call := range r.wechat.take() {
		if strings.Contains(call.path, "api_authorizer_token") {
			t.Error("WeChat was asked for a renewal")
		}
	}
}

// TestServicesChange takes a key away while the gateway runs, and puts a faulty file there.
func TestServicesChange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	use := func() string { return r.call("GET", "/cgi-bin/user/info?access_token="+token, nil).get("errcode") }
	if got := use(); got != "0" {
		t.Fatalf("errcode %s", got)
	}
	r.write(`{"services":[{"name":"shop","keys":["` + shopKey + `"]}]}`)
	r.until("a faulty file is not told", func() bool { return strings.Contains(r.log.String(), "services file refused") })
	if got := use(); got != "0" {
		t.Errorf("a faulty file changed something: errcode %s", got)
	}
	r.write(strings.Replace(file(), `"name":"shop"`, `"name":"another"`, 1))
	r.until("a service that is gone is still served", func() bool { return use() == "40001" })
	r.must(os.Remove(r.file))
	time.Sleep(3 * time.Second) // longer than it takes to look
	if a := r.call("GET", "/cgi-bin/token?grant_type=client_credential&appid="+wxtokentest.Merchant.Authorizer+"&secret="+allKey, nil); a.get("access_token") == "" {
		t.Errorf("a file that went away took the services with it: %s", a.body)
	}
}

// TestWrongKeys tries keys from one address, until it has to wait.
func TestWrongKeys(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.until("no end of tries", func() bool {
		a := r.v1("wrong", "GET", "accounts", "")
		return a.status == http.StatusTooManyRequests && a.header.Get("Retry-After") != ""
	})
	r.until("never again", func() bool { return r.v1(allKey, "GET", "accounts", "").status == http.StatusOK })
}
