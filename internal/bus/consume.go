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
	"wxtoken/internal/seal"
)

const (
	// ackWait is how long a message may go without a heartbeat before the server gives it to
	// another consumer. It bounds how long the death of a refresher delays a renewal. One that is
	// frozen or cut off still has a pull open and may be given the message again: there pullWait
	// adds to it.
	ackWait = 4 * time.Second
	// heartbeat is how often a handler at work says so.
	heartbeat = time.Second
	// pullWait is how long one pull waits for messages.
	pullWait = 12 * time.Second
	// pullHeartbeat finds out, twice as late, that the server forgot a pull, or is lost.
	pullHeartbeat = 2 * time.Second
	// requestWait bounds other requests.
	requestWait = 3 * time.Second
	// plainDelay is the wait after an error that is not a verb.
	plainDelay = time.Second
	// troubleDelay is the wait after a pull that failed, and movedDelay when the consumer only went
	// to another server.
	troubleDelay = 2 * time.Second
	movedDelay   = 500 * time.Millisecond
)

// Consumer feeds the messages of one durable consumer to a handler.
type Consumer struct {
	JS          jetstream.JetStream
	Stream      string
	Durable     string
	Filter      string
	Concurrency int // messages at work at the same time
	Log         zerolog.Logger
	Seal        *seal.Keys   // seals what goes to DEAD, for the subject that it had; may be nil
	Panicked    func()       // called when a handler panicked; may be nil
	Troubled    func()       // called when a failed to pull messages; may be nil
	Step        func(string) // called with "acked" after an ack; may be nil
}

// Run handles messages until ctx ends, then waits for the handlers that are at work: they get the
// context work, which is to go on for a while after ctx. Run survives a server that is away and a
// consumer that was deleted.
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
				c.trouble(ctx, err, troubleDelay)
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
			c.trouble(ctx, err, troubleDelay)
			cons, failed = nil, 0
		case moved(err): // to make it anew takes the cluster's leader, who may be lost as well
			c.trouble(ctx, err, movedDelay)
		default:
			c.trouble(ctx, err, troubleDelay)
		}
	}
}

// maxFailed is how many pulls in a row may fail before the consumer is looked up, and made anew if
// it is gone.
const maxFailed = 20

// pull takes as many messages as there are free hands, so that none waits here while another
// refresher has time for it.
func (c Consumer) pull(ctx, work context.Context, cons jetstream.Consumer, free chan struct{}, working *sync.WaitGroup, handle events.Handler) error {
	hands := 0
	select {
	case <-free:
		hands++
	case <-ctx.Done():
		return nil
	}
	for more := true; more; {
		select {
		case <-free:
			hands++
		default:
			more = false
		}
	}
	defer func() {
		for range hands {
			free <- struct{}{}
		}
	}()
	pullCtx, cancel := context.WithTimeout(ctx, pullWait)
	defer cancel()
	batch, err := cons.Fetch(hands, jetstream.FetchContext(pullCtx), jetstream.FetchHeartbeat(pullHeartbeat))
	if err != nil {
		return fmt.Errorf("pull from %s: %w", c.Durable, err)
	}
	for m := range batch.Messages() {
		hands--
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
		MaxDeliver:    -1, // a consumer that gave up on a message would only say so in an advisory
		MaxAckPending: -1, // messages that wait out a delay count too, and must not hold up the others
	})
	if err != nil {
		return nil, fmt.Errorf("create or update consumer %s: %w", c.Durable, err)
	}
	return cons, nil
}

// moved reports whether a failed to pull messages because the server that led the consumer stopped,
// was lost, or leads it no longer.
func moved(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoHeartbeat) || errors.Is(err, jetstream.ErrConsumerLeadershipChanged) || errors.Is(err, jetstream.ErrServerShutdown)
}

func (c Consumer) trouble(ctx context.Context, err error, wait time.Duration) {
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

// deliver hands one message to the handler, keeps the server informed meanwhile, and turns the
// handler's verb into ack, nak or term.
func (c Consumer) deliver(ctx context.Context, m jetstream.Msg, handle events.Handler) {
	meta, err := m.Metadata()
	if err != nil {
		c.Log.Error().Err(err).Str("subject", m.Subject()).Msg("failed to read message")
		return
	}
	done := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		t := time.NewTicker(heartbeat)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				_ = m.InProgress() // if it can't be sent, the message comes again
			case <-done:
				return
			}
		}
	})
	returned := false
	defer func() {
		close(done)
		beating.Wait()
		if !returned {
			return // the goroutine is being ended: say nothing, the message comes again
		}
		c.answer(ctx, m, err)
	}()
	err = c.guarded(ctx, events.Msg{
		Subject: m.Subject(), Header: m.Headers(), Data: m.Data(), Sequence: meta.Sequence.Stream, Redelivered: meta.NumDelivered > 1,
		Deliveries: int(min(meta.NumDelivered, 1000)),
	}, handle)
	returned = true
}

// guarded turns a panic of the handler into an error: one bad message must not stop the others.
func (c Consumer) guarded(ctx context.Context, m events.Msg, handle events.Handler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if c.Panicked != nil {
				c.Panicked()
			}
			c.Log.Error().Str("subject", m.Subject).Bytes("stack", debug.Stack()).Msg("handler panicked")
			err = events.Later(plainDelay*10, errors.New("handle message: the handler panicked"))
		}
	}()
	return handle(ctx, m)
}

// logPutOff logs that a message comes again. Due messages are put off by the thousand while WeChat
// is away, and the status tells of each; but an event, a code perhaps, that comes to nothing for
// the 10th, 100th and 1,000th time is for an operator to see.
func (c Consumer) logPutOff(m jetstream.Msg, wait time.Duration, err error) {
	level, deliveries := zerolog.DebugLevel, uint64(0)
	if meta, metaErr := m.Metadata(); metaErr == nil {
		deliveries = meta.NumDelivered
	}
	if c.Stream == events.StreamAuth && slices.Contains([]uint64{10, 100, 1000}, deliveries) {
		level = zerolog.WarnLevel
	}
	c.Log.WithLevel(level).Err(err).Str("subject", m.Subject()).Uint64("deliveries", deliveries).Dur("delay", wait).Msg("message put off")
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
		if err = c.bury(ctx, m, why); err != nil {
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

// bury copies a message that can't be processed to DEAD.
func (c Consumer) bury(ctx context.Context, m jetstream.Msg, why error) error {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	dead := nats.NewMsg(events.DeadSubject(m.Subject()))
	for name, values := range m.Headers() {
		if !strings.HasPrefix(name, "Nats-") { // those told the server what to do with the original
			dead.Header[name] = values
		}
	}
	dead.Header.Set(events.HeaderReason, why.Error())
	dead.Data = m.Data()
	c.Seal.SealFor(m.Subject(), dead)
	if _, err := c.JS.PublishMsg(ctx, dead); err != nil {
		return fmt.Errorf("copy %s to %s: %w", m.Subject(), events.StreamDead, err)
	}
	return nil
}

// StopAtReconnect stops msgs when the connection comes to one of the statuses. A server that was
// started anew has forgotten a consumer that it held in memory: there is no need to wait for
// heartbeats that can't come. The function that it returns ends the watch for that.
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
