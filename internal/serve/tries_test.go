package serve_test

import (
	"fmt"
	"testing"
	"time"

	"wxtoken/internal/serve"
)

// TestTries spends what one address may have refused, and looks who else has to wait for it.
func TestTries(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for name, row := range map[string]struct {
		spender string
		same    []string // have to wait too
		others  []string
	}{
		"IPv4":       {"203.0.113.7:1000", []string{"203.0.113.7:2000", "[::ffff:203.0.113.7]:1"}, []string{"203.0.113.8:1000", "[2001:db8::7]:1000", "@"}},
		"IPv6":       {"[2001:db8:0:1::1]:1000", []string{"[2001:db8:0:1:ffff::2]:7", "[2001:db8:0:1::1%eth0]:1"}, []string{"[2001:db8:0:2::1]:1000", "203.0.113.7:1"}},
		"no address": {"@", []string{"", "here", "203.0.113.7"}, []string{"203.0.113.7:1", "[::1]:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tries := serve.NewTries(2, 3)
			for n := range 5 {
				if got, want := tries.Spent(row.spender, now), n >= 3; got != want {
					t.Errorf("spent after %d failures: %v", n, got)
				}
				if got, want := tries.Count(row.spender, now), n < 3; got != want {
					t.Errorf("failure %d within bounds: %v", n+1, got)
				}
			}
			for _, remote := range row.same {
				if !tries.Spent(remote, now) || tries.Count(remote, now) {
					t.Errorf("%q need not wait", remote)
				}
			}
			for _, remote := range row.others {
				if tries.Spent(remote, now) || !tries.Count(remote, now) {
					t.Errorf("%q has to wait", remote)
				}
			}
			for n := range 3 { // half a second brings back one
				if got, want := tries.Count(row.spender, now.Add(500*time.Millisecond)), n < 1; got != want {
					t.Errorf("failure %d half a second later within bounds: %v", n+1, got)
				}
			}
		})
	}
}

// TestTriesOfMany remembers no more addresses than there is room for, and goes on to count.
func TestTriesOfMany(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	tries := serve.NewTries(1, 1)
	address := func(n int) string { return fmt.Sprintf("10.%d.%d.%d:1", n>>16, n>>8&255, n&255) }
	for n := range 10_000 {
		tries.Count(address(n), now)
	}
	if !tries.Spent(address(0), now) {
		t.Error("the first of 10,000 addresses is forgotten")
	}
	tries.Count(address(10_000), now)
	if tries.Spent(address(0), now) {
		t.Error("the first is remembered, though there is no room")
	}
	if !tries.Spent(address(10_000), now) {
		t.Error("the last is not counted")
	}
}
