//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams"
)

// TestNATSUsers: with --sim a client without a name is the user service of nats-server.conf, who reads
// what the refresher stored, and is refused what production refuses.
func TestNATSUsers(t *testing.T) {
	t.Parallel()
	w := newNATSUsers()
	srv, err := natsd.Start(t.Context(), natsd.Config{StoreDir: t.TempDir(), Addr: "127.0.0.1:0", Conf: w.conf()})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	connect := func(opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
		quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
		nc, err := nats.Connect(srv.ClientURL(), append(opts, quiet)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js := natsdtest.JetStream(t, nc)
		return nc, js
	}
	keeper, js := connect(w.user("refresher"), nats.CustomInboxPrefix("_INBOX_refresher"))
	if _, err := streams.Setup(t.Context(), keeper, js, cfg); err != nil {
		t.Fatal(err)
	}
	mirrors := streams.SetupMirrors(t.Context(), keeper, js, events.DefaultServicesAPI, cfg)
	if len(mirrors) == 0 || slices.ContainsFunc(mirrors, func(m streams.Mirror) bool { return m.Err != nil }) {
		t.Fatalf("%+v", mirrors)
	}
	if _, err := js.Publish(t.Context(), events.TokenSubject(hotel), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	nc, reader := connect()
	eventually(t, "the token", func() error {
		kv, err := reader.KeyValue(t.Context(), events.BucketTokens)
		if err != nil {
			return err
		}
		if _, err := kv.Get(t.Context(), hotel.String()); err != nil {
			return err
		}
		if _, err := kv.PutString(t.Context(), hotel.String(), "mine"); !errors.Is(err, jetstream.ErrNoStreamResponse) {
			t.Errorf("a write: %v", err)
		}
		return nil
	})
	for _, forbidden := range []string{events.SubjectRenew, events.SubjectQuota, events.CredentialSubject(hotel), "wechat.auth.wx1.callback"} {
		if err := nc.Publish(forbidden, nil); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("published to %s: %v", forbidden, err)
		}
	}
	operator, _ := connect(nats.UserInfo("operator", "operator"), nats.CustomInboxPrefix("_INBOX_operator"))
	if _, err := operator.Request("$JS.API.STREAM.INFO.AUTH", nil, patience); err != nil {
		t.Errorf("the operator: %v", err)
	}
}

// TestDataDirOfOtherAccount: a server with users would not find the data of one without, and the other way round. It refuses the
// directory instead.
func TestDataDirOfOtherAccount(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		account string
		users   natsUsers
		fits    bool
	}{{"KEEPER", newNATSUsers(), true}, {"$G", newNATSUsers(), false}, {"$G", nil, true}, {"KEEPER", nil, false}, {"", nil, true}, {"", newNATSUsers(), true}} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "jetstream", row.account), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := row.users.checkDataDir(dir); (err == nil) != row.fits {
			t.Errorf("data in %q, users %t: %v", row.account, row.users != nil, err)
		}
	}
}
