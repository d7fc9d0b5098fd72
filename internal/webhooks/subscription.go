package webhooks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"wxtoken/internal/events"
	"wxtoken/internal/hook"
	"wxtoken/internal/lang"
)

const (
	// group is the only priority group of the consumer: the server pins it to one client.
	group = "gateway"
	// pinTTL is how long a gateway keeps the pin without pulling; it pulls at least every
	// pullExpiry.
	pinTTL        = 10 * time.Second
	pullExpiry    = 4 * time.Second
	pullHeartbeat = time.Second
	// batch is how many messages one pull asks for.
	batch = 512
	// ackWait is how long the server waits for an ack or an InProgress before it delivers a message
	// again, and progressEvery the time between two InProgress. Most messages are delivered before
	// they need one.
	ackWait       = 30 * time.Second
	progressEvery = 15 * time.Second
	// window is how many messages of one webhook are being delivered or wait for their next try.
	// Beyond it no more are taken.
	window = 20_000
	// inactiveAfter is how long the server keeps the consumer of a webhook that no gateway serves:
	// as long as MESSAGES keeps a message by default.
	inactiveAfter = 7 * 24 * time.Hour
	// requestWait bounds other requests.
	requestWait = 3 * time.Second
	// checkEvery is the time between two checks of the consumer, and checkSoon that while a turn
	// begins.
	checkEvery = 2 * time.Second
	checkSoon  = 100 * time.Millisecond
	// clockSkew is how much the clocks of gateway and server may differ.
	clockSkew = time.Minute
	// faultDelay is the wait after a fault of NATS.
	faultDelay = 2 * time.Second
	// finishWithin bounds the wait for deliveries that are under way when the gateway stops.
	finishWithin = 5 * time.Second
)

// subscription is one webhook that runs.
type subscription struct {
	*Webhooks
	name          string // of the durable consumer
	target        atomic.Pointer[target]
	replyOutcomes *replyOutcomes
	slots         chan struct{} // holds one for each delivery under way
	logLimiter    *rate.Limiter
	log           zerolog.Logger

	since       time.Time // all messages stored before have been delivered: a recreated consumer starts here
	pending     float64   // this webhook's part of the metric
	postCtx     context.Context
	working     sync.WaitGroup
	taken       atomic.Int64 // when the receiver last took a message, Unix nanoseconds
	deadFailing atomic.Bool
}

// run delivers until ctx ends.
func (s *subscription) run(ctx context.Context) {
	var cancel context.CancelFunc
	s.postCtx, cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer s.working.Wait()
	context.AfterFunc(ctx, func() { time.AfterFunc(finishWithin, cancel) })
	var replies sync.WaitGroup
	replies.Go(func() {
		if err := s.answerReplies(ctx); err != nil {
			s.log.Error().Err(err).Msg("failed to listen for replies")
		}
	})
	defer replies.Wait()
	defer s.setPending(0)
	for ctx.Err() == nil {
		if err := s.follow(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn().Err(err).Dur("delay", faultDelay).Msg("failed to read messages")
			hook.Sleep(ctx, faultDelay)
		}
	}
}

// consumer returns the durable consumer, and creates it if it does not exist. In an existing one
// only the filters are changed.
func (s *subscription) consumer(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		Durable: s.name, Description: "webhook of " + s.target.Load().service.Name,
		DeliverPolicy: jetstream.DeliverNewPolicy, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxDeliver: -1, MaxAckPending: window, InactiveThreshold: inactiveAfter,
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{group}, PinnedTTL: pinTTL,
	}
	switch there, err := s.js.Consumer(ctx, events.StreamMessages, s.name); {
	case err == nil:
		cfg.DeliverPolicy, cfg.OptStartTime = there.CachedInfo().Config.DeliverPolicy, there.CachedInfo().Config.OptStartTime
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, fmt.Errorf("look for consumer %s: %w", s.name, err)
	case !s.since.IsZero(): // it existed, and was lost
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &s.since
	}
	if cfg.FilterSubjects = s.target.Load().filters; len(cfg.FilterSubjects) == 1 {
		cfg.FilterSubject, cfg.FilterSubjects = cfg.FilterSubjects[0], nil
	}
	cons, err := s.js.CreateOrUpdateConsumer(ctx, events.StreamMessages, cfg)
	if err != nil {
		return nil, fmt.Errorf("create or update consumer %s: %w", s.name, err)
	}
	if s.since.IsZero() {
		s.since = cons.CachedInfo().Created
	}
	return cons, nil
}

// follow takes messages, during the turns in which the server pins this gateway, until ctx ends or
// a pull fails.
func (s *subscription) follow(ctx context.Context) error {
	cons, err := s.consumer(ctx)
	if err != nil {
		return err
	}
	iter, err := cons.Messages(jetstream.PullPriorityGroup(group), jetstream.PullMaxMessages(batch),
		jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return fmt.Errorf("pull from %s: %w", s.name, err)
	}
	msgs, ended := make(chan jetstream.Msg, batch), make(chan error, 1)
	go func() {
		defer close(msgs)
		for {
			m, err := iter.Next()
			if err != nil {
				ended <- err
				return
			}
			msgs <- m
		}
	}()
	var t *turn
	defer func() {
		iter.Stop()
		for m := range msgs {
			_ = m.Nak() // so that the next gateway with the pin gets it
		}
		t.end()
	}()
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-msgs:
			if !ok {
				return fmt.Errorf("pull from %s: %w", s.name, <-ended)
			}
			if pin := m.Headers().Get("Nats-Pin-Id"); t == nil || t.pin != pin {
				t.end()
				t = s.newTurn(pin)
				look.Reset(0)
			}
			t.add(m)
		case <-look.C:
			next, mine := s.check(ctx, cons, t)
			if t != nil && !mine {
				t.end()
				t = nil
			}
			look.Reset(next)
		}
	}
}

// check asks the server for the state of the consumer. It returns when to check again, and whether
// this turn may still have the pin.
func (s *subscription) check(ctx context.Context, cons jetstream.Consumer, t *turn) (next time.Duration, mine bool) {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	asked := time.Now()
	info, err := cons.Info(ctx)
	if err != nil {
		return checkEvery, true // nothing is delivered without a fresh proof of the pin
	}
	pinned := ""
	for _, g := range info.PriorityGroups {
		pinned = g.PinnedClientID
	}
	if info.NumPending == 0 && info.NumAckPending == 0 {
		s.since = asked.Add(-clockSkew)
	}
	if t == nil || pinned != t.pin {
		s.setPending(0)
		return checkEvery, false
	}
	if stored, ok := t.oldest(); ok && stored.After(s.since) {
		s.since = stored
	}
	s.setPending(float64(info.NumPending) + float64(info.NumAckPending))
	if !t.update(info, asked) {
		return checkSoon, true
	}
	return checkEvery, true
}

func (s *subscription) setPending(n float64) {
	s.metrics.pending.WithLabelValues(s.target.Load().service.Name).Add(n - s.pending)
	s.pending = n
}

// logFailure logs a delivery that failed, at most one every logEvery.
func (s *subscription) logFailure(kind events.Kind, id, why string) {
	if s.logLimiter.Allow() {
		s.log.Warn().Str("component", kind.Component).Str("appid", kind.AppID).Str("msgtype", kind.MsgType).
			Str("event_id", id).Str("reason", why).Msg("failed to deliver to webhook")
	}
}

// copyToDead copies a message to DEAD. A message is given up only after its copy is stored.
func (s *subscription) copyToDead(i *item, why lang.Text) error {
	t := s.target.Load()
	dead := nats.NewMsg(events.DeadWebhookSubject(t.service.Name, i.msg.Subject()))
	for name, values := range i.msg.Headers() {
		if isForwarded(name) {
			dead.Header[name] = values
		}
	}
	events.SetReason(dead.Header, lang.T("webhook at %s: %s", "%s 上的 Webhook：%s", t.host, why))
	dead.Header.Set(jetstream.MsgIDHeader, s.name+" "+i.id)
	dead.Data = i.msg.Data()
	ctx, cancel := context.WithTimeout(s.postCtx, requestWait)
	defer cancel()
	if _, err := s.js.PublishMsg(ctx, dead); err != nil {
		if s.deadFailing.CompareAndSwap(false, true) {
			s.log.Error().Err(err).Str("subject", dead.Subject).
				Str("hint", "check whether this user may publish to dead.webhook.>; the delivery is tried again until then").
				Msg("failed to put message on DEAD")
		}
		return err
	}
	s.deadFailing.Store(false)
	s.metrics.dead.WithLabelValues(t.service.Name).Inc()
	s.log.Error().Str("subject", i.msg.Subject()).Str("event_id", i.id).Str("reason", why.EN).Time("stored", i.stored).
		Msg("message given up, it is on DEAD")
	return nil
}
