package wxtoken_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/natsd"
	"wxtoken/internal/store"
)

// A service connects once, makes one client, and asks it for the token at every call to WeChat.
func Example() {
	demo := startDemo() // in a service: nats.Connect(url, nats.UserCredentials(file), nats.CustomInboxPrefix("_INBOX_shop"))
	defer demo.stop()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, demo.nc, wxtoken.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	token, err := client.Token(wxtoken.AuthorizerKey("wx_component", "wx_merchant"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("https://api.weixin.qq.com/cgi-bin/message/custom/send?access_token=" + token.Value.Reveal())
	fmt.Println("in a log:", token.Value)

	_, err = client.Token(wxtoken.AuthorizerKey("wx_component", "wx_stranger"))
	fmt.Println(err)
	// Output:
	// https://api.weixin.qq.com/cgi-bin/message/custom/send?access_token=token-1
	// in a log: [redacted]
	// authorizer.wx_component.wx_stranger: no token in the bucket: check the appids, and whether the account is connected: Client.Status and the console tell
}

// When WeChat refuses a token, have it replaced, and try once more.
func ExampleClient_Replace() {
	demo := startDemo()
	defer demo.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, demo.nc, wxtoken.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	// A call to WeChat that finds its first token refused.
	call := func(token wxtoken.Token) (errcode int) {
		if token.Value.Reveal() == "token-1" {
			return 40001
		}
		return 0
	}
	stale := func(errcode int) bool { return errcode == 40001 || errcode == 40014 || errcode == 42001 }

	token, err := client.Token(demo.merchant)
	if err != nil {
		log.Fatal(err)
	}
	errcode := call(token)
	if stale(errcode) {
		if token, err = client.Replace(ctx, token); err != nil {
			log.Fatal(err)
		}
		errcode = call(token)
	}
	fmt.Println(token.Value.Reveal(), errcode)
	// Output:
	// token-2 0
}

// A service that builds something around a token builds it again when the token changes.
func ExampleClient_Updates() {
	demo := startDemo()
	defer demo.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, demo.nc, wxtoken.Config{Keys: []wxtoken.Key{demo.merchant}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	for token, err := range client.Updates(ctx, demo.merchant) {
		if errors.Is(err, wxtoken.ErrRevoked) {
			fmt.Println("the merchant has left")
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("build with generation", token.Generation)
		if token.Generation == 1 {
			demo.store(2)
		} else {
			demo.cancel()
		}
	}
	// Output:
	// build with generation 1
	// build with generation 2
	// the merchant has left
}

// demo is a NATS server in this process, with the bucket of tokens and a little of a refresher.
type demo struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	merchant wxtoken.Key
	stop     func()
}

func startDemo() *demo {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "wxtoken-example-")
	must(err)
	srv, err := natsd.Start(ctx, natsd.Config{StoreDir: dir})
	must(err)
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	must(err)
	js, err := jetstream.New(nc)
	must(err)
	d := &demo{nc: nc, js: js, merchant: wxtoken.AuthorizerKey("wx_component", "wx_merchant")}
	_, err = js.CreateStream(ctx, tokensConfig)
	must(err)
	d.store(1)
	service, err := micro.AddService(nc, micro.Config{Name: "wxtoken", Version: "0.0.1"})
	must(err)
	must(service.AddEndpoint("reject", micro.HandlerFunc(func(req micro.Request) {
		d.store(2) // before the answer, so that it is done when the example ends
		must(req.RespondJSON(map[string]any{"outcome": wxtoken.OutcomeRenewing, "revision": 1}))
	}), micro.WithEndpointSubject("wxtoken.reject")))
	d.stop = func() {
		nc.Close()
		srv.Close()
		must(os.RemoveAll(dir))
	}
	return d
}

// store stores the n-th token of the merchant.
func (d *demo) store(n uint64) {
	now := time.Now()
	record, err := store.TokenRecord(wxtoken.Token{
		Key: d.merchant, Value: wxtoken.NewSecret(fmt.Sprintf("token-%d", n)), Generation: n,
		ObtainedAt: now, ExpiresAt: now.Add(2 * time.Hour), RenewAt: now.Add(80 * time.Minute),
	})
	must(err)
	_, err = d.js.Publish(context.Background(), "$KV.tokens."+d.merchant.String(), record)
	must(err)
}

// cancel removes the token of the merchant, as a cancelled authorization does.
func (d *demo) cancel() {
	msg := nats.NewMsg("$KV.tokens." + d.merchant.String())
	msg.Header.Set("KV-Operation", "DEL")
	_, err := d.js.PublishMsg(context.Background(), msg)
	must(err)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
