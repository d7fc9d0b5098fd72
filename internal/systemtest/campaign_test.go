package systemtest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/internal/natsd/natsdtest"
)

const (
	// seedVariable names the seed that a child process runs.
	seedVariable = "WXTOKEN_TEST_SEED"
	// seedsVariable says how many seeds the campaign runs. The default is for every run of all tests, of which a day of the campaign would
	// otherwise be half; allSeeds is the whole campaign, after which no trouble may be missing.
	seedsVariable = "WXTOKEN_TEST_SEEDS"
	everydaySeeds = 4
	allSeeds      = 20
	// firstVariable says with which seed the campaign begins.
	firstVariable = "WXTOKEN_TEST_FIRST_SEED"
)

// TestCampaign runs days of the whole system in virtual time, under faults. Each seed is another
// day, in a process of its own (nats.go keeps timers that can't cross bubbles). Every invariant
// is checked on every day, and every kind of trouble must have happened on some day.
func TestCampaign(t *testing.T) {
	if seed := os.Getenv(seedVariable); seed != "" {
		n, err := strconv.ParseUint(seed, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		var happened map[string]int
		natsdtest.Bubble(t, func(t *testing.T) { happened = runDay(t, n) })
		out, err := json.Marshal(happened)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("happened %s\n", out)
		return
	}
	t.Parallel()
	binary := os.Args[0]
	if raceDetector { // without it a day is five times as fast, and the other packages have it
		binary = buildFast(t)
	}
	seeds := fromEnv(t, seedsVariable, everydaySeeds)
	first := fromEnv(t, firstVariable, 1)
	total := map[string]int{}
	var longest time.Duration
	played := 0
	var mu sync.Mutex
	var running sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for seed := first; seed < first+seeds; seed++ {
		slots <- struct{}{}
		if t.Failed() {
			break // one bad day says enough
		}
		mu.Lock()
		enough := longest
		mu.Unlock()
		if deadline, ok := t.Deadline(); ok && time.Until(deadline) < 2*enough+time.Minute {
			t.Logf("only %d of %d days: a day takes up to %s here", seed-first, seeds, enough.Round(time.Second))
			break
		}
		played++
		running.Go(func() {
			defer func() { <-slots }()
			began := time.Now()
			happened := runSeed(t, binary, seed)
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, time.Since(began))
			for what, n := range happened {
				total[what] += n
			}
		})
	}
	running.Wait()
	if t.Failed() {
		return
	}
	for _, what := range slices.Sorted(maps.Keys(total)) {
		t.Logf("%-28s %d", what, total[what])
	}
	// A campaign that did not do what it is for must not pass.
	if played >= allSeeds {
		for _, what := range append(troubleNames(), crashSteps...) {
			if total[what] == 0 {
				t.Errorf("%s never happened in %d days: the campaign did not test it", what, played)
			}
		}
	}
}

func fromEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a number from 1", name, value)
	}
	return n
}

// buildFast builds this test without the race detector, once.
func buildFast(t *testing.T) string {
	t.Helper()
	binary, err := builtFast()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

var builtFast = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "wxtoken-systemtest-")
	if err != nil {
		return "", err
	}
	atEnd.add(func() { _ = os.RemoveAll(dir) })
	out := filepath.Join(dir, "systemtest")
	if text, err := exec.Command("go", "test", "-c", "-o", out, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the test without the race detector: %w\n%s", err, text)
	}
	return out, nil
})

// runSeed runs one day in a process of its own and returns what happened on it. A day that hangs ends shortly before the test would.
func runSeed(t *testing.T, binary string, seed int) map[string]int {
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-10*time.Second))
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, binary, "-test.run=^TestCampaign$", "-test.count=1")
	// Virtual time moves when nothing can run: a second core is of no use to a day, and costs a third more.
	cmd.Env = append(os.Environ(), seedVariable+"="+strconv.Itoa(seed), "GOMAXPROCS=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("seed %d failed (%v); again with %s=%d go test -run TestCampaign ./internal/systemtest\n%s",
			seed, err, seedVariable, seed, out)
		return nil
	}
	happened := map[string]int{}
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(line, "happened "); ok {
			if err := json.Unmarshal([]byte(text), &happened); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		}
	}
	if len(happened) == 0 {
		t.Errorf("seed %d did not say what happened:\n%s", seed, tail(string(out), 2000))
	}
	return happened
}

// dice returns the randomness of a seed.
func dice(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x77786f6b656e)) }
