//go:build unix

package systemtest

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// TestLaggingReplicas has everything between three NATS servers take its time, so that what a server answers by itself is old: a refresher
// may decide upon a record, and a reader be given a token, that was replaced already. There is one call for each renewal all the same, and
// no token is read that WeChat no longer takes.
func TestLaggingReplicas(t *testing.T) {
	t.Parallel()
	p := build(t)
	all := newNATS(t, p, []string{"127.0.0.1", "127.0.0.1", "127.0.0.1"})
	ways := betweenServers(t, all)
	s := newSiteOn(t, p, startAll(t, all), 5, "--life=40s", "--push-every=250ms", "--push-tries=1000", "--ticket-every=10s", "--overlap=10s")
	s.settings = append(s.settings, "WXTOKEN_REPLICAS=3", "WXTOKEN_RENEW_FRACTION=0.2")
	at := func(i int, role string) string { return urlsOf(all[i : i+1])(role) }
	s.ingest("WXTOKEN_NATS_URL=" + at(0, "ingest"))
	for i := 1; i < 3; i++ { // one of them at least is not where the tokens' leader is
		s.refresher("WXTOKEN_NATS_URL=" + at(i, "refresher"))
	}
	poll(t, func() error { return s.allAccepted(nil, 1) })
	reader := s.read()
	for _, way := range ways {
		way.Delay(200 * time.Millisecond)
	}
	before := s.generations()
	poll(t, func() error { return s.allAccepted(before, 2) })
	old := s.someAreOld(all)
	for _, way := range ways {
		way.Delay(0)
	}
	if !old {
		t.Error("no server answered with an old value: this showed nothing")
	}
	s.tell("/stop-tickets", "")
	s.wantExtra(func(extra map[wxtoken.Key]int) error {
		if len(extra) > 0 {
			return fmt.Errorf("calls in vain: %v, want none", extra)
		}
		return nil
	})
	reader.check()
	poll(t, s.covered)
	t.Logf("%d renewals, %s late at most", reader.renewals, reader.late.Round(time.Millisecond))
}

// betweenServers leads what the servers of a cluster tell one another over ways of the test, one to each server.
func betweenServers(t *testing.T, all []*natsServer) (ways []*natsdtest.Proxy) {
	t.Helper()
	listen := regexp.MustCompile(`cluster \{name: wxtoken, listen: "([^"]+)"`)
	var detour []string
	for _, n := range all {
		conf, err := os.ReadFile(n.conf())
		if err != nil {
			t.Fatal(err)
		}
		addr := listen.FindStringSubmatch(string(conf))
		if addr == nil {
			t.Fatalf("%s is in no cluster", n.name)
		}
		way := natsdtest.NewProxy(t, natsdtest.Dial(addr[1]))
		ways = append(ways, way)
		detour = append(detour, "nats://"+addr[1], way.URL(),
			fmt.Sprintf("listen: %q", addr[1]), fmt.Sprintf("listen: %q, advertise: %q", addr[1], strings.TrimPrefix(way.URL(), "nats://")))
	}
	for _, n := range all {
		conf, err := os.ReadFile(n.conf())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(n.conf(), []byte(strings.NewReplacer(detour...).Replace(string(conf))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ways
}

// someAreOld stores values where the stream's leader is, and reports whether some server answers with an older one after the ack.
func (s *site) someAreOld(all []*natsServer) bool {
	s.t.Helper()
	leader := s.leader(all, "KV_"+events.BucketStatus)
	buckets := map[*natsServer]jetstream.KeyValue{}
	for i, n := range all {
		nc, err := nats.Connect(urlsOf(all[i : i+1])("admin"))
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(nc.Close)
		js := natsdtest.JetStream(s.t, nc)
		if buckets[n], err = js.KeyValue(s.t.Context(), events.BucketStatus); err != nil {
			s.t.Fatal(err)
		}
	}
	for i := range 50 { // the leader may be the one that answers
		value := strconv.Itoa(i)
		if _, err := buckets[leader].PutString(s.t.Context(), "probe", value); err != nil {
			s.t.Fatal(err)
		}
		for _, bucket := range buckets {
			switch e, err := bucket.Get(s.t.Context(), "probe"); {
			case errors.Is(err, jetstream.ErrKeyNotFound): // it does not even have the first
				return true
			case err != nil:
				s.t.Fatal(err)
			case string(e.Value()) != value:
				return true
			}
		}
	}
	return false
}
