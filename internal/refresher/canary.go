package refresher

import (
	"context"

	"wxtoken/internal/events"
)

// Canary has NATS prove that a renewal could be stored and read back.
func (r *Refresher) Canary(ctx context.Context) error { return events.StoreCanary(ctx, r.js) }
