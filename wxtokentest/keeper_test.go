package wxtokentest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"wxtoken/client"
	"wxtoken/client/message"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/wxtokentest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for. It is long, because a machine may be slow.
const patience = time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// until waits until Token of a client is as wanted.
func until(t *testing.T, client *wxtoken.Client, key wxtoken.Key, wanted func(wxtoken.Token, error) bool) wxtoken.Token {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		token, err := client.Token(key)
		if wanted(token, err) {
			return token
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: the client has generation %d, %v", key, token.Generation, err)
		}
	}
}

// all are the keys that a Keeper keeps from the start.
var all = []wxtoken.Key{
	wxtokentest.Component, wxtokentest.Merchant, wxtokentest.OtherMerchant,
	wxtoken.JSAPITicketKey(wxtokentest.Merchant.Component, wxtokentest.Merchant.Authorizer),
	wxtoken.WxCardTicketKey(wxtokentest.Merchant.Component, wxtokentest.Merchant.Authorizer),
}

// TestNew finds the tokens of all kinds there, alive, old enough to be reported, and accepted by WeChat.
func TestNew(t *testing.T) {
	t.Parallel()
	keeper := wxtokentest.New(t)
	client := keeper.Client(wxtoken.Config{Keys: all})
	for _, key := range all {
		token, err := client.Token(key)
		if err != nil {
			t.Fatal(err)
		}
		if age, left := time.Since(token.ObtainedAt), time.Until(token.ExpiresAt); age < time.Minute || left < time.Hour {
			t.Errorf("%s is %s old and has %s left", key, age, left)
		}
		if !keeper.Accepts(token) {
			t.Errorf("%s is not accepted", key)
		}
		if status, err := client.Status(within(t), key); err != nil || status.State != wxtoken.StateActive {
			t.Errorf("%s has the status %q, %v", key, status.State, err)
		}
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	keeper := wxtokentest.New(t)
	client := keeper.Client(wxtoken.Config{})
	for range 3 {
		for _, key := range all {
			before, err := client.Token(key)
			if err != nil {
				t.Fatal(err)
			}
			renewed := keeper.Renew(key)
			after := until(t, client, key, func(token wxtoken.Token, err error) bool { return err == nil && token.Generation > before.Generation })
			if after.Revision != renewed.Revision || !keeper.Accepts(after) {
				t.Errorf("%s: renewed to revision %d, read %d", key, renewed.Revision, after.Revision)
			}
			if ticket := key.Kind == wxtoken.KindJSAPITicket || key.Kind == wxtoken.KindWxCardTicket; !ticket &&
				(after.Value == before.Value || after.Previous == nil || after.Previous.Value != before.Value) {
				t.Errorf("%s: an ordinary renewal gives another token and tells of the one before: %+v", key, after.Previous)
			}
		}
	}
}

// TestReject has a service that calls WeChat replace what is refused, and hear that the next one is too young for that.
func TestReject(t *testing.T) {
	t.Parallel()
	keeper := wxtokentest.New(t)
	client := keeper.Client(wxtoken.Config{})
	for _, key := range []wxtoken.Key{wxtokentest.Merchant, wxtokentest.Component} {
		refused, err := client.Token(key)
		if err != nil {
			t.Fatal(err)
		}
		keeper.Reject(key)
		if keeper.Accepts(refused) {
			t.Errorf("%s is accepted still", key)
		}
		next, err := client.Replace(within(t), refused)
		if err != nil || next.Value == refused.Value || !keeper.Accepts(next) {
			t.Errorf("replaced %s by generation %d: %v", key, next.Generation, err)
		}
		if _, err := client.Replace(within(t), next); !errors.Is(err, wxtoken.ErrTooSoon) {
			t.Errorf("replaced again at once: %v, want ErrTooSoon", err)
		}
	}
	stranger := wxtoken.Token{Key: wxtoken.AuthorizerKey(wxtokentest.Component.Component, "wx_stranger"), Value: wxtoken.NewSecret("x")}
	if _, err := client.Replace(within(t), stranger); !errors.Is(err, wxtoken.ErrNotKept) {
		t.Errorf("replaced the token of a stranger: %v", err)
	}
}

func TestExpire(t *testing.T) {
	t.Parallel()
	keeper := wxtokentest.New(t)
	client := keeper.Client(wxtoken.Config{})
	for _, key := range all {
		keeper.Expire(key)
		until(t, client, key, func(_ wxtoken.Token, err error) bool { return errors.Is(err, wxtoken.ErrExpired) })
		if status, err := client.Status(within(t), key); err != nil || status.State != wxtoken.StateRenewingFailed || status.LastError == nil {
			t.Errorf("%s has the status %+v, %v", key, status, err)
		}
		if others, err := client.Token(wxtokentest.OtherMerchant); key != wxtokentest.OtherMerchant && (err != nil || !keeper.Accepts(others)) {
			t.Errorf("with %s another one is dead: %v", key, err)
		}
		renewed := keeper.Renew(key)
		until(t, client, key, func(token wxtoken.Token, err error) bool { return err == nil && token.Generation >= renewed.Generation })
	}
}

func TestRevokeAndAuthorize(t *testing.T) {
	t.Parallel()
	keeper := wxtokentest.New(t)
	client := keeper.Client(wxtoken.Config{})
	before, err := client.Token(wxtokentest.Merchant)
	if err != nil {
		t.Fatal(err)
	}
	keeper.Revoke(wxtokentest.Merchant)
	for _, key := range []wxtoken.Key{all[1], all[3], all[4]} {
		until(t, client, key, func(_ wxtoken.Token, err error) bool { return errors.Is(err, wxtoken.ErrRevoked) })
	}
	if status, err := client.Status(within(t), wxtokentest.Merchant); err != nil || status.State != wxtoken.StateRevoked {
		t.Errorf("the status is %q, %v", status.State, err)
	}
	if keeper.Accepts(before) {
		t.Error("the token outlived the authorization")
	}
	again := keeper.Authorize(wxtokentest.Merchant.Authorizer)
	until(t, client, again.Key, func(token wxtoken.Token, err error) bool { return err == nil && token.Value == again.Value })
	if !keeper.Accepts(again) {
		t.Error("the token of the new authorization is not accepted")
	}
	third := keeper.Authorize("wx_third")
	if token, err := client.Next(within(t), wxtoken.Token{Key: third.Key}); err != nil || !keeper.Accepts(token) {
		t.Errorf("a new merchant: %v", err)
	}
}

func TestSay(t *testing.T) {
	t.Parallel()
	keeper := wxtokentest.New(t)
	if reply := keeper.Say(wxtokentest.Merchant, "hello"); reply != "" {
		t.Errorf("without a service the reply is %q", reply)
	}
	nc := keeper.Connect()
	_, err := nc.QueueSubscribe(message.ReplySubject(wxtokentest.Component.Component, "*"), "shop", func(m *nats.Msg) {
		received, err := message.Parse(m.Data)
		if err != nil {
			t.Error(err)
		}
		if err := m.Respond(received.Reply(time.Now()).Text("you said: " + received.Content)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, merchant := range []wxtoken.Key{wxtokentest.Merchant, wxtokentest.OtherMerchant, wxtokentest.Merchant} {
		if reply := keeper.Say(merchant, "hello 世界"); reply != "you said: hello 世界" {
			t.Errorf("the reply is %q", reply)
		}
	}
}

// TestRightsOfAService: a service changes nothing, as in production, and what happens is told on token.updated.
func TestRightsOfAService(t *testing.T) {
	t.Parallel()
	keeper := wxtokentest.New(t)
	nc := keeper.Connect()
	js := natsdtest.JetStream(t, nc)
	tokens, err := js.KeyValue(within(t), "tokens")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.PutString(within(t), wxtokentest.Merchant.String(), "mine"); err == nil {
		t.Error("a service wrote a token")
	}
	entry, err := tokens.Get(within(t), wxtokentest.Merchant.String())
	if err != nil {
		t.Fatal(err)
	}
	var token wxtoken.Token
	if err := token.UnmarshalJSON(entry.Value()); err != nil || entry.Revision() != keeper.Token(wxtokentest.Merchant).Revision {
		t.Errorf("read revision %d: %v", entry.Revision(), err)
	}
	news, err := nc.SubscribeSync("token.updated.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	renewed := keeper.Renew(wxtokentest.Merchant)
	m, err := news.NextMsgWithContext(within(t))
	if err != nil || m.Subject != "token.updated."+wxtokentest.Merchant.String() {
		t.Fatalf("heard %+v, %v", m, err)
	}
	if err := token.UnmarshalJSON(m.Data); err != nil || token.Value != renewed.Value {
		t.Errorf("heard of generation %d: %v", token.Generation, err)
	}
}

// TestStart: without a test, a Keeper works as well, and says by a panic what can't be.
func TestStart(t *testing.T) {
	t.Parallel()
	keeper := wxtokentest.Start()
	defer keeper.Close()
	if !keeper.Accepts(keeper.Token(wxtokentest.Merchant)) {
		t.Error("the token is not accepted")
	}
	defer func() {
		if recover() == nil {
			t.Error("a component was revoked")
		}
	}()
	keeper.Revoke(wxtokentest.Component)
}
