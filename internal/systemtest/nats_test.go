//go:build unix

package systemtest

import (
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"wxtoken/internal/events"
)

const (
	// killsVariable says how often NATS is killed; the default is for every day.
	killsVariable = "WXTOKEN_TEST_NATS_KILLS"
	everydayKills = 1
	// lossesVariable says how many servers of three are lost, one after the other; without it none is.
	lossesVariable = "WXTOKEN_TEST_NATS_LOSSES"
)

// TestNATSKilled kills the NATS server again and again while pushes come in and tokens are renewed. Whatever was answered with success is
// an event, once; no reader misses a token.
func TestNATSKilled(t *testing.T) {
	t.Parallel()
	p := build(t)
	all := newNATS(t, p, []string{"127.0.0.1"})
	life := "--life=60s" // a machine that is slow on some day has time
	if os.Getenv(killsVariable) != "" {
		life = "--life=20s"
	}
	s := newSiteOn(t, p, startAll(t, all), 10, life)
	processes := []*process{s.ingest(), s.refresher(), s.refresher()}
	reader := s.read()
	stop := s.pushLoad()
	var slowest time.Duration
	for range fromEnv(t, killsVariable, everydayKills) {
		all[0].kill()
		all[0].start()
		healthy(t, all)
		began := time.Now()
		for _, each := range processes {
			poll(t, func() error {
				if status, body := each.get("/readyz"); status != http.StatusOK {
					return fmt.Errorf("%s: /readyz %d %s", each.name, status, body)
				}
				return nil
			})
		}
		slowest = max(slowest, time.Since(began))
		s.flows(events.StreamMessages)
		// A server that does not live long enough for anything is another trouble: the next one dies after some renewals.
		before := reader.count()
		poll(t, func() error {
			if n := reader.count() - before; n < 3 {
				return fmt.Errorf("%d renewals since the server is back", n)
			}
			return nil
		})
	}
	before := s.generations()
	poll(t, func() error { return s.allAccepted(before, 1) })
	stop()
	reader.check()
	poll(t, s.covered)
	t.Logf("all processes were ready %s after the server at most; a push took %s at most; %d renewals, %s late at most",
		slowest.Round(time.Millisecond), s.longestPush(time.Time{}).Round(time.Millisecond), reader.renewals, reader.late.Round(time.Millisecond))
}

// loss is a way to lose a server and to get it back.
type loss struct {
	name       string
	lose, back func(n *natsServer)
}

var losses = []loss{
	{"killed", (*natsServer).kill, (*natsServer).start},
	{"frozen", func(n *natsServer) { n.signal(syscall.SIGSTOP) }, func(n *natsServer) { n.signal(syscall.SIGCONT) }},
}

// TestOneOfThreeLost loses one of three NATS servers after the other, those that lead, while pushes come in and tokens are renewed.
func TestOneOfThreeLost(t *testing.T) {
	t.Parallel()
	if os.Getenv(lossesVariable) == "" {
		t.Skipf("not for every day: set %s", lossesVariable)
	}
	p := build(t)
	all := newNATS(t, p, []string{"127.0.0.1", "127.0.0.1", "127.0.0.1"})
	loseEach(t, p, all, losses)
}

// loseEach loses servers in each of the ways in turn: the leader of the tokens, of the events, of the cluster.
func loseEach(t *testing.T, p programs, all []*natsServer, ways []loss) {
	s := newSiteOn(t, p, urlsOf(all), 10, "--life=60s", "--push-every=250ms", "--push-tries=1000", "--ticket-every=10s")
	s.settings = append(s.settings, "WXTOKEN_REPLICAS=3", "WXTOKEN_RENEW_FRACTION=0.2")
	// Before NATS: two refreshers make the streams at once, as soon as there is somebody to lead.
	s.ingest()
	s.refresher()
	s.refresher()
	startAll(t, all)
	reader := s.read()
	for _, stream := range []string{events.StreamAuth, events.StreamMessages, events.StreamTokens, "KV_" + events.BucketStatus, events.StreamDead} {
		poll(t, func() error {
			st, err := s.js.Stream(t.Context(), stream)
			if err == nil && st.CachedInfo().Config.Replicas != 3 {
				t.Errorf("%s: %d copies, want 3", stream, st.CachedInfo().Config.Replicas)
			}
			return err
		})
	}
	stop := s.pushLoad()
	for n := range fromEnv(t, lossesVariable, 1) {
		way := ways[n%len(ways)]
		leads := []string{events.StreamTokens, events.StreamMessages, ""}[n/len(ways)%3]
		lost := s.leader(all, leads)
		reader.latest()
		began := time.Now()
		way.lose(lost)
		s.flows(events.StreamMessages)
		pushed := time.Since(began)
		before := s.generations()
		poll(t, func() error { return s.allAccepted(before, 1) }) // without it
		t.Logf("%s, which led %q, was %s for %s: pushes are events after %s, a push took %s at most, a renewal was %s late at most", lost.name, leads, way.name,
			time.Since(began).Round(time.Millisecond), pushed.Round(time.Millisecond), s.longestPush(began).Round(time.Millisecond), reader.latest().Round(time.Millisecond))
		way.back(lost)
		healthy(t, all)
		s.flows(events.StreamMessages)
	}
	before := s.generations()
	poll(t, func() error { return s.allAccepted(before, 1) })
	stop()
	reader.check()
	poll(t, s.covered)
	if reader.renewals == 0 {
		t.Error("nothing was renewed")
	}
	t.Logf("%d renewals", reader.renewals)
}

// count returns how many renewals were seen.
func (r *readings) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.renewals
}

// latest returns how late a renewal came at most since it was last asked.
func (r *readings) latest() (late time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	late, r.late = r.late, 0
	return late
}
