package services_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"wxtoken/internal/logtest"
	"wxtoken/internal/services"
)

// write puts a text in the place of the services file.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// fileOf is a services file with these services, the key of each being its name.
func fileOf(names ...string) string {
	var entries []string
	for _, name := range names {
		entries = append(entries, fmt.Sprintf(`{"name":%q,"keys":[%q]}`, name, services.Digest(name)))
	}
	return `{"services":[` + strings.Join(entries, ",") + `]}`
}

// closed reports whether a channel is.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// A faulty file changes nothing and is said once, a good one is taken.
func TestWatch(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "services.json")
	synctest.Test(t, func(t *testing.T) {
		var out logtest.Buffer
		write(t, path, fileOf("a"))
		w, err := services.Open(path, zerolog.New(&out))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()
		look := func() { // long enough for several readings
			time.Sleep(20 * time.Second)
			synctest.Wait()
		}
		in := func(names ...string) bool {
			for _, name := range names {
				if _, ok := w.Now().ByKey(name); !ok {
					return false
				}
			}
			return len(w.Now().All()) == len(names)
		}
		summary := func(what string) int { return strings.Count(out.String(), what) }

		before := w.Changed()
		look()
		if !in("a") || closed(before) || out.String() != "" {
			t.Fatalf("without a change: %s", out.String())
		}
		write(t, path, fileOf("a", "b"))
		look()
		if !in("a", "b") || !closed(before) || summary("services read") != 1 {
			t.Fatalf("a second service is not taken: %s", out.String())
		}
		before = w.Changed()
		whole := fileOf("a", "b", "c")
		for n, text := range []string{whole[:len(whole)/2], `{"services":[{"name":"c","keys":["SEKRET"]}]}`, ""} {
			write(t, path, text)
			look()
			if !in("a", "b") || closed(before) || summary("services file refused") != n+1 {
				t.Errorf("file %q: %d services in force, said: %s", text, len(w.Now().All()), out.String())
			}
		}
		if strings.Contains(out.String(), "SEKRET") {
			t.Errorf("a key is in the log: %s", out.String())
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		look()
		if !in("a", "b") || closed(before) || summary("services file refused") != 4 {
			t.Errorf("the file gone: %s", out.String())
		}
		write(t, path, fileOf("a", "b")) // what was in force: nothing to say
		look()
		if closed(before) {
			t.Error("the same file is a change")
		}
		if err := os.Remove(path); err != nil { // the same fault as before
			t.Fatal(err)
		}
		look()
		if summary("services file refused") != 5 {
			t.Errorf("a fault that came back is not said: %s", out.String())
		}
		write(t, path, fileOf("c"))
		look()
		if !in("c") || !closed(before) {
			t.Errorf("the good file is not taken: %s", out.String())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "services.json")
	for what, text := range map[string]string{"no file": "", "faulty": `{"services":[{"name":"a"}]}`, "too large": strings.Repeat(" ", 16<<20) + "{}"} {
		if text != "" {
			write(t, path, text)
		}
		if _, err := services.Open(path, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "services file: ") {
			t.Errorf("%s: error %v", what, err)
		}
	}
	w, err := services.Open("", zerolog.Nop())
	if err != nil || len(w.Now().All()) != 0 {
		t.Errorf("without a path: %v, %v", w, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Run(ctx); err != nil || closed(w.Changed()) {
		t.Errorf("Run without a path: %v", err)
	}
	fixed := services.Fixed(parse(t, fileOf("a")))
	if _, ok := fixed.Now().ByKey("a"); !ok || closed(fixed.Changed()) {
		t.Error("fixed services are not there")
	}
}

// A change between Open and Run is not overlooked.
func TestWatchMissesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "services.json")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, fileOf("a"))
		w, err := services.Open(path, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, fileOf("b"))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if _, ok := w.Now().ByKey("b"); !ok {
			t.Error("the service that came between Open and Run is not in force")
		}
		cancel()
		<-ended
	})
}
