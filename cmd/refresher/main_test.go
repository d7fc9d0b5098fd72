//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/seal"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/internal/transfer"
)

// beMain makes the test binary be the program.
const beMain = "REFRESHER_TEST_BE_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(beMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

const component = "wx0123456789abcdef"

// transfers runs the program to its end. It fails the test if a secret is printed.
func transfers(t *testing.T, natsURL, stdin string, args ...string) (output string, exit int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"--nats-url=" + natsURL, "--log-format=json"}, args...)...)
	cmd.Env = []string{beMain + "=1", "WXTOKEN_COMPONENT_APPID=" + component, "WXTOKEN_COMPONENT_APPSECRET=SEKRET0123456789abcdef0123456789"}
	cmd.Stdin = strings.NewReader(stdin)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	err := cmd.Run()
	if strings.Count(out.String(), "\n") > 1 {
		t.Errorf("%v printed more than its answer on standard output:\n%s", args, &out)
	}
	log.Write(out.Bytes())
	out = log
	failed := new(exec.ExitError)
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "SEKRET") {
		t.Errorf("%v printed a secret: %s", args, out.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// report reads what an import says, its last line.
func report(t *testing.T, output string) (r transfer.ImportReport) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		t.Fatalf("%v: the last line is no report:\n%s", err, output)
	}
	return r
}

// keeper returns a NATS server with the streams, and its store.
func keeper(t *testing.T, keys *seal.Keys) (url string, s *store.Store) {
	t.Helper()
	server := natsdtest.StartTCP(t)
	nc := server.Connect()
	js := natsdtest.JetStream(t, nc)
	streamstest.Setup(t, nc, js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	s, err := store.Open(t.Context(), nc, js, keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	return server.ClientURL(), s
}

func TestImportAndExport(t *testing.T) {
	t.Parallel()
	url, s := keeper(t, nil)
	importAndExport(t, url, s)
}

func TestImportAndExportSealed(t *testing.T) {
	t.Parallel()
	seed, _, err := seal.Make()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.FromSeeds(seed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := os.WriteFile(file, []byte(seed), 0o600); err != nil {
		t.Fatal(err)
	}
	url, s := keeper(t, keys)
	importAndExport(t, url, s, "--seal-key-file="+file)
	c, err := s.Credential(t.Context(), wxtoken.AuthorizerKey(component, "wxa1"))
	if err != nil || c.RefreshToken != "refreshtoken@@@SEKRET-1" {
		t.Error("the record that was imported can't be opened", err)
	}
}

// importAndExport imports into the store on url, and exports from it; more are flags.
func importAndExport(t *testing.T, url string, s *store.Store, more ...string) {
	t.Helper()
	dir := t.TempDir()
	transfers := func(t *testing.T, natsURL, stdin string, args ...string) (string, int) {
		t.Helper()
		return transfers(t, natsURL, stdin, append(args, more...)...)
	}
	file := filepath.Join(dir, "authorizations.jsonl")
	content := `{"authorizer_appid":"wxa1","authorizer_refresh_token":"refreshtoken@@@SEKRET-1","auth_time":1700000000,"ref":"shop-1"}
{"authorizer_appid":"wxa2","refresh_token":"refreshtoken@@@SEKRET-2","auth_time":"2023-11-14T22:13:20Z"}
`
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	refreshToken := func(authorizer string) string {
		t.Helper()
		c, err := s.Credential(t.Context(), wxtoken.AuthorizerKey(component, authorizer))
		if err != nil {
			t.Fatal(err)
		}
		return c.RefreshToken
	}

	out, exit := transfers(t, url, "", "--import="+file)
	if r := report(t, out); exit != 0 || r.Applied || r.Lines != 2 || r.Fates["new"] != 2 || refreshToken("wxa1") != "" {
		t.Errorf("a dry run: exit %d, %+v", exit, r)
	}
	out, exit = transfers(t, url, content+"SEKRET\n\n{}\n", "--import=-", "--import-apply")
	if exit != 1 || !strings.Contains(out, "line 3") || !strings.Contains(out, "line 5") || refreshToken("wxa1") != "" {
		t.Errorf("a faulty file: exit %d\n%s", exit, out)
	}
	out, exit = transfers(t, url, content, "--import=-", "--import-apply")
	if r := report(t, out); exit != 0 || !r.Applied || r.Fates["new"] != 2 || refreshToken("wxa2") != "refreshtoken@@@SEKRET-2" {
		t.Errorf("from standard input: exit %d, %+v", exit, r)
	}

	export := filepath.Join(dir, "export.jsonl")
	if out, exit = transfers(t, url, "", "--export="+export); exit != 0 {
		t.Fatalf("export: exit %d\n%s", exit, out)
	}
	info, err := os.Stat(export)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v: others can read the keys to all accounts", info.Mode())
	}
	exported, err := os.ReadFile(export)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(exported, []byte("\n")); n != 2 {
		t.Errorf("%d lines were exported", n)
	}
	out, exit = transfers(t, url, "", "--import="+export, "--import-apply")
	if r := report(t, out); exit != 0 || r.Fates["same"] != 2 {
		t.Errorf("imported where it came from: exit %d, %+v", exit, r)
	}
	if out, exit = transfers(t, url, "", "--export="+export); exit != 1 || !strings.Contains(out, "exists") {
		t.Errorf("exported over a file: exit %d\n%s", exit, out)
	}
	if again, err := os.ReadFile(export); err != nil || !bytes.Equal(again, exported) {
		t.Error("an export that was refused changed the file")
	}
}

func TestTransferRefused(t *testing.T) {
	t.Parallel()
	url, _ := keeper(t, nil)
	empty := natsdtest.StartTCP(t).ClientURL()
	for _, row := range []struct {
		name string
		url  string
		args []string
		exit int
		says string
	}{
		{"both at once", url, []string{"--import=a", "--export=b"}, 2, "--import (WXTOKEN_IMPORT)"},
		{"nothing to apply", url, []string{"--import-apply"}, 2, "--import-apply (WXTOKEN_IMPORT_APPLY)"},
		{"no such file", url, []string{"--import=" + filepath.Join(t.TempDir(), "none")}, 1, "no such file"},
		{"no such folder", url, []string{"--export=" + filepath.Join(t.TempDir(), "none", "x")}, 1, "no such file"},
		{"no streams", empty, []string{"--import=-"}, 1, "a refresher makes the streams"},
	} {
		if out, exit := transfers(t, row.url, "", row.args...); exit != row.exit || !strings.Contains(out, row.says) {
			t.Errorf("%s: exit %d, want %d with %q:\n%s", row.name, exit, row.exit, row.says, out)
		}
	}
}
