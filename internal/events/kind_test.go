package events_test

import (
	"slices"
	"testing"

	"wxtoken/internal/events"
)

func TestKinds(t *testing.T) {
	t.Parallel()
	subjects := []string{
		events.MessageSubject("wxc", "wxa", "text", ""), events.MessageSubject("wxc", "wxa", "event", "CLICK"), events.MessageSubject("wxc", "wxa", "event", ""),
		events.MessageSubject("wxc", "wxb", "text", ""), events.NoticeSubject("wxc", "authorized"), events.NoticeSubject("wxc", ""),
	}
	for _, row := range []struct {
		kind events.Kind
		want []string
	}{
		{events.Kind{Component: "wxc", AppID: "*", MsgType: "*"}, subjects[:4]},
		{events.Kind{Component: "wxc", AppID: "wxa", MsgType: "*"}, subjects[:3]},
		{events.Kind{Component: "wxc", AppID: "*", MsgType: "text"}, []string{subjects[0], subjects[3]}},
		{events.Kind{Component: "wxc", AppID: "*", MsgType: "event"}, subjects[1:3]},
		{events.Kind{Component: "wxc", AppID: "*", MsgType: "event", Event: "CLICK"}, subjects[1:2]},
		{events.Kind{Component: "wxc", AppID: "*", MsgType: "notice"}, subjects[4:]},
		{events.Kind{Component: "wxc", AppID: "*", MsgType: "notice", Event: "authorized"}, subjects[4:5]},
		{events.Kind{Component: "wxd", AppID: "*", MsgType: "*"}, nil},
	} {
		var filtered, included []string
		for _, s := range subjects {
			if slices.ContainsFunc(row.kind.Filters(), func(f string) bool { return events.Covers(f, s) }) {
				filtered = append(filtered, s)
			}
			kind, ok := events.ParseKind(s)
			if ok && row.kind.Includes(kind) {
				included = append(included, s)
			}
		}
		if !slices.Equal(filtered, row.want) || !slices.Equal(included, row.want) {
			t.Errorf("%+v: filters %q, includes %q, want %q", row.kind, filtered, included, row.want)
		}
	}
	for _, s := range []string{"", "wechat.message.wxc", "wechat.auth.wxc.authorized", "wechat.message.a.b.c.d.e", "wechat.notice.wxc"} {
		if k, ok := events.ParseKind(s); ok {
			t.Errorf("%q: %+v", s, k)
		}
	}
}
