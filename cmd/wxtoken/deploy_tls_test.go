//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"wxtoken/client"
)

// TestDeployedTLSAndNKeys: the shipped files with the two changes that docs/nats.md describes, on
// certificates that scripts/private-ca makes.
func TestDeployedTLSAndNKeys(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is missing: scripts/private-ca needs it")
	}
	dir := t.TempDir()
	for range 2 { // the second time there is nothing to do
		if out, err := exec.Command("../../scripts/private-ca", dir, "127.0.0.1", "nats.example.com").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	t.Setenv("NATS_CERT", filepath.Join(dir, "127.0.0.1.pem"))
	t.Setenv("NATS_KEY", filepath.Join(dir, "127.0.0.1.key"))
	seed := func(user string) string { return filepath.Join(dir, user+".seed") }
	for _, user := range users {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		secret, err := pair.Seed()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(strings.ToUpper(user)+"_NKEY", public)
		if err := os.WriteFile(seed(user), secret, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv := shipped(t, accounts, func(text string) string {
		text += "\ninclude tls.conf\n"
		for _, user := range users {
			for line := range strings.SplitSeq(text, "\n") {
				if strings.HasSuffix(line, "user: "+user) {
					text = strings.Replace(text, line+"\n", "", 1)
				}
				if name := strings.ToUpper(user); strings.HasSuffix(line, " password: $"+name+"_PASSWORD") && !strings.Contains(line, "#") {
					text = strings.Replace(text, line, "nkey: $"+name+"_NKEY", 1)
				}
			}
		}
		return text
	})
	url, ca := "tls://"+srv.Addr().String(), filepath.Join(dir, "ca.pem")
	sim, key := startSystem(t, srv, accounts, func(user string) []string {
		return []string{"--nats-url=" + url, "--nats-ca=" + ca, "--nats-nkey=" + seed(user)}
	})
	nkey, err := nats.NkeyOptionFromSeed(seed("service"))
	if err != nil {
		t.Fatal(err)
	}
	service, err := nats.Connect(url, nkey, nats.RootCAs(ca), nats.CustomInboxPrefix("_INBOX_service"))
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	var client *wxtoken.Client
	eventually(t, "a service to read the bucket", func() (err error) {
		client, err = wxtoken.NewClient(t.Context(), service, wxtoken.Config{})
		return err
	})
	defer client.Close()
	eventually(t, "a token that WeChat takes", func() error {
		token, err := client.Token(key)
		if err == nil && !sim.Accepts(key.Component, key.Authorizer, token.Value.Reveal()) {
			err = errors.New("WeChat does not take it")
		}
		return err
	})

	for name, opts := range map[string][]nats.Option{
		"a password":       {nats.UserInfo("service", "secret-of-service"), nats.RootCAs(ca)},
		"no known CA":      {nkey},
		"nobody's key":     {nats.RootCAs(ca)},
		"another one's CA": {nkey, nats.RootCAs("/etc/ssl/certs/ca-certificates.crt")},
	} {
		if nc, err := nats.Connect(url, opts...); err == nil {
			nc.Close()
			t.Errorf("let in with %s", name)
		}
	}
}
