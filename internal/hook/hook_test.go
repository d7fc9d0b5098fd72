package hook

import (
	"net/http"
	"testing"
	"time"
)

// TestPause waits as the pages say, and never for less than a receiver asked for.
func TestPause(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		tries       int
		after       time.Duration
		least, most time.Duration
	}{
		{1, 0, 800 * time.Millisecond, time.Second}, {8, 0, 4 * time.Minute, 5 * time.Minute}, {1000, 0, 4 * time.Minute, 5 * time.Minute},
		{1, time.Minute, time.Minute, time.Minute}, {8, 4*time.Minute + time.Second, 4*time.Minute + time.Second, 5 * time.Minute},
	} {
		for range 1000 {
			if got := Pause(row.tries, row.after); got < row.least || got > row.most {
				t.Fatalf("%d tries, Retry-After %s: %s, want %s to %s", row.tries, row.after, got, row.least, row.most)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, "600": 10 * time.Minute, "601": 10 * time.Minute, "4294967296": 10 * time.Minute,
		"99999999999999999999": 10 * time.Minute, "-1": 0, "1.5": 0, "Fri, 28 Nov 2025 00:00:00 GMT": 0,
	} {
		if got := RetryAfter(http.Header{"Retry-After": {text}}); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
