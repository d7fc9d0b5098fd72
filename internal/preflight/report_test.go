package preflight

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
)

// TestReportInBothLanguages: marks and names are the same, what was seen and what to do are not.
func TestReportInBothLanguages(t *testing.T) {
	t.Parallel()
	r := Report{
		ok("settings", lang.T("no fault", "没有错误")),
		{Fail, "nats", lang.T("no connection", "连不上"), runbook.NATSAway.See(lang.T("start nats-server", "启动 nats-server"))},
	}
	for language, want := range map[lang.Language]struct{ text, json, err string }{
		lang.English: {
			"ok    settings  no fault\nFAIL  nats      no connection\n                -> start nats-server; runbook: NATS is away\n                   docs/operations.md#nats-is-away\n",
			`[{"mark":"ok","name":"settings","saw":"no fault"},{"mark":"FAIL","name":"nats","saw":"no connection","remedy":"start nats-server; runbook: NATS is away","runbook":["docs/operations.md#nats-is-away"]}]`,
			"1 of 2 checks failed",
		},
		lang.Chinese: {
			"ok    settings  没有错误\nFAIL  nats      连不上\n                -> 启动 nats-server；运维手册：NATS 不可用\n                   docs/operations.zh-CN.md#nats-不可用\n",
			`[{"mark":"ok","name":"settings","saw":"没有错误"},{"mark":"FAIL","name":"nats","saw":"连不上","remedy":"启动 nats-server；运维手册：NATS 不可用","runbook":["docs/operations.zh-CN.md#nats-不可用"]}]`,
			"有 1 项检查没有通过，共 2 项",
		},
	} {
		var text, encoded strings.Builder
		if err := r.Print(&text, language); err == nil || err.Error() != want.err || text.String() != want.text {
			t.Errorf("%s: got %v and\n%s", language, err, text.String())
		}
		if err := r.WriteJSON(&encoded, language); err != nil || strings.TrimSpace(encoded.String()) != want.json {
			t.Errorf("%s: got %v and %s", language, err, encoded.String())
		}
		back, err := ReadJSON([]byte(encoded.String()))
		if err != nil {
			t.Fatal(err)
		}
		var again strings.Builder
		if err := back.WriteText(&again, language); err != nil || again.String() != want.text {
			t.Errorf("%s: read back: %v and\n%s", language, err, again.String())
		}
	}
	if err := r[:1].Err(lang.English); err != nil {
		t.Errorf("nothing failed: %v", err)
	}
}

// TestLanguageOfHandler: a request says the language, or the process does.
func TestLanguageOfHandler(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		process        lang.Language
		header, accept string
		want           string
	}{
		{lang.English, "", "", "no fault; components: none"},
		{lang.Chinese, "", "", "没有错误；第三方平台：无"},
		{lang.Chinese, "", "application/json", "没有错误；第三方平台：无"},
		{lang.Chinese, "en", "", "no fault; components: none"},
		{lang.English, "zh-CN,zh;q=0.9,en;q=0.8", "", "没有错误；第三方平台：无"},
		{lang.English, "zh-TW", "application/json", "没有错误；第三方平台：无"},
		{lang.English, "de, zh;q=0.1", "", "没有错误；第三方平台：无"},
		{lang.Chinese, "de", "", "no fault; components: none"},
		{lang.Chinese, "\x00,,;q=", "", "no fault; components: none"},
	} {
		c, err := New(Target{Language: row.process})
		if err != nil {
			t.Fatal(err)
		}
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/check", nil)
		if row.header != "" {
			request.Header.Set("Accept-Language", row.header)
		}
		request.Header.Set("Accept", row.accept)
		answer := httptest.NewRecorder()
		c.Handler(nil).ServeHTTP(answer, request)
		if body := answer.Body.String(); answer.Code != http.StatusOK || !strings.Contains(body, row.want) {
			t.Errorf("%+v: got %d and\n%s", row, answer.Code, body)
		}
	}
}
