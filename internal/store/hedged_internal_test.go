package store

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestHedged sends a read again while no answer comes, takes the first answer, and leaves no goroutine behind: neither with reads that
// answer long after that nor where none does in time.
func TestHedged(t *testing.T) {
	for _, row := range []struct {
		name  string
		takes func(read int) time.Duration
		want  int // the read whose answer counts; 0 = none
		after time.Duration
	}{
		{"the first", func(int) time.Duration { return hedgeAfter / 2 }, 1, hedgeAfter / 2},
		{"the second overtakes", func(read int) time.Duration {
			if read == 2 {
				return hedgeAfter / 5
			}
			return 2 * requestTimeout
		}, 2, hedgeAfter + hedgeAfter/5},
		{"none in time", func(int) time.Duration { return 2 * requestTimeout }, 0, requestTimeout},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reads atomic.Int32
				began := time.Now()
				got, err := hedged(t.Context(), func(context.Context) (int, error) {
					read := int(reads.Add(1))
					time.Sleep(row.takes(read))
					return read, nil
				})
				if got != row.want || (row.want == 0) != errors.Is(err, context.DeadlineExceeded) || time.Since(began) != row.after {
					t.Errorf("answer of read %d after %s (%v), want that of %d after %s", got, time.Since(began), err, row.want, row.after)
				}
				time.Sleep(3 * requestTimeout) // what is left now never ends, and fails the test
			})
		})
	}
}
