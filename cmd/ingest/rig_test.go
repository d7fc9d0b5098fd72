//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
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

// setup makes the streams.
func setup(t *testing.T, srv *natsdtest.Server) jetstream.JetStream {
	t.Helper()
	nc := srv.Connect()
	js := natsdtest.JetStream(t, nc)
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
