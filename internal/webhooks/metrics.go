package webhooks

import "github.com/prometheus/client_golang/prometheus"

// metrics are those of webhooks:
//
//	wxtoken_webhook_deliveries_total{service,outcome}  deliveries by outcome
//	wxtoken_webhook_pending{service}                   messages not delivered yet, at the gateway that delivers them
//	wxtoken_webhook_dead_total{service}                messages given up
type metrics struct {
	deliveries, dead *prometheus.CounterVec
	pending          *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_webhook_deliveries_total", Help: "Deliveries to webhooks, by outcome.",
		}, []string{"service", "outcome"}),
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_webhook_dead_total", Help: "Messages given up and moved to DEAD, because the webhook did not take them.",
		}, []string{"service"}),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "wxtoken_webhook_pending", Help: "Messages not delivered yet, at the gateway that delivers them.",
		}, []string{"service"}),
	}
	r.MustRegister(m.deliveries, m.dead, m.pending)
	return m
}
