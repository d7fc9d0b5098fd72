package services_test

import (
	"slices"
	"strings"
	"testing"

	"wxtoken/internal/events"
	"wxtoken/internal/services"
)

const goodSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

func withHooks(hooks string) string {
	return `{"services":[{"name":"shop","keys":["sha256:` + strings.Repeat("ab", 32) + `"],"accounts":["wx1/wx-a","wx1/wxb","wx2/*"],"may":[],"webhooks":[` + hooks + `]}]}`
}

func TestWebhooks(t *testing.T) {
	t.Parallel()
	for messages, want := range map[string]events.Kind{
		"wx1/*/*":                   {Component: "wx1", AppID: "*", MsgType: "*"},
		"wx1/wx-a/text":             {Component: "wx1", AppID: "wx-a", MsgType: "text"},
		"wx1/*/event/CLICK":         {Component: "wx1", AppID: "*", MsgType: "event", Event: "CLICK"},
		"wx1/*/notice":              {Component: "wx1", AppID: "*", MsgType: "notice"},
		"wx1/wxb/notice/authorized": {Component: "wx1", AppID: "wxb", MsgType: "notice", Event: "authorized"},
		"wx1/*/text/CLICK":          {}, "wx1/*/*/CLICK": {}, "wx1/*": {}, "*/*/*": {}, "wx1/*/text/": {}, "wx1/*/a.b": {}, "wx1/>/text": {},
	} {
		s, err := services.Parse([]byte(withHooks(`{"url":"http://a/","messages":["` + messages + `"],"reply":false,"secret":"` + goodSecret + `"}`)))
		if want == (events.Kind{}) {
			if err == nil || !strings.Contains(err.Error(), "webhooks[0]: messages[0]: ") {
				t.Errorf("%s: %v", messages, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", messages, err)
			continue
		}
		if got := s.All()[0].Webhooks[0].Messages; !slices.Equal(got, []events.Kind{want}) {
			t.Errorf("%s: got %+v", messages, got)
		}
	}
	one := `{"url":"http://a/","messages":["wx1/*/text"],"reply":true,"secret":"` + goodSecret + `"}`
	if _, err := services.Parse([]byte(withHooks(one + "," + one))); err == nil || !strings.Contains(err.Error(), "webhooks[1]: url: appears twice") {
		t.Errorf("the same twice: %v", err)
	}
	if _, err := services.Parse([]byte(withHooks(one + "," + strings.Replace(one, "true", "false", 1)))); err != nil {
		t.Errorf("the same URL without replies: %v", err)
	}
}

func TestReach(t *testing.T) {
	t.Parallel()
	s, err := services.Parse([]byte(withHooks("")))
	if err != nil {
		t.Fatal(err)
	}
	shop := s.All()[0]
	if appids, all := shop.Reach("wx1"); all || !slices.Equal(appids, []string{"wx-a", "wxb"}) {
		t.Errorf("wx1: %q, %v", appids, all)
	}
	if _, all := shop.Reach("wx2"); !all {
		t.Error("wx2: not all")
	}
	if appids, all := shop.Reach("wx3"); all || len(appids) > 0 {
		t.Errorf("wx3: %q, %v", appids, all)
	}
}
