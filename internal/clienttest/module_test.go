package wxtoken_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestServiceModule builds a service that imports the client in a module of its own, and compares its module graph with
// that of a service that imports nats.go alone: neither a NATS server nor a browser driver nor anything else is added.
func TestServiceModule(t *testing.T) {
	t.Parallel()
	client, err := filepath.Abs(filepath.Join("..", "..", "client"))
	if err != nil {
		t.Fatal(err)
	}
	head := "module shop\n\ngo " + goLine(t, client) + "\n\n"
	own := moduleGraph(t, head+"require wxtoken/client v0.0.0\n\nreplace wxtoken/client => "+client+"\n", `package main

import (
	"context"
	"log"

	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/client/message"
)

func main() {
	nc, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		log.Fatal(err)
	}
	client, err := wxtoken.NewClient(context.Background(), nc, wxtoken.Config{})
	if err != nil {
		log.Fatal(err)
	}
	log.Print(client.Stats(), message.ReplySubject("a", "b"))
}
`)
	at := slices.IndexFunc(own, func(module string) bool { return strings.HasPrefix(module, "github.com/nats-io/nats.go@") })
	if at < 0 || !slices.ContainsFunc(own, func(module string) bool { return strings.HasPrefix(module, "wxtoken/client@") }) {
		t.Fatalf("the module graph of a service is %q", own)
	}
	path, version, _ := strings.Cut(own[at], "@")
	bare := moduleGraph(t, head+"require "+path+" "+version+"\n", `package main

import (
	_ "github.com/nats-io/nats.go"
	_ "github.com/nats-io/nats.go/jetstream"
	_ "github.com/nats-io/nats.go/micro"
)

func main() {}
`)
	known := map[string]bool{"wxtoken/client": true}
	for _, module := range bare {
		path, _, _ := strings.Cut(module, "@")
		known[path] = true
	}
	for _, module := range own {
		if path, _, _ := strings.Cut(module, "@"); !known[path] {
			t.Errorf("%s is in the module graph of a service, and nats.go does not need it", module)
		}
	}
}

// moduleGraph builds a program in a module of its own, and returns all modules that the module's graph has, path@version.
func moduleGraph(t *testing.T, mod, program string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": mod, "main.go": program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOTOOLCHAIN=local")
		out, err := cmd.CombinedOutput()
		if err != nil {
			if moduleUnavailable(string(out)) {
				t.Skipf("neither the module cache nor GOPROXY has what go %s asks for:\n%s", strings.Join(args, " "), out)
			}
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("mod", "tidy")
	run("build", "-o", filepath.Join(dir, "program"), ".")
	return strings.Fields(run("list", "-m", "-f", "{{if not .Main}}{{.Path}}@{{.Version}}{{end}}", "all"))
}

// TestGoLine: the client's go line is the oldest that works, which is that of the module that wants the newest Go.
func TestGoLine(t *testing.T) {
	t.Parallel()
	client := filepath.Join("..", "..", "client")
	cmd := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{if not .Main}}{{.GoVersion}}{{end}}", "all")
	cmd.Dir = client
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		if moduleUnavailable(string(out)) {
			t.Skipf("neither the module cache nor GOPROXY has the modules of the client:\n%s", out)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	// All of them are 1.NN or 1.NN.N with two digits: texts are in the order of versions.
	want := slices.Max(strings.Fields(string(out)))
	if got := goLine(t, client); got != want && got != want+".0" {
		t.Errorf("go.mod of the client says go %s, and its requirements take %s", got, want)
	}
}

// goLine returns the version in the go line of a module.
func goLine(t *testing.T, dir string) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, filepath.Join(dir, "go.mod"))) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "go "); ok {
			return version
		}
	}
	t.Fatal("go.mod has no go line")
	return ""
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// moduleUnavailable reports whether a go command failed because a module can't be had here.
func moduleUnavailable(said string) bool {
	for _, sign := range []string{"module lookup disabled", "dial tcp", "no such host", "i/o timeout", "connection refused", "proxyconnect"} {
		if strings.Contains(said, sign) {
			return true
		}
	}
	return false
}
