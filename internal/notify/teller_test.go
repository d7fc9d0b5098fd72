package notify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams/streamstest"
	"wxtoken/internal/truth"
)

// rig is a NATS with the streams, and some tellers, each with a connection of its own.
type rig struct {
	*testing.T
	srv     *natsdtest.Server
	js      jetstream.JetStream
	tellers []*Teller
	now     time.Time
	mu      sync.Mutex
	direct  []events.Notice
}

// look is the time between two looks of the tests: their clock is put forward by it.
const look = 30 * time.Second

func newRig(t *testing.T, tellers int) *rig {
	t.Helper()
	srv := natsdtest.StartTCP(t)
	nc := srv.Connect()
	js := natsdtest.JetStream(t, nc)
	streamstest.Setup(t, nc, js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	r := &rig{T: t, srv: srv, js: js, now: time.Now()}
	for range tellers {
		js := natsdtest.JetStream(t, srv.Connect())
		r.tellers = append(r.tellers, &Teller{JetStream: js, Log: zerolog.Nop(), Look: look, Direct: func(n events.Notice) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.direct = append(r.direct, n)
		}})
	}
	return r
}

// observe has all tellers see the same at once, that many times.
func (r *rig) observe(looks int, wrong ...events.NoticeData) {
	r.Helper()
	for range looks {
		r.now = r.now.Add(look)
		var working sync.WaitGroup
		for _, t := range r.tellers {
			working.Go(func() {
				if err := t.Tell(r.Context(), r.now, []string{component}, wrong); err != nil {
					r.Error(err)
				}
			})
		}
		working.Wait()
	}
}

// notices returns what lies on JOURNAL, as "cause phase count".
func (r *rig) notices() (all []string) {
	r.Helper()
	stream, err := r.js.Stream(r.Context(), events.StreamJournal)
	if err != nil {
		r.Fatal(err)
	}
	info, err := stream.Info(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(r.Context(), seq)
		if err != nil {
			r.Fatal(err)
		}
		n, err := events.ParseNotice(m.Data)
		if err != nil {
			r.Fatal(err)
		}
		if want := events.JournalSubject(events.JournalNotice, n.Data.Component, n.Data.Cause); m.Subject != want || m.Header.Get("Nats-TTL") != "720h0m0s" {
			r.Errorf("on %s with %v, want %s and 30 days", m.Subject, m.Header, want)
		}
		all = append(all, fmt.Sprintf("%s %s %d", n.Data.Cause, n.Data.Phase, n.Data.Count))
	}
	return all
}

func (r *rig) wantNotices(want ...string) {
	r.Helper()
	if got := r.notices(); !slices.Equal(got, want) {
		r.Fatalf("told %q, want %q", got, want)
	}
}

func noticeOf(cause wxtoken.Reason, accounts int) events.NoticeData {
	d := events.NoticeData{Cause: string(cause), Component: component, Count: accounts}
	for i := range min(accounts, events.NoticeKeys) {
		d.Keys = append(d.Keys, wxtoken.AuthorizerKey(component, fmt.Sprintf("wx%d", i)).String())
	}
	return d
}

// TestToldOnce has five tellers see a cause begin, go on and end, all at the same moment: it is told once, and so is its end.
func TestToldOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, 5)
	r.observe(3)
	r.wantNotices()
	r.observe(1, noticeOf(wxtoken.HeldRefused, 0))
	r.wantNotices("CallsRefused began 0")
	r.observe(50, noticeOf(wxtoken.HeldRefused, 0))
	r.observe(overFor)
	r.wantNotices("CallsRefused began 0")
	r.observe(1, noticeOf(wxtoken.HeldRefused, 0)) // it was only out of sight
	r.observe(overFor)
	r.wantNotices("CallsRefused began 0")
	r.observe(2)
	r.wantNotices("CallsRefused began 0", "CallsRefused over 0")
	r.observe(20)
	r.observe(1, noticeOf(wxtoken.HeldRefused, 0)) // again
	r.observe(5)
	r.wantNotices("CallsRefused began 0", "CallsRefused over 0", "CallsRefused began 0", "CallsRefused over 0")
}

// TestLasting passes over what ends by itself within two minutes, and what needs no person.
func TestLasting(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	for range 3 {
		r.observe(lastsFor, noticeOf(wxtoken.HeldAway, 0), noticeOf(wxtoken.HeldMinuteLimit, 0), noticeOf(wxtoken.HeldListFirst, 0))
		r.observe(1)
	}
	r.wantNotices()
	r.observe(lastsFor+1, noticeOf(wxtoken.HeldAway, 0))
	r.wantNotices("WeChatAway began 0")
}

// TestGroups tells of many accounts at once, of more only where they have doubled or a day is over, and of none by itself.
func TestGroups(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3)
	r.observe(1, noticeOf(truth.AuthorizationNeeded, 12))
	r.observe(lastsFor, noticeOf(truth.AuthorizationNeeded, 37))
	r.wantNotices("AuthorizationNeeded began 37")
	r.observe(60, noticeOf(truth.AuthorizationNeeded, 37))
	r.observe(grownAfter-1, noticeOf(truth.AuthorizationNeeded, 12))
	r.observe(60, noticeOf(truth.AuthorizationNeeded, 73))
	r.wantNotices("AuthorizationNeeded began 37")
	r.observe(1, noticeOf(truth.AuthorizationNeeded, 74))
	r.wantNotices("AuthorizationNeeded began 37", "AuthorizationNeeded grew 74")
	r.observe(grownAfter-1, noticeOf(truth.AuthorizationNeeded, 5000))
	r.wantNotices("AuthorizationNeeded began 37", "AuthorizationNeeded grew 74")
	r.observe(2, noticeOf(truth.AuthorizationNeeded, 5000))
	r.wantNotices("AuthorizationNeeded began 37", "AuthorizationNeeded grew 74", "AuthorizationNeeded grew 5000")
	r.now = r.now.Add(25 * time.Hour)
	r.observe(1, noticeOf(truth.AuthorizationNeeded, 5001))
	r.observe(5, noticeOf(wxtoken.HeldQuota, 3))
	r.wantNotices("AuthorizationNeeded began 37", "AuthorizationNeeded grew 74", "AuthorizationNeeded grew 5000", "AuthorizationNeeded grew 5001",
		"QuotaGone began 3", "AuthorizationNeeded over 0")
}

// TestNewAccounts: accounts that come after others were mended are told, once it has lasted that those are.
func TestNewAccounts(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	r.observe(lastsFor+1, noticeOf(truth.AuthorizationNeeded, 10))
	r.observe(grownAfter+2, noticeOf(truth.AuthorizationNeeded, 3))
	r.observe(10, noticeOf(truth.AuthorizationNeeded, 5))
	r.wantNotices("AuthorizationNeeded began 10")
	r.observe(10, noticeOf(truth.AuthorizationNeeded, 6))
	r.wantNotices("AuthorizationNeeded began 10", "AuthorizationNeeded grew 6")
	r.observe(60, noticeOf(truth.AuthorizationNeeded, 6))
	r.wantNotices("AuthorizationNeeded began 10", "AuthorizationNeeded grew 6")
}

// TestNewDeadLetter: a message that comes to DEAD after others were dealt with is told once, also where fewer lie there than were told.
func TestNewDeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	lying := map[uint64]bool{1: true, 2: true, 3: true, 4: true} // sequences
	for _, teller := range r.tellers {
		teller.Fresh = func(_ context.Context, _ string, sequence uint64) (n int, err error) {
			for s := range lying {
				if s > sequence {
					n++
				}
			}
			return n, nil
		}
	}
	see := func(looks int, last uint64) {
		t.Helper()
		d := noticeOf(truth.DeadLetters, len(lying))
		d.Keys, d.Upto = nil, last
		r.observe(looks, d)
	}
	see(grownAfter+lastsFor+1, 4)
	told := []string{"DeadLetters began 4"}
	r.wantNotices(told...)
	delete(lying, 1)
	delete(lying, 2)
	lying[5] = true
	see(20, 5) // two that were told lie there beside it: within a day
	r.wantNotices(told...)
	delete(lying, 3)
	see(5, 5)
	told = append(told, "DeadLetters grew 2")
	r.wantNotices(told...)
	clear(lying)
	lying[6] = true
	see(grownAfter-10, 6)
	r.wantNotices(told...) // not yet: it would be one message for each that comes
	r.tellers = r.tellers[1:]
	see(20, 6)
	told = append(told, "DeadLetters grew 1")
	r.wantNotices(told...)
	see(60, 6)
	r.observe(overFor + 1)
	r.wantNotices(append(told, "DeadLetters over 0")...)
}

// TestHandedOver ends one teller and begins another: it tells nothing again, and the end of what the first one told. It leaves alone
// what is about components that it does not know.
func TestHandedOver(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	first, second := r.tellers[0], r.tellers[1]
	other := noticeOf(wxtoken.HeldQuota, 0)
	other.Component = "wxother"
	r.tellers = []*Teller{first}
	r.observe(1, noticeOf(truth.SealKeyUnknown, 0), other)
	told := r.notices()
	if len(told) != 2 {
		t.Fatalf("told %q", told)
	}
	r.tellers = []*Teller{second}
	r.observe(10, noticeOf(truth.SealKeyUnknown, 0))
	r.wantNotices(told...)
	r.observe(10)
	r.wantNotices(append(told, "SealKeyUnknown over 0")...)
}

// TestRemoved: what was told of a component ends where the component is looked after no more, with a word that says so. A refresher that
// has it still tells it anew, and is not gainsaid.
func TestRemoved(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	without, with := r.tellers[0], r.tellers[1]
	other := noticeOf(wxtoken.HeldQuota, 2)
	other.Component = "wxother"
	r.tellers = []*Teller{with}
	r.observe(1, other)
	r.tellers = []*Teller{without}
	r.observe(removedFor)
	r.wantNotices("QuotaGone began 2")
	r.observe(1)
	r.wantNotices("QuotaGone began 2", "QuotaGone over 0")
	if what := without.last[events.JournalSubject(events.JournalNotice, "wxother", other.Cause)].notice.Data.What; !strings.Contains(what.EN, "removed from the settings") || !strings.Contains(what.ZH, "移除") {
		t.Errorf("it says %q", what)
	}
	r.tellers = []*Teller{with}
	r.observe(1, other)
	r.tellers = []*Teller{without}
	r.observe(2 * removedFor)
	r.wantNotices("QuotaGone began 2", "QuotaGone over 0", "QuotaGone began 2")
}

// TestNATSAway is told directly, by each for itself, and nothing is written.
func TestNATSAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.observe(lastsFor, noticeOf(wxtoken.HeldNATS, 7), noticeOf(wxtoken.HeldQuota, 0))
	if len(r.direct) != 0 {
		t.Errorf("told after %d looks: %+v", lastsFor, r.direct)
	}
	r.observe(5, noticeOf(wxtoken.HeldNATS, 7), noticeOf(wxtoken.HeldQuota, 0))
	r.wantNotices()
	if len(r.direct) != 1 || r.direct[0].Data.Phase != events.PhaseBegan || r.direct[0].Data.Component != "" || r.direct[0].Data.Instance == "" {
		t.Fatalf("told %+v", r.direct)
	}
	r.observe(2, noticeOf(wxtoken.HeldQuota, 0))
	r.wantNotices("QuotaGone began 0")
	if len(r.direct) != 2 || r.direct[1].Data.Phase != events.PhaseOver {
		t.Fatalf("told %+v", r.direct)
	}
}

// TestOthersOver: a refresher that learns of a cause later than another does not say that it is over because it saw it end once before,
// and the other one wrote so.
func TestOthersOver(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	late, first := r.tellers[0], r.tellers[1]
	refused := noticeOf(wxtoken.HeldRefused, 0)
	r.observe(1, refused)
	r.tellers = []*Teller{late}
	r.observe(1)
	r.tellers = []*Teller{first}
	r.observe(overFor + 1)
	r.wantNotices("CallsRefused began 0", "CallsRefused over 0")
	r.tellers = []*Teller{late}
	r.observe(1)
	r.tellers = []*Teller{first}
	r.observe(1, refused)
	r.tellers = []*Teller{late}
	r.observe(1)
	r.wantNotices("CallsRefused began 0", "CallsRefused over 0", "CallsRefused began 0")
}
