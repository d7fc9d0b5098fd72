//go:build unix

package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

// visitor is a person with a browser at the operator's page.
type visitor struct {
	*testing.T
	base   string
	client *http.Client
	lang   string
	shown  *[]string // every page
}

// visit logs a person in, whom --make-console-user has put into the users file.
func visit(t *testing.T, sim simRun, shown *[]string, name, password string) visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	v := visitor{T: t, base: sim.ops, client: &http.Client{Jar: jar, Timeout: patience}, lang: "en", shown: shown}
	v.post("/login", v.form("/login"), "name", name, "password", password)
	return v
}

func (v visitor) do(method, path string, form url.Values, accept string) (int, string) {
	v.Helper()
	r, err := http.NewRequestWithContext(v.Context(), method, v.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		v.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Language", v.lang)
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	resp, err := v.client.Do(r)
	if err != nil {
		v.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		v.Fatal(err)
	}
	if path != "/reveal" {
		*v.shown = append(*v.shown, string(body))
	}
	return resp.StatusCode, string(body)
}

// get returns a page.
func (v visitor) get(path string) string {
	v.Helper()
	status, body := v.do(http.MethodGet, path, nil, "text/html")
	if status != http.StatusOK {
		v.Fatalf("%s: %d\n%s", path, status, body)
	}
	return body
}

var formToken = regexp.MustCompile(`name="form_token" value="([^"]+)"`)

// form returns the token of the forms of a page.
func (v visitor) form(path string) url.Values {
	v.Helper()
	found := formToken.FindStringSubmatch(v.get(path))
	if found == nil {
		v.Fatalf("%s has no form", path)
	}
	return url.Values{"form_token": {found[1]}}
}

// post sends a form, follows where it leads, and returns the page.
func (v visitor) post(path string, form url.Values, fields ...string) (int, string) {
	v.Helper()
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return v.do(http.MethodPost, path, form, "text/html")
}

// TestConsoleActs presses the buttons of the operator's page, as each role, on a wxtoken that runs, and reads the record of it.
func TestConsoleActs(t *testing.T) {
	t.Parallel()
	file, passwords := consoleUsers(t)
	sim := simulate(t, "--console-users-file="+file)
	var shown []string
	as := func(name string) visitor { return visit(t, sim, &shown, name, passwords[name]) }
	key := wxtoken.AuthorizerKey(wechatsim.DemoAppID, "wxa000000000000001").String()
	own := wxtoken.ComponentKey(wechatsim.DemoAppID).String()
	account := "/accounts/" + key
	li := as("li")
	eventually(t, "the account on the page", func() error {
		if status, body := li.do(http.MethodGet, account, nil, "text/html"); status != http.StatusOK || !strings.Contains(body, "/act/renew") {
			return fmt.Errorf("%d", status)
		}
		return nil
	})

	reader := as("rui")
	page := reader.get(account)
	for _, never := range []string{"/act/", "/reveal"} {
		if strings.Contains(page, never) {
			t.Errorf("a reader sees %s", never)
		}
	}
	if !strings.Contains(page, "rui") || !strings.Contains(page, "reader") || !strings.Contains(page, `action="/logout"`) {
		t.Error("the page does not say who is there")
	}
	form := func(v visitor) url.Values { return v.form(account) }
	for _, path := range []string{"/act/renew", "/act/link", "/act/dead", "/reveal"} {
		if status, _ := reader.post(path, reader.form("/audit"), "key", key); status != http.StatusForbidden {
			t.Errorf("a reader posts to %s: %d", path, status)
		}
	}

	if page := li.get(account); strings.Contains(page, "/reveal") {
		t.Error("an operator sees the button for a token")
	}
	if status, _ := li.post("/reveal", form(li), "key", key); status != http.StatusForbidden {
		t.Errorf("an operator reveals: %d", status)
	}
	for _, row := range []struct{ action, want string }{
		{"/act/renew?key=" + key, "The token is being renewed|Not renewed: the token is younger|It was renewed just now"},
		{"/act/reconcile?key=" + key, "WeChat says the same|Not done: "}, // the platform is busy now and then
		{"/act/link?key=" + key + "&expires_in=86400&ref=tenant-17", `(?s)The link is ready.*value="http://[^"]+/connect/[A-Z0-9]+".*<svg class="qr"`},
		{"/act/link?key=" + key + "&expires_in=1", "Not done: expires_in"},
		{"/act/clear_quota?key=" + own + "&confirm=wxother", "Not done: confirm"},
		{"/act/dead?sequence=7&do=replay", "Not done: no message 7 is on DEAD"},
		{"/act/renew?key=nonsense", "Not done: key"},
	} {
		u, err := url.Parse(row.action)
		if err != nil {
			t.Fatal(err)
		}
		fields := form(li)
		for name, values := range u.Query() {
			fields[name] = values
		}
		status, page := li.post(u.Path, fields, "back", account)
		if status != http.StatusOK || !regexp.MustCompile(row.want).MatchString(page) || !strings.Contains(page, key) {
			t.Errorf("%s: %d, no %s in\n%s", row.action, status, row.want, page)
		}
	}
	if page := li.get(account); strings.Contains(page, `class="said"`) {
		t.Error("what was said is said again")
	}
	li.lang = "zh-CN"
	if _, page := li.post("/act/dead", form(li), "sequence", "7", "do", "discard", "back", account); !strings.Contains(page, "未执行：") || !strings.Contains(page, "立即续期") {
		t.Errorf("in Chinese:\n%s", page)
	}
	if status, _ := li.post("/act/nothing", form(li)); status != http.StatusNotFound {
		t.Errorf("no such action: %d", status)
	}

	admin := as("wang")
	status, body := admin.post("/reveal", form(admin), "key", key)
	token := regexp.MustCompile(`<code>([^<]{20,})</code>`).FindStringSubmatch(body)
	if status != http.StatusOK || token == nil {
		t.Fatalf("an admin reveals: %d\n%s", status, body)
	}
	nobody := wxtoken.AuthorizerKey(wechatsim.DemoAppID, "wxnobody").String()
	if status, body := admin.post("/reveal", form(admin), "key", nobody); status != http.StatusNotFound || !strings.Contains(body, "has no token") {
		t.Errorf("what is not there: %d\n%s", status, body)
	}

	// The same by a command line, as the user operator.
	nc, err := nats.Connect(sim.nats, nats.UserInfo("operator", "operator"), nats.CustomInboxPrefix("_INBOX_operator"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.RequestMsgWithContext(t.Context(), &nats.Msg{
		Subject: events.SubjectRenew, Data: []byte(`{"key":"` + key + `"}`), Header: nats.Header{events.HeaderActor: {"=zhao"}},
	}); err != nil {
		t.Fatal(err)
	}

	page = reader.get("/audit")
	for _, want := range []string{"wang (admin)", "li (operator)", "rui (reader)", "a user of NATS (_INBOX_operator), as =zhao", "show a token", `href="/accounts/` + key + `"`, "ref=tenant-17", "no message 7 is on DEAD"} {
		if !strings.Contains(page, want) {
			t.Errorf("the audit does not say %q:\n%s", want, page)
		}
	}
	var list struct {
		Total   int            `json:"total"`
		Records []events.Audit `json:"records"`
	}
	read := func(query string) {
		t.Helper()
		_, text := reader.do(http.MethodGet, "/audit?format=json&"+query, nil, "application/json")
		list.Records = nil
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	read("action=reveal")
	if list.Total != 2 || list.Records[0].Outcome != events.OutcomeRefused || list.Records[1].Outcome != events.OutcomeRevealed || list.Records[1].Key != key || list.Records[1].Actor != "wang" {
		t.Errorf("revealed: %+v", list)
	}
	read("q=WANG+reveal&limit=1") // words may stand anywhere, and reveal is none of them
	if list.Total != 0 {
		t.Errorf("search: %+v", list)
	}
	read("q=wang+" + key + "&limit=1&page=2")
	if list.Total != 1 || len(list.Records) != 0 {
		t.Errorf("the second page: %+v", list)
	}
	read("to=2020-01-01&from=2019-01-01")
	if list.Total != 0 {
		t.Errorf("years ago: %+v", list)
	}
	for _, bad := range []string{"action=x", "from=yesterday", "page=0", "limit=501", "colour=red"} {
		if status, _ := reader.do(http.MethodGet, "/audit?"+bad, nil, "application/json"); status != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, status)
		}
	}
	_, text := reader.do(http.MethodGet, "/audit?format=csv&q=zhao", nil, "text/csv")
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || len(rows) != 2 || rows[1][2] != "'=zhao" {
		t.Errorf("CSV %q, %v", rows, err)
	}
	if _, text := reader.do(http.MethodGet, "/audit?q=zhao", nil, "*/*"); !strings.Contains(text, "renew") || strings.Contains(text, "<") {
		t.Errorf("for a terminal:\n%s", text)
	}
	for _, secret := range append([]string{token[1]}, passwords["rui"], passwords["li"], passwords["wang"]) {
		for _, text := range append(shown, sim.out.String()) {
			if strings.Contains(text, secret) {
				t.Errorf("a secret is shown:\n%s", text)
			}
		}
	}
}
