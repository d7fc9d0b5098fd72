package webhooks

import "github.com/prometheus/client_golang/prometheus"

// metrics is what is counted:
//
//	wxtoken_webhook_deliveries_total{service,outcome}  deliveries by what came of them
//	wxtoken_webhook_pending{service}                   messages that are not delivered yet, at the gateway that delivers them
//	wxtoken_webhook_dead_total{service}                messages that were given up
type metrics struct {
	deliveries, dead *prometheus.CounterVec
	pending          *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "wxtoken_webhook_deliveries_total", Help: "Deliveries to webhooks, by what came of them."}, []string{"service", "outcome"}),
		dead:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "wxtoken_webhook_dead_total", Help: "Messages that a webhook did not take and that lie on DEAD."}, []string{"service"}),
		pending:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "wxtoken_webhook_pending", Help: "Messages that wait for their delivery, at the gateway that delivers them."}, []string{"service"}),
	}
	r.MustRegister(m.deliveries, m.dead, m.pending)
	return m
}
