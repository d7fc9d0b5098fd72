//go:build unix

package systemtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/wechatsim"
)

func lookAround(b *book) {
	b.open(1)
	b.run("Look", 0, isActive)
	if _, err := b.try(b.page[contexts][0]); err != nil { // the variables, which the test has set to its own
		b.Error(err)
	}

	// And on a NATS without users.
	b.server = nil
	b.settle(newSite(b.T, b.programs, 1))
	b.startBoth()
	b.until("Look", 0, isActive)
}

func repairOpened(b *book) {
	b.open(1)
	service := b.connect("service")
	const edit = "\n# An edit while the user was let in.\n"
	want := b.server.settings() + edit
	refused := func() error {
		if out, err := b.try(b.block("Verify", 1)); err == nil || !strings.Contains(out, "Authorization Violation") {
			return fmt.Errorf("the user repair is there: %s %w", out, err)
		}
		return nil
	}
	if err := refused(); err != nil {
		b.Error(err)
	}
	b.run("Do", 0, "")
	open := b.server.settings()
	b.run("Do", 0, "") // by somebody else, who does not know
	if twice := b.server.settings(); twice != open {
		b.Errorf("opened twice, the file is another one:\n%s", twice)
	}
	b.until("Verify", 0, "")
	if err := os.WriteFile(b.server.conf(), []byte(open+edit), 0o600); err != nil {
		b.Fatal(err)
	}
	for range 2 {
		b.run("Close", 0, "")
		if closed := b.server.settings(); closed != want {
			b.Errorf("closed, the file is not what it was:\n%s", closed)
		}
	}
	poll(b.T, refused)
	for _, p := range []*process{b.in, b.re} {
		if strings.Contains(p.stdout.String(), "nats disconnected") {
			b.Errorf("%s lost its connection", p.name)
		}
	}
	if n := service.Stats().Reconnects; n > 0 || !service.IsConnected() {
		b.Errorf("a service lost its connection %d times", n)
	}
}

func componentAdded(b *book) {
	b.open(1, "--components=2")
	added := wechatsim.DemoOf(2, time.Minute, 1, "http://unused").Components[1]
	b.set("NEW", added.AppID)
	b.set("APPSECRET", added.AppSecret)
	b.set("TOKEN", added.Token)
	b.set("AES_KEY", added.EncodingAESKey)
	b.run("Do", 0, "")
	b.said(b.in, "component added")
	b.said(b.re, "component added")
	b.until("Verify", 0, isActive)

	inStore := func(component string) (found []string) {
		for _, stream := range []string{"KV_tokens", "KV_status"} {
			st, err := b.js.Stream(b.Context(), stream)
			if err != nil {
				b.Fatal(err)
			}
			info, err := st.Info(b.Context(), jetstream.WithSubjectFilter(">"))
			if err != nil {
				b.Fatal(err)
			}
			for subject := range info.State.Subjects {
				if slices.Contains(strings.Split(subject, "."), component) {
					found = append(found, subject)
				}
			}
		}
		slices.Sort(found)
		return found
	}
	kept, before := inStore(wechatsim.DemoAppID), inStore(added.AppID)
	for _, want := range []string{"$KV.tokens.", "$KV.status.", "credential.", "renewal.scheduled."} {
		if !slices.ContainsFunc(before, func(subject string) bool { return strings.HasPrefix(subject, want) }) {
			b.Errorf("nothing of the component is below %s, so that there is nothing to forget: %q", want, before)
		}
	}
	if err := os.RemoveAll(filepath.Join(b.components, added.AppID)); err != nil {
		b.Fatal(err)
	}
	b.said(b.in, "component removed")
	b.said(b.re, "component removed")
	b.re.terminate()
	b.set("GONE", added.AppID)
	entry := b.title
	b.on("Open the user `repair`")
	b.run("Do", 0, "")
	b.until("Verify", 0, "")
	b.on(entry)
	if out := b.run("To forget it", 0, ""); strings.Count(out, `"success":true`) != 10 {
		b.Errorf("not every purge was done: %s", out)
	}
	b.startBoth()
	poll(b.T, func() error { return b.allAccepted(nil, 1) })
	if left := inStore(added.AppID); len(left) != 0 {
		b.Errorf("still there: %q", left)
	}
	now := inStore(wechatsim.DemoAppID)
	for _, subject := range kept {
		if !strings.HasPrefix(subject, "renewal.") && !slices.Contains(now, subject) { // schedules come and go
			b.Errorf("%s of the other component is gone", subject)
		}
	}
}

func renewalWanted(b *book) {
	b.open(3)
	before := b.generations()
	b.run("Do", 0, `"outcome":"(renewing|too_soon|already_renewed)"`)
	poll(b.T, func() error { return b.renewed(b.keys()[1], before[b.keys()[1]]+1) })
	if out := b.run("Do", 1, `"outcome"`); strings.Count(out, `"outcome"`) != 3 {
		b.Errorf("not all three accounts were renewed: %s", out)
	}
}

func otherRef(b *book) {
	b.open(1)
	b.set("REF", "tenant-2")
	b.run("Do", 0, `"url":"http://127.0.0.1:1/connect/`)
	b.run("Verify", 0, isActive)
}

func cancelled(b *book) {
	b.open(2)
	b.tell("/cancel", "authorizer="+b.keys()[1].Authorizer)
	b.until("Look", 0, `"state":"revoked"`)
	b.run("Do", 0, "")
	b.run("Do", 1, `"url":"http://127.0.0.1:1/connect/`)
	b.tell("/authorize", "authorizer="+b.keys()[1].Authorizer)
	b.until("Verify", 0, isActive)
}

func clockWrong(b *book) {
	b.open(1)
	b.run("Verify", 0, `wxtoken_push_skewed_total 0`)
}

func moreProcesses(b *book) {
	b.open(1)
	b.run("Verify", 0, "")
}

// movedToAccounts takes what was stored without accounts along to the settings that are shipped: a store in the clear is renamed, one
// that is encrypted goes through a backup.
func movedToAccounts(b *book) {
	withoutAccounts := func(changes ...string) (before map[wxtoken.Key]uint64) {
		b.server = newNATS(b.T, b.programs, []string{"127.0.0.1"}, changes...)[0]
		b.settle(newSiteOn(b.T, b.programs, startAll(b.T, []*natsServer{b.server}), 3, "--life=10m"))
		b.startBoth()
		poll(b.T, func() error { return b.allAccepted(nil, 1) })
		b.in.terminate()
		b.re.terminate()
		return b.generations()
	}
	same := func(before map[wxtoken.Key]uint64) {
		poll(b.T, func() error { return b.allAccepted(nil, 1) })
		for key, generation := range b.generations() {
			if generation != before[key] {
				b.Errorf("%s came with generation %d, and had %d", key, generation, before[key])
			}
		}
		b.startBoth()
		poll(b.T, func() error { return b.allAccepted(nil, 1) })
	}

	before := withoutAccounts() // encrypted, as it is shipped
	entry := b.title
	b.set("BACKUP", filepath.Join(b.TempDir(), "backup"))
	b.on("Make a backup")
	b.run("Do", 0, "")
	b.server.stop()
	if err := os.RemoveAll(b.server.store()); err != nil {
		b.Fatal(err)
	}
	b.server.inAccounts()
	startAll(b.T, []*natsServer{b.server})
	b.set("RELOAD", fmt.Sprintf("kill -HUP %d", b.server.cmd.Process.Pid))
	b.on("Open the user `repair`")
	b.run("Do", 0, "")
	b.until("Verify", 0, "")
	b.on("Restore a backup")
	b.run("Do", 1, "")
	b.on(entry)
	same(before)
	b.in.terminate()
	b.re.terminate()

	before = withoutAccounts("cipher: chachapoly", "", "key: $JETSTREAM_KEY", "")
	b.server.stop()
	if !b.inTheStore("SEKRET") {
		b.Error("the store has no token in the clear, so that there is nothing to encrypt")
	}
	b.set("STORE", b.server.store())
	b.run("", 0, "")
	b.server.inAccounts()
	startAll(b.T, []*natsServer{b.server})
	same(before)
	b.server.stop()
	if b.inTheStore("SEKRET") {
		b.Error("the store has tokens in the clear")
	}
}
