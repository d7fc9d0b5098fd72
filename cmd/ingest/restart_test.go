//go:build unix

package main

import (
	"errors"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
)

// TestKilled kills the process in the middle of a push. WeChat's repeat then finds what is there.
func TestKilled(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name      string
		text      func() string
		crash     string
		before    uint64 // events when it was killed
		after     uint64 // events when the repeat was answered
		duplicate bool   // the repeat is nothing but one
	}{
		{"before a ticket is published", ticketText, "ingest.before_publish:1", 0, 1, false},
		{"after the ack for a ticket", ticketText, "ingest.after_puback:1", 1, 1, true},
		{"between the two events of an authorization", authorizedText, "ingest.after_puback:1", 1, 2, false},
		{"before the second event of an authorization", authorizedText, "ingest.before_publish:2", 1, 2, false},
		{"after both events of an authorization", authorizedText, "ingest.after_puback:2", 2, 2, true},
	}
	binary := filepath.Join(t.TempDir(), "ingest")
	if text, err := exec.Command("go", "build", "-ldflags=-w", "-tags", "crash", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build with the tag crash: %v\n%s", err, text)
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			srv := natsdtest.StartTCP(t)
			js := setup(t, srv)
			push := row.text()

			first := startBinary(t, binary, srv.ClientURL(), "WXTOKEN_CRASH="+row.crash)
			looktest.Until(t, "connected to NATS", func() bool { return strings.Contains(first.text(), "nats connected") })
			if status, body, err := first.push(t, push); err == nil {
				t.Fatalf("answer %d %q from a process that was to be killed", status, body)
			}
			state := first.wait(t)
			if ws, ok := state.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
				t.Fatalf("ingest ended with %v, want killed", state)
			}
			if got := stored(t, js); got != row.before {
				t.Fatalf("%d events after the kill, want %d", got, row.before)
			}

			second := start(t, srv.ClientURL())
			looktest.Until(t, "connected to NATS", func() bool { return strings.Contains(second.text(), "nats connected") })
			if status, body, err := second.push(t, push); err != nil || status != http.StatusOK || body != "success" {
				t.Fatalf("answer to the repeat %d %q, %v, want 200 success", status, body, err)
			}
			if got := stored(t, js); got != row.after {
				t.Errorf("%d events after the repeat, want %d", got, row.after)
			}
			want := "accepted"
			if row.duplicate {
				want = "duplicate"
			}
			if _, metrics := second.get(t, "/metrics"); !strings.Contains(metrics, `result="`+want+`"} 1`) {
				t.Errorf("the repeat is not counted as %s", want)
			}
		})
	}
}

// TestBuildWithoutCrash gives the variable of the test above to a program that is built as any
// other: it takes the push and lives.
func TestBuildWithoutCrash(t *testing.T) {
	t.Parallel()
	srv := natsdtest.StartTCP(t)
	js := setup(t, srv)
	p := start(t, srv.ClientURL(), "WXTOKEN_CRASH=ingest.before_publish:1")
	looktest.Until(t, "the push is taken", func() bool {
		status, body, err := p.push(t, ticketText())
		if err != nil {
			t.Fatalf("push: %v\n%s", err, p.text())
		}
		return status == http.StatusOK && body == "success"
	})
	if n := stored(t, js); n == 0 {
		t.Error("nothing was stored")
	}
}

// TestWithoutNATS starts before NATS is there and finds it when it comes.
func TestWithoutNATS(t *testing.T) {
	t.Parallel()
	srv := natsdtest.StartTCP(t)
	srv.Stop()
	p := start(t, srv.ClientURL())
	if status, body, err := p.push(t, ticketText()); err != nil || status != http.StatusServiceUnavailable || body != "retry" {
		t.Fatalf("answer %d %q, %v, want 503 retry", status, body, err)
	}
	if status, body := p.get(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "AUTH exists") {
		t.Errorf("readyz %d %s, want 503 that names the check of AUTH", status, body)
	}
	if status, _ := p.get(t, "/healthz"); status != http.StatusOK {
		t.Errorf("healthz %d, want 200", status)
	}

	srv.Restart()
	looktest.Until(t, "NATS is back, but without AUTH", func() bool {
		_, body := p.get(t, "/readyz")
		return strings.Contains(body, "refresher")
	})
	if status, body, err := p.push(t, ticketText()); err != nil || status != http.StatusServiceUnavailable || body != "retry" {
		t.Fatalf("answer without AUTH %d %q, %v, want 503 retry", status, body, err)
	}

	js := setup(t, srv)
	looktest.Until(t, "ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
	if status, body, err := p.push(t, ticketText()); err != nil || status != http.StatusOK || body != "success" {
		t.Fatalf("answer %d %q, %v, want 200 success", status, body, err)
	}
	if got := stored(t, js); got != 1 {
		t.Errorf("%d events, want 1: what was refused must not come later", got)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if state := p.wait(t); state.ExitCode() != 0 {
		t.Errorf("ended with %v, want exit code 0", state)
	}
}

// TestRestartsUnderLoad ends and starts the process while pushes come in, and looks that each that
// was answered with success is stored once, and each that was not at most once.
func TestRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	srv := natsdtest.StartTCP(t)
	js := setup(t, srv)
	var success, unanswered, number uint64
	for range 3 {
		p := start(t, srv.ClientURL())
		ended := make(chan struct{})
		var mu sync.Mutex
		var senders sync.WaitGroup
		for range 4 {
			senders.Go(func() {
				for {
					mu.Lock()
					number++
					push := text("unknown_type", "<n>"+strconv.FormatUint(number, 10)+"</n>")
					mu.Unlock()
					status, _, err := p.push(t, push)
					if errors.Is(err, syscall.ECONNREFUSED) {
						return // it has ended
					}
					mu.Lock()
					switch {
					case err == nil && status == http.StatusOK:
						success++
					case err != nil || status == http.StatusServiceUnavailable:
						unanswered++
					default:
						t.Errorf("answer %d", status)
					}
					mu.Unlock()
					select {
					case <-ended:
						return
					default:
					}
				}
			})
		}
		before := stored(t, js)
		looktest.Until(t, "20 events", func() bool { return stored(t, js) >= before+20 })
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if state := p.wait(t); state.ExitCode() != 0 {
			t.Errorf("ended with %v, want exit code 0", state)
		}
		close(ended)
		senders.Wait()
	}
	if got := stored(t, js); got < success || got > success+unanswered {
		t.Errorf("%d events, %d answers with success and %d without", got, success, unanswered)
	}
}
