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

// askedManyTimes asks for a token again and again while a refresher is asking for it: nobody else does.
func askedManyTimes(t *testing.T, p programs) {
	s := newLazySite(t, p)
	key := s.keys()[1]
	s.ingest()
	for range 3 {
		s.refresher()
	}
	s.settled()
	before := s.generations()
	s.tell("/fail", "api=api_authorizer_token&mode=slow&delay=3s&times=1")
	s.makeDue(key, before[key])
	poll(t, func() error { return s.underWay(key) })
	for range 10 {
		s.makeDue(key, before[key])
	}
	poll(t, func() error { return s.renewed(key, before[key]+1) })
	poll(t, s.idle)
	if got := s.generations()[key]; got != before[key]+1 {
		t.Errorf("%s: generation %d after one renewal, want %d", key, got, before[key]+1)
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

// paused stops a refresher between WeChat's answer and the commit, until another has taken over and so
// long at least, and then lets it go on: its answer comes too late to be stored.
func paused(t *testing.T, p programs, atLeast time.Duration) {
	s := newLazySite(t, p, "--overlap=0s")
	key := s.keys()[1]
	s.ingest()
	sleeper := s.refresher()
	s.settled()
	reader := s.read()
	before := s.generations()[key]
	s.tell("/fail", "api=api_authorizer_token&mode=slow&delay=3s&times=1")
	s.makeDue(key, before)
	poll(t, func() error { return s.underWay(key) })
	sleeper.pause()
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
	poll(t, func() error { // it has noticed
		if said := sleeper.stdout.String()[slept:]; strings.Contains(said, "overlapped") || strings.Contains(said, "changed meanwhile") {
			return nil
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
	s := newSite(t, p, 2, "--life=60s")
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
