package webhooks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"wxtoken/client"
	"wxtoken/internal/hook"
	"wxtoken/internal/services"
)

const (
	// concurrency is how many deliveries one webhook has under way at once.
	concurrency = 64
	// complaintEvery is the time between two log lines about failures of one webhook.
	complaintEvery = 10 * time.Second
)

// Deps is what webhooks need.
type Deps struct {
	NATS     *nats.Conn
	Services *services.Watch
	// Ref returns an account's ref; ok is false while that can't be told yet. nil: no account has
	// one.
	Ref     func(wxtoken.Key) (ref string, ok bool)
	Log     zerolog.Logger
	Metrics prometheus.Registerer
}

// Webhooks delivers to all webhooks of all services.
type Webhooks struct {
	d       Deps
	js      jetstream.JetStream
	http    *http.Client
	metrics *metrics
	giveUp  time.Duration // giveUpAfter
}

// New returns webhooks that Run serves.
func New(d Deps) (*Webhooks, error) {
	js, err := jetstream.New(d.NATS)
	if err != nil {
		return nil, err
	}
	return &Webhooks{d: d, js: js, http: hook.Client(concurrency), metrics: newMetrics(d.Metrics), giveUp: giveUpAfter}, nil
}

// Run follows the services until ctx ends, and then waits for deliveries that are under way, for a
// few seconds.
func (w *Webhooks) Run(ctx context.Context) error {
	defer w.http.CloseIdleConnections()
	running := map[string]*running{}
	defer func() {
		for _, r := range running {
			r.cancel()
		}
		for _, r := range running {
			<-r.ended
		}
	}()
	for {
		changed := w.d.Services.Changed() // before Now: none is missed
		wanted := w.wanted()
		for name, r := range running {
			if want, ok := wanted[name]; !ok || !want.sameFilters(r.of.target.Load()) {
				r.cancel()
				<-r.ended
				delete(running, name)
			}
		}
		for name, want := range wanted {
			if r := running[name]; r != nil {
				r.of.target.Store(want)
				continue
			}
			running[name] = w.start(ctx, name, want)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// running is a subscription that runs.
type running struct {
	of     *subscription
	cancel context.CancelFunc
	ended  chan struct{}
}

func (w *Webhooks) start(ctx context.Context, name string, t *target) *running {
	ctx, cancel := context.WithCancel(ctx)
	s := &subscription{
		Webhooks: w, name: name, answered: newAnswered(), slots: make(chan struct{}, concurrency),
		complaints: rate.NewLimiter(rate.Every(complaintEvery), 1), log: w.d.Log.With().Str("service", t.service.Name).Str("host", t.host).Logger(),
	}
	s.target.Store(t)
	w.metrics.dead.WithLabelValues(t.service.Name) // from zero: an alert sees the first one
	r := &running{of: s, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		s.run(ctx)
	}()
	return r
}

// wanted returns what is to run, by the names of the durable consumers.
func (w *Webhooks) wanted() map[string]*target {
	wanted := map[string]*target{}
	for _, service := range w.d.Services.Now().All() {
		for _, hook := range service.Webhooks {
			t := newTarget(service, hook)
			if len(t.filters) == 0 {
				w.d.Log.Warn().Str("service", service.Name).Str("host", t.host).
					Str("hint", "none of its messages are of accounts that the service has").Msg("webhook gets nothing")
				continue
			}
			wanted[durable(service.Name, hook)] = t
		}
	}
	return wanted
}

// durable names a webhook's consumer by what stays when its messages and its secret change. A name
// holds no URL: that may have a secret in its path.
func durable(service string, hook services.Webhook) string {
	sum := sha256.Sum256([]byte(hook.URL + " " + strconv.FormatBool(hook.Reply)))
	return "webhook-" + service + "-" + hex.EncodeToString(sum[:8])
}

// sameFilters reports whether t gets its messages and questions where other does.
func (t *target) sameFilters(other *target) bool {
	return slices.Equal(t.filters, other.filters) && slices.Equal(t.replies, other.replies)
}
