//go:build unix

package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"wxtoken/client"
	"wxtoken/internal/services"
	"wxtoken/wechatsim"
)

const (
	// sdkTokenLife is how long WeChat's tokens live here: a tenth of it is how old one has to be to be replaced before its time.
	sdkTokenLife = 40 * time.Second
	// sdkKey is the key that the SDKs have for a secret.
	sdkKey = "key-of-the-shop"
	// smallFile is uploaded again by the gateway when its token is refused; largeFile is longer than --retry-body.
	smallFile, largeFile = 300_000, 3 << 20 // bytes
	silenceperProgram    = "silenceper"
)

// TestSDKs runs what services are written with against the gateway as it is deployed: they are told its address, an appid and a key
// in the places of WeChat's address, the appid and its secret, and nothing else.
func TestSDKs(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name    string
		command func(t *testing.T) []string // but for address, appid and secret
		repeats bool                        // it makes a call once more by itself when the token is refused, with the whole file
	}{
		{"node-easywechat", npmProgram("node-easywechat.mjs", "node-easywechat@3.6.2", "node-socialite@1.4.1"), false},
		{"co-wechat-api", npmProgram("co-wechat-api.mjs", "co-wechat-api@3.11.0"), false},
		{"wechat-api", npmProgram("wechat-api.mjs", "wechat-api@1.35.1"), true},
		{"silenceper", silenceper, false},
		{"wechatpy", wechatpy, false},
		{"EasyWeChat", easyWeChat, false},
		{"WxJava", wxJava, true},
	}
	s := newSDKSystem(t, len(rows))
	for i, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s.prove(t, row.command(t), s.accounts[i], row.repeats)
		})
	}
}

// sdkSystem is wxtoken as it is deployed, with a gateway and a platform that has no bad days.
type sdkSystem struct {
	sim      *wechatsim.Platform
	gateway  running
	address  string
	accounts []string
}

func newSDKSystem(t *testing.T, accounts int) *sdkSystem {
	t.Helper()
	srv := shipped(t, "nats-server.conf")
	files := filepath.Join("..", "..", "deploy", "sim")
	in := deployed(t, "ingest", srv, "--http-addr=127.0.0.1:0", "--component-token-file="+filepath.Join(files, "token"), "--component-aes-key-file="+filepath.Join(files, "aes_key"))
	config := wechatsim.Config{
		Components: wechatsim.Demo(sdkTokenLife, accounts, "http://"+in.find(t, `"server":"pushes","addr":"([^"]+)"`)).Components,
		TokenLife:  sdkTokenLife, KeepMedia: 2 * smallFile,
	}
	sim, err := wechatsim.New(config)
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewServer(sim.Handler())
	t.Cleanup(api.Close)
	deployed(t, "refresher", srv, "--component-appsecret-file="+filepath.Join(files, "appsecret"), "--sweep-every=1s", "--wechat-api-url="+api.URL)

	s := &sdkSystem{sim: sim, accounts: config.Components[0].Authorizers}
	s.gateway, s.address = gatewayFor(t, srv, api.URL, fmt.Sprintf(`{"services":[{"name":"shop","keys":[%q],"accounts":["%s/*"],"may":["relay","component"]}]}`,
		services.Digest(sdkKey), wechatsim.DemoAppID))
	begin(t, sim)
	return s
}

// gatewayFor runs a gateway for the services of a services file, and returns its address too.
func gatewayFor(t *testing.T, srv *server.Server, wechat, servicesFile string) (gateway running, address string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"services.json": servicesFile, "token.key": strings.Repeat("A", 43) + "=\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gateway = deployedAs(t, "gateway", srv, "--http-addr=127.0.0.1:0", "--wechat-api-url="+wechat,
		"--services-file="+filepath.Join(dir, "services.json"), "--token-key-file="+filepath.Join(dir, "token.key"))
	return gateway, "http://" + gateway.find(t, `"server":"gateway","addr":"([^"]+)"`)
}

// prove has an SDK get a token, call, upload and download, and kills WeChat's token again and again.
func (s *sdkSystem) prove(t *testing.T, command []string, appid string, repeats bool) {
	p := startSDK(t, append(command, s.address, appid, sdkKey))
	key := wxtoken.AuthorizerKey(wechatsim.DemoAppID, appid)
	eventually(t, "a token of "+appid, func() error { // the account may not be there yet
		if out, ok := p.try("token"); !ok {
			return errors.New(out)
		}
		return nil
	})
	small, large := sdkFile(t, "small.jpg", smallFile), sdkFile(t, "large.jpg", largeFile)

	token := p.must("token")
	if !strings.HasPrefix(token, "wxg1_") {
		t.Errorf("it has the token %.8s...: want one of the gateway's", token)
	}
	if user := p.must("users"); user != "oSimUser" {
		t.Errorf("users: %s", user)
	}
	id := p.must("upload " + small.path)
	if sum := p.must("download " + id); sum != small.sum {
		t.Errorf("the file comes back as %s, want %s", sum, small.sum)
	}
	p.must("upload " + large.path)

	for api, step := range map[string]string{"user/get": "users", "menu/create": "menu", "media/upload": "upload " + small.path, "media/get": "download " + id} {
		s.kill(t, appid)
		since := s.since()
		out := p.must(step)
		if api == "media/get" && out != small.sum {
			t.Errorf("the file comes back as %s after the token was killed", out)
		}
		refused, worked := s.calls(since, appid, api)
		if worked != 1 || refused > 1 {
			t.Errorf("%s with a killed token: WeChat refused %d calls and did %d, want 1 and 1", api, refused, worked)
		}
	}

	s.logIn(p, appid)

	if handed := s.handed(t, key); handed != 1 {
		t.Errorf("it asked for %d tokens, want 1", handed)
	}
	if filepath.Base(command[0]) == silenceperProgram { // as the component itself, with a ticket and a refresh token that it made up
		if user := p.must("component " + wechatsim.DemoAppID); user != "oSimUser" {
			t.Errorf("users, as a component: %s", user)
		}
		if handed := s.handed(t, wxtoken.ComponentKey(wechatsim.DemoAppID)); handed != 1 {
			t.Errorf("it asked for %d tokens of the component, want 1", handed)
		}
	}

	// What is too long to be kept is handed on with WeChat's refusal, and some SDKs ask for a token then; the next try has a good one.
	s.kill(t, appid)
	if out, ok := p.try("upload " + large.path); repeats && !ok {
		t.Errorf("its own second try of a large upload: %s", out)
	} else if !repeats {
		t.Logf("a large upload with a killed token: %s", out)
	}
	eventually(t, "a large upload", func() error {
		if id, ok := p.try("upload " + large.path); !ok || len(id) < 32 {
			return errors.New(id)
		}
		return nil
	})
	p.end()
}

// logIn has users log in through the SDKs that can do so at another address than WeChat's.
func (s *sdkSystem) logIn(p *sdkProgram, appid string) {
	p.Helper()
	steps := map[string][]string{
		"silenceper": {"session", "login"}, "wechatpy": {"session", "login"}, "node-easywechat": {"session"}, "EasyWeChat": {"session"}, "WxJava": {"login"},
	}
	for _, step := range steps[path.Base(p.Name())] {
		if user := p.must(step + " userinfo-" + step + "-" + appid); user != "oSimUser" {
			p.Errorf("%s: %s", step, user)
		}
	}
}

// kill lets WeChat's token of an account die, as soon as it is old enough to be replaced before its time.
func (s *sdkSystem) kill(t *testing.T, appid string) {
	t.Helper()
	eventually(t, "a token that is old enough", func() error {
		if age := time.Since(s.newest(appid).Time); age < sdkTokenLife/10+time.Second {
			return fmt.Errorf("it is %s old", age)
		}
		return nil
	})
	if err := s.sim.Invalidate("", appid); err != nil {
		t.Fatal(err)
	}
}

// newest returns the entry of the newest token that WeChat gave for an account.
func (s *sdkSystem) newest(appid string) (newest wechatsim.Entry) {
	for _, e := range s.sim.History() {
		if e.Kind == wechatsim.EntryIssue && e.Authorizer == appid && e.What == "authorizer_access_token" {
			newest = e
		}
	}
	return newest
}

// since returns the number of the last entry.
func (s *sdkSystem) since() int {
	all := s.sim.History()
	return all[len(all)-1].Seq
}

// calls counts the calls of an API for an account after an entry.
func (s *sdkSystem) calls(since int, appid, api string) (refused, worked int) {
	for _, e := range s.sim.HistorySince(since) {
		switch {
		case e.Kind != wechatsim.EntryCall || e.Authorizer != appid || e.API != api:
		case e.Errcode == 0:
			worked++
		default:
			refused++
		}
	}
	return refused, worked
}

// output is what the gateway has printed.
func (s *sdkSystem) output(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(s.gateway.output)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// handed counts the tokens that the gateway handed out for an account.
func (s *sdkSystem) handed(t *testing.T, key wxtoken.Key) (n int) {
	t.Helper()
	for line := range bytes.Lines(s.output(t)) {
		if bytes.Contains(line, []byte("token handed out")) && bytes.Contains(line, []byte(`"`+key.String()+`"`)) {
			n++
		}
	}
	return n
}

// sdkProgram is a program that runs an SDK: it is told steps, one a line, and answers each with a line.
type sdkProgram struct {
	*testing.T
	steps   io.WriteCloser
	answers *bufio.Scanner
	cmd     *exec.Cmd
}

func startSDK(t *testing.T, command []string) *sdkProgram {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Dir, cmd.Stderr = t.TempDir(), t.Output() // some keep their tokens in a file
	cmd.Env = append(os.Environ(), "TMPDIR="+cmd.Dir)
	steps, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &sdkProgram{t, steps, bufio.NewScanner(out), cmd}
}

// step has it do something, and returns its answer.
func (p *sdkProgram) step(step string) string {
	p.Helper()
	if _, err := io.WriteString(p.steps, step+"\n"); err != nil {
		p.Fatal(err)
	}
	if !p.answers.Scan() {
		p.Fatalf("%s: it ended", step)
	}
	return p.answers.Text()
}

func (p *sdkProgram) try(step string) (out string, ok bool) {
	p.Helper()
	outcome, out, _ := strings.Cut(p.step(step), "\t")
	return out, outcome == "ok"
}

func (p *sdkProgram) must(step string) string {
	p.Helper()
	out, ok := p.try(step)
	if !ok || out == "" || out == "undefined" {
		p.Fatalf("%s: %s", step, out)
	}
	return out
}

func (p *sdkProgram) end() {
	p.Helper()
	_ = p.steps.Close()
	if err := p.cmd.Wait(); err != nil {
		p.Error(err)
	}
}

// content is a file to be uploaded.
type content struct{ path, sum string }

func sdkFile(t *testing.T, name string, size int) content {
	t.Helper()
	text := append([]byte("\xff\xd8\xff\xe0"), bytes.Repeat([]byte{0, '\r', '\n', '-', '-'}, size/5)...)
	c := content{path: filepath.Join(t.TempDir(), name)}
	if err := os.WriteFile(c.path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	c.sum = hex.EncodeToString(sum[:])
	return c
}

// npmProgram installs packages from the npm registry, beside a program of testdata/sdk.
func npmProgram(name string, packages ...string) func(t *testing.T) []string {
	return func(t *testing.T) []string {
		t.Helper()
		dir := t.TempDir()
		for _, file := range []string{name, "steps.mjs"} {
			text, err := os.ReadFile(filepath.Join("testdata", "sdk", file))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		install := exec.CommandContext(t.Context(), "npm", append([]string{"install", "--no-audit", "--no-fund", "--prefer-offline", "--prefix", dir}, packages...)...)
		if out, err := install.CombinedOutput(); err != nil {
			t.Skipf("no %s here: npm, with node 20 and its registry, installs it: %v %s", packages, err, out)
		}
		return []string{"node", filepath.Join(dir, name)}
	}
}

// silenceper builds tools/sdk, which is a module of its own.
func silenceper(t *testing.T) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), silenceperProgram)
	if out, err := exec.CommandContext(t.Context(), "go", "-C", filepath.Join("..", "..", "tools", "sdk"), "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Skipf("no github.com/silenceper/wechat here: the module proxy has it: %v %s", err, out)
	}
	return []string{path}
}

// wechatpy takes wechatpy as Python finds it.
func wechatpy(t *testing.T) []string {
	t.Helper()
	if err := exec.CommandContext(t.Context(), "python3", "-c", "import wechatpy").Run(); err != nil {
		t.Skip("no wechatpy here: install it where python3 looks")
	}
	return []string{"python3", sdkSource(t, "with_wechatpy.py")}
}

// easyWeChat takes EasyWeChat where the environment says.
func easyWeChat(t *testing.T) []string {
	t.Helper()
	if os.Getenv("EASYWECHAT_AUTOLOAD") == "" {
		t.Skip("no EasyWeChat here: install it with Composer, and name its vendor/autoload.php in EASYWECHAT_AUTOLOAD")
	}
	return []string{"php", sdkSource(t, "easywechat.php")}
}

// wxJava takes WxJava where the environment says.
func wxJava(t *testing.T) []string {
	t.Helper()
	path := os.Getenv("WXJAVA_CLASSPATH")
	if path == "" {
		t.Skip("no WxJava here: install weixin-java-mp with Maven, and name its class path in WXJAVA_CLASSPATH")
	}
	return []string{"java", "-cp", path, sdkSource(t, "WithWxJava.java")}
}

// sdkSource is a program of testdata/sdk.
func sdkSource(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "sdk", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
