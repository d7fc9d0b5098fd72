package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/hook"
	"wxtoken/internal/lang"
	"wxtoken/internal/truth"
)

var update = flag.Bool("update", false, "write the recorded requests anew")

const (
	component = "wxc0ffee0000000001"
	console   = "https://ops.example.com/wxtoken"
	webhook   = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
)

// at is the time of the recorded requests.
var at = time.Date(2026, 11, 28, 2, 3, 4, 0, time.UTC)

// receivers are the kinds as a file names them, with the addresses at which their robots really are.
var receivers = `{"receivers": [
	{"name": "webhook", "kind": "webhook", "url": "https://hooks.example.com/SEKRET-path", "secret": "` + webhook + `", "language": "en"},
	{"name": "wecom", "kind": "wecom", "url": "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=SEKRET-wecom"},
	{"name": "wecom-en", "kind": "wecom", "url": "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=SEKRET-wecom", "language": "en"},
	{"name": "dingtalk", "kind": "dingtalk", "url": "https://oapi.dingtalk.com/robot/send?access_token=SEKRET-dingtalk", "secret": "SECSEKRETdingtalk"},
	{"name": "dingtalk-unsigned", "kind": "dingtalk", "url": "https://oapi.dingtalk.com/robot/send?access_token=SEKRET-dingtalk", "language": "en"},
	{"name": "feishu", "kind": "feishu", "url": "https://open.feishu.cn/open-apis/bot/v2/hook/SEKRET-feishu", "secret": "SEKRETfeishu"},
	{"name": "feishu-unsigned", "kind": "feishu", "url": "https://open.feishu.cn/open-apis/bot/v2/hook/SEKRET-feishu", "language": "en"}
]}`

func exampleReceivers(t *testing.T) []Receiver {
	t.Helper()
	all, err := Parse([]byte(receivers))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// notices are one that begins with many accounts, and its end.
func notices() map[string]events.Notice {
	until := at.Add(14 * time.Hour)
	d := events.NoticeData{
		Cause: string(wxtoken.HeldQuota), Component: component, Since: at.Add(-2 * time.Minute), Until: &until, Count: 37,
		Error: &wxtoken.LastError{Code: 45009, Message: "SEKRET words of WeChat's", API: "api_authorizer_token", At: at},
	}
	for i := range events.NoticeKeys {
		d.Keys = append(d.Keys, wxtoken.AuthorizerKey(component, fmt.Sprintf("wxa00000000000000%d", i+1)).String())
	}
	began := complete(d, events.PhaseBegan, at)
	return map[string]events.Notice{"began": events.NewNotice(at, began), "over": events.NewNotice(at.Add(time.Hour), over(began))}
}

// tripper is a receiver in this process.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestRecordedRequests compares what each kind of receiver is sent, byte for byte, with testdata: go test -run TestRecorded ./internal/notify -update.
func TestRecordedRequests(t *testing.T) {
	t.Parallel()
	for _, r := range exampleReceivers(t) {
		for phase, n := range notices() {
			var sent string
			client := &http.Client{Transport: tripper(func(req *http.Request) (*http.Response, error) {
				sent = dump(t, req)
				return response(http.StatusOK, `{"errcode":0,"errmsg":"ok","code":0}`), nil
			})}
			if out := post(t.Context(), client, r, n, console, n.Time.Add(5*time.Second)); out.outcome != outcomeOK {
				t.Errorf("%s %s: %+v", r.Name, phase, out)
			}
			name := filepath.Join("testdata", r.Name+"-"+phase+".txt")
			if *update {
				if err := os.WriteFile(name, []byte(sent), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if sent != string(want) {
				t.Errorf("%s %s: sent\n%s\nwant\n%s", r.Name, phase, sent, want)
			}
			_, body, _ := strings.Cut(sent, "\n\n")
			if strings.Contains(body, "SEKRET") && r.Kind != KindWebhook {
				t.Errorf("%s %s: a secret, or foreign words, in %s", r.Name, phase, body)
			}
		}
	}
}

// dump returns a request in the form of the files.
func dump(t *testing.T, req *http.Request) string {
	t.Helper()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{}
	for name, values := range req.Header {
		lines = append(lines, name+": "+strings.Join(values, ", "))
	}
	sort.Strings(lines)
	return req.Method + " " + req.URL.String() + "\n" + strings.Join(lines, "\n") + "\n\n" + string(body) + "\n"
}

func response(status int, body string) *http.Response {
	w := httptest.NewRecorder()
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
	return w.Result()
}

// TestSigned checks the signatures as the receivers do, by the words of their pages.
func TestSigned(t *testing.T) {
	t.Parallel()
	mac := func(key, text string) string {
		m := hmac.New(sha256.New, []byte(key))
		m.Write([]byte(text))
		return base64.StdEncoding.EncodeToString(m.Sum(nil))
	}
	n := notices()["began"]
	for _, r := range exampleReceivers(t) {
		w := say(n, r.Language, console)
		address, body := robots[r.Kind].write(r, n, w, at)
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		switch r.Name {
		case "dingtalk":
			q := u.Query()
			if ms := fmt.Sprint(at.UnixMilli()); q.Get("timestamp") != ms || q.Get("sign") != mac("SECSEKRETdingtalk", ms+"\nSECSEKRETdingtalk") || q.Get("access_token") != "SEKRET-dingtalk" {
				t.Errorf("query %v", q)
			}
		case "feishu":
			var got struct{ Timestamp, Sign string }
			if err := json.Unmarshal(body, &got); err != nil {
				t.Fatal(err)
			}
			if s := fmt.Sprint(at.Unix()); got.Timestamp != s || got.Sign != mac(s+"\nSEKRETfeishu", "") {
				t.Errorf("signed %+v", got)
			}
		case "dingtalk-unsigned", "feishu-unsigned":
			if u.Query().Has("sign") || strings.Contains(string(body), `"sign"`) {
				t.Errorf("%s: signed without a secret: %s %s", r.Name, address, body)
			}
		case "webhook":
			h := http.Header{}
			setHeaders(h, r, n, body, at)
			secret, err := hook.Secret(webhook)
			if err != nil {
				t.Fatal(err)
			}
			if want := "v1," + mac(string(secret), n.ID+"."+fmt.Sprint(at.Unix())+"."+string(body)); h.Get("webhook-signature") != want || h.Get("webhook-id") != n.ID {
				t.Errorf("headers %v, want %s", h, want)
			}
		}
	}
}

// TestBounds writes the longest notices that there can be: WeCom takes 4,096 bytes of markdown, DingTalk and Feishu 20,000 of a body.
func TestBounds(t *testing.T) {
	t.Parallel()
	for _, cause := range truth.Causes {
		d := events.NoticeData{Cause: string(cause.Name), Component: strings.Repeat("w", 64), Count: 1_000_000, Since: at, Until: &at, Instance: strings.Repeat("h", 400),
			Error: &wxtoken.LastError{Code: 61004, API: "api_component_token", Message: strings.Repeat("requestIP: 203.0.113.7 ", 500)}}
		for range events.NoticeKeys {
			d.Keys = append(d.Keys, wxtoken.AuthorizerKey(d.Component, strings.Repeat("x", 64)).String())
		}
		n := events.NewNotice(at, complete(d, events.PhaseBegan, at))
		for _, r := range exampleReceivers(t) {
			_, body := robots[r.Kind].write(r, n, say(n, r.Language, console), at)
			var wecom struct{ Markdown struct{ Content string } }
			if err := json.Unmarshal(body, &wecom); err != nil {
				t.Errorf("%s: %v", r.Name, err)
			}
			if len(wecom.Markdown.Content) > 4096 || len(body) > 16<<10 {
				t.Errorf("%s, %s: %d bytes, %d of them markdown", r.Name, cause.Name, len(body), len(wecom.Markdown.Content))
			}
		}
	}
}

// TestDeadLettersAndMirrors: a notice about dead letters says how many there are and leads to them, and one about copies names them.
func TestDeadLettersAndMirrors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		d          events.NoticeData
		link, line string
	}{
		{events.NoticeData{Cause: string(truth.DeadLetters), Count: 12}, "https://ops.example.com/wx/pushes?show=dead", "messages: 12"},
		{events.NoticeData{Cause: string(truth.MirrorBehind), Count: 1, Names: []string{"SERVICES/KV_tokens"}}, "https://ops.example.com/wx/", "copies: SERVICES/KV_tokens"},
	} {
		w := say(events.NewNotice(at, complete(row.d, events.PhaseGrew, at)), lang.English, "https://ops.example.com/wx/")
		if w.link != row.link && w.link+"/" != row.link || strings.Contains(w.title, "accounts") || !slices.ContainsFunc(w.lines, func(l line) bool { return l.name+": "+l.text == row.line }) {
			t.Errorf("%s: %+v", row.d.Cause, w)
		}
	}
}

// TestAnswers reads what robots answer, as their pages and their tests show it.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		kind   string
		status int
		body   string
		want   result
	}{
		{"wecom", 200, `{"errcode":0,"errmsg":"ok"}`, result{outcome: outcomeOK}},
		{"wecom", 200, `{"errcode":93000,"errmsg":"invalid webhook url, hint: [1700000000], from ip: 203.0.113.7"}`, result{outcome: outcomeRefused, why: lang.Same("errcode 93000: invalid webhook url, hint: [1700000000], from ip: 203.0.113.7")}},
		{"wecom", 200, `{"errcode":45009,"errmsg":"api freq out of limit"}`, result{outcome: outcomeRefused, why: lang.Same("errcode 45009: api freq out of limit"), after: time.Minute}},
		{"dingtalk", 200, `{"errcode":0,"errmsg":"ok"}`, result{outcome: outcomeOK}},
		{"dingtalk", 200, `{"errcode":310000,"errmsg":"sign not match, more: SEKRET-dingtalk"}`, result{outcome: outcomeRefused, why: lang.Same("errcode 310000")}},
		{"dingtalk", 200, `{"errcode":310000,"errmsg":"keywords not in content"}`, result{outcome: outcomeRefused, why: lang.Same("errcode 310000: keywords not in content")}},
		{"dingtalk", 200, `{"errcode":130101,"errmsg":"send too fast"}`, result{outcome: outcomeRefused, why: lang.Same("errcode 130101: send too fast"), after: 10 * time.Minute}},
		{"feishu", 200, `{"code":0,"msg":"success","data":{}}`, result{outcome: outcomeOK}},
		{"feishu", 200, `{"StatusCode":0,"StatusMessage":"success"}`, result{outcome: outcomeOK}},
		{"feishu", 200, `{"code":19021,"msg":"sign match fail or timestamp is not within one hour from current time"}`, result{outcome: outcomeRefused, why: lang.Same("errcode 19021: sign match fail or timestamp is not within one hour from current time")}},
		{"feishu", 200, `{"code":11232,"msg":"frequency limited"}`, result{outcome: outcomeRefused, why: lang.Same("errcode 11232: frequency limited"), after: time.Minute}},
		{"feishu", 400, `{"code":19001,"msg":"param invalid: incoming webhook access token invalid"}`, result{outcome: outcomeRefused, why: lang.Given("status 400", "状态码 400")}},
		{"feishu", 200, `{}`, result{outcome: outcomeRefused, why: lang.Given("the answer is not a robot's", "不是机器人的应答")}},
		{"wecom", 200, `<html>`, result{outcome: outcomeRefused, why: lang.Given("the answer is not a robot's", "不是机器人的应答")}},
		{"wecom", 200, `{"errcode":1,"errmsg":"a\u0007\nb"}`, result{outcome: outcomeRefused, why: lang.Same("errcode 1: a  b")}},
		{"wecom", 302, ``, result{outcome: outcomeRefused, why: lang.Given("status 302", "状态码 302")}},
		{"webhook", 204, ``, result{outcome: outcomeOK}},
		{"webhook", 500, `{"errcode":0}`, result{outcome: outcomeRefused, why: lang.Given("status 500", "状态码 500")}},
	} {
		var r Receiver
		for _, r = range exampleReceivers(t) {
			if r.Kind == row.kind {
				break
			}
		}
		client := &http.Client{Transport: tripper(func(*http.Request) (*http.Response, error) { return response(row.status, row.body), nil })}
		if got := post(t.Context(), client, r, notices()["began"], console, at); got != row.want {
			t.Errorf("%s %d %s: got %+v, want %+v", row.kind, row.status, row.body, got, row.want)
		}
	}
	late := &http.Client{Transport: tripper(func(*http.Request) (*http.Response, error) { return nil, context.DeadlineExceeded })}
	if got := post(t.Context(), late, exampleReceivers(t)[1], notices()["began"], console, at); got.outcome != outcomeTimeout || strings.Contains(got.why.EN, "SEKRET") {
		t.Errorf("no answer: %+v", got)
	}
}

// TestFile refuses faulty files, and shows nothing of what may be secret.
func TestFile(t *testing.T) {
	t.Parallel()
	one := func(fields string) string { return `{"receivers":[{"name":"a",` + fields + `}]}` }
	for _, row := range []struct{ text, want string }{
		{receivers, ""},
		{`{"receivers":[]}`, ""},
		{`{"receivers":[`, "unexpected end"},
		{`{"receivers":[]} x`, "text after the JSON object"},
		{`{"url":"SEKRET"}`, `unknown field "url"`},
		{`{"receivers":"SEKRET"}`, "receivers: unexpected string"},
		{one(`"kind":"wecom","url":"https://host/?key=SEKRET","urls":1`), `unknown field "urls"`},
		{one(`"kind":"slack","url":"https://host/?key=SEKRET"`), "receivers[0] kind: want webhook, wecom, dingtalk, feishu"},
		{one(`"kind":"wecom","url":"qyapi SEKRET"`), "receivers[0] url: want http://... or https://... without a password"},
		{one(`"kind":"wecom","url":"https://host/?key=SEKRET","secret":"SEKRET"`), "has none"},
		{one(`"kind":"webhook","url":"https://host/SEKRET","secret":"SEKRET"`), "secret: want whsec_"},
		{one(`"kind":"feishu","url":"https://host/SEKRET","language":"fr"`), "language: want zh or en"},
		{strings.Replace(receivers, `"wecom-en"`, `"wecom"`, 1), "receivers[2] name: it stands there twice"},
		{strings.Replace(receivers, `"wecom-en"`, `"WeCom"`, 1), "receivers[2] name: want lower-case letters"},
		{`{"receivers":[` + strings.TrimSuffix(strings.Repeat(`{"name":"a","kind":"feishu","url":"https://host/"},`, 33), ",") + `]}`, "33, want 32 at most"},
	} {
		_, err := Parse([]byte(row.text))
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", row.text, err, row.want)
		}
		if err != nil && strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("a secret in %v", err)
		}
	}
}
