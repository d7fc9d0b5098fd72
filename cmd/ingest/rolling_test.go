//go:build unix

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
)

// balancer is the least that stands before several ingests: it gives each request to the next one
// that said at its last look that it is ready, on a connection of its own, and repeats nothing.
type balancer struct {
	mu    sync.Mutex
	slots []*process // nil: nobody there
	ready []*process // those that said so
	next  int
}

// looks is the time between two looks at each process.
const looks = 50 * time.Millisecond

// look asks every process whether it is ready until ctx ends.
func (b *balancer) look(ctx context.Context) {
	asker := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for ctx.Err() == nil {
		b.mu.Lock()
		slots := append([]*process(nil), b.slots...)
		b.mu.Unlock()
		said := make([]*process, len(slots))
		var asking sync.WaitGroup
		for i, p := range slots {
			if p == nil {
				continue
			}
			asking.Go(func() {
				answer, err := asker.Get("http://" + p.ops + "/readyz")
				if err != nil {
					return
				}
				_ = answer.Body.Close()
				if answer.StatusCode == http.StatusOK {
					said[i] = p
				}
			})
		}
		asking.Wait()
		b.mu.Lock()
		b.ready = said
		b.mu.Unlock()
		time.Sleep(looks)
	}
}

// isReady reports whether requests are given to p.
func (b *balancer) isReady(p *process) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.ready, p)
}

// choose waits for a process that is ready.
func (b *balancer) choose(ctx context.Context) *process {
	for {
		b.mu.Lock()
		for range b.ready {
			b.next++
			if p := b.ready[b.next%len(b.ready)]; p != nil {
				b.mu.Unlock()
				return p
			}
		}
		b.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(looks):
		}
	}
}

// handler passes requests on.
func (b *balancer) handler() http.Handler {
	return &httputil.ReverseProxy{
		Transport: &http.Transport{DisableKeepAlives: true}, // a used connection is one on which Go repeats by itself
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			if p := b.choose(r.In.Context()); p != nil {
				r.Out.URL.Host = p.addr
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "proxy: "+err.Error(), http.StatusBadGateway)
		},
	}
}

// TestRollingRestarts restarts two ingests in turn behind a balancer while pushes come in: each
// push is answered with success, and each is stored once. WXTOKEN_TEST_RESTARTS says how many
// restarts, 6 without it; the 100 of docs/benchmarks.md take some minutes.
func TestRollingRestarts(t *testing.T) {
	t.Parallel()
	restarts, err := strconv.Atoi(cmp.Or(os.Getenv("WXTOKEN_TEST_RESTARTS"), "6"))
	if err != nil {
		t.Fatal(err)
	}
	srv := natsdtest.StartTCP(t)
	js := setup(t, srv)
	begin := func() *process { return start(t, srv.ClientURL(), "WXTOKEN_DRAIN=2s", "WXTOKEN_LOG_LEVEL=warn") }
	b := &balancer{slots: []*process{begin(), begin()}}
	ctx, stop := context.WithCancel(t.Context())
	var looking, senders sync.WaitGroup
	looking.Go(func() { b.look(ctx) })
	defer looking.Wait()
	defer stop()
	for _, p := range b.slots {
		looktest.Until(t, "both ready", func() bool { return b.isReady(p) })
	}
	front := httptest.NewServer(b.handler())
	defer front.Close()

	var number, failed atomic.Int64
	enough := make(chan struct{})
	began := time.Now()
	for range 4 {
		senders.Go(func() {
			for {
				n := number.Add(1)
				query, body := sealed(t, text("unknown_type", fmt.Sprintf("<n>%d</n>", n)))
				answer, err := client.Post(front.URL+authPath+"?"+query, "text/xml", bytes.NewReader(body))
				said := "no answer"
				if err == nil {
					reply, _ := io.ReadAll(answer.Body)
					_ = answer.Body.Close()
					said = fmt.Sprint(answer.StatusCode, " ", string(reply))
				}
				if said != "200 success" {
					failed.Add(1)
					t.Errorf("push %d: %s, %v", n, said, err)
				}
				select {
				case <-enough:
					return
				case <-time.After(20 * time.Millisecond): // 50 a second for each sender
				}
			}
		})
	}
	for i := range restarts {
		at := i % 2
		b.mu.Lock()
		p := b.slots[at]
		b.mu.Unlock()
		before := number.Load()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if state := p.wait(t); state.ExitCode() != 0 {
			t.Errorf("restart %d: ended with %v, want exit code 0", i, state)
		}
		fresh := begin()
		b.mu.Lock()
		b.slots[at] = fresh
		b.mu.Unlock()
		looktest.Until(t, "the fresh one is ready", func() bool { return b.isReady(fresh) })
		looktest.Until(t, "pushes meanwhile", func() bool { return number.Load() >= before+10 })
	}
	close(enough)
	senders.Wait()
	took := time.Since(began)

	stream, err := js.Stream(t.Context(), events.StreamMessages)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	times := map[int64]int{}
	for range stream.CachedInfo().State.Msgs {
		m, err := messages.Next()
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`<n>(\d+)</n>`).FindSubmatch(m.Data())
		if found == nil {
			t.Fatalf("a message without a number: %s", m.Data())
		}
		n, err := strconv.ParseInt(string(found[1]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		times[n]++
	}
	for n := int64(1); n <= number.Load(); n++ {
		if times[n] != 1 && failed.Load() == 0 || times[n] > 1 {
			t.Errorf("push %d is stored %d times, want once", n, times[n])
		}
	}
	t.Logf("%d restarts, %d pushes in %s (%.0f a second), %d not answered with success", restarts, number.Load(), took.Round(time.Second),
		float64(number.Load())/took.Seconds(), failed.Load())
}
