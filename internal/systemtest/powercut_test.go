//go:build unix

package systemtest

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/wechatsim"
)

// TestPowerCut cuts the power of the machine that NATS runs on, again and again, while pushes come in and tokens are renewed: with the
// shipped settings nothing is lost that was acked. A last cut, with the server's own sync_interval, loses something: so could the others have.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	if os.Getenv(lossesVariable) == "" {
		t.Skipf("not for every day: set %s", lossesVariable)
	}
	kernel := machineKernel(t)
	p := build(t)
	all := newNATS(t, p, []string{"127.0.0.1"})
	set := inMachine(t, kernel, all[0])
	s := newSiteOn(t, p, startAll(t, all), 10, "--life=60s", "--push-every=250ms", "--push-tries=1000")
	processes := []*process{s.ingest(), s.refresher(), s.refresher()}
	reader := s.read()
	stop := s.pushLoad()
	for cut := range fromEnv(t, lossesVariable, 1) {
		if end, ok := t.Deadline(); ok && time.Until(end) < 2*patience { // go test would leave the machine behind
			t.Fatalf("no time for more than %d cuts: give a longer -timeout", cut)
		}
		renewals := reader.count()
		poll(t, func() error {
			if n := reader.count() - renewals; n < 3 {
				return fmt.Errorf("%d renewals since the power is back", n)
			}
			return nil
		})
		before, began := s.generations(), time.Now()
		all[0].kill()
		answered := s.answered()
		all[0].start()
		healthy(t, all)
		t.Logf("cut %d: NATS was back after %s; %d pushes were acked before it", cut+1, time.Since(began).Round(time.Millisecond), len(answered))
		if lost, back := s.lost(answered), s.wentBack(before); lost > 0 || len(back) > 0 {
			t.Errorf("%d of %d acked pushes are lost, and so are the last tokens of %v", lost, len(answered), back)
		}
		for _, each := range processes {
			poll(t, func() error {
				if status, body := each.get("/readyz"); status != http.StatusOK {
					return fmt.Errorf("%s: /readyz %d %s", each.name, status, body)
				}
				return nil
			})
		}
		s.flows(events.StreamMessages)
	}
	before := s.generations()
	poll(t, func() error { return s.allAccepted(before, 1) })
	stop() // each push is one event
	reader.check()
	poll(t, s.covered)
	t.Logf("%d renewals, %s late at most; a push took %s at most", reader.renewals, reader.late.Round(time.Millisecond),
		s.longestPush(time.Time{}).Round(time.Millisecond))

	all[0].kill()
	set("sync_interval: always", "sync_interval: 2m")
	all[0].start()
	healthy(t, all)
	const more = 50
	old := len(s.answered())
	for n := range more {
		s.tell("/push", fmt.Sprintf("infotype=sim_load&n=late%d", n))
	}
	poll(t, func() error {
		if n := len(s.answered()) - old; n < more {
			return fmt.Errorf("%d of %d pushes were answered with success", n, more)
		}
		return nil
	})
	all[0].kill()
	all[0].start()
	lost := s.lost(s.answered()) // not healthy: it may have lost more than messages
	t.Logf("flushed every 2 minutes: %d of the last %d acked pushes are lost", lost, more)
	if lost == 0 {
		t.Error("nothing is lost that was not flushed: the power was not cut")
	}
}

// TestBeforeStart puts on the disk what a power cut leaves in the moment in which NATS begins a block. With deploy/nats/before-start
// nothing is lost. Without, the server removes the stream: once one does not, the script has had its time.
func TestBeforeStart(t *testing.T) {
	t.Parallel()
	n := newNATS(t, build(t), []string{"127.0.0.1"})[0]
	nc, err := nats.Connect(startAll(t, []*natsServer{n})("admin"), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js := natsdtest.JetStream(t, nc)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ACKED", Subjects: []string{"acked"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "acked", nil); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		bare bool
		want error
	}{{false, nil}, {true, jetstream.ErrStreamNotFound}} {
		n.kill()
		if err := os.WriteFile(filepath.Join(n.store(), "jetstream/$G/streams/ACKED/msgs/2.blk"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		n.bare = row.bare
		n.start()
		poll(t, func() error { _, err := n.ask("/varz"); return err })
		poll(t, func() error {
			if _, err := js.Stream(t.Context(), "ACKED"); !errors.Is(err, row.want) {
				return fmt.Errorf("without the script %t: %w, want %v", row.bare, err, row.want)
			}
			return nil
		})
	}
}

// answered returns the pushes that were answered with success, by fingerprint of the document.
func (s *site) answered() (all []string) {
	s.t.Helper()
	for _, e := range s.history("push_answer") {
		if e.InfoType == "sim_load" && e.Outcome == wechatsim.OutcomeSuccess {
			all = append(all, e.Digest)
		}
	}
	return all
}

// lost returns how many pushes are no event.
func (s *site) lost(pushes []string) (lost int) {
	s.t.Helper()
	count := s.eventsOf()
	for _, digest := range pushes {
		if count[digest] == 0 {
			lost++
		}
	}
	return lost
}

// wentBack returns the keys whose token is older than it was before.
func (s *site) wentBack(before map[wxtoken.Key]uint64) (back []wxtoken.Key) {
	s.t.Helper()
	for key, now := range s.generations() {
		if now < before[key] {
			back = append(back, key)
		}
	}
	return back
}

// machineKernel returns the version of a kernel for a virtual machine, and skips the test where something is missing.
func machineKernel(t *testing.T) (kernel string) {
	t.Helper()
	const install = "apt-get install qemu-system-x86 linux-image-cloud-amd64 busybox-static cpio e2fsprogs"
	if runtime.GOOS+runtime.GOARCH != "linuxamd64" {
		t.Skip("needs Linux on amd64")
	}
	for _, program := range []string{"qemu-system-x86_64", "busybox", "cpio", "mkfs.ext4", "modprobe"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs a virtual machine: %v (%s)", err, install)
		}
	}
	kernels, _ := filepath.Glob("/boot/vmlinuz-*")
	if len(kernels) == 0 {
		t.Skipf("needs a kernel in /boot (%s)", install)
	}
	return strings.TrimPrefix(kernels[len(kernels)-1], "/boot/vmlinuz-")
}

// initScript is all that the machine does: it ends with the NATS server as process 1. The disk is the one thing that outlives a cut.
const initScript = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in /modules/*; do insmod $module; done
mount -t ext4 /dev/vda /data
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
export %s
/before-start /data
exec /nats-server -c /nats-server.conf
`

// inMachine puts a NATS server into a virtual machine, so that to kill it is to cut its power: what the machine has not written to its
// disk is gone with its memory. set changes the settings, from the next start on.
func inMachine(t *testing.T, kernel string, n *natsServer) (set func(changes ...string)) {
	t.Helper()
	run := func(script string, args ...string) string {
		t.Helper()
		cmd := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // there is no libc in the machine
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, text)
		}
		return string(text)
	}
	root, disk, initrd := filepath.Join(n.dir, "root"), filepath.Join(n.dir, "disk"), filepath.Join(n.dir, "initrd")
	run(`mkdir "$1" && cd "$1" && mkdir bin dev proc data modules && cp "$(command -v busybox)" bin/busybox && ln -s busybox bin/sh`, root)
	run(`cp ../../deploy/nats/before-start "$1"`, root)
	run(`go build -o "$1" github.com/nats-io/nats-server/v2`, root)
	for i, line := range strings.Split(strings.TrimSpace(run(`modprobe -S "$1" -aD virtio_pci virtio_blk virtio_net ext4`, kernel)), "\n") {
		if path, ok := strings.CutPrefix(line, "insmod "); ok { // others are in the kernel
			run(`cp $1 "$2"`, path, filepath.Join(root, fmt.Sprintf("modules/%02d.ko", i)))
		}
	}
	set = func(changes ...string) {
		t.Helper()
		conf, err := os.ReadFile(n.conf())
		if err != nil {
			t.Fatal(err)
		}
		changes = append(changes, n.host+":", "0.0.0.0:", n.store(), "/data")
		for name, text := range map[string]string{
			"nats-server.conf": strings.NewReplacer(changes...).Replace(string(conf)),
			"init":             fmt.Sprintf(initScript, strings.Join(natsEnv(), " ")),
		} {
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		run(`cd "$1" && find . | cpio --quiet -o -H newc >"$2"`, root, initrd)
	}
	set()
	run(`truncate -s 1G "$1" && mkfs.ext4 -q "$1"`, disk)
	forward := func(port int) string { return fmt.Sprintf("hostfwd=tcp:%s:%d-:%d", n.host, port, port) }
	n.whole = []string{"qemu-system-x86_64",
		"-accel", "tcg", "-cpu", "max", // KVM may be there and hang, in a machine that is virtual itself
		"-m", "512", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", "/boot/vmlinuz-" + kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1",
		// A flush of the machine is a flush of the file; what it wrote without one may stay, too, as on a disk that is quick to write.
		"-drive", "if=virtio,format=raw,cache=writeback,file=" + disk,
		"-netdev", "user,id=net,restrict=on," + forward(n.port) + "," + forward(n.monitor), "-device", "virtio-net-pci,netdev=net,romfile=",
	}
	return set
}
