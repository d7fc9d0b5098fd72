package console

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
)

const (
	// followHeartbeat is how often the server says that a quiet consumer is alive; when two are
	// missing, the iterator returns an error.
	followHeartbeat = 2 * time.Second
	// followExpiry is how long one pull waits.
	followExpiry = 30 * time.Second
	// followDelay is the wait after an error.
	followDelay = time.Second
)

// source is a stream that the index follows.
type source struct {
	stream, filter string
	since          time.Duration // how far back it is read; 0: the last message of each subject
	begin          func(pending int)
	take           func(subject string, data []byte)
	end, stop      func()
}

// sources returns all that the index follows.
func (x *index) sources() []source {
	bucket := func(n int, stream, filter string, keyOf func(string) (wxtoken.Key, bool), take func(wxtoken.Key, []byte)) source {
		return source{
			stream: stream, filter: filter,
			begin: func(pending int) { x.beginReading(n, pending) },
			end:   func() { x.endReading(n) }, stop: func() { x.stopReading(n) },
			take: func(subject string, data []byte) {
				if key, ok := keyOf(subject); ok {
					take(key, data)
				}
			},
		}
	}
	return []source{
		bucket(bucketTokens, events.StreamTokens, events.AllTokens, events.TokenKey, x.setToken),
		bucket(bucketStatus, events.StreamStatus, events.AllStatuses, events.StatusKey, x.setStatus),
		{
			stream: events.StreamTraffic, filter: events.JournalFilter(events.JournalCount), since: keptTicks,
			begin: func(int) {}, end: func() {}, stop: func() {},
			take: func(subject string, data []byte) {
				x.addTick(subject, data)
				x.addServed(subject, data)
			},
		},
	}
}

// follow copies a stream into the index until ctx ends.
func (c *Console) follow(ctx context.Context, f source) {
	for ctx.Err() == nil {
		err := c.followOnce(ctx, f)
		if ctx.Err() != nil {
			return
		}
		f.stop()
		c.cfg.Log.Debug().Err(err).Str("stream", f.stream).Dur("delay", followDelay).Msg("failed to follow stream")
		select {
		case <-ctx.Done():
		case <-time.After(followDelay):
		}
	}
}

// followOnce reads a stream from the beginning and then follows it. It returns at the first sign of a
// gap, and the next call reads everything again, as the client's watch does and for the same reasons
// (docs/adr/0006).
func (c *Console) followOnce(ctx context.Context, f source) error {
	makeCtx, cancel := context.WithTimeout(ctx, followHeartbeat+time.Second)
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		FilterSubject: f.filter, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy,
		Replicas: 1, MemoryStorage: true, InactiveThreshold: time.Minute,
	}
	if f.since > 0 {
		from := c.now().Add(-f.since)
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &from
	}
	consumer, err := c.js.CreateConsumer(makeCtx, f.stream, cfg)
	if err != nil {
		return fmt.Errorf("follow %s: %w", f.stream, err)
	}
	info := consumer.CachedInfo()
	f.begin(int(info.NumPending))
	if info.NumPending == 0 {
		f.end()
	}
	msgs, err := consumer.Messages(jetstream.PullExpiry(followExpiry), jetstream.PullHeartbeat(followHeartbeat))
	if err != nil {
		return fmt.Errorf("follow %s: %w", f.stream, err)
	}
	defer context.AfterFunc(ctx, msgs.Stop)()
	defer msgs.Stop()
	defer bus.StopAtReconnect(c.cfg.NATS, msgs, nats.CONNECTED, nats.RECONNECTING)()
	read := info.NumPending == 0
	for next := uint64(1); ; next++ {
		m, err := msgs.Next()
		if err != nil {
			return fmt.Errorf("follow %s: %w", f.stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("follow %s: %w", f.stream, err)
		}
		if meta.Sequence.Consumer != next {
			return fmt.Errorf("follow %s: gap in the messages", f.stream)
		}
		data := m.Data()
		if op := m.Headers().Get("KV-Operation"); op == "DEL" || op == "PURGE" {
			data = nil
		}
		f.take(m.Subject(), data)
		if meta.NumPending == 0 && !read {
			read = true
			f.end()
		}
	}
}
