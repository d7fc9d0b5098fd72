package wechatsim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"wxtoken/internal/wechat"
	"wxtoken/wechatsim"
)

// TestFaults hits one refresh with each mode: what the caller sees, and whether a token was made.
func TestFaults(t *testing.T) {
	const cut = "cut"
	for _, row := range []struct {
		name     string
		fault    wechatsim.Fault
		want     string // part of the answer, or cut
		status   int
		executed bool
		outcome  string
		after    time.Duration
	}{
		{"errcode", wechatsim.Fault{Errcode: 61004, Errmsg: "access clientip is not registered"}, "access clientip is not registered rid", 200, false, wechatsim.OutcomeFaked, 0},
		{"busy", wechatsim.Fault{Mode: wechatsim.FaultBusy}, `"errcode":-1`, 200, false, wechatsim.OutcomeBusy, 0},
		{"lost", wechatsim.Fault{Mode: wechatsim.FaultLost}, cut, 0, true, wechatsim.OutcomeLost, 0},
		{"drop", wechatsim.Fault{Mode: wechatsim.FaultDrop, Delay: time.Second}, cut, 0, false, wechatsim.OutcomeDropped, time.Second},
		{"html", wechatsim.Fault{Mode: wechatsim.FaultHTML}, "<html>", 502, false, wechatsim.OutcomeFaked, 0},
		{"body", wechatsim.Fault{Mode: wechatsim.FaultBody, Status: 503, Body: `{"expires_in":-1}`}, `{"expires_in":-1}`, 503, false, wechatsim.OutcomeFaked, 0},
		{"empty body", wechatsim.Fault{Mode: wechatsim.FaultBody}, "", 200, false, wechatsim.OutcomeFaked, 0},
		{"slow", wechatsim.Fault{Mode: wechatsim.FaultSlow, Delay: 7 * time.Second}, "authorizer_access_token", 200, true, wechatsim.OutcomeAnswered, 7 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := start(t, calmConfig())
				token := w.componentToken()
				_, refresh := w.account(token, accountA)
				generation := w.p.Truth(compID, accountA).Generation
				fault := row.fault
				fault.API, fault.Component, fault.Authorizer, fault.Times = "api_authorizer_token", compID, accountA, 1
				if err := w.p.Fail(fault); err != nil {
					t.Fatal(err)
				}
				text, err := json.Marshal(refreshBody(accountA, refresh))
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				// The body can't be sent again, so the transport doesn't by itself try once more.
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
					"http://api"+apiPath+"api_authorizer_token?component_access_token="+token, struct{ *bytes.Reader }{bytes.NewReader(text)})
				if err != nil {
					t.Fatal(err)
				}
				request.ContentLength = int64(len(text))
				response, err := w.client.Do(request)
				if (err != nil) != (row.want == cut) {
					t.Fatalf("error %v", err)
				}
				if err == nil {
					if answer := strings.ReplaceAll(readAll(t, response), "\n", ""); !strings.Contains(answer, row.want) || response.StatusCode != row.status {
						t.Errorf("answer %s %s", response.Status, answer)
					}
				}
				if took := time.Since(began); took != row.after {
					t.Errorf("took %s, want %s", took, row.after)
				}
				if executed := w.p.Truth(compID, accountA).Generation > generation; executed != row.executed {
					t.Errorf("executed %t, want %t", executed, row.executed)
				}
				calls := w.outcomes(wechatsim.EntryCall)
				if calls[len(calls)-1] != row.outcome {
					t.Errorf("outcome %s, want %s", calls[len(calls)-1], row.outcome)
				}
				w.refresh(token, accountA, refresh) // once is over
			})
		})
	}
}

func TestFaultsMatchAndEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		access, refresh := w.account(token, accountA)
		accessB, _ := w.account(token, accountB)
		fail := func(f wechatsim.Fault) {
			t.Helper()
			if err := w.p.Fail(f); err != nil {
				t.Fatal(err)
			}
		}
		fail(wechatsim.Fault{API: "/cgi-bin/user/info", Authorizer: accountA, Errcode: 50002, For: time.Minute})
		if a, b := w.businessErrcode(access), w.businessErrcode(accessB); a != 50002 || b != 0 {
			t.Errorf("the fault of one account: %d, the other: %d", a, b)
		}
		time.Sleep(time.Minute)
		if code := w.businessErrcode(access); code != 0 {
			t.Errorf("after its time: %d", code)
		}
		if err := w.p.Reauthorize(compID, accountB); err != nil {
			t.Fatal(err)
		}
		fail(wechatsim.Fault{API: "api_query_auth", Authorizer: accountB, Errcode: 61010})
		code := w.last("updateauthorized").fields["AuthorizationCode"]
		if got := w.errcode(apiPath+"api_query_auth?component_access_token="+token, fields{"component_appid": compID, "authorization_code": code}); got != 61010 {
			t.Errorf("a code is its account's: %d, want 61010", got)
		}
		w.p.SetDown(true)
		if _, err := w.post(apiPath+"api_authorizer_token?component_access_token="+token, refreshBody(accountA, refresh)); err == nil {
			t.Error("a call of a platform that is down was answered")
		}
		if calls := w.outcomes(wechatsim.EntryCall); calls[len(calls)-1] != wechatsim.OutcomeDown {
			t.Errorf("outcome %s", calls[len(calls)-1])
		}
		w.p.Heal()
		w.exchange(token, code)
		for _, f := range []wechatsim.Fault{
			{}, {Mode: "odd"}, {Mode: wechatsim.FaultSlow}, {Errcode: 1, API: "api_nothing"}, {Errcode: 1, Times: -1}, {Errcode: 1, Status: 7},
		} {
			if w.p.Fail(f) == nil {
				t.Errorf("fault %+v was taken", f)
			}
		}
	})
}

func TestUnkind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := wechatsim.Unkind()
		config.Components = calmConfig().Components
		w := start(t, config)
		for range 400 {
			_, _ = w.post(apiPath+"api_start_push_ticket", fields{"component_appid": compID, "component_secret": "SEKRET-appsecret"})
		}
		calls := map[string]int{}
		for _, outcome := range w.outcomes(wechatsim.EntryCall) {
			calls[outcome]++
		}
		if calls[wechatsim.OutcomeBusy] < 5 || calls[wechatsim.OutcomeBusy] > 50 || calls[wechatsim.OutcomeLost] < 1 || calls[wechatsim.OutcomeLost] > 30 {
			t.Errorf("of 400 calls: %v", calls)
		}
	})
}

func TestSecretAndInvalidate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		token := w.componentToken()
		access, _ := w.account(token, accountA)
		if err := w.p.Invalidate("", accountA); err != nil {
			t.Fatal(err)
		}
		if code := w.businessErrcode(access); code != 40001 {
			t.Errorf("invalidated token: %d, want 40001", code)
		}
		if err := w.p.Invalidate("", ""); err != nil {
			t.Fatal(err)
		}
		if w.p.AcceptsComponent(compID, token) {
			t.Error("an invalidated component token is accepted")
		}
		if err := w.p.SetSecret("", "SEKRET-another"); err != nil {
			t.Fatal(err)
		}
		ticket := w.last("component_verify_ticket").fields["ComponentVerifyTicket"]
		for secret, want := range map[string]int{"SEKRET-appsecret": 40125, "SEKRET-another": 0} {
			if got := w.errcode(apiPath+"api_component_token", fields{"component_appid": compID, "component_appsecret": secret, "component_verify_ticket": ticket}); got != want {
				t.Errorf("%s: %d, want %d", secret, got, want)
			}
		}
		if !slices.Contains(w.p.Secrets(), "SEKRET-another") {
			t.Error("the new secret is not among the secrets")
		}
		for name, err := range map[string]error{
			"Authorize": w.p.Authorize("wx0", accountA), "Authorize an account that is none": w.p.Authorize("", "a.b"),
			"Reauthorize": w.p.Reauthorize("", accountB), "Cancel": w.p.Cancel("wx0", accountA), "Register": w.p.Register("wx0", accountA),
			"Invalidate": w.p.Invalidate("wx0", ""), "Invalidate a stranger": w.p.Invalidate("", "wx0"), "PushTicket": w.p.PushTicket("wx0"),
			"StopTickets": w.p.StopTickets("wx0"), "SetSecret": w.p.SetSecret("wx0", "x"), "SetSecret to nothing": w.p.SetSecret("", " "),
			"PushInfo": w.p.PushInfo("wx0", "x"), "PushRaw": w.p.PushRaw("wx0", "", "x"),
		} {
			if err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	})
}

// TestRunTwice checks that a platform runs once, and that calls waiting at its end are cut off.
func TestRunTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, calmConfig())
		w.componentToken()
		if err := w.p.Run(t.Context()); err == nil {
			t.Error("Run ran twice")
		}
		if err := w.p.Fail(wechatsim.Fault{Mode: wechatsim.FaultSlow, Delay: 100 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error)
		go func() {
			_, err := w.post(apiPath+"api_start_push_ticket", fields{"component_appid": compID, "component_secret": "x"})
			failed <- err
		}()
		time.Sleep(time.Minute)
		began := time.Now()
		w.stop()
		if err := <-failed; err == nil || time.Since(began) > time.Minute {
			t.Errorf("the waiting call ended with %v after %s", err, time.Since(began))
		}
		if err := w.p.Authorize("", accountA); err != nil { // it is pushed no more
			t.Error(err)
		}
	})
}

// TestMassTroubles hits every account at once, for a while.
func TestMassTroubles(t *testing.T) {
	for _, errcode := range []int{61003, 61023} {
		t.Run(fmt.Sprint(errcode), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := start(t, calmConfig())
				client, token := w.wechat(), w.componentToken()
				refresh := map[string]string{}
				for _, appid := range []string{accountA, accountB} {
					_, refresh[appid] = w.account(token, appid)
				}
				if err := w.p.Fail(wechatsim.Fault{API: "api_authorizer_token", Errcode: errcode, For: time.Hour}); err != nil {
					t.Fatal(err)
				}
				for _, want := range []int{errcode, 0} {
					for appid, value := range refresh {
						if _, err := client.AuthorizerToken(t.Context(), token, compID, appid, value); errcodeOf(err) != want {
							t.Errorf("%s: %v, want %d", appid, err, want)
						}
					}
					time.Sleep(time.Hour)
				}
			})
		})
	}
}

// TestQuotaOfComponent uses up the component's calls and frees them, as internal/wechat does it.
func TestQuotaOfComponent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.DailyLimit = map[string]int{"api_component_token": 2, "/cgi-bin/component/api_create_preauthcode": 3}
		w := start(t, config)
		client, token := w.wechat(), w.componentToken()
		ticket := w.last("component_verify_ticket").fields["ComponentVerifyTicket"]
		calls := map[wechat.API]func() error{
			wechat.APIComponentToken: func() error {
				grant, err := client.ComponentToken(t.Context(), compID, "SEKRET-appsecret", ticket)
				if err == nil {
					token = grant.AccessToken
				}
				return err
			},
			wechat.APICreatePreAuthCode: func() error {
				_, err := client.CreatePreAuthCode(t.Context(), token, compID)
				return err
			},
		}
		quota := func(api wechat.API, want wechat.Quota) {
			t.Helper()
			if got, err := client.Quota(t.Context(), token, api); err != nil || got != want {
				t.Errorf("quota of %s: %+v, %v; want %+v", api, got, err, want)
			}
		}
		useUp := func(api wechat.API, left int) {
			t.Helper()
			for i := range left + 1 {
				want := 0
				if i == left {
					want = 45009
				}
				if err := calls[api](); errcodeOf(err) != want {
					t.Errorf("%s, call %d: %v, want %d", api, i+1, err, want)
				}
			}
		}
		quota(wechat.APIComponentToken, wechat.Quota{DailyLimit: 2, Used: 1, Remain: 1})
		quota(wechat.APIAuthorizerToken, wechat.Quota{DailyLimit: 10_000_000, Remain: 10_000_000})
		useUp(wechat.APIComponentToken, 1)
		useUp(wechat.APICreatePreAuthCode, 3)
		quota(wechat.APIComponentToken, wechat.Quota{DailyLimit: 2, Used: 2})
		if err := client.ClearQuota(t.Context(), compID, "x"); errcodeOf(err) != 40125 {
			t.Errorf("cleared with a wrong secret: %v", err)
		}
		if err := client.ClearQuota(t.Context(), compID, "SEKRET-appsecret"); err != nil {
			t.Fatal(err)
		}
		quota(wechat.APIComponentToken, wechat.Quota{DailyLimit: 2, Remain: 2})
		useUp(wechat.APIComponentToken, 2)
		useUp(wechat.APICreatePreAuthCode, 3)

		if err := w.p.SetDailyLimit("api_component_token", 1); err != nil {
			t.Fatal(err)
		}
		quota(wechat.APIComponentToken, wechat.Quota{DailyLimit: 1, Used: 2})
		if err := w.p.SetDailyLimit("api_component_token", 3); err != nil {
			t.Fatal(err)
		}
		useUp(wechat.APIComponentToken, 1)
		if err := w.p.SetDailyLimit(apiPath+"api_component_token", -1); err != nil {
			t.Fatal(err)
		}
		if err := calls[wechat.APIComponentToken](); err != nil {
			t.Errorf("without a limit: %v", err)
		}
		if w.p.SetDailyLimit("api_nothing", 1) == nil {
			t.Error("a limit for an API that there is not")
		}
		for range 9 {
			if err := client.ClearQuota(t.Context(), compID, "SEKRET-appsecret"); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.ClearQuota(t.Context(), compID, "SEKRET-appsecret"); errcodeOf(err) != 48006 {
			t.Errorf("eleventh time in a month: %v, want 48006", err)
		}
	})
}

// TestStartPushTicketWithClient switches tickets on as internal/wechat does it.
func TestStartPushTicketWithClient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		config := calmConfig()
		config.Components[0].AutoPush = false
		w := start(t, config)
		for _, want := range []bool{false, true} {
			if on, err := w.wechat().StartPushTicket(t.Context(), compID, "SEKRET-appsecret"); err != nil || on != want {
				t.Errorf("on already: %t, %v; want %t", on, err, want)
			}
		}
		time.Sleep(10 * time.Minute)
		w.componentToken()
	})
}
