package redis

import "github.com/prometheus/client_golang/prometheus"

// metrics are those of the writer:
//
//	wxtoken_redis_connected               1 while Redis takes writes
//	wxtoken_redis_keys                    keys in Redis that are kept filled
//	wxtoken_redis_writes_total{outcome}   written, removed, same, older, shared, foreign, failed
type metrics struct {
	connected, keys prometheus.Gauge
	writes          *prometheus.CounterVec
}

// outcomeFailed counts faults of a connection: a refused command, or a lost connection.
const outcomeFailed = "failed"

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "wxtoken_redis_connected", Help: "1 while Redis takes writes, else 0.",
		}),
		keys: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "wxtoken_redis_keys", Help: "Keys in Redis that are kept filled with a token.",
		}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_redis_writes_total", Help: "Writes to Redis, by outcome.",
		}, []string{"outcome"}),
	}
	for _, outcome := range []string{
		outcomeWritten, outcomeRemoved, outcomeSame, outcomeOlder, outcomeShared, outcomeForeign, outcomeFailed,
	} {
		m.writes.WithLabelValues(outcome)
	}
	registry.MustRegister(m.connected, m.keys, m.writes)
	return m
}
