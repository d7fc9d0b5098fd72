package serve_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"wxtoken/internal/serve"
)

// The parts end in order: each is still at work when the one before it ends.
func TestTogether(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, row := range []struct {
		name   string
		failed int // the part that fails by itself; -1: none
		want   []int
	}{
		{"asked to end", -1, []int{0, 1, 2}},
		{"the first fails", 0, []int{0, 1, 2}},
		{"the last fails", 2, []int{2, 0, 1}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ctx, end := context.WithCancel(t.Context())
			defer end()
			began, ended := make(chan int, 3), make(chan int, 3)
			allBegan := make(chan struct{})
			part := func(n int) func(context.Context) error {
				return func(ctx context.Context) error {
					began <- n
					<-allBegan
					defer func() { ended <- n }()
					if n == row.failed {
						return broken
					}
					<-ctx.Done()
					return nil
				}
			}
			result := make(chan error, 1)
			go func() { result <- serve.Together(ctx, part(0), part(1), part(2)) }()
			for range 3 {
				<-began
			}
			close(allBegan)
			var want error
			if row.failed < 0 {
				end()
			} else {
				want = broken
			}
			if err := <-result; !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			if got := []int{<-ended, <-ended, <-ended}; !slices.Equal(got, row.want) {
				t.Errorf("ended in the order %v, want %v", got, row.want)
			}
		})
	}
}
