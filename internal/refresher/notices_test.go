package refresher_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/refresher"
	"wxtoken/internal/truth"
	"wxtoken/wechatsim"
)

// looking has refreshers look every second, so that what lasts is told within some.
func looking(c *refresher.Config) { c.PublicURL, c.SweepEvery = "https://wx.example.com", time.Second }

// notices returns what was told, the oldest first.
func (r *rig) notices() (all []events.NoticeData) {
	r.Helper()
	stream, err := r.js.Stream(r.Context(), events.StreamJournal)
	r.must(err)
	info, err := stream.Info(r.Context())
	r.must(err)
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(r.Context(), seq)
		r.must(err)
		if !strings.HasPrefix(m.Subject, "journal.notice.") {
			continue
		}
		if strings.Contains(string(m.Data), "SEKRET") {
			r.Errorf("a secret in %s", m.Data)
		}
		n, err := events.ParseNotice(m.Data)
		r.must(err)
		all = append(all, n.Data)
	}
	return all
}

// told waits until a cause was told in a phase, and returns what was said.
func (r *rig) told(cause wxtoken.Reason, phase events.Phase) (said events.NoticeData) {
	r.Helper()
	r.eventually(func() error {
		var all []string
		for _, d := range r.notices() {
			if d.Cause == string(cause) && d.Phase == phase {
				said = d
				return nil
			}
			all = append(all, fmt.Sprintf("%s %s %d", d.Cause, d.Phase, d.Count))
		}
		return fmt.Errorf("%s %s was not told: %q", cause, phase, all)
	})
	return said
}

// once fails the test unless each cause was told so often, and nothing else.
func (r *rig) once(want map[string]int) {
	r.Helper()
	got := map[string]int{}
	for _, d := range r.notices() {
		if d.Cause != string(wxtoken.HeldNoTicket) { // the clocks of tests are put forward, and tickets are not
			got[d.Cause+" "+string(d.Phase)]++
		}
	}
	for what, n := range want {
		if got[what] != n {
			r.Errorf("%s was told %d times, want %d: %v", what, got[what], n, got)
		}
	}
	for what := range got {
		if want[what] == 0 {
			r.Errorf("%s was told, too: %v", what, got)
		}
	}
}

// TestNoticesOfAccounts has 37 accounts need an authorization, one lack a permission and one have a dead token: each cause is one notice
// and one end, with three refreshers that see it.
func TestNoticesOfAccounts(t *testing.T) {
	const needy = 37
	r := newRig(t, options{cfg: looking})
	r.start()
	r.start()
	r.authorize(alice)
	keys := r.crowd(appid, needy)
	need := func(needed bool) { // all at once: a look that sees the first few alone would tell of these
		var all sync.WaitGroup
		for _, key := range keys {
			all.Go(func() {
				for deadline := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
					cred, err := r.store.Credential(t.Context(), key)
					if err == nil {
						cred.AuthorizationNeeded = needed
						_, err = r.store.Save(t.Context(), cred)
					}
					if err == nil {
						return
					}
					if time.Now().After(deadline) {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	need(true)
	r.fail(wechatsim.Fault{API: apiRefresh, Authorizer: alice, Errcode: 48001})
	r.poke(aliceKey)
	for _, subject := range []string{events.AuthSubject(appid, "authorized"), events.AuthSubject(appid, "unauthorized"), "renewal.due.component.wxgone"} {
		_, err := r.js.Publish(t.Context(), events.DeadSubject(subject), []byte("SEKRET"))
		r.must(err)
	}
	lacking := r.told(truth.PermissionMissing, events.PhaseBegan)
	if lacking.Count != 1 || !slices.Equal(lacking.Keys, []string{aliceKey.String()}) || lacking.Error == nil || lacking.Error.Code != 48001 || lacking.Severity != events.SeverityTicket {
		t.Errorf("told %+v", lacking)
	}
	said := r.told(truth.AuthorizationNeeded, events.PhaseBegan)
	if said.Count != needy || len(said.Keys) != events.NoticeKeys || said.Keys[0] != keys[0].String() || said.Do.ZH == "" || said.Since.IsZero() || said.Component != appid {
		t.Errorf("told %+v", said)
	}
	if dead := r.told(truth.DeadLetters, events.PhaseBegan); dead.Count < 1 || dead.Count > 2 || dead.Severity != events.SeverityTicket {
		t.Errorf("told %+v", dead)
	}
	dead, err := r.js.Stream(t.Context(), events.StreamDead)
	r.must(err)
	again, err := r.js.Publish(t.Context(), events.DeadSubject(events.AuthSubject(appid, "updateauthorized")), []byte("SEKRET"))
	r.must(err)
	r.must(dead.Purge(t.Context(), jetstream.WithPurgeSequence(again.Sequence)))
	r.clock.forward(30 * time.Second) // twenty looks
	if grew := r.told(truth.DeadLetters, events.PhaseGrew); grew.Count != 1 || grew.Upto < again.Sequence {
		t.Errorf("told %+v, want the one that came after the others were dealt with", grew)
	}
	r.must(dead.Purge(t.Context()))
	need(false)
	r.told(truth.AuthorizationNeeded, events.PhaseOver)
	r.sim.Heal()
	r.clock.forward(2 * time.Minute)
	r.poke(aliceKey) // her next try: NATS, which keeps the real time, would have it a minute later
	r.told(truth.PermissionMissing, events.PhaseOver)
	r.told(truth.DeadLetters, events.PhaseOver)
	r.once(map[string]int{
		"AuthorizationNeeded began": 1, "AuthorizationNeeded over": 1, "PermissionMissing began": 1, "PermissionMissing over": 1,
		"DeadLetters began": 2, "DeadLetters grew": 1, "DeadLetters over": 2, // of the component, and of one that is not looked after here
	})
}

// TestNoticesOfComponents plays what holds a component back: each is told once by three refreshers, with how many accounts have no good
// token because of it, and its end.
func TestNoticesOfComponents(t *testing.T) {
	slower := func(c *refresher.Config) { looking(c); c.SweepEvery = 2 * time.Second } // a busy machine takes seconds for the renewals at the end
	r := newRig(t, options{idle: true, evening: true, sim: wechatsim.Config{TokenLife: 30 * time.Minute}, cfg: slower})
	for range 3 {
		r.start()
	}
	r.ticket()
	r.eventually(r.componentLives)
	keys := r.crowd(appid, 12)
	r.must(r.sim.SetDailyLimit(apiRefresh, 0))
	for _, key := range keys {
		r.pokeOnce(key)
	}
	said := r.told(wxtoken.HeldQuota, events.PhaseBegan)
	turns := r.clock.Now().Truncate(24 * time.Hour).Add(16 * time.Hour)
	if said.Count != 0 || said.Until == nil || !said.Until.Equal(turns) || said.Error == nil || said.Error.Code != 45009 || said.Severity != events.SeverityPage {
		t.Errorf("told %+v, want until %s", said, turns)
	}
	r.heard()
	r.clock.forward(20 * time.Minute)
	r.poke(componentKey) // it is to live when all others are dead
	r.until("the component was not renewed", func() bool { return r.token(componentKey).Generation > 1 })
	r.clock.forward(11 * time.Minute)
	if grew := r.told(wxtoken.HeldQuota, events.PhaseGrew); grew.Count != len(keys) || len(grew.Keys) != events.NoticeKeys {
		t.Errorf("told %+v", grew)
	}
	r.must(r.sim.SetDailyLimit(apiRefresh, -1))
	if code, text := r.refusal(events.SubjectQuota, fmt.Sprintf(`{"component":%q,"clear":true,"confirm":%[1]q}`, appid)); code != "" {
		t.Fatalf("not cleared: %s %s", code, text)
	}
	r.told(wxtoken.HeldQuota, events.PhaseOver)
	r.once(map[string]int{"QuotaGone began": 1, "QuotaGone grew": 1, "QuotaGone over": 1})
}

// TestNoticesWithoutWork starts a refresher while NATS is away, as after a power cut, and later takes the streams from under it. It makes no
// sweeps then, and tells that nothing is renewed all the same, and that this is over.
func TestNoticesWithoutWork(t *testing.T) {
	r := newRig(t, options{idle: true, cfg: looking})
	var mu sync.Mutex
	var told []events.NoticeData
	r.deps = func(d *refresher.Deps) {
		d.Direct = func(n events.Notice) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, n.Data)
		}
		r.nats.Stop() // it was connected, and has not begun
	}
	heard := func(want ...events.Phase) {
		r.Helper()
		r.eventually(func() error {
			mu.Lock()
			defer mu.Unlock()
			var phases []events.Phase
			for _, d := range told {
				phases = append(phases, d.Phase)
				if d.Cause != string(wxtoken.HeldNATS) || d.Instance == "" || d.What.EN == "" || d.Since.IsZero() {
					r.Errorf("told %+v", d)
				}
			}
			if !slices.Equal(phases, want) {
				return fmt.Errorf("told %v, want %v", phases, want)
			}
			return nil
		})
	}
	first := r.start()
	heard(events.PhaseBegan)
	r.nats.Restart()
	heard(events.PhaseBegan, events.PhaseOver)
	r.until("not ready", func() bool { return first.work.Ready(t.Context()) == nil })
	r.must(r.js.DeleteStream(t.Context(), events.StreamTokens))
	heard(events.PhaseBegan, events.PhaseOver, events.PhaseBegan)
	r.deps = nil
	second := r.start() // it makes the streams
	heard(events.PhaseBegan, events.PhaseOver, events.PhaseBegan, events.PhaseOver)
	second.stop()
}
