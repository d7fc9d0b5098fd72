package wechat_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"wxtoken/internal/wechat"
)

// What the tests send as secrets. None of it may ever stand in an error.
const (
	sentToken   = "SEKRET-component+token/="
	sentSecret  = "SEKRET-appsecret"
	sentTicket  = "ticket@@@SEKRET-ticket"
	sentCode    = "queryauthcode@@@SEKRET-code"
	sentRefresh = "refreshtoken@@@SEKRET-refresh"
)

// newClient returns a client of a server with that handler.
func newClient(t *testing.T, handler http.HandlerFunc) *wechat.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return clientOf(t, wechat.ClientConfig{BaseURL: server.URL})
}

func clientOf(t *testing.T, cfg wechat.ClientConfig) *wechat.Client {
	t.Helper()
	c, err := wechat.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c
}

// answering returns a handler that gives the same answer to everything.
func answering(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// callAll makes each call once and returns the errors.
func callAll(ctx context.Context, c *wechat.Client) map[wechat.API]error {
	errs := map[wechat.API]error{}
	_, errs[wechat.APIComponentToken] = c.ComponentToken(ctx, "wx1", sentSecret, sentTicket)
	_, errs[wechat.APICreatePreAuthCode] = c.CreatePreAuthCode(ctx, sentToken, "wx1")
	_, errs[wechat.APIQueryAuth] = c.QueryAuth(ctx, sentToken, "wx1", sentCode)
	_, errs[wechat.APIAuthorizerToken] = c.AuthorizerToken(ctx, sentToken, "wx1", "wx2", sentRefresh)
	_, errs[wechat.APIAuthorizerInfo] = c.AuthorizerInfo(ctx, sentToken, "wx1", "wx2")
	_, errs[wechat.APIAuthorizerList] = c.AuthorizerList(ctx, sentToken, "wx1", 0, 500)
	_, errs[wechat.APIStartPushTicket] = c.StartPushTicket(ctx, "wx1", sentSecret)
	return errs
}

// wantError checks that err is an *Error of that call, fit for a log, and returns it.
func wantError(t *testing.T, api wechat.API, err error) *wechat.Error {
	t.Helper()
	var e *wechat.Error
	if !errors.As(err, &e) {
		t.Fatalf("%s: got %v, want an *Error", api, err)
	}
	if e.API != api {
		t.Errorf("got API %s, want %s", e.API, api)
	}
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		for _, text := range []string{cause.Error(), url.QueryEscape(cause.Error())} {
			if strings.Contains(text, "SEKRET") || strings.Contains(text, "access_token=") {
				t.Errorf("%s: the error shows a secret: %s", api, text)
			}
		}
	}
	return e
}

// TestRawAnswer reads an answer with what an account calls itself, control characters and all.
func TestRawAnswer(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/cases/b09-api_get_authorizer_info.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"as reported":           string(raw),
		"with a mark":           "\uFEFF" + string(raw),
		"half a character":      strings.Replace(string(raw), "fine", "fine\xe5\x90", 1),
		"escapes that are none": strings.Replace(string(raw), "fine", `\x\u12fine`, 1),
		"a name twice":          strings.Replace(string(raw), `"nick_name":"Fixture"`, `"nick_name":"a","nick_name":"Fixture"`, 1),
	} {
		c := newClient(t, answering(200, text))
		info, err := c.AuthorizerInfo(t.Context(), sentToken, "wx1", "wxa000000000000010")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		signature := ""
		if err := json.Unmarshal(info.Profile["signature"], &signature); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(signature, "fine") || !strings.Contains(signature, " goodsevery day") || string(info.Profile["nick_name"]) != `"Fixture"` ||
			info.RefreshToken != "refresh-b09" || len(info.FuncInfo) != 2 {
			t.Errorf("%s: signature %q, refresh token %q, sets %v", name, signature, info.RefreshToken, info.FuncInfo)
		}
		if whole, err := json.Marshal(info.Profile); err != nil || !utf8.Valid(whole) {
			t.Errorf("%s: the profile can't be stored: %q, %v", name, whole, err)
		}
	}
}

func TestCalls(t *testing.T) {
	t.Parallel()
	type request struct {
		method, path, query, contentType string
	}
	for name, row := range map[string]struct {
		answer string
		call   func(context.Context, *wechat.Client) (any, error)
		path   string
		query  string
		body   string
		want   any
	}{
		"component token": {
			answer: `{"component_access_token":"92_abc","expires_in":7200}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.ComponentToken(ctx, "wx1", sentSecret, sentTicket)
			},
			path: "/cgi-bin/component/api_component_token",
			body: `{"component_appid":"wx1","component_appsecret":"SEKRET-appsecret","component_verify_ticket":"ticket@@@SEKRET-ticket"}`,
			want: wechat.Grant{AccessToken: "92_abc", ExpiresIn: 2 * time.Hour},
		},
		"authorization": {
			answer: `{"authorization_info":{"authorizer_appid":"wx2","authorizer_access_token":"a","expires_in":"7200","authorizer_refresh_token":"r",
				"func_info":[{"funcscope_category":{"id":1}},{"funcscope_category":{"id":"17","name":"x"},"confirm_info":{"need_confirm":0}}]}}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.QueryAuth(ctx, sentToken, "wx1", sentCode)
			},
			path:  "/cgi-bin/component/api_query_auth",
			query: "component_access_token=SEKRET-component%2Btoken%2F%3D",
			body:  `{"component_appid":"wx1","authorization_code":"queryauthcode@@@SEKRET-code"}`,
			want:  wechat.Authorization{AuthorizerAppID: "wx2", AccessToken: "a", RefreshToken: "r", ExpiresIn: 2 * time.Hour, FuncInfo: []int{1, 17}},
		},
		"authorization of an account without API permission": {
			answer: `{"authorization_info":{"authorizer_appid":"wx2","func_info":""}}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.QueryAuth(ctx, sentToken, "wx1", sentCode)
			},
			path:  "/cgi-bin/component/api_query_auth",
			query: "component_access_token=SEKRET-component%2Btoken%2F%3D",
			body:  `{"component_appid":"wx1","authorization_code":"queryauthcode@@@SEKRET-code"}`,
			want:  wechat.Authorization{AuthorizerAppID: "wx2"},
		},
		"authorizer token": {
			answer: `{"authorizer_access_token":"a","expires_in":10,"authorizer_refresh_token":"r","unknown":[{}]}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.AuthorizerToken(ctx, sentToken, "wx1", "wx2", "<&>中\u2028")
			},
			path:  "/cgi-bin/component/api_authorizer_token",
			query: "component_access_token=SEKRET-component%2Btoken%2F%3D",
			body:  `{"component_appid":"wx1","authorizer_appid":"wx2","authorizer_refresh_token":"<&>中\u2028"}`,
			want:  wechat.Grant{AccessToken: "a", ExpiresIn: 10 * time.Second, RefreshToken: "r"},
		},
		"authorizer info": {
			answer: `{"authorizer_info":{"nick_name":"店","account_status":1},"authorization_info":{"authorizer_appid":"wx2","authorizer_refresh_token":"r","func_info":[{"funcscope_category":{"id":3}}]}}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.AuthorizerInfo(ctx, sentToken, "wx1", "wx2")
			},
			path:  "/cgi-bin/component/api_get_authorizer_info",
			query: "component_access_token=SEKRET-component%2Btoken%2F%3D",
			body:  `{"component_appid":"wx1","authorizer_appid":"wx2"}`,
			want: wechat.AuthorizerInfo{
				Profile:  map[string]json.RawMessage{"nick_name": json.RawMessage(`"店"`), "account_status": json.RawMessage("1")},
				FuncInfo: []int{3}, RefreshToken: "r",
			},
		},
		"authorizer list": {
			answer: `{"total_count":"33","list":[{"authorizer_appid":"wx2","refresh_token":"r","auth_time":1558000607},{"authorizer_appid":"wx3"}]}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.AuthorizerList(ctx, sentToken, "wx1", 500, 100)
			},
			path:  "/cgi-bin/component/api_get_authorizer_list",
			query: "component_access_token=SEKRET-component%2Btoken%2F%3D",
			body:  `{"component_appid":"wx1","offset":500,"count":100}`,
			want: wechat.AuthorizerPage{Total: 33, List: []wechat.ListedAuthorizer{
				{AppID: "wx2", RefreshToken: "r", AuthTime: time.Unix(1558000607, 0).UTC()}, {AppID: "wx3"},
			}},
		},
		"authorizer list, odd entries": {
			answer: `{"total_count":7,"list":[null,{"authorizer_appid":"wx2","refresh_token":"r","auth_time":"1558000607"},{"refresh_token":"SEKRET-got"},5,
				{"authorizer_appid":"wx3","refresh_token":null,"auth_time":"soon"},{"authorizer_appid":"wx4","refresh_token":5},
				{"authorizer_appid":"wx5","refresh_token":"SEKRET got"},{"authorizer_appid":["wx6"]}]}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.AuthorizerList(ctx, sentToken, "wx1", 0, 500)
			},
			path:  "/cgi-bin/component/api_get_authorizer_list",
			query: "component_access_token=SEKRET-component%2Btoken%2F%3D",
			body:  `{"component_appid":"wx1","offset":0,"count":500}`,
			want: wechat.AuthorizerPage{Total: 7, Odd: 4, List: []wechat.ListedAuthorizer{
				{AppID: "wx2", RefreshToken: "r", AuthTime: time.Unix(1558000607, 0).UTC()}, {AppID: "wx3"}, {AppID: "wx4"}, {AppID: "wx5"},
			}},
		},
		"authorizer list, total_count a word": {
			answer: `{"total_count":"many","list":[{"authorizer_appid":"wx2","refresh_token":" r\n"}]}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.AuthorizerList(ctx, sentToken, "wx1", 0, 500)
			},
			path:  "/cgi-bin/component/api_get_authorizer_list",
			query: "component_access_token=SEKRET-component%2Btoken%2F%3D",
			body:  `{"component_appid":"wx1","offset":0,"count":500}`,
			want:  wechat.AuthorizerPage{List: []wechat.ListedAuthorizer{{AppID: "wx2", RefreshToken: "r"}}},
		},
		"empty page behind the last account": {
			answer: `{"total_count":500,"list":[]}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.AuthorizerList(ctx, sentToken, "wx1", 500, 500)
			},
			path:  "/cgi-bin/component/api_get_authorizer_list",
			query: "component_access_token=SEKRET-component%2Btoken%2F%3D",
			body:  `{"component_appid":"wx1","offset":500,"count":500}`,
			want:  wechat.AuthorizerPage{Total: 500, List: []wechat.ListedAuthorizer{}},
		},
		"empty authorizer list": {
			answer: `{"total_count":0,"list":[]}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.AuthorizerList(ctx, sentToken, "wx1", 0, 500)
			},
			path:  "/cgi-bin/component/api_get_authorizer_list",
			query: "component_access_token=SEKRET-component%2Btoken%2F%3D",
			body:  `{"component_appid":"wx1","offset":0,"count":500}`,
			want:  wechat.AuthorizerPage{List: []wechat.ListedAuthorizer{}},
		},
		"start pushing": {
			answer: `{"errcode":0,"errmsg":"ok"}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.StartPushTicket(ctx, "wx1", sentSecret)
			},
			path: "/cgi-bin/component/api_start_push_ticket",
			body: `{"component_appid":"wx1","component_secret":"SEKRET-appsecret"}`,
			want: false,
		},
		"pushing already": {
			answer: `{"errcode":"0","errmsg":"in a normal state"}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.StartPushTicket(ctx, "wx1", sentSecret)
			},
			path: "/cgi-bin/component/api_start_push_ticket",
			body: `{"component_appid":"wx1","component_secret":"SEKRET-appsecret"}`,
			want: true,
		},
		"pre-auth code": {
			answer: `{"pre_auth_code":"preauthcode@@@p","expires_in":600.0,"errcode":0,"errmsg":"ok"}`,
			call: func(ctx context.Context, c *wechat.Client) (any, error) {
				return c.CreatePreAuthCode(ctx, sentToken, "wx1")
			},
			path:  "/cgi-bin/component/api_create_preauthcode",
			query: "component_access_token=SEKRET-component%2Btoken%2F%3D",
			body:  `{"component_appid":"wx1"}`,
			want:  wechat.PreAuthCode{Code: "preauthcode@@@p", ExpiresIn: 10 * time.Minute},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen request
			var raw string
			c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				raw = string(body)
				seen = request{method: r.Method, path: r.URL.Path, query: r.URL.RawQuery, contentType: r.Header.Get("Content-Type")}
				w.Header().Set("Content-Type", "text/plain") // WeChat's own answers are not always marked as JSON
				_, _ = io.WriteString(w, row.answer)
			})
			got, err := row.call(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, row.want) {
				t.Errorf("got %s, want %s", toJSON(t, got), toJSON(t, row.want))
			}
			if want := (request{method: "POST", path: row.path, query: row.query, contentType: "application/json"}); seen != want {
				t.Errorf("got request %+v, want %+v", seen, want)
			}
			if want := strings.ReplaceAll(row.body, "\u2028", `\u2028`); raw != want {
				t.Errorf("got body %s, want %s", raw, want)
			}
		})
	}
}

// TestOddBesideGood reads answers in which one field is odd: it must not cost the others. With an access token that is thrown away
// the account has none, since WeChat has ended the one before.
func TestOddBesideGood(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, odd := range []string{`"a b"`, `"a\u0000b"`, `""`, `null`, `false`, `0`, `{}`, `[]`, `"` + strings.Repeat("r", 2049) + `"`} {
		tokens := `"authorizer_access_token":" a\n","expires_in":" 7200 ","authorizer_refresh_token":` + odd +
			`,"func_info":[{"funcscope_category":{"id":1}},null,5,{"funcscope_category":{"id":"x"}},{"funcscope_category":{"id":"17"}}]`
		c := newClient(t, answering(200, `{`+tokens+`,"authorization_info":{"authorizer_appid":"wx2",`+tokens+`},"authorizer_info":{"nick_name":"n"}}`))
		if g, err := c.AuthorizerToken(ctx, sentToken, "wx1", "wx2", sentRefresh); err != nil || !reflect.DeepEqual(g, wechat.Grant{AccessToken: "a", ExpiresIn: 2 * time.Hour}) {
			t.Errorf("refresh token %.20s: %s, %v", odd, toJSON(t, g), err)
		}
		want := wechat.Authorization{AuthorizerAppID: "wx2", AccessToken: "a", ExpiresIn: 2 * time.Hour, FuncInfo: []int{1, 17}}
		if a, err := c.QueryAuth(ctx, sentToken, "wx1", sentCode); err != nil || !reflect.DeepEqual(a, want) {
			t.Errorf("refresh token %.20s: %s, %v", odd, toJSON(t, a), err)
		}
		if info, err := c.AuthorizerInfo(ctx, sentToken, "wx1", "wx2"); err != nil || len(info.Profile) != 1 || info.RefreshToken != "" || len(info.FuncInfo) != 2 {
			t.Errorf("refresh token %.20s: %s, %v", odd, toJSON(t, info), err)
		}
	}
	for _, odd := range []string{"", `"authorizer_info":null,`, `"authorizer_info":[],`, `"authorizer_info":{},`, `"authorizer_info":"none",`} {
		c := newClient(t, answering(200, `{`+odd+`"authorization_info":{"authorizer_appid":"wx2","authorizer_refresh_token":" r\n","func_info":"all"}}`))
		if info, err := c.AuthorizerInfo(ctx, sentToken, "wx1", "wx2"); err != nil || len(info.Profile) != 0 || info.RefreshToken != "r" {
			t.Errorf("%s: %s, %v", odd, toJSON(t, info), err)
		}
	}
	for _, odd := range []string{"", `,"authorization_info":null`, `,"authorization_info":[]`, `,"authorization_info":""`, `,"authorization_info":{"func_info":{}}`} {
		c := newClient(t, answering(200, `{"authorizer_info":{"nick_name":"n"}`+odd+`}`))
		if info, err := c.AuthorizerInfo(ctx, sentToken, "wx1", "wx2"); err != nil || len(info.Profile) != 1 || info.RefreshToken != "" {
			t.Errorf("%s: %s, %v", odd, toJSON(t, info), err)
		}
	}
}

// toJSON returns the JSON of a value that has no text of its own.
func toJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Answers that are no answers: every call has to fail, without an errcode, worth another try, and
// with nothing of the answer in the error.
func TestFaultyAnswers(t *testing.T) {
	t.Parallel()
	info := func(fields string) string {
		return `{"component_access_token":"SEKRET-got","authorizer_access_token":"SEKRET-got","pre_auth_code":"SEKRET-got",` + fields +
			`,"authorization_info":{"authorizer_appid":"wx2","authorizer_access_token":"SEKRET-got",` + fields + `}}`
	}
	for name, row := range map[string]struct {
		status int
		body   string
		only   []wechat.API // empty for all
	}{
		"HTML":                   {200, "<html>SEKRET-got</html>", nil},
		"gateway's HTML":         {502, "<html>SEKRET-got</html>", nil},
		"empty":                  {200, "", nil},
		"empty, 504":             {504, "", nil},
		"10 MB":                  {200, `{"a":"` + strings.Repeat("x", 10<<20) + `"}`, nil},
		"cut short":              {200, `{"component_access_token":"SEKRET-got","expires_in":72`, nil},
		"two documents":          {200, `{"errcode":0}{"errcode":0}`, nil},
		"null":                   {200, "null", nil},
		"array":                  {200, `["SEKRET-got"]`, nil},
		"string":                 {200, `"SEKRET-got"`, nil},
		"empty object":           {200, "{}", nil},
		"errcode that is a word": {200, `{"errcode":"SEKRET-got","errmsg":"x"}`, nil},
		"errcode 0, HTTP 500":    {500, `{"errcode":0,"errmsg":"ok"}`, nil},
		"redirect":               {302, "", nil},
		"no token":               {200, `{"expires_in":7200}`, nil},
		"empty token":            {200, `{"component_access_token":"","authorizer_access_token":"","pre_auth_code":"","expires_in":7200}`, nil},
		"token of a wrong type":  {200, `{"component_access_token":1,"authorizer_access_token":{},"pre_auth_code":[],"expires_in":7200}`, nil},
		"token with a line end":  {200, `{"component_access_token":"a\r\nb","authorizer_access_token":"a\nb","pre_auth_code":"a b","expires_in":7200}`, nil},
		"expires_in missing":     {200, info(`"x":1`), nil},
		"expires_in 0":           {200, info(`"expires_in":0`), nil},
		"expires_in -1":          {200, info(`"expires_in":-1`), nil},
		"expires_in 9":           {200, info(`"expires_in":9`), nil},
		"expires_in 1e12":        {200, info(`"expires_in":1e12`), nil},
		"expires_in 31 days":     {200, info(`"expires_in":2678400`), nil},
		"expires_in 7200.5":      {200, info(`"expires_in":7200.5`), nil},
		"expires_in a word":      {200, info(`"expires_in":"SEKRET-got"`), nil},
		"expires_in 2^64":        {200, info(`"expires_in":18446744073709551616`), nil},
		"refresh token odd, no access token": {
			200, `{"authorization_info":{"authorizer_appid":"wx2","authorizer_refresh_token":"a b"}}`,
			[]wechat.API{wechat.APIQueryAuth},
		},
		"refresh token, no access token": {
			200, `{"authorization_info":{"authorizer_appid":"wx2","authorizer_refresh_token":"r"}}`,
			[]wechat.API{wechat.APIQueryAuth},
		},
		"empty tokens, permission granted": {
			200, `{"authorization_info":{"authorizer_appid":"wx2","authorizer_access_token":"","authorizer_refresh_token":"","func_info":[{"funcscope_category":{"id":1}}]}}`,
			[]wechat.API{wechat.APIQueryAuth},
		},
		"access token false": {200, `{"authorization_info":{"authorizer_appid":"wx2","authorizer_access_token":false,"expires_in":7200}}`, []wechat.API{wechat.APIQueryAuth}},
		"appid odd":          {200, `{"authorization_info":{"authorizer_appid":"SEKRET.*","authorizer_access_token":"a","expires_in":7200}}`, []wechat.API{wechat.APIQueryAuth}},
		"info of another":    {200, `{"authorizer_info":{},"authorization_info":{"authorizer_appid":"wx9"}}`, []wechat.API{wechat.APIAuthorizerInfo}},
		"info empty":         {200, `{"authorizer_info":{},"authorization_info":{"authorizer_appid":"wx2"}}`, []wechat.API{wechat.APIAuthorizerInfo}},
		"info, odd token":    {200, `{"authorizer_info":{},"authorization_info":{"authorizer_refresh_token":"a b"}}`, []wechat.API{wechat.APIAuthorizerInfo}},
		"list, no total":     {200, `{"list":[]}`, []wechat.API{wechat.APIAuthorizerList}},
		"list, absurd total": {200, `{"total_count":1e15,"list":[]}`, []wechat.API{wechat.APIAuthorizerList}},
		"list missing":       {200, `{"total_count":3}`, []wechat.API{wechat.APIAuthorizerList}},
		"list null":          {200, `{"total_count":"3","list":null}`, []wechat.API{wechat.APIAuthorizerList}},
		"list without any":   {200, `{"total_count":3,"list":[]}`, []wechat.API{wechat.APIAuthorizerList}},
		"list an object":     {200, `{"total_count":1,"list":{"authorizer_appid":"SEKRET-got"}}`, []wechat.API{wechat.APIAuthorizerList}},
		"list, no appid":     {200, `{"total_count":1,"list":[{"refresh_token":"SEKRET-got"}]}`, []wechat.API{wechat.APIAuthorizerList}},
		"list, nothing":      {200, `{"total_count":2,"list":[null,"SEKRET-got"]}`, []wechat.API{wechat.APIAuthorizerList}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, answering(row.status, row.body))
			errs := callAll(t.Context(), c)
			if row.only == nil {
				for api := range errs {
					row.only = append(row.only, api)
				}
			}
			for _, api := range row.only {
				e := wantError(t, api, errs[api])
				if e.Code != 0 || wechat.Judge(e) != wechat.Retry || e.Message == "" {
					t.Errorf("%s: got code %d, %s, want none and retry: %v", api, e.Code, wechat.Judge(e), e)
				}
			}
		})
	}
}

func TestRefusalByErrcode(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		status       int
		body         string
		code         int
		message, rid string
	}{
		"as usual": {
			200, `{"errcode":40001,"errmsg":"invalid credential, access_token is invalid or not latest, rid: 64a1b2c3-1a2b3c4d-5e6f7a8b"}`,
			40001, "invalid credential, access_token is invalid or not latest", "64a1b2c3-1a2b3c4d-5e6f7a8b",
		},
		"older":               {200, `{"errcode":61004,"errmsg":"access clientip is not registered requestIP: 1.2.3.4 hint: [abc]"}`, 61004, "access clientip is not registered requestIP: 1.2.3.4 hint: [abc]", ""},
		"as a string":         {200, `{"errcode":"61023","errmsg":"refresh_token is invalid"}`, 61023, "refresh_token is invalid", ""},
		"busy":                {200, `{"errcode":-1,"errmsg":"system error"}`, -1, "system error", ""},
		"with HTTP 500":       {500, `{"errcode":45009,"errmsg":"quota"}`, 45009, "quota", ""},
		"no text":             {200, `{"errcode":61003}`, 61003, "", ""},
		"text that is none":   {200, `{"errcode":61003,"errmsg":{"a":1}}`, 61003, "", ""},
		"beside a token":      {200, `{"errcode":61023,"errmsg":"x","component_access_token":"t","authorizer_access_token":"t","expires_in":7200}`, 61023, "x", ""},
		"wrong types beside":  {200, `{"errcode":61023,"errmsg":"x","list":1,"expires_in":"soon","authorization_info":"none"}`, 61023, "x", ""},
		"line ends and bells": {200, `{"errcode":61003,"errmsg":"a\r\nb\u0007c\u0000"}`, 61003, "a  b c", ""},
		"very long":           {200, `{"errcode":61003,"errmsg":"` + strings.Repeat("票", 200) + `"}`, 61003, strings.Repeat("票", 66), ""},
		"with one we did not send": {
			200, `{"errcode":40001,"errmsg":"bad refreshtoken@@@other-one and ` + strings.Repeat("Ab3_", 40) + `."}`, 40001, "bad [redacted] and [redacted].", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, answering(row.status, row.body))
			for api, err := range callAll(t.Context(), c) {
				e := wantError(t, api, err)
				if e.Code != row.code || e.Message != row.message || e.RID != row.rid {
					t.Errorf("%s: got %d %q rid %q, want %d %q rid %q", api, e.Code, e.Message, e.RID, row.code, row.message, row.rid)
				}
			}
		})
	}
}

// Everything in these answers is right but their length.
func TestAnswerTooLong(t *testing.T) {
	t.Parallel()
	endless := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		spaces := strings.Repeat(" ", 32<<10)
		for _, err := io.WriteString(w, `{"component_access_token":"a","expires_in":7200`); err == nil; {
			_, err = io.WriteString(w, spaces)
		}
	})
	for api, err := range callAll(t.Context(), endless) {
		if e := wantError(t, api, err); errors.Is(err, context.DeadlineExceeded) || wechat.Judge(err) != wechat.Retry {
			t.Errorf("%s: read to the end: %v", api, e)
		}
	}

	long := strings.Repeat(" ", 70<<10)
	token := newClient(t, answering(200, `{"component_access_token":"a","expires_in":7200}`+long))
	_, err := token.ComponentToken(t.Context(), "wx1", sentSecret, sentTicket)
	wantError(t, wechat.APIComponentToken, err)

	list := newClient(t, answering(200, `{"total_count":1,"list":[{"authorizer_appid":"wx2"}]}`+long))
	if page, err := list.AuthorizerList(t.Context(), sentToken, "wx1", 0, 500); err != nil || len(page.List) != 1 {
		t.Errorf("a list of 70 KiB is refused: %v", err)
	}
}

// WeChat could quote what it refuses. Each call hides what it sent itself.
func TestRefusalHidesWhatWasSent(t *testing.T) {
	t.Parallel()
	all := strings.Join([]string{sentToken, url.QueryEscape(sentToken), sentSecret, sentTicket, sentCode, sentRefresh}, " ")
	c := newClient(t, answering(200, `{"errcode":40001,"errmsg":"bad `+all+` end"}`))
	for api, err := range callAll(t.Context(), c) {
		var e *wechat.Error
		if !errors.As(err, &e) || e.Code != 40001 || !strings.HasSuffix(e.Message, " end") {
			t.Fatalf("%s: got %v", api, err)
		}
		for _, secret := range secretsSentTo(api) {
			if strings.Contains(e.Error(), secret) || strings.Contains(e.Error(), url.QueryEscape(secret)) {
				t.Errorf("%s: the error shows %s", api, secret)
			}
		}
	}
}

// secretsSentTo lists the secrets that callAll sends to api.
func secretsSentTo(api wechat.API) []string {
	switch api {
	case wechat.APIComponentToken:
		return []string{sentSecret, sentTicket}
	case wechat.APIStartPushTicket:
		return []string{sentSecret}
	case wechat.APIQueryAuth:
		return []string{sentToken, sentCode}
	case wechat.APIAuthorizerToken:
		return []string{sentToken, sentRefresh}
	}
	return []string{sentToken}
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]*wechat.Error{
		"api_query_auth: errcode 61009: code is invalid (rid 64a1-2)": {API: wechat.APIQueryAuth, Code: 61009, Message: "code is invalid", RID: "64a1-2"},
		"api_component_token: no answer: connection refused":          {API: wechat.APIComponentToken, Message: "no answer: connection refused"},
	} {
		if e.Error() != want {
			t.Errorf("got %q, want %q", e.Error(), want)
		}
	}
}
