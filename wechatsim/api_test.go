package wechatsim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/wechatsim"
)

// TestChain walks from the ticket to a refreshed token, and watches each of them end.
func TestChain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		if !w.p.AcceptsComponent(compID, token) {
			t.Fatal("the component token is not accepted")
		}
		access, refresh := w.account(token, accountA)
		if code := w.businessErrcode(access); code != 0 {
			t.Fatalf("a fresh token is refused with %d", code)
		}
		time.Sleep(time.Hour)
		access2, refresh2 := w.refresh(token, accountA, refresh)
		if access2 == access || refresh2 != refresh {
			t.Error("a refresh makes a new access token and keeps the refresh token")
		}
		time.Sleep(5*time.Minute - time.Second)
		if code := w.businessErrcode(access); code != 0 {
			t.Errorf("the replaced token died within its overlap: %d", code)
		}
		if want := time.Now().Add(time.Second).UTC(); !w.p.ValidUntil(compID, accountA, access).Equal(want) {
			t.Errorf("valid until %s, want %s", w.p.ValidUntil(compID, accountA, access), want)
		}
		time.Sleep(time.Second)
		if code := w.businessErrcode(access); code != 40001 {
			t.Errorf("after the overlap: %d, want 40001", code)
		}
		if w.p.Accepts(compID, accountA, access) || !w.p.Accepts(compID, accountA, access2) {
			t.Error("the truth is not what the API says")
		}
		time.Sleep(2 * time.Hour)
		if code := w.businessErrcode(access2); code != 42001 {
			t.Errorf("after its life: %d, want 42001", code)
		}
		if code := w.errcode(apiPath+"api_authorizer_token?component_access_token="+token, refreshBody(accountA, refresh)); code != 42001 {
			t.Errorf("with an expired component token: %d, want 42001", code)
		}
		token2 := w.componentToken()
		if w.p.AcceptsComponent(compID, token) || !w.p.AcceptsComponent(compID, token2) {
			t.Error("the truth about component tokens is wrong")
		}
	})
}

// TestErrcodes sends what is wrong with each API in turn.
func TestErrcodes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		ticket := w.last("component_verify_ticket").fields["ComponentVerifyTicket"]
		old := w.componentToken()
		token := w.componentToken()
		access, refresh := w.account(token, accountA)
		code := w.last("authorized").fields["AuthorizationCode"]
		if err := w.p.Authorize(compID, accountB); err != nil {
			t.Fatal(err)
		}
		expired := w.last("authorized").fields["AuthorizationCode"]
		time.Sleep(time.Hour)
		stale := w.last("authorized").fields["PreAuthCode"]

		with := func(api, token string) string { return apiPath + api + "?component_access_token=" + token }
		for _, row := range []struct {
			name string
			path string
			body fields
			want int
		}{
			{"unknown path", "/cgi-bin/component/api_nothing", fields{}, 40066},
			{"no appid", apiPath + "api_component_token", fields{}, 41018},
			{"unknown appid", apiPath + "api_component_token", fields{"component_appid": "wx0"}, 40013},
			{"a number for a text", apiPath + "api_component_token", fields{"component_appid": 1}, 47001},
			{"no secret", apiPath + "api_component_token", fields{"component_appid": compID}, 41004},
			{"wrong secret", apiPath + "api_component_token", fields{"component_appid": compID, "component_appsecret": "x", "component_verify_ticket": ticket}, 40125},
			{"wrong ticket", apiPath + "api_component_token", fields{"component_appid": compID, "component_appsecret": "SEKRET-appsecret", "component_verify_ticket": "x"}, 61006},
			{"start push without secret", apiPath + "api_start_push_ticket", fields{"component_appid": compID}, 41004},
			{"start push, wrong secret", apiPath + "api_start_push_ticket", fields{"component_appid": compID, "component_secret": "x"}, 40125},
			{"no token", apiPath + "api_create_preauthcode", fields{"component_appid": compID}, 41001},
			{"unknown token", with("api_create_preauthcode", "x"), fields{"component_appid": compID}, 40001},
			{"replaced token", with("api_create_preauthcode", old), fields{"component_appid": compID}, 40001},
			{"an account's token", with("api_create_preauthcode", access), fields{"component_appid": compID}, 61014},
			{"body without component", with("api_create_preauthcode", token), fields{}, 41018},
			{"body of another component", with("api_create_preauthcode", token), fields{"component_appid": "wx0"}, 40013},
			{"the name access_token", apiPath + "api_create_preauthcode?access_token=" + token, fields{"component_appid": compID}, 0},
			{"unknown code", with("api_query_auth", token), fields{"component_appid": compID, "authorization_code": "x"}, 61009},
			{"used code", with("api_query_auth", token), fields{"component_appid": compID, "authorization_code": code}, 61009},
			{"expired code", with("api_query_auth", token), fields{"component_appid": compID, "authorization_code": expired}, 61010},
			{"a pre-auth code", with("api_query_auth", token), fields{"component_appid": compID, "authorization_code": stale}, 61009},
			{"refresh of nobody", with("api_authorizer_token", token), fields{"component_appid": compID}, 41002},
			{"refresh of a stranger", with("api_authorizer_token", token), refreshBody("wx0", refresh), 61003},
			{"empty refresh token", with("api_authorizer_token", token), refreshBody(accountA, ""), 61023},
			{"another's refresh token", with("api_authorizer_token", token), refreshBody(accountB, refresh), 61023},
			{"info of nobody", with("api_get_authorizer_info", token), fields{"component_appid": compID}, 41002},
			{"info of a stranger", with("api_get_authorizer_info", token), fields{"component_appid": compID, "authorizer_appid": "wx0"}, 61003},
			{"list of 501", with("api_get_authorizer_list", token), fields{"component_appid": compID, "offset": 0, "count": 501}, 40170},
			{"business, no token", "/cgi-bin/user/info", fields{}, 41001},
			{"business, component token", "/cgi-bin/user/info?access_token=" + token, fields{}, 61015},
			{"customer message", "/cgi-bin/message/custom/send?access_token=" + access, fields{"touser": "o1", "msgtype": "text", "text": fields{"content": "hello"}}, 0},
			{"quota of nothing", "/cgi-bin/openapi/quota/get?access_token=" + token, fields{"cgi_path": "cgi-bin/user/info"}, 76021},
			{"quota of an account's path", "/cgi-bin/openapi/quota/get?access_token=" + token, fields{"cgi_path": "/cgi-bin/user/info"}, 76022},
			{"quota of the component's path", "/cgi-bin/openapi/quota/get?access_token=" + access, fields{"cgi_path": "/cgi-bin/component/api_query_auth"}, 76022},
			{"clear another's quota", "/cgi-bin/clear_quota?access_token=" + token, fields{"appid": accountA}, 40013},
			{"clear without secret", "/cgi-bin/component/clear_quota/v2", fields{"appid": compID, "component_appid": compID}, 41004},
			{"clear, wrong secret", "/cgi-bin/component/clear_quota/v2", fields{"appid": compID, "component_appid": compID, "appsecret": "x"}, 40125},
			{"clear a stranger's", "/cgi-bin/component/clear_quota/v2", fields{"appid": "wx0", "component_appid": compID, "appsecret": "SEKRET-appsecret"}, 40013},
			{"callback addresses", "/cgi-bin/getcallbackip?access_token=" + token, fields{}, 0},
		} {
			if got := w.errcode(row.path, row.body); got != row.want {
				t.Errorf("%s: errcode %d, want %d", row.name, got, row.want)
			}
		}

		for _, row := range []struct {
			method, path, body string
			want               string
		}{
			{http.MethodGet, apiPath + "api_component_token", "", `"errcode":43002`},
			{http.MethodPost, apiPath + "api_component_token", "", `"errcode":44002`},
			{http.MethodPost, apiPath + "api_component_token", "component_appid=x", `"errcode":47001`},
			{http.MethodGet, "/cgi-bin/getcallbackip?access_token=" + token, "", `"ip_list":["127.0.0.1"]`},
			{http.MethodGet, "/cgi-bin/user/info?openid=o7&access_token=" + access, "", `"openid":"o7"`},
		} {
			request, err := http.NewRequestWithContext(t.Context(), row.method, "http://api"+row.path, strings.NewReader(row.body))
			if err != nil {
				t.Fatal(err)
			}
			response, err := w.client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			text := readAll(t, response)
			if response.StatusCode != http.StatusOK || !strings.Contains(strings.ReplaceAll(text, "\n", ""), row.want) {
				t.Errorf("%s %s: %s %s, want %s", row.method, row.path, response.Status, text, row.want)
			}
			if strings.Contains(row.want, "errcode") && !strings.Contains(text, "rid: ") {
				t.Errorf("%s: no rid in %s", row.path, text)
			}
		}
	})
}

// TestTwoComponents checks that nothing of one component works for the other.
func TestTwoComponents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const otherID = "wx0000000000000002"
		config := calmConfig()
		other := config.Components[0]
		other.AppID, other.AutoPush = otherID, false
		config.Components = append(config.Components, other)
		w := start(t, config)
		ticket := w.last("component_verify_ticket").fields["ComponentVerifyTicket"]
		token := w.componentToken()
		access, refresh := w.account(token, accountA)
		code := w.errcode(apiPath+"api_component_token", fields{"component_appid": otherID, "component_appsecret": "SEKRET-appsecret", "component_verify_ticket": ticket})
		if code != 61006 || w.p.AcceptsTicket(otherID, ticket) {
			t.Errorf("the other's ticket: %d, want 61006", code)
		}
		if code := w.errcode(apiPath+"api_authorizer_token?component_access_token="+token, fields{"component_appid": otherID, "authorizer_appid": accountA, "authorizer_refresh_token": refresh}); code != 40013 {
			t.Errorf("the other's token: %d, want 40013", code)
		}
		if w.p.Accepts(otherID, accountA, access) || w.p.AcceptsComponent(otherID, token) || w.p.AcceptsRefresh(otherID, accountA, refresh) {
			t.Error("one component's secrets are accepted for the other")
		}
		if w.p.Authorize("", accountB) == nil {
			t.Error("which component was meant?")
		}
	})
}

func TestRotation(t *testing.T) {
	for _, row := range []struct {
		rotation      wechatsim.Rotation
		changes       bool
		old           int // errcode with the first refresh token right after a refresh
		oldAfterGrace int
	}{
		{wechatsim.RotateNever, false, 0, 0},
		{wechatsim.RotateEach, true, 0, 61023},
		{wechatsim.RotateEachOldDead, true, 61023, 61023},
	} {
		t.Run(string(row.rotation), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.Rotation = row.rotation
				w := start(t, config)
				token := w.componentToken()
				_, refresh := w.account(token, accountA)
				_, next := w.refresh(token, accountA, refresh)
				if (next != refresh) != row.changes {
					t.Errorf("the refresh token changed: %t, want %t", next != refresh, row.changes)
				}
				path := apiPath + "api_authorizer_token?component_access_token=" + token
				if code := w.errcode(path, refreshBody(accountA, refresh)); code != row.old {
					t.Errorf("old refresh token: %d, want %d", code, row.old)
				}
				time.Sleep(6 * time.Minute)
				if w.p.AcceptsRefresh(compID, accountA, refresh) != (row.oldAfterGrace == 0) {
					t.Error("the truth about the old refresh token is not what the grace says")
				}
				if code := w.errcode(path, refreshBody(accountA, refresh)); code != row.oldAfterGrace {
					t.Errorf("old refresh token after the grace: %d, want %d", code, row.oldAfterGrace)
				}
			})
		})
	}
}

func TestOverlapOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.Overlap = wechatsim.Off
		w := start(t, config)
		token := w.componentToken()
		access, refresh := w.account(token, accountA)
		access2, _ := w.refresh(token, accountA, refresh)
		if old, now := w.businessErrcode(access), w.businessErrcode(access2); old != 40001 || now != 0 {
			t.Errorf("old %d, new %d; want 40001 and 0", old, now)
		}
	})
}

func TestCancelAndAuthorizeAgain(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("keep tokens %t", keep), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				config := calmConfig()
				config.KeepTokensOnCancel = keep
				w := start(t, config)
				token := w.componentToken()
				access, refresh := w.account(token, accountA)
				if err := w.p.Cancel(compID, accountA); err != nil {
					t.Fatal(err)
				}
				if got := w.last("unauthorized").fields["AuthorizerAppid"]; got != accountA {
					t.Errorf("unauthorized names %q", got)
				}
				want := 61003
				if keep {
					want = 0
				}
				if code := w.businessErrcode(access); code != want {
					t.Errorf("access token after cancelling: %d, want %d", code, want)
				}
				if code := w.errcode(apiPath+"api_authorizer_token?component_access_token="+token, refreshBody(accountA, refresh)); code != 61003 {
					t.Errorf("refresh after cancelling: %d, want 61003", code)
				}
				if w.p.Truth(compID, accountA).Live || w.p.Cancel(compID, accountA) == nil {
					t.Error("it is still live")
				}
				_, refresh2 := w.account(token, accountA)
				if refresh2 == refresh || w.p.AcceptsRefresh(compID, accountA, refresh) {
					t.Error("the old refresh token came back to life")
				}
				if err := w.p.Authorize(compID, accountA); err == nil {
					t.Error("authorized twice without cancelling")
				}
				if truth := w.p.Truth(compID, accountA); !truth.Live || truth.Epoch != 2 || truth.RefreshToken != wechatsim.Fingerprint(refresh2) {
					t.Errorf("truth %+v", truth)
				}
			})
		})
	}
}

func TestReauthorize(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		access, refresh := w.account(token, accountA)
		unused := func() string {
			if err := w.p.Reauthorize(compID, accountA); err != nil {
				t.Fatal(err)
			}
			return w.last("updateauthorized").fields["AuthorizationCode"]
		}
		first, second := unused(), unused()
		if code := w.errcode(apiPath+"api_query_auth?component_access_token="+token, fields{"component_appid": compID, "authorization_code": first}); code != 61009 {
			t.Errorf("code of an authorization that was replaced: %d, want 61009", code)
		}
		if w.p.AcceptsRefresh(compID, accountA, refresh) {
			t.Error("the refresh token outlived a new authorization")
		}
		if code := w.businessErrcode(access); code != 0 {
			t.Errorf("the access token died at once: %d", code)
		}
		_, refresh2 := w.exchange(token, second)
		if refresh2 == refresh {
			t.Error("the refresh token did not change")
		}
		time.Sleep(5 * time.Minute)
		if code := w.businessErrcode(access); code != 40001 {
			t.Errorf("the access token from before: %d, want 40001", code)
		}
	})
}

func TestList(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.HideUnexchanged = true
		for i := range 7 {
			config.Components[0].Authorizers = append(config.Components[0].Authorizers, fmt.Sprintf("wx%016d", i))
		}
		w := start(t, config)
		time.Sleep(time.Minute)
		token := w.componentToken()
		_, refresh := w.exchange(token, w.last("authorized").fields["AuthorizationCode"])
		list := func() (appids []string, refreshTokens []string) {
			for offset := 0; offset < 9; offset += 3 {
				answer := w.must(apiPath+"api_get_authorizer_list?component_access_token="+token,
					fields{"component_appid": compID, "offset": offset, "count": 3})
				if answer["total_count"] != 7.0 {
					t.Fatalf("total_count %v", answer["total_count"])
				}
				for _, item := range answer["list"].([]any) {
					account := item.(fields)
					appids = append(appids, account["authorizer_appid"].(string))
					if value, there := account["refresh_token"]; there {
						refreshTokens = append(refreshTokens, value.(string))
					}
					if account["auth_time"].(float64) < 1e9 {
						t.Errorf("auth_time %v", account["auth_time"])
					}
				}
			}
			return appids, refreshTokens
		}
		once, refreshTokens := list()
		again, _ := list()
		if !slices.Equal(once, again) {
			t.Errorf("the order changed: %v, %v", once, again)
		}
		if slices.IsSorted(once) {
			t.Error("the order means something")
		}
		slices.Sort(once)
		if len(slices.Compact(once)) != 7 {
			t.Errorf("listed %v", once)
		}
		if !slices.Equal(refreshTokens, []string{refresh}) {
			t.Errorf("%d refresh tokens are listed, want the one whose code was exchanged", len(refreshTokens))
		}
		answer := w.must(apiPath+"api_get_authorizer_info?component_access_token="+token, fields{"component_appid": compID, "authorizer_appid": again[0]})
		if name := answer["authorizer_info"].(fields)["user_name"]; name != wechatsim.OriginalID(again[0]) {
			t.Errorf("user_name %v", name)
		}
	})
}

func TestShuffledList(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.ShuffleList = true
		for i := range 20 {
			config.Components[0].Authorizers = append(config.Components[0].Authorizers, fmt.Sprintf("wx%016d", i))
		}
		w := start(t, config)
		time.Sleep(time.Minute)
		token := w.componentToken()
		orders := map[string]bool{}
		for range 3 {
			answer := w.must(apiPath+"api_get_authorizer_list?component_access_token="+token, fields{"component_appid": compID, "offset": 0, "count": 500})
			orders[fmt.Sprint(answer["list"])] = true
		}
		if len(orders) == 1 {
			t.Error("three lists in the same order")
		}
	})
}

func TestQuota(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.DailyLimit = map[string]int{"api_create_preauthcode": 3, "user/info": 1}
		w := start(t, config)
		token := w.componentToken()
		access, _ := w.account(token, accountA)
		path := apiPath + "api_create_preauthcode?component_access_token=" + token
		use := func(want ...int) {
			t.Helper()
			for i, code := range want {
				if got := w.errcode(path, fields{"component_appid": compID}); got != code {
					t.Errorf("call %d: %d, want %d", i+1, got, code)
				}
			}
		}
		use(0, 0, 0, 45009)
		quota := w.must("/cgi-bin/openapi/quota/get?access_token="+token, fields{"cgi_path": apiPath + "api_create_preauthcode"})["quota"].(fields)
		if quota["daily_limit"] != 3.0 || quota["used"] != 3.0 || quota["remain"] != 0.0 {
			t.Errorf("quota %v", quota)
		}
		if first, second := w.businessErrcode(access), w.businessErrcode(access); first != 0 || second != 45009 {
			t.Errorf("an account's own quota: %d, %d", first, second)
		}
		clearV2 := fields{"appid": compID, "component_appid": compID, "appsecret": "SEKRET-appsecret"}
		w.must("/cgi-bin/component/clear_quota/v2", clearV2)
		use(0, 0, 0, 45009)
		for range 9 {
			w.must("/cgi-bin/clear_quota?access_token="+token, fields{"appid": compID})
		}
		use(0, 0, 0, 45009)
		if code := w.errcode("/cgi-bin/component/clear_quota/v2", clearV2); code != 48006 {
			t.Errorf("eleventh time in a month: %d, want 48006", code)
		}
		// The bubble began at 00:00 UTC: WeChat's day ends at 16:00.
		time.Sleep(time.Until(time.Now().Truncate(24 * time.Hour).Add(16*time.Hour - time.Second)))
		token = w.componentToken()
		path = apiPath + "api_create_preauthcode?component_access_token=" + token
		use(45009)
		time.Sleep(time.Second)
		use(0)
	})
}

func TestLatency(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.Latency, config.LatencyJitter = 2*time.Second, time.Second
		w := start(t, config)
		before := time.Now()
		w.componentToken()
		if took := time.Since(before); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("the answer took %s", took)
		}
	})
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	if _, err := wechatsim.New(wechatsim.Config{}); err == nil {
		t.Error("no component, and no error")
	}
	config := calmConfig()
	config.TokenLife = 1500 * time.Millisecond
	config.BusyRate = 2
	config.Rotation = "sometimes"
	config.PushRetry.Times = -1
	config.TicketEvery = -1
	config.Latency = -1
	config.DailyLimit = map[string]int{"api_nothing": 1}
	config.Components = append(config.Components, config.Components[0], wechatsim.Component{AuthURL: "ftp://x", MessageURL: "x", EncodingAESKey: "x", Authorizers: []string{"a.b"}})
	_, err := wechatsim.New(config)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"token life 1.5s", "BusyRate 2", `rotation "sometimes"`, "PushRetry.Times", "TicketEvery", "Latency", "api_nothing", "given twice",
		"AppID", "AppSecret", "Token", "EncodingAESKey", "AuthURL", "MessageURL", `authorizer "a.b"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not speak of %s", want)
		}
	}
}

// BenchmarkRefresh measures how many refreshes the platform takes over HTTP, so that a benchmark
// against it knows when it measures the platform instead.
func BenchmarkRefresh(b *testing.B) {
	p, err := wechatsim.New(calmConfig())
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(p.Handler())
	defer server.Close()
	token, bodies := "", make([][]byte, 1000)
	for i := range bodies {
		appid, refresh := fmt.Sprintf("wx%016d", i), ""
		if token, refresh, err = p.AuthorizeDirectly(appid); err != nil {
			b.Fatal(err)
		}
		if bodies[i], err = json.Marshal(refreshBody(appid, refresh)); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Int64
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			response, err := client.Post(server.URL+apiPath+"api_authorizer_token?component_access_token="+token, "application/json", bytes.NewReader(bodies[next.Add(1)%1000]))
			if err != nil {
				b.Error(err)
				return
			}
			_, err = io.Copy(io.Discard, response.Body)
			if err = errors.Join(err, response.Body.Close()); err != nil {
				b.Error(err)
			}
		}
	})
	issued := 0
	for _, truth := range p.Truths() {
		if truth.Authorizer != "" {
			issued += truth.Generation
		}
	}
	if issued != b.N {
		b.Errorf("%d tokens issued in %d calls", issued, b.N)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
