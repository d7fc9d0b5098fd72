package console_test

import (
	"encoding/json"
	"html"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	wxtoken "wxtoken/client"
	"wxtoken/internal/console"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
)

func TestText(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putOneOfEach()
	status, body, header := b.ask("/")
	if status != http.StatusOK || header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %s", status, header.Get("Content-Type"))
	}
	const want = `1 account has no valid token: WeChat refused the renewal (errcode 61004).
1 more can still call WeChat, but is not renewed on time.

Components
  key                           state   generation  expires  next renewal  failures  token sha256  last ticket
  component.wx0123456789abcdef  active  7           in 2 h   in 40 min     0         9a9379d8      3 min ago

Accounts (5)
  key                                               state                generation  expires          next renewal  failures  token sha256  nick_name
  authorizer.wx0123456789abcdef.wxa000000000000002  renewing_failed      4           5 s ago          1 s ago       6         027e531c      Bakery
    last error: access clientip is not registered (errcode 61004) (rid rid-1), 1 min ago
    -> add this machine's outbound address on WeChat's console to 白名单IP地址列表; runbook: A component is in state operator
  authorizer.wx0123456789abcdef.wxa000000000000005  needs_authorization  2           in 30 min        in 10 min     0         ce1d4c2c
    -> have the merchant authorize again, by a link; runbook: An authorizer is in state needs_authorization or revoked
  authorizer.wx0123456789abcdef.wxa000000000000001  active               3           in 1 min 30 s    in 30 s       0         5575ea6b      小店
  authorizer.wx0123456789abcdef.wxa000000000000003  active               9           in 1 h           in 20 min     0         2bb69c8a
  authorizer.wx0123456789abcdef.wxa000000000000004  revoked              -           -                -             0         -
    -> have the merchant authorize again, by a link; runbook: An authorizer is in state needs_authorization or revoked
`
	if got, want := regexp.MustCompile(` +`).ReplaceAllString(body, " "), regexp.MustCompile(` +`).ReplaceAllString(want, " "); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestCurl: curl gets text of the pages of which docs/console.md says so, and JSON of the others. (/check is
// answered by the ops server: see TestCheck of cmd/wxtoken.)
func TestCurl(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putOneOfEach()
	page, err := os.ReadFile("../../docs/console.md")
	if err != nil {
		t.Fatal(err)
	}
	_, said, found := strings.Cut(string(page), "curl gets text of")
	said, _, ended := strings.Cut(said, "and JSON of the others")
	if !found || !ended {
		t.Fatal("docs/console.md does not say what curl gets")
	}
	for _, path := range []string{"/", "/accounts", "/accounts/component." + component, "/notices", "/pushes", "/links", "/services", "/runbook", "/audit"} {
		want := "application/json"
		if strings.Contains(said, "`"+path+"`") {
			want = "text/plain; charset=utf-8"
		}
		if _, _, header := b.ask(path); header.Get("Content-Type") != want {
			t.Errorf("curl gets %s of %s, want %s", header.Get("Content-Type"), path, want)
		}
	}
}

// TestSentence says in one sentence what is so.
func TestSentence(t *testing.T) {
	t.Parallel()
	until := time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC) // midnight in China
	quota := wxtoken.Status{Key: wxtoken.ComponentKey(component), State: wxtoken.StateOperator, Conditions: []wxtoken.Condition{{
		Type: wxtoken.ConditionRenewing, Status: "False", Reason: wxtoken.HeldQuota, Until: &until, Since: now,
		Message: "api_authorizer_token: the day's <quota> is gone until 2026-11-22T16:00:00Z",
	}}}
	for _, row := range []struct {
		name      string
		component wxtoken.Status
		expires   []time.Duration // of the accounts' tokens
		state     wxtoken.State
		verdict   string
		en, zh    string
	}{
		{"all is well", wxtoken.Status{State: wxtoken.StateActive}, []time.Duration{time.Hour, time.Hour}, wxtoken.StateActive, "ok",
			"All 2 accounts can call WeChat.", "全部 2 个账号都可以调用微信。"},
		{"a day's quota is gone", quota, []time.Duration{-time.Second, -time.Second, time.Minute}, wxtoken.StateActive, "broken",
			"2 accounts have no valid token: the day's quota of api_authorizer_token is gone until 00:00 (UTC+8).",
			"2 个账号没有有效的令牌：api_authorizer_token 当天的调用额度用完，至 00:00 (UTC+8)。"},
		{"a day's quota is gone and all tokens live", quota, []time.Duration{time.Hour}, wxtoken.StateActive, "at_risk",
			"The one account can call WeChat now, but not all is well.", "唯一的账号目前可以调用微信，但存在问题。"},
		{"renewals fail", wxtoken.Status{State: wxtoken.StateActive}, []time.Duration{20 * time.Minute, time.Hour}, wxtoken.StateRenewingFailed, "at_risk",
			"All 2 accounts can call WeChat now, but 2 are not being renewed: the first token expires in 20 min.", "全部 2 个账号目前都可以调用微信，但有 2 个没有续期：第一个令牌 20 分钟后到期。"},
		{"all have cancelled", wxtoken.Status{State: wxtoken.StateActive}, []time.Duration{time.Hour}, wxtoken.StateRevoked, "empty",
			"The one account has cancelled its authorization.", "唯一的账号已取消授权。"},
		{"none yet", wxtoken.Status{State: wxtoken.StateActive}, nil, "", "empty", "No account has authorized yet.", "还没有账号授权。"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			row.component.Key = wxtoken.ComponentKey(component)
			b.status(row.component)
			b.token(row.component.Key, 1, time.Hour)
			for i, expires := range row.expires {
				b.token(authorizer(i), 1, expires)
				b.status(wxtoken.Status{Key: authorizer(i), State: row.state})
			}
			b.waitStored(len(row.expires))
			for reason, want := range map[wxtoken.Reason]lang.Text{ // what ends then, and what is only tried again then
				wxtoken.HeldQuota:     lang.T("the day's quota is gone until 00:00 (UTC+8)", "当天的调用额度用完，至 00:00 (UTC+8)"),
				wxtoken.HeldTokenDead: lang.T("the component's token has expired, next try at 00:00 (UTC+8)", "第三方平台的令牌已过期，00:00 (UTC+8) 再试"),
			} {
				if got := console.HeldText(wxtoken.Condition{Reason: reason, Until: &until}, now); got != want {
					t.Errorf("%s: %+v", reason, got)
				}
			}
			_, body, _ := b.ask("/?format=json")
			var o console.Overview
			if err := json.Unmarshal([]byte(body), &o); err != nil || o.Verdict != row.verdict || o.Sentence != row.en {
				t.Errorf("%v: %s %q, want %s %q", err, o.Verdict, o.Sentence, row.verdict, row.en)
			}
			if _, body, _ := b.ask("/", chinese...); !strings.Contains(html.UnescapeString(body), row.zh) {
				t.Errorf("no %s in\n%s", row.zh, body)
			}
		})
	}
}

// TestSentenceOfReason has an account for which WeChat gave no refresh token: that is said, and not that WeChat was busy.
func TestSentenceOfReason(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.token(authorizer(0), 1, -time.Second)
	b.status(wxtoken.Status{Key: authorizer(0), State: wxtoken.StateNeedsAuthorization, LastError: &wxtoken.LastError{Message: "WeChat gave no refresh token"},
		Conditions: []wxtoken.Condition{{Type: wxtoken.ConditionReady, Status: "False", Reason: wxtoken.ReasonNoRefreshToken, Since: now}}})
	b.waitStored(1)
	if _, body, _ := b.ask("/"); !strings.Contains(body, "1 account has no valid token: there is no refresh token.") {
		t.Errorf("got\n%s", body)
	}
}

// TestHeldBack shows what keeps tokens from being renewed, and calls nothing active whose token has
// expired.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	until := now.Add(8 * time.Hour)
	own := wxtoken.ComponentKey(component)
	b.token(own, 7, 2*time.Hour)
	b.status(wxtoken.Status{Key: own, State: wxtoken.StateOperator, Conditions: []wxtoken.Condition{
		{Type: wxtoken.ConditionReady, Status: "True", Reason: wxtoken.ReasonRenewed},
		{Type: wxtoken.ConditionRenewing, Status: "False", Reason: wxtoken.HeldQuota, Message: "the day's <quota> is gone", Since: now.Add(-time.Minute), Until: &until},
	}})
	b.token(authorizer(1), 3, -time.Second)
	b.status(wxtoken.Status{Key: authorizer(1), State: wxtoken.StateActive})
	b.token(authorizer(2), 3, time.Second)
	b.status(wxtoken.Status{Key: authorizer(2), State: wxtoken.StateActive})
	b.waitStored(2)
	const line = "held back: QuotaGone: the day's <quota> is gone (1 min ago, until 2026-11-22 16:00:00 UTC)"
	if _, body, _ := b.ask("/"); !strings.Contains(body, line) {
		t.Errorf("no %q in\n%s", line, body)
	}
	if _, body, _ := b.ask("/", "Accept-Language", "zh"); !strings.Contains(body, "暂缓续期: QuotaGone: 当天的调用额度用完 (1 分钟前, 至 2026-11-22 16:00:00 UTC)") {
		t.Errorf("in Chinese: %s", body)
	}
	if _, body, _ := b.ask("/nowhere", chinese...); !strings.Contains(body, "没有这个页面") || !strings.Contains(body, "<nav") {
		t.Errorf("a page that there is not: %s", body)
	}
	if _, body, _ := b.ask("/", browser...); !strings.Contains(body, "Renewals are held back:</strong> the day&#39;s quota is gone until 00:00 (UTC&#43;8)") {
		t.Errorf("the page does not tell:\n%s", body)
	}
	if _, body, _ := b.ask("/", chinese...); !strings.Contains(body, "续期暂缓：</strong> 当天的调用额度用完，至 00:00") {
		t.Errorf("the page does not tell in Chinese:\n%s", body)
	}
	_, body, _ := b.ask("/?format=json")
	if !strings.Contains(body, `"held_back":{"type":"Renewing","status":"False","reason":"QuotaGone"`) {
		t.Errorf("the JSON does not tell:\n%s", body)
	}
	var o console.Overview
	if err := json.Unmarshal([]byte(body), &o); err != nil || len(o.Worst) != 1 || o.Worst[0].Key != own {
		t.Errorf("to look at first: %v %+v", err, o.Worst)
	}
	for path, want := range map[string]string{
		authorizer(1).String(): "It can&#39;t call WeChat: its token expired 1 s ago: the day&#39;s quota is gone until 00:00 (UTC&#43;8).",
		own.String():           "It can call WeChat now. Renewals are held back: the day&#39;s quota is gone until 00:00 (UTC&#43;8).",
	} {
		if _, body, _ := b.ask("/accounts/"+path, browser...); !strings.Contains(body, want) || !strings.Contains(body, `<a href="/runbook/the-days-quota-is-gone">`) {
			t.Errorf("no %q, or nothing to do, in\n%s", want, body)
		}
	}
	if list := b.list("/accounts?format=json"); list.Rows[0].State != wxtoken.StateRenewingFailed || list.Rows[0].Key != authorizer(1) || list.Rows[1].State != wxtoken.StateActive {
		t.Errorf("states %+v", list.Rows)
	}
}

// What WeChat passes on from strangers is shown, and does nothing.
func TestNamesAreOnlyText(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.status(wxtoken.Status{
		Key: authorizer(1), State: `active" onclick="alert(1)`,
		Authorizer: profile("<script>alert(1)</script>\x1b[2J\r\n\u202egnp.exe\u2066", "javascript:alert(1)"),
		LastError:  &wxtoken.LastError{Message: "<img src=x onerror=alert(1)>\x07" + strings.Repeat("长", 5000), RID: "\"><svg>", At: now},
		Conditions: ready(false, wxtoken.ReasonExpired, time.Minute), // it is among those that changed last
	})
	b.status(wxtoken.Status{Key: wxtoken.ComponentKey(component), State: "x", Conditions: []wxtoken.Condition{
		{Type: "<b>", Status: "True", Reason: "<i>", Since: now}, {Type: wxtoken.ConditionRenewing, Status: "False", Reason: "<u>\x1b", Message: "<u>", Since: now}}})
	b.waitStored(1)
	for _, target := range []string{"/", "/accounts", "/accounts/" + authorizer(1).String()} {
		for _, headers := range [][]string{browser, chinese, {"Accept", "*/*"}} {
			status, body, _ := b.ask(target, headers...)
			if status != http.StatusOK || !strings.Contains(body, "alert(1)") {
				t.Errorf("%s: %d %s", target, status, body)
			}
			if strings.HasPrefix(body, "{") { // JSON quotes what a terminal would obey, and is no page
				continue
			}
			for _, never := range []string{"\x1b", "\x07", "\r", "\u202e", "\u2066", strings.Repeat("长", 201)} {
				if strings.Contains(body, never) {
					t.Errorf("%s: %q in\n%s", target, never, body)
				}
			}
			if strings.Contains(headers[1], "html") {
				for _, never := range []string{"<script>", "<img", `<svg>`, `onclick="`, "<b>", "<i>", "<u>"} {
					if strings.Contains(body, never) {
						t.Errorf("%s: %q in\n%s", target, never, body)
					}
				}
			}
		}
	}
}

// TestWellFormed has each page in both languages: one h1, a main, labels that lead somewhere.
func TestWellFormed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putOneOfEach()
	b.putNotice(time.Hour, events.PhaseBegan, component, wxtoken.HeldQuota, 1, authorizer(2).String())
	b.waitStored(5)
	for _, target := range []string{"/", "/accounts", "/accounts?q=none", "/accounts/" + authorizer(2).String(), "/accounts/x", "/notices", "/runbook", "/runbook/sizing"} {
		for _, headers := range [][]string{browser, chinese} {
			_, body, _ := b.ask(target, headers...)
			if strings.Count(body, "<h1") != 1 || strings.Count(body, "<main") != 1 || !strings.Contains(body, `href="#main"`) {
				t.Errorf("%s: no landmark, or several:\n%s", target, body)
			}
			ids := map[string]int{}
			for _, m := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(body, -1) {
				ids[m[1]]++
			}
			for id, n := range ids {
				if n > 1 {
					t.Errorf("%s: %d elements with id %s", target, n, id)
				}
			}
			for _, m := range regexp.MustCompile(`aria-labelledby="([^"]+)"`).FindAllStringSubmatch(body, -1) {
				for id := range strings.FieldsSeq(m[1]) {
					if ids[id] == 0 {
						t.Errorf("%s: nothing has the id %s", target, id)
					}
				}
			}
			if strings.Contains(body, "%!") || strings.Contains(body, "<no value>") || strings.Contains(body, "ZgotmplZ") {
				t.Errorf("%s: a text is not filled in:\n%s", target, body)
			}
		}
	}
}
