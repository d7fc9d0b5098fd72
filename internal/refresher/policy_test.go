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
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/store"
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

// TestWatched tells at which links a browser waits, and until when.
func TestWatched(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, row := range []struct {
		name string
		link store.Connect
		want bool
	}{
		{"no redirect yet", store.Connect{State: events.ConnectPending}, false},
		{"came back", store.Connect{State: events.ConnectExchanging, CodeAt: ago(time.Second)}, true},
		{"came back long ago", store.Connect{State: events.ConnectExchanging, CodeAt: ago(watchedFor)}, false},
		{"spent just now", store.Connect{State: events.ConnectExchanging, CodeAt: ago(time.Hour), SpentAt: ago(time.Second)}, true},
		{"spent long ago", store.Connect{State: events.ConnectExchanging, CodeAt: ago(time.Hour), SpentAt: ago(watchedFor)}, false},
		{"failed", store.Connect{State: events.ConnectFailed, CodeAt: ago(time.Second)}, false},
		{"authorized", store.Connect{State: events.ConnectAuthorized, CodeAt: ago(time.Second)}, false},
	} {
		if watched(row.link, now) != row.want {
			t.Errorf("%s: watched %t", row.name, !row.want)
		}
	}
	// Two retries find room in the time that a redirect waits for the push.
	if wait := account.RetryAfter(watchedTries); 2*wait > spentPatience {
		t.Errorf("the wait is %v, of %v", wait, spentPatience)
	}
}

// TestEventDelay: a hurried event waits as long as any other for what is no plain failure.
func TestEventDelay(t *testing.T) {
	t.Parallel()
	hurried := events.Msg{Deliveries: watchedTries}
	for _, row := range []struct {
		err               error
		shortest, longest time.Duration
	}{
		{errors.New("EOF"), 2500 * time.Millisecond, 5 * time.Second},
		{events.Later(40*time.Second, errors.New("held back")), 40 * time.Second, 40 * time.Second},
		{refusal(wechat.APIQueryAuth, 45009), gate.MaxPause, 15 * time.Second},
		{refusal(wechat.APIQueryAuth, 45011), time.Minute, 90 * time.Second},
		{refusal(wechat.APIQueryAuth, 61007), time.Minute, 90 * time.Second},
	} {
		if wait := eventDelay(hurried, row.err); wait < row.shortest || wait > row.longest {
			t.Errorf("%v: put off for %v, want %v to %v", row.err, wait, row.shortest, row.longest)
		}
	}
}
