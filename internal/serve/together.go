package serve

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// Together runs all parts at the same time. When ctx ends or one of them fails, they are ended in the order
// given, each after the one before it has returned.
func Together(ctx context.Context, parts ...func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range parts {
		mine := ctx
		next, ended := context.WithCancel(context.WithoutCancel(ctx))
		group.Go(func() error {
			defer ended()
			return part(mine)
		})
		ctx = next
	}
	return group.Wait()
}
