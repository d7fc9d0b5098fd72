package gateway_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"wxtoken/internal/services"
	"wxtoken/wxtokentest"
)

// TestLogIn logs users in as an SDK does for an account with a secret: WeChat sees the call of a third-party platform.
func TestLogIn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	merchant := wxtokentest.Merchant.Authorizer
	for name, row := range map[string]struct{ call, path, want string }{
		"mini program": {
			"/sns/jscode2session?appid=" + merchant + "&secret=" + shopKey + "&js_code=C%2B1&grant_type=authorization_code",
			"/sns/component/jscode2session", "grant_type=authorization_code&js_code=C%2B1",
		},
		"with a token and more, as wechatpy does": {
			"/sns/jscode2session?access_token=wxg1_x&x=1&appid=" + merchant + "&secret=" + shopKey + "&js_code=C1&grant_type=authorization_code&component_appid=wxelse",
			"/sns/component/jscode2session", "grant_type=authorization_code&js_code=C1",
		},
		"page": {
			"/sns/oauth2/access_token?appid=" + component + "/" + merchant + "&secret=" + shopKey + "&code=C1&grant_type=authorization_code",
			"/sns/oauth2/component/access_token", "code=C1&grant_type=authorization_code",
		},
		"refresh": {
			"/sns/oauth2/refresh_token?appid=" + merchant + "&grant_type=refresh_token&refresh_token=R1",
			"/sns/oauth2/component/refresh_token", "grant_type=refresh_token&refresh_token=R1",
		},
		"refresh with the key": {
			"/sns/oauth2/refresh_token?appid=" + merchant + "&grant_type=refresh_token&refresh_token=R1&secret=" + shopKey,
			"/sns/oauth2/component/refresh_token", "grant_type=refresh_token&refresh_token=R1",
		},
	} {
		if a := r.call("GET", row.call, nil); a.get("errcode") != "0" || a.get("for") != wxtokentest.Component.String() {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		calls := r.wechat.take()
		if len(calls) != 1 || calls[0].path != row.path {
			t.Errorf("%s: %+v", name, calls)
			continue
		}
		want, err := url.ParseQuery(row.want)
		r.must(err)
		want.Set("appid", merchant)
		want.Set("component_appid", component)
		want.Set("component_access_token", r.k.Token(wxtokentest.Component).Value.Reveal())
		got, err := url.ParseQuery(calls[0].query)
		r.must(err)
		if got.Encode() != want.Encode() {
			t.Errorf("%s: it came with %s", name, got.Encode())
		}
	}
	r.k.Reject(wxtokentest.Component)
	if a := r.call("GET", "/sns/jscode2session?appid="+merchant+"&secret="+shopKey+"&js_code=C1&grant_type=authorization_code", nil); a.get("errcode") != "0" {
		t.Errorf("with a component token that WeChat refuses: %s", a.body)
	}
}

// TestLogInRefused makes log-ins that may not be made, and calls with what is no user's token. None of them reaches WeChat.
func TestLogInRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	merchant, other := wxtokentest.Merchant.Authorizer, wxtokentest.OtherMerchant.Authorizer
	page := func(appid, key string) string {
		return "/sns/oauth2/access_token?code=C&grant_type=authorization_code&appid=" + appid + "&secret=" + key
	}
	forged := r.token(merchant, shopKey) + "x"
	for name, row := range map[string]struct{ method, path, errcode string }{
		"no secret":                 {"GET", "/sns/oauth2/access_token?code=C&appid=" + merchant, "41004"},
		"no appid":                  {"GET", page("", shopKey), "41002"},
		"wrong key":                 {"GET", page(merchant, "wrong"), "40125"},
		"wrong key, refresh":        {"GET", "/sns/oauth2/refresh_token?refresh_token=R&appid=" + merchant + "&secret=wrong", "40125"},
		"another's account":         {"GET", page(other, shopKey), "40013"},
		"unknown account":           {"GET", page("wx9999999999999999", allKey), "40013"},
		"unknown account, refresh":  {"GET", "/sns/oauth2/refresh_token?refresh_token=R&appid=wx9999999999999999", "40013"},
		"the component":             {"GET", page(component, allKey), "40013"},
		"without relay":             {"GET", page(merchant, tokenKey), "48001"},
		"another API":               {"GET", page(merchant, narrow), "48001"},
		"POST":                      {"POST", page(merchant, shopKey), "43001"},
		"two accounts":              {"GET", page(merchant, shopKey) + "&appid=" + other, "47001"},
		"two codes":                 {"GET", page(merchant, shopKey) + "&code=D", "47001"},
		"two keys":                  {"GET", page(merchant, shopKey) + "&secret=" + allKey, "47001"},
		"not to be read":            {"GET", page(merchant, shopKey) + "&%zz", "47001"},
		"a slash at the end":        {"GET", strings.Replace(page(merchant, shopKey), "?", "/?access_token=U&", 1), "48001"},
		"a component's, not ours":   {"GET", "/sns/component/jscode2session?component_access_token=U&appid=" + merchant, "40001"},
		"a forged one of ours":      {"GET", "/sns/userinfo?openid=o1&access_token=" + forged, "40001"},
		"two tokens":                {"GET", "/sns/userinfo?openid=o1&access_token=U&access_token=U", "40001"},
		"in other case":             {"GET", "/sns/userinfo?openid=o1&Access_Token=U", "40001"},
		"POST with a user's token":  {"POST", "/sns/userinfo?openid=o1&access_token=U", "43001"},
		"no token":                  {"GET", "/sns/userinfo?openid=o1", "41001"},
		"a user's token, elsewhere": {"GET", "/cgi-bin/user/info?openid=o1&access_token=U", "40001"},
	} {
		if a := r.call(row.method, row.path, nil); a.status != 200 || a.get("errcode") != row.errcode {
			t.Errorf("%s: %d %s, want %s", name, a.status, a.body, row.errcode)
		}
	}
	if calls := r.wechat.take(); len(calls) > 0 {
		t.Errorf("WeChat heard of it: %+v", calls)
	}
}

// TestTokensOfUsers hands calls with users' tokens on as they are, where some service may make them, and not for ever to a caller whose
// tokens WeChat does not know.
func TestTokensOfUsers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	answers := func(text string) {
		r.wechat.answer(func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.RawQuery != "lang=zh_CN&access_token=90_user&openid=o1" {
				t.Errorf("it came with %s", req.URL.RawQuery)
			}
			_, _ = io.WriteString(w, text)
			return true
		})
	}
	ask := func() answer { return r.call("GET", "/sns/userinfo?lang=zh_CN&access_token=90_user&openid=o1", nil) }
	answers(`{"openid":"o1","nickname":"n"}`)
	if a := ask(); a.get("nickname") != "n" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	answers(`{"errcode":42001,"errmsg":"access_token expired rid: 1a2b3c4d-1a2b3c4d-1a2b3c4d"}`)
	if a := ask(); a.get("errcode") != "42001" || strings.Contains(string(a.body), "gateway") {
		t.Errorf("%d %s", a.status, a.body)
	}
	answers(`{"errcode":40001,"errmsg":"invalid credential rid: 1a2b3c4d-1a2b3c4d-1a2b3c4d"}`)
	r.until("no end of wrong tokens", func() bool { return ask().status == http.StatusTooManyRequests })
	if g := r.k.Token(wxtokentest.Merchant).Generation; g != 1 {
		t.Errorf("generation %d: a token was renewed for a user's", g)
	}
	if text := r.log.String(); strings.Contains(text, "90_user") {
		t.Error("a user's token is in the log")
	}

	r.wechat.answer(nil)
	r.write(`{"services":[{"name":"narrow","keys":["` + services.Digest(narrow) + `"],"accounts":["` + component + `/*"],"may":["relay"],"apis":["/cgi-bin/"]}]}`)
	r.until("users' calls go on where no service may make them", func() bool { return ask().get("errcode") == "48001" })
}
