package natsd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
)

// filesContain reports whether a file below dir holds text.
func filesContain(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found = found || bytes.Contains(data, []byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestKey takes a directory from the time before there was a key through its life: with a key
// everything is kept and nothing can be read from the files any more; with another key, or without,
// the server refuses to start, and loses nothing.
func TestKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const messages = 200
	// with starts a server with a key, and returns the error of that or what f makes of it.
	with := func(key string, f func(jetstream.JetStream)) error {
		t.Helper()
		s, err := natsd.Start(t.Context(), natsd.Config{StoreDir: dir, Key: wxtoken.NewSecret(key)})
		if err != nil {
			return err
		}
		defer s.Close()
		nc, err := nats.Connect("", nats.InProcessServer(s))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js := natsdtest.JetStream(t, nc)
		f(js)
		return nil
	}
	whole := func(js jetstream.JetStream) {
		t.Helper()
		st, err := js.Stream(t.Context(), "T")
		if err != nil {
			t.Fatal(err)
		}
		info, err := st.Info(t.Context())
		if err != nil || info.State.Msgs != messages {
			t.Fatalf("%+v, %v: want %d messages", info, err, messages)
		}
		m, err := st.GetLastMsgForSubject(t.Context(), "a.7")
		if err != nil || !strings.HasPrefix(string(m.Data), "SEKRET-7-") {
			t.Fatalf("%v, %v", m, err)
		}
		cons, err := st.Consumer(t.Context(), "c")
		if err != nil {
			t.Fatal(err)
		}
		if info, err := cons.Info(t.Context()); err != nil || info.NumPending != messages {
			t.Fatalf("the consumer: %+v, %v", info, err)
		}
	}
	if err := with("", func(js jetstream.JetStream) {
		st, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "T", Subjects: []string{"a.>"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
			t.Fatal(err)
		}
		for i := range messages {
			if _, err := js.Publish(t.Context(), fmt.Sprintf("a.%d", i), []byte(fmt.Sprintf("SEKRET-%d-%s", i, strings.Repeat("x", 50_000)))); err != nil { // several blocks
				t.Fatal(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if !filesContain(t, dir, "SEKRET-7-") {
		t.Fatal("the search finds nothing in files that are in the clear")
	}
	for range 2 {
		if err := with("first", whole); err != nil {
			t.Fatal(err)
		}
		if filesContain(t, dir, "SEKRET-") {
			t.Fatal("a message can be read from the files")
		}
	}
	for _, key := range []string{"second", ""} {
		if err := with(key, func(jetstream.JetStream) {}); !errors.Is(err, natsd.ErrUnreadable) || strings.Contains(err.Error(), "first") {
			t.Errorf("started with the key %q: %v, want ErrUnreadable", key, err)
		}
	}
	deadline := time.Now().Add(time.Minute)
	for err := errors.New("not tried"); err != nil; err = with("first", whole) {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestBlockWithoutKey starts on what a server leaves that is killed, or loses its power, between
// making a block and its key.
func TestBlockWithoutKey(t *testing.T) {
	t.Parallel()
	cfg := natsd.Config{StoreDir: filepath.Join(t.TempDir(), "no [pattern]"), Key: wxtoken.NewSecret("key")}
	for round := range 2 {
		s, err := natsd.Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		nc, err := nats.Connect("", nats.InProcessServer(s))
		if err != nil {
			t.Fatal(err)
		}
		js := natsdtest.JetStream(t, nc)
		if round == 0 {
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "T", Subjects: []string{"a"}}); err != nil {
				t.Fatal(err)
			}
			if _, err := js.Publish(t.Context(), "a", []byte("acked")); err != nil {
				t.Fatal(err)
			}
		} else if st, err := js.Stream(t.Context(), "T"); err != nil || st.CachedInfo().State.Msgs != 1 {
			t.Errorf("the stream is %v, %v: want its message", st, err)
		}
		nc.Close()
		s.Close()
		blocks := filepath.Join(cfg.StoreDir, "jetstream", "$G", "streams", "T", "msgs")
		if err := os.WriteFile(filepath.Join(blocks, "2.blk"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(blocks, "index.db")); err != nil { // which a server writes that ends in order
			t.Fatal(err)
		}
	}
}
