//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
)

// TestDataFromBefore starts wxtoken on a directory from the time before it made keys: everything is
// kept, and sealed and encrypted from now on.
func TestDataFromBefore(t *testing.T) {
	t.Parallel()
	const component, refreshToken = "wx0123456789abcdef", "refreshtoken@@@SEKRET-before"
	dir := filepath.Join(t.TempDir(), "data")
	key := wxtoken.AuthorizerKey(component, "wxbefore")
	// with runs f on the store in dir, as a server with a key that may be none has it.
	with := func(natsKey wxtoken.Secret, f func(jetstream.JetStream, func(*config) *store.Store)) {
		t.Helper()
		srv, err := natsd.Start(t.Context(), natsd.Config{StoreDir: dir, Key: natsKey})
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Close()
		nc, err := nats.Connect("", nats.InProcessServer(srv))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js := natsdtest.JetStream(t, nc)
		streamstest.Setup(t, nc, js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
		f(js, func(s *config) *store.Store {
			t.Helper()
			open := func(ctx context.Context) (*store.Store, error) { return store.Open(ctx, nc, js, nil, nil) }
			if s != nil {
				keys, err := s.sealKeys(t.Context(), js)
				if err != nil {
					t.Fatal(err)
				}
				open = func(ctx context.Context) (*store.Store, error) { return store.Open(ctx, nc, js, keys, nil) }
			}
			opened, err := open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return opened
		})
	}
	with(wxtoken.Secret{}, func(_ jetstream.JetStream, open func(*config) *store.Store) {
		if _, err := open(nil).Save(t.Context(), account.Credential{Key: key, RefreshToken: refreshToken}); err != nil {
			t.Fatal(err)
		}
	})

	cmd := exec.Command(filepath.Join(bin, "wxtoken"), "--data-dir="+dir, "--nats-url=nats://127.0.0.1:0", "--http-addr=127.0.0.1:0", "--ops-addr=127.0.0.1:0",
		"--wechat-api-url=http://127.0.0.1:9", "--log-format=json")
	cmd.Env = []string{"WXTOKEN_COMPONENT_APPID=" + component, "WXTOKEN_COMPONENT_APPSECRET=SEKRETsecret", "WXTOKEN_COMPONENT_TOKEN=SEKRETtoken",
		"WXTOKEN_COMPONENT_AES_KEY=SEKRETkey0123456789abcdefghijklmnopqrstuvwx"}
	out := filepath.Join(t.TempDir(), "out")
	file, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := func() string {
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	eventually(t, "all records to be sealed", func() error {
		if text := said(); !strings.Contains(text, "all records are sealed with the first key") {
			return fmt.Errorf("it said %s", text)
		}
		return nil
	})
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil || strings.Contains(said(), "SEKRET") {
		t.Fatalf("%v: %s", err, said())
	}

	cfg := &config{DataDir: dir}
	natsKey, err := cfg.natsKey()
	if err != nil {
		t.Fatal(err)
	}
	with(natsKey, func(js jetstream.JetStream, open func(*config) *store.Store) {
		if c, err := open(cfg).Credential(t.Context(), key); err != nil || c.RefreshToken != refreshToken {
			t.Errorf("the credential is lost: %v", err)
		}
		if err := store.CheckSeal(t.Context(), js, nil); err == nil {
			t.Error("nothing is sealed")
		}
		stream, err := js.Stream(t.Context(), events.StreamTokens)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := stream.GetLastMsgForSubject(t.Context(), events.CredentialSubject(key)); err != nil || strings.Contains(string(m.Data), "SEKRET") {
			t.Errorf("the credential is in the clear: %v", err)
		}
	})
}
