package refresher

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/store"
)

// TestFirsts adds keys in any order: those that die first are kept, and come in order.
func TestFirsts(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for _, most := range []int{1, 10, 100, 1000} {
		f := firsts{most: most}
		for _, i := range rand.Perm(100) {
			m := missed{key: wxtoken.AuthorizerKey("wxc", fmt.Sprintf("wxa%03d", i))}
			if i < 50 { // these never had a token, so they are dead first; the oldest authorization of them
				m.entry.Credential = account.OutlineOf(account.Credential{AuthorizedAt: noon.Add(time.Duration(i) * time.Second)})
			} else {
				m.entry.Token = account.NewLife(1, 1, noon, noon.Add(time.Duration(i)*time.Minute), noon)
			}
			f.add(m)
		}
		got := f.inOrder()
		if len(got) != min(most, 100) {
			t.Fatalf("%d kept of %d", len(got), most)
		}
		for i, m := range got {
			if want := fmt.Sprintf("wxa%03d", i); m.key.Authorizer != want {
				t.Errorf("at most %d: place %d has %s, want %s", most, i, m.key.Authorizer, want)
			}
		}
	}
	for rate, want := range map[float64]int{1: 1_000, 500: 30_000, 100_000: 50_000} {
		if got := (Config{APIRate: rate, SweepEvery: 30 * time.Second}).sweptAtMost(); got != want {
			t.Errorf("--api-rate %v: %d, want %d", rate, got, want)
		}
	}
}

// TestTellerHoldsUpNoSweep hands dead tokens to a teller that is busy: the sweep goes on, and is called when there is time again.
func TestTellerHoldsUpNoSweep(t *testing.T) {
	t.Parallel()
	again := make(chan struct{}, 1)
	busy := teller{now: time.Now, again: func() { again <- struct{}{} }, batches: make(chan []deadToken), view: new(store.View)}
	dead := []deadToken{{wxtoken.AuthorizerKey("wxc", "wxa"), 1}}
	busy.hand(dead) // nothing takes it
	if !busy.more.Load() {
		t.Error("it is not noted that there is more")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); busy.run(ctx) }()
	busy.batches <- dead // another token is there since: nothing is told
	<-again
	cancel()
	<-ended
}
