package refresher

import (
	"context"
	"errors"

	"wxtoken/internal/bus"
)

// Canary has NATS prove that a renewal could be stored and read back. Before the store is open
// nothing is written to it: it may be another refresher's.
//
// It is one write and one read, and counts for /readyz beside Ready: serve.WatchCanary asks every
// two seconds at most, however many look.
func (r *Refresher) Canary(ctx context.Context) error {
	r.mu.Lock()
	ready := r.ready
	r.mu.Unlock()
	if !ready {
		return errors.New("the tokens are not loaded yet")
	}
	return bus.StoreCanary(ctx, r.js)
}
