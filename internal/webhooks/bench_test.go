package webhooks

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// BenchmarkDeliver compares webhooks with a bare consumer that POSTs what it gets, both on a stream that is full, with 200 accounts,
// one after the other in turns: the ratio is the metric.
func BenchmarkDeliver(b *testing.B) {
	const messages, accounts, turns = 15_000, 200, 2
	srv := natsdtest.StartTCP(b)
	r := newRig(b, srv)
	var arrived atomic.Int64
	in := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { arrived.Add(1) }))
	defer in.Close()
	body := "<xml><ToUserName><![CDATA[gh_97417a04a28d]]></ToUserName><Content><![CDATA[" + string(bytes.Repeat([]byte("x"), 400)) + "]]></Content></xml>"
	fill := func() {
		for n := range messages {
			appid := fmt.Sprintf("wx%d", n%accounts)
			e := events.Event{Subject: events.MessageSubject(component, appid, "text", ""), ID: fmt.Sprint("b", n, time.Now().UnixNano()), ContentType: "application/xml", Data: []byte(body)}
			if _, err := r.js.PublishMsgAsync(e.Msg()); err != nil {
				b.Fatal(err)
			}
		}
		<-r.js.PublishAsyncComplete()
	}
	until := func(n int64) {
		for arrived.Load() < n {
			time.Sleep(time.Millisecond)
		}
	}
	bare := func() time.Duration {
		nc := srv.Connect()
		js, err := jetstream.New(nc)
		if err != nil {
			b.Fatal(err)
		}
		cons, err := js.CreateOrUpdateConsumer(b.Context(), events.StreamMessages, jetstream.ConsumerConfig{Durable: "bare", DeliverPolicy: jetstream.DeliverNewPolicy, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: window})
		if err != nil {
			b.Fatal(err)
		}
		fill()
		arrived.Store(0)
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrency}}
		defer client.CloseIdleConnections()
		queue := make(chan jetstream.Msg, concurrency)
		var hands sync.WaitGroup
		for range concurrency {
			hands.Go(func() {
				for m := range queue {
					res, err := client.Post(in.URL, "application/xml", bytes.NewReader(m.Data()))
					if err != nil {
						b.Error(err)
						return
					}
					_ = res.Body.Close()
					_ = m.Ack()
				}
			})
		}
		began := time.Now()
		running, err := cons.Consume(func(m jetstream.Msg) { queue <- m }, jetstream.PullMaxMessages(batch))
		if err != nil {
			b.Fatal(err)
		}
		until(messages)
		took := time.Since(began)
		running.Stop()
		<-running.Closed()
		close(queue)
		hands.Wait()
		if err := js.DeleteConsumer(b.Context(), events.StreamMessages, "bare"); err != nil {
			b.Fatal(err)
		}
		return took
	}
	ours := func() time.Duration {
		r.serve([]hook{{URL: in.URL, Messages: []string{component + "/*/*"}}})
		first := r.gateway() // makes the consumer
		names := r.ready(1)
		first.stop()
		time.Sleep(pullExpiry + time.Second) // the server could pin the consumer to a request that is open yet
		fill()
		arrived.Store(0)
		began := time.Now()
		g := r.gateway()
		until(messages)
		took := time.Since(began)
		g.stop()
		if err := r.js.DeleteConsumer(b.Context(), events.StreamMessages, names[0]); err != nil {
			b.Fatal(err)
		}
		return took
	}
	bare() // warm
	for b.Loop() {
		var with, without time.Duration
		for range turns {
			without += bare()
			with += ours()
		}
		b.ReportMetric(messages*turns/with.Seconds(), "webhooks/s")
		b.ReportMetric(messages*turns/without.Seconds(), "bare/s")
		b.ReportMetric(without.Seconds()/with.Seconds(), "ratio")
	}
}
