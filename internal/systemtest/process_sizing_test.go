//go:build linux

package systemtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	wxtoken "wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/wechatsim"
)

// TestSizing prints what so many accounts take: disk and memory of nats-server, memory of a refresher and an ingest, and how long a
// refresher takes to get ready. The records are as long as WeChat's.
//
// The last line is one of a benchmark, for scripts/bench-pair. With WXTOKEN_TEST_SIZING_DATA, a folder, what lies in NATS is kept
// there and used again: a million accounts take minutes to store.
//
// With WXTOKEN_TEST_SIZING_DEAD all tokens are dead and WeChat is away: what is measured then is what telling so takes, and what it takes
// to wait. WXTOKEN_CONSOLE=false leaves the operator's page out.
//
//	WXTOKEN_TEST_SIZING=1000,10000,100000 go test -run TestSizing -v ./internal/systemtest
func TestSizing(t *testing.T) {
	wanted := os.Getenv("WXTOKEN_TEST_SIZING")
	if wanted == "" {
		t.Skip("WXTOKEN_TEST_SIZING is not set: a list of numbers of accounts, such as 1000,10000")
	}
	server, err := exec.LookPath("nats-server")
	if err != nil {
		t.Skip("no nats-server: go install github.com/nats-io/nats-server/v2@v2.15.3")
	}
	p := build(t)
	for number := range strings.SplitSeq(wanted, ",") {
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(number, func(t *testing.T) { size(t, p, server, n) })
	}
}

func size(t *testing.T, p programs, server string, n int) {
	data := filepath.Join(t.TempDir(), "data")
	if kept := os.Getenv("WXTOKEN_TEST_SIZING_DATA"); kept != "" {
		data = filepath.Join(kept, strconv.Itoa(n))
	}
	_, err := os.Stat(data)
	filled := err == nil
	cmd, url := startNATS(t, server, data)
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	empty := rss(t, cmd.Process.Pid)
	if !filled {
		began := time.Now()
		fill(t, nc, n, 1, restingLives(time.Now().UTC()))
		t.Logf("%d accounts stored in %s", n, time.Since(began).Round(time.Second))
	}

	s := newSite(t, p, 0, "--life=2h") // it has a NATS of its own, which has nothing to do here
	s.url = func(string) string { return url }
	if allDead() {
		s.tell("/down", "")
	}
	began, usedByNATS := time.Now(), cpu(t, cmd.Process.Pid)
	re, in := s.refresher("WXTOKEN_CONSOLE="+cmp.Or(os.Getenv("WXTOKEN_CONSOLE"), "true")), s.ingest()
	poll(t, func() error {
		if status, body := re.get("/readyz"); status != http.StatusOK {
			return errors.New(body)
		}
		return nil
	})
	ready := time.Since(began)
	readyCPU := cpu(t, re.cmd.Process.Pid) + cpu(t, cmd.Process.Pid) - usedByNATS
	if !strings.Contains(re.stdout.String(), fmt.Sprintf(`"keys":%d`, n+1)) {
		t.Errorf("the refresher does not have these accounts: %s", re.stdout.String())
	}
	settle(t, re.cmd.Process.Pid)
	t.Logf("quiet %s after it was ready, with %s of processor time and %s of NATS's until then",
		(time.Since(began) - ready).Round(time.Second), cpu(t, re.cmd.Process.Pid), cpu(t, cmd.Process.Pid)-usedByNATS)
	const quiet = time.Minute // with two sweeps in it
	used := cpu(t, re.cmd.Process.Pid)
	usedByNATS = cpu(t, cmd.Process.Pid)
	time.Sleep(quiet)
	idle := (cpu(t, re.cmd.Process.Pid) - used).Seconds() / quiet.Seconds()
	idleNATS := (cpu(t, cmd.Process.Pid) - usedByNATS).Seconds() / quiet.Seconds()
	began = time.Now()
	scraper := http.Client{Timeout: 5 * time.Minute}
	if resp, err := scraper.Get("http://" + re.addr("ops") + "/metrics"); err != nil {
		t.Error(err)
	} else {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	scrape := time.Since(began)
	var disk int64
	_ = filepath.WalkDir(data, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				disk += info.Size()
			}
		}
		return nil
	})
	mib := func(bytes int64) int64 { return bytes >> 20 }
	t.Logf("%d accounts: nats-server %d MiB of memory (%d when empty), %d MiB of disk, %d B an account; refresher %d MiB, ready in %s; ingest %d MiB; idle %.1f %% of a core, NATS %.1f %%; metrics in %s",
		n, mib(rss(t, cmd.Process.Pid)), mib(empty), mib(disk), disk/int64(n), mib(rss(t, re.cmd.Process.Pid)), ready.Round(10*time.Millisecond),
		mib(rss(t, in.cmd.Process.Pid)), 100*idle, 100*idleNATS, scrape.Round(time.Millisecond))
	fmt.Printf("BenchmarkSizing/accounts=%d 1 %d refresher-MiB %.2f ready-s %.2f ready-cpu-s %.2f idle-%%core %.2f nats-idle-%%core %d nats-MiB %.1f scrape-ms\n",
		n, mib(rss(t, re.cmd.Process.Pid)), ready.Seconds(), readyCPU.Seconds(), 100*idle, 100*idleNATS, mib(rss(t, cmd.Process.Pid)), scrape.Seconds()*1000)
}

// settle waits until a process computes next to nothing: the operator's page reads both buckets once, and dead tokens are told.
func settle(t *testing.T, pid int) {
	t.Helper()
	for busy := time.Hour; busy > 500*time.Millisecond; {
		used := cpu(t, pid)
		time.Sleep(5 * time.Second)
		busy = cpu(t, pid) - used
	}
}

// startNATS starts nats-server on data, as production has it flush: each message before its ack.
func startNATS(t *testing.T, server, data string) (cmd *exec.Cmd, url string) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nports_file_dir: %q\njetstream { store_dir: %q, sync_interval: always }\n", dir, data)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(server, "-c", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	poll(t, func() (err error) {
		url, err = urlIn(dir)
		return err
	})
	return cmd, url
}

// allDead reports whether all tokens are to be dead.
func allDead() bool { return os.Getenv("WXTOKEN_TEST_SIZING_DEAD") != "" }

// tokenTimes are when a token was obtained, is due and dies.
type tokenTimes struct{ obtained, due, dies time.Time }

// restingLives are those of tokens that are not due for weeks, or all dead.
func restingLives(now time.Time) func(int) tokenTimes {
	resting := tokenTimes{now, now.AddDate(0, 0, 20), now.AddDate(0, 0, 30)}
	if allDead() {
		resting = tokenTimes{now.Add(-2 * time.Hour), now.Add(-time.Hour), now.Add(time.Second)}
	}
	return func(int) tokenTimes { return resting }
}

// fill stores so many accounts, each with its schedule and its status, as a refresher leaves them, and returns where they are.
// lives tells of each token, 0 for the component's.
func fill(t *testing.T, nc *nats.Conn, n, replicas int, lives func(i int) tokenTimes) *store.Store {
	t.Helper()
	js := natsdtest.JetStream(t, nc)
	streamstest.Setup(t, nc, js, events.SetupConfig{Replicas: replicas, MessagesMaxAge: time.Hour})
	st, err := store.Open(t.Context(), nc, js, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); st.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	var group errgroup.Group
	group.SetLimit(300)
	now := time.Now().UTC()
	keys := []wxtoken.Key{wxtoken.ComponentKey(wechatsim.DemoAppID)}
	for i := range n {
		keys = append(keys, wxtoken.AuthorizerKey(wechatsim.DemoAppID, fmt.Sprintf("wxa%015d", i)))
	}
	for i, key := range keys {
		group.Go(func() error {
			life := lives(i)
			cred := account.Credential{
				Key: key, Generation: 1, Ref: "tenant-" + key.Authorizer, AuthorizedAt: now, Ticket: "ticket@@@" + strings.Repeat("x", 80),
				RefreshToken: "refreshtoken@@@" + strings.Repeat("x", 43),
				History: slices.Repeat([]account.Past{{ // as after a day
					Generation: 1, At: life.obtained, Reason: events.ReasonScheduled, Took: 80 * time.Millisecond, By: "refresher-1",
				}}, 8),
			}
			if key.Authorizer != "" {
				cred.Ticket = ""
			}
			if _, err := st.Commit(ctx, cred, wxtoken.Token{
				Key: key, Value: wxtoken.NewSecret(strings.Repeat("x", 157)), Generation: 1, ObtainedAt: life.obtained, ExpiresAt: life.dies, RenewAt: life.due,
				Previous: &wxtoken.Previous{Value: wxtoken.NewSecret(strings.Repeat("x", 157)), ValidUntil: now.Add(5 * time.Minute)},
			}); err != nil {
				return err
			}
			_, err := js.Publish(ctx, "$KV.status."+key.String(), []byte(fmt.Sprintf(`{"key":%q,"state":"active","conditions":[{"type":"Ready","status":"True","reason":"Renewed","since":"2026-11-26T01:48:34Z"}],"authorizer":{"authorized_at":"2026-11-26T01:48:34Z","ref":"tenant","func_info":[1,2,18],"profile":%q},"failures":0}`, key, strings.Repeat("x", 500))))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return st
}

// rss returns the memory that a process has in use, in bytes.
func rss(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

// cpu returns the time that a process has computed.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))
	user, _ := strconv.Atoi(fields[12])
	system, _ := strconv.Atoi(fields[13])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}
