//go:build unix

package systemtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wxtoken/client"
)

// programs is the folder of the programs.
type programs string

// build builds the programs as an operator does, and the NATS server that go.mod names, once for all tests.
func build(t *testing.T) programs {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return programs(dir)
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "wxtoken-programs-")
	if err != nil {
		return "", err
	}
	atEnd.add(func() { _ = os.RemoveAll(dir) })
	// Without tables for a debugger, which are half of the linking.
	cmd := exec.Command("go", "build", "-ldflags=-w", "-o", dir+string(filepath.Separator),
		"wxtoken/cmd/ingest", "wxtoken/cmd/refresher", "wxtoken/cmd/wechatsim", "github.com/nats-io/nats-server/v2")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs: %w\n%s", err, text)
	}
	return dir, nil
})

// crashAt is the variable, with its "=", of programs that kill themselves at a step.
const crashAt = "WXTOKEN_CRASH="

// crashable builds the two programs that obey crashAt, once for all tests. All other processes are those of an
// operator.
func crashable(t *testing.T) programs {
	t.Helper()
	dir, err := builtToCrash()
	if err != nil {
		t.Fatal(err)
	}
	return programs(dir)
}

var builtToCrash = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "wxtoken-programs-")
	if err != nil {
		return "", err
	}
	atEnd.add(func() { _ = os.RemoveAll(dir) })
	cmd := exec.Command("go", "build", "-ldflags=-w", "-tags", "crash", "-o", dir+string(filepath.Separator), "wxtoken/cmd/ingest", "wxtoken/cmd/refresher")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs with the tag crash: %w\n%s", err, text)
	}
	return dir, nil
})

// process is one of our programs at work.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	stdout syncBuffer
	stderr syncBuffer
	ended  chan struct{}
}

// start starts a program with variables of its own beside the site's. Its whole output is kept, and
// looked through for secrets when the test ends.
func (s *site) start(program string, flags []string, env ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, name: fmt.Sprintf("%s-%d", program, len(s.processes)), ended: make(chan struct{})}
	from := s.programs
	if slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, crashAt) }) {
		from = crashable(s.t)
	}
	p.cmd = exec.Command(filepath.Join(string(from), program), flags...)
	p.cmd.Env = append(append(slices.Clone(s.settings), "WXTOKEN_NATS_URL="+s.url(program)), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // its state tells
	}()
	s.processes = append(s.processes, p)
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		said := p.stdout.String()
		if program != "wechatsim" { // its banner is there to show them
			said += p.stderr.String()
		}
		if leak := leaked(said); leak != "" {
			s.t.Errorf("%s shows a secret: %s", p.name, leak)
		}
		ended := said == "" && time.Since(began) < time.Minute // before it came to log anything
		if !ended && !strings.Contains(said, `"debug"`) && !strings.Contains(said, `"info"`) {
			s.t.Errorf("%s logged nothing: its log was not looked through", p.name)
		}
		if s.t.Failed() {
			s.t.Logf("%s said at last:\n%s", p.name, tail(said, 6000))
		}
	})
	return p
}

// ingest starts an ingest and puts it behind the balancer.
func (s *site) ingest(env ...string) *process {
	s.t.Helper()
	p := s.start("ingest", nil, env...)
	s.pushes.add(p.addr("pushes"))
	return p
}

// refresher starts a refresher.
func (s *site) refresher(env ...string) *process {
	s.t.Helper()
	return s.start("refresher", nil, env...)
}

// addr returns where a server of the process listens.
func (p *process) addr(server string) (addr string) {
	p.t.Helper()
	poll(p.t, func() error {
		for line := range strings.Lines(p.stdout.String()) {
			var said struct{ Msg, Server, Addr string }
			if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "server listening" && said.Server == server {
				addr = said.Addr
				return nil
			}
		}
		select {
		case <-p.ended:
			p.t.Fatalf("%s ended with %v", p.name, p.cmd.ProcessState)
		default:
		}
		return fmt.Errorf("%s does not listen for %s", p.name, server)
	})
	return addr
}

// signal sends a signal.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("send %s to %s: %v", sig, p.name, err)
	}
}

// wait waits for the end of the process.
func (p *process) wait() *os.ProcessState {
	p.t.Helper()
	poll(p.t, func() error {
		select {
		case <-p.ended:
			return nil
		default:
			return fmt.Errorf("%s does not end", p.name)
		}
	})
	return p.cmd.ProcessState
}

// killed waits until the process was ended by SIGKILL.
func (p *process) killed() {
	p.t.Helper()
	if state, ok := p.wait().Sys().(syscall.WaitStatus); !ok || state.Signal() != syscall.SIGKILL {
		p.t.Fatalf("%s ended with %v, want killed", p.name, p.cmd.ProcessState)
	}
}

// kill ends the process with SIGKILL.
func (p *process) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	p.killed()
}

// terminate ends the process with SIGTERM and wants an orderly end.
func (p *process) terminate() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if state := p.wait(); state.ExitCode() != 0 {
		p.t.Errorf("%s ended with %v, want exit code 0", p.name, state)
	}
}

// renewed reports whether the refresher says that it brought a key to a generation.
func (p *process) renewed(key wxtoken.Key, generation uint64) bool {
	for line := range strings.Lines(p.stdout.String()) {
		var said struct {
			Msg, Key   string
			Generation uint64
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "token renewed" && said.Key == key.String() && said.Generation == generation {
			return true
		}
	}
	return false
}

// pause stops the process in the middle of whatever it does.
func (p *process) pause() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
}

// resume lets a paused process go on.
func (p *process) resume() {
	p.t.Helper()
	p.signal(syscall.SIGCONT)
}

// localClient is for addresses of this machine. It keeps no connection, so that none stands in the way
// of an orderly end.
var localClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}

// get returns the answer of the process's operations address.
func (p *process) get(path string) (status int, body string) {
	p.t.Helper()
	return request(p.t, http.MethodGet, "http://"+p.addr("ops")+path, "")
}

func request(t *testing.T, method, to, form string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, to, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := localClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}
