//go:build unix

package systemtest

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wxtoken/internal/events"
)

// TestRightsLost takes a right away from the refreshers while they run: they say which, ask WeChat for nothing, say it with patience, and
// go on as soon as they have it back.
func TestRightsLost(t *testing.T) {
	t.Parallel()
	p := build(t)
	all := newNATS(t, p, []string{"127.0.0.1"})
	s := newSiteOn(t, p, startAll(t, all), 3, "--life=60s")
	s.settings = append(s.settings, "WXTOKEN_RENEW_FRACTION=0.1", "WXTOKEN_SWEEP_EVERY=2s")
	s.ingest()
	one := s.refresher()
	poll(t, func() error { return s.allAccepted(nil, 1) })
	s.tell("/stop-tickets", "")
	good, err := os.ReadFile(all[0].conf())
	if err != nil {
		t.Fatal(err)
	}
	set := func(conf string) {
		t.Helper()
		if err := os.WriteFile(all[0].conf(), []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		all[0].signal(syscall.SIGHUP)
	}
	ready := func(want int, words string) {
		t.Helper()
		poll(t, func() error {
			if status, body := one.get("/readyz"); status != want || !strings.Contains(body, words) {
				return fmt.Errorf("/readyz %d %s, want %d with %q", status, body, want, words)
			}
			return nil
		})
	}
	ready(http.StatusOK, "")
	set(strings.Replace(string(good), `            "credential.>"`+"\n", "", 1))
	ready(http.StatusServiceUnavailable, "credential.proof")
	time.Sleep(5 * time.Second) // calls whose proof is older than the change are over
	calls, said, began := len(s.history("call")), len(one.stdout.String()), time.Now()
	time.Sleep(10 * time.Second) // four tokens come due
	if n := len(s.history("call")) - calls; n != 0 {
		t.Errorf("%d calls without the right to store their answers", n)
	}
	text := one.stdout.String()[said:]
	if !strings.Contains(text, `permissions violation`) && !strings.Contains(text, `Permissions Violation`) || !strings.Contains(text, `credential.`) {
		t.Errorf("the log does not name the subject:\n%s", tail(text, 3000))
	}
	lines := 0
	for line := range strings.Lines(text) {
		if !strings.Contains(line, `"debug"`) {
			lines++
		}
	}
	if most := 5 * int(1+time.Since(began)/time.Second); lines > most {
		t.Errorf("%d lines in %s, want %d at most", lines, time.Since(began).Round(time.Second), most)
	}
	set(string(good))
	ready(http.StatusOK, "")
	before := s.generations()
	poll(t, func() error { return s.allAccepted(before, 1) })
}

// TestDiskFull fills the disk under a NATS server without a cap that is below it: what was acked stays. The server may have to be started
// again before it stores anything (docs/operations.md).
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	if os.Getenv(lossesVariable) == "" {
		t.Skipf("not for every day: set %s", lossesVariable)
	}
	p := build(t)
	all := newNATS(t, p, []string{"127.0.0.1"})
	disk := all[0].store()
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk).CombinedOutput(); err != nil {
		t.Skipf("can't mount a small disk: %v: %s", err, text)
	}
	t.Cleanup(func() {
		all[0].kill()
		_ = exec.Command("umount", "-l", disk).Run()
	})
	s := newSiteOn(t, p, startAll(t, all), 3, "--life=10m", "--push-every=250ms", "--push-tries=2000")
	s.settings = append(s.settings, "WXTOKEN_SWEEP_EVERY=2s")
	in := s.ingest()
	one := s.refresher()
	poll(t, func() error { return s.allAccepted(nil, 1) })
	before := s.generations()
	stop := s.pushLoad()
	ballast := filepath.Join(disk, "ballast")
	if text, err := exec.Command("dd", "if=/dev/zero", "of="+ballast, "bs=64k").CombinedOutput(); err == nil {
		t.Fatalf("the disk is not full: %s", text)
	}
	poll(t, func() error { // pushes are refused
		for _, e := range s.history("push_answer") {
			if e.Status == http.StatusServiceUnavailable {
				return nil
			}
		}
		return errors.New("no push was refused: is the disk full?")
	})
	poll(t, func() error {
		if status, body := one.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "publish credential.proof to KV_tokens: ") {
			return fmt.Errorf("/readyz %d %s", status, body)
		}
		return nil
	})
	calls := len(s.history("call"))
	time.Sleep(5 * time.Second)
	if n := len(s.history("call")) - calls; n > 0 {
		t.Errorf("%d calls while nothing can be stored", n)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	alone := func() error { _, err := s.taken(events.StreamMessages); return err }
	time.Sleep(3 * time.Second)
	if err := alone(); err != nil {
		t.Logf("with room again, and not restarted: %v", err)
	}
	all[0].kill()
	all[0].start()
	healthy(t, all)
	s.flows(events.StreamMessages)
	stop()
	poll(t, func() error { return s.allAccepted(before, 0) })
	for _, each := range []*process{in, one} {
		poll(t, func() error {
			if status, body := each.get("/readyz"); status != http.StatusOK {
				return fmt.Errorf("%s: /readyz %d %s", each.name, status, body)
			}
			return nil
		})
	}
}

// TestDamagedBlock changes one bit of what lies on the disk of a NATS server that is alone: of the tokens and credentials, in several places. What
// the server then makes of it, every account has a token again that was renewed since, after what docs/operations.md has somebody do at most: where the
// server itself ends each time it starts, or can't read what it has, the stream is put aside; a refresher that misses it is restarted.
func TestDamagedBlock(t *testing.T) {
	t.Parallel()
	p := build(t)
	all := newNATS(t, p, []string{"127.0.0.1"})
	s := newSiteOn(t, p, startAll(t, all), 3, "--life=30s")
	s.settings = append(s.settings, "WXTOKEN_SWEEP_EVERY=2s")
	s.ingest()
	one := s.refresher()
	poll(t, func() error { return s.allAccepted(nil, 1) })
	for _, place := range []float64{0.1, 0.5, 0.9} {
		all[0].kill()
		blocks, err := filepath.Glob(filepath.Join(all[0].store(), "jetstream", "*", "streams", events.StreamTokens, "msgs", "*.blk"))
		if err != nil || len(blocks) == 0 {
			t.Fatalf("no blocks of %s: %v", events.StreamTokens, err)
		}
		for _, block := range blocks {
			data, err := os.ReadFile(block)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > 0 {
				data[int(place*float64(len(data)))] ^= 1
			}
			if err := os.WriteFile(block, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		all[0].start()
		aside, restarted := false, false
		poll(t, func() error {
			broken := time.Since(began) > 30*time.Second && !aside // NATS can't read a record that it has not dropped
			select {
			case <-all[0].ended:
				broken = true
			default:
			}
			if broken && aside {
				t.Fatalf("bit at %.0f %%: NATS does not start without %s either", 100*place, events.StreamTokens)
			}
			if broken {
				all[0].kill()
				if err := os.Rename(filepath.Dir(filepath.Dir(blocks[0])), filepath.Join(t.TempDir(), "aside")); err != nil {
					t.Fatal(err)
				}
				all[0].start()
				aside = true
			}
			if status, body := one.get("/readyz"); status != http.StatusOK && !restarted && time.Since(began) > 10*time.Second {
				t.Logf("bit at %.0f %%: %s", 100*place, body)
				one.terminate()
				one, restarted = s.refresher(), true
			}
			for _, key := range s.keys() {
				token, err := s.accepted(key)
				if err == nil && token.ObtainedAt.Before(began) {
					err = fmt.Errorf("%s was not renewed since", key)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		t.Logf("bit at %.0f %%: all renewed after %s, stream put aside: %t, refresher restarted: %t", 100*place, time.Since(began).Round(time.Millisecond), aside, restarted)
	}
}

// TestOneOfThreeCutOff cuts one of three NATS servers off from everybody: the packets are dropped, nobody is told.
func TestOneOfThreeCutOff(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	if os.Getenv(lossesVariable) == "" {
		t.Skipf("not for every day: set %s", lossesVariable)
	}
	p := build(t)
	id := os.Getpid() % 200
	run := func(args ...string) error {
		if text, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, text)
		}
		return nil
	}
	bridge, hosts := fmt.Sprintf("wxb%d", id), []string{}
	if err := run("ip", "link", "add", bridge, "type", "bridge"); err != nil {
		t.Skipf("can't make a network: %v", err)
	}
	t.Cleanup(func() { _ = run("ip", "link", "del", bridge) })
	steps := [][]string{{"ip", "addr", "add", fmt.Sprintf("10.213.%d.1/24", id), "dev", bridge}, {"ip", "link", "set", bridge, "up"}}
	space := func(i int) string { return fmt.Sprintf("wxn%d-%d", id, i) }
	link := func(i int) string { return fmt.Sprintf("wxv%d-%d", id, i) }
	for i := range 3 {
		host := fmt.Sprintf("10.213.%d.%d", id, 11+i)
		hosts = append(hosts, host)
		steps = append(steps,
			[]string{"ip", "netns", "add", space(i)},
			[]string{"ip", "link", "add", link(i), "type", "veth", "peer", "name", "eth0", "netns", space(i)},
			[]string{"ip", "link", "set", link(i), "master", bridge, "up"},
			[]string{"ip", "-n", space(i), "addr", "add", host + "/24", "dev", "eth0"},
			[]string{"ip", "-n", space(i), "link", "set", "eth0", "up"},
			[]string{"ip", "-n", space(i), "link", "set", "lo", "up"},
		)
		t.Cleanup(func() { _ = run("ip", "netns", "del", space(i)) })
	}
	for _, step := range steps {
		if err := run(step...); err != nil {
			t.Fatal(err)
		}
	}
	all := newNATS(t, p, hosts)
	number := map[*natsServer]int{}
	for i, n := range all {
		n.in = []string{"ip", "netns", "exec", space(i)}
		number[n] = i
	}
	drop := func(verb string) func(n *natsServer) {
		return func(n *natsServer) {
			t.Helper()
			for _, way := range [][2]string{{"INPUT", "-i"}, {"OUTPUT", "-o"}} {
				if err := run("ip", "netns", "exec", space(number[n]), "iptables", verb, way[0], way[1], "eth0", "-j", "DROP"); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	loseEach(t, p, all, []loss{{"cut off", drop("-A"), drop("-D")}})
}
