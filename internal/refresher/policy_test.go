package refresher

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/wechat"
)

// refusal is an answer of WeChat.
func refusal(api wechat.API, code int) error { return &wechat.Error{API: api, Code: code} }

func TestOfAccount(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err  error
		want bool
	}{
		{refusal(wechat.APIAuthorizerToken, 61028), true},
		{refusal(wechat.APIAuthorizerInfo, 48001), true},
		{refusal(wechat.APIQueryAuth, 61007), true},
		{refusal(wechat.APIAuthorizerList, 48001), false}, // names no account
		{refusal(wechat.APIComponentToken, 40013), false},
		{refusal(wechat.APIAuthorizerToken, 61004), false},
		{refusal(wechat.APIAuthorizerToken, 40164), false},
		{refusal(wechat.APIQueryAuth, 40029), true}, // whatever it means, the others need not wait for it
		{errors.New("no answer"), false},
	} {
		if got := wechat.OfAccount(row.err); got != row.want {
			t.Errorf("%v: %t", row.err, got)
		}
	}
}

func TestNotMirrored(t *testing.T) {
	t.Parallel()
	full := fmt.Errorf("mirror stream MESSAGES: %w", &jetstream.APIError{Code: 500, ErrorCode: 10047, Description: "insufficient storage resources available"})
	if hint := notMirrored(full); !strings.Contains(hint, "max_file_store") {
		t.Errorf("no room for the copy: %s", hint)
	}
	if hint := notMirrored(errors.New("timeout")); !strings.Contains(hint, "--services-api") {
		t.Errorf("nobody answers: %s", hint)
	}
}

// Refreshers that wait for the same thing are to come apart.
func TestJittered(t *testing.T) {
	t.Parallel()
	shortest, longest := time.Hour, time.Duration(0)
	for range 1000 {
		d := jittered(time.Minute)
		shortest, longest = min(shortest, d), max(longest, d)
	}
	if shortest < time.Minute || longest > 90*time.Second {
		t.Errorf("a minute became %v to %v", shortest, longest)
	}
	if shortest > 65*time.Second || longest < 85*time.Second {
		t.Errorf("of 1000 minutes all became %v to %v", shortest, longest)
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
		if row.cfg.keeps(account.KindOf(row.key).Ticket, row.key.Authorizer) != row.want {
			t.Errorf("%v, for %v: %s is kept %t", row.cfg.Derive, row.cfg.DeriveFor, row.key, !row.want)
		}
	}
}
