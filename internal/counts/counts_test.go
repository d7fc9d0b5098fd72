package counts

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"wxtoken/internal/events"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams/streamstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newCounter returns a counter on a NATS of its own, and what reads its records.
func newCounter(t *testing.T) (*Counter, *natsdtest.Server, func() []Record) {
	t.Helper()
	srv := natsdtest.Start(t)
	nc := srv.Connect()
	js := natsdtest.JetStream(t, nc)
	streamstest.Setup(t, nc, js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	read := func() (records []Record) {
		stream, err := js.Stream(t.Context(), events.StreamTraffic)
		if err != nil {
			t.Fatal(err)
		}
		info := stream.CachedInfo()
		for seq := info.State.FirstSeq; seq <= info.State.LastSeq && info.State.Msgs > 0; seq++ {
			m, err := stream.GetMsg(t.Context(), seq)
			if err != nil {
				t.Fatal(err)
			}
			var r Record
			if err := json.Unmarshal(m.Data, &r); err != nil || m.Header.Get("Nats-TTL") == "" {
				t.Errorf("%v %v %s", err, m.Header, m.Data)
			}
			records = append(records, r)
		}
		return records
	}
	return New("refresher", js, zerolog.Nop()), srv, read
}

// TestRun: counts are written regularly and at the end, and nothing is written without counts.
func TestRun(t *testing.T) {
	t.Parallel()
	c, _, read := newCounter(t)
	c.Every = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	c.Add(Renewed, 2)
	c.Add(Renewed, 1)
	c.Most(LatestMS, 70)
	c.Most(LatestMS, 50)
	looktest.Until(t, "nothing is written", func() bool { return len(read()) > 0 })
	c.Add(Failed, 1)
	cancel()
	running.Wait()
	all := read()
	sum := map[string]int64{}
	for _, r := range all {
		if r.Role != "refresher" || !r.From.Before(r.To) {
			t.Errorf("%+v", r)
		}
		for name, n := range r.Counts {
			if name == LatestMS {
				sum[name] = max(sum[name], n)
				continue
			}
			sum[name] += n
		}
	}
	if len(all) > 3 || sum[Renewed] != 3 || sum[LatestMS] != 70 || sum[Failed] != 1 {
		t.Errorf("%d records: %v", len(all), sum)
	}
}

// TestKeepsCountsUntilWritten: what NATS did not store is counted further.
func TestKeepsCountsUntilWritten(t *testing.T) {
	t.Parallel()
	c, srv, read := newCounter(t)
	c.since = time.Now()
	srv.Stop()
	c.Add(Renewed, 2)
	c.Most(LatestMS, 70)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c.write(ctx)
	c.Add(Renewed, 1)
	c.Most(LatestMS, 50)
	srv.Restart()
	deadline := time.Now().Add(time.Minute)
	for c.write(t.Context()); len(c.counts) > 0; c.write(t.Context()) {
		if time.Now().After(deadline) {
			t.Fatal("never written")
		}
	}
	sum, most := int64(0), int64(0)
	for _, r := range read() {
		sum, most = sum+r.Counts[Renewed], max(most, r.Counts[LatestMS])
	}
	if sum < 3 || most != 70 { // what was written without an answer may be there twice
		t.Errorf("%d renewed, %d ms late", sum, most)
	}
}

// TestNilCounter: without a counter nothing is counted.
func TestNilCounter(t *testing.T) {
	t.Parallel()
	var c *Counter
	c.Add(Renewed, 1)
	c.Most(LatestMS, 1)
}
