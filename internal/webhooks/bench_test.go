//go:build unix

package webhooks

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/hook"
	"wxtoken/internal/natsd/natsdtest"
)

// BenchmarkDeliver compares webhooks with a bare consumer that POSTs what it gets with the same headers, both on a stream that is full, with 200 accounts,
// one after the other in turns: the ratio is the metric.
func BenchmarkDeliver(b *testing.B) {
	const messages, accounts = 15_000, 200
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
			if n%1000 == 999 { // on a slow machine too many would be on their way
				<-r.js.PublishAsyncComplete()
			}
		}
	}
	until := func(n int64) {
		for arrived.Load() < n {
			time.Sleep(time.Millisecond)
		}
	}
	bare := func() usage {
		nc := srv.Connect()
		js := natsdtest.JetStream(b, nc)
		cons, err := js.CreateOrUpdateConsumer(b.Context(), events.StreamMessages, jetstream.ConsumerConfig{Durable: "bare", DeliverPolicy: jetstream.DeliverNewPolicy, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: window})
		if err != nil {
			b.Fatal(err)
		}
		fill()
		arrived.Store(0)
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrency}}
		defer client.CloseIdleConnections()
		kind := events.Kind{Component: component, AppID: "wx100", MsgType: "text"}
		same := http.Header{}
		sample := delivery{id: "b100" + strconv.FormatInt(time.Now().UnixNano(), 10), kind: kind, body: []byte(body)}
		e := events.Event{Subject: events.MessageSubject(component, "wx100", "text", ""), ID: sample.id, ContentType: "application/xml", Data: sample.body}
		sample.header = e.Msg().Header
		sample.setHeaders(same, hook.NewSigner(secret), time.Unix(1_795_860_000, 0))
		queue := make(chan jetstream.Msg, concurrency)
		var hands sync.WaitGroup
		for range concurrency {
			hands.Go(func() {
				for m := range queue {
					req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, in.URL, bytes.NewReader(m.Data()))
					if err != nil {
						b.Error(err)
						return
					}
					req.Header = same.Clone() // what is sent and read is the same; this consumer signs nothing
					res, err := client.Do(req)
					if err != nil {
						b.Error(err)
						return
					}
					_ = res.Body.Close()
					_ = m.Ack()
				}
			})
		}
		began, before := time.Now(), currentUsage()
		running, err := cons.Consume(func(m jetstream.Msg) { queue <- m }, jetstream.PullMaxMessages(batch))
		if err != nil {
			b.Fatal(err)
		}
		until(messages)
		took := before.since(began)
		running.Stop()
		<-running.Closed()
		close(queue)
		hands.Wait()
		if err := js.DeleteConsumer(b.Context(), events.StreamMessages, "bare"); err != nil {
			b.Fatal(err)
		}
		return took
	}
	ours := func() usage {
		r.serve([]webhook{{URL: in.URL, Messages: []string{component + "/*/*"}}})
		first := r.gateway() // makes the consumer
		names := r.ready(1)
		first.stop()
		time.Sleep(pullExpiry + time.Second) // the server could pin the consumer to a request that is open yet
		fill()
		arrived.Store(0)
		began, before := time.Now(), currentUsage()
		g := r.gateway()
		until(messages)
		took := before.since(began)
		g.stop()
		if err := r.js.DeleteConsumer(b.Context(), events.StreamMessages, names[0]); err != nil {
			b.Fatal(err)
		}
		return took
	}
	bare() // warm
	peers := []*peer{{name: "bare", run: bare}, {name: "ours", run: ours}}
	rounds := 0
	for b.Loop() {
		for _, p := range peers {
			p.add(p.run())
		}
		rounds++
	}
	for _, p := range peers {
		b.ReportMetric(p.cpu.Seconds()*1e6/float64(rounds*messages), p.name+"-cpu-µs")
		b.ReportMetric(float64(p.allocs)/float64(rounds*messages), p.name+"-allocs")
		b.ReportMetric(float64(rounds*messages)/p.took.Seconds(), p.name+"/s")
	}
	b.ReportMetric(peers[0].took.Seconds()/peers[1].took.Seconds(), "ratio")
	b.ReportMetric(peers[0].cpu.Seconds()/peers[1].cpu.Seconds(), "cpu-ratio") // the same where nothing else is at work
}

// peer is one of the two that are compared.
type peer struct {
	name string
	run  func() usage
	usage
}

// usage is what something took.
type usage struct {
	took, cpu time.Duration
	allocs    uint64
}

func (u *usage) add(other usage) {
	u.took, u.cpu, u.allocs = u.took+other.took, u.cpu+other.cpu, u.allocs+other.allocs
}

// since returns what was used after an earlier look.
func (u usage) since(began time.Time) usage {
	now := currentUsage()
	return usage{took: time.Since(began), cpu: now.cpu - u.cpu, allocs: now.allocs - u.allocs}
}

// currentUsage returns what this process has used so far.
func currentUsage() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{cpu: natsdtest.Computed(), allocs: m.Mallocs}
}
