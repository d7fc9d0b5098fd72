package webhooks

import (
	"slices"
	"strings"
	"testing"

	"wxtoken/internal/events"
	"wxtoken/internal/services"
)

// TestNoticeAboutNoAccount: with the right component a service gets the notices about no account, also if it names its accounts one by one.
func TestNoticeAboutNoAccount(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("ab", 32)
	for _, row := range []struct {
		account, may   string
		own, its, none bool // a notice about no account, about wxa, about wxb
	}{
		{"/wxa", "component", true, true, false}, {"/wxa", "token", false, true, false},
		{"/*", "component", true, true, true}, {"/*", "token", false, true, true},
	} {
		all, err := services.Parse([]byte(`{"services":[{"name":"shop","keys":["sha256:` + digest + `"],"accounts":["` + component + row.account + `"],"may":["` + row.may + `"]}]}`))
		if err != nil {
			t.Fatal(err)
		}
		notice := events.Kind{Component: component, AppID: "*", MsgType: events.MsgTypeNotice}
		to := newTarget(all.All()[0], services.Webhook{URL: "http://x", Messages: []events.Kind{notice}, Secret: secret})
		for appid, want := range map[string]bool{"": row.own, "wxa": row.its, "wxb": row.none} {
			one := events.Kind{Component: component, AppID: appid, MsgType: events.MsgTypeNotice, Event: "any"}
			if got, _ := to.wants(one, nil); got != want {
				t.Errorf("%s with the right %s: a notice about %q is wanted: %t, want %t", row.account, row.may, appid, got, want)
			}
		}
		if len(to.filters) != 1 {
			t.Errorf("filters %q", to.filters)
		}
	}
}

// TestDisjoint makes filters that one consumer can have: none of them overlap, and all that was asked for is among them.
func TestDisjoint(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ in, want []string }{
		{[]string{"a.b", "a.c"}, []string{"a.b", "a.c"}},
		{[]string{"a.b", "a.b"}, []string{"a.b"}},
		{[]string{"a.*", "a.b"}, []string{"a.*"}},
		{[]string{"a.*.x", "a.b.>"}, []string{"a.*.>"}},
		{[]string{"a.*.x", "a.b.*", "c.d"}, []string{"a.*.*", "c.d"}},
		{[]string{"a.b", "a.b.c"}, []string{"a.b", "a.b.c"}},
		{[]string{"a.event", "a.event.*", "a.>"}, []string{"a.>"}},
	} {
		got := disjoint(row.in)
		if !slices.Equal(got, row.want) {
			t.Errorf("%q: got %q, want %q", row.in, got, row.want)
		}
		for i, a := range got {
			for _, b := range got[i+1:] {
				if _, overlap := union(a, b); overlap {
					t.Errorf("%q: %q and %q overlap", row.in, a, b)
				}
			}
		}
		for _, f := range row.in {
			if !slices.ContainsFunc(got, func(all string) bool { return events.Covers(all, f) }) {
				t.Errorf("%q: %q is missing in %q", row.in, f, got)
			}
		}
	}
}
