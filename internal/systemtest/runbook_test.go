//go:build unix

package systemtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/wechatsim"
)

// runbookPage is the page whose commands are run.
const runbookPage = "../../docs/operations.md"

// contexts is what stands above the first chapter of the page.
const contexts = "Contexts"

// rows are the faults of the runbook: each row makes one, and runs the commands of the entries that it names, every one of them. The
// longest first.
var rows = []struct {
	play   func(*book)
	titles []string
}{
	{restoredBackup, []string{"Make a backup", "Restore a backup"}},
	{quotaGone, []string{"The day's quota is gone", "Renewals are held back"}},
	{manyRefused, []string{"Many accounts are refused at once"}},
	{appSecretWrong, []string{"The AppSecret is wrong"}},
	{wechatAway, []string{"WeChat is away"}},
	{keysChanged, []string{"Change keys and passwords"}},
	{lookAround, []string{"Where to look", contexts}},
	{storeFull, []string{"A full disk under NATS"}},
	{repairOpened, []string{"Open the user `repair`"}},
	{consumersGone, []string{"Services get no watch"}},
	{componentAdded, []string{"Add or remove a component"}},
	{noTicket, []string{"No ticket arrives"}},
	{componentTokenLate, []string{"The component token is late"}},
	{notOnTheWhitelist, []string{"A component is in state `operator`"}},
	{renewalWanted, []string{"Force a renewal"}},
	{otherRef, []string{"An account belongs to another `ref`"}},
	{cancelled, []string{"An authorizer is in state `needs_authorization` or `revoked`"}},
	{tokenRefused, []string{"A service gets 40001, 40014 or 42001"}},
	{forged, []string{"Forged pushes"}},
	{oddPushes, []string{"Odd pushes"}},
	{passwordsChanged, []string{"Change NATS passwords"}},
	{leakedSecret, []string{"A secret may have leaked"}},
	{clockWrong, []string{"A clock is wrong"}},
	{deadEvent, []string{"A message is on `DEAD`"}},
	{moreProcesses, []string{"More processes, restarts, planned maintenance"}},
	{accountAdded, []string{"Add, change or remove an account of services"}},
	{diskKeyChanged, []string{"Change the key of NATS's disk"}},
	{movedToAccounts, []string{"Upgrade"}},
}

// elsewhere are the entries whose commands other tests run, by the name of the test.
var elsewhere = map[string]string{
	"Turn sealing on":                   "TestProcesses/seal_key_changed",
	"One of three NATS servers is lost": "TestOneOfThreeLost",
	"Services read old values":          "TestMirrorFollows", // in cmd/wxtoken, with the accounts that are shipped
}

// TestRunbook makes the faults of docs/operations.md on real processes and runs the commands that the page prints, with a shell. An
// entry that has commands and no row fails it, and so does a command that its row does not run.
func TestRunbook(t *testing.T) {
	t.Parallel()
	page := readRunbook(t)
	covered := map[string]bool{}
	for _, row := range rows {
		for _, title := range row.titles {
			covered[title] = true
			if page[title] == nil {
				t.Errorf("%s has no entry %q with commands", runbookPage, title)
			}
		}
	}
	for title, entry := range page {
		if !covered[title] && elsewhere[title] == "" {
			t.Errorf("%s:%d: the commands of %q are run by no test: add a row", runbookPage, entry[0].line, title)
		}
	}
	if t.Failed() {
		return
	}
	for _, tool := range []string{"nats", "bash", "curl", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s: the runbook's commands are not run (go -C tools/nats install tool; the others come with the system)", tool)
		}
	}
	p := build(t)
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	for _, row := range rows {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			t.Run(row.titles[0], func(t *testing.T) {
				b := &book{T: t, programs: p, page: page, titles: row.titles}
				b.on(row.titles[0])
				row.play(b)
				for _, title := range row.titles {
					for _, block := range page[title] {
						if !block.ran.Load() {
							t.Errorf("%s:%d: not run: %s", runbookPage, block.line, block.commands)
						}
					}
				}
			})
		})
	}
	running.Wait()
}

// block is some lines of commands that stand together on the page.
type block struct {
	label    string // the last of *Sign:*, *Look:*, *Do:*, *Verify:*, ... before it
	commands string
	line     int
	ran      atomic.Bool
}

var labelled = regexp.MustCompile(`^(?:\*\*.*\*\* )?\*([A-Z][^:*]*):\*`)

// readRunbook returns the blocks of commands of each entry of the runbook, of "Where to look", and of what stands before.
func readRunbook(t *testing.T) map[string][]*block {
	t.Helper()
	text, err := os.ReadFile(runbookPage)
	if err != nil {
		t.Fatal(err)
	}
	page := map[string][]*block{}
	chapter, title, label := "", contexts, ""
	var open *block
	for i, line := range strings.Split(string(text), "\n") {
		command, isCommand := strings.CutPrefix(line, "    ")
		if !isCommand {
			open = nil
		}
		switch {
		case strings.HasPrefix(line, "## "):
			chapter, title, label = line[3:], "", ""
			if chapter == "Where to look" {
				title, label = chapter, "Look"
			}
		case strings.HasPrefix(line, "### ") && chapter == "Runbook":
			title, label = line[4:], ""
		case isCommand && title != "":
			if open == nil {
				open = &block{label: label, line: i + 1}
				page[title] = append(page[title], open)
			}
			open.commands += command + "\n"
		default:
			if m := labelled.FindStringSubmatch(line); m != nil {
				label = m[1]
			}
		}
	}
	if len(page) < 10 {
		t.Fatalf("%s: only %d entries with commands found", runbookPage, len(page))
	}
	return page
}

// book is one row at work.
type book struct {
	*testing.T
	programs programs
	page     map[string][]*block
	titles   []string
	title    string // of the entry whose commands are run
	*site
	server     *natsServer // with the users that are shipped, or nil
	change     []string    // in the server's settings: each word and what takes its place
	env        []string
	components string // the directory
	in, re     *process
	told       *receiver // of notices
}

// open starts a site whose components lie in a directory, an ingest and a refresher, and waits for all tokens.
func (b *book) open(accounts int, flags ...string) {
	b.Helper()
	b.prepare(accounts, flags...)
	b.startBoth()
	poll(b.T, func() error { return b.allAccepted(nil, 1) })
	poll(b.T, b.idle)
}

// prepare is open without a process of ours.
func (b *book) prepare(accounts int, flags ...string) {
	b.Helper()
	b.server = newNATS(b.T, b.programs, []string{"127.0.0.1"})[0]
	b.server.inAccounts(b.change...)
	out := b.server.out
	b.Cleanup(func() {
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, "Violation") && !strings.Contains(line, "$JS.API.CONSUMER.DELETE.") { // nats.go, when it begins a watch anew
				b.Errorf("a user lacks a permission: %s", line)
			}
		}
	})
	b.settle(newSiteOn(b.T, b.programs, startAll(b.T, []*natsServer{b.server}), accounts, flags...))
}

// settle gives a site its components, and the commands their variables and contexts.
func (b *book) settle(s *site) {
	b.Helper()
	b.site = s
	b.components = filepath.Join(b.TempDir(), "components")
	b.settings = slices.DeleteFunc(b.settings, func(s string) bool { return strings.HasPrefix(s, "WXTOKEN_COMPONENT_") })
	b.settings = append(b.settings, "WXTOKEN_COMPONENTS_DIR="+b.components, "WXTOKEN_RENEW_FRACTION=0.5", "WXTOKEN_SWEEP_EVERY=1s",
		"WXTOKEN_PUBLIC_URL=http://127.0.0.1:1")
	b.told = s.toldTo() // with the rights of the user that is shipped
	b.secret(wechatsim.DemoAppID, "appsecret", wechatsim.DemoAppSecret)
	b.secret(wechatsim.DemoAppID, "token", wechatsim.DemoToken)
	b.secret(wechatsim.DemoAppID, "aes_key", wechatsim.DemoEncodingAESKey)
	b.env = []string{
		// Without the second, contexts would lie in the home of whoever runs the tests.
		"PATH=" + os.Getenv("PATH"), "XDG_CONFIG_HOME=" + b.TempDir(), "COMPONENTS=" + b.components,
		"C=" + wechatsim.DemoAppID, "A=" + b.keys()[1].Authorizer, "WXTOKEN_WECHAT_API_URL=" + b.api,
	}
	own := 2
	if b.server == nil {
		b.set("NATS_URL", b.nats.ClientURL())
	} else {
		own = 1
		b.set("NATS_URL", fmt.Sprintf("nats://%s:%d", b.server.host, b.server.port))
		b.set("NATS_CONF", b.server.conf())
		b.set("RELOAD", fmt.Sprintf("kill -HUP %d", b.server.cmd.Process.Pid))
		b.passwords("secret-of-")
	}
	if _, err := b.try(b.page[contexts][own]); err != nil {
		b.Fatal(err)
	}
}

// passwords tells the commands the passwords of the users.
func (b *book) passwords(start string) {
	for _, user := range users {
		b.set(strings.ToUpper(user)+"_PASSWORD", start+user)
	}
}

// startBoth starts an ingest and a refresher.
func (b *book) startBoth() {
	b.Helper()
	b.in, b.re = b.ingest(), b.refresher()
	b.set("INGEST", "http://"+b.in.addr("ops"))
	b.set("REFRESHER", "http://"+b.re.addr("ops"))
}

// set gives the commands a variable.
func (b *book) set(name, value string) { b.env = append(b.env, name+"="+value) }

// secret writes a file of a component.
func (b *book) secret(component, name, value string) {
	b.Helper()
	dir := filepath.Join(b.components, component)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600); err != nil {
		b.Fatal(err)
	}
}

// on turns to an entry.
func (b *book) on(title string) { b.title = title }

// block returns the nth block under a label of the entry.
func (b *book) block(label string, n int) *block {
	b.Helper()
	for _, block := range b.page[b.title] {
		if block.label == label {
			if n == 0 {
				return block
			}
			n--
		}
	}
	b.Fatalf("%s: %q has no such block of commands under *%s:*", runbookPage, b.title, label)
	return nil
}

// try runs a block and returns what it printed.
func (b *book) try(block *block) (string, error) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "bash", "-c", block.commands)
	cmd.Env, cmd.Dir = b.env, b.TempDir()
	out, err := cmd.CombinedOutput()
	block.ran.Store(true)
	if err != nil {
		err = fmt.Errorf("%s:%d: %w\n%s\n%s", runbookPage, block.line, err, block.commands, out)
	}
	return string(out), err
}

// run runs the nth block under a label, wants it to succeed, and to print what the pattern says.
func (b *book) run(label string, n int, pattern string) string {
	b.Helper()
	block := b.block(label, n)
	out, err := b.try(block)
	if err != nil {
		b.Fatal(err)
	}
	if !regexp.MustCompile(pattern).MatchString(out) {
		b.Fatalf("%s:%d: it printed no %s:\n%s\n%s", runbookPage, block.line, pattern, block.commands, out)
	}
	return out
}

// until is run again and again, until it prints what the pattern says.
func (b *book) until(label string, n int, pattern string) {
	b.Helper()
	block, want := b.block(label, n), regexp.MustCompile(pattern)
	poll(b.T, func() error {
		out, err := b.try(block)
		if err == nil && !want.MatchString(out) {
			err = fmt.Errorf("%s:%d: it printed no %s:\n%s\n%s", runbookPage, block.line, pattern, block.commands, out)
		}
		time.Sleep(500 * time.Millisecond)
		return err
	})
}

// said waits until a process has logged a message.
func (b *book) said(p *process, msg string) {
	b.Helper()
	poll(b.T, func() error {
		if !strings.Contains(p.stdout.String(), msg) {
			return fmt.Errorf("%s has not said %q", p.name, msg)
		}
		return nil
	})
}

const (
	isActive   = `"state":"active"`
	isOperator = `"state":"operator"`
)

// inTheStore reports whether a word lies in the files of NATS.
func (b *book) inTheStore(word string) (found bool) {
	b.Helper()
	err := filepath.WalkDir(b.server.store(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		found = found || bytes.Contains(text, []byte(word))
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return found
}
