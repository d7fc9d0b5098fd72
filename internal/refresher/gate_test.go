package refresher

import (
	"testing"
	"time"

	"golang.org/x/time/rate"

	"wxtoken/client"
	"wxtoken/internal/settings"
	"wxtoken/internal/store"
	"wxtoken/internal/wechat"
)

// TestSlowDown: after a limit per minute calls are made half as often for ten minutes, counted from the last complaint.
func TestSlowDown(t *testing.T) {
	t.Parallel()
	c := newComponent(settings.Component{AppID: "wxc"}, 100, noQuota)
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

// TestOneIsNotAway has one account, and then two, answered with "busy" for good: that holds nobody else back.
func TestOneIsNotAway(t *testing.T) {
	t.Parallel()
	c := newComponent(settings.Component{AppID: "wxc"}, 1, noQuota)
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
	c := newComponent(settings.Component{AppID: "wxc"}, 1, noQuota)
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
	c := newComponent(settings.Component{AppID: "wxc", AppSecret: wxtoken.NewSecret("one")}, 1, func() store.Quota {
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
