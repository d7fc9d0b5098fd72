//go:build unix

package main

import (
	"bytes"
	"context"
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
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
)

// programs are the executables, in the order of docs/config.md.
var programs = []string{"gateway", "ingest", "refresher", "wechatsim", "wxtoken"}

// bin is where they lie.
var bin string

// patience is how long a script waits for anything. A slow machine is no fault.
const patience = time.Minute

func TestMain(m *testing.M) {
	os.Exit(func() int {
		natsdtest.SideBySide(6) // they wait for processes more than they work
		var err error
		if bin, err = os.MkdirTemp("", "wxtoken"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(bin) }()
		if err := deployEnv(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		args := []string{"build", "-ldflags=-w", "-o", bin + "/"} // no tables for a debugger: they are half of the linking
		for _, name := range programs {
			args = append(args, "wxtoken/cmd/"+name)
		}
		build := exec.Command("go", args...)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build:", err)
			return 1
		}
		return m.Run()
	}())
}

// TestScripts runs the executables as a person would. Beside testscript's own commands there are:
//
//	exits CODE PROGRAM ARGS...   the program ends with that exit code
//	start NAME PROGRAM ARGS...   it runs; its output goes to NAME.out and NAME.err
//	ends NAME CODE               after SIGTERM it ends with that exit code
//	await FILE REGEXP [VARIABLE] the file has that text; its first group goes to the variable
//	fetch URL STATUS [FILE]      GET is answered with that status sooner or later
//	free VARIABLE                an address that nobody listens on
//	taken VARIABLE               an address that somebody listens on
//	nats VARIABLE                URL of a NATS server
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			started := processes{}
			env.Values[processKey] = started
			env.Defer(func() {
				for name, p := range started {
					_ = p.cmd.Process.Kill()
					<-p.ended
					noSecret(env.T(), name, filepath.Join(env.WorkDir, name))
				}
			})
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "start": start, "ends": ends, "await": await, "fetch": fetch,
			"free": free, "taken": taken, "nats": natsServer,
		},
	})
}

// processes are what a script has started, by name.
type processes map[string]*process

// processKey is where a script keeps them.
const processKey = "processes"

type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// noSecret fails the test when a process has printed a secret: all of them hold SEKRET or are the
// AppSecret of the simulation.
func noSecret(t testscript.T, name, path string) {
	for _, end := range []string{".out", ".err"} {
		text, err := os.ReadFile(path + end)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("SEKRET")) || bytes.Contains(text, []byte("5ec4e75ec4e7")) {
			t.Fatal(name, "printed a secret to", end)
		}
	}
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(ts.Exec(args[1], args[2:]...), &exit) {
		code = exit.ExitCode()
	}
	if want := number(ts, args[0]); code != want {
		ts.Fatalf("%s: exit code %d, want %d", args[1], code, want)
	}
}

func start(ts *testscript.TestScript, _ bool, args []string) {
	name := args[0]
	cmd := exec.Command(filepath.Join(bin, args[1]), args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOME", "PATH", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	for _, name := range variables {
		if value := ts.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	for end, to := range map[string]*io.Writer{".out": &cmd.Stdout, ".err": &cmd.Stderr} {
		f, err := os.Create(ts.MkAbs(name + end))
		ts.Check(err)
		ts.Defer(func() { _ = f.Close() })
		*to = f
	}
	ts.Check(cmd.Start())
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its state tells
		close(p.ended)
	}()
	ts.Value(processKey).(processes)[name] = p
}

// variables are those that a script may set for what it starts.
var variables = []string{
	"WXTOKEN_COMPONENT_APPID", "WXTOKEN_COMPONENT_APPSECRET", "WXTOKEN_COMPONENT_TOKEN", "WXTOKEN_COMPONENT_AES_KEY",
	"WXTOKEN_NATS_URL", "WXTOKEN_OPS_ADDR", "WXTOKEN_HTTP_ADDR", "WXTOKEN_LOG_LEVEL",
}

func ends(ts *testscript.TestScript, _ bool, args []string) {
	p := ts.Value(processKey).(processes)[args[0]]
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.ended:
	case <-time.After(patience):
		ts.Fatalf("%s does not end:\n%s", args[0], output(ts, args[0]))
	}
	if code, want := p.cmd.ProcessState.ExitCode(), number(ts, args[1]); code != want {
		ts.Fatalf("%s: exit code %d, want %d:\n%s", args[0], code, want, output(ts, args[0]))
	}
}

// output is what a process has printed.
func output(ts *testscript.TestScript, name string) string {
	return ts.ReadFile(name+".out") + ts.ReadFile(name+".err")
}

func await(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		text := ts.ReadFile(args[0])
		if found := pattern.FindStringSubmatch(text); found != nil {
			if len(args) > 2 {
				ts.Setenv(args[2], found[1])
			}
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no %s in %s:\n%s", args[1], args[0], text)
		}
	}
}

// fetch is "fetch URL status [file [pattern]]": it asks until the answer has the status, and its body the pattern.
func fetch(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("")
	if len(args) > 3 {
		pattern = regexp.MustCompile("(?m)" + args[3])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		status, body := 0, []byte(nil)
		resp, err := client.Get(args[0])
		if err == nil {
			status = resp.StatusCode
			body, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		if err == nil && status == number(ts, args[1]) && pattern.Match(body) {
			if len(args) > 2 {
				ts.Check(os.WriteFile(ts.MkAbs(args[2]), body, 0o600))
			}
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: %d %v %s", args[0], status, err, body)
		}
	}
}

func free(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], natsdtest.FreeAddr(ts))
}

// taken takes a port of 127.0.0.1 until the script ends.
func taken(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

func natsServer(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	srv, err := natsd.Start(ctx, natsd.Config{StoreDir: ts.MkAbs("nats"), Addr: "127.0.0.1:0"})
	ts.Check(err)
	ts.Defer(srv.Close)
	ts.Setenv(args[0], srv.ClientURL())
}

func number(ts *testscript.TestScript, text string) int {
	n, err := strconv.Atoi(text)
	ts.Check(err)
	return n
}

// TestDocs says whether docs/config.md is what "make docs" would write.
func TestDocs(t *testing.T) {
	t.Parallel()
	var want strings.Builder
	want.WriteString("# Settings\n\nMade by `make docs` from `--help`. Do not edit.\n")
	for _, name := range programs {
		help := exec.Command(filepath.Join(bin, name), "--help")
		help.Env = []string{}
		text, err := help.Output()
		if err != nil {
			t.Fatalf("%s --help: %v", name, err)
		}
		fmt.Fprintf(&want, "\n## %s\n\n```text\n%s```\n", name, text)
	}
	have, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want.String() {
		t.Errorf("docs/config.md is not what the executables say: run make docs. It should be\n%s", want.String())
	}
}
