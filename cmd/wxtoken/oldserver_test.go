//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"wxtoken/internal/logtest"
	"wxtoken/wechatsim"
)

// older returns an address on which a NATS server says that it is of another version.
func older(t *testing.T, srv *server.Server, version string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", srv.Addr().String())
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() {
				defer func() { _ = upstream.Close() }()
				_, _ = io.Copy(upstream, client)
			}()
			go func() {
				defer func() { _ = client.Close() }()
				from := bufio.NewReader(upstream)
				for {
					line, err := from.ReadBytes('\n')
					if bytes.HasPrefix(line, []byte("INFO ")) { // at the start, and again when something changed
						line = bytes.Replace(line, []byte(`"version":"`+server.VERSION+`"`), []byte(`"version":"`+version+`"`), 1)
					}
					if _, failed := client.Write(line); failed != nil || err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// TestServerTooOld: with a NATS server that is too old each process names its version and the one
// that it needs.
func TestServerTooOld(t *testing.T) {
	t.Parallel()
	srv := natsWith(t, func(*server.Options) {})
	for _, version := range []string{"2.14.9", "2.12.15"} {
		url := "nats://" + older(t, srv, version)
		names := "it is " + version + ", wxtoken needs 2.15 or newer"
		run := func(program string, args ...string) (*exec.Cmd, *logtest.Buffer, *logtest.Buffer) {
			cmd := exec.Command(filepath.Join(bin, program), append([]string{"--ops-addr=127.0.0.1:0", "--component-appid=" + wechatsim.DemoAppID}, args...)...)
			stdout, stderr := &logtest.Buffer{}, &logtest.Buffer{}
			cmd.Env, cmd.Stdout, cmd.Stderr = []string{"WXTOKEN_NATS_URL=" + url}, stdout, stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			return cmd, stdout, stderr
		}
		cmd, stdout, stderr := run("refresher", "--component-appsecret=0123456789abcdef0123456789abcdef")
		stuck := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), names) {
			t.Errorf("refresher on %s: %v\n%s", version, err, stderr)
		}
		stuck.Stop()
		lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
		var last struct{ Level, Error string }
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Level != "error" || !strings.Contains(last.Error, names) {
			t.Errorf("the last line of refresher on %s is %s", version, lines[len(lines)-1])
		}

		cmd, stdout, _ = run("ingest", "--http-addr=127.0.0.1:0", "--component-token-file=../../deploy/sim/token", "--component-aes-key-file=../../deploy/sim/aes_key")
		eventually(t, "ingest to name the version", func() error {
			if !regexp.MustCompile(`"level":"error".*` + regexp.QuoteMeta(names)).MatchString(stdout.String()) {
				return errors.New(stdout.String())
			}
			return nil
		})
		var at []string
		eventually(t, "the ops door of ingest", func() error {
			if at = regexp.MustCompile(`"server":"ops","addr":"([^"]+)"`).FindStringSubmatch(stdout.String()); at == nil {
				return errors.New(stdout.String())
			}
			return nil
		})
		eventually(t, "/readyz to name the version", func() error {
			resp, err := http.Get("http://" + at[1] + "/readyz")
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), names) || strings.Contains(string(body), "creates it") {
				return errors.Join(errors.New(resp.Status+" "+string(body)), err)
			}
			return nil
		})
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, program := range []string{"ingest", "refresher"} {
			if code, out := checks(t, program, url); code != 1 || !says(out, "FAIL", "nats", ".*"+regexp.QuoteMeta(names), "newer nats-server") {
				t.Errorf("%s --check on %s: %d\n%s", program, version, code, out)
			}
		}
	}
}
