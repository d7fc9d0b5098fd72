package refresher

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/gate"
	"wxtoken/internal/wechat"
)

// metrics are what a refresher counts. No label ever holds an authorizer's appid: there may be
// a hundred thousand.
type metrics struct {
	renewals      *prometheus.CounterVec
	durations     *prometheus.HistogramVec
	exchanges     *prometheus.CounterVec
	overlaps      prometheus.Counter
	rescheduled   prometheus.Counter
	missed        prometheus.Counter
	recovered     prometheus.Counter
	staleTickets  prometheus.Counter
	panics        prometheus.Counter
	reconciles    *prometheus.CounterVec
	reconciledAt  *prometheus.GaugeVec
	unkept        *prometheus.GaugeVec
	swept         prometheus.Gauge
	calls         *prometheus.CounterVec
	requests      *prometheus.CounterVec
	reports       *prometheus.CounterVec
	mirrorsBehind *prometheus.GaugeVec
	watches       *prometheus.GaugeVec
	maxWatches    *prometheus.GaugeVec
	unopened      prometheus.Counter
}

// outcomes of a call, as labels: "ok", and each verdict of wechat.Judge. The list is written out,
// since a series has to be there before its first event.
var outcomes = []string{"ok", "retry", "slow_down", "quota_gone", "renew_component_token", "renew_account_token", "wait_for_ticket",
	"recover_refresh_token", "revoked", "code_spent", "operator"}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return wechat.Judge(err).String()
}

// reasons are the triggers of a renewal: why its due message was made.
var reasons = []string{events.ReasonScheduled, events.ReasonSwept, events.ReasonRefused, events.ReasonTicket,
	events.ReasonListed, events.ReasonOverlap, events.ReasonAsked, events.ReasonDerived, events.ReasonImported}

// newMetrics registers what a refresher counts. Each series with known labels is there from the
// start: an alert on an increase does not see a counter that appears with its first event.
func newMetrics(reg prometheus.Registerer, r *Refresher) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "wxtoken_" + name, Help: help})
	}
	m := &metrics{
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_refresh_total", Help: "Calls to WeChat for the next token of a key.",
		}, []string{"kind", "outcome", "trigger"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "wxtoken_refresh_duration_seconds", Help: "Time that WeChat took to answer a call for the next token of a key.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"outcome"}),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_exchange_total", Help: "Auth codes sent to WeChat.",
		}, []string{"outcome"}),
		overlaps:     counter("overlap_total", "Answers thrown away because the key had changed meanwhile."),
		rescheduled:  counter("schedule_missing_total", "Schedules published again because they may have been lost."),
		missed:       counter("sweep_missed_total", "Renewals that the sweep found missed."),
		recovered:    counter("refresh_token_recovered_total", "Refresh tokens got back from WeChat."),
		unopened:     counter("sealed_unopened_total", "Tries to open an event on AUTH that is sealed for a key whose seed is not here."),
		staleTickets: counter("ticket_stale_total", "Tickets that came after a newer one."),
		reconciles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxtoken_reconcile_total", Help: "Comparisons with WeChat's list of authorizers.",
		}, []string{"result"}),
		reconciledAt: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "wxtoken_reconcile_last_success_timestamp_seconds", Help: "When the comparison was last complete.",
		}, []string{"component"}),
		unkept: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "wxtoken_reconcile_unkept", Help: "Accounts that WeChat's list names and that have nothing here to get a token with, at the last complete comparison.",
		}, []string{"component"}),
		swept: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "wxtoken_sweep_last_success_timestamp_seconds", Help: "When the last sweep ended.",
		}),
	}
	m.calls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wxtoken_api_calls_total", Help: "Calls made to WeChat.",
	}, []string{"component", "api"})
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wxtoken_requests_total", Help: "Requests of operators, services and ingest, by the status of the answer.",
	}, []string{"subject", "status"})
	m.reports = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wxtoken_reports_total", Help: "Reports of a refused token.",
	}, []string{"outcome"})
	m.mirrorsBehind = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "wxtoken_mirror_behind", Help: "1 while services of an account read old values of a stream, else 0.",
	}, []string{"account", "stream"})
	m.watches = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "wxtoken_mirror_consumers", Help: "Consumers that services of an account have on a stream.",
	}, []string{"account", "stream"})
	m.maxWatches = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "wxtoken_mirror_consumers_max", Help: "Consumers that the account may have on a stream (max_consumers); missing without a limit.",
	}, []string{"account", "stream"})
	for _, o := range []wxtoken.Outcome{wxtoken.OutcomeRenewing, wxtoken.OutcomeAlreadyRenewed, wxtoken.OutcomeTooSoon, wxtoken.OutcomeUnknownKey} {
		m.reports.WithLabelValues(string(o))
	}
	for _, kind := range []wxtoken.Kind{wxtoken.KindComponent, wxtoken.KindAuthorizer} {
		for _, o := range outcomes {
			for _, reason := range reasons {
				m.renewals.WithLabelValues(string(kind), o, reason)
			}
		}
	}
	for _, o := range outcomes {
		m.durations.WithLabelValues(o)
		m.exchanges.WithLabelValues(o)
	}
	m.reconciles.WithLabelValues("ok")
	m.reconciles.WithLabelValues("failed")
	panics := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wxtoken_panics_total", Help: "Panics in handlers that were caught.",
	}, []string{"where"})
	if err := reg.Register(panics); err != nil {
		// A process counts those of its HTTP servers under the same name.
		there := prometheus.AlreadyRegisteredError{}
		if !errors.As(err, &there) {
			return nil, err
		}
		panics = there.ExistingCollector.(*prometheus.CounterVec)
	}
	m.panics = panics.WithLabelValues("events")
	for _, c := range []prometheus.Collector{
		m.renewals, m.durations, m.exchanges, m.overlaps, m.rescheduled, m.missed, m.recovered, m.staleTickets,
		m.reconciles, m.reconciledAt, m.unkept, m.swept, m.calls, m.requests, m.reports, m.mirrorsBehind, m.watches, m.maxWatches, m.unopened, fleet{r},
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) countCall(kind wxtoken.Kind, reason string, err error, took time.Duration) {
	m.renewals.WithLabelValues(string(kind), outcome(err), reason).Inc()
	m.durations.WithLabelValues(outcome(err)).Observe(took.Seconds())
}

func (m *metrics) countExchange(err error) { m.exchanges.WithLabelValues(outcome(err)).Inc() }

func (m *metrics) countReconcile(component, result string, now time.Time) {
	m.reconciles.WithLabelValues(result).Inc()
	if result == "ok" {
		m.reconciledAt.WithLabelValues(component).Set(seconds(now))
	}
}

// fleet is a collector: it counts when Prometheus asks and keeps nothing up to date in between. It
// takes its figures from the view and from the last sweep, and never asks NATS, so that metrics
// work while NATS is away, which is when they are needed.
//
// A gauge per account is out of the question, with a million of them; which account it is, the
// status, the page and the notices tell.
type fleet struct{ r *Refresher }

var (
	descAuthorizers = prometheus.NewDesc("wxtoken_authorizers", "Authorizers by state.", []string{"component", "state"}, nil)
	descInvalid     = prometheus.NewDesc("wxtoken_authorizers_token_invalid", "Authorizers in force whose token has expired.", []string{"component"}, nil)
	descMinExpiry   = prometheus.NewDesc("wxtoken_token_min_expiration_timestamp_seconds", "When the first of the authorizers' tokens expires; 0 without any.", []string{"component"}, nil)
	descCompExpiry  = prometheus.NewDesc("wxtoken_component_token_expiration_timestamp_seconds", "When the component access token expires; 0 without one.", []string{"component"}, nil)
	descCompRenewal = prometheus.NewDesc("wxtoken_component_token_renewal_timestamp_seconds", "When the component access token is to be renewed; 0 without one.", []string{"component"}, nil)
	descTicketMade  = prometheus.NewDesc("wxtoken_ticket_last_created_timestamp_seconds", "CreateTime of the ticket in use; 0 without one.", []string{"component"}, nil)
	descPaused      = prometheus.NewDesc("wxtoken_api_paused_until_timestamp_seconds", "Until when a call rests because the day's quota is gone.", []string{"component", "api"}, nil)
	descHeld        = prometheus.NewDesc("wxtoken_held_back", "Whether that reason keeps tokens of the component from being renewed (1) or not (0).", []string{"component", "reason"}, nil)
	descDoubted     = prometheus.NewDesc("wxtoken_refusals_doubted", "Whether so many authorizations are refused that none of it is believed (1) or not (0).", []string{"component"}, nil)
	descSealed      = prometheus.NewDesc("wxtoken_sealed_records", "Credentials by the first 8 characters of the public key that they are sealed for; none: in the clear.", []string{"key"}, nil)
	descTicketGot   = prometheus.NewDesc("wxtoken_ticket_last_received_timestamp_seconds", "When the ticket in use came; 0 without one.", []string{"component"}, nil)
)

// Describe sends the descriptions of what Collect tells.
func (f fleet) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descAuthorizers, descInvalid, descMinExpiry, descCompExpiry, descCompRenewal, descTicketMade, descTicketGot, descPaused, descDoubted, descHeld, descSealed} {
		ch <- d
	}
}

// Collect tells.
func (f fleet) Collect(ch chan<- prometheus.Metric) {
	view := f.r.knownView()
	if view == nil {
		return
	}
	now := f.r.now()
	// The key in use is shown with 0, too, so that its series does not begin with the first record.
	sealed := map[string]int{short(f.r.seal.Public()): 0}
	for public, n := range view.Sealed() {
		sealed[short(public)] += n
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for key, n := range sealed {
		gauge(descSealed, float64(n), key)
	}
	tallies := f.r.last.tallied()
	for _, id := range appids(f.r.all()) {
		f.collectAccounts(gauge, id, tallies[id])
		own, token := view.Component(id)
		gauge(descCompExpiry, seconds(token.ExpiresAt), id)
		gauge(descCompRenewal, seconds(token.RenewAt), id)
		gauge(descTicketMade, seconds(own.TicketCreatedAt), id)
		gauge(descTicketGot, seconds(own.TicketReceivedAt), id)
		for api, until := range view.Quota(id).Paused {
			if until.After(now) {
				gauge(descPaused, seconds(until), id, api)
			}
		}
		doubted := 0.0
		if c, ok := f.r.component(id); ok && !c.gate.Believes() {
			doubted = 1
		}
		gauge(descDoubted, doubted, id)
		f.collectHolds(gauge, id)
	}
}

// collectAccounts tells how many accounts of a component are in which state, as the last look at
// all keys found it; nothing before the first.
func (f fleet) collectAccounts(gauge func(*prometheus.Desc, float64, ...string), id string, t *tally) {
	if t == nil {
		return
	}
	gauge(descAuthorizers, float64(t.active), id, string(wxtoken.StateActive))
	gauge(descAuthorizers, float64(t.retrying), id, string(wxtoken.StateRenewingFailed))
	gauge(descAuthorizers, float64(t.revoked), id, string(wxtoken.StateRevoked))
	gauge(descAuthorizers, float64(t.needy), id, string(wxtoken.StateNeedsAuthorization))
	gauge(descInvalid, float64(t.invalid), id)
	gauge(descMinExpiry, seconds(t.first.ExpiresAt()), id)
}

// collectHolds tells of each reason whether it holds calls of a component back.
//
// Each reason is shown with 0 while it does not hold, so that an end is seen as one.
func (f fleet) collectHolds(gauge func(*prometheus.Desc, float64, ...string), id string) {
	c, ok := f.r.component(id)
	if !ok {
		return
	}
	held := map[wxtoken.Reason]bool{}
	for _, h := range c.gate.Holds() {
		held[h.Reason] = true
	}
	for _, reason := range gate.Reasons {
		value := 0.0
		if held[reason.Name] {
			value = 1
		}
		gauge(descHeld, value, id, string(reason.Name))
	}
}

// seconds returns a time as Unix seconds, 0 for none.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
