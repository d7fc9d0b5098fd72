package refresher

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"wxtoken/client"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// TestSlowDown: after a limit per minute calls are made half as often for ten minutes, counted from the last complaint.
func TestSlowDown(t *testing.T) {
	t.Parallel()
	c := newComponent(Component{AppID: "wxc"}, 100, noQuota)
	want := func(at time.Duration, want rate.Limit) {
		t.Helper()
		c.called(wechat.APIAuthorizerToken, noon.Add(at))
		if got := c.rate.Limit(); got != want {
			t.Errorf("after %v the rate is %v, want %v", at, got, want)
		}
	}
	want(0, 100)
	c.slowDown(noon)
	want(0, 50)
	want(slowFor, 50)
	want(slowFor+1, 100)
	c.slowDown(noon.Add(time.Hour))
	c.slowDown(noon.Add(time.Hour + 5*time.Minute))
	want(time.Hour+12*time.Minute, 50)
	want(time.Hour+16*time.Minute, 100)
}

func TestQuotaBack(t *testing.T) {
	t.Parallel()
	for now, want := range map[string]string{
		"2026-11-22T12:00:00Z": "2026-11-22T16:00:00Z",
		"2026-11-22T15:59:59Z": "2026-11-22T16:00:00Z",
		"2026-11-22T16:00:00Z": "2026-11-22T16:05:00Z", // our clock is ahead, and it is still the day before there
		"2026-11-22T16:09:59Z": "2026-11-22T16:14:59Z",
		"2026-11-22T16:10:00Z": "2026-11-23T16:00:00Z",
	} {
		at, err := time.Parse(time.RFC3339, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := quotaBack(at).Format(time.RFC3339); got != want {
			t.Errorf("gone at %s, back at %s, want %s", now, got, want)
		}
	}
}

// TestOneIsNotAway has one account, and then two, answered with "busy" for good: that holds nobody else back.
func TestOneIsNotAway(t *testing.T) {
	t.Parallel()
	c := newComponent(Component{AppID: "wxc"}, 1, noQuota)
	busy := refusal(wechat.APIAuthorizerToken, -1)
	for range 100 {
		c.heard("wxa", busy, noon)
		c.heard("wxb", busy, noon)
	}
	if c.seemsAway() || c.wait(wechat.APIAuthorizerToken, noon) != 0 {
		t.Fatal("WeChat counts as away because of two accounts")
	}
	c.heard("wxc", busy, noon)
	if !c.seemsAway() || c.wait(wechat.APIAuthorizerToken, noon) != probeEvery {
		t.Fatal("not away although three were not answered")
	}
	c.heard("wxa", nil, noon)
	for range 100 {
		c.heard("wxa", busy, noon)
	}
	if c.seemsAway() || len(c.unheard) != 1 {
		t.Error("those of before are still counted")
	}
}

// TestCallsGivenBack: what could not be added to the shared count is added the next time.
func TestCallsGivenBack(t *testing.T) {
	t.Parallel()
	c := newComponent(Component{AppID: "wxc"}, 1, noQuota)
	c.called(wechat.APIAuthorizerToken, noon)
	taken := c.takeCalls()
	c.called(wechat.APIAuthorizerToken, noon)
	c.giveCalls(taken)
	if got := c.takeCalls(); got[string(wechat.APIAuthorizerToken)] != 2 || len(c.takeCalls()) != 0 {
		t.Errorf("calls %v, want 2", got)
	}
}

// TestSecretLiftsPause: what was refused for the old secret may be tried with the new one; a quota is not back because of it.
func TestSecretLiftsPause(t *testing.T) {
	t.Parallel()
	c := newComponent(Component{AppID: "wxc", AppSecret: wxtoken.NewSecret("one")}, 1, func() store.Quota {
		return store.Quota{Paused: map[string]time.Time{string(wechat.APIAuthorizerList): noon.Add(time.Hour)}}
	})
	c.pause(everyAPI, noon.Add(time.Minute))
	c.setSecret(wxtoken.NewSecret("one"))
	if c.wait(wechat.APIAuthorizerToken, noon) == 0 {
		t.Error("the same secret ended a pause")
	}
	c.setSecret(wxtoken.NewSecret("two"))
	if c.wait(wechat.APIAuthorizerToken, noon) != 0 || c.appSecret() != "two" {
		t.Error("still paused after the secret changed")
	}
	if c.wait(wechat.APIAuthorizerList, noon) == 0 {
		t.Error("the quota came back with a secret")
	}
}

func TestNextTicket(t *testing.T) {
	t.Parallel()
	key := wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: "wxc", Authorizer: "wxa"}
	first := nextTicket(wxtoken.Token{}, key, 1, "one", noon, noon, 2*time.Hour, 0.66)
	if !first.ExpiresAt.Equal(noon.Add(2*time.Hour)) || first.Previous != nil || first.Generation != 1 || !first.RenewAt.Before(first.ExpiresAt) {
		t.Fatalf("the first: %+v", first)
	}
	for _, row := range []struct {
		name          string
		asked, life   time.Duration // after noon
		expires, next time.Duration // after noon
	}{
		{"at two thirds", 80 * time.Minute, 2 * time.Hour, 2 * time.Hour, 118 * time.Minute},
		{"asked for at once once more", 0, 2 * time.Hour, 2 * time.Hour, 118 * time.Minute},
		{"shortly before the end", 118 * time.Minute, 2 * time.Hour, 2 * time.Hour, 2 * time.Hour},
		{"a schedule came early", 2*time.Hour - 500*time.Millisecond, 2 * time.Hour, 2*time.Hour + 1500*time.Millisecond, 2 * time.Hour},
		{"at the end", 2 * time.Hour, 2 * time.Hour, 2*time.Hour + 2*time.Second, 2*time.Hour + time.Second},
		{"a while after the end", 2*time.Hour + 20*time.Second, 2 * time.Hour, 2*time.Hour + 41*time.Second, 2*time.Hour + 40*time.Second},
		{"long after the end", 5 * time.Hour, 2 * time.Hour, 5*time.Hour + 4*time.Minute + time.Second, 5*time.Hour + 4*time.Minute},
		{"another life is told", 80 * time.Minute, time.Hour, 2 * time.Hour, 119 * time.Minute},
		{"a life of seconds", 7198 * time.Second, 10 * time.Second, 2 * time.Hour, 7199 * time.Second},
		{"a life of a minute, past its end", 2 * time.Hour, time.Minute, 2*time.Hour + 3*time.Second, 2*time.Hour + 2*time.Second},
	} {
		got := nextTicket(first, key, 2, "one", noon, noon.Add(row.asked), row.life, 0.66)
		if !got.ExpiresAt.Equal(noon.Add(row.expires)) || !got.RenewAt.Equal(noon.Add(row.next)) {
			t.Errorf("%s: ends %v, asked for again %v; want %v, %v", row.name, got.ExpiresAt.Sub(noon), got.RenewAt.Sub(noon), row.expires, row.next)
		}
		if got.Generation != 2 || got.Value != first.Value || !got.ObtainedAt.Equal(noon) || got.Previous != nil || !got.RenewAt.After(noon.Add(row.asked)) {
			t.Errorf("%s: %+v", row.name, got)
		}
	}
	// Its schedule is never more than a second after its end, so that a reader soon has the new one.
	for ms := int64(0); ms < 7300_000; ms += 777 {
		asked := noon.Add(time.Duration(ms) * time.Millisecond)
		got := nextTicket(first, key, 2, "one", asked, asked, 2*time.Hour, 0.66)
		if left := first.ExpiresAt.Sub(asked); left > 0 && got.RenewAt.After(first.ExpiresAt.Add(time.Second)) || !got.RenewAt.After(asked) || got.RenewAt.Nanosecond() != 0 {
			t.Fatalf("asked %v before the end: again at %v", left, got.RenewAt)
		}
	}
	if got := nextTicket(first, key, 2, "two", noon.Add(time.Hour), noon.Add(time.Hour), 2*time.Hour, 0.66); !got.ExpiresAt.Equal(noon.Add(3*time.Hour)) || got.Value.Reveal() != "two" {
		t.Errorf("another value: %+v", got)
	}
}

// TestTicketOfUnknownAge has a ticket that was made for any of the calls between the first, whose answer was lost, and the one that was
// answered. However old it is, nobody is left with a dead one for longer than a minute, nor is it asked for again and again.
func TestTicketOfUnknownAge(t *testing.T) {
	t.Parallel()
	key := wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: "wxc", Authorizer: "wxa"}
	const life = 2 * time.Hour
	for away := time.Duration(0); away < 3*time.Hour; away += 97*time.Second + 311*time.Millisecond {
		answered := noon.Add(away)
		for _, made := range []time.Time{noon, noon.Add(away / 3), answered, answered.Add(3 * time.Second)} {
			end := made.Add(life)
			if !end.After(answered) {
				continue // another was made after it
			}
			token := nextTicket(wxtoken.Token{}, key, 1, "one", noon, answered, life, 0.66)
			if first := noon.Add(life); first.After(answered.Add(ticketSlack)) && !token.ExpiresAt.Equal(first) || !token.ObtainedAt.Equal(answered) {
				t.Fatalf("away for %v: %+v", away, token)
			}
			calls := 1
			for ; token.RenewAt.Before(end); calls++ {
				if !token.ExpiresAt.After(token.RenewAt.Add(-time.Second)) {
					t.Fatalf("away for %v: at %v nobody has it although it lives, until %v", away, token.RenewAt, end)
				}
				token = nextTicket(token, key, 1, "one", answered, token.RenewAt, life, 0.66)
			}
			late := token.RenewAt.Sub(end)
			most := time.Minute
			if made.After(answered) || away == 0 {
				most = 4 * time.Second // its latest end is known
			}
			if late > most {
				t.Errorf("away for %v: the ticket made %v after the first call was found dead %v after its end", away, made.Sub(noon), late)
			}
			if most := 10 + int(min(away, life)/time.Minute); calls > most {
				t.Errorf("away for %v: asked %d times, want %d at most", away, calls, most)
			}
		}
	}
}

func TestKeeps(t *testing.T) {
	t.Parallel()
	key := func(kind wxtoken.Kind, account string) wxtoken.Key {
		return wxtoken.Key{Kind: kind, Component: "wxc", Authorizer: account}
	}
	all, one := Config{Derive: []string{"jsapi"}}, Config{Derive: []string{"jsapi", "wx_card"}, DeriveFor: []string{"wxa"}}
	for _, row := range []struct {
		cfg  Config
		key  wxtoken.Key
		want bool
	}{
		{Config{}, key(wxtoken.KindJSAPITicket, "wxa"), false},
		{all, key(wxtoken.KindJSAPITicket, "wxa"), true},
		{all, key(wxtoken.KindWxCardTicket, "wxa"), false},
		{one, key(wxtoken.KindWxCardTicket, "wxa"), true},
		{one, key(wxtoken.KindJSAPITicket, "wxb"), false},
	} {
		if row.cfg.keeps(row.key) != row.want {
			t.Errorf("%v, for %v: %s is kept %t", row.cfg.Derive, row.cfg.DeriveFor, row.key, !row.want)
		}
	}
}

// TestReadAuthorizations reads files as other keepers write them.
func TestReadAuthorizations(t *testing.T) {
	t.Parallel()
	const at = 1_700_000_000
	want := authorization{Component: "wxc", Authorizer: "wxa", RefreshToken: "refreshtoken@@@1", AuthTime: moment{time.Unix(at, 0).UTC()}, Ref: "shop-1"}
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

// TestReadAuthorizationsFaults has many lines at fault at once: each is named, and nothing of it is shown.
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
