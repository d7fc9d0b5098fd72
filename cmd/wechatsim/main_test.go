package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"wxtoken/internal/looktest"
	"wxtoken/wechatsim"
)

// beMain makes the test binary be the command.
const beMain = "WECHATSIM_TEST_BE_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(beMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, args...)
	c.Env = append(os.Environ(), beMain+"=1")
	return c
}

// process is a running command.
type process struct {
	*exec.Cmd
	banner  string // what it printed at start
	control string // address of its control door
	stdout  bytes.Buffer
}

// start runs the command on free ports against an ingest that answers every push with success.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	ingest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "success") }))
	t.Cleanup(ingest.Close)
	args = append([]string{"--addr=127.0.0.1:0", "--control-addr=127.0.0.1:0", "--push-base", ingest.URL}, args...)
	p := &process{Cmd: command(t, args...)}
	p.Stdout = &p.stdout
	stderr, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		p.banner += lines.Text() + "\n"
		if _, address, found := strings.Cut(lines.Text(), "curl http://"); found {
			p.control = address
			return p
		}
	}
	t.Fatalf("it did not start: %s%v", p.banner, lines.Err())
	return nil
}

// end sends a signal and wants an orderly end.
func (p *process) end(t *testing.T, signal os.Signal) {
	t.Helper()
	if err := p.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

var curlArg = regexp.MustCompile(`'([^']*)'|(\S+)`)

// curl does what a curl line says.
func curl(t *testing.T, line string) (status int, answer string) {
	t.Helper()
	var args []string
	for _, m := range curlArg.FindAllStringSubmatch(line, -1) {
		args = append(args, m[1]+m[2])
	}
	method, url := http.MethodGet, args[len(args)-1]
	var form []string
	for i := 1; i < len(args)-1; i += 2 {
		switch args[i] {
		case "-X":
			method = args[i+1]
		case "-d", "--data-urlencode":
			method = http.MethodPost
			form = append(form, args[i+1])
		default:
			t.Fatalf("%s: unknown option %s", line, args[i])
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(strings.Join(form, "&")))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// TestEachCurlLine does to the real binary what its own help says, line by line.
func TestEachCurlLine(t *testing.T) {
	t.Parallel()
	p := start(t, "--authorizers=0", "--kind")
	if first, _, _ := strings.Cut(p.banner, "\n"); !strings.Contains(first, "NOT FOR PRODUCTION") {
		t.Errorf("it begins with %q", first)
	}
	_, help := curl(t, "curl http://"+p.control+"/")
	lines := 0
	for line := range strings.Lines(help) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "curl ") {
			continue
		}
		lines++
		want := http.StatusOK
		if strings.Contains(line, "preauthcode@@@...") {
			want = http.StatusBadRequest // the dots stand for a code that only the API gives
		}
		if status, answer := curl(t, line); status != want {
			t.Errorf("%s: %d %s", line, status, answer)
		}
	}
	if lines < 18 {
		t.Errorf("%d curl lines in\n%s", lines, help)
	}
	p.end(t, syscall.SIGTERM)
}

// TestAccountsAuthorizeByThemselves waits for the demonstration to begin.
func TestAccountsAuthorizeByThemselves(t *testing.T) {
	t.Parallel()
	p := start(t, "--authorizers=2", "--log-format=json")
	looktest.Until(t, "two authorizers", func() bool {
		_, text := curl(t, "curl http://"+p.control+"/truth")
		var truths []wechatsim.Truth
		if err := json.Unmarshal([]byte(text), &truths); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return truths[0].Authorizers == 2
	})
	p.end(t, os.Interrupt)
	for line := range strings.Lines(p.stdout.String()) {
		if !json.Valid([]byte(line)) || strings.Contains(line, "SEKRET") {
			t.Errorf("log line %s", line)
		}
	}
}

func TestBadSettings(t *testing.T) {
	t.Parallel()
	taken := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(taken.Close)
	for _, row := range []struct {
		name string
		args []string
		env  string
		code int
		want []string
	}{
		{"unknown flag", []string{"--nothing"}, "", 2, []string{"--nothing", "--help"}},
		{"all at once", []string{"--addr=:8090", "--control-addr=0.0.0.0:1", "--life=1500ms", "--authorizers=-1", "--components=0"}, "", 2,
			[]string{"WXTOKEN_SIM_ADDR", "WXTOKEN_SIM_CONTROL_ADDR", "--expose-test-platform", "WXTOKEN_SIM_LIFE", "--authorizers", "WXTOKEN_SIM_COMPONENTS"}},
		{"variable", nil, "WXTOKEN_SIM_LIFE=500ms", 2, []string{"--life", "500ms"}},
		{"the platform's own", []string{"--busy-rate=2", "--push-tries=-1", "--account-ticket-life=1ms"}, "", 2, []string{"BusyRate", "PushRetry.Times", "AccountTicketLife"}},
		{"taken port", []string{"--addr", strings.TrimPrefix(taken.URL, "http://")}, "", 1, []string{"address already in use"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := command(t, row.args...)
			c.Env = append(c.Env, row.env)
			var stderr bytes.Buffer
			c.Stderr = &stderr
			var exit *exec.ExitError
			if err := c.Run(); !errors.As(err, &exit) || exit.ExitCode() != row.code {
				t.Errorf("ended with %v, want exit code %d", err, row.code)
			}
			for _, want := range row.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("it does not speak of %s:\n%s", want, stderr.String())
				}
			}
		})
	}
}

// TestSeveralComponents starts with two, which the same accounts authorize, and follows what it
// says about them.
func TestSeveralComponents(t *testing.T) {
	t.Parallel()
	p := start(t, "--components=2", "--authorizers=1", "--kind")
	dir := t.TempDir()
	for line := range strings.Lines(p.banner) {
		if strings.Contains(line, "mkdir -p") {
			shell := exec.CommandContext(t.Context(), "sh", "-c", line)
			shell.Dir = dir
			if out, err := shell.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v %s", line, err, out)
			}
		}
	}
	for n := range 2 {
		c := wechatsim.DemoComponent(n + 1)
		for name, want := range map[string]string{"appsecret": c.AppSecret, "token": c.Token, "aes_key": c.EncodingAESKey} {
			if text, err := os.ReadFile(filepath.Join(dir, "components", c.AppID, name)); err != nil || string(text) != want {
				t.Errorf("%s of %s: %q, %v", name, c.AppID, text, err)
			}
		}
		if !strings.Contains(p.banner, "/wechat/"+c.AppID+"/auth") {
			t.Errorf("it does not say where %s is pushed:\n%s", c.AppID, p.banner)
		}
	}
	looktest.Until(t, "the account authorizes both components", func() bool {
		_, text := curl(t, "curl http://"+p.control+"/truth")
		return strings.Count(text, `"authorizer":"wxa000000000000001","live":true`) == 2
	})
	if status, answer := curl(t, "curl -d 'authorizer=wxa000000000000001' http://"+p.control+"/cancel"); status != http.StatusBadRequest {
		t.Errorf("which component was meant? %d %s", status, answer)
	}
	p.end(t, syscall.SIGTERM)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	s := parse([]string{"--kind", "--life=30s", "--overlap=0s", "--rotation=each", "--auth-url=http://x/auth", "--authorizers=5", "--seed=7", "--log-format=console"})
	c := s.config()
	component := c.Components[0]
	if c.BusyRate != 0 || c.VaryForm || c.TokenLife != 30*time.Second || c.Overlap != wechatsim.Off || c.Rotation != wechatsim.RotateEach || c.Seed != 7 {
		t.Errorf("kind config %+v", c)
	}
	if component.AuthURL != "http://x/auth" || component.MessageURL != "http://127.0.0.1:8080/wechat/"+component.AppID+"/message/$APPID$" || len(component.Authorizers) != 5 {
		t.Errorf("component %s %s %v", component.AuthURL, component.MessageURL, component.Authorizers)
	}
	c = parse([]string{"--components=3", "--message-url=http://x/m/$APPID$", "--account-ticket-life=7s"}).config()
	if third := c.Components[2]; len(c.Components) != 3 || third.AppID != "wxc0ffee0000000003" || third.MessageURL != "http://x/m/$APPID$" ||
		third.AuthURL != "http://127.0.0.1:8080/wechat/wxc0ffee0000000003/auth" || c.AccountTicketLife != 7*time.Second {
		t.Errorf("config of three %+v", c)
	}
	c = parse(nil).config()
	if c.BusyRate != 0.05 || !c.VaryForm || c.Seed == 0 || c.TicketEvery != 10*time.Second || len(c.Components[0].Authorizers) != 3 {
		t.Errorf("default config %+v", c)
	}
	if _, err := wechatsim.New(c); err != nil {
		t.Error(err)
	}
}
