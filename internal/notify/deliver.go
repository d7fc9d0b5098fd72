package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"wxtoken/internal/events"
	"wxtoken/internal/hook"
	"wxtoken/internal/lang"
	"wxtoken/internal/settings"
)

const (
	// giveUpAfter is the age at which a notice is given up, after a failed try. The operator's page
	// still shows it.
	giveUpAfter = 24 * time.Hour
	// ackWait is longer than the wait before a try and the try itself.
	ackWait = 30 * time.Second
	// inactiveAfter is how long the server keeps the consumer of a receiver that no refresher
	// serves.
	inactiveAfter = 7 * 24 * time.Hour
	// pullExpiry is how long a pull waits, and pullHeartbeat how often the server confirms that it
	// is still open.
	pullExpiry    = 30 * time.Second
	pullHeartbeat = 5 * time.Second
	// requestWait bounds other requests.
	requestWait = 3 * time.Second
	// faultDelay is the wait after a fault of NATS, and logEvery the time between two log lines
	// about it.
	faultDelay = 2 * time.Second
	logEvery   = time.Minute
	// clockSkew is how much the clocks of refresher and server may differ.
	clockSkew = time.Minute
	// checkEvery is the time between two checks whether the file has changed.
	checkEvery = 2 * time.Second
	// directTries is how often a notice that is not on JOURNAL is tried, and directQueue how many
	// of these can wait.
	directTries = 8
	directQueue = 16
)

// Durable returns the name of the durable consumer of a receiver.
func Durable(receiver string) string { return "notify-" + receiver }

// Deps is what a deliverer needs.
type Deps struct {
	JetStream jetstream.JetStream
	Log       zerolog.Logger
	Metrics   prometheus.Registerer
	Now       func() time.Time
	Transport http.RoundTripper // nil means that of hook.Client
}

// Deliverer delivers notices to the receivers of a file. All refreshers share one durable consumer
// for each receiver, which hands out one notice at a time: so notices arrive in order, and never
// more often than a robot allows, however many refreshers there are.
type Deliverer struct {
	cfg    Config
	file   *settings.File[[]Receiver] // nil if there are no receivers
	js     jetstream.JetStream
	http   *http.Client
	log    zerolog.Logger
	now    func() time.Time
	direct chan events.Notice

	tries   *prometheus.CounterVec
	failing *prometheus.GaugeVec
}

// New returns a Deliverer; Run makes it deliver.
func New(cfg Config, d Deps) (*Deliverer, error) {
	v := &Deliverer{
		cfg: cfg, js: d.JetStream, http: client(d.Transport), log: d.Log, now: d.Now,
		direct: make(chan events.Notice, directQueue),
	}
	v.tries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wxtoken_notify_total", Help: "Tries to deliver a notice to a receiver, by outcome.",
	}, []string{"receiver", "outcome"})
	v.failing = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "wxtoken_notify_failing", Help: "1 if this refresher's last try to deliver a notice failed, else 0.",
	}, []string{"receiver"})
	for _, c := range []prometheus.Collector{v.tries, v.failing} {
		if err := d.Metrics.Register(c); err != nil {
			return nil, err
		}
	}
	if cfg.NotifyFile == "" {
		return v, nil
	}
	var err error
	v.file, err = settings.OpenFile(what, cfg.NotifyFile, Parse, d.Log)
	return v, err
}

func client(transport http.RoundTripper) *http.Client {
	c := hook.Client(1)
	if transport != nil {
		c.Transport = transport
	}
	return c
}

// Direct sends a notice to all receivers without NATS. It does not wait for them.
func (v *Deliverer) Direct(n events.Notice) {
	if v.file == nil {
		return // there are no receivers
	}
	select {
	case v.direct <- n:
	default: // the receivers can't be reached either
		v.log.Error().Str("cause", n.Data.Cause).Str("phase", string(n.Data.Phase)).Msg("notice dropped")
	}
}

// Run delivers until ctx ends.
func (v *Deliverer) Run(ctx context.Context) error {
	defer v.http.CloseIdleConnections()
	if v.file == nil {
		<-ctx.Done()
		return nil
	}
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() { _ = v.file.Run(ctx) }) // it always returns nil
	running, direct := map[string]*delivery{}, map[string]chan struct{}{}
	look := time.NewTicker(checkEvery)
	defer look.Stop()
	for {
		v.change(ctx, running)
		select {
		case <-ctx.Done():
			for _, d := range running {
				<-d.ended
			}
			return nil
		case n := <-v.direct:
			for _, r := range v.file.Now() {
				before, done := direct[r.Name], make(chan struct{})
				direct[r.Name] = done
				working.Go(func() {
					defer close(done)
					if before != nil {
						<-before // in order: "over" must not overtake "began"
					}
					v.deliverDirect(ctx, r, n)
				})
			}
		case <-look.C:
		}
	}
}

// delivery is the goroutine that serves one receiver.
type delivery struct {
	to     Receiver
	cancel context.CancelFunc
	ended  chan struct{}
}

// change stops the deliveries to receivers that changed or are gone, and starts those to new ones.
func (v *Deliverer) change(ctx context.Context, running map[string]*delivery) {
	wanted := v.file.Now()
	for name, d := range running {
		if !slices.ContainsFunc(wanted, d.to.same) {
			d.cancel()
			<-d.ended
			delete(running, name)
			v.failing.DeleteLabelValues(name)
		}
	}
	for _, r := range wanted {
		if running[r.Name] != nil || ctx.Err() != nil {
			continue
		}
		for _, outcome := range outcomes {
			v.tries.WithLabelValues(r.Name, outcome)
		}
		v.failing.WithLabelValues(r.Name)
		ctx, cancel := context.WithCancel(ctx)
		d := &delivery{to: r, cancel: cancel, ended: make(chan struct{})}
		running[r.Name] = d
		go func() {
			defer close(d.ended)
			defer cancel()
			v.serve(ctx, r)
		}()
	}
}

// same reports whether two receivers are equal.
func (r Receiver) same(other Receiver) bool {
	return r.Name == other.Name && r.Kind == other.Kind && r.Language == other.Language && r.url == other.url && r.secret == other.secret
}

// serve delivers notices to one receiver until ctx ends.
func (v *Deliverer) serve(ctx context.Context, r Receiver) {
	log := v.log.With().Str("receiver", r.Name).Str("host", r.Host()).Logger()
	logged, since := rate.Sometimes{Interval: logEvery}, v.now().Add(-clockSkew)
	for {
		err := v.follow(ctx, r, since, log)
		if ctx.Err() != nil {
			return
		}
		logged.Do(func() { log.Warn().Err(err).Dur("delay", faultDelay).Msg("failed to read notices") })
		hook.Sleep(ctx, faultDelay)
	}
}

// consumer returns the durable consumer of a receiver. A new one starts with the notices written
// since this refresher learned of the receiver.
func (v *Deliverer) consumer(ctx context.Context, r Receiver, since time.Time) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	cons, err := v.js.Consumer(ctx, events.StreamJournal, Durable(r.Name))
	if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return cons, err
	}
	return v.js.CreateConsumer(ctx, events.StreamJournal, jetstream.ConsumerConfig{
		Durable: Durable(r.Name), Description: "notices for " + r.Name,
		FilterSubject: events.JournalFilter(events.JournalNotice),
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: 1,
		InactiveThreshold: inactiveAfter,
	})
}

// follow delivers notices until ctx ends or the consumer can't be read.
func (v *Deliverer) follow(ctx context.Context, r Receiver, since time.Time, log zerolog.Logger) error {
	cons, err := v.consumer(ctx, r, since)
	if err != nil {
		return fmt.Errorf("find or create consumer %s: %w", Durable(r.Name), err)
	}
	iter, err := cons.Messages(jetstream.PullMaxMessages(1), jetstream.PullExpiry(pullExpiry),
		jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return fmt.Errorf("pull from %s: %w", Durable(r.Name), err)
	}
	defer context.AfterFunc(ctx, iter.Stop)()
	defer iter.Stop()
	for {
		m, err := iter.Next()
		if err != nil {
			return fmt.Errorf("pull from %s: %w", Durable(r.Name), err)
		}
		v.deliver(ctx, r, m, log)
	}
}

// deliver tries to deliver one notice. The wait before it spaces messages out, those of other
// refreshers too: the consumer hands out no other notice meanwhile.
func (v *Deliverer) deliver(ctx context.Context, r Receiver, m jetstream.Msg, log zerolog.Logger) {
	n, err := events.ParseNotice(m.Data())
	if err != nil {
		log.Warn().Str("subject", m.Subject()).Msg("unreadable notice skipped")
		_ = m.Term() // reading it again would not help
		return
	}
	if !hook.Sleep(ctx, robots[r.Kind].apart) {
		_ = m.Nak()
		return
	}
	out := v.try(ctx, r, n)
	meta, err := m.Metadata()
	switch {
	case out.outcome == outcomeOK:
		if err := m.Ack(); err == nil {
			log.Info().Str("cause", n.Data.Cause).Str("phase", string(n.Data.Phase)).Msg("notice delivered")
		}
	case ctx.Err() != nil || err != nil:
		_ = m.Nak()
	case v.now().Sub(meta.Timestamp) > giveUpAfter:
		v.tries.WithLabelValues(r.Name, outcomeGivenUp).Inc()
		log.Error().Str("cause", n.Data.Cause).Str("reason", out.why.EN).Msg("notice given up")
		_ = m.Term()
	default:
		wait := hook.Pause(int(min(meta.NumDelivered, 100)), out.after)
		log.Warn().Str("cause", n.Data.Cause).Str("reason", out.why.EN).Dur("delay", wait).Msg("failed to deliver notice")
		_ = m.NakWithDelay(wait)
	}
}

// try makes one try and counts it.
func (v *Deliverer) try(ctx context.Context, r Receiver, n events.Notice) result {
	out := post(ctx, v.http, r, n, v.cfg.ConsoleURL, v.now())
	if ctx.Err() != nil {
		return out
	}
	v.tries.WithLabelValues(r.Name, out.outcome).Inc()
	failing := 1.0
	if out.outcome == outcomeOK {
		failing = 0
	}
	v.failing.WithLabelValues(r.Name).Set(failing)
	return out
}

// deliverDirect delivers a notice that is not on JOURNAL to a receiver.
func (v *Deliverer) deliverDirect(ctx context.Context, r Receiver, n events.Notice) {
	var out result
	for tries := range directTries {
		if tries > 0 && !hook.Sleep(ctx, hook.Pause(tries, out.after)) {
			return
		}
		if ctx.Err() != nil || !slices.ContainsFunc(v.file.Now(), r.same) {
			return // it is no receiver any more
		}
		if out = v.try(ctx, r, n); out.outcome == outcomeOK {
			return
		}
	}
	v.tries.WithLabelValues(r.Name, outcomeGivenUp).Inc()
	v.log.Error().Str("receiver", r.Name).Str("cause", n.Data.Cause).Str("reason", out.why.EN).Msg("notice given up")
}

// Test sends a test notice to each receiver and writes the results to out. It returns an error if a
// receiver did not take it.
func Test(ctx context.Context, cfg Config, now func() time.Time, transport http.RoundTripper, out io.Writer, l lang.Language) error {
	receivers, err := ReadFile(cfg.NotifyFile)
	if err != nil {
		return err
	}
	c := client(transport)
	defer c.CloseIdleConnections()
	n := events.NewNotice(now(), events.NoticeData{
		Phase: events.PhaseTest, Cause: "Test", Severity: events.SeverityTicket, Since: now().UTC(),
		What: lang.T("a test notice: what needs a person is told here", "测试通知：需要人处理的事会发到这里"), Do: lang.T("nothing", "无需处理"),
	})
	var failed error
	for _, r := range receivers {
		said := post(ctx, c, r, n, cfg.ConsoleURL, now())
		line := lang.T("ok    %s (%s at %s): taken", "ok    %s（%s，%s）：已收下", r.Name, r.Kind, r.Host())
		if said.outcome != outcomeOK {
			line = lang.T("FAIL  %s (%s at %s): %s", "FAIL  %s（%s，%s）：没有收下：%s", r.Name, r.Kind, r.Host(), said.why)
			failed = errors.New(lang.T("a receiver did not take the notice", "有接收方没有收下通知").In(l))
		}
		if _, err := fmt.Fprintln(out, line.In(l)); err != nil {
			return err
		}
	}
	return failed
}
