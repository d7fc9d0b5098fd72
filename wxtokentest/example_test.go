package wxtokentest_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/client/message"
	"wxtoken/wxtokentest"
)

// A test of a service gets a wxtoken of its own, and has things happen to its tokens.
func ExampleNew() {
	_ = func(t *testing.T) {
		t.Parallel()
		keeper := wxtokentest.New(t)
		client := keeper.Client(wxtoken.Config{Keys: []wxtoken.Key{wxtokentest.Merchant}})

		token, err := client.Token(wxtokentest.Merchant)
		if err != nil {
			t.Fatal(err)
		}
		keeper.Reject(wxtokentest.Merchant) // WeChat refuses it from now on
		if token, err = client.Replace(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		if !keeper.Accepts(token) {
			t.Error("the service goes on with a token that WeChat refuses")
		}
	}
}

// A service connects once, makes one client, and asks it for the token at every call to WeChat.
func Example() {
	keeper := wxtokentest.Start()
	defer keeper.Close()
	nc := keeper.Connect() // in a service: nats.Connect(url, nats.UserCredentials(file), nats.CustomInboxPrefix("_INBOX_shop"))

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, nc, wxtoken.Config{Keys: []wxtoken.Key{wxtokentest.Merchant}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	token, err := client.Token(wxtokentest.Merchant)
	if err != nil {
		log.Fatal(err)
	}
	url := "https://api.weixin.qq.com/cgi-bin/message/custom/send?access_token=" + token.Value.Reveal()
	fmt.Println("WeChat takes it:", keeper.Accepts(token), len(url) > 80)
	fmt.Println("in a log:", token.Value)

	_, err = client.Token(wxtoken.AuthorizerKey("wx_component", "wx_stranger"))
	fmt.Println(err)
	// Output:
	// WeChat takes it: true true
	// in a log: [redacted]
	// authorizer.wx_component.wx_stranger: no token (add the key to Config.Keys, or leave Keys empty to watch every token)
}

// When WeChat refuses a token, have it replaced, and try once more.
func Example_replace() {
	keeper := wxtokentest.Start()
	defer keeper.Close()
	client := keeper.Client(wxtoken.Config{Keys: []wxtoken.Key{wxtokentest.Merchant}})
	keeper.Reject(wxtokentest.Merchant)

	call := func(token wxtoken.Token) (errcode int) { // in a service: a call to WeChat
		if keeper.Accepts(token) {
			return 0
		}
		return 40001
	}
	stale := func(errcode int) bool { return errcode == 40001 || errcode == 40014 || errcode == 42001 }

	token, err := client.Token(wxtokentest.Merchant)
	if err != nil {
		log.Fatal(err)
	}
	errcode := call(token)
	fmt.Println("errcode", errcode)
	if stale(errcode) {
		if token, err = client.Replace(context.Background(), token); err != nil {
			log.Fatal(err)
		}
		errcode = call(token)
	}
	fmt.Println("errcode", errcode)
	// Output:
	// errcode 40001
	// errcode 0
}

// A service that builds something around a token builds it again when the token changes.
func Example_updates() {
	keeper := wxtokentest.Start()
	defer keeper.Close()
	client := keeper.Client(wxtoken.Config{Keys: []wxtoken.Key{wxtokentest.Merchant}})

	built := 0
	for token, err := range client.Updates(context.Background(), wxtokentest.Merchant) {
		if errors.Is(err, wxtoken.ErrRevoked) {
			fmt.Println("the merchant has left")
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		built++
		fmt.Println("build it with", token.Key)
		if built == 1 {
			keeper.Renew(wxtokentest.Merchant)
		} else {
			keeper.Revoke(wxtokentest.Merchant)
		}
	}
	// Output:
	// build it with authorizer.wxc0ffee0000000001.wxa000000000000001
	// build it with authorizer.wxc0ffee0000000001.wxa000000000000001
	// the merchant has left
}

// A service answers the messages of an account while WeChat waits. The queue group lets one of its instances answer.
func Example_message() {
	keeper := wxtokentest.Start()
	defer keeper.Close()
	nc := keeper.Connect()

	subject := message.ReplySubject(wxtokentest.Merchant.Component, wxtokentest.Merchant.Authorizer)
	_, err := nc.QueueSubscribe(subject, "shop", func(msg *nats.Msg) {
		var reply []byte // empty: nothing to say
		if m, err := message.Parse(msg.Data); err == nil && m.MsgType == "text" {
			reply = m.Reply(time.Now()).Text("you said: " + m.Content)
		}
		if err := msg.Respond(reply); err != nil {
			log.Print(err)
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := nc.Flush(); err != nil { // the server has the subscription
		log.Fatal(err)
	}

	fmt.Println(keeper.Say(wxtokentest.Merchant, "hello"))
	// Output:
	// you said: hello
}
