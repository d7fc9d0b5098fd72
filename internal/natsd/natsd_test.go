package natsd_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// createStream makes a stream that takes subjects.
func createStream(t *testing.T, nc *nats.Conn, subjects ...string) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	js := natsdtest.JetStream(t, nc)
	st, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "T", Subjects: subjects})
	if err != nil {
		t.Fatal(err)
	}
	return js, st
}

func TestDataOutlivesTheServer(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		server *natsdtest.Server
	}{
		{"in process", natsdtest.Start(t)},
		{"tcp, flushed each time", natsdtest.StartTCP(t, func(c *natsd.Config) { c.SyncAlways = true })},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			js, _ := createStream(t, row.server.Connect(), "a")
			if _, err := js.Publish(t.Context(), "a", []byte("kept")); err != nil {
				t.Fatal(err)
			}
			url := row.server.ClientURL()
			row.server.Restart()
			if again := row.server.ClientURL(); again != url {
				t.Errorf("address after a restart: %q, before: %q", again, url)
			}
			_, st := createStream(t, row.server.Connect(), "a")
			msg, err := st.GetLastMsgForSubject(t.Context(), "a")
			if err != nil || string(msg.Data) != "kept" {
				t.Fatalf("after a restart: %v, %v", msg, err)
			}
		})
	}
}

func TestConnectionsFindTheServerAgain(t *testing.T) {
	t.Parallel()
	s := natsdtest.Start(t)
	nc := s.Connect()
	s.Restart()
	looktest.Until(t, "the connection never came back", func() bool { return nc.FlushTimeout(time.Second) == nil })
}

func TestListensOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	if url := natsdtest.Start(t).ClientURL(); url != "" {
		t.Errorf("a server without an address listens on %s", url)
	}
	s := natsdtest.StartTCP(t)
	if !strings.HasPrefix(s.ClientURL(), "nats://127.0.0.1:") {
		t.Fatalf("ClientURL() = %q", s.ClientURL())
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestTwoServersNeverShareADirectory(t *testing.T) {
	t.Parallel()
	first := natsdtest.Start(t)
	second, err := natsd.Start(t.Context(), natsd.Config{StoreDir: first.StoreDir()})
	if err == nil {
		second.Close()
	}
	if !errors.Is(err, natsd.ErrLocked) || !strings.Contains(err.Error(), first.StoreDir()) {
		t.Fatalf("second server on one directory: %v", err)
	}
	first.Stop()
	second, err = natsd.Start(t.Context(), natsd.Config{StoreDir: first.StoreDir()})
	if err != nil {
		t.Fatalf("after the first has closed: %v", err)
	}
	second.Close()
	second.Close()
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := strings.TrimPrefix(natsdtest.StartTCP(t).ClientURL(), "nats://")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, row := range []struct {
		name string
		ctx  context.Context
		cfg  natsd.Config
		want string
	}{
		{"no directory", t.Context(), natsd.Config{}, "no store directory"},
		{"a file as the directory", t.Context(), natsd.Config{StoreDir: file}, file},
		{"address without port", t.Context(), natsd.Config{StoreDir: t.TempDir(), Addr: "localhost"}, "want host:port"},
		{"port out of range", t.Context(), natsd.Config{StoreDir: t.TempDir(), Addr: "localhost:70000"}, "0 to 65535"},
		{"address taken", t.Context(), natsd.Config{StoreDir: t.TempDir(), Addr: taken}, "address already in use"},
		{"context over", ended, natsd.Config{StoreDir: t.TempDir()}, "context canceled"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s, err := natsd.Start(row.ctx, row.cfg)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("got %v, want an error with %q", err, row.want)
			}
		})
	}
}

func TestFailedStartReleasesTheDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	taken := strings.TrimPrefix(natsdtest.StartTCP(t).ClientURL(), "nats://")
	if _, err := natsd.Start(t.Context(), natsd.Config{StoreDir: dir, Addr: taken}); err == nil {
		t.Fatal("started on an address that is taken")
	}
	natsdtest.Start(t, func(c *natsd.Config) { c.StoreDir = dir })
}

func TestServerLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := natsdtest.Start(t, func(c *natsd.Config) { c.Log = zerolog.New(zerolog.SyncWriter(&out)) })
	s.Stop()
	for line := range strings.Lines(out.String()) {
		if !strings.Contains(line, `"role":"nats"`) || !strings.Contains(line, `"message":"nats server log"`) {
			t.Errorf("line of another shape: %s", line)
		}
	}
	if !strings.Contains(out.String(), "Server is ready") {
		t.Errorf("the start of the server is not in its log:\n%s", out.String())
	}
}

func TestMaxStoreIsTheLimit(t *testing.T) {
	t.Parallel()
	const limit = 8 << 20 // bytes
	js := natsdtest.JetStream(t, natsdtest.Start(t, func(c *natsd.Config) { c.MaxStore = limit }).Connect())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "BIG", Subjects: []string{"b"}, MaxBytes: limit + 1}); err == nil {
		t.Fatal("a stream may be larger than the limit of the server")
	}
}
