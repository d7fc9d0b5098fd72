//go:build unix

package systemtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"wxtoken/client"
	"wxtoken/wechatsim"
)

// readings is what a service sees that asks its Client for every key, every 20 ms.
type readings struct {
	s      *site
	client *wxtoken.Client
	stop   func()

	mu       sync.Mutex
	late     time.Duration // how late a renewal came at most
	renewals int
	last     map[string]time.Time // when a value was last read, by the platform's fingerprint of it
	faults   []string
}

// read starts a reader once every key has a token.
func (s *site) read() *readings {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, s.connect("service"), wxtoken.Config{Keys: s.keys()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(client.Close)
	r := &readings{s: s, client: client, last: map[string]time.Time{}}
	ctx, cancel = context.WithCancel(context.Background())
	var reading sync.WaitGroup
	reading.Go(func() { r.run(ctx) })
	r.stop = func() { cancel(); reading.Wait() }
	s.t.Cleanup(r.stop)
	return r
}

func (r *readings) run(ctx context.Context) {
	newest := map[wxtoken.Key]wxtoken.Token{}
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for {
		for _, key := range r.s.keys() {
			now := time.Now()
			token, err := r.client.Token(key)
			r.mu.Lock()
			switch {
			case err != nil:
				r.faults = append(r.faults, fmt.Sprintf("%s: %v", now.UTC().Format(time.TimeOnly), err))
			case token.Generation < newest[key].Generation:
				r.faults = append(r.faults, fmt.Sprintf("generation of %s went from %d to %d", key, newest[key].Generation, token.Generation))
			default:
				if old := newest[key]; old.Generation > 0 && token.Generation == old.Generation+1 {
					r.renewals++
					r.late = max(r.late, token.ObtainedAt.Sub(old.RenewAt))
				}
				newest[key] = token
				r.last[wechatsim.Fingerprint(token.Value.Reveal())] = now
			}
			r.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// saw reports whether a value was read, by the platform's fingerprint of it.
func (r *readings) saw(fingerprint string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.last[fingerprint]
	return ok
}

// check ends the reading and fails the test if one read failed, or gave a token that the platform
// no longer accepted at that moment.
func (r *readings) check() {
	r.s.t.Helper()
	r.stop()
	until := map[string]time.Time{}
	for _, e := range r.s.history("issue", "invalidate") {
		if end, known := until[e.Secret]; !known || e.ValidUntil.Before(end) {
			until[e.Secret] = e.ValidUntil
		}
	}
	for fingerprint, at := range r.last {
		if end := until[fingerprint]; !at.Before(end) {
			r.faults = append(r.faults, fmt.Sprintf("a token that was good until %s was read at %s", end.Format(time.StampMilli), at.UTC().Format(time.StampMilli)))
		}
	}
	if len(r.faults) > 0 {
		r.s.t.Errorf("%d reads of %d tokens were bad: %s", len(r.faults), len(r.last), strings.Join(r.faults[:min(len(r.faults), 10)], "; "))
	}
	if len(r.last) == 0 {
		r.s.t.Error("nothing was read")
	}
}
