package serve

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"wxtoken/internal/settings"
)

// Metrics is the registry of one process:
//
//	wxtoken_build_info{version,commit,go}   1
//	wxtoken_panics_total{where}             panics in handlers, by the name of the server
//	wxtoken_nats_connected{role}            1 while connected, set by natsconn.Watch
//	go_*, process_*                         of the Go runtime and the process
//
// Other packages register their metrics in Registry.
type Metrics struct {
	Registry *prometheus.Registry

	panics *prometheus.CounterVec
}

// NewMetrics returns a registry with the metrics that all processes have.
func NewMetrics() *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_panics_total", Help: "Panics in handlers that were caught.",
		}, []string{"where"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "wxtoken_build_info", Help: "Always 1; the labels say what is running.",
	}, []string{"version", "commit", "go"})
	build.WithLabelValues(settings.Version()).Set(1)
	m.Registry.MustRegister(build, m.panics,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}
