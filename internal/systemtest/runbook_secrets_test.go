//go:build unix

package systemtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/wechatsim"
)

func keysChanged(b *book) {
	b.open(1)
	b.set("NEW_AES_KEY", strings.Repeat("SEKRETanotherkey", 3)[:43])
	b.run("Do", 0, "")
	b.said(b.in, "component's secrets changed")
	b.until("Verify", 0, `wxtoken_push_key_total{key="previous"} [1-9]`) // WeChat's console has the old one still
	// The platform's key can't be changed, so what is the new one from now on is what the platform has.
	b.secret(wechatsim.DemoAppID, "aes_key", wechatsim.DemoEncodingAESKey)
	b.run("Do", 1, "")
	before := len(b.history("push_answer"))
	poll(b.T, func() error {
		if n := len(b.history("push_answer")) - before; n < 5 {
			return fmt.Errorf("%d pushes since", n)
		}
		return nil
	})
	b.until("Verify", 0, `(?s)key="current"} [1-9].*reason="decrypt"} 0.*reason="signature"} 0`)
}

func passwordsChanged(b *book) {
	b.open(2)
	before := b.generations()
	for _, user := range users {
		b.server.env = append(b.server.env, strings.ToUpper(user)+"_PASSWORD=another-of-"+user)
	}
	b.server.stop()
	startAll(b.T, []*natsServer{b.server})
	for _, p := range []*process{b.in, b.re} {
		b.said(p, "nats refused the user")
		p.terminate()
	}
	b.url = func(role string) string {
		return fmt.Sprintf("nats://%s:another-of-%s@%s:%d", role, role, b.server.host, b.server.port)
	}
	b.startBoth()
	b.passwords("another-of-")
	if _, err := b.try(b.page[contexts][1]); err != nil {
		b.Fatal(err)
	}
	b.until("Verify", 0, isActive)
	poll(b.T, func() error { return b.allAccepted(before, 1) })
}

func leakedSecret(b *book) {
	b.open(3, "--life=60s", "--overlap=0s")
	const other = "fedcba9876543210fedcba9876543210"
	old := map[wxtoken.Key]wxtoken.Token{}
	for _, key := range b.keys() {
		token, err := b.accepted(key)
		if err != nil {
			b.Fatal(err)
		}
		old[key] = token
	}
	b.tell("/secret", "appsecret="+other)
	b.set("APPSECRET", other)
	b.until("Do", 0, `"outcome":"renewing"`) // too soon, where it was renewed a moment before
	component := b.keys()[0]
	poll(b.T, func() error { return b.renewed(component, old[component].Generation+1) })
	granted := 0
	poll(b.T, func() error { // again, where one was too soon; not at once, for that is granted 24 times a day
		granted += strings.Count(b.run("Do", 1, `"outcome"`), `"outcome":"renewing"`)
		if granted < 3 {
			time.Sleep(7 * time.Second) // older than a tenth of their life
			return fmt.Errorf("%d renewals were granted", granted)
		}
		return nil
	})
	poll(b.T, func() error {
		for key, token := range old {
			if err := b.renewed(key, token.Generation+1); err != nil {
				return err
			}
		}
		return nil
	})
	b.until("Verify", 0, `(?s)`+isActive+`.*kind="authorizer",outcome="ok",trigger="asked"} ([3-9]|\d\d)`)
}

// diskKeyChanged takes everything to a store with another JETSTREAM_KEY. An empty one is refused before the server starts.
func diskKeyChanged(b *book) {
	b.open(3, "--life=10m")
	before := b.generations()
	b.set("BACKUP", filepath.Join(b.TempDir(), "backup"))
	b.set("STORE", b.server.store())
	entry := b.title
	b.on("Make a backup")
	b.run("Do", 0, "")
	b.in.terminate()
	b.re.terminate()
	b.server.stop()

	empty := exec.Command("../../deploy/nats/before-start", b.server.store())
	empty.Env = []string{"PATH=" + os.Getenv("PATH"), "JETSTREAM_KEY="}
	if out, err := empty.CombinedOutput(); err == nil || !strings.Contains(string(out), "JETSTREAM_KEY is empty") {
		b.Errorf("before the start with an empty key: %v %s", err, out)
	}
	b.on(entry)
	b.run("Do", 0, "")
	b.server.env = append(b.server.env, "JETSTREAM_KEY=another-key-of-the-disk")
	startAll(b.T, []*natsServer{b.server})
	b.set("RELOAD", fmt.Sprintf("kill -HUP %d", b.server.cmd.Process.Pid))
	b.on("Open the user `repair`")
	b.run("Do", 0, "")
	b.until("Verify", 0, "")
	b.on("Restore a backup")
	b.run("Do", 1, "")
	b.startBoth()
	poll(b.T, func() error { return b.allAccepted(nil, 1) })
	for key, generation := range b.generations() {
		if generation < before[key] {
			b.Errorf("%s came with generation %d, and had %d", key, generation, before[key])
		}
	}
	b.on(entry)
	b.run("Verify", 0, "")
	b.run("Verify", 1, "")
}
