package wechatsim_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"wxtoken/wechatsim"
)

// TestControl goes through the control door over HTTP, in real time.
func TestControl(t *testing.T) {
	t.Parallel()
	ingest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "success") }))
	defer ingest.Close()
	config := calmConfig()
	config.Components[0].AuthURL, config.Components[0].MessageURL = ingest.URL+"/auth", ingest.URL+"/message/$APPID$"
	p, err := wechatsim.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	door := httptest.NewServer(p.Control())
	defer door.Close()

	do := func(method, path string, form url.Values) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(ctx, method, door.URL+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		response, err := door.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, readAll(t, response)
	}
	account := url.Values{"authorizer": {accountA}}
	for _, row := range []struct {
		method, path string
		form         url.Values
		status       int
		want         string
	}{
		{"POST", "/authorize", account, 200, `{"ok":true}`},
		{"POST", "/authorize", account, 400, "already"},
		{"POST", "/authorize", url.Values{"component": {"wx0"}, "authorizer": {accountA}}, 400, `unknown component "wx0"`},
		{"POST", "/reauthorize", account, 200, "ok"},
		{"POST", "/register", url.Values{"authorizer": {accountB}}, 200, "ok"},
		{"POST", "/consent", url.Values{"authorizer": {accountB}, "pre_auth_code": {"x"}, "redirect_uri": {"https://example.com"}}, 400, "unknown or expired"},
		{"POST", "/push", url.Values{"infotype": {"component_verify_ticket"}}, 200, "ok"},
		{"POST", "/push", url.Values{"infotype": {"notify_x"}, "appid": {accountA}}, 200, "ok"},
		{"POST", "/push", url.Values{"authorizer": {accountA}, "content": {"hello"}, "msgid": {"7"}}, 200, "ok"},
		{"POST", "/push", url.Values{"authorizer": {accountA}, "content": {"hello"}, "msgid": {"x"}}, 400, "msgid"},
		{"POST", "/push", url.Values{"authorizer": {accountA}, "event": {"subscribe"}, "mode": {"compat"}, "json": {"1"}}, 200, "ok"},
		{"POST", "/push", url.Values{"authorizer": {accountA}, "content": {"hello"}, "mode": {"x"}}, 400, `mode "x"`},
		{"POST", "/push", url.Values{"authorizer": {accountA}, "content": {"hello"}, "json": {"x"}}, 400, "json: want 1 or 0"},
		{"POST", "/verify-url", account, 200, `{"step":"echostr","ok":false,"why":"body is not the echostr"}`},
		{"POST", "/verify-url", url.Values{"component": {"wx0"}}, 400, "unknown component"},
		{"POST", "/release-check", url.Values{"within": {"1ms"}}, 200, `{"step":"custom_message","ok":false,"why":"not sent within 1ms, but 0 others"}`},
		{"POST", "/release-check", url.Values{"within": {"x"}}, 400, "within: want a duration"},
		{"POST", "/release-check", account, 400, "not one of the accounts"},
		{"POST", "/push", url.Values{"document": {"<xml></xml>"}}, 200, "ok"},
		{"POST", "/push", url.Values{}, 400, "want infotype"},
		{"POST", "/cancel", account, 200, "ok"},
		{"POST", "/invalidate", url.Values{}, 200, "ok"},
		{"POST", "/drop-pushes", url.Values{"times": {"2"}}, 200, "ok"},
		{"POST", "/drop-pushes", url.Values{"times": {"0"}}, 400, "times"},
		{"POST", "/stop-tickets", nil, 200, "ok"},
		{"POST", "/start-tickets", nil, 200, "ok"},
		{"POST", "/secret", url.Values{"appsecret": {"SEKRET-2"}}, 200, "ok"},
		{"POST", "/fail", url.Values{"api": {"api_query_auth"}, "mode": {"slow"}, "delay": {"3s"}, "for": {"1m"}}, 200, "ok"},
		{"POST", "/fail", url.Values{"errcode": {"x"}, "delay": {"3"}}, 400, "delay: want a duration"},
		{"POST", "/fail", url.Values{}, 400, "errcode: missing"},
		{"POST", "/daily-limit", url.Values{"api": {"ticket/getticket"}, "limit": {"5"}}, 200, "ok"},
		{"POST", "/daily-limit", url.Values{"api": {"x"}, "limit": {"5"}}, 400, "no such API"},
		{"POST", "/daily-limit", url.Values{"api": {"user/info"}, "limit": {"x"}}, 400, "limit: want a number"},
		{"POST", "/down", nil, 200, "ok"},
		{"POST", "/up", nil, 200, "ok"},
		{"POST", "/heal", nil, 200, "ok"},
		{"GET", "/truth", nil, 200, `"authorizer":"` + accountB + `"`},
		{"GET", "/truth?sha256=0123456789abcdef", nil, 200, `"known":false`},
		{"GET", "/history?since=x", nil, 400, "since"},
		{"GET", "/authorize", nil, 405, ""},
		{"GET", "/nothing", nil, 404, ""},
		{"GET", "/", nil, 200, "NOT FOR PRODUCTION"},
	} {
		if status, answer := do(row.method, row.path, row.form); status != row.status || !strings.Contains(answer, row.want) {
			t.Errorf("%s %s %v: %d %s; want %d and %s", row.method, row.path, row.form, status, answer, row.status, row.want)
		}
	}

	// Every push made above is in the history once it was answered.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, text := do("GET", "/history?kind=push_answer", nil)
		infoTypes := map[string]bool{}
		lines := bufio.NewScanner(strings.NewReader(text))
		for lines.Scan() {
			var e wechatsim.Entry
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Kind != wechatsim.EntryPushAnswer {
				t.Fatalf("history line %s: %v", lines.Text(), err)
			}
			infoTypes[e.InfoType] = e.Outcome == wechatsim.OutcomeSuccess
		}
		if infoTypes["authorized"] && infoTypes["updateauthorized"] && infoTypes["notify_third_fasteregister"] && infoTypes["component_verify_ticket"] &&
			infoTypes["notify_x"] && infoTypes["text"] && infoTypes["event.subscribe"] && infoTypes["raw"] && infoTypes["unauthorized"] {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("answered pushes: %v", infoTypes)
		}
	}
	if status, _ := do("DELETE", "/history", nil); status != 200 || len(p.HistorySince(0)) > 1 {
		t.Errorf("deleting the history: %d", status)
	}
}

// TestREADME keeps the list of verbs in README.md true.
func TestREADME(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range wechatsim.CurlLines("127.0.0.1:8091") {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("README.md does not have the line\n%s", line)
		}
	}
}
