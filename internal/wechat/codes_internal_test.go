package wechat

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
)

// TestTable writes the table out once more, as it was when verdicts, concerns and remedies were
// three tables: a code that changes its row changes what is done about it, and whom it stops.
func TestTable(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for _, row := range []struct {
		verdict Verdict
		concern Concern
		remedy  *remedy
		codes   []int
	}{
		{Retry, ConcernCall, waitMinute, []int{-1, -1000}},
		{SlowDown, ConcernCall, waitMinute, []int{45011}},
		{QuotaGone, ConcernCall, waitForDay, []int{45009}},
		{RenewComponentToken, ConcernCall, tokenRenewed, []int{40001, 40014, 40094, 42001, 42006}},
		{WaitForTicket, ConcernCall, waitTicket, []int{40091, 61005, 61006}},
		{RecoverRefreshToken, ConcernCall, listAsked, []int{42007, 61023}},
		{Revoked, ConcernCall, authorizeAgain, []int{50002, 61003}},
		{CodeSpent, ConcernCall, newLink, []int{61009, 61010}},
		{Operator, ConcernAddress, allowAddress, []int{
			40090, 40164, 45035, 61004, 89501, 89502, 89503, 89504, 89505, 89506, 89507,
		}},
		{Operator, ConcernComponent, copySecret, []int{40125, 40243}},
		{Operator, ConcernComponent, compareAppID, []int{61000, 61001, 61002, 61011}},
		{Operator, ConcernComponent, lookUp, []int{61061}},
		{Operator, ConcernCall, copySecret, []int{41004}},
		{Operator, ConcernCall, compareAppID, []int{40013, 41018}},
		{Operator, ConcernCall, grantPermission, []int{48001, 61007}},
		{Operator, ConcernCall, lookUp, []int{
			40029, 40030, 40097, 40163, 40170, 41001, 41002, 42002, 43002, 44002, 47001, 47002,
			48004, 48006, 48017, 49001, 61008, 61012, 61013, 61014, 61015, 61016, 61017, 61018, 61019,
			61021, 61022, 61024, 61025, 61026, 61027, 61028, 61029, 61030,
			61051, 61052, 61053, 61054, 61055, 61056, 61057, 61058, 61059, 61060,
			61062, 61063, 61064, 61065, 61066, 61067, 61068, 61069, 61070,
			76001, 76002, 76003, 76004, 76021, 76022, 86000,
			89000, 89001, 89002, 89003, 89004, 89249, 89250, 89251, 89252, 89253, 89254, 89255,
		}},
	} {
		for _, code := range row.codes {
			got, known := errcodes[code]
			if !known || seen[code] || got.verdict != row.verdict || got.concern != row.concern || got.remedy != row.remedy {
				t.Errorf("%d: %s, %s, %q, want %s, %s, %q", code, got.verdict, got.concern, got.remedy.do.EN, row.verdict, row.concern, row.remedy.do.EN)
			}
			if want := map[int]*remedy{40001: copySecret}[code]; got.elsewhere != want {
				t.Errorf("%d has the wrong remedy for calls that can't mean its verdict", code)
			}
			seen[code] = true
		}
	}
	rows := 0
	for _, row := range table {
		for _, code := range row.codes() {
			if rows++; !seen[code] {
				t.Errorf("%d is in the table, and not here", code)
			}
		}
		if row.concern != ConcernCall && row.verdict != Operator {
			t.Errorf("%d concerns a component or an address and is judged %s: only what is judged operator holds back", row.code, row.verdict)
		}
	}
	if rows != len(errcodes) {
		t.Errorf("%d codes in %d rows: one stands there twice", len(errcodes), rows)
	}
}

func TestConcerns(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err  error
		want Concern
	}{
		{&Error{API: APIAuthorizerToken, Code: 61023}, ConcernAccount},
		{&Error{API: APIGetTicket, Code: 48001}, ConcernAccount},
		{&Error{API: APICustomSend, Code: 45009}, ConcernAccount},
		{&Error{API: APIAuthorizerInfo}, ConcernAccount}, // no answer
		{&Error{API: APIAuthorizerToken, Code: 12345}, ConcernAccount},
		{&Error{API: APIAuthorizerList, Code: 48001}, ConcernCall}, // names no account
		{&Error{API: APIComponentToken, Code: 40001}, ConcernCall},
		{&Error{API: APICreatePreAuthCode, Code: 12345}, ConcernCall},
		{&Error{API: APIQueryAuth, Code: 40125}, ConcernComponent},
		{&Error{API: APIGetTicket, Code: 61011}, ConcernComponent},
		{fmt.Errorf("renew: %w", &Error{API: APIAuthorizerToken, Code: 61004}), ConcernAddress},
		{io.EOF, ConcernCall},
		{nil, ConcernCall},
	} {
		if got := Concerns(row.err); got != row.want {
			t.Errorf("%v: got %s, want %s", row.err, got, row.want)
		}
	}
}

func TestRemedy(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err    Error
		en, zh string // "": nothing is said
	}{
		{Error{API: APIComponentToken}, "", ""},
		{Error{API: APIComponentToken, Code: 40001}, "copy the AppSecret", "复制 AppSecret"},
		{Error{API: APIStartPushTicket, Code: 40001}, "copy the AppSecret", "复制 AppSecret"},
		{Error{API: APIAuthorizerToken, Code: 40001}, "the token is renewed", "自动续期"},
		{Error{API: APIGetTicket, Code: 40001}, "the token is renewed", "自动续期"},
		{Error{API: APIComponentToken, Code: 42001}, "look the errcode up", "查这个 errcode"},
		{Error{API: APIComponentToken, Code: 61003}, "look the errcode up", "查这个 errcode"},
		{Error{API: APIAuthorizerToken, Code: 61003}, "by a link", "授权链接"}, // the status of a revoked account has no reauthorize_url
		{Error{API: APIComponentToken, Code: 61005}, runbook.NoTicket.Heading().EN, runbook.NoTicket.Heading().ZH},
		{Error{API: APIComponentToken, Code: 12345}, "look the errcode up", "查这个 errcode"},
		{Error{API: APIComponentToken, Code: 45009}, runbook.QuotaGone.Heading().EN, "北京时间零点"},
		{
			Error{API: APIComponentToken, Code: 61004, Message: "access clientip is not registered requestIP: 203.0.113.7"},
			"add 203.0.113.7 on WeChat's console to 白名单IP地址列表; runbook: " + runbook.ComponentOperator.Heading().EN,
			"白名单IP地址列表里加上：203.0.113.7；运维手册：" + runbook.ComponentOperator.Heading().ZH,
		},
		{Error{API: APIComponentToken, Code: 40164}, "add this machine's outbound address", "本机的出口地址"},
	} {
		got := row.err.Remedy()
		if row.en == "" && !got.IsZero() || !strings.Contains(got.EN, row.en) || !strings.Contains(got.ZH, row.zh) {
			t.Errorf("%v: got %q, want %q and %q", &row.err, got, row.en, row.zh)
		}
	}
	for _, code := range []int{48001, 61007, 61004, 61017, 0, 12345} {
		e := &Error{API: APIAuthorizerToken, Code: code}
		if got, want := e.LacksPermission(), code == 48001 || code == 61007; got != want {
			t.Errorf("%d: lacks permission %t, want %t", code, got, want)
		}
	}
}

func TestAddressIn(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]string{
		"access clientip is not registered requestIP: 203.0.113.7":         "203.0.113.7",
		"invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist": "203.0.113.7",
		"invalid ip 2001:db8::5, not in whitelist":                         "2001:db8::5",
		"not in whitelist": "this machine's outbound address",
		"":                 "this machine's outbound address",
	} {
		if got := addressIn(message); got.EN != want {
			t.Errorf("%q: got %q, want %q", message, got.EN, want)
		}
	}
}

// concernWords are the concerns as the runbook names them.
var concernWords = map[Concern]lang.Text{
	ConcernCall:      lang.T("the call, or its account", "该调用，或它的账号"),
	ConcernComponent: lang.T("the component", "第三方平台"),
	ConcernAddress:   lang.T("the address", "出口地址"),
}

// TestRunbook compares the runbook's table with ours. Where they differ it prints the one that
// belongs there.
func TestRunbook(t *testing.T) {
	t.Parallel()
	for page, language := range map[string]lang.Language{"operations.md": lang.English, "operations.zh-CN.md": lang.Chinese} {
		text, err := os.ReadFile("../../docs/" + page)
		if err != nil {
			t.Fatal(err)
		}
		if want := runbookTable(language); !strings.Contains(string(text), "\n"+want) {
			t.Errorf("the table of errcodes in docs/%s is not that of internal/wechat/codes.go; want\n%s", page, want)
		}
	}
}

// runbookTable returns the table in the form of the runbook: a line for all codes that have the
// rest in common.
func runbookTable(l lang.Language) string {
	type rest struct {
		verdict Verdict
		concern Concern
		remedy  *remedy
	}
	var order []rest
	codes, elsewhere := map[rest][]int{}, map[rest]string{}
	add := func(r rest) {
		if !slices.Contains(order, r) {
			order = append(order, r)
		}
	}
	for _, row := range table {
		r := rest{row.verdict, row.concern, row.remedy}
		add(r)
		codes[r] = append(codes[r], row.codes()...)
		if row.elsewhere != nil {
			r := rest{Operator, row.concern, row.elsewhere}
			add(r)
			elsewhere[r] += lang.T(", %d where no token was sent", "，没有发送令牌时的 %d", row.code).In(l)
		}
	}
	lines := []string{lang.T("| errcode | verdict | concerns | do |", "| errcode | 判定 | 涉及 | 处理 |").In(l), "|---|---|---|---|"}
	for _, r := range order {
		do := r.remedy.do.In(l)
		if r.remedy.more != runbook.None && r.remedy.more != runbook.ComponentOperator { // that is where the table stands
			heading := r.remedy.more.Heading().In(l)
			do += lang.T(": ", "：").In(l) + "[" + heading + "](#" + anchor(heading) + ")"
		}
		lines = append(lines, fmt.Sprintf("| %s%s | `%s` | %s | %s |", ranges(codes[r], l), elsewhere[r], r.verdict, concernWords[r.concern].In(l), do))
	}
	return strings.Join(lines, "\n") + "\n"
}

// ranges lists codes, three and more in a row as a range.
func ranges(codes []int, l lang.Language) string {
	slices.Sort(codes)
	var parts []string
	for len(codes) > 0 {
		n := 1
		for n < len(codes) && codes[n] == codes[0]+n {
			n++
		}
		if n < 3 {
			n = 1
			parts = append(parts, fmt.Sprint(codes[0]))
		} else {
			parts = append(parts, fmt.Sprintf("%d–%d", codes[0], codes[n-1]))
		}
		codes = codes[n:]
	}
	return strings.Join(parts, lang.T(", ", "、").In(l))
}

// anchor returns the fragment of a heading.
func anchor(heading string) string {
	kept := regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(kept, " ", "-")
}
