package wxtoken_test

import (
	"context"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/natsd/natsdtest"
)

// serverWithUsers starts a server with an admin and a user "service" that may do what doc.go lists under
// "Permissions needed" for what, more, and nothing else. It returns how to connect as each.
func serverWithUsers(t *testing.T, what string, reject bool, more ...string) (admin *nats.Conn, service func() *nats.Conn) {
	t.Helper()
	may := []string{
		"$JS.API.CONSUMER.CREATE.KV_tokens.*.$KV.tokens." + what,
		"$JS.FC.KV_tokens.>",
		"$JS.API.STREAM.INFO.KV_status",
		"$JS.API.DIRECT.GET.KV_status.$KV.status." + what,
	}
	if reject {
		may = append(may, "wxtoken.reject")
	}
	may = append(may, more...)
	srv, err := server.NewServer(&server.Options{
		JetStream: true, StoreDir: t.TempDir(), DontListen: true, NoSigs: true, NoLog: true,
		Users: []*server.User{
			{Username: "admin", Password: "admin"},
			{Username: "service", Password: "service", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: may},
				Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_service.>"}},
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not get ready")
	}
	connect := func(name string, opts ...nats.Option) *nats.Conn {
		quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // refusals are what the tests are about
		nc, err := nats.Connect("", append(opts, nats.InProcessServer(srv), nats.UserInfo(name, name), quiet)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	return connect("admin"), func() *nats.Conn { return connect("service", nats.CustomInboxPrefix("_INBOX_service")) }
}

// A service needs no more than doc.go says, and with it gets no further than it should.
func TestPermissions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, what string
		cfg        wxtoken.Config
	}{
		{"all tokens", ">", wxtoken.Config{}},
		{"one authorizer", shop.String(), wxtoken.Config{Keys: []wxtoken.Key{shop}}},
		{"authorizers of one component", "authorizer." + shop.Component + ".*", wxtoken.Config{Keys: []wxtoken.Key{shop, hotel}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			admin, service := serverWithUsers(t, test.what, true)
			p := &platform{t: t, nc: admin}
			var err error
			p.js = natsdtest.JetStream(t, admin)
			p.createBucket()
			p.put(shop, 1)
			p.put(hotel, 1)
			status, err := p.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "status"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := status.PutString(t.Context(), shop.String(), `{"key":"`+shop.String()+`","state":"active"}`); err != nil {
				t.Fatal(err)
			}
			client := newClient(t, service(), test.cfg)
			p.put(shop, 2)
			eventually(t, "the renewed token", has(client, shop, 2))
			if _, err := client.Status(t.Context(), shop); err != nil {
				t.Error(err)
			}
			_, err = client.Report(t.Context(), wxtoken.Token{Key: shop, Revision: 1})
			wantError(t, err, nats.ErrNoResponders) // it may ask, and there is no refresher
		})
	}
}

// Without a permission the error names it, instead of a time-out alone.
func TestPermissionsMissing(t *testing.T) {
	t.Parallel()
	admin, service := serverWithUsers(t, shop.String(), false)
	p := &platform{t: t, nc: admin}
	p.js = natsdtest.JetStream(t, admin)
	p.createBucket()
	if _, err := p.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "status"}); err != nil {
		t.Fatal(err)
	}
	p.put(shop, 1)
	p.put(hotel, 1)

	for _, cfg := range []wxtoken.Config{{}, {Keys: []wxtoken.Key{shop, hotel}}} {
		nc := service()
		givesUp(t, func(ctx context.Context) error {
			_, err := wxtoken.NewClient(ctx, nc, cfg)
			return err
		}, nats.ErrPermissionViolation, "CONSUMER.CREATE", "permissions")
	}

	client := newClient(t, service(), wxtoken.Config{Keys: []wxtoken.Key{shop}})
	givesUp(t, func(ctx context.Context) error {
		_, err := client.Report(ctx, wxtoken.Token{Key: shop, Revision: 1})
		return err
	}, nats.ErrPermissionViolation, "wxtoken.reject")
	givesUp(t, func(ctx context.Context) error {
		_, err := client.Status(ctx, hotel)
		return err
	}, nats.ErrPermissionViolation, "KV_status")
}
