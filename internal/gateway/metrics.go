package gateway

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// maxAPIs bounds the paths that are labels: services choose the paths, and one may make them up.
const maxAPIs = 300

// metrics is what the gateway counts:
//
//	wxtoken_gateway_tokens_total{service,door}             tokens handed out: token, stable_token, component, refresh, v1
//	wxtoken_gateway_calls_total{service,api,errcode}       calls that WeChat answered, by path and errcode (0: none)
//	wxtoken_gateway_unanswered_total{service}              calls that WeChat did not answer
//	wxtoken_gateway_replaced_total{service,outcome}        calls whose token WeChat refused: again (repeated with the new token), handed_on (the refusal)
//	wxtoken_gateway_refused_total{reason}                  requests that the gateway refused
//	wxtoken_gateway_streams                                open streams of events
type metrics struct {
	tokens, calls, unanswered, replaced, refused *prometheus.CounterVec
	streams                                      prometheus.Gauge

	mu   sync.Mutex
	apis map[string]struct{}
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		tokens:     counter("wxtoken_gateway_tokens_total", "Tokens that the gateway handed out.", "service", "door"),
		calls:      counter("wxtoken_gateway_calls_total", "Calls that WeChat answered, by path and errcode.", "service", "api", "errcode"),
		unanswered: counter("wxtoken_gateway_unanswered_total", "Calls that WeChat did not answer.", "service"),
		replaced:   counter("wxtoken_gateway_replaced_total", "Calls whose token WeChat refused: again were repeated with the new token, handed_on got the refusal.", "service", "outcome"),
		refused:    counter("wxtoken_gateway_refused_total", "Requests that the gateway refused.", "reason"),
		streams:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "wxtoken_gateway_streams", Help: "Open streams of events."}),
		apis:       map[string]struct{}{},
	}
	r.MustRegister(m.tokens, m.calls, m.unanswered, m.replaced, m.refused, m.streams)
	return m
}

// api returns the label for a path.
func (m *metrics) api(path string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.apis[path]; !known {
		if len(m.apis) >= maxAPIs || len(path) > 100 {
			return "other"
		}
		m.apis[path] = struct{}{}
	}
	return path
}
