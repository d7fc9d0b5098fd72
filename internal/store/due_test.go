package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
)

func TestReschedule(t *testing.T) {
	r := newRig(t)
	want := token(key, 3)
	r.must(r.store.Reschedule(t.Context(), want))
	m := r.last(events.ScheduleSubject(key))
	if m == nil || m.Header.Get(jetstream.ScheduleHeader) != "@at "+want.RenewAt.Format(time.RFC3339) ||
		m.Header.Get(jetstream.ScheduleTargetHeader) != events.DueSubject(key) {
		t.Fatalf("schedule %+v", m)
	}
	due, err := events.ParseDue(m.Data)
	if err != nil || due != (events.Due{Key: key, Generation: 3, Reason: events.ReasonScheduled}) {
		t.Errorf("due message %+v, %v", due, err)
	}
	want.RenewAt = time.Now().Add(-time.Hour) // long past: it fires now
	r.must(r.store.Reschedule(t.Context(), want))
	r.eventually("the schedule fires", func() bool { return r.last(events.DueSubject(key)) != nil })
	if r.last(events.ScheduleSubject(key)) != nil {
		t.Error("a schedule that fired is still there")
	}
}

func TestMakeDue(t *testing.T) {
	r := newRig(t)
	make := func(generation uint64, id string) uint64 {
		t.Helper()
		r.must(r.store.MakeDue(t.Context(), events.Due{Key: key, Generation: generation, Reason: events.ReasonSwept}, id))
		return r.last(events.DueSubject(key)).Sequence
	}
	first := make(1, "a/1/sweep")
	if again := make(1, "a/1/sweep"); again != first {
		t.Error("the same id made a second message")
	}
	second := make(2, "a/2/sweep")
	third := make(2, "")
	fourth := make(2, "")
	if second == first || third == second || fourth == third {
		t.Error("messages of their own were taken for one")
	}
}

// TestSaveDue stores a credential and a due message: both, or none of them.
func TestSaveDue(t *testing.T) {
	r := newRig(t)
	r.run()
	first, err := r.store.SaveDue(t.Context(), credential(key, 3), events.ReasonListed)
	r.must(err)
	m := r.last(events.DueSubject(key))
	if due, err := events.ParseDue(m.Data); err != nil || due.Key != key || due.Generation != 3 || due.Reason != events.ReasonListed {
		t.Errorf("due is %+v, %v", due, err)
	}
	if stored, err := r.store.Credential(t.Context(), key); err != nil || stored.Generation != 3 || stored.Revision != first.Revision {
		t.Errorf("stored: %+v, %v", stored, err)
	}
	if _, err := r.store.SaveDue(t.Context(), credential(key, 4), events.ReasonListed); !errors.Is(err, store.ErrLost) {
		t.Errorf("at a revision that is past: %v", err)
	}
	if again := r.last(events.DueSubject(key)); again.Sequence != m.Sequence {
		t.Error("the due message of a credential that was not stored was")
	}
}

func TestScheduleReconcile(t *testing.T) {
	r := newRig(t)
	schedule, due := events.ReconcileScheduleSubject("wxc"), events.ReconcileDueSubject("wxc")
	step := func(every time.Duration, now bool) (scheduled, made uint64) {
		t.Helper()
		r.must(r.store.ScheduleReconcile(t.Context(), "wxc", every, now))
		return r.last(schedule).Sequence, r.last(due).Sequence
	}
	s1, d1 := step(6*time.Hour, false)
	if d1 > s1 {
		t.Error("the schedule is stored first: who ends in between leaves one that hides that the first reconcile is missing")
	}
	if s2, d2 := step(6*time.Hour, false); s2 != s1 || d2 != d1 {
		t.Error("scheduled once more although it was")
	}
	s3, d3 := step(6*time.Hour, true)
	if s3 != s1 || d3 == d1 {
		t.Error("asked for now: the schedule has to stay, and a due message has to come")
	}
	if s4, d4 := step(time.Hour, false); s4 == s1 || d4 == d3 {
		t.Error("another interval changed nothing")
	}
	if component, ok := events.ReconcileComponent(due); !ok || component != "wxc" {
		t.Errorf("the subject speaks of %q", component)
	}
}

// TestDueWaiting makes two keys due of which one is handed out: the other waits. What was made due anew waits again.
func TestDueWaiting(t *testing.T) {
	r := newRig(t)
	other := wxtoken.AuthorizerKey("wxc", "wxother")
	waiting := func(want, wantOther bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // the server counts for a consumer after it has acked
			waits := r.store.DueWaiting(t.Context())
			got, gotOther := waits(t.Context(), key), waits(t.Context(), other)
			if got == want && gotOther == wantOther {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("waiting: %t and %t, want %t and %t", got, gotOther, want, wantOther)
			}
		}
	}
	waiting(false, false) // there is not even a consumer
	cons, err := r.js.CreateConsumer(t.Context(), events.StreamTokens, jetstream.ConsumerConfig{
		Durable: events.DurableDue, FilterSubject: events.AllDue, AckPolicy: jetstream.AckExplicitPolicy,
	})
	r.must(err)
	var all []store.DueRequest
	for _, k := range []wxtoken.Key{key, other} {
		all = append(all, store.DueRequest{Due: events.Due{Key: k, Reason: events.ReasonSwept}, ID: k.String()})
	}
	r.must(r.store.MakeAllDue(t.Context(), all))
	waiting(true, true)
	m, err := cons.Next()
	r.must(err)
	if due, err := events.ParseDue(m.Data()); err != nil || due.Key != key {
		t.Errorf("the first is %+v, %v", due, err)
	}
	waiting(false, true)
	r.must(r.store.MakeAllDue(t.Context(), all)) // the same ids: these are known
	waiting(false, true)
	r.must(r.store.MakeDue(t.Context(), all[0].Due, ""))
	waiting(true, true)
}

// TestStoppedScheduleIsFoundByTwo has two refreshers find that the schedule of reconciles has stopped: the id of the reconcile that
// comes due says which stop it is for, so that what another makes for the same one is no second.
func TestStoppedScheduleIsFoundByTwo(t *testing.T) {
	r := newRig(t)
	other := r.open(nil)
	const component, every = "wxc", time.Hour
	r.must(r.store.ScheduleReconcile(t.Context(), component, every, false))
	ids := map[string]bool{"": true}
	for range 2 {
		before := r.last(events.ReconcileDueSubject(component))
		r.must(r.store.KeepReconciling(t.Context(), component, every, time.Now().Add(3*every)))
		made := r.last(events.ReconcileDueSubject(component))
		id := made.Header.Get(jetstream.MsgIDHeader)
		if made.Sequence == before.Sequence || ids[id] {
			t.Fatalf("made %+v, want one with an id of its own", made)
		}
		ids[id] = true
		r.must(other.MakeReconcileDue(t.Context(), component, id))
		if last := r.last(events.ReconcileDueSubject(component)); last.Sequence != made.Sequence {
			t.Error("the second refresher made another due")
		}
	}
}
