//go:build linux

package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// program is a process that a benchmark has beside it.
type program struct {
	cmd  *exec.Cmd
	said syncBuffer
}

// begin starts a program, which ends with the benchmark.
func begin(b *testing.B, path string, flags, env []string) *program {
	b.Helper()
	p := &program{cmd: exec.Command(path, flags...)}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if b.Failed() {
			b.Logf("%s said at last:\n%s", filepath.Base(path), tail(p.said.String(), 3000))
		}
	})
	return p
}

// computed returns the time that the process has computed. Other load on the machine hardly shows in it.
func (p *program) computed(b *testing.B) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))
	user, _ := strconv.Atoi(fields[12])
	system, _ := strconv.Atoi(fields[13])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// beginNATS starts nats-server with an empty store and a sync_interval, and returns its URL.
func beginNATS(b *testing.B, sync string) (*program, string) {
	b.Helper()
	dir := b.TempDir()
	conf := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nports_file_dir: %q\njetstream { store_dir: %q, sync_interval: %q }\n", dir, filepath.Join(dir, "data"), sync)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	p := begin(b, filepath.Join(programsOf(b), "nats-server"), []string{"-c", conf}, nil)
	url := ""
	poll(b, func() (err error) {
		url, err = urlIn(dir)
		return err
	})
	return p, url
}

// urlIn returns the address that nats-server has written into its ports_file_dir.
func urlIn(dir string) (string, error) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.ports"))
	if len(files) == 0 {
		return "", errors.New("nats-server has not said where it listens")
	}
	said, err := os.ReadFile(files[0])
	if err != nil {
		return "", err
	}
	var ports struct{ Nats []string }
	if err := json.Unmarshal(said, &ports); err != nil || len(ports.Nats) == 0 {
		return "", fmt.Errorf("%s: %s", files[0], said)
	}
	return ports.Nats[0], nil
}

// programsOf returns the folder of the programs.
func programsOf(b *testing.B) string {
	b.Helper()
	dir, err := built()
	if err != nil {
		b.Fatal(err)
	}
	return dir
}

// dial returns a connection that ends with the benchmark.
func dial(b *testing.B, url string) *nats.Conn {
	b.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	return nc
}
