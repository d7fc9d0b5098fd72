package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the path that all imports of our own begin with.
const module = "wxtoken"

// floors names the rooms, from the ground up. A room imports rooms on lower floors, and no room
// beside it. A folder that stands on no floor fails the test: say where it belongs.
var floors = []struct {
	rooms    []string // folders; "cmd/*" stands for each one below cmd
	testOnly bool     // imported by tests alone; imports whatever it likes
}{
	{rooms: []string{"client/document", "internal/lang", "docs"}},                               // the reader that client and wechat share; texts in two languages; the runbook
	{rooms: []string{"client/message", "internal/runbook", "internal/hook", "internal/qrcode"}}, // hook: POSTs to the addresses of others
	{rooms: []string{"client", "internal/wechat", "internal/seal", "deploy/nats"}},
	{rooms: []string{"internal/account", "internal/events", "internal/settings"}},
	{rooms: []string{"internal/bus", "internal/counts", "internal/streams", "internal/natsd", "internal/logger", "internal/truth"}}, // truth: why accounts can't call WeChat, in words
	{rooms: []string{"internal/store", "internal/serve"}},
	{rooms: []string{"internal/gate"}},                                                            // may this call to WeChat be made now
	{rooms: []string{"internal/links", "internal/services", "internal/notify", "internal/login"}}, // authorization links; the gateway's services; notices; who may use the operator's page
	{rooms: []string{"internal/ingest", "internal/refresher", "internal/transfer", "wechatsim", "internal/natsconn", "internal/console", "internal/preflight", "internal/gateway", "internal/webhooks", "internal/redis"}},
	{rooms: []string{"internal/doors"}},       // a gateway, put together for the commands that run one
	{rooms: []string{"cmd/*", "wxtokentest"}}, // wxtokentest: all of it within the test of a service
	{rooms: []string{"internal", "internal/browsertest", "internal/clienttest", "internal/clienttest/document", "internal/clienttest/message", "internal/streams/streamstest", "internal/logtest", "internal/looktest", "internal/natsd/natsdtest", "internal/systemtest"}, testOnly: true},
}

// only says who may import a package, tests aside. A path that ends in "/..." stands for all below it too.
var only = map[string][]string{
	"github.com/nats-io/nats-server/v2/...": {"internal/natsd"}, // it adds 10 MB to a binary
	module + "/internal/natsd":              {"cmd/wxtoken", "wxtokentest"},
	"github.com/alecthomas/kong/...":        {"internal/settings", "cmd/*"}, // rooms describe their settings in tags
	"github.com/rs/zerolog/log":             {},                             // the global logger: a logger is a value, handed down
	"math/rand":                             {},                             // v2 is there
	"testing":                               {"wxtokentest"},
}

// stdOnly are the rooms that import nothing but the standard library, and rooms of which the same holds.
var stdOnly = []string{"client/document", "client/message", "internal/lang", "docs", "internal/runbook", "internal/hook", "internal/wechat"}

// closed are the packages that are not for a room, and why.
var closed = map[string]map[string]string{
	"internal/wechat": {"math/rand/v2": "ids and nonces are made here, and it can be guessed: use crypto/rand"},
	"internal/ingest": {"math/rand/v2": "ids and nonces are made here, and it can be guessed: use crypto/rand"},
	"internal/account": {
		"context": "the life of an account is pure: it waits for nothing", "math/rand/v2": "chance comes in as a value",
		"wxtoken/internal/store": "it is stored by its callers",
	},
}

// spelled are the rooms in which the names of variables stand as text. Elsewhere settings.Name is asked.
var spelled = []string{"internal/settings"}

// paired are the rooms with texts in two languages: there a variable is spelled, but never without its flag.
var paired = []string{"internal/preflight", "internal/truth", "internal/wechat"}

// variable is the name of a variable in a text.
var variable = regexp.MustCompile(`WXTOKEN_[A-Z_]+`)

// banned are names that are not used here, by the path of their package.
var banned = map[string]map[string]string{
	"net/http": {
		"DefaultServeMux":   "anybody may add to it: make a mux of your own",
		"Handle":            "it goes to DefaultServeMux",
		"HandleFunc":        "it goes to DefaultServeMux",
		"ListenAndServe":    "it has no limits and no end: use serve.Listen",
		"ListenAndServeTLS": "it has no limits and no end: use serve.Listen",
		"Serve":             "it has no limits and no end: use serve.Listen",
		"DefaultClient":     "it waits for ever: make a client with a timeout",
		"Get":               "it waits for ever: make a client with a timeout",
		"Post":              "it waits for ever: make a client with a timeout",
	},
	"time": {"Local": "times are UTC"},
}

// clockless are the rooms into which the clock comes as a value.
var clockless = []string{"internal/account"}

// kindless are the rooms that don't compare kinds of keys: internal/account/kind.go says what is different about each.
var kindless = []string{"internal/account", "internal/gate", "internal/links", "internal/refresher", "internal/store", "internal/transfer"}

// source is one Go file.
type source struct {
	room string // folder, with slashes
	name string
	test bool
	file *ast.File
	fset *token.FileSet
}

// sources reads all Go files of the module.
func sources(t *testing.T) []source {
	t.Helper()
	const root = ".."
	var out []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if base := path.Base(rel); rel != "." && (strings.HasPrefix(base, ".") || base == "testdata" || rel == "tools") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, p, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		out = append(out, source{room: path.Dir(rel), name: rel, test: strings.HasSuffix(rel, "_test.go"), file: file, fset: fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatal("no Go file found: the rules were not looked at")
	}
	return out
}

// credentialFaults says where a file writes a field of a credential: what happens to one is a transition of internal/account.
func credentialFaults(s source) (faults []string) {
	if s.test || s.room == "internal/account" {
		return nil
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		var written []ast.Expr
		switch n := n.(type) {
		case *ast.AssignStmt:
			written = n.Lhs
		case *ast.IncDecStmt:
			written = []ast.Expr{n.X}
		}
		for _, e := range written {
			field, ok := e.(*ast.SelectorExpr)
			if !ok || field.Sel.Name == "Revision" || field.Sel.Name == "Commit" { // those are the store's
				continue
			}
			switch of := field.X.(type) {
			case *ast.Ident:
				ok = of.Name == "cred"
			case *ast.SelectorExpr:
				ok = of.Sel.Name == "Credential"
			default:
				ok = false
			}
			if ok {
				faults = append(faults, s.fset.Position(e.Pos()).String()+": "+field.Sel.Name+" is written outside internal/account")
			}
		}
		return true
	})
	return faults
}

// imports returns the paths that s imports, with the names they have in the file.
func (s source) imports() map[string]string {
	out := map[string]string{}
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has looked at it
		}
		name := path.Base(p)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		out[p] = name
	}
	return out
}

// in reports whether room is one of rooms.
func in(room string, rooms []string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool { ok, _ := path.Match(r, room); return ok })
}

// floor returns the number of the floor that room stands on, or -1.
func floor(room string) int {
	for i, f := range floors {
		if in(room, f.rooms) {
			return i
		}
	}
	return -1
}

// room returns the folder of a package of ours, or "".
func room(importPath string) string {
	rel, ours := strings.CutPrefix(importPath, module+"/")
	if !ours {
		return ""
	}
	return rel
}

// matches reports whether importPath is what pattern, a key of only, stands for.
func matches(importPath, pattern string) bool {
	tree, ok := strings.CutSuffix(pattern, "/...")
	return importPath == tree || ok && strings.HasPrefix(importPath, tree+"/")
}

// importFaults says what is wrong with the imports of a file.
func importFaults(s source) (faults []string) {
	here := floor(s.room)
	if here < 0 {
		return []string{"the folder stands on no floor"}
	}
	if s.test || floors[here].testOnly {
		return nil
	}
	for p := range s.imports() {
		if to := room(p); to != "" {
			switch there := floor(to); {
			case there < 0:
				faults = append(faults, p+" stands on no floor")
			case floors[there].testOnly:
				faults = append(faults, p+" is for tests")
			case there > here:
				faults = append(faults, p+" is upstairs")
			case there == here:
				faults = append(faults, p+" is on the same floor")
			}
		}
		for pattern, rooms := range only {
			if matches(p, pattern) && !in(s.room, rooms) {
				faults = append(faults, p+" is not for this room")
			}
		}
		if why := closed[s.room][p]; why != "" {
			faults = append(faults, p+" is closed to this room: "+why)
		}
		first, _, _ := strings.Cut(p, "/")
		if in(s.room, stdOnly) && (room(p) != "" && !in(room(p), stdOnly) || room(p) == "" && strings.Contains(first, ".")) {
			faults = append(faults, p+" is not in the standard library")
		}
	}
	return faults
}

// nameFaults says which banned names a file uses.
func nameFaults(s source) (faults []string) {
	if s.test || floor(s.room) >= 0 && floors[floor(s.room)].testOnly {
		return nil
	}
	names := map[string]map[string]string{} // by the name of the package in this file
	for p, name := range s.imports() {
		if banned[p] != nil {
			names[name] = banned[p]
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if pkg, ok := sel.X.(*ast.Ident); ok {
				why := names[pkg.Name][sel.Sel.Name]
				if pkg.Name == "time" && sel.Sel.Name == "Now" && in(s.room, clockless) {
					why = "the clock comes in as a value"
				}
				if why != "" {
					faults = append(faults, s.fset.Position(sel.Pos()).String()+": "+pkg.Name+"."+sel.Sel.Name+": "+why)
				}
			}
		}
		return true
	})
	return faults
}

// spellingFaults says where a file spells the name of a variable.
func spellingFaults(s source) (faults []string) {
	if s.test || floor(s.room) >= 0 && floors[floor(s.room)].testOnly || in(s.room, spelled) {
		return nil
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		text, ok := n.(*ast.BasicLit)
		if !ok || text.Kind != token.STRING {
			return true
		}
		for _, name := range variable.FindAllString(text.Value, -1) {
			flag := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, "WXTOKEN_"), "_", "-"))
			switch {
			case !in(s.room, paired):
				faults = append(faults, s.fset.Position(text.Pos()).String()+": "+name+" is spelled: use settings.Name or settings.Fault")
			case !strings.Contains(text.Value, "--"+flag+" (") && !strings.Contains(text.Value, "--"+flag+", "):
				faults = append(faults, s.fset.Position(text.Pos()).String()+": "+name+" stands without its flag")
			}
		}
		return true
	})
	return faults
}

// kindFaults says where a file tells kinds of keys apart by itself, in the rooms that ask account.KindOf.
func kindFaults(s source) (faults []string) {
	if s.test || !in(s.room, kindless) {
		return nil
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if compared, ok := n.(*ast.BinaryExpr); ok && (compared.Op == token.EQL || compared.Op == token.NEQ) {
			for _, side := range []ast.Expr{compared.X, compared.Y} {
				if kind, ok := side.(*ast.SelectorExpr); ok && strings.HasPrefix(kind.Sel.Name, "Kind") && len(kind.Sel.Name) > len("Kind") {
					if pkg, ok := kind.X.(*ast.Ident); ok && pkg.Name == "wxtoken" {
						faults = append(faults, s.fset.Position(kind.Pos()).String()+": a branch on "+kind.Sel.Name+": ask account.KindOf")
					}
				}
			}
		}
		return true
	})
	return faults
}

// allFaults says what is wrong with a file.
func allFaults(s source) []string {
	return slices.Concat(importFaults(s), nameFaults(s), credentialFaults(s), spellingFaults(s), kindFaults(s))
}

func TestRulesOfTheHouse(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		for _, fault := range allFaults(s) {
			t.Errorf("%s: %s", s.name, fault)
		}
	}
}

// TestTheRulesBite shows that each rule would be noticed if it were broken.
func TestTheRulesBite(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, room, code string
		test             bool
		want             string // part of the only fault; empty: none
	}{
		{"events to the bus", "internal/events", `import _ "wxtoken/internal/bus"`, false, "upstairs"},
		{"down is fine", "internal/ingest", `import _ "wxtoken/internal/events"`, false, ""},
		{"up", "internal/events", `import _ "wxtoken/internal/ingest"`, false, "upstairs"},
		{"beside", "internal/ingest", `import _ "wxtoken/internal/refresher"`, false, "same floor"},
		{"a test goes anywhere", "internal/events", `import _ "wxtoken/internal/ingest"`, true, ""},
		{"client to wechat", "client", `import _ "wxtoken/internal/wechat"`, false, "same floor"},
		{"a room from nowhere", "internal/attic", `import _ "fmt"`, false, "stands on no floor"},
		{"into nowhere", "cmd/ingest", `import _ "wxtoken/internal/attic"`, false, "stands on no floor"},
		{"test server outside of tests", "cmd/wxtoken", `import _ "wxtoken/internal/natsd/natsdtest"`, false, "for tests"},
		{"embedded server in a split binary", "cmd/ingest", `import _ "wxtoken/internal/natsd"`, false, "not for this room"},
		{"embedded server in the all-in-one", "cmd/wxtoken", `import _ "wxtoken/internal/natsd"`, false, ""},
		{"nats-server", "cmd/wxtoken", `import _ "github.com/nats-io/nats-server/v2/server"`, false, "not for this room"},
		{"kong in a room", "internal/ingest", `import _ "github.com/alecthomas/kong"`, false, "not for this room"},
		{"kong in cmd", "cmd/ingest", `import _ "github.com/alecthomas/kong"`, false, ""},
		{"global logger", "internal/serve", `import _ "github.com/rs/zerolog/log"`, false, "not for this room"},
		{"testing in a room for tests of others", "wxtokentest", `import _ "testing"`, false, ""},
		{"a room for tests in a binary", "cmd/wxtoken", `import _ "wxtoken/wxtokentest"`, false, "same floor"},
		{"testing in a binary", "internal/serve", `import _ "testing"`, false, "not for this room"},
		{"the reader below", "internal/wechat", `import _ "wxtoken/client/document"`, false, ""},
		{"dependency of document", "client/document", `import _ "github.com/nats-io/nats.go"`, false, "standard library"},
		{"dependency of message", "client/message", `import _ "github.com/nats-io/nats.go"`, false, "standard library"},
		{"dependency of wechat", "internal/wechat", `import _ "github.com/nats-io/nats.go"`, false, "standard library"},
		{"guessable nonce", "internal/wechat", `import _ "math/rand/v2"`, false, "crypto/rand"},
		{"a context in the account", "internal/account", `import _ "context"`, false, "it waits for nothing"},
		{"a clock in the account", "internal/account", `import "time"; var _ = time.Now`, false, "the clock comes in"},
		{"a credential's field", "internal/refresher", `func f() { cred.RetryAt = x }`, false, "RetryAt is written outside"},
		{"a credential's counter", "internal/transfer", `func f() { e.Credential.Failures++ }`, false, "Failures is written outside"},
		{"a field of something else", "internal/refresher", `func f() { q.ListedAt = x }`, false, ""},
		{"a branch on a kind", "internal/refresher", `func f() { _ = key.Kind == wxtoken.KindComponent }`, false, "ask account.KindOf"},
		{"a kind where it is no branch", "internal/refresher", `func f() { _ = wxtoken.Key{Kind: wxtoken.KindComponent} }`, false, ""},
		{"a kind event", "internal/refresher", `func f() { _ = a.Kind != events.KindFastRegister }`, false, ""},
		{"guessable jitter is fine elsewhere", "internal/refresher", `import _ "math/rand/v2"`, false, ""},
		{"default mux", "internal/console", `import "net/http"; var _ = http.DefaultServeMux`, false, "http.DefaultServeMux"},
		{"under another name", "internal/console", `import web "net/http"; var _ = web.ListenAndServe`, false, "ListenAndServe"},
		{"a variable by hand", "internal/refresher", `const hint = "--nats-url (WXTOKEN_NATS_URL)"`, false, "settings.Name"},
		{"a variable in a text of two languages", "internal/preflight", `const hint = "--nats-url (WXTOKEN_NATS_URL)"`, false, ""},
		{"another flag's variable", "internal/preflight", `const hint = "--nats-url (WXTOKEN_NATS_CREDS)"`, false, "without its flag"},
		{"a variable by hand in a test", "internal/refresher", `const hint = "--nats-url (WXTOKEN_NATS_URL)"`, true, ""},
		{"local time", "internal/console", `import "time"; var _ = time.Local`, false, "times are UTC"},
		{"a method of the same name", "internal/console", `import "time"; func f(t time.Time) { t.Local() }`, false, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, "x.go", "package x\n"+row.code, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			s := source{room: row.room, name: "x.go", test: row.test, file: file, fset: fset}
			faults := allFaults(s)
			if row.want == "" && len(faults) > 0 || row.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], row.want)) {
				t.Fatalf("faults %q, want one with %q", faults, row.want)
			}
		})
	}
}
