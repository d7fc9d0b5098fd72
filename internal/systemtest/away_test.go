package systemtest

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/wechatsim"
)

// awayVariable marks the process that plays TestThreeDaysAway: a bubble wants one of its own.
const awayVariable = "WXTOKEN_TEST_AWAY"

// TestThreeDaysAway has everything of ours down for three days, in virtual time: every token and every ticket is dead, and WeChat has
// given up pushing. Nobody has to do anything but start it.
func TestThreeDaysAway(t *testing.T) {
	if os.Getenv(awayVariable) == "" {
		t.Parallel()
		binary := os.Args[0]
		if raceDetector {
			binary = buildFast(t)
		}
		cmd := exec.CommandContext(t.Context(), binary, "-test.run=^TestThreeDaysAway$", "-test.v")
		cmd.Env = append(os.Environ(), awayVariable+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Log(tail(string(out), 300))
		return
	}
	natsdtest.Bubble(t, func(t *testing.T) {
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
