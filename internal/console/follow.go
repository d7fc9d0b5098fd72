package console

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
)

const (
	// followHeartbeat is how often the server says that a quiet consumer stands; after two that did
	// not come it ends.
	followHeartbeat = 2 * time.Second
	// followExpiry is how long one pull waits.
	followExpiry = 30 * time.Second
	// followDelay is the wait after a fault.
	followDelay = time.Second
)

// Where the buckets lie.
const (
	prefixStatus = "$KV." + events.BucketStatus + "."
	prefixTokens = "$KV." + events.BucketTokens + "."
)

// followed is something that the index follows.
type followed struct {
	stream, filter string
	since          time.Duration // of the journal: how far back it is read; 0 = the last of each subject
	begin          func(pending int)
	take           func(subject string, data []byte)
	end, silence   func()
}

// buckets returns all that the index follows.
func (x *index) buckets() []followed {
	bucket := func(n int, stream, prefix string, take func(wxtoken.Key, []byte)) followed {
		return followed{
			stream: stream, filter: prefix + ">",
			begin: func(pending int) { x.begin(n, pending) },
			end:   func() { x.end(n) }, silence: func() { x.silence(n) },
			take: func(subject string, data []byte) {
				if key, err := wxtoken.ParseKey(strings.TrimPrefix(subject, prefix)); err == nil {
					take(key, data)
				}
			},
		}
	}
	return []followed{
		bucket(ofTokens, events.StreamTokens, prefixTokens, x.token),
		bucket(ofStatus, events.StreamStatus, prefixStatus, x.status),
		{
			stream: events.StreamTraffic, filter: events.JournalFilter(events.JournalCount), since: keptTicks,
			begin: func(int) {}, end: func() {}, silence: func() {},
			take: func(subject string, data []byte) {
				x.tick(subject, data)
				x.serve(subject, data)
			},
		},
	}
}

// follow copies a stream into the index until ctx ends.
func (c *Console) follow(ctx context.Context, f followed) {
	for ctx.Err() == nil {
		err := c.followOnce(ctx, f)
		if ctx.Err() != nil {
			return
		}
		f.silence()
		c.cfg.Log.Debug().Err(err).Str("stream", f.stream).Dur("delay", followDelay).Msg("failed to follow stream")
		select {
		case <-ctx.Done():
		case <-time.After(followDelay):
		}
	}
}

// followOnce reads a stream from the beginning and then follows it. At any doubt it ends, and the
// next reads everything again, as the client's watch does and for the same reasons (docs/adr/0006).
func (c *Console) followOnce(ctx context.Context, f followed) error {
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
			return fmt.Errorf("follow %s: messages lost on the way", f.stream)
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
