//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/console"
	"wxtoken/internal/events"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/wechatsim"
)

// TestDeployedSystem runs ingest and refresher as they are deployed, each under its own user, and
// reads the tokens as a service does.
func TestDeployedSystem(t *testing.T) {
	t.Parallel()
	for _, file := range []string{accounts, single} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			testSystem(t, file)
		})
	}
}

// startSystem starts a fake platform, and ingest and refresher as they are deployed. args are for
// both of them.
func startSystem(t *testing.T, srv *server.Server, file string, args func(user string) []string) (sim *wechatsim.Platform, key wxtoken.Key) {
	t.Helper()
	files := filepath.Join("..", "..", "deploy", "sim")
	in := deployed(t, "ingest", srv, append(args("ingest"), "--http-addr=127.0.0.1:0", "--component-token-file="+filepath.Join(files, "token"),
		"--component-aes-key-file="+filepath.Join(files, "aes_key"))...)
	config := wechatsim.Demo(10*time.Second, 2, "http://"+in.find(t, `"server":"pushes","addr":"([^"]+)"`))
	sim, err := wechatsim.New(config)
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewServer(sim.Handler())
	t.Cleanup(api.Close)
	for range 2 {
		deployed(t, "refresher", srv, append(args("refresher"), "--component-appsecret-file="+filepath.Join(files, "appsecret"),
			"--sweep-every=1s", "--wechat-api-url="+api.URL)...)
	}
	begin(t, sim)
	return sim, wxtoken.AuthorizerKey(wechatsim.DemoAppID, config.Components[0].Authorizers[0])
}

// begin has the fake platform work until the test ends.
func begin(t *testing.T, sim *wechatsim.Platform) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sim.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func testSystem(t *testing.T, file string) {
	srv := shipped(t, file)
	sim, key := startSystem(t, srv, file, func(string) []string { return nil })
	service := as(t, srv, "service")
	var client *wxtoken.Client
	eventually(t, "a service to read the bucket", func() (err error) {
		client, err = wxtoken.NewClient(t.Context(), service, wxtoken.Config{})
		return err
	})
	defer client.Close()
	eventually(t, "a token that was renewed", func() error {
		token, err := client.Token(key)
		if err == nil && token.Generation < 2 {
			err = errors.New("not renewed yet")
		}
		if err == nil && !sim.Accepts(key.Component, key.Authorizer, token.Value.Reveal()) {
			err = errors.New("WeChat does not take it")
		}
		return err
	})
	eventually(t, "its status", func() error {
		status, err := client.Status(t.Context(), key)
		if err == nil && status.Authorizer == nil {
			err = errors.New("without a profile")
		}
		return err
	})

	// As any KV client reads it, nats kv get for instance; the credential beside it stays closed.
	js := natsdtest.JetStream(t, service)
	tokens, err := js.KeyValue(t.Context(), events.BucketTokens)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Get(t.Context(), key.String()); err != nil {
		t.Error(err)
	}
	stream, err := js.Stream(t.Context(), events.StreamTokens)
	if err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(t.Context(), time.Second) // NATS does not answer what may not be asked
	defer stop()
	if _, err := stream.GetLastMsgForSubject(short, events.CredentialSubject(key)); err == nil {
		t.Error("a service reads the credential")
	}

	// And the status, also from now on.
	statuses, err := js.KeyValue(t.Context(), events.BucketStatus)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := statuses.Get(t.Context(), key.String()); err != nil {
		t.Error(err)
	}
	watched, err := statuses.Watch(t.Context(), key.String())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the status, watched", func() error {
		select {
		case entry := <-watched.Updates():
			if entry != nil {
				return nil
			}
		default:
		}
		return errors.New("nothing yet")
	})

	// A message goes the whole way to a service.
	if err := sim.PushMessage(key.Component, key.Authorizer, wechatsim.Message{Content: "hello"}); err != nil {
		t.Fatal(err)
	}
	consumer, err := js.CreateOrUpdateConsumer(t.Context(), events.StreamMessages, jetstream.ConsumerConfig{Durable: "shop", FilterSubject: "wechat.message." + key.Component + ".>"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the message", func() error {
		m, err := consumer.Next(jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return err
		}
		return m.DoubleAck(t.Context())
	})

	// The page needs no more than a refresher may.
	page, err := console.New(console.Config{NATS: as(t, srv, "refresher"), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { _ = page.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		following.Wait()
	})
	eventually(t, "the page", func() error {
		w := httptest.NewRecorder()
		page.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/accounts?format=json", nil))
		var list struct{ Accounts []json.RawMessage }
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != http.StatusOK || len(list.Accounts) == 0 {
			return fmt.Errorf("%d %w %s", w.Code, err, w.Body)
		}
		return nil
	})
}

// running is a program that runs under its user.
type running struct {
	output string
	kill   func() // with SIGKILL, before the test ends
}

// find waits for a text in the output and returns its first group.
func (r running) find(t *testing.T, pattern string) (group string) {
	t.Helper()
	eventually(t, pattern, func() error {
		text, err := os.ReadFile(r.output)
		if err != nil {
			return err
		}
		found := regexp.MustCompile(pattern).FindSubmatch(text)
		if found == nil {
			return errors.New("not in the output")
		}
		group = string(found[1])
		return nil
	})
	return group
}

// deployed starts a program that has a component, and ends it with the test. It may not complain of a permission.
func deployed(t *testing.T, name string, srv *server.Server, args ...string) running {
	t.Helper()
	return deployedAs(t, name, srv, append([]string{"--component-appid=" + wechatsim.DemoAppID}, args...)...)
}

// deployedAs is deployed for any program.
func deployedAs(t *testing.T, name string, srv *server.Server, args ...string) running {
	t.Helper()
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, name), append([]string{"--ops-addr=127.0.0.1:0", "--log-level=debug"}, args...)...)
	cmd.Env = []string{"WXTOKEN_NATS_URL=" + urlOf(srv, name)}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill := func() {
		killed = true
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(func() {
		if !killed {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		_ = output.Close()
		text, err := os.ReadFile(output.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, never := range []string{"ermissions", "nats client error", "SEKRET", "secret-of-"} {
			if strings.Contains(string(text), never) {
				t.Errorf("%q in the output of %s:\n%s", never, name, text)
			}
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, text)
		}
	})
	return running{output.Name(), kill}
}

// The secrets in deploy/sim are those of the component that the fake platform knows.
func TestDeployedSimulation(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"appsecret": wechatsim.DemoAppSecret, "token": wechatsim.DemoToken, "aes_key": wechatsim.DemoEncodingAESKey,
		"sim.env": "COMPONENT_APPID=" + wechatsim.DemoAppID + "\n",
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "sim", name))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v %q", name, err, text)
		}
	}
}

// TestDeployedWrongPassword: the log says what is wrong, and not the password.
func TestDeployedWrongPassword(t *testing.T) {
	t.Parallel()
	srv := shipped(t, accounts)
	var out bytes.Buffer
	var mu sync.Mutex
	log := zerolog.New(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return out.Write(p)
	}))
	nc, err := natsconn.Settings{NatsURL: "nats://ingest:SEKRET-wrong@" + srv.Addr().String()}.Connect("ingest", log)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	eventually(t, "a word about the user", func() error {
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(out.String(), "does not accept this user") {
			return errors.New(out.String())
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	if strings.Contains(out.String(), "SEKRET") {
		t.Errorf("the password is in the log: %s", out.String())
	}
}

// writer makes a Writer of a function.
type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
