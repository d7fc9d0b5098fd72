package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/seal"
)

const (
	// ackWait is how long the server waits for an ack or a heartbeat before it delivers a message
	// again. It bounds how long the death of a refresher delays a renewal. A refresher that is
	// frozen or cut off may still have a pull open and get the message again: then pullWait adds to
	// the delay.
	ackWait = 4 * time.Second
	// heartbeat is how often InProgress is sent for a message that is being handled.
	heartbeat = time.Second
	// pullWait is how long one pull waits for messages.
	pullWait = 12 * time.Second
	// pullHeartbeat is how often the server confirms a pull. After twice that time without one, the
	// pull is lost.
	pullHeartbeat = 2 * time.Second
	// requestWait bounds other requests.
	requestWait = 3 * time.Second
	// plainDelay is the wait after an error without a verb (events.Later, events.Never).
	plainDelay = time.Second
	// faultDelay is the wait after a failed pull, and movedDelay that after the consumer's leader
	// moved to another server.
	faultDelay = 2 * time.Second
	movedDelay = 500 * time.Millisecond
)

// Consumer feeds the messages of one durable consumer to a handler.
type Consumer struct {
	JS          jetstream.JetStream
	Stream      string
	Durable     string
	Filter      string
	Concurrency int // messages handled at the same time
	Log         zerolog.Logger
	Seal        *seal.Keys   // seals copies on DEAD, for the original's subject; may be nil
	Panicked    func()       // called when a handler panicked; may be nil
	Troubled    func()       // called after a failed pull; may be nil
	Step        func(string) // called with "acked" after an ack; may be nil
}

// Run handles messages until ctx ends, then waits for the running handlers: they get the context
// work, which should last a while longer than ctx. Run copes with a server that is away and with a
// deleted consumer.
func (c Consumer) Run(ctx, work context.Context, handle events.Handler) {
	var working sync.WaitGroup
	defer working.Wait()
	free := make(chan struct{}, c.Concurrency)
	for range c.Concurrency {
		free <- struct{}{}
	}
	var cons jetstream.Consumer
	failed := 0 // pulls in a row
	for ctx.Err() == nil {
		var err error
		if cons == nil {
			if cons, err = c.consumer(ctx); err != nil {
				c.waitAfterFault(ctx, err, faultDelay)
				cons = nil
				continue
			}
		}
		err = c.pull(ctx, work, cons, free, &working, handle)
		failed++
		switch {
		case err == nil:
			failed = 0
		case errors.Is(err, jetstream.ErrConsumerDeleted), failed > maxFailed:
			c.waitAfterFault(ctx, err, faultDelay)
			cons, failed = nil, 0
		case moved(err): // don't recreate the consumer: that needs the cluster's leader, which may be lost as well
			c.waitAfterFault(ctx, err, movedDelay)
		default:
			c.waitAfterFault(ctx, err, faultDelay)
		}
	}
}

// maxFailed is how many pulls in a row may fail before the consumer is looked up, and recreated if
// it is gone.
const maxFailed = 20

// pull takes as many messages as there are free slots, so that none waits here while another
// refresher has time for it.
func (c Consumer) pull(ctx, work context.Context, cons jetstream.Consumer, free chan struct{}, working *sync.WaitGroup, handle events.Handler) error {
	slots := 0
	select {
	case <-free:
		slots++
	case <-ctx.Done():
		return nil
	}
	for more := true; more; {
		select {
		case <-free:
			slots++
		default:
			more = false
		}
	}
	defer func() {
		for range slots {
			free <- struct{}{}
		}
	}()
	pullCtx, cancel := context.WithTimeout(ctx, pullWait)
	defer cancel()
	batch, err := cons.Fetch(slots, jetstream.FetchContext(pullCtx), jetstream.FetchHeartbeat(pullHeartbeat))
	if err != nil {
		return fmt.Errorf("pull from %s: %w", c.Durable, err)
	}
	for m := range batch.Messages() {
		slots--
		working.Go(func() {
			defer func() { free <- struct{}{} }()
			c.deliver(work, m, handle)
		})
	}
	if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("pull from %s: %w", c.Durable, err)
	}
	return nil
}

func (c Consumer) consumer(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	cons, err := c.JS.CreateOrUpdateConsumer(ctx, c.Stream, jetstream.ConsumerConfig{
		Durable:       c.Durable,
		FilterSubject: c.Filter,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1, // never give up: the server would report that only in an advisory
		MaxAckPending: -1, // no limit: messages that wait for their delay count too, and must not block the others
	})
	if err != nil {
		return nil, fmt.Errorf("create or update consumer %s: %w", c.Durable, err)
	}
	return cons, nil
}

// moved reports whether a pull failed because the server that led the consumer stopped, was lost,
// or does not lead it any more.
func moved(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoHeartbeat) ||
		errors.Is(err, jetstream.ErrConsumerLeadershipChanged) || errors.Is(err, jetstream.ErrServerShutdown)
}

func (c Consumer) waitAfterFault(ctx context.Context, err error, wait time.Duration) {
	if ctx.Err() != nil {
		return
	}
	c.Log.Warn().Err(err).Str("stream", c.Stream).Dur("delay", wait).Msg("failed to pull messages")
	if c.Troubled != nil {
		c.Troubled()
	}
	select {
	case <-ctx.Done():
	case <-time.After(wait):
	}
}

// deliver hands one message to the handler, sends InProgress meanwhile, and turns the handler's
// verb into ack, nak or term.
func (c Consumer) deliver(ctx context.Context, m jetstream.Msg, handle events.Handler) {
	meta, err := m.Metadata()
	if err != nil {
		c.Log.Error().Err(err).Str("subject", m.Subject()).Msg("failed to read message")
		return
	}
	done := make(chan struct{})
	var sendingProgress sync.WaitGroup
	sendingProgress.Go(func() {
		t := time.NewTicker(heartbeat)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				_ = m.InProgress() // if it can't be sent, the message is delivered again
			case <-done:
				return
			}
		}
	})
	returned := false
	defer func() {
		close(done)
		sendingProgress.Wait()
		if !returned {
			return // runtime.Goexit: no answer, so the message is delivered again
		}
		c.answer(ctx, m, err)
	}()
	err = c.handleSafely(ctx, events.Msg{
		Subject: m.Subject(), Header: m.Headers(), Data: m.Data(), Sequence: meta.Sequence.Stream,
		Redelivered: meta.NumDelivered > 1, Deliveries: int(min(meta.NumDelivered, 1000)),
	}, handle)
	returned = true
}

// handleSafely calls the handler and turns a panic into an error: one bad message must not stop the
// others.
func (c Consumer) handleSafely(ctx context.Context, m events.Msg, handle events.Handler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if c.Panicked != nil {
				c.Panicked()
			}
			c.Log.Error().Str("subject", m.Subject).Bytes("stack", debug.Stack()).Msg("handler panicked")
			err = events.Later(plainDelay*10, lang.Error(lang.T("handle message: the handler panicked", "处理消息：程序出错（panic）"), nil))
		}
	}()
	return handle(ctx, m)
}

// logPutOff logs that a message is tried again later. While WeChat is away thousands of due
// messages are put off, and the status of each key tells why. But an event, perhaps a code, that
// fails for the 10th, 100th or 1,000th time is logged as a warning, for operators to see.
func (c Consumer) logPutOff(m jetstream.Msg, wait time.Duration, err error) {
	level, deliveries := zerolog.DebugLevel, uint64(0)
	if meta, metaErr := m.Metadata(); metaErr == nil {
		deliveries = meta.NumDelivered
	}
	if c.Stream == events.StreamAuth && slices.Contains([]uint64{10, 100, 1000}, deliveries) {
		level = zerolog.WarnLevel
	}
	c.Log.WithLevel(level).Err(err).Str("subject", m.Subject()).Uint64("deliveries", deliveries).Dur("delay", wait).
		Msg("message put off")
}

func (c Consumer) answer(ctx context.Context, m jetstream.Msg, err error) {
	wait, later := events.After(err)
	why, ends := events.Ends(err)
	switch {
	case err == nil:
		c.Log.Debug().Str("subject", m.Subject()).Msg("message handled")
		if err = m.Ack(); c.Step != nil {
			c.Step("acked")
		}
	case ends:
		c.Log.Error().Err(err).Str("subject", m.Subject()).Msg("message given up")
		if err = c.copyToDead(ctx, m, why); err != nil {
			err = errors.Join(err, m.NakWithDelay(plainDelay))
		} else {
			err = m.TermWithReason("copied to DEAD")
		}
	case later:
		c.logPutOff(m, wait, err)
		err = m.NakWithDelay(max(wait, time.Millisecond))
	default:
		c.Log.Warn().Err(err).Str("subject", m.Subject()).Dur("delay", plainDelay).Msg("message put off")
		err = m.NakWithDelay(plainDelay)
	}
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		c.Log.Warn().Err(err).Str("subject", m.Subject()).Msg("failed to answer message to nats")
	}
}

// copyToDead copies a message that can't be processed to DEAD.
func (c Consumer) copyToDead(ctx context.Context, m jetstream.Msg, why error) error {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	dead := nats.NewMsg(events.DeadSubject(m.Subject()))
	for name, values := range m.Headers() {
		if !strings.HasPrefix(name, "Nats-") { // those are instructions for the server about the original
			dead.Header[name] = values
		}
	}
	events.SetReason(dead.Header, lang.Of(why))
	dead.Data = m.Data()
	c.Seal.SealFor(m.Subject(), dead)
	if _, err := c.JS.PublishMsg(ctx, dead); err != nil {
		return fmt.Errorf("copy %s to %s: %w", m.Subject(), events.StreamDead, err)
	}
	return nil
}

// StopAtReconnect stops msgs when the connection enters one of the statuses. A restarted server has
// forgotten a consumer that it held in memory, so there is no point in waiting for its heartbeats
// to fail. The returned function ends this.
func StopAtReconnect(nc *nats.Conn, msgs jetstream.MessagesContext, statuses ...nats.Status) (end func()) {
	again := nc.StatusChanged(statuses...)
	ended := make(chan struct{})
	go func() {
		select {
		case <-again:
			msgs.Stop()
		case <-ended:
		}
	}()
	return func() {
		close(ended)
		nc.RemoveStatusListener(again)
	}
}
