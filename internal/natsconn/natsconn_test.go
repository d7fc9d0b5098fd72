package natsconn_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/internal/logtest"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/serve"
)

func TestConnectionOutlivesNATS(t *testing.T) {
	t.Parallel()
	server := natsdtest.StartTCP(t)
	server.Stop() // a process may be up before its NATS
	settings := natsconn.Settings{NatsURL: strings.Replace(server.ClientURL(), "//", "//user:SEKRET@", 1)}
	log, out := logtest.New()
	nc, err := settings.Connect("refresher", log)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var h serve.Health
	m := serve.NewMetrics()
	natsconn.Watch(nc, "refresher", &h, m, log)
	failing := func() string { return h.Failing(t.Context())["nats refresher"] }
	if v, series := looktest.Sum(t, m.Registry, "wxtoken_nats_connected"); !strings.Contains(failing(), "--nats-url") || v != 0 || series != 1 {
		t.Errorf("without NATS: failing %q, gauge %v in %d series", failing(), v, series)
	}
	if err := nc.Publish("a", nil); !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Errorf("publish without NATS: %v, want a failure at once", err)
	} else {
		h.Check("publish", func(context.Context) error { return fmt.Errorf("publish a: %w", err) })
		if got := h.Failing(t.Context())["publish"]; got != "publish a: nats: not connected" {
			t.Errorf("it is said as %q", got)
		}
		log.Warn().Err(err).Msg("not published")
		if !strings.Contains(out.String(), `"error":"nats: not connected"`) {
			t.Errorf("it is said as\n%s", out)
		}
	}
	for range 2 {
		server.Restart()
		looktest.Until(t, "connected", func() bool { return failing() == "" })
		if v, _ := looktest.Sum(t, m.Registry, "wxtoken_nats_connected"); v != 1 {
			t.Errorf("gauge %v, want 1", v)
		}
		server.Stop()
		looktest.Until(t, "disconnected", func() bool { return failing() != "" })
	}
	for _, want := range []string{`"msg":"nats unreachable, trying again"`, `"msg":"nats connected"`, `"msg":"nats disconnected"`} {
		looktest.Until(t, want, func() bool { return strings.Contains(out.String(), want) })
	}
	if strings.Contains(out.String(), "SEKRET") {
		t.Errorf("the password is in the log:\n%s", out)
	}
}

func TestConnectionInProcess(t *testing.T) {
	t.Parallel()
	server, err := natsd.Start(t.Context(), natsd.Config{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	log, _ := logtest.New()
	nc, err := natsconn.Settings{}.Connect("ingest", log, nats.InProcessServer(server))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sub, err := nc.Subscribe("echo", func(m *nats.Msg) {
		if !strings.HasPrefix(m.Reply, "_INBOX_ingest.") {
			t.Errorf("reply subject %q, want one below _INBOX_ingest", m.Reply)
		}
		_ = m.Respond(nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := nc.RequestWithContext(ctx, "echo", nil); err != nil {
		t.Fatal(err)
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
}

func TestConnectSaysWhichSettingIsWrong(t *testing.T) {
	t.Parallel()
	log, _ := logtest.New()
	nc, err := natsconn.Settings{NatsURL: "nats://u:SEKRET@host:port", NatsCreds: filepath.Join(t.TempDir(), "creds")}.Connect("x", log)
	if err == nil {
		nc.Close()
		t.Fatal("connected to nothing")
	}
	for _, want := range []string{"WXTOKEN_NATS_URL", "WXTOKEN_NATS_CREDS"} {
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("got %v, want %s in it and no password", err, want)
		}
	}
}

func TestListenAddr(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ url, want string }{
		{"nats://127.0.0.1:4222", "127.0.0.1:4222"},
		{"nats://localhost", "localhost:4222"},
		{"nats://[::1]:0", "[::1]:0"},
		{"nats://a,nats://b", ""},
		{"", ""},
		{"nats://a:SEKRET%zz", ""},
	} {
		got, err := natsconn.Settings{NatsURL: row.url}.ListenAddr()
		if got != row.want || (err != nil) != (row.want == "") {
			t.Errorf("%q: got %q, %v, want %q", row.url, got, err, row.want)
		}
		if err != nil && strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("%q: the URL is shown: %v", row.url, err)
		}
	}
}

// TestHalfOpen blocks the proxy to the server, and neither end notices: the connection is given up within 10 s,
// and is there again as soon as the proxy is open.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	server := natsdtest.StartTCP(t)
	proxy := natsdtest.NewProxy(t, natsdtest.Dial(strings.TrimPrefix(server.ClientURL(), "nats://")))
	log, _ := logtest.New()
	nc, err := natsconn.Settings{NatsURL: proxy.URL()}.Connect("refresher", log)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	looktest.Until(t, "connected", nc.IsConnected)
	proxy.Close()
	began := time.Now()
	looktest.Until(t, "given up", func() bool { return !nc.IsConnected() })
	t.Logf("given up after %s", time.Since(began).Round(time.Millisecond))
	proxy.Open()
	looktest.Until(t, "connected again", func() bool { return nc.IsConnected() && nc.FlushTimeout(time.Second) == nil })
}
