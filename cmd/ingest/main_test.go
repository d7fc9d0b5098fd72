//go:build unix

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
)

// TestProtocol sends what an HTTP client would not.
func TestProtocol(t *testing.T) {
	t.Parallel()
	srv := natsdtest.StartTCP(t)
	js := setup(t, srv)
	p := start(t, srv.ClientURL())
	looktest.Until(t, "ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
	query, body := sealed(t, ticketText())
	head := func(first, fields string) string { return first + "\r\n" + fields + "\r\n" }
	push := "POST " + authPath + "?" + query + " HTTP/1.1"
	sized := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	const host = "Host: push.example\r\n"
	rows := []struct {
		name    string
		send    string
		answers []string // status lines may begin with one of these; empty: the connection is closed, whatever it says
		stored  uint64   // by all rows up to here
	}{
		{"a push", head(push, host+sized) + string(body), []string{"HTTP/1.1 200"}, 1},
		{"no Host", head(push, sized) + string(body), []string{"HTTP/1.1 400"}, 1},
		{"two lengths", head(push, host+sized+"Content-Length: 5\r\n") + string(body), []string{"HTTP/1.1 400"}, 1},
		{"length and chunks", head(push, host+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + chunked, []string{"HTTP/1.1 200", "HTTP/1.1 400"}, 1},
		{"unknown transfer encoding", head(push, host+"Transfer-Encoding: xchunked\r\n") + chunked, []string{"HTTP/1.1 501"}, 1},
		{"large header", head(push, host+"X: "+strings.Repeat("a", 16<<10)+"\r\n"), []string{"HTTP/1.1 431"}, 1},
		{"large URL", head("POST /"+strings.Repeat("a", 16<<10)+" HTTP/1.1", host), []string{"HTTP/1.1 431"}, 1},
		{"large User-Agent", head(push, host+"User-Agent: "+strings.Repeat("a", 1<<20)+"\r\n"), []string{"HTTP/1.1 431"}, 1},
		{"line break in a header", head(push, host+"User-Agent: a\rb\r\n"), []string{"HTTP/1.1 400"}, 1},
		{"HTTP/0.9", "POST " + authPath + "\r\n\r\n", []string{"HTTP/1.1 400"}, 1},
		{"HTTP/3.7", head("POST "+authPath+" HTTP/3.7", host), []string{"HTTP/1.1 505"}, 1},
		{"bad method", head("P(ST "+authPath+" HTTP/1.1", host), []string{"HTTP/1.1 400"}, 1},
		{"CONNECT", head("CONNECT example.org:443 HTTP/1.1", host), []string{"HTTP/1.1 405"}, 1},
		{"absolute URI", head("POST http://example.org"+authPath+"?"+query+" HTTP/1.1", host+sized) + string(body), []string{"HTTP/1.1 400"}, 1},
		{"HTTP/2 upgrade", head("GET "+authPath+" HTTP/1.1", host+"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"), []string{"HTTP/1.1 405"}, 1},
		{"body that does not come", head(push, host+"Content-Length: 1000000000\r\n"), []string{"HTTP/1.1 408"}, 1},
		{"body that stops", head(push, host+sized) + string(body[:len(body)-1]), []string{"HTTP/1.1 408"}, 1},
		{"headers that stop", push + "\r\nHo", nil, 1},
	}
	for _, row := range rows {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, row.send) // the server may hang up before it has read all
		line, err := bufio.NewReader(conn).ReadString('\n')
		_ = conn.Close()
		good := len(row.answers) == 0 && !errors.Is(err, os.ErrDeadlineExceeded)
		for _, answer := range row.answers {
			good = good || strings.HasPrefix(line, answer)
		}
		if !good {
			t.Errorf("%s: answer %q, %v, want one of %q", row.name, line, err, row.answers)
		}
		if got := stored(t, js); got != row.stored {
			t.Fatalf("%s: %d events, want %d", row.name, got, row.stored)
		}
	}

	// A second request behind one whose length is in doubt is never executed.
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	query, other := sealed(t, text("smuggled", ""))
	smuggled := head("POST "+authPath+"?"+query+" HTTP/1.1", host+fmt.Sprintf("Content-Length: %d\r\n", len(other))) + string(other)
	if _, err := io.WriteString(conn, head(push, host+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")+chunked+smuggled); err != nil {
		t.Fatal(err)
	}
	all, _ := io.ReadAll(conn) // until the server closes the connection
	if n := bytes.Count(all, []byte("HTTP/1.1 ")); n != 1 {
		t.Errorf("%d answers to a request of doubtful length and one behind it, want 1", n)
	}
	if got := stored(t, js); got != 1 {
		t.Errorf("%d events, want 1: a smuggled request was executed", got)
	}
}

// TestHangUp sends a whole push and does not wait for the answer.
func TestHangUp(t *testing.T) {
	t.Parallel()
	srv := natsdtest.StartTCP(t)
	js := setup(t, srv)
	p := start(t, srv.ClientURL())
	looktest.Until(t, "ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
	push := ticketText()
	query, body := sealed(t, push)
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	request := fmt.Sprintf("POST %s?%s HTTP/1.1\r\nHost: push.example\r\nContent-Length: %d\r\n\r\n%s", authPath, query, len(body), body)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if status, _, err := p.push(t, push); err != nil || status != http.StatusOK {
		t.Fatalf("answer to the repeat %d, %v, want 200", status, err)
	}
	if got := stored(t, js); got != 1 {
		t.Errorf("%d events, want 1", got)
	}
}

// TestCrowd opens more silent connections than are allowed, and then sends a push.
func TestCrowd(t *testing.T) {
	t.Parallel()
	srv := natsdtest.StartTCP(t)
	setup(t, srv)
	p := start(t, srv.ClientURL())
	looktest.Until(t, "ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
	for range 800 {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if status, body, err := p.push(t, ticketText()); err != nil || status != http.StatusOK || body != "success" {
		t.Errorf("answer %d %q, %v, want 200 success", status, body, err)
	}
}

// TestComponentsChange adds a component's folder while the process runs, changes a token, and
// removes the folder.
func TestComponentsChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wxother/token", token)
	write("wxother/aes_key", aesKey)
	srv := natsdtest.StartTCP(t)
	js := setup(t, srv)
	p := start(t, srv.ClientURL(), "WXTOKEN_COMPONENT_APPID=", "WXTOKEN_COMPONENT_TOKEN=", "WXTOKEN_COMPONENT_AES_KEY=", "WXTOKEN_COMPONENTS_DIR="+dir)
	looktest.Until(t, "ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
	answers := func(want int) func() bool {
		return func() bool {
			status, _, err := p.push(t, ticketText())
			if err != nil {
				t.Fatal(err)
			}
			return status == want
		}
	}
	if !answers(http.StatusNotFound)() {
		t.Fatal("a component that nobody named is not answered with 404")
	}
	write(component+"/token", "SEKRETwrong")
	write(component+"/aes_key", aesKey)
	looktest.Until(t, "the component that was added", answers(http.StatusForbidden))
	write(component+"/token", token)
	write(component+"/token_previous", "SEKRETwrong")
	looktest.Until(t, "its other token", answers(http.StatusOK))
	if got := stored(t, js); got != 1 {
		t.Errorf("%d events, want 1", got)
	}
	if err := os.RemoveAll(filepath.Join(dir, component)); err != nil {
		t.Fatal(err)
	}
	looktest.Until(t, "the component that was removed", answers(http.StatusNotFound))
	for _, msg := range []string{"component added", "component's secrets changed", "component removed"} {
		said := regexp.MustCompile(`"component":"` + component + `".*"msg":"` + msg + `"`)
		looktest.Until(t, msg+" in the log", func() bool { return said.MatchString(p.text()) }) // it is said once it holds
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if state := p.wait(t); state.ExitCode() != 0 {
		t.Errorf("ended with %v, want exit code 0", state)
	}
}

// TestSettings runs the program with settings that it refuses, or that make it end at once.
func TestSettings(t *testing.T) {
	t.Parallel()
	good := []string{"WXTOKEN_COMPONENT_APPID=" + component, "WXTOKEN_COMPONENT_TOKEN=" + token, "WXTOKEN_COMPONENT_AES_KEY=" + aesKey}
	rows := []struct {
		name string
		args []string
		env  []string
		code int
		says []string
	}{
		{"help", []string{"--help"}, nil, 0, []string{"--http-addr=:8080", "WXTOKEN_HTTP_ADDR", "--ops-addr=127.0.0.1:8082", "--component-token-file"}},
		{"version", []string{"--version"}, nil, 0, []string{"ingest "}},
		{"nothing", nil, nil, 2, []string{"--component-appid (WXTOKEN_COMPONENT_APPID)"}},
		{"all at once", []string{"--http-addr=here", "--ops-addr=0.0.0.0:1", "--nats-url=x", "--drain=1h"}, []string{"WXTOKEN_COMPONENT_APPID=" + component, "WXTOKEN_COMPONENT_AES_KEY=SEKRET"}, 2,
			[]string{"--http-addr", "--ops-addr", "--nats-url", "--drain (WXTOKEN_DRAIN)", "--component-token", "--component-aes-key"}},
		{"unknown flag", []string{"--htp-addr=:1"}, good, 2, []string{"--htp-addr"}},
		{"address that is not ours", []string{"--http-addr=192.0.2.1:1"}, good, 1, []string{"listen for pushes", "192.0.2.1:1"}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], row.args...)
			cmd.Env = append([]string{beMain + "=1", "WXTOKEN_NATS_URL=nats://127.0.0.1:1"}, row.env...)
			output, _ := cmd.CombinedOutput() // the code tells
			if code := cmd.ProcessState.ExitCode(); code != row.code {
				t.Errorf("exit code %d, want %d", code, row.code)
			}
			for _, words := range row.says {
				if !bytes.Contains(output, []byte(words)) {
					t.Errorf("output lacks %q:\n%s", words, output)
				}
			}
			if bytes.Contains(output, []byte("SEKRET")) {
				t.Errorf("a secret in the output:\n%s", output)
			}
		})
	}
}
