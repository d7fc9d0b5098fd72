package ingest

import (
	"fmt"
	"testing"
	"time"
)

func TestListeners(t *testing.T) {
	t.Parallel()
	now := testNow
	l := &listeners{now: func() time.Time { return now }}
	const subject, other = "wechat.reply.c.a.text", "wechat.reply.c.b.text"
	ask := func(subject string, listens bool) bool {
		asked := l.mayListen(subject)
		if asked {
			l.record(subject, listens)
		}
		return asked
	}
	for n := range silentAfter {
		if !ask(subject, false) {
			t.Fatalf("question %d is not asked", n+1)
		}
	}
	if ask(subject, false) {
		t.Error("asked once more within the second")
	}
	if !ask(other, false) {
		t.Error("another subject is not asked about")
	}
	now = now.Add(silenceLasts)
	if !ask(subject, true) {
		t.Fatal("not asked in the next second")
	}
	for range 3 * silentAfter {
		if !ask(subject, true) {
			t.Fatal("not asked though a service listens")
		}
	}
	for range silentAfter - 1 {
		ask(subject, false)
	}
	if !ask(subject, true) || !ask(subject, false) { // an answer makes up for all before
		t.Error("not asked after an answer")
	}
	for range silentAfter {
		ask(subject, false)
	}
	now = now.Add(-time.Hour) // the clock was put back
	if !ask(subject, false) {
		t.Error("not asked after the clock was put back")
	}

	for n := range maxSilent + 10 {
		ask(fmt.Sprint(n), false)
	}
	if len(l.none) > maxSilent {
		t.Errorf("%d subjects are remembered", len(l.none))
	}
	for range 2 * silentAfter {
		if !ask("one more", false) {
			t.Fatal("a subject beyond the bound is not asked about")
		}
	}
}
