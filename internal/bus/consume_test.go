package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/logtest"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams"
)

// subject is where the tests publish.
const subject = "wechat.auth.wxc.test"

// deliveries is a handler that notes what came.
type deliveries struct {
	mu   sync.Mutex
	msgs []events.Msg
	when []time.Time
	verb func(n int, m events.Msg) error // n counts from 1
}

func (d *deliveries) handle(_ context.Context, m events.Msg) error {
	d.mu.Lock()
	d.msgs, d.when = append(d.msgs, m), append(d.when, time.Now())
	n := len(d.msgs)
	d.mu.Unlock()
	if d.verb == nil {
		return nil
	}
	return d.verb(n, m)
}

func (d *deliveries) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.msgs)
}

func (r *rig) consumer() bus.Consumer {
	return bus.Consumer{
		JS: r.js, Stream: events.StreamAuth, Durable: events.DurableAuth, Filter: events.AllAuth, Concurrency: 4, Log: zerolog.Nop(),
	}
}

// consume runs a consumer until the test ends, or until stop is called.
func (r *rig) consume(c bus.Consumer, handle events.Handler) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx, context.WithoutCancel(ctx), handle) })
	stop = func() {
		cancel()
		running.Wait()
	}
	r.Cleanup(stop)
	return stop
}

func (r *rig) publish(data string) {
	r.Helper()
	_, err := r.js.Publish(r.Context(), subject, []byte(data))
	r.must(err)
}

// waitGone waits until no event is left.
func (r *rig) waitGone() {
	r.Helper()
	looktest.Until(r, "the event is gone", func() bool { return r.info(events.StreamAuth).State.Msgs == 0 })
}

func TestAck(t *testing.T) {
	r := newRig(t)
	var d deliveries
	var acked atomic.Int32
	c := r.consumer()
	c.Step = func(name string) {
		if name == "acked" {
			acked.Add(1)
		}
	}
	r.consume(c, d.handle)
	r.publish("one")
	r.waitGone()
	if m := d.msgs[0]; d.count() != 1 || m.Subject != subject || string(m.Data) != "one" || m.Sequence != 1 || m.Redelivered || acked.Load() != 1 {
		t.Errorf("delivered %+v, %d acks", d.msgs, acked.Load())
	}
}

func TestRedeliveryDelay(t *testing.T) {
	for _, row := range []struct {
		name  string
		verb  func() error
		delay time.Duration
	}{
		{"later", func() error { return events.Later(1500*time.Millisecond, errors.New("not yet")) }, 1500 * time.Millisecond},
		{"later, wrapped", func() error { return fmt.Errorf("handle: %w", events.Later(time.Second, errors.New("not yet"))) }, time.Second},
		{"later, at once", func() error { return events.Later(0, errors.New("again")) }, 0},
		{"a plain error", func() error { return errors.New("plain") }, time.Second},
		{"a panic", func() error { panic("on purpose") }, 10 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t)
			var panicked atomic.Int32
			d := deliveries{verb: func(n int, _ events.Msg) error {
				if n == 1 {
					return row.verb()
				}
				return nil
			}}
			c := r.consumer()
			c.Panicked = func() { panicked.Add(1) }
			r.consume(c, d.handle)
			r.publish("one")
			r.waitGone()
			if d.count() != 2 || !d.msgs[1].Redelivered {
				t.Fatalf("delivered %+v", d.msgs)
			}
			if took := d.when[1].Sub(d.when[0]); took < row.delay-50*time.Millisecond {
				t.Errorf("came again after %v, want %v", took, row.delay)
			}
			if (panicked.Load() == 1) != (row.name == "a panic") {
				t.Errorf("%d panics were counted", panicked.Load())
			}
		})
	}
}

// TestPutOffAgain: an event that comes to nothing again and again is told to the operator, not only to the debug log.
func TestPutOffAgain(t *testing.T) {
	r := newRig(t)
	var log logtest.Buffer
	c := r.consumer()
	c.Log = zerolog.New(&log).Level(zerolog.WarnLevel)
	d := deliveries{verb: func(n int, _ events.Msg) error {
		if n > 12 {
			return nil
		}
		return events.Later(time.Millisecond, errors.New("exchange code: no answer"))
	}}
	r.publish("one")
	r.consume(c, d.handle)
	looktest.Until(r, "13 deliveries", func() bool { return d.count() == 13 })
	if text := log.String(); strings.Count(text, "message put off") != 1 || !strings.Contains(text, `"deliveries":10`) || !strings.Contains(text, "no answer") {
		t.Errorf("logged %s", text)
	}
}

func TestNever(t *testing.T) {
	r := newRig(t)
	log := &logtest.Buffer{}
	d := deliveries{verb: func(int, events.Msg) error { return events.Never(errors.New("it makes no sense")) }}
	c := r.consumer()
	c.Log = zerolog.New(log)
	r.consume(c, d.handle)
	m := nats.NewMsg(subject)
	m.Data = []byte("SEKRET-payload")
	m.Header = nats.Header{"ce-id": {"x"}, jetstream.MsgIDHeader: {"x"}, jetstream.ExpectedLastSeqHeader: {"0"}}
	_, err := r.js.PublishMsg(t.Context(), m)
	r.must(err)
	r.waitGone()
	stream, err := r.js.Stream(t.Context(), events.StreamDead)
	r.must(err)
	dead, err := stream.GetLastMsgForSubject(t.Context(), "dead."+subject)
	r.must(err)
	if string(dead.Data) != string(m.Data) || dead.Header.Get("Wxtoken-Reason") != "it makes no sense" || dead.Header.Get("ce-id") != "x" {
		t.Errorf("on DEAD: %q %v", dead.Data, dead.Header)
	}
	direct := []string{jetstream.StreamHeader, jetstream.SequenceHeader, jetstream.TimeStampHeaer, jetstream.SubjectHeader} // added where the message is read
	for name := range dead.Header {
		if strings.HasPrefix(name, "Nats-") && !slices.Contains(direct, name) {
			t.Errorf("on DEAD with the header %s, which told the server what to do with the original", name)
		}
	}
	if d.count() != 1 || strings.Contains(log.String(), "SEKRET") {
		t.Errorf("delivered %d times; log %s", d.count(), log)
	}
}

// TestNeverWithoutDead has the stream DEAD away: the message must not vanish.
func TestNeverWithoutDead(t *testing.T) {
	r := newRig(t)
	r.must(r.js.DeleteStream(t.Context(), events.StreamDead))
	d := deliveries{verb: func(int, events.Msg) error { return events.Never(errors.New("no")) }}
	r.consume(r.consumer(), d.handle)
	r.publish("one")
	looktest.Until(r, "a second try", func() bool { return d.count() >= 2 })
	_, err := streams.Setup(t.Context(), r.nc, r.js, config)
	r.must(err)
	r.waitGone()
	if n := r.info(events.StreamDead).State.Msgs; n == 0 {
		t.Error("the message vanished")
	}
}

// TestHeartbeat has a handler take longer than the server waits for a sign of life.
func TestHeartbeat(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	var others deliveries
	d := deliveries{verb: func(int, events.Msg) error { <-release; return nil }}
	stop := r.consume(r.consumer(), d.handle)
	r.publish("slow")
	looktest.Until(r, "delivered", func() bool { return d.count() == 1 })
	r.consume(r.consumer(), others.handle) // would take it at once
	time.Sleep(6 * time.Second)            // the point is that nothing happens
	if d.count() != 1 || others.count() != 0 {
		t.Errorf("delivered %d times, and %d times to another", d.count(), others.count())
	}
	close(release)
	r.waitGone()
	stop()
}

// TestKilledConsumer closes the connection under a handler: another consumer gets the message.
func TestKilledConsumer(t *testing.T) {
	r := newRig(t)
	nc := r.nats.Connect()
	js := natsdtest.JetStream(r.T, nc)
	release := make(chan struct{})
	killed := deliveries{verb: func(int, events.Msg) error { <-release; return nil }}
	c := r.consumer()
	c.JS = js
	stop := r.consume(c, killed.handle)
	r.publish("one")
	looktest.Until(r, "delivered", func() bool { return killed.count() == 1 })
	nc.Close()
	var heir deliveries
	r.consume(r.consumer(), heir.handle)
	r.waitGone()
	if heir.count() != 1 || !heir.msgs[0].Redelivered {
		t.Errorf("the heir got %+v", heir.msgs)
	}
	close(release)
	stop()
}

func TestConsumerDeleted(t *testing.T) {
	r := newRig(t)
	var d deliveries
	r.consume(r.consumer(), d.handle)
	r.publish("one")
	r.waitGone()
	r.must(r.js.DeleteConsumer(t.Context(), events.StreamAuth, events.DurableAuth))
	r.publish("two")
	r.waitGone()
	if d.count() != 2 {
		t.Errorf("delivered %d times, want 2", d.count())
	}
}

func TestServerRestarted(t *testing.T) {
	r := newRig(t)
	var d deliveries
	r.consume(r.consumer(), d.handle)
	r.publish("one")
	r.waitGone()
	r.nats.Restart()
	looktest.Until(r, "published", func() bool {
		_, err := r.js.Publish(t.Context(), subject, []byte("two"), jetstream.WithMsgID("two"))
		return err == nil
	})
	looktest.Until(r, "delivered", func() bool { return d.count() >= 2 })
}

// TestFreeSlots publishes more than there are slots: a message for which no slot is free stays for other consumers.
func TestFreeSlots(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	busy := deliveries{verb: func(int, events.Msg) error { <-release; return nil }}
	stop := r.consume(r.consumer(), busy.handle)
	const published = 10
	for i := range published {
		r.publish(fmt.Sprint(i))
	}
	looktest.Until(r, "all hands are full", func() bool { return busy.count() == 4 })
	var other deliveries
	r.consume(r.consumer(), other.handle)
	looktest.Until(r, "the other took the rest", func() bool { return other.count() == published-4 })
	if busy.count() != 4 {
		t.Errorf("%d messages in 4 hands", busy.count())
	}
	close(release)
	r.waitGone()
	stop()
}

// TestRunEnds has the context end: the message at work is finished, no further one is taken.
func TestRunEnds(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	began, release := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.consumer().Run(ctx, t.Context(), func(work context.Context, _ events.Msg) error {
			close(began)
			<-release
			ended <- work.Err()
			return nil
		})
	}()
	r.publish("one")
	<-began
	cancel()
	r.publish("two")
	select {
	case <-done:
		t.Error("Run returned while a handler was at work")
	default:
	}
	close(release)
	<-done
	if err := <-ended; err != nil {
		t.Errorf("the handler's context ended first: %v", err)
	}
	looktest.Until(r, "one was acked", func() bool { return r.info(events.StreamAuth).State.Msgs == 1 })
}
