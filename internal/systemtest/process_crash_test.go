//go:build unix

package systemtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/wechatsim"
)

// crash is a point at which a refresher kills itself with SIGKILL.
type crash struct {
	at string // WXTOKEN_CRASH: the point, and how often it was passed
	// kind of the key that is renewed then, while another refresher stands by. Empty: it is the only
	// refresher, killed on the way to the first tokens, and started again.
	kind  wxtoken.Kind
	extra int // calls for a token that the crash may cost
}

// crashes returns the crash at each point of a renewal, for both kinds of token, and some of them and
// of an authorization on the way to the first tokens.
func crashes() (all []crash) {
	for _, kind := range []wxtoken.Kind{wxtoken.KindComponent, wxtoken.KindAuthorizer} {
		all = append(all,
			crash{"loaded:1", kind, 0},
			crash{"claimed:1", kind, 0},
			crash{"asked:1", kind, 1},
			crash{"judged:1", kind, 1},
			crash{"batch.1:1", kind, 1},
			crash{"batch.2:1", kind, 1},
			crash{"batch.3:1", kind, 0},
			crash{"committed:1", kind, 0},
			crash{"acked:1", kind, 0},
		)
	}
	return append(all,
		crash{"asked:1", "", 1},
		crash{"batch.3:2", "", 0},
		crash{"exchange.claimed:1", "", 0},
		// The code is spent then: it is refused once, and the refresh token that WeChat tells is renewed.
		crash{"exchange.asked:1", "", 2},
		crash{"batch.2:2", "", 2},
		crash{"exchange.committed:1", "", 0},
	)
}

func (c crash) name() string {
	if c.kind == "" {
		return "killed at " + c.at + ", alone"
	}
	return "killed at " + c.at + ", " + string(c.kind)
}

// tell kills a refresher at the point, and wants the walk to end in the same place: each key has a
// token that WeChat accepts, its next renewal lies in the stream, and no more was asked than had to
// be. Tokens live for long, so that nothing else is under way when it dies.
func (c crash) tell(t *testing.T, p programs) {
	s := newLazySite(t, p)
	s.ingest()
	if c.kind == "" {
		s.refresher(crashAt + c.at).killed()
		s.refresher()
		s.settled()
	} else {
		standby := s.refresher()
		s.settled()
		key := s.keys()[0]
		if c.kind == wxtoken.KindAuthorizer {
			key = s.keys()[1]
		}
		doomed := s.refresher(crashAt + c.at)
		generation := s.generations()[key]
		s.makeDue(key, generation)
		poll(t, func() error { // until the message comes to the one that is to be killed
			select {
			case <-doomed.ended:
				return nil
			default:
			}
			if standby.renewed(key, generation+1) {
				generation++
				s.makeDue(key, generation)
			}
			return errors.New("the refresher lives")
		})
		doomed.killed()
		poll(t, func() error { return s.renewed(key, generation+1) })
		poll(t, s.idle) // the message of the one that was killed has come again, and changed nothing more
		if got := s.generations()[key]; got != generation+1 {
			t.Errorf("%s: generation %d after one renewal, want %d", key, got, generation+1)
		}
		s.makeDue(key, generation+1) // and on it goes
		poll(t, func() error { return s.renewed(key, generation+2) })
	}
	poll(t, s.covered)
	s.wantExtra(func(extra map[wxtoken.Key]int) error {
		for _, n := range extra {
			if n > c.extra || len(extra) > 1 {
				return fmt.Errorf("calls that brought no token that was stored: %v; want %d at most, for one key", extra, c.extra)
			}
		}
		return nil
	})
}

// ingestKilled kills an ingest in the middle of a push. WeChat's repeat reaches another one, and there
// is one event.
func ingestKilled(t *testing.T, p programs) {
	s := newSite(t, p, 1)
	s.refresher()
	first := s.ingest()
	poll(t, func() error { return s.allAccepted(nil, 1) })
	s.tell("/stop-tickets", "")
	first.terminate()
	s.pushes.remove(first.addr("pushes"))
	for i, point := range []string{"ingest.before_publish:1", "ingest.before_publish:2", "ingest.after_puback:1", "ingest.after_puback:2"} {
		auth, messages := s.lastSequence(events.StreamAuth), s.lastSequence(events.StreamMessages)
		account := fmt.Sprintf("wxkilled%d", i)
		doomed := s.ingest(crashAt + point)
		s.tell("/authorize", "authorizer="+account) // an event on AUTH, and a notice on MESSAGES
		doomed.killed()
		other := s.ingest()
		poll(t, func() error {
			for _, e := range s.history("push_answer") {
				if e.Authorizer == account && e.Outcome == wechatsim.OutcomeSuccess {
					return nil
				}
			}
			return fmt.Errorf("%s: no push was answered with success", point)
		})
		if n := s.lastSequence(events.StreamAuth) - auth; n != 1 {
			t.Errorf("%s: %d events on AUTH, want 1", point, n)
		}
		if n := s.lastSequence(events.StreamMessages) - messages; n != 1 {
			t.Errorf("%s: %d events on MESSAGES, want 1", point, n)
		}
		poll(t, func() error {
			_, err := s.accepted(wxtoken.AuthorizerKey(wechatsim.DemoAppID, account))
			return err
		})
		other.terminate()
	}
}

// slowAnswers lets WeChat take 1.5 s to answer, and kills one of three refreshers while it waits.
func slowAnswers(t *testing.T, p programs) {
	s := newSite(t, p, 3, "--life=30s", "--latency=1500ms")
	gate := newGate(t, s.api)
	s.ingest()
	victim := s.refresher("WXTOKEN_WECHAT_API_URL=" + gate.URL)
	s.refresher()
	s.refresher()
	reader := s.read()
	// The call was executed, and its answer is on the way.
	poll(t, func() error {
		for _, key := range gate.asking() {
			if key.Kind == wxtoken.KindAuthorizer && s.underWay(key) == nil {
				return nil
			}
		}
		return errors.New("the refresher asks for nothing")
	})
	asking := gate.kill(victim)
	killed := time.Now()
	before := s.generations()
	poll(t, func() error { return s.allAccepted(before, 4) })
	poll(t, func() error { // every token that was there then has reached its end
		if lived := time.Since(killed); lived < 31*time.Second {
			return fmt.Errorf("%s since the kill", lived)
		}
		return nil
	})
	reader.check()
	s.wantExtra(func(extra map[wxtoken.Key]int) error {
		for key, n := range extra {
			if n > 1 || !slices.Contains(asking, key) {
				return fmt.Errorf("%d calls for %s too many; the refresher was killed while it asked for %v", n, key, asking)
			}
		}
		return nil
	})
}
