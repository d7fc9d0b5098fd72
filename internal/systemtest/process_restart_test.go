//go:build unix

package systemtest

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

// everythingRestarted ends all processes of ours and NATS, and starts them again on the same data:
// the tokens are still good, so WeChat is asked for none before its time.
func everythingRestarted(t *testing.T, p programs) {
	s := newSite(t, p, 3, "--life=60s")
	s.settings = append(s.settings, "WXTOKEN_RENEW_FRACTION=0.2")
	in, one, other := s.ingest(), s.refresher(), s.refresher()
	poll(t, func() error { return s.allAccepted(nil, 2) })

	one.terminate()
	other.kill()
	tokens, before := map[wxtoken.Key]wxtoken.Token{}, s.generations()
	for _, key := range s.keys() {
		token, err := s.stored(key)
		if err != nil {
			t.Fatal(err)
		}
		tokens[key] = token
	}
	in.terminate()
	s.nats.Stop()
	asked := len(s.history("call"))
	s.nats.Restart()
	s.ingest()
	s.refresher()
	s.refresher()
	reader := s.read()
	poll(t, func() error { return s.allAccepted(before, 1) })

	// What the first refreshers left in the middle was due already.
	first := map[wxtoken.Key]bool{}
	for _, e := range s.history("call")[asked:] {
		key := keyOf(e)
		switch renewAt := tokens[key].RenewAt; {
		case !slices.Contains(tokenAPIs, e.API):
			if len(first) == 0 {
				t.Errorf("%s was called at %s, before anything was due", e.API, e.Time.Format(time.StampMilli))
			}
		case e.Time.Before(renewAt):
			t.Errorf("%s was asked for at %s, before it was due at %s", key, e.Time.Format(time.StampMilli), renewAt.Format(time.StampMilli))
		default:
			first[key] = true
		}
	}
	reader.check()
}

// dataGone deletes everything that NATS keeps and starts everything anew: one ticket brings all
// back from WeChat's list, without any authorized push.
func dataGone(t *testing.T, p programs, accounts int, life, fraction string) {
	s := newSite(t, p, accounts, "--life="+life)
	s.settings = append(s.settings, "WXTOKEN_RENEW_FRACTION="+fraction)
	in, one := s.ingest(), s.refresher()
	poll(t, func() error { return s.allAccepted(nil, 1) })
	s.tell("/stop-tickets", "")
	in.terminate()
	one.kill()
	s.nats.Stop()
	if err := os.RemoveAll(s.nats.StoreDir()); err != nil {
		t.Fatal(err)
	}
	before := s.history("push", "call")
	s.nats.Restart()
	s.ingest()
	s.refresher()
	start := time.Now()
	s.tell("/push", "infotype=component_verify_ticket")
	poll(t, func() error { return s.allAccepted(nil, 1) })
	t.Logf("%d accounts were back in %s", accounts, time.Since(start).Round(10*time.Millisecond))
	poll(t, s.covered)
	for _, e := range s.history("push", "call")[len(before):] {
		if e.Kind == wechatsim.EntryPush && e.InfoType != "component_verify_ticket" || e.API == "api_query_auth" {
			t.Errorf("%s%s: nobody authorized anew", e.InfoType, e.API)
		}
	}
}

// pushLoad pushes events that are all different until stop is called; stop returns once each of
// them was answered with success, and fails the test for one that is not exactly one event.
func (s *site) pushLoad() (stop func()) {
	s.t.Helper()
	ended := make(chan struct{})
	var pushing sync.WaitGroup
	sent := 0
	pushing.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(20 * time.Millisecond):
			}
			sent++
			if status, body := request(s.t, http.MethodPost, s.control+"/push", fmt.Sprintf("infotype=sim_load&n=%d", sent)); status != http.StatusOK {
				s.t.Errorf("push: %s", body)
				return
			}
		}
	})
	end := sync.OnceFunc(func() { close(ended); pushing.Wait() })
	s.t.Cleanup(end)
	return func() {
		s.t.Helper()
		end()
		answered := map[string]bool{} // by fingerprint of the document
		poll(s.t, func() error {
			clear(answered)
			for _, e := range s.history("push_answer") {
				if e.InfoType == "sim_load" && e.Outcome == wechatsim.OutcomeSuccess {
					answered[e.Digest] = true
				}
			}
			if len(answered) < sent {
				return fmt.Errorf("%d of %d pushes were answered with success", len(answered), sent)
			}
			return nil
		})
		count := s.eventsOf()
		for digest := range answered {
			if count[digest] != 1 {
				s.t.Errorf("a push that was answered with success is %d events", count[digest])
			}
		}
		refused := 0
		for _, e := range s.history("push_answer") {
			if e.InfoType == "sim_load" && e.Outcome != wechatsim.OutcomeSuccess {
				refused++
			}
		}
		s.t.Logf("%d pushes, %d tries of them without success", sent, refused)
	}
}

// natsRestarts stops and starts NATS ten times while pushes come in and tokens are renewed.
func natsRestarts(t *testing.T, p programs) {
	s := newSite(t, p, 2, "--life=120s")
	s.settings = append(s.settings, "WXTOKEN_SWEEP_EVERY=2s", "WXTOKEN_RENEW_FRACTION=0.1")
	s.ingest()
	s.refresher()
	s.refresher()
	reader := s.read()
	stop := s.pushLoad()
	for range 10 {
		before := s.lastSequence(events.StreamMessages)
		s.nats.Restart()
		poll(t, func() error { return s.nc.FlushTimeout(time.Second) })
		poll(t, func() error { // pushes are events again
			if s.lastSequence(events.StreamMessages) == before {
				return errors.New("no new event")
			}
			return nil
		})
	}
	before := s.generations()
	poll(t, func() error { return s.allAccepted(before, 1) })
	stop()
	reader.check()
	poll(t, s.covered)
}

// rollingRestarts ends one of two ingests after the other with SIGTERM, ten times, while pushes come in.
func rollingRestarts(t *testing.T, p programs) {
	s := newSite(t, p, 1)
	s.refresher()
	live := []*process{s.ingest(), s.ingest()}
	poll(t, func() error { return s.allAccepted(nil, 1) })
	stop := s.pushLoad()
	for range 10 {
		before := s.lastSequence(events.StreamMessages)
		live = append(live, s.ingest())
		old := live[0]
		live = live[1:]
		old.terminate()
		poll(t, func() error {
			if s.lastSequence(events.StreamMessages) == before {
				return errors.New("no new event")
			}
			return nil
		})
	}
	stop()
}

// refreshersRestart ends one of two refreshers after the other with SIGTERM while tokens are renewed. An orderly end costs
// no reader anything, and WeChat no call. WXTOKEN_TEST_RESTARTS says how many restarts, 6 without it.
func refreshersRestart(t *testing.T, p programs) {
	restarts, err := strconv.Atoi(cmp.Or(os.Getenv("WXTOKEN_TEST_RESTARTS"), "6"))
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, p, 3, "--latency=200ms") // so that some end in the middle of a call
	s.ingest()
	live := []*process{s.refresher(), s.refresher()}
	poll(t, func() error { return s.allAccepted(nil, 1) })
	poll(t, s.idle)
	var asked map[wxtoken.Key]int // on the way to the first tokens
	poll(t, func() (err error) {
		asked, err = s.extra()
		return err
	})
	reader := s.read()
	for range restarts {
		before := s.generations()
		poll(t, func() error { // a call is under way, of one of the two
			extra, err := s.extra()
			for key, n := range extra {
				if n > asked[key] {
					return nil
				}
			}
			return errors.Join(err, errors.New("no call is under way"))
		})
		live[0].terminate()
		fresh := s.refresher()
		live = []*process{live[1], fresh}
		poll(t, func() error {
			if status, body := fresh.get("/readyz"); status != http.StatusOK {
				return fmt.Errorf("/readyz %d %s", status, body)
			}
			return nil
		})
		poll(t, func() error { return s.allAccepted(before, 1) })
	}
	reader.check()
	s.wantExtra(func(extra map[wxtoken.Key]int) error {
		for key, n := range extra {
			if n > asked[key] {
				return fmt.Errorf("%d calls for %s in vain, want none", n-asked[key], key)
			}
		}
		return nil
	})
	t.Logf("%d restarts, generations %v", restarts, s.generations())
}

// startedBeforeNATS starts everything while NATS is away. It stays up, says so, and works when NATS comes.
func startedBeforeNATS(t *testing.T, p programs) {
	s := newSite(t, p, 1)
	s.nats.Stop()
	all := []*process{s.refresher(), s.ingest()}
	for _, each := range all {
		if status, _ := each.get("/healthz"); status != http.StatusOK {
			t.Errorf("%s: /healthz %d, want 200", each.name, status)
		}
		if status, body := each.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "not connected") {
			t.Errorf("%s: /readyz %d %s, want 503 that says what is missing", each.name, status, body)
		}
	}
	poll(t, func() error { // WeChat is told to come again
		for _, e := range s.history("push_answer") {
			if e.Status == http.StatusServiceUnavailable {
				return nil
			}
		}
		return errors.New("no push was answered with 503")
	})
	for _, e := range s.history("push_answer") {
		if e.Outcome == wechatsim.OutcomeSuccess {
			t.Error("a push was answered with success without NATS")
		}
	}
	s.nats.Restart()
	for _, each := range all {
		poll(t, func() error {
			if status, body := each.get("/readyz"); status != http.StatusOK {
				return fmt.Errorf("%s: /readyz %d %s", each.name, status, body)
			}
			return nil
		})
	}
	poll(t, func() error { return s.allAccepted(nil, 2) })
	for _, each := range all {
		each.terminate()
	}
}
