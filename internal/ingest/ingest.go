package ingest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/bus"
	"wxtoken/internal/counts"
	"wxtoken/internal/seal"
	"wxtoken/internal/serve"
	"wxtoken/internal/settings"
	"wxtoken/internal/streams"
	"wxtoken/internal/wechat"
)

// Config holds the settings of ingest.
type Config struct {
	HTTPAddr      string `name:"http-addr" group:"Pushes" default:":8080" help:"Address for WeChat's pushes. The one that is open to all networks by default: WeChat has to reach it, through a proxy that speaks TLS."`
	ReleaseCheck  bool   `name:"release-check" group:"Pushes" default:"true" help:"Answer WeChat's full-network-release check for the ten accounts that it lends. On unless --release-check=false: switch it off when the release is through."`
	PlainMessages bool   `name:"plain-messages" group:"Pushes" help:"Take messages in plain mode too, for the test of an account: they are neither encrypted nor signed, so anyone who saw one URL can send any. NOT FOR PRODUCTION."`
}

// Validate returns the fault of the settings, or nil.
func (c Config) Validate() error {
	_, port, err := net.SplitHostPort(c.HTTPAddr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return settings.Fault("http-addr", "%q is not an address: want host:port, for instance :8080", c.HTTPAddr)
	}
	return nil
}

// Deps is what an Ingest works with. Step may be nil.
type Deps struct {
	JetStream jetstream.JetStream
	Seal      *seal.Keys // seals the events on AUTH; nil leaves them in the clear
	Log       zerolog.Logger
	Metrics   prometheus.Registerer
	Counts    *counts.Counter  // counts what ingest does; nil counts nothing
	Now       func() time.Time // the clock with which CreateTime is compared
	// Called at "ingest.before_publish" and "ingest.after_puback"; tests end the process there.
	Step func(name string)
}

// Ingest takes WeChat's pushes. It is safe for concurrent use.
type Ingest struct {
	// By component_appid; the map is replaced, never changed.
	components atomic.Pointer[map[string]*wechat.Crypter]
	looks      atomic.Pointer[looks] // of their pages; replaced with them
	js         jetstream.JetStream
	seal       *seal.Keys
	now        func() time.Time
	step       func(name string)
	metrics    *metrics
	counts     *counts.Counter
	failures   *serve.Tries // refused pushes, by address
	visits     *serve.Tries // refused visits to links, by address
	lines      *lines
	listeners  *listeners
	journal    *journal

	releaseCheck  bool
	plainMessages bool

	// Slots for what is under way. The limits leave connections for the pushes that can't wait.
	parsing chan struct{} // pushes that are being parsed
	asking  chan struct{} // messages about which the services are being asked
	pages   chan struct{} // pages of authorization links that are being made
}

// New returns an Ingest for the given components. Its error names every fault of their settings
// and shows no secret.
func New(cfg Config, components []settings.Component, d Deps) (*Ingest, error) {
	if len(components) == 0 {
		return nil, errors.New("set up ingest: no component: set component-appid or components-dir")
	}
	i := &Ingest{
		js:            d.JetStream,
		seal:          d.Seal,
		now:           d.Now,
		step:          d.Step,
		counts:        d.Counts,
		failures:      serve.NewTries(failuresPerSecond, failuresBurst),
		visits:        serve.NewTries(failuresPerSecond, failuresBurst),
		listeners:     &listeners{now: time.Now},
		releaseCheck:  cfg.ReleaseCheck,
		plainMessages: cfg.PlainMessages,
		parsing:       make(chan struct{}, maxParsing),
		asking:        make(chan struct{}, maxAsking),
		pages:         make(chan struct{}, maxPages),
	}
	if i.step == nil {
		i.step = func(string) {}
	}
	faults := i.SetComponents(components)
	var err error
	if i.metrics, err = newMetrics(d.Metrics); err != nil {
		faults = errors.Join(faults, err)
	}
	if faults != nil {
		return nil, fmt.Errorf("set up ingest: %w", faults)
	}
	log := d.Log.With().Str("role", "ingest").Logger()
	i.lines = newLines(log, i.metrics.suppressed)
	i.journal = newJournal(d.JetStream, log)
	if d.Seal == nil {
		log.Info().Msg("events on AUTH are in the clear")
	} else {
		log.Info().Str("seal_key", d.Seal.Public()).Msg("events on AUTH are sealed")
	}
	if cfg.PlainMessages {
		log.Warn().Msg("accepting messages in plain mode, NOT FOR PRODUCTION: anyone who saw one URL can forge them")
	}
	return i, nil
}

// Run writes records for operators about pushes that were refused, odd, repeated or answered late,
// until ctx ends. Pushes are accepted without it, too. It always returns nil.
func (i *Ingest) Run(ctx context.Context) error {
	i.journal.run(ctx)
	return nil
}

// SetComponents replaces all components at once. It may be called while pushes come in: those under
// way use the old components. Without components no push is accepted. On an error, which names
// every fault and shows no secret, the components stay as they are.
func (i *Ingest) SetComponents(components []settings.Component) error {
	crypters := make(map[string]*wechat.Crypter, len(components))
	var faults []error
	for _, c := range components {
		if _, twice := crypters[c.AppID]; twice {
			faults = append(faults, fmt.Errorf("component %q is given twice", c.AppID))
			continue
		}
		crypter, err := wechat.NewCrypter(wechat.Keys{AppID: c.AppID, Tokens: reveal(c.Tokens), AESKeys: reveal(c.AESKeys)})
		if err != nil {
			faults = append(faults, fmt.Errorf("component %q: %w", c.AppID, err))
			continue
		}
		crypters[c.AppID] = crypter
	}
	if faults != nil {
		return fmt.Errorf("set components: %w", errors.Join(faults...))
	}
	i.components.Store(&crypters)
	i.looks.Store(newLooks(components))
	return nil
}

// Components returns the appids of the components whose pushes are accepted now.
func (i *Ingest) Components() []string { return slices.Sorted(maps.Keys(*i.components.Load())) }

func reveal(secrets []wxtoken.Secret) []string {
	values := make([]string, len(secrets))
	for n, secret := range secrets {
		values[n] = secret.Reveal()
	}
	return values
}

// Ready returns nil if pushes can be stored, that is if the stream AUTH exists.
func (i *Ingest) Ready(ctx context.Context) error {
	err := streams.CheckExists(ctx, i.js)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w (the refresher creates it when it starts)", err)
	}
	return err
}

// Canary proves that a push would get as far as its stream in NATS.
func (i *Ingest) Canary(ctx context.Context) error { return bus.RefusedCanary(ctx, i.js) }

// Handler returns the handler of all URLs of the package. It answers every other path with 404, and
// never redirects.
func (i *Ingest) Handler() http.Handler { return http.HandlerFunc(i.serve) }
