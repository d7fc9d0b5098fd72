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
	// logEvery is the time between two log lines about failures of one webhook.
	logEvery = 10 * time.Second
)

// Deps is what webhooks need.
type Deps struct {
	NATS     *nats.Conn
	Services *services.Watch
	// Ref returns an account's ref; ok is false while it is not known yet. nil means that no
	// account has one.
	Ref     func(wxtoken.Key) (ref string, ok bool)
	Log     zerolog.Logger
	Metrics prometheus.Registerer
}

// Webhooks delivers messages to the webhooks of all services.
type Webhooks struct {
	d       Deps
	js      jetstream.JetStream
	http    *http.Client
	metrics *metrics
	giveUp  time.Duration // giveUpAfter
}

// New returns Webhooks; Run makes it deliver.
func New(d Deps) (*Webhooks, error) {
	js, err := jetstream.New(d.NATS)
	if err != nil {
		return nil, err
	}
	return &Webhooks{d: d, js: js, http: hook.Client(concurrency), metrics: newMetrics(d.Metrics), giveUp: giveUpAfter}, nil
}

// Run delivers to the webhooks of the current services until ctx ends, and then waits up to a few
// seconds for deliveries that are under way.
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
		changed := w.d.Services.Changed() // before Now, so that no change is missed
		wanted := w.targets()
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
		Webhooks: w, name: name, replyOutcomes: newReplyOutcomes(), slots: make(chan struct{}, concurrency),
		logLimiter: rate.NewLimiter(rate.Every(logEvery), 1),
		log:        w.d.Log.With().Str("service", t.service.Name).Str("host", t.host).Logger(),
	}
	s.target.Store(t)
	w.metrics.dead.WithLabelValues(t.service.Name) // starts at zero, so that an alert sees the first one
	r := &running{of: s, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		s.run(ctx)
	}()
	return r
}

// targets returns the webhooks that should run, by the names of their durable consumers.
func (w *Webhooks) targets() map[string]*target {
	wanted := map[string]*target{}
	for _, service := range w.d.Services.Now().All() {
		for _, hook := range service.Webhooks {
			t := newTarget(service, hook)
			if len(t.filters) == 0 {
				w.d.Log.Warn().Str("service", service.Name).Str("host", t.host).
					Str("hint", "the webhook's messages are all of accounts that the service does not have").Msg("webhook left out")
				continue
			}
			wanted[consumerName(service.Name, hook)] = t
		}
	}
	return wanted
}

// consumerName returns the name of a webhook's durable consumer. It stays the same when the
// webhook's messages and secret change. It holds no URL, only a digest: a URL may have a secret in
// its path.
func consumerName(service string, hook services.Webhook) string {
	sum := sha256.Sum256([]byte(hook.URL + " " + strconv.FormatBool(hook.Reply)))
	return "webhook-" + service + "-" + hex.EncodeToString(sum[:8])
}

// sameFilters reports whether t gets its messages and requests for replies on the same subjects as
// other.
func (t *target) sameFilters(other *target) bool {
	return slices.Equal(t.filters, other.filters) && slices.Equal(t.replies, other.replies)
}
