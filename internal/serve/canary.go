package serve

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// How often NATS is probed.
const (
	canaryEvery = 5 * time.Second        // without a request for /readyz
	canaryGood  = 2 * time.Second        // how long a success counts
	canaryBad   = 500 * time.Millisecond // how long a failure counts
)

// Canary is a readiness probe: it proves again and again that NATS does what the process needs. An open
// connection does not prove that.
type Canary struct {
	probe   func(context.Context) error
	seconds prometheus.Histogram

	passed atomic.Int64 // when the last successful probe ended, in milliseconds since 1970

	probing chan struct{} // holds one element while a probe is under way
	tried   time.Time     // when the last probe ended
	err     error         // of the last one
}

// WatchCanary makes probe part of the readiness of role, with the metrics
// wxtoken_nats_canary_last_success_timestamp_seconds and wxtoken_nats_canary_seconds. However many requests
// come, probe is called every two seconds at most (half a second after a failure), one call at a time. Run
// keeps the metrics fresh without requests.
func WatchCanary(role string, h *Health, m *Metrics, probe func(context.Context) error) *Canary {
	labels := prometheus.Labels{"role": role}
	c := &Canary{probe: probe, probing: make(chan struct{}, 1), seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "wxtoken_nats_canary_seconds", Help: "Duration of the readiness probe through NATS, in seconds.", ConstLabels: labels,
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
	})}
	m.Registry.MustRegister(c.seconds, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "wxtoken_nats_canary_last_success_timestamp_seconds", Help: "Unix time of the last successful readiness probe through NATS; 0 before the first.", ConstLabels: labels,
	}, func() float64 { return float64(c.passed.Load()) / 1e3 }))
	h.Check("nats canary "+role, func(ctx context.Context) error {
		return c.check(context.WithoutCancel(ctx)) // other requests wait for the result, even if this client hangs up
	})
	return c
}

// Run probes until ctx ends, and returns nil then.
func (c *Canary) Run(ctx context.Context) error {
	t := time.NewTicker(canaryEvery)
	defer t.Stop()
	for {
		_ = c.check(ctx) // the result is kept for /readyz
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// check returns the result of the last probe, or probes if that is too old.
func (c *Canary) check(ctx context.Context) error {
	c.probing <- struct{}{} // a request that comes while a probe is under way gets its result
	defer func() { <-c.probing }()
	began := time.Now()
	lasts := canaryBad
	if c.err == nil {
		lasts = canaryGood
	}
	if !c.tried.IsZero() && began.Sub(c.tried) < lasts {
		return c.err
	}
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	c.err = c.probe(ctx)
	c.tried = time.Now()
	if c.err == nil {
		c.seconds.Observe(c.tried.Sub(began).Seconds())
		c.passed.Store(c.tried.UnixMilli())
	}
	return c.err
}
