package transfer

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// noon is a time in these tests.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestReadAuthorizations(t *testing.T) {
	t.Parallel()
	const at = 1_700_000_000
	want := authorization{Component: "wxc", Authorizer: "wxa", RefreshToken: "refreshtoken@@@1", AuthTime: authTime{time.Unix(at, 0).UTC()}, Ref: "shop-1"}
	for name, text := range map[string]string{
		"as exported":            `{"component_appid":"wxc","authorizer_appid":"wxa","refresh_token":"refreshtoken@@@1","auth_time":"2023-11-14T22:13:20Z","ref":"shop-1"}`,
		"as SDKs call it":        `{"authorizer_appid":"wxa","authorizer_refresh_token":"refreshtoken@@@1","auth_time":1700000000,"ref":"shop-1"}`,
		"seconds as a string":    `{"authorizer_appid":"wxa","refresh_token":"refreshtoken@@@1","auth_time":"1700000000","ref":"shop-1"}`,
		"another zone":           `{"authorizer_appid":"wxa","refresh_token":"refreshtoken@@@1","auth_time":"2023-11-15T06:13:20+08:00","ref":"shop-1"}`,
		"more than we know of":   `{"authorizer_appid":"wxa","refresh_token":"refreshtoken@@@1","auth_time":1700000000,"ref":"shop-1","nick_name":"x","func_info":[1]}`,
		"byte order mark":        "\ufeff" + `{"authorizer_appid":"wxa","refresh_token":"refreshtoken@@@1","auth_time":1700000000,"ref":"shop-1"}`,
		"lines of Windows":       "\r\n" + `{"authorizer_appid":"wxa","refresh_token":"refreshtoken@@@1","auth_time":1700000000,"ref":"shop-1"}` + "\r\n\r\n",
		"no newline at the end ": "\n\n" + `  {"authorizer_appid":"wxa","refresh_token":"refreshtoken@@@1","auth_time":1700000000,"ref":"shop-1"}`,
	} {
		all, err := readAuthorizations(strings.NewReader(text), []string{"wxc"}, time.Unix(at, 0))
		want.line = 1 + strings.Count(text[:strings.Index(text, "{")], "\n")
		if err != nil || len(all) != 1 || all[0] != want {
			t.Errorf("%s: %v, %+v", name, err, all)
		}
	}
	for name, text := range map[string]string{"null": "null", "0": "0", "an empty string": `""`} {
		all, err := readAuthorizations(strings.NewReader(`{"authorizer_appid":"wxa","refresh_token":"r","auth_time":`+text+`}`), []string{"wxc"}, noon)
		if err != nil || len(all) != 1 || !all[0].AuthTime.IsZero() {
			t.Errorf("auth_time %s: %v, %+v", name, err, all)
		}
	}
	if all, err := readAuthorizations(strings.NewReader(""), []string{"wxc"}, noon); err != nil || len(all) != 0 {
		t.Errorf("an empty file: %v", err)
	}
}

// TestReadAuthorizationsFaults has many lines at fault at once: each is named, and nothing of it is
// shown.
func TestReadAuthorizationsFaults(t *testing.T) {
	t.Parallel()
	line := func(component, authorizer, refreshToken, rest string) string {
		return `{"component_appid":"` + component + `","authorizer_appid":"` + authorizer + `","refresh_token":"` + refreshToken + `"` + rest + `}`
	}
	good := line("wxc", "wxa", "SEKRET", "")
	lines := []struct{ text, fault string }{
		{good, ""},
		{`SEKRET`, "line 2: not the JSON"},
		{`{"refresh_token":"SEKRET"`, "line 3: not the JSON"},
		{`["SEKRET"]`, "line 4: not the JSON"},
		{good + good, "line 5: not the JSON"},
		{line("SEKRET", "wxb", "SEKRET", ""), "line 6: component_appid"},
		{`{"authorizer_appid":"wxb","refresh_token":"SEKRET"}`, "line 7: component_appid"}, // there are two
		{line("wxc", "", "SEKRET", ""), "line 8: authorizer_appid"},
		{line("wxc", "SEKRET.*", "SEKRET", ""), "line 9: authorizer_appid"},
		{line("wxc", "wxb", "", ""), "line 10: refresh_token"},
		{line("wxc", "wxb", "SEKRET SEKRET", ""), "line 11: refresh_token"},
		{line("wxc", "wxb", "SEKRET\\n", ""), "line 12: refresh_token"},
		{line("wxc", "wxb", "SEKRET令", ""), "line 13: refresh_token"},
		{line("wxc", "wxb", strings.Repeat("SEKRET", 400), ""), "line 14: refresh_token"},
		{line("wxc", "wxb", "SEKRET", `,"auth_time":"SEKRET"`), "line 15: auth_time"},
		{line("wxc", "wxb", "SEKRET", `,"auth_time":1700000000000`), "line 16: auth_time"}, // milliseconds
		{line("wxc", "wxb", "SEKRET", `,"auth_time":-5`), "line 17: auth_time"},
		{line("wxc", "wxb", "SEKRET", `,"auth_time":"2026-11-24T12:00:00Z"`), "line 18: auth_time"}, // the future
		{line("wxc", "wxb", "SEKRET", `,"auth_time":{"SEKRET":1}`), "line 19: auth_time"},
		{line("wxc", "wxb", "SEKRET", `,"ref":"`+strings.Repeat("SEKRET", 400)+`"`), "line 20: ref"},
		{line("wxc", "wxa", "SEKRET-2", ""), "line 21: the account is on line 1"},
		{strings.Repeat("SEKRET", 1<<20/6), "line 22: longer than"},
		{line("wxd", "wxa", "SEKRET", ""), ""}, // another component
		{`{"refresh_token":17}`, "line 24: not the JSON"},
		{strings.Repeat("x", maxLine+1), "line 25: longer than"},
	}
	var file strings.Builder
	for _, l := range lines {
		file.WriteString(l.text + "\n")
	}
	all, err := readAuthorizations(strings.NewReader(file.String()), []string{"wxc", "wxd"}, noon)
	if err == nil {
		t.Fatal("no fault was found")
	}
	if len(all) != 2 {
		t.Errorf("%d lines are good, want 2", len(all))
	}
	said := strings.Split(err.Error(), "\n")
	for _, l := range lines {
		if l.fault == "" {
			continue
		}
		if len(said) == 0 || !strings.HasPrefix(said[0], l.fault) {
			t.Fatalf("said %q, want %q", said, l.fault)
		}
		said = said[1:]
	}
	if len(said) > 0 || strings.Contains(err.Error(), "SEKRET") {
		t.Errorf("also said %q", said)
	}
	broken := errors.New("the disk is gone")
	if all, err := readAuthorizations(&brokenReader{strings.NewReader(good + "\n"), broken}, []string{"wxc"}, noon); !errors.Is(err, broken) || len(all) != 0 {
		t.Errorf("a file that can't be read to its end: %v, %d lines", err, len(all))
	}
}

// brokenReader is a reader that fails where another ends.
type brokenReader struct {
	*strings.Reader
	err error
}

func (f *brokenReader) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err != nil {
		err = f.err
	}
	return n, err
}
