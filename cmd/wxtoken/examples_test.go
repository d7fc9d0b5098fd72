//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/logtest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/services"
	"wxtoken/wechatsim"
)

// examples are the programs of the folder examples, and how each is made ready. Those that speak the
// same take the same commands.
var examples = []struct {
	name    string // of the folder
	http    bool   // it speaks HTTP with the gateway; otherwise NATS
	command func(t *testing.T) []string
}{
	{"node", false, func(t *testing.T) []string { return nodeProgram(t, "examples/node/wxtoken.mjs") }},
	{"python", false, func(t *testing.T) []string { return pythonProgram(t, "examples/python/wxtoken.py") }},
	{"c", false, func(t *testing.T) []string {
		dir := copied(t, "examples/c/wxtoken.c", "examples/c/Makefile")
		build(t, "libnats, cJSON and OpenSSL", "libnats-dev, libcjson-dev and libssl-dev", "make", "-C", dir)
		return []string{filepath.Join(dir, "wxtoken")}
	}},
	{"nats", false, func(t *testing.T) []string {
		for _, program := range []string{"bash", "nats", "jq", "xmllint"} { // xmllint is in libxml2-utils
			present(t, program)
		}
		return []string{copiedFile(t, "examples/nats/wxtoken")}
	}},
	{"php", true, func(t *testing.T) []string {
		return []string{present(t, "php"), copiedFile(t, "examples/php/wxtoken.php")}
	}},
	{"java", true, func(t *testing.T) []string {
		present(t, "javac") // java compiles the file with it
		return []string{present(t, "java"), copiedFile(t, "examples/java/Wxtoken.java")}
	}},
	{curlExample, true, func(t *testing.T) []string {
		for _, program := range []string{"bash", "curl", "jq"} {
			present(t, program)
		}
		return []string{copiedFile(t, "examples/curl/wxtoken")}
	}},
}

// curlExample is the example that receives no webhook.
const curlExample = "curl"

// TestExamples runs each example as a reader of its page would, as the user service of
// nats-server.conf, or with a gateway: a token is read and followed, a refused one reported, WeChat called,
// a message consumed, a message replied to, and an authorization cancelled.
func TestExamples(t *testing.T) {
	t.Parallel()
	l := newLifeOf(t, (len(examples)+1)/2)
	var keys []wxtoken.Key // one for each: none renews another's token or answers another's message
	for _, c := range l.components[:2] {
		for _, a := range c.Authorizers {
			keys = append(keys, wxtoken.AuthorizerKey(c.AppID, a))
		}
	}
	if len(keys) < len(examples) {
		t.Fatalf("%d accounts for %d examples", len(keys), len(examples))
	}
	var receivers []string
	for range examples {
		receivers = append(receivers, natsdtest.FreeAddr(t))
	}
	gateway := exampleGateway(l, keys, receivers)
	for i, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			x := exampleRun{life: l.in(t), name: e.name, key: keys[i], command: e.command(t)}
			x.env = []string{"NATS_URL=nats://" + x.nats.Addr().String(), "NATS_USER=service", "NATS_PASSWORD=secret-of-service"}
			x.accepted(x.key, 1)
			if e.http {
				x.receiver = receivers[i]
				x.env = []string{"GATEWAY_URL=" + gateway, "GATEWAY_KEY=" + realKey, "WEBHOOK_SECRET=" + webhookSecret, "WEBHOOK_LISTEN=" + x.receiver}
				eventually(t, "the gateway to know the account", func() error {
					_, err := x.once("token")
					return err
				})
			}
			t.Run("token", func(t *testing.T) { x.in(t).reads() })
			t.Run("follow", func(t *testing.T) { x.in(t).follows() })
			t.Run("report", func(t *testing.T) { x.in(t).reports() })
			switch {
			case !e.http:
				t.Run("messages", func(t *testing.T) { x.in(t).consumes() })
				t.Run("reply", func(t *testing.T) { x.in(t).replies("reply") })
			default:
				t.Run("call", func(t *testing.T) { x.in(t).calls() })
				if e.name != curlExample {
					t.Run("messages", func(t *testing.T) { x.in(t).receives() })
				}
			}
			t.Run("cancelled", func(t *testing.T) { x.in(t).cancels() })
		})
	}
}

// exampleRun is an example that is being run.
type exampleRun struct {
	*life
	name    string
	key     wxtoken.Key
	command []string
	env     []string // where and as what it asks
	// receiver is where it listens for webhooks; "": it speaks NATS.
	receiver string
}

// in is x for a part of a test.
func (x exampleRun) in(t *testing.T) exampleRun {
	x.life = x.life.in(t)
	return x
}

// reads: the token is printed once.
func (x exampleRun) reads() {
	out, err := x.once("token")
	if len(x.shown(out)) != 1 || err != nil {
		x.Errorf("it ended with %v:\n%s", err, out)
	}
}

// follows: the token is there, and so is the next one after its renewal.
func (x exampleRun) follows() {
	out := x.start("follow")
	eventually(x.T, "two tokens", func() error {
		if n := len(x.shown(out.String())); n < 2 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
}

// reports: a token that the platform refuses is reported, and the next one comes, which it takes.
func (x exampleRun) reports() {
	eventually(x.T, "a report to be taken", func() error { // a token that is younger than a second is too young
		if err := x.sim.Invalidate(x.key.Component, x.key.Authorizer); err != nil {
			x.Fatal(err)
		}
		out, err := x.once("report")
		if x.receiver == "" && !strings.Contains(out, "outcome: renewing\n") || err != nil {
			return fmt.Errorf("%v: %s", err, out)
		}
		next := x.shown(out)
		if len(next) != 1 {
			x.Fatalf("no other token:\n%s", out)
		}
		x.accepted(x.key, next[0])
		return nil
	})
}

// consumes: a message that was there before comes, and is acked.
func (x exampleRun) consumes() {
	x.push("news")
	out := x.start("messages")
	subject := "wechat.message." + x.key.Component + "." + x.key.Authorizer + ".text"
	eventually(x.T, "a message", func() error {
		if !strings.Contains(out.String(), subject) {
			return errors.New("not yet")
		}
		return nil
	})
	js := natsdtest.JetStream(x, x.service)
	eventually(x.T, "an ack", func() error {
		c, err := js.Consumer(x.Context(), events.StreamMessages, "example-"+x.name+"-"+x.key.Authorizer)
		if err != nil {
			return err
		}
		info := c.CachedInfo()
		if info.AckFloor.Consumer == 0 {
			return errors.New("not yet")
		}
		if week := 7 * 24 * time.Hour; info.Config.InactiveThreshold != week {
			x.Errorf("the consumer goes after %s, want %s: a service can't remove it", info.Config.InactiveThreshold, week)
		}
		return nil
	})
}

// calls: WeChat takes a call through the gateway, also after its token died.
func (x exampleRun) calls() {
	x.env = append(slices.Clone(x.env), "GATEWAY_KEY="+sdkKey) // this service has no token of WeChat's
	for _, dies := range []bool{false, true} {
		if dies {
			if err := x.sim.Invalidate(x.key.Component, x.key.Authorizer); err != nil {
				x.Fatal(err)
			}
		}
		eventually(x.T, "a call that WeChat takes", func() error { // a token that is younger than a second is not replaced
			out, err := x.once("call")
			if err != nil || out != "user oSimUser subscribe=1\n" {
				return fmt.Errorf("%v: %s", err, out)
			}
			return nil
		})
	}
}

// receives: messages come as a webhook, texts are replied to, and what is not signed is refused.
func (x exampleRun) receives() {
	out := x.replies("messages")
	line := x.key.Component + "." + x.key.Authorizer + ".text "
	if !strings.Contains(out.String(), line) {
		x.Errorf("no line for a message:\n%s", out)
	}
	req, err := http.NewRequestWithContext(x.Context(), http.MethodPost, "http://"+x.receiver, strings.NewReader("<xml/>"))
	if err != nil {
		x.Fatal(err)
	}
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	for name, value := range map[string]string{"webhook-id": "1", "webhook-timestamp": stamp, "webhook-signature": "v1,AAAA v1," + strings.Repeat("A", 43) + "="} {
		req.Header.Set(name, value)
	}
	resp, err := (&http.Client{Timeout: patience}).Do(req)
	if err != nil {
		x.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		x.Errorf("status %d for a message that is not signed, want 401", resp.StatusCode)
	}
}

// replies: the platform gets the reply to each text, in which tags are text.
func (x exampleRun) replies(command string) *logtest.Buffer {
	out := x.start(command)
	eventually(x.T, "it to listen", func() error {
		if !strings.Contains(strings.ToLower(out.String()), "listening on") {
			return errors.New("not yet")
		}
		return nil
	})
	const texts = 8 // the platform writes each in another way: with CDATA or entities, in another order
	said := func(i int) string { return fmt.Sprintf("<ToUserName>me</ToUserName> & text %d", i) }
	var wanted []string
	for i := range texts {
		wanted = append(wanted, "you said: "+said(i))
	}
	var pushed time.Time
	eventually(x.T, "the passive replies", func() error {
		missing := map[string]bool{}
		for _, reply := range wanted {
			missing[reply] = true
		}
		for _, e := range x.sim.History() {
			if !x.ours(e) || e.Kind != wechatsim.EntryPushAnswer || e.MsgType == "" {
				continue
			}
			if !slices.Contains(wanted, e.Content) {
				x.Fatalf("the reply is %q", e.Content)
			}
			delete(missing, e.Content)
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Since(pushed) > patience/10 { // what comes before the server knows of the listener gets no reply
			pushed = time.Now()
			for i, reply := range wanted {
				if missing[reply] {
					x.push(said(i))
				}
			}
		}
		return fmt.Errorf("%d of %d are missing", len(missing), texts)
	})
	return out
}

// cancels: who follows the token hears of its end, and there is none to be read then.
func (x exampleRun) cancels() {
	out := x.start("follow")
	eventually(x.T, "the token", func() error {
		if len(x.shown(out.String())) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := x.sim.Cancel(x.key.Component, x.key.Authorizer); err != nil {
		x.Fatal(err)
	}
	eventually(x.T, "word of the cancellation", func() error {
		if !strings.Contains(out.String(), x.key.String()+" was cancelled\n") {
			return errors.New("not yet")
		}
		return nil
	})
	eventually(x.T, "no token", func() error { // the mirror that it reads may be a moment behind
		read, err := x.once("token")
		if err == nil || len(x.shown(read)) > 0 {
			return fmt.Errorf("%v: %s", err, read)
		}
		return nil
	})
}

// ours reports whether an entry of the platform's history is about the account.
func (x exampleRun) ours(e wechatsim.Entry) bool {
	return e.Component == x.key.Component && e.Authorizer == x.key.Authorizer
}

// push has a user write to the account.
func (x exampleRun) push(content string) {
	x.Helper()
	if err := x.sim.PushMessage(x.key.Component, x.key.Authorizer, wechatsim.Message{Content: content}); err != nil {
		x.Fatal(err)
	}
}

// program is the example with one of its commands, not started yet, and where its output goes.
func (x exampleRun) program(ctx context.Context, command string) (*exec.Cmd, *logtest.Buffer) {
	cmd := exec.CommandContext(ctx, x.command[0], append(slices.Clone(x.command[1:]), command)...)
	cmd.Env = append(append(withoutContexts(x.T), x.env...), "WXTOKEN_KEY="+x.key.String())
	out := &logtest.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the script has processes of its own
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = patience
	return cmd, out
}

// once runs a command to its end, and returns what it printed.
func (x exampleRun) once(command string) (string, error) {
	x.Helper()
	ctx, cancel := context.WithTimeout(x.Context(), done)
	defer cancel()
	cmd, out := x.program(ctx, command)
	err := cmd.Run()
	x.clean(out)
	return out.String(), err
}

// start runs a command until the test is over.
func (x exampleRun) start(command string) *logtest.Buffer {
	x.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd, out := x.program(ctx, command)
	if err := cmd.Start(); err != nil {
		cancel()
		x.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	x.Cleanup(func() {
		select {
		case err := <-ended:
			x.Errorf("%s ended by itself: %v", command, err)
			ended <- err
		default:
		}
		cancel()
		<-ended
		x.clean(out)
		if x.Failed() {
			x.Logf("output of %s:\n%s", command, out)
		}
	})
	return out
}

// clean looks for what an example must not print: a secret, and a refusal by a permission.
func (x exampleRun) clean(out *logtest.Buffer) {
	x.Helper()
	for _, never := range []string{"SEKRET", "secret-of-", "iolation", "wxg1_", sdkKey, realKey, webhookSecret} {
		if strings.Contains(out.String(), never) {
			x.Errorf("%q in the output:\n%s", never, out)
		}
	}
}

var shownToken = regexp.MustCompile(`(?m)^(\S+) generation=(\d+) expires_at=(\S+) sha256=([0-9a-f]{16})$`)

// shown returns the generations of the tokens that an example printed. Each is one that the platform
// issued for the account.
func (x exampleRun) shown(out string) (generations []uint64) {
	x.Helper()
	for _, m := range shownToken.FindAllStringSubmatch(out, -1) {
		generation, err := strconv.ParseUint(m[2], 10, 64)
		if err != nil {
			x.Fatal(err)
		}
		issued := slices.ContainsFunc(x.sim.History(), func(e wechatsim.Entry) bool {
			return x.ours(e) && e.Kind == wechatsim.EntryIssue && e.What == "authorizer_access_token" && e.Secret == m[4]
		})
		if m[1] != x.key.String() || !issued {
			x.Errorf("a token that is not of %s: %s", x.key, m[0])
		}
		if _, err := time.Parse(time.RFC3339Nano, m[3]); err != nil {
			x.Error(err)
		}
		if n := len(generations); n > 0 && generation <= generations[n-1] {
			x.Errorf("generation %d after %d", generation, generations[n-1])
		}
		generations = append(generations, generation)
	}
	return generations
}

// realKey is the key of a service that gets WeChat's own tokens, and webhookSecret signs what the examples are sent.
const realKey, webhookSecret = "key-of-the-keeper", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// exampleGateway runs a gateway, and returns its address: it serves one service that calls, and sends the texts of each
// account to a receiver, and one that has to report tokens.
func exampleGateway(l *life, keys []wxtoken.Key, receivers []string) string {
	l.Helper()
	type object = map[string]any
	var hooks []object
	for i, e := range examples {
		if e.http {
			hooks = append(hooks, object{"url": "http://" + receivers[i] + "/", "reply": true, "secret": webhookSecret,
				"messages": []string{keys[i].Component + "/" + keys[i].Authorizer + "/text"}})
		}
	}
	all := []string{l.components[0].AppID + "/*", l.components[1].AppID + "/*"}
	text, err := json.Marshal(object{"services": []object{
		{"name": "shop", "keys": []string{services.Digest(sdkKey)}, "accounts": all, "may": []string{"relay"}, "webhooks": hooks},
		{"name": "keeper", "keys": []string{services.Digest(realKey)}, "accounts": all, "may": []string{"token", "real"}},
	}})
	if err != nil {
		l.Fatal(err)
	}
	_, address := gatewayFor(l.T, l.nats, l.simURL, string(text))
	return address
}

// present skips the test where a program is missing, and returns its name.
func present(t *testing.T, program string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("no %s here: the example takes it", program)
	}
	return program
}

// copiedFile is a copy of one file of the repository.
func copiedFile(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(copied(t, name), filepath.Base(name))
}

// copied copies files of the repository into a directory of the test.
func copied(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		from := filepath.Join("..", "..", filepath.FromSlash(name))
		info, err := os.Stat(from)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(from)), text, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// nodeProgram makes a program of the repository ready that wants nats.js: with what examples/node
// pins, from the npm registry.
func nodeProgram(t *testing.T, name string) []string {
	t.Helper()
	dir := copied(t, name, "examples/node/package.json", "examples/node/package-lock.json")
	install := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--prefer-offline", "--prefix", dir)
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("no nats.js here: npm, with node 20 and its registry, installs it: %v %s", err, out)
	}
	return []string{"node", filepath.Join(dir, filepath.Base(name))}
}

// pythonProgram takes nats.py as Python finds it.
func pythonProgram(t *testing.T, name string) []string {
	t.Helper()
	if err := exec.CommandContext(t.Context(), "python3", "-c", "import nats").Run(); err != nil {
		t.Skip("no nats.py here: install it where python3 looks")
	}
	return []string{"python3", filepath.Join(copied(t, name), filepath.Base(name))}
}

// build runs what builds a program in C, and skips the test where compiler or libraries are missing.
func build(t *testing.T, libraries, packages string, command ...string) {
	t.Helper()
	for _, program := range []string{"cc", command[0]} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s here: it builds a program in C", program)
		}
	}
	out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
	switch {
	case bytes.Contains(out, []byte(".h: No such file")):
		t.Skipf("no %s here: apt-get install %s", libraries, packages)
	case err != nil:
		t.Fatalf("%v %s", err, out)
	}
}
