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
	server, err := exec.LookPath("nats-server")
	if err != nil {
		t.Skip("no nats-server: go install github.com/nats-io/nats-server/v2@v2.15.3")
	}
	minutes, err := strconv.Atoi(os.Getenv("WXTOKEN_TEST_STEADY_MINUTES"))
	if err != nil {
		minutes = 15
	}
	p := build(t)
	wechat := newBareWeChat(t)
	natsd, url := startNATS(t, server, filepath.Join(t.TempDir(), "data"))
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()

	// They come due one after the other once all are stored (some 2,000 a second, on a slow disk) and the refresher is there.
	n := rate * 60 * minutes
	begin := time.Now().UTC().Add(time.Duration(n/1000)*time.Second + 30*time.Second).Truncate(time.Second)
	due := func(i int) time.Time { return begin.Add(time.Duration(i) * time.Second / time.Duration(rate)) }
	fill(t, nc, n, 1, func(i int) tokenTimes {
		if i == 0 {
			return restingLives(time.Now().UTC())(0)
		}
		return tokenTimes{due(i).Add(-80 * time.Minute), due(i), due(i).Add(40 * time.Minute)}
	})
	if time.Now().After(begin.Add(-20 * time.Second)) {
		t.Fatal("storing took too long")
	}
	s := newSite(t, p, 0, "--life=2h", "--ticket-every=10m") // it has a NATS of its own, which has nothing to do here
	s.url = func(string) string { return url }
	s.ingest() // tickets come
	re := s.refresher("WXTOKEN_WECHAT_API_URL="+wechat.URL, "WXTOKEN_API_RATE=400", "WXTOKEN_RENEW_FRACTION=0.66", "WXTOKEN_LOG_LEVEL=info")
	poll(t, func() error {
		if status, body := re.get("/readyz"); status != http.StatusOK {
			return fmt.Errorf("not ready: %s", body)
		}
		return nil
	})

	var mu sync.Mutex
	late := make([]time.Duration, 0, n)
	if _, err := nc.Subscribe("token.updated.authorizer.>", func(m *nats.Msg) {
		at := time.Now()
		i, err := strconv.Atoi(m.Subject[strings.LastIndexByte(m.Subject, '.')+len(".wxa"):])
		if err != nil {
			t.Errorf("token of another account: %s", m.Subject)
		}
		mu.Lock()
		defer mu.Unlock()
		late = append(late, at.Sub(due(i+1))) // the first key is the component's
	}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(begin))
	began, used, usedByNATS := time.Now(), cpu(t, re.cmd.Process.Pid), cpu(t, natsd.Process.Pid)
	ownBefore := cpu(t, os.Getpid())
	time.Sleep(time.Until(due(n)))
	took := time.Since(began).Seconds()
	refresher, nats, own := cpu(t, re.cmd.Process.Pid)-used, cpu(t, natsd.Process.Pid)-usedByNATS, cpu(t, os.Getpid())-ownBefore
	poll(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(late) < n {
			return fmt.Errorf("%d of %d were renewed", len(late), n)
		}
		return nil
	})
	for appid, calls := range wechat.counts() {
		if calls != 1 {
			t.Errorf("%s was renewed by %d calls", appid, calls)
		}
	}
	if got := len(wechat.counts()); got != n {
		t.Errorf("%d accounts were renewed, want %d", got, n)
	}
	slices.Sort(late)
	at := func(part float64) time.Duration {
		return late[int(math.Ceil(part*float64(n)))-1].Round(time.Millisecond)
	}
	t.Logf("%d renewals in %.0f s, %.0f a second: late by %s (median), %s (p99), %s (most); processor time, of one core: refresher %.1f %%, NATS %.1f %%, WeChat and this test %.1f %%; refresher %d MiB, NATS %d MiB",
		n, took, float64(n)/took, at(0.5), at(0.99), at(1), 100*refresher.Seconds()/took, 100*nats.Seconds()/took, 100*own.Seconds()/took,
		rss(t, re.cmd.Process.Pid)>>20, rss(t, natsd.Process.Pid)>>20)
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
