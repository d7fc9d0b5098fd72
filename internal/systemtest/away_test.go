package systemtest

import (
	"cmp"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/wechatsim"
)

// awayVariable marks the process that plays one of these tests.
const awayVariable = "WXTOKEN_TEST_AWAY"

// aloneInProcess plays a test in a process of its own: a bubble wants one.
func aloneInProcess(t *testing.T, play func(*testing.T)) {
	t.Helper()
	if os.Getenv(awayVariable) == "" {
		t.Parallel()
		binary := os.Args[0]
		if raceDetector {
			binary = buildFast(t)
		}
		cmd := exec.CommandContext(t.Context(), binary, "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), awayVariable+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Log(tail(string(out), 600))
		return
	}
	natsdtest.Bubble(t, play)
}

// TestThreeDaysAway has everything of ours down for three days, in virtual time: every token and every ticket is dead, and WeChat has
// given up pushing. Nobody has to do anything but start it.
func TestThreeDaysAway(t *testing.T) {
	aloneInProcess(t, func(t *testing.T) {
		w := newWorld(t, wechatsim.Config{Seed: 1, PausePushes: true, OldTicketDies: true, Rotation: wechatsim.RotateEach}, natsdtest.InBubble)
		accepted := func(within time.Duration) time.Duration {
			t.Helper()
			began := time.Now()
			for n := 0; n < accounts; {
				err := w.accepted(appidOf(n))
				if err == nil {
					n++
					continue
				}
				if time.Since(began) > within {
					t.Fatalf("not within %s: %v\n%s", within, err, tail(w.log.String(), 6000))
				}
				time.Sleep(time.Second)
			}
			return time.Since(began)
		}
		first := w.start()
		time.Sleep(15 * time.Minute) // a ticket came
		for i := range accounts {
			if err := w.sim.Authorize(testAppID, appidOf(i)); err != nil {
				t.Fatal(err)
			}
		}
		accepted(5 * time.Minute)
		first.stop()
		w.nats.Stop()
		time.Sleep(72 * time.Hour)
		calls := len(w.sim.History())
		w.nats.Restart()
		w.start()
		took := accepted(12 * time.Minute)
		for _, e := range w.sim.History()[calls:] {
			if e.API == "api_query_auth" {
				t.Error("somebody had to authorize again")
			}
		}
		t.Logf("%d accounts have a token %s after the start", accounts, took)
	})
}

// TestHourAway has no refresher for an hour, in virtual time, while NATS goes on: the tokens of accounts that were spread over a
// life come due, and some die. Then one catches up at --api-rate: each token is renewed once, and those that die first come first, by what
// the jitter of renewals leaves of that order (docs/adr/0061).
//
//	WXTOKEN_TEST_AWAY_ACCOUNTS=3000 go test -run TestHourAway -v ./internal/systemtest
func TestHourAway(t *testing.T) {
	many, err := strconv.Atoi(cmp.Or(os.Getenv("WXTOKEN_TEST_AWAY_ACCOUNTS"), "100"))
	if err != nil {
		t.Fatal(err)
	}
	aloneInProcess(t, func(t *testing.T) {
		const life, away, period = 2 * time.Hour, time.Hour, 80 * time.Minute
		w := newWorld(t, wechatsim.Config{Seed: 1, Latency: 50 * time.Millisecond}, natsdtest.InBubble)
		first := w.start()
		time.Sleep(15 * time.Minute) // a ticket came
		for i := range many {
			if err := w.sim.Authorize(testAppID, appidOf(i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(period / time.Duration(many))
		}
		time.Sleep(time.Minute)
		first.stop()
		dies := map[string]time.Time{}
		for i := range many {
			token, err := w.token(wxtoken.AuthorizerKey(testAppID, appidOf(i)))
			if err != nil {
				t.Fatal(err)
			}
			dies[appidOf(i)] = token.ExpiresAt
		}
		time.Sleep(away)

		// Twice as fast as they come due: as fast as an installation of that size should be allowed to.
		rate := 2 * float64(many) / period.Seconds()
		w.cfg.APIRate, w.cfg.Concurrency = rate, 4
		w.sim.ClearHistory()
		began := time.Now()
		w.start()
		time.Sleep(away + 10*time.Minute) // at twice the rate an hour is caught up with within an hour

		calls, renewed, dead := 0, map[string]int{}, 0
		newest, outOfOrder, last := -life, time.Duration(0), time.Duration(0) // newest: the latest death of those renewed so far
		for _, e := range w.sim.History() {
			if e.Kind != wechatsim.EntryCall || e.API != refresh {
				continue
			}
			at := e.Time.Sub(began)
			if most := rate*at.Seconds() + max(rate, 1) + 1; float64(calls) > most {
				t.Fatalf("%d calls within %s, more than %g a second", calls, at, rate)
			}
			calls++
			renewed[e.Authorizer]++
			if renewed[e.Authorizer] > 1 || !dies[e.Authorizer].Before(began.Add(life-away)) {
				continue // a token of the time since
			}
			death := dies[e.Authorizer].Sub(began)
			if last = at; death < at {
				dead++
			}
			outOfOrder = max(outOfOrder, newest-death)
			newest = max(newest, death)
		}
		for appid, n := range renewed {
			if n != 1 {
				t.Errorf("%s was renewed %d times", appid, n)
			}
		}
		for i := range many {
			if err := w.accepted(appidOf(i)); err != nil {
				t.Error(err)
			}
		}
		// Of two tokens the one that is due first dies at most 5 % of a life later. Those that wait for their turn at the same time, in hands
		// and in what these pulled, overtake each other.
		turns := time.Duration(2 * float64(w.cfg.Concurrency) / rate * float64(time.Second))
		if bound := life/20 + turns; outOfOrder > bound {
			t.Errorf("a token was renewed before one that died %s earlier, more than %s", outOfOrder, bound)
		}
		t.Logf("%d calls for %d accounts, %.2f/s allowed, caught up after %s; %d were dead; at most %s out of the order of death",
			calls, many, rate, last.Round(time.Second), dead, outOfOrder.Round(time.Second))
	})
}
