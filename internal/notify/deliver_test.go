package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/logtest"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
)

// robotAt is a receiver of the tests.
type robotAt struct {
	*httptest.Server
	mu     sync.Mutex
	at     []time.Time
	bodies []string
	answer func(tries int) (int, string)
}

func newRobot(t *testing.T, answer func(tries int) (int, string)) *robotAt {
	t.Helper()
	r := &robotAt{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(req.Body)
		r.mu.Lock()
		r.at, r.bodies = append(r.at, time.Now()), append(r.bodies, body.String())
		tries := len(r.bodies)
		r.mu.Unlock()
		status, text := http.StatusOK, `{"errcode":0,"errmsg":"ok","code":0}`
		if r.answer != nil {
			status, text = r.answer(tries)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *robotAt) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.bodies...)
}

// deliverer starts one, and returns its log and how to end it.
func (r *rig) deliverer(file string) (log *logtest.Buffer, metrics *prometheus.Registry, direct func(events.Notice)) {
	r.Helper()
	js := natsdtest.JetStream(r, r.srv.Connect())
	log, metrics = &logtest.Buffer{}, prometheus.NewRegistry()
	v, err := New(Config{NotifyFile: file, ConsoleURL: console}, Deps{JetStream: js, Log: zerolog.New(log), Metrics: metrics, Now: time.Now})
	if err != nil {
		r.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = v.Run(ctx)
	}()
	r.Cleanup(func() {
		stop()
		<-ended
		if strings.Contains(log.String(), "SEKRET") {
			r.Errorf("a secret in the log:\n%s", log)
		}
	})
	return log, metrics, v.Direct
}

func writeReceivers(t *testing.T, file string, receivers ...map[string]string) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"receivers": receivers})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func receiver(name, kind, url string) map[string]string {
	r := map[string]string{"name": name, "kind": kind, "url": url + "/SEKRET-path", "language": "en"}
	switch kind {
	case KindWebhook:
		r["secret"] = webhook
	case KindFeishu:
		r["secret"] = "SEKRETfeishu"
	case KindDingTalk:
		r["secret"] = "SECSEKRET"
	}
	return r
}

// TestDelivered has three refreshers serve the same receivers: each gets each notice once and in order, and no robot more often than it
// allows. One that is named later gets what comes later, and one whose name is taken out nothing more.
func TestDelivered(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	file := filepath.Join(t.TempDir(), "notify.json")
	all := map[string]*robotAt{}
	var named []map[string]string
	for _, kind := range []string{KindWebhook, KindWeCom, KindDingTalk, KindFeishu} {
		all[kind] = newRobot(t, nil)
		named = append(named, receiver(kind, kind, all[kind].URL))
	}
	writeReceivers(t, file, named...)
	var serving []*prometheus.Registry
	for range 3 {
		_, metrics, _ := r.deliverer(file)
		serving = append(serving, metrics)
	}
	r.observe(1, noticeOf(wxtoken.HeldRefused, 0), noticeOf(wxtoken.HeldQuota, 2))
	r.observe(10)
	told := r.notices()
	if len(told) != 4 {
		t.Fatalf("told %q", told)
	}
	for kind, robot := range all {
		looktest.Until(t, kind+" has all", func() bool { return len(robot.got()) >= len(told) })
	}
	late := newRobot(t, nil)
	writeReceivers(t, file, append(named[1:], receiver("late", KindWebhook, late.URL))...)
	looktest.Until(t, "the late one is served", func() bool {
		_, err := r.js.Consumer(t.Context(), events.StreamJournal, Durable("late"))
		return err == nil
	})
	before := len(late.got())
	looktest.Until(t, "all have read the file", func() bool {
		return !slices.ContainsFunc(serving, func(metrics *prometheus.Registry) bool {
			_, series := looktest.Sum(t, metrics, "wxtoken_notify_failing", "late")
			return series == 0 // it is there, and the first of before is not
		})
	})
	r.observe(1, noticeOf(wxtoken.HeldEmptyAnswers, 0))
	looktest.Until(t, "the late one has it", func() bool {
		return len(late.got()) > before && strings.Contains(late.got()[len(late.got())-1], "EmptyAnswers")
	})
	for kind, robot := range all {
		want := len(told) + 1
		if kind == KindWebhook {
			want = len(told)
		}
		looktest.Until(t, kind+" has all", func() bool { return len(robot.got()) >= want })
		got := robot.got()
		if len(got) != want {
			t.Errorf("%s got %d, want %d: %q", kind, len(got), want, got)
		}
		for i := range robot.at[1:] {
			if apart := robot.at[i+1].Sub(robot.at[i]); apart < robots[kind].apart {
				t.Errorf("%s: %v apart, want %v", kind, apart, robots[kind].apart)
			}
		}
		for i, n := range told {
			phase := map[bool]string{true: "over", false: "needs a person"}[strings.Contains(n, "over")]
			if kind == KindWebhook {
				phase = `"phase":"` + strings.Fields(n)[1]
			}
			if !strings.Contains(got[i], phase) {
				t.Errorf("%s: in place %d %s, want %s", kind, i, got[i], n)
			}
		}
	}
}

// TestRetried has a robot refuse: in the body of a 200, by its status, with no answer. The notice comes again until it is taken.
func TestRetried(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	file := filepath.Join(t.TempDir(), "notify.json")
	robot := newRobot(t, func(tries int) (int, string) {
		switch tries {
		case 1:
			return 200, `{"errcode":310000,"errmsg":"sign not match"}`
		case 2:
			return 502, ``
		case 3:
			panic(http.ErrAbortHandler)
		}
		return 200, `{"errcode":0,"errmsg":"ok"}`
	})
	writeReceivers(t, file, receiver("ops", KindFeishu, robot.URL)) // its answers are read as Feishu's: an errcode is none
	writeReceivers(t, file, receiver("ops", KindDingTalk, robot.URL))
	log, metrics, _ := r.deliverer(file)
	r.observe(1, noticeOf(wxtoken.HeldRefused, 0))
	looktest.Until(t, "it is taken", func() bool { return strings.Contains(log.String(), "notice delivered") })
	if n := len(robot.got()); n != 4 {
		t.Errorf("%d tries, want 4", n)
	}
	for outcome, want := range map[string]float64{outcomeOK: 1, outcomeRefused: 2, outcomeUnreachable: 1} {
		if got, _ := looktest.Sum(t, metrics, "wxtoken_notify_total", outcome); got != want {
			t.Errorf("%s: %v, want %v", outcome, got, want)
		}
	}
	if got, series := looktest.Sum(t, metrics, "wxtoken_notify_failing", "ops"); got != 0 || series != 1 {
		t.Errorf("still failing: %v in %d series", got, series)
	}
	for _, why := range []string{"errcode 310000: sign not match", "status 502", "no connection, or it broke"} {
		if !strings.Contains(log.String(), why) {
			t.Errorf("the log does not say %q:\n%s", why, log)
		}
	}
}

// TestDirect tells without NATS.
func TestDirect(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	file := filepath.Join(t.TempDir(), "notify.json")
	robot := newRobot(t, func(tries int) (int, string) {
		if tries == 1 {
			return 500, ""
		}
		return 200, `{"errcode":0}`
	})
	writeReceivers(t, file, receiver("ops", KindWeCom, robot.URL))
	_, _, direct := r.deliverer(file)
	r.srv.Stop()
	direct(events.NewNotice(time.Now(), complete(noticeOf(wxtoken.HeldNATS, 0), events.PhaseBegan, time.Now())))
	looktest.Until(t, "it is told", func() bool { return len(robot.got()) == 2 })
	if got := robot.got()[1]; !strings.Contains(got, "NATS is away") {
		t.Errorf("told %s", got)
	}
}

// TestTried sends test notices, and says what came of each without a secret.
func TestTried(t *testing.T) {
	t.Parallel()
	good, bad := newRobot(t, nil), newRobot(t, func(int) (int, string) { return 200, `{"code":19021,"msg":"sign match fail"}` })
	file := filepath.Join(t.TempDir(), "notify.json")
	writeReceivers(t, file, receiver("good", KindWeCom, good.URL), receiver("bad", KindFeishu, bad.URL))
	var out bytes.Buffer
	cfg := Config{NotifyFile: file, NotifyTest: true}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	err := Test(t.Context(), cfg, time.Now, nil, &out, lang.English)
	want := fmt.Sprintf("ok    good (wecom at %s): taken\nFAIL  bad (feishu at %s): errcode 19021: sign match fail\n", strings.TrimPrefix(good.URL, "http://"), strings.TrimPrefix(bad.URL, "http://"))
	if err == nil || out.String() != want {
		t.Errorf("%v, printed\n%s\nwant\n%s", err, out.String(), want)
	}
	for _, cfg := range []Config{{NotifyTest: true}, {NotifyFile: file + ".none"}, {ConsoleURL: "ops.example.com"}, {ConsoleURL: "https://a:b@ops.example.com"}} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "(WXTOKEN_") || strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// TestDirectInOrder: that it is over does not overtake that it began, where that was not taken at once.
func TestDirectInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	file := filepath.Join(t.TempDir(), "notify.json")
	var robot *robotAt
	var refused atomic.Bool
	robot = newRobot(t, func(int) (int, string) {
		got := robot.got()
		if strings.Contains(got[len(got)-1], "needs a person") && refused.CompareAndSwap(false, true) {
			return 500, ""
		}
		return 200, `{"errcode":0}`
	})
	writeReceivers(t, file, receiver("ops", KindWeCom, robot.URL))
	_, _, direct := r.deliverer(file)
	began := events.NewNotice(time.Now(), complete(noticeOf(wxtoken.HeldNATS, 0), events.PhaseBegan, time.Now()))
	direct(began)
	looktest.Until(t, "it is refused", refused.Load)
	direct(events.NewNotice(time.Now(), over(began.Data)))
	looktest.Until(t, "both are told", func() bool { return len(robot.got()) == 3 })
	if got := robot.got()[2]; !strings.Contains(got, "wxtoken: over") {
		t.Errorf("the last one says %s", got)
	}
}

// TestDirectToReceiverTakenOut: a receiver that is taken out of the file while it fails is told nothing more, and has no metric that says
// that it fails.
func TestDirectToReceiverTakenOut(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	file := filepath.Join(t.TempDir(), "notify.json")
	robot := newRobot(t, func(int) (int, string) { return 500, "" })
	writeReceivers(t, file, receiver("ops", KindWeCom, robot.URL))
	_, metrics, direct := r.deliverer(file)
	direct(events.NewNotice(time.Now(), complete(noticeOf(wxtoken.HeldNATS, 0), events.PhaseBegan, time.Now())))
	looktest.Until(t, "a try", func() bool { return len(robot.got()) > 0 })
	writeReceivers(t, file)
	failing := func() int { _, series := looktest.Sum(t, metrics, "wxtoken_notify_failing", "ops"); return series }
	looktest.Until(t, "the file to be read", func() bool { return failing() == 0 })
	tries := len(robot.got())
	time.Sleep(9 * time.Second) // there would be one more within 8 s
	if n := len(robot.got()); n != tries || failing() != 0 {
		t.Errorf("%d tries, want %d; %d series of what fails, want none", n, tries, failing())
	}
}

// TestDirectWithoutReceivers: where nobody is to be told, nothing is dropped.
func TestDirectWithoutReceivers(t *testing.T) {
	t.Parallel()
	log := &logtest.Buffer{}
	v, err := New(Config{}, Deps{Log: zerolog.New(log), Metrics: prometheus.NewRegistry(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * directQueue {
		v.Direct(events.Notice{})
	}
	if log.String() != "" {
		t.Errorf("log:\n%s", log)
	}
}

// TestAnotherProtocol: an answer that has no end does not hold up the next notices.
func TestAnotherProtocol(t *testing.T) {
	t.Parallel()
	in := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "other")
		w.WriteHeader(http.StatusSwitchingProtocols)
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil { // it stays open
			t.Cleanup(func() { _ = conn.Close() })
		}
	}))
	t.Cleanup(in.Close)
	to := exampleReceivers(t)[0]
	to.url = in.URL
	answered := make(chan result, 1)
	go func() { answered <- post(t.Context(), client(nil), to, events.Notice{}, "", time.Now()) }()
	select {
	case got := <-answered:
		if got.outcome != outcomeRefused {
			t.Errorf("%s, want %s", got.outcome, outcomeRefused)
		}
	case <-time.After(time.Minute):
		t.Error("no outcome within a minute")
	}
}
