//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wxtoken/internal/logtest"
)

// goBlock is what a block of Go in a document is held to.
type goBlock struct {
	prints []string                       // the lines that it prints, as regular expressions
	check  string                         // Go that looks at what the block left behind
	then   func(t *testing.T, sim simRun) // what the world sees once it ran
}

// demoAccount is the account that the documents name.
const demoAccount = "wxa000000000000001"

const goodToken = `if now, err := client.Token(token.Key); err != nil || token.Value.Reveal() == "" || token.Value.Reveal() != now.Value.Reveal() {
		log.Fatalf("went on with %q: %v", token.Value.Reveal(), err)
	}`

var (
	reads = goBlock{prints: []string{`https://api\.weixin\.qq\.com/cgi-bin/message/custom/send\?access_token=\S{20,}`, `(in a log|写日志): \[redacted\]`},
		check: "before := token\n" + goodToken}
	replaces = goBlock{check: `if token.Value == before.Value || token.Generation <= before.Generation {
		log.Fatalf("the token of generation %d was replaced by that of %d", before.Generation, token.Generation)
	}
	` + goodToken}
	finds     = goBlock{prints: []string{`\[.*\]`}}
	makesLink = goBlock{prints: []string{`http://\S+/connect/\S+`}}
	calls     = goBlock{prints: []string{"200 OK"}}
)

// answered has the one call of a document answered in the place of WeChat, whatever its token is.
const answered = "local := &http.Transport{}\nlocal.RegisterProtocol(\"https\", http.NewFileTransportFS(fstest.MapFS{\"cgi-bin/user/get\": {Data: []byte(\"{}\")}}))\n" +
	"http.DefaultTransport = local\n"

// goBlocks are the documents with Go in them, and what each block does. The blocks of a document
// are one program, in their order. A document or a block that is not here fails the test.
var goBlocks = map[string][]goBlock{
	"README.md":       {reads, replaces},
	"README.zh-CN.md": {reads, replaces},
	"client/doc.go":   {reads, replaces},

	"client/message/message.go": {answers("you said: hello")},

	"docs/services.md":       {answers("you said: hello"), finds, makesLink, calls},
	"docs/services.zh-CN.md": {answers("你说的是：hello"), finds, makesLink, calls},
}

// whole are the documents whose blocks are whole programs of the standard library: they are vetted, and not run.
var whole = []string{"docs/webhooks.md", "docs/webhooks.zh-CN.md"}

// elsewhere are the documents whose blocks are about packages that this module does not have: tools/sdk has them, and TestSDKs runs that.
var elsewhere = []string{"docs/sdks.md", "docs/sdks.zh-CN.md"}

// vetted has go vet look at a program.
func vetted(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// given are the names that the blocks of a document take for granted.
var given = map[string]string{
	"docs/services.md":       answered,
	"docs/services.zh-CN.md": answered,

	"client/doc.go": "ctx := context.Background()\nurl := \"nats://127.0.0.1:4222\"\n",
	"client/message/message.go": "component := \"wxc0ffee0000000001\"\nnc, err := nats.Connect(\"nats://127.0.0.1:4222\", nats.CustomInboxPrefix(\"_INBOX_service\"))\n" +
		"if err != nil {\n\tlog.Fatal(err)\n}\n",
}

// imported are the packages that a block may name.
var imported = map[string]string{
	"context": "context", "errors": "errors", "fmt": "fmt", "log": "log", "time": "time", "http": "net/http", "fstest": "testing/fstest",
	"nats": "github.com/nats-io/nats.go", "jetstream": "github.com/nats-io/nats.go/jetstream", "wxtoken": "wxtoken/client", "message": "wxtoken/client/message",
}

// answers is a block that answers the message "hello" of a user.
func answers(want string) goBlock {
	return goBlock{then: func(t *testing.T, sim simRun) {
		eventually(t, "the passive reply "+want, func() error {
			sim.post(t, "push", url.Values{"authorizer": {sim.account}, "content": {"hello"}})
			for _, line := range bytes.Split(sim.get(t, "history"), []byte("\n")) {
				var seen struct{ Content string }
				if json.Unmarshal(line, &seen) == nil && seen.Content == want {
					return nil
				}
			}
			return errors.New("not in the platform's history")
		})
	}}
}

// TestGoBlocks compiles and runs each block of Go in the documents, against wxtoken --sim as the
// documents say.
func TestGoBlocks(t *testing.T) {
	t.Parallel()
	found := documents(t)
	for name := range goBlocks {
		if len(found[name]) == 0 {
			t.Errorf("%s has no Go", name)
		}
	}
	accounts := []string{demoAccount, "wxa000000000000002", "wxa000000000000003"}
	sim := simulate(t)
	for _, name := range slices.Sorted(maps.Keys(found)) {
		sim, blocks := sim, found[name]
		sim.account = demoAccount
		if replaces := func(b goBlock) bool { return b.check != "" }; slices.ContainsFunc(goBlocks[name], replaces) {
			if len(accounts) == 0 {
				t.Fatal("more documents than accounts: each that replaces a token takes one for itself")
			}
			sim.account, accounts = accounts[0], accounts[1:]
		}
		if slices.Contains(elsewhere, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if slices.Contains(whole, name) {
				for _, block := range blocks {
					vetted(t, block)
				}
				return
			}
			want := goBlocks[name]
			if len(blocks) != len(want) {
				t.Fatalf("%d blocks of Go, %d are known: say in goBlocks what each does", len(blocks), len(want))
			}
			program := compile(t, name, given[name], blocks, want, sim)
			// Again at once: the token is so young now that it is too soon to replace it. The
			// program has to say so, and must neither wait nor go on.
			for range 2 {
				runBlocks(t, program, want, sim)
			}
		})
	}
}

// documents returns the blocks of Go of each document.
func documents(t *testing.T) map[string][]string {
	t.Helper()
	root := filepath.Join("..", "..")
	out := map[string][]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		switch {
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(p) != ".md":
			return nil
		}
		text, err := os.ReadFile(p)
		if blocks := fenced(string(text)); len(blocks) > 0 {
			out[name] = blocks
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range goBlocks {
		if filepath.Ext(name) != ".go" {
			continue
		}
		if out[name], err = ofPackage(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

var (
	fence = regexp.MustCompile("(?m)^([ \t]*)(```+|~~~+)[ \t]*(\\S*)[^\n]*\n((?s:.*?))^[ \t]*(```+|~~~+)[ \t]*$")
	isGo  = regexp.MustCompile(`(?i)^\{?\.?(go|golang)\b`)
)

// fenced returns the blocks of Go in a Markdown text.
func fenced(text string) (blocks []string) {
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		if isGo.MatchString(m[3]) {
			blocks = append(blocks, m[4])
		}
	}
	return blocks
}

// ofPackage returns the blocks of Go in a package's comment: those that are no list of permissions.
func ofPackage(file string) (blocks []string, err error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		return nil, err
	}
	for _, part := range new(comment.Parser).Parse(parsed.Doc.Text()).Content {
		if code, ok := part.(*comment.Code); ok && !strings.HasPrefix(code.Text, "publish ") {
			blocks = append(blocks, code.Text)
		}
	}
	return blocks, nil
}

func TestFenced(t *testing.T) {
	t.Parallel()
	text := "a\n```go\none()\n```\n```json\n{}\n```\n1. b\n\n   ```Go title=\"x\"\n   two()\n   ```\n~~~golang\nthree()\n~~~\n```text\n```\n"
	if got := fenced(text); !slices.Equal(got, []string{"one()\n", "   two()\n", "three()\n"}) {
		t.Errorf("blocks %q", got)
	}
}

// compile makes one program of the blocks of a document, which says when each block is over, and
// stays.
func compile(t *testing.T, name, given string, blocks []string, want []goBlock, sim simRun) string {
	t.Helper()
	var body strings.Builder
	body.WriteString(given)
	for i, block := range blocks {
		fmt.Fprintf(&body, "//line %s.block%d:1\n%s\n%s\nprintln(\"block %d ran\")\n", name, i, block, want[i].check, i)
	}
	text := body.String()
	if !strings.Contains(text, "nats://127.0.0.1:4222") {
		t.Error("the blocks connect to another NATS than the one of --sim")
	}
	text = strings.NewReplacer("nats://127.0.0.1:4222", sim.nats, demoAccount, sim.account).Replace(text)
	source := "package main\n" + imports(t, text) + "func main() {\n" + text + "select {}\n}\n"

	// The program lies in a folder of this module that only the compiler sees, because nothing
	// outside may import the module.
	dir := t.TempDir()
	module, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(module, "cmd", "goblocks", "main.go"): filepath.Join(dir, "main.go")}})
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string][]byte{"main.go": []byte(source), "overlay.json": overlay} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", filepath.Join(dir, "program"), "./cmd/goblocks")
	build.Dir = module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("does not compile: %v\n%s", err, out)
	}
	return filepath.Join(dir, "program")
}

// imports returns the imports that the statements of a text need.
func imports(t *testing.T, text string) string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "", "package main\nfunc main() {\n"+text+"}\n", parser.SkipObjectResolution)
	if err != nil {
		t.Fatalf("is not Go: %v", err)
	}
	named := map[string]bool{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && imported[x.Name] != "" {
				named[x.Name] = true
			}
		}
		return true
	})
	var out strings.Builder
	for name := range named {
		fmt.Fprintf(&out, "import %s %q\n", name, imported[name])
	}
	return out.String()
}

// runBlocks runs the program until all blocks ran. Where it ends because a token is too young, it
// is started again.
func runBlocks(t *testing.T, program string, want []goBlock, sim simRun) {
	t.Helper()
	tooYoung := false
	eventually(t, "all blocks to run", func() error {
		var stdout, stderr logtest.Buffer
		cmd := exec.Command(program)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		defer func() { _ = cmd.Process.Kill(); <-ended }()
		if tooYoung = follow(t, ended, &stderr, want, sim); tooYoung {
			return errors.New("the token is too young")
		}
		lines := []string{}
		for _, block := range want {
			lines = append(lines, block.prints...)
		}
		printed := regexp.MustCompile(`^` + strings.Join(append(lines, ""), "\n") + `$`)
		eventually(t, "what the blocks print", func() error { // on a pipe of its own, so perhaps after "ran"
			if !printed.MatchString(stdout.String()) {
				return fmt.Errorf("printed\n%swant\n%s", stdout.String(), strings.Join(lines, "\n"))
			}
			return nil
		})
		return nil
	})
}

// follow waits until each block ran, and looks at the world then. It reports whether the program
// ended because a token is too young.
func follow(t *testing.T, ended <-chan struct{}, stderr *logtest.Buffer, want []goBlock, sim simRun) (tooYoung bool) {
	t.Helper()
	for i, block := range want {
		ran := fmt.Sprintf("block %d ran\n", i)
		for deadline := time.Now().Add(patience); !strings.Contains(stderr.String(), ran); time.Sleep(5 * time.Millisecond) {
			select {
			case <-ended:
				if said := stderr.String(); strings.Contains(said, ran) {
				} else if strings.Contains(said, "too young to be replaced") {
					return true
				} else {
					t.Fatalf("block %d ended the program:\n%s", i, said)
				}
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("block %d hangs:\n%s", i, stderr.String())
			}
		}
		if block.then != nil {
			block.then(t, sim)
		}
	}
	return false
}

// simRun is a wxtoken --sim that runs.
type simRun struct {
	nats, control, account string
	ops                    string          // the operator's page
	out                    *logtest.Buffer // the log
}

func simulate(t *testing.T, flags ...string) simRun {
	t.Helper()
	var stdout, stderr logtest.Buffer
	dir := t.TempDir()
	cmd := exec.Command(filepath.Join(bin, "wxtoken"), append(flags, "--sim", "--nats-url=nats://127.0.0.1:0", "--http-addr=127.0.0.1:0", "--ops-addr=127.0.0.1:0",
		"--sim-addr=127.0.0.1:0", "--sim-control-addr=127.0.0.1:0", "--gateway-addr=127.0.0.1:0", "--sim-troubles=off", "--sim-life=50s", // a wait for what does not come ends before the next renewal
		"--data-dir="+filepath.Join(dir, "data"))...)
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("wxtoken --sim said\n%s", stdout.String())
		}
	})
	var sim simRun
	eventually(t, "wxtoken --sim", func() error {
		m := regexp.MustCompile(`(?s)curl (http://\S+)/\n.*--server (nats://\S+) .*curl (http://\S+)/    authorize`).FindStringSubmatch(stderr.String())
		if m == nil || strings.Count(stdout.String(), `"info_type":"authorized"`) < 3 {
			return errors.New("not up yet")
		}
		sim = simRun{ops: m[1], nats: m[2], control: m[3], out: &stdout}
		return nil
	})
	return sim
}

func (s simRun) post(t *testing.T, path string, form url.Values) {
	t.Helper()
	resp, err := http.PostForm(s.control+"/"+path, form)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode >= 300 {
		t.Fatalf("POST /%s: %s", path, resp.Status)
	}
}

func (s simRun) get(t *testing.T, path string) []byte {
	t.Helper()
	resp, err := http.Get(s.control + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
