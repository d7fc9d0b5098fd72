package ingest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
)

// benchPushes returns requests with new pushes, made in advance: making them is
// not ours to measure.
func benchPushes(b *testing.B) []*http.Request {
	b.Helper()
	requests := make([]*http.Request, b.N)
	for i := range requests {
		c := componentPush(b, authPath, event("component_verify_ticket", fmt.Sprintf("<ComponentVerifyTicket><![CDATA[%s-%d]]></ComponentVerifyTicket>", ticket, i)))
		requests[i] = httptest.NewRequestWithContext(b.Context(), c.method, c.target(), bytes.NewReader(c.body))
	}
	return requests
}

// benchMessages is benchPushes with messages of users.
func benchMessages(b *testing.B) []*http.Request {
	b.Helper()
	requests := make([]*http.Request, b.N)
	for i := range requests {
		c := componentPush(b, msgPath, messageOf("text", fmt.Sprintf("<Content><![CDATA[When does the shop open?]]></Content><MsgId>%d</MsgId>", i)))
		requests[i] = httptest.NewRequestWithContext(b.Context(), c.method, c.target(), bytes.NewReader(c.body))
	}
	return requests
}

// BenchmarkMessageToAck is BenchmarkPushToAck for messages of a user, for which no service listens.
func BenchmarkMessageToAck(b *testing.B) {
	r := benchRig(b)
	h, requests := r.ingest.Handler(), benchMessages(b)
	b.ReportAllocs()
	b.ResetTimer()
	for _, req := range requests {
		deliver(b, h, req)
	}
}

// deliver hands a push to the handler and wants success.
func deliver(b *testing.B, h http.Handler, req *http.Request) {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	if rec.Code != http.StatusOK {
		b.Errorf("answer %d %q", rec.Code, rec.Body)
	}
}

// benchRig is a rig that talks to its NATS server over TCP, as in production.
func benchRig(b *testing.B, changes ...func(*natsd.Config)) *rig {
	b.Helper()
	srv := natsdtest.StartTCP(b, changes...)
	newRig(b, srv) // makes the streams
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	js := natsdtest.JetStream(b, nc)
	r := &rig{js: js, log: &logBuffer{}}
	r.start(b, zerolog.New(io.Discard).Level(zerolog.InfoLevel))
	return r
}

// BenchmarkPushToAck is one push at a time through the handler: verified, decrypted, parsed,
// published, acked.
func BenchmarkPushToAck(b *testing.B) {
	for _, sync := range []bool{false, true} {
		name := "sync_interval=default"
		if sync {
			name = "sync_interval=always"
		}
		b.Run(name, func(b *testing.B) {
			r := benchRig(b, func(cfg *natsd.Config) { cfg.SyncAlways = sync })
			h, requests := r.ingest.Handler(), benchPushes(b)
			b.ReportAllocs()
			b.ResetTimer()
			for _, req := range requests {
				deliver(b, h, req)
			}
		})
	}
}

// BenchmarkPushesAgainstBarePublishes drives the handler and JetStream itself at the same
// concurrency and reports how many pushes there are for each bare publish of the same event.
func BenchmarkPushesAgainstBarePublishes(b *testing.B) {
	for _, workers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			r := benchRig(b)
			h, requests := r.ingest.Handler(), benchPushes(b)
			event, err := events.Auth{Kind: events.KindTicket, Component: component, CreateTime: now, ReceivedAt: now, Ticket: ticket}.Event("", authPath)
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			bare, push := time.Duration(0), time.Duration(0)
			// In turns, so that a noisy moment hits both.
			for done := 0; done < b.N; {
				n := min(max(b.N/10, workers), b.N-done)
				bare += timeWorkers(workers, n, func(i int) {
					e := event
					e.ID = fmt.Sprintf("bare-%d", done+i)
					if _, err := bus.Publish(context.Background(), r.js, e); err != nil && !errors.Is(err, context.Canceled) {
						b.Error(err)
					}
				})
				push += timeWorkers(workers, n, func(i int) { deliver(b, h, requests[done+i]) })
				done += n
			}
			b.ReportMetric(float64(b.N)/push.Seconds(), "pushes/s")
			b.ReportMetric(float64(b.N)/bare.Seconds(), "publishes/s")
			b.ReportMetric(bare.Seconds()/push.Seconds(), "ratio")
			b.ReportMetric(0, "ns/op") // of both together: says nothing
		})
	}
}

// timeWorkers calls do for 0 to n-1 from that many workers.
func timeWorkers(workers, n int, do func(i int)) time.Duration {
	var next atomic.Int64
	began := time.Now()
	done := make(chan struct{})
	for range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		}()
	}
	for range workers {
		<-done
	}
	return time.Since(began)
}
