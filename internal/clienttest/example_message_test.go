package wxtoken_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client/message"
)

// A service answers the messages of an account while WeChat waits. The queue group lets one of its
// instances answer.
func Example_message() {
	demo := startDemo() // in a service: nats.Connect(url, nats.UserCredentials(file), nats.CustomInboxPrefix("_INBOX_shop"))
	defer demo.stop()

	_, err := demo.nc.QueueSubscribe(message.ReplySubject("wx_component", "wx_merchant"), "shop", func(msg *nats.Msg) {
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

	// What ingest asks when a user writes.
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	answer, err := demo.nc.RequestWithContext(ctx, "wechat.reply.wx_component.wx_merchant.text", []byte(
		"<xml><ToUserName>gh_shop</ToUserName><FromUserName>openid</FromUserName><MsgType>text</MsgType><Content>hello</Content></xml>"))
	if err != nil {
		log.Fatal(err)
	}
	reply, err := message.Parse(answer.Data)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply.FromUserName, "to", reply.ToUserName+":", reply.Content)
	// Output:
	// gh_shop to openid: you said: hello
}
