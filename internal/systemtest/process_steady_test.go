//go:build linux

package systemtest

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// TestSteady measures an ordinary quarter of an hour: so many accounts a second come due, as in an installation of 4,760 times as many
// accounts, with tokens of two hours and a WeChat that answers in 50 ms. It prints how late renewals were, what the processes took,
// and fails where a token was renewed twice or not at all.
//
//	WXTOKEN_TEST_STEADY=210 go test -timeout 40m -run TestSteady -v ./internal/systemtest
//
// WXTOKEN_TEST_STEADY_MINUTES asks for another time than 15.
func TestSteady(t *testing.T) {
	rate, _ := strconv.Atoi(os.Getenv("WXTOKEN_TEST_STEADY"))
	if rate <= 0 {
		t.Skip("WXTOKEN_TEST_STEADY is not set: renewals a second, such as 210")
	}
	minutes, err := strconv.Atoi(os.Getenv("WXTOKEN_TEST_STEADY_MINUTES"))
	if err != nil {
		minutes = 15
	}
	// They come due one after the other once all are stored (some 2,000 a second, on a slow disk) and the refresher is there.
	n := rate * 60 * minutes
	begin := time.Now().UTC().Add(time.Duration(n/1000)*time.Second + 30*time.Second).Truncate(time.Second)
	w := newWave(t, n, func(i int) time.Time { return begin.Add(time.Duration(i) * time.Second / time.Duration(rate)) })
	if time.Now().After(begin.Add(-20 * time.Second)) {
		t.Fatal("storing took too long")
	}
	re := w.refresher(400)
	time.Sleep(time.Until(begin))
	began, used, usedByNATS := time.Now(), cpu(t, re.cmd.Process.Pid), cpu(t, w.server.Process.Pid)
	ownBefore := cpu(t, os.Getpid())
	time.Sleep(time.Until(w.due(n)))
	took := time.Since(began).Seconds()
	refresher, server, own := cpu(t, re.cmd.Process.Pid)-used, cpu(t, w.server.Process.Pid)-usedByNATS, cpu(t, os.Getpid())-ownBefore
	w.renewedOnce()
	late := make([]time.Duration, n)
	for i, r := range w.renewed {
		late[i] = r.at.Sub(w.due(r.account))
	}
	slices.Sort(late)
	at := func(part float64) time.Duration {
		return late[int(math.Ceil(part*float64(n)))-1].Round(time.Millisecond)
	}
	t.Logf("%d renewals in %.0f s, %.0f a second: late by %s (median), %s (p99), %s (most); processor time, of one core: refresher %.1f %%, NATS %.1f %%, WeChat and this test %.1f %%; refresher %d MiB, NATS %d MiB",
		n, took, float64(n)/took, at(0.5), at(0.99), at(1), 100*refresher.Seconds()/took, 100*server.Seconds()/took, 100*own.Seconds()/took,
		rss(t, re.cmd.Process.Pid)>>20, rss(t, w.server.Process.Pid)>>20)
}

// TestBacklog measures how a refresher catches up when all were away for an hour: so many accounts came due meanwhile, one after the
// other, and die 40 minutes later. It prints how fast it was beside --api-rate, and the most memory that the refresher had beside that of one
// for which nothing is due; and fails where a token was renewed twice or not at all. TestHourAway looks at their order, in virtual time.
//
//	WXTOKEN_TEST_BACKLOG=100000 go test -timeout 30m -run TestBacklog -v ./internal/systemtest
//
// WXTOKEN_TEST_BACKLOG_RATE asks for another --api-rate than 500.
func TestBacklog(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("WXTOKEN_TEST_BACKLOG"))
	if n <= 0 {
		t.Skip("WXTOKEN_TEST_BACKLOG is not set: a number of accounts, such as 100000")
	}
	rate, err := strconv.Atoi(os.Getenv("WXTOKEN_TEST_BACKLOG_RATE"))
	if err != nil {
		rate = 500
	}
	begin := time.Now().UTC().Add(-time.Hour)
	w := newWave(t, n, func(i int) time.Time { return begin.Add(time.Duration(i) * time.Hour / time.Duration(n)) })
	settle(t, w.server.Process.Pid) // until all due messages are stored
	began := time.Now()
	re := w.refresher(rate)
	w.renewedOnce()
	first, last := w.renewed[0].at, w.renewed[n-1].at
	busy := mostMemory(t, re.cmd.Process.Pid)
	re.terminate()
	resting := w.refresher(rate)
	settle(t, resting.cmd.Process.Pid)
	idle := mostMemory(t, resting.cmd.Process.Pid)
	t.Logf("%d renewals, the first %s after the start and then %.0f a second, %.2f of --api-rate; memory of the refresher at most %d MiB, %.2f of the %d MiB where nothing is due",
		n, first.Sub(began).Round(time.Millisecond), float64(n)/last.Sub(first).Seconds(), float64(n)/last.Sub(first).Seconds()/float64(rate),
		busy>>20, float64(busy)/float64(idle), idle>>20)
}

// wave is a site whose accounts come due one after the other, with a NATS that flushes as production's does and a WeChat that answers
// in 50 ms.
type wave struct {
	t      *testing.T
	site   *site
	server *exec.Cmd // nats-server
	wechat *bareWeChat
	n      int
	due    func(i int) time.Time // of account i, from 1 on

	mu      sync.Mutex
	renewed []renewal // in their order
}

// renewal is a new token that a service heard of.
type renewal struct {
	account int
	at      time.Time
}

// newWave stores n accounts, each with a token that dies 40 minutes after it is due, and starts what is no refresher.
func newWave(t *testing.T, n int, due func(i int) time.Time) *wave {
	t.Helper()
	server, err := exec.LookPath("nats-server")
	if err != nil {
		t.Skip("no nats-server: go install github.com/nats-io/nats-server/v2@v2.15.3")
	}
	p := build(t)
	w := &wave{t: t, wechat: newBareWeChat(t), n: n, due: due}
	var url string
	w.server, url = startNATS(t, server, filepath.Join(t.TempDir(), "data"))
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	fill(t, nc, n, 1, func(i int) tokenTimes {
		if i == 0 { // the component's
			return restingLives(time.Now().UTC())(0)
		}
		return tokenTimes{due(i).Add(-80 * time.Minute), due(i), due(i).Add(40 * time.Minute)}
	})
	w.site = newSiteOn(t, p, func(string) string { return url }, 0, "--life=2h", "--ticket-every=10m")
	w.site.ingest() // tickets come
	if _, err := nc.Subscribe("token.updated.authorizer.>", func(m *nats.Msg) {
		at := time.Now()
		i, err := strconv.Atoi(m.Subject[strings.LastIndexByte(m.Subject, '.')+len(".wxa"):])
		if err != nil {
			t.Errorf("token of another account: %s", m.Subject)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.renewed = append(w.renewed, renewal{i + 1, at}) // the first key is the component's
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

// refresher starts a refresher with that --api-rate, and returns when it is ready.
func (w *wave) refresher(rate int) *process {
	w.t.Helper()
	re := w.site.refresher("WXTOKEN_WECHAT_API_URL="+w.wechat.URL, fmt.Sprintf("WXTOKEN_API_RATE=%d", rate), "WXTOKEN_RENEW_FRACTION=0.66", "WXTOKEN_LOG_LEVEL=info")
	poll(w.t, func() error {
		if status, body := re.get("/readyz"); status != http.StatusOK {
			return fmt.Errorf("not ready: %s", body)
		}
		return nil
	})
	return re
}

// renewedOnce waits until all accounts have another token, and wants one call for each.
func (w *wave) renewedOnce() {
	w.t.Helper()
	got := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.renewed)
	}
	for before := 0; before < w.n; before = got() {
		poll(w.t, func() error { // it gets on
			if got() == before {
				return fmt.Errorf("%d of %d were renewed", before, w.n)
			}
			return nil
		})
	}
	for appid, calls := range w.wechat.counts() {
		if calls != 1 {
			w.t.Errorf("%s was renewed by %d calls", appid, calls)
		}
	}
	if got := len(w.wechat.counts()); got != w.n {
		w.t.Errorf("%d accounts were renewed, want %d", got, w.n)
	}
}

// mostMemory returns the most memory that a process has had in use, in bytes.
func mostMemory(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// bareWeChat renews any account's token after 50 ms, and counts the calls for each.
type bareWeChat struct {
	*httptest.Server
	mu    sync.Mutex
	calls map[string]int // by appid
}

func newBareWeChat(t *testing.T) *bareWeChat {
	w := &bareWeChat{calls: map[string]int{}}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var asked struct {
			AppID string `json:"authorizer_appid"`
		}
		if !strings.HasSuffix(r.URL.Path, "/api_authorizer_token") || json.NewDecoder(r.Body).Decode(&asked) != nil {
			_, _ = rw.Write([]byte(`{"errcode":-1,"errmsg":"system error"}`))
			return
		}
		w.mu.Lock()
		w.calls[asked.AppID]++
		w.mu.Unlock()
		select {
		case <-time.After(50 * time.Millisecond):
		case <-r.Context().Done():
		}
		_, _ = fmt.Fprintf(rw, `{"authorizer_access_token":%q,"expires_in":7200,"authorizer_refresh_token":%q}`,
			strings.Repeat("y", 157), "refreshtoken@@@"+strings.Repeat("x", 43))
	}))
	t.Cleanup(w.Close)
	return w
}

// counts returns how often each account was asked about.
func (w *bareWeChat) counts() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}
