//go:build unix

package systemtest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/wechatsim"
)

// atOnce is how many stories run at the same time. They wait most of the time, so that it is more
// than there are processors, and other than what -parallel says.
const atOnce = 14

// claimLife is longer than a claim on a key holds (policy.go).
const claimLife = 16 * time.Second

// story is a test of the whole system on real processes.
type story struct {
	name string
	tell func(*testing.T, programs)
}

// TestProcesses plays stories of trouble on the programs themselves, each with a NATS server of its
// own on TCP and a fake platform. Whatever a process prints in any story, at level debug, is looked
// through for secrets.
func TestProcesses(t *testing.T) {
	t.Parallel()
	p := build(t)
	// The longest first.
	stories := []story{
		{"slow answers, one killed", slowAnswers},
		{"paused for longer than a claim", func(t *testing.T, p programs) { paused(t, p, claimLife) }},
		{"data gone, 300 accounts", func(t *testing.T, p programs) { dataGone(t, p, 300, "10m", "0.9") }},
		{"NATS restarts under load", natsRestarts},
		{"seal key changed", sealKeyChanged},
		{"ingest restarts under pushes", rollingRestarts},
		{"refreshers restart in turn", refreshersRestart},
		{"paused until another has taken over", func(t *testing.T, p programs) { paused(t, p, 0) }},
		{"everything restarted", everythingRestarted},
		{"data gone", func(t *testing.T, p programs) { dataGone(t, p, 3, "20s", "0.1") }},
	}
	for _, c := range crashes() {
		stories = append(stories, story{c.name(), c.tell})
	}
	stories = append(stories,
		story{"ingest killed", ingestKilled},
		story{"started before NATS", startedBeforeNATS},
		story{"asked for many times", askedManyTimes},
		story{"seed wrong or missing", wrongSeeds},
	)
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	for _, s := range stories {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			t.Run(s.name, func(t *testing.T) { s.tell(t, p) })
		})
	}
	running.Wait()
}

// TestLeaked shows that a secret in a log would be noticed.
func TestLeaked(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, text string
		leaks      bool
	}{
		{"nothing", `{"level":"info","msg":"token renewed"}`, false},
		{"a ticket", `{"level":"info","ticket":"ticket@@@SEKRET-1-00"}`, true},
		{"on the second line", "quiet\n{\"url\":\"/cgi-bin?access_token=12_SEKRET-7\"}\n", true},
		{"the appsecret", "secret " + wechatsim.DemoAppSecret, true},
		{"the EncodingAESKey", wechatsim.DemoEncodingAESKey, true},
		{"base64", "dGlja2V0QEBAU0VLUkVULTEtMDA=", true},          // ticket@@@SEKRET-1-00
		{"base64, one further", "eHRpY2tldEBAQFNFS1JFVC0x", true}, // xticket@@@SEKRET-1
		{"base64, two further", "eHh0aWNrZXRAQEBTRUtSRVQtMQ==", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if got := leaked(row.text); (got != "") != row.leaks {
				t.Errorf("found %q, want something: %t", got, row.leaks)
			}
		})
	}
}

// newLazySite is newSite with one account, and tokens that are not due within the test.
func newLazySite(t *testing.T, p programs, flags ...string) *site {
	t.Helper()
	s := newSite(t, p, 1, append([]string{"--life=10m"}, flags...)...)
	s.settings = append(s.settings, "WXTOKEN_RENEW_FRACTION=0.9")
	return s
}

// settled waits until every key has a token and nothing is under way any more: tickets are stopped, and
// WeChat's list was read.
func (s *site) settled() {
	s.t.Helper()
	poll(s.t, func() error { return s.allAccepted(nil, 1) })
	s.tell("/stop-tickets", "")
	poll(s.t, func() error {
		for _, e := range s.history("call") {
			if e.API == "api_get_authorizer_list" {
				return nil
			}
		}
		return errors.New("the list was not read")
	})
	poll(s.t, s.idle)
}

// renewed returns an error unless the stored token of key has the generation or a later one and is
// accepted.
func (s *site) renewed(key wxtoken.Key, generation uint64) error {
	s.t.Helper()
	token, err := s.accepted(key)
	if err == nil && token.Generation < generation {
		err = fmt.Errorf("%s: generation %d, want %d", key, token.Generation, generation)
	}
	return err
}

// wantExtra fails the test unless f is content with what was asked in vain. It looks more than once, for
// calls that are under way: what was in vain stays so.
func (s *site) wantExtra(f func(map[wxtoken.Key]int) error) {
	s.t.Helper()
	poll(s.t, func() error {
		extra, err := s.extra()
		if err != nil {
			return err
		}
		return f(extra)
	})
}

// askedManyTimes asks for a token again and again while a refresher is asking for it: nobody else does.
func askedManyTimes(t *testing.T, p programs) {
	s := newLazySite(t, p)
	key := s.keys()[1]
	s.ingest()
	for range 3 {
		s.refresher()
	}
	s.settled()
	before := s.asking(key)
	for range 10 {
		s.makeDue(key, before)
	}
	poll(t, func() error { return s.renewed(key, before+1) })
	poll(t, s.idle)
	if got := s.generations()[key]; got != before+1 {
		t.Errorf("%s: generation %d after one renewal, want %d", key, got, before+1)
	}
	poll(t, s.covered)
	s.wantExtra(func(extra map[wxtoken.Key]int) error {
		if len(extra) > 0 {
			return fmt.Errorf("calls in vain: %v, want none", extra)
		}
		return nil
	})
}

// underWay returns an error unless WeChat has executed a call for key whose token is not stored.
func (s *site) underWay(key wxtoken.Key) error {
	s.t.Helper()
	if extra, err := s.extra(); err != nil || extra[key] == 0 {
		return fmt.Errorf("no call for %s is under way (%v)", key, err)
	}
	return nil
}

// asking has a refresher ask WeChat for the token that follows the returned generation of key. A call
// that was answered before that was seen, on a slow machine, is followed by another.
func (s *site) asking(key wxtoken.Key) (generation uint64) {
	s.t.Helper()
	asked := false
	poll(s.t, func() error {
		if now := s.generations()[key]; !asked || now != generation {
			asked, generation = true, now
			s.tell("/fail", "api=api_authorizer_token&mode=slow&delay=3s&times=1")
			s.makeDue(key, now)
		}
		return s.underWay(key)
	})
	return generation
}

// paused stops a refresher between WeChat's answer and the commit, until another has taken over and so
// long at least, and then lets it go on: its answer comes too late to be stored.
func paused(t *testing.T, p programs, atLeast time.Duration) {
	s := newLazySite(t, p, "--overlap=0s")
	key := s.keys()[1]
	s.ingest()
	sleeper := s.refresher()
	s.settled()
	reader := s.read()
	before := s.asking(key)
	for sleeper.pause(); s.underWay(key) != nil; sleeper.pause() { // it was faster
		sleeper.resume()
		before = s.asking(key)
	}
	stopped := time.Now()
	issued := s.history("issue")
	late := issued[len(issued)-1]
	slept := len(sleeper.stdout.String())

	s.refresher()
	poll(t, func() error { return s.renewed(key, before+1) })
	poll(t, func() error {
		if slept := time.Since(stopped); slept < atLeast {
			return fmt.Errorf("paused for %s", slept)
		}
		return nil
	})
	sleeper.resume()
	poll(t, func() error { // it has noticed; or it asked NATS before the pause, and is too late for the answer
		said := sleeper.stdout.String()[slept:]
		for _, sign := range []string{"overlapped", "changed meanwhile", "store batch of 3 messages: context deadline exceeded"} {
			if strings.Contains(said, sign) {
				return nil
			}
		}
		return errors.New("the late answer came to nothing yet")
	})
	poll(t, s.idle)
	now := s.generations()[key]
	s.makeDue(key, now)
	poll(t, func() error { return s.renewed(key, now+1) })
	poll(t, s.covered)
	reader.stop()
	if reader.saw(late.Secret) {
		t.Errorf("the late answer, generation %d of the platform, was stored", late.Generation)
	}
	for _, fault := range reader.faults {
		t.Error(fault)
	}
	s.wantExtra(func(extra map[wxtoken.Key]int) error {
		if len(extra) != 1 || extra[key] != 1 {
			return fmt.Errorf("calls in vain: %v, want the late one alone", extra)
		}
		return nil
	})
}
