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
	// giveUpAfter is how old a notice is when it is given up, after a try that failed. The page
	// shows it all the same.
	giveUpAfter = 24 * time.Hour
	// ackWait is longer than a message may wait for its turn and be tried.
	ackWait = 30 * time.Second
	// unusedFor is how long the server keeps the consumer of a receiver that no refresher serves.
	unusedFor = 7 * 24 * time.Hour
	// pullExpiry and pullBeat are how long a pull waits, and how often the server says that it
	// stands.
	pullExpiry = 30 * time.Second
	pullBeat   = 5 * time.Second
	// requestWait bounds other requests.
	requestWait = 3 * time.Second
	// troubleDelay is the wait after a fault of NATS, and complaintEvery the time between two log
	// lines about it.
	troubleDelay   = 2 * time.Second
	complaintEvery = time.Minute
	// clocksApart is how much the clocks of refresher and server may differ.
	clocksApart = time.Minute
	// lookEvery is the time between two looks at the file that is followed.
	lookEvery = 2 * time.Second
	// directTries is how often something is tried that does not lie on JOURNAL, and directQueue how
	// many of these wait.
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
	Transport http.RoundTripper // nil = one for the addresses of others
}

// Deliverer brings notices to the receivers of a file. All refreshers share a durable consumer for
// each receiver, with one notice on its way at a time: so notices come in order, and however many
// refreshers there are, not more often than a robot allows.
type Deliverer struct {
	cfg    Config
	file   *settings.File[[]Receiver] // nil: there are no receivers
	js     jetstream.JetStream
	http   *http.Client
	log    zerolog.Logger
	now    func() time.Time
	direct chan events.Notice

	tries   *prometheus.CounterVec
	failing *prometheus.GaugeVec
}

// New returns a deliverer that Run makes work.
func New(cfg Config, d Deps) (*Deliverer, error) {
	v := &Deliverer{cfg: cfg, js: d.JetStream, http: client(d.Transport), log: d.Log, now: d.Now, direct: make(chan events.Notice, directQueue)}
	v.tries = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "wxtoken_notify_total", Help: "Tries to bring a notice to a receiver, by what came of them."}, []string{"receiver", "outcome"})
	v.failing = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "wxtoken_notify_failing", Help: "Whether the last try of this refresher failed (1) or not (0)."}, []string{"receiver"})
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

// Direct tells something to all receivers without NATS. It doesn't wait.
func (v *Deliverer) Direct(n events.Notice) {
	select {
	case v.direct <- n:
	default: // receivers are away as well
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
	running := map[string]*delivery{}
	look := time.NewTicker(lookEvery)
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
				working.Go(func() { v.tell(ctx, r, n) })
			}
		case <-look.C:
		}
	}
}

// delivery is one receiver that is served.
type delivery struct {
	to     Receiver
	cancel context.CancelFunc
	ended  chan struct{}
}

// change ends what is not wanted any more, and begins what is new.
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

// same reports whether two receivers are the same in everything.
func (r Receiver) same(other Receiver) bool {
	return r.Name == other.Name && r.Kind == other.Kind && r.Language == other.Language && r.url == other.url && r.secret == other.secret
}

// serve delivers to one receiver until ctx ends.
func (v *Deliverer) serve(ctx context.Context, r Receiver) {
	log := v.log.With().Str("receiver", r.Name).Str("host", r.Host()).Logger()
	complaints, since := rate.Sometimes{Interval: complaintEvery}, v.now().Add(-clocksApart)
	for {
		err := v.follow(ctx, r, since, log)
		if ctx.Err() != nil {
			return
		}
		complaints.Do(func() { log.Warn().Err(err).Dur("delay", troubleDelay).Msg("failed to read notices") })
		hook.Sleep(ctx, troubleDelay)
	}
}

// consumer returns the durable consumer of a receiver. One that is new begins with what came since
// the receiver was named here.
func (v *Deliverer) consumer(ctx context.Context, r Receiver, since time.Time) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	cons, err := v.js.Consumer(ctx, events.StreamJournal, Durable(r.Name))
	if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return cons, err
	}
	return v.js.CreateConsumer(ctx, events.StreamJournal, jetstream.ConsumerConfig{
		Durable: Durable(r.Name), Description: "notices for " + r.Name, FilterSubject: events.JournalFilter(events.JournalNotice),
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: 1, InactiveThreshold: unusedFor,
	})
}

// follow delivers until ctx ends or the consumer can't be read.
func (v *Deliverer) follow(ctx context.Context, r Receiver, since time.Time, log zerolog.Logger) error {
	cons, err := v.consumer(ctx, r, since)
	if err != nil {
		return fmt.Errorf("find or create consumer %s: %w", Durable(r.Name), err)
	}
	iter, err := cons.Messages(jetstream.PullMaxMessages(1), jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullBeat))
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

// deliver tries to bring one notice to a receiver. The wait before it keeps messages apart, those
// of other refreshers too: no other is on its way meanwhile.
func (v *Deliverer) deliver(ctx context.Context, r Receiver, m jetstream.Msg, log zerolog.Logger) {
	n, err := events.ParseNotice(m.Data())
	if err != nil {
		log.Warn().Str("subject", m.Subject()).Msg("unreadable notice passed over")
		_ = m.Term() // it is no better for being read again
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
		log.Error().Str("cause", n.Data.Cause).Str("reason", out.why).Msg("notice given up")
		_ = m.Term()
	default:
		wait := hook.Pause(int(min(meta.NumDelivered, 100)), out.after)
		log.Warn().Str("cause", n.Data.Cause).Str("reason", out.why).Dur("delay", wait).Msg("failed to deliver notice")
		_ = m.NakWithDelay(wait)
	}
}

// try makes one try, and counts it.
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

// tell brings a notice that does not lie on JOURNAL to a receiver.
func (v *Deliverer) tell(ctx context.Context, r Receiver, n events.Notice) {
	var out result
	for tries := 1; tries <= directTries; tries++ {
		if out = v.try(ctx, r, n); out.outcome == outcomeOK || !hook.Sleep(ctx, hook.Pause(tries, out.after)) {
			return
		}
	}
	v.tries.WithLabelValues(r.Name, outcomeGivenUp).Inc()
	v.log.Error().Str("receiver", r.Name).Str("cause", n.Data.Cause).Str("reason", out.why).Msg("notice given up")
}

// Test sends a test notice to each receiver and writes what came of it. It returns an error when
// one did not take it.
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
