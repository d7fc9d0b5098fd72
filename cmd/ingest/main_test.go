//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/internal/wechat"
)

// beMain makes the test binary be the program.
const beMain = "INGEST_TEST_BE_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(beMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

const (
	component = "wx0123456789abcdef"
	token     = "SEKRETtoken"
	aesKey    = "SEKRETkey0123456789abcdefghijklmnopqrstuvwx"
	ticket    = "ticket@@@SEKRET-ticket"
	authPath  = "/wechat/" + component + "/auth"
	patience  = time.Minute // a slow machine is no fault
)

// process is a running ingest.
type process struct {
	cmd   *exec.Cmd
	addr  string // of the pushes
	ops   string
	ended chan struct{}

	mu     sync.Mutex
	output bytes.Buffer
}

// start starts the program against a NATS server and waits until it listens.
func start(t *testing.T, natsURL string, env ...string) *process {
	t.Helper()
	return startBinary(t, os.Args[0], natsURL, env...)
}

// startBinary is start of another build of the program.
func startBinary(t *testing.T, binary, natsURL string, env ...string) *process {
	t.Helper()
	p := &process{
		cmd:   exec.Command(binary, "--http-addr=127.0.0.1:0", "--ops-addr=127.0.0.1:0", "--log-level=debug", "--log-format=json", "--nats-url="+natsURL),
		ended: make(chan struct{}),
	}
	p.cmd.Env = append([]string{
		beMain + "=1", "WXTOKEN_COMPONENT_APPID=" + component, "WXTOKEN_COMPONENT_TOKEN=" + token, "WXTOKEN_COMPONENT_AES_KEY=" + aesKey,
	}, env...)
	reader, writer := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = writer, writer
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its state tells
		_ = writer.Close()
		close(p.ended)
	}()
	listening := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(reader)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var line struct{ Msg, Server, Addr string }
			_ = json.Unmarshal(lines.Bytes(), &line) // a line that is not JSON is not the one
			p.mu.Lock()
			p.output.Write(lines.Bytes())
			p.output.WriteByte('\n')
			p.mu.Unlock()
			if line.Msg != "server listening" {
				continue
			}
			if line.Server == "pushes" {
				p.addr = line.Addr
				continue
			}
			p.ops = line.Addr
			close(listening) // the second of the two
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("output of ingest:\n%s", p.text())
		}
		if strings.Contains(p.text(), "SEKRET") {
			t.Error("ingest printed a secret")
		}
	})
	select {
	case <-listening:
	case <-p.ended:
		t.Fatal("ingest ended instead of listening")
	case <-time.After(patience):
		t.Fatal("ingest does not listen")
	}
	return p
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// wait waits for the end of the process.
func (p *process) wait(t *testing.T) *os.ProcessState {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState
	case <-time.After(patience):
		t.Fatal("ingest does not end")
		return nil
	}
}

// client keeps no connection, so that none stands in the way of an orderly end.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// push delivers text as WeChat would. It returns an error when the connection broke.
func (p *process) push(t *testing.T, text string) (status int, body string, err error) {
	t.Helper()
	query, envelope := sealed(t, text)
	resp, err := client.Post("http://"+p.addr+authPath+"?"+query, "text/xml", bytes.NewReader(envelope))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer), err
}

// sealed returns the query and the body of a push.
func sealed(t *testing.T, text string) (query string, body []byte) {
	t.Helper()
	crypter, err := wechat.NewCrypter(wechat.Keys{AppID: component, Tokens: []string{token}, AESKeys: []string{aesKey}})
	if err != nil {
		t.Fatal(err)
	}
	reply, err := crypter.Answer(wechat.Opened{}, strconv.FormatInt(time.Now().Unix(), 10), "1590219412", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return "encrypt_type=aes&timestamp=" + reply.Timestamp + "&nonce=" + reply.Nonce + "&msg_signature=" + reply.MsgSignature,
		[]byte("<xml><AppId>" + component + "</AppId><Encrypt>" + reply.Encrypt + "</Encrypt></xml>")
}

func ticketText() string {
	return text("component_verify_ticket", "<ComponentVerifyTicket>"+ticket+"</ComponentVerifyTicket>")
}

func authorizedText() string {
	return text("authorized", "<AuthorizerAppid>wxfedcba9876543210</AuthorizerAppid><AuthorizationCode>queryauthcode@@@SEKRET</AuthorizationCode>")
}

func text(infoType, fields string) string {
	return fmt.Sprintf("<xml><AppId>%s</AppId><CreateTime>%d</CreateTime><InfoType>%s</InfoType>%s</xml>", component, time.Now().Unix(), infoType, fields)
}

// get returns the answer of the operations address.
func (p *process) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	resp, err := client.Get("http://" + p.ops + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// setup makes the streams.
func setup(t *testing.T, srv *natsdtest.Server) jetstream.JetStream {
	t.Helper()
	nc := srv.Connect()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	streamstest.Setup(t, nc, js, events.SetupConfig{MessagesMaxAge: time.Hour})
	return js
}

// stored returns how many messages lie on both streams.
func stored(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	var n uint64
	for _, name := range []string{events.StreamAuth, events.StreamMessages} {
		s, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		n += s.CachedInfo().State.Msgs
	}
	return n
}

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
			eventually(t, "connected to NATS", func() bool { return strings.Contains(first.text(), "nats connected") })
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
	eventually(t, "the push is taken", func() bool {
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
	eventually(t, "NATS is back, but without AUTH", func() bool {
		_, body := p.get(t, "/readyz")
		return strings.Contains(body, "refresher")
	})
	if status, body, err := p.push(t, ticketText()); err != nil || status != http.StatusServiceUnavailable || body != "retry" {
		t.Fatalf("answer without AUTH %d %q, %v, want 503 retry", status, body, err)
	}

	js := setup(t, srv)
	eventually(t, "ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
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
		eventually(t, "20 events", func() bool { return stored(t, js) >= before+20 })
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

// TestProtocol sends what an HTTP client would not.
func TestProtocol(t *testing.T) {
	t.Parallel()
	srv := natsdtest.StartTCP(t)
	js := setup(t, srv)
	p := start(t, srv.ClientURL())
	eventually(t, "ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
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
	eventually(t, "ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
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
	eventually(t, "ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
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
	eventually(t, "ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
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
	eventually(t, "the component that was added", answers(http.StatusForbidden))
	write(component+"/token", token)
	write(component+"/token_previous", "SEKRETwrong")
	eventually(t, "its other token", answers(http.StatusOK))
	if got := stored(t, js); got != 1 {
		t.Errorf("%d events, want 1", got)
	}
	if err := os.RemoveAll(filepath.Join(dir, component)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the component that was removed", answers(http.StatusNotFound))
	for _, msg := range []string{"component added", "component's secrets changed", "component removed"} {
		if !regexp.MustCompile(`"component":"` + component + `".*"msg":"` + msg + `"`).MatchString(p.text()) {
			t.Errorf("%q is not in the log", msg)
		}
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
