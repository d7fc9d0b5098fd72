package main

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/gateway"
	"wxtoken/internal/login"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/services"
	"wxtoken/wechatsim"
)

// TestDeployedSettings: a variable that no program knows is ignored without a word, so those in the
// files are compared with docs/config.md.
func TestDeployedSettings(t *testing.T) {
	t.Parallel()
	settings, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	variable := regexp.MustCompile(`WXTOKEN_[A-Z0-9_]+`)
	known := variable.FindAllString(string(settings), -1)
	files := []string{"../../docker-compose.yml", "../../Dockerfile"}
	err = filepath.WalkDir("../../deploy", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Ext(path) != ".md" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range variable.FindAllString(string(text), -1) {
			found++
			if name != "WXTOKEN_IMAGE" && name != "WXTOKEN_" && !slices.Contains(known, name) {
				t.Errorf("%s sets %s, which no program knows", file, name)
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d variables in %q", found, files)
	}
}

// TestDeployedCluster: nats-cluster.conf is nats-server.conf and a cluster. TestMirrorsOfACluster
// and scripts/compose-proof run one.
func TestDeployedCluster(t *testing.T) {
	t.Parallel()
	const file = "../../deploy/nats/nats-cluster.conf"
	alone, err := server.ProcessConfigFile("../../deploy/nats/nats-server.conf")
	if err != nil {
		t.Fatal(err)
	}
	one, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if one.ServerName != "nats-2" || len(one.Routes) != 3 || one.Routes[2].String() != "nats://cluster:pw@nats-3:6222" || one.Cluster.Password != "pw" {
		t.Errorf("server %q, routes %v, password %q", one.ServerName, one.Routes, one.Cluster.Password)
	}
	if one.Cluster.PingInterval != 2*time.Second || one.Cluster.MaxPingsOut != 2 {
		t.Errorf("routes are pinged every %v, and given up after %d", one.Cluster.PingInterval, one.Cluster.MaxPingsOut)
	}
	if len(one.Users) != len(alone.Users) || len(one.Accounts) != len(alone.Accounts) || !one.SyncAlways || one.StoreDir != alone.StoreDir || one.JetStreamKey != alone.JetStreamKey || one.MaxPayload != alone.MaxPayload {
		t.Errorf("%d users of %d; sync always %v, directory %q, payload %d", len(one.Users), len(alone.Users), one.SyncAlways, one.StoreDir, one.MaxPayload)
	}
}

// TestDeployStartsNATS: the commands with which docs/deploy.md starts NATS, in both languages, go
// through, before-start with the key among them.
func TestDeployStartsNATS(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	deploy, err := filepath.Abs("../../deploy")
	if err != nil {
		t.Fatal(err)
	}
	echo, err := exec.LookPath("echo") // in the place of the server: what it was started with
	if err != nil {
		t.Skip(err)
	}
	block := regexp.MustCompile(`(?m)^ +\(umask 077; for v in INGEST_PASSWORD(?:.*\n)+? +\(set -a;.*\n`)
	for _, name := range []string{"docs/deploy.md", "docs/deploy.zh-CN.md"} {
		page, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		commands := block.Find(page)
		if commands == nil {
			t.Fatalf("%s does not say how NATS is started", name)
		}
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "bin"), 0o700), os.Symlink(deploy, filepath.Join(dir, "deploy")),
			os.Symlink(echo, filepath.Join(dir, "bin/nats-server"))); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), "bash", "-e", "-c", string(commands))
		command.Dir = dir
		command.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "JETSTREAM_KEY=") })
		out, err := command.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "-c deploy/nats/nats-server.conf") {
			t.Errorf("%s: %v\n%s\n%s", name, err, commands, out)
		}
	}
}

// TestBuildContext: .dockerignore lets the image's build see every package that the executables are made of, and every file in them that
// is embedded.
func TestBuildContext(t *testing.T) {
	t.Parallel()
	ignore, err := os.ReadFile("../../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for line := range strings.Lines(string(ignore)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			seen = append(seen, path)
		}
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", `{{$dir := .Dir}}{{with .Module}}{{if not .Version}}{{$dir}}{{end}}{{end}}
{{with .Module}}{{if .Replace}}{{$dir}}{{end}}{{end}}{{range .EmbedFiles}}
{{$dir}}/{{.}}{{end}}`, "./cmd/...")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range slices.Compact(strings.Fields(string(out))) {
		within, ok := strings.CutPrefix(path, root+"/")
		if !ok {
			continue
		}
		found++
		if !slices.ContainsFunc(seen, func(s string) bool {
			return within == s || strings.HasPrefix(within, s+"/") || within == filepath.Dir(s)
		}) {
			t.Errorf(".dockerignore keeps %s from the build", within)
		}
	}
	if found < 30 {
		t.Errorf("only %d packages and files of ours were found", found)
	}
}

// TestDeployedServices: the services files of deploy are taken. That of the simulation has the key of wxtoken --sim, and the one to be
// copied has none that opens anything: as it stands it lets nobody in.
func TestDeployedServices(t *testing.T) {
	t.Parallel()
	parsed := func(name string) (string, *services.Services) {
		text, err := os.ReadFile("../../deploy/" + name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := services.Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return string(text), s
	}
	_, sim := parsed("sim/gateway/services.json")
	if s, ok := sim.ByKey(demoKey); !ok || !s.May(services.RightRelay) || !s.Knows(wxtoken.AuthorizerKey(wechatsim.DemoAppID, "wxa000000000000001"), "") {
		t.Errorf("the simulation's services file does not know %s: %v", demoKey, s)
	}
	text, example := parsed("gateway/services.json")
	digests := regexp.MustCompile(`sha256:([0-9a-f]{64})`).FindAllStringSubmatch(text, -1)
	if len(digests) != len(example.All()) {
		t.Errorf("%d digests of %d services", len(digests), len(example.All()))
	}
	for _, d := range digests {
		if d[1] != strings.Repeat(d[1][:1], 64) {
			t.Errorf("%s could be that of a key", d[0])
		}
	}
	f, err := os.Open("../../deploy/sim/gateway_token_key")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := gateway.ReadSigner(f); err != nil {
		t.Error(err)
	}
}

// TestDeployedUsers: the simulation's users file is taken, and lets admin in with the password that docker-compose.yml names.
func TestDeployedUsers(t *testing.T) {
	t.Parallel()
	guard, err := login.New(login.Config{UsersFile: "../../deploy/sim/console/users.json"}, login.Deps{
		NATS: natsdtest.Start(t).Connect(), Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	var who login.Person
	page := guard.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { who = login.PersonOf(r.Context()) }))
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.SetBasicAuth("admin", "admin")
	page.ServeHTTP(httptest.NewRecorder(), r)
	if who.Name != "admin" || who.Role != login.Admin {
		t.Errorf("it is %+v", who)
	}
}
