package streams_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/streams"
)

// TestFloodLeavesAudit: neither what strangers cause nor what ingests and gateways write themselves, as much as they like, pushes out who
// had what done, and what was told. It begins with streams of before, when all of it lay together.
func TestFloodLeavesAudit(t *testing.T) {
	r := newEmptyRig(t)
	table := events.Streams(config)
	of := func(name string) jetstream.StreamConfig {
		return table[slices.IndexFunc(table, func(sc jetstream.StreamConfig) bool { return sc.Name == name })]
	}
	before := of(events.StreamJournal)
	before.Subjects = []string{events.AllJournal}
	_, err := r.js.CreateStream(t.Context(), before)
	r.must(err)
	audit := events.JournalSubject(events.JournalAudit, "wxc", events.ActionReveal)
	notice := events.JournalSubject(events.JournalNotice, "wxc", "QuotaGone")
	push := events.JournalSubject(events.JournalPush, "wxc", "rejected")
	for _, subject := range []string{audit, notice, push} {
		_, err := r.js.Publish(t.Context(), subject, []byte("{}"))
		r.must(err)
	}
	created, err := streams.Setup(t.Context(), r.nc, r.js, config)
	if err != nil || !slices.Contains(created, events.StreamTraffic) {
		t.Fatalf("created %v, %v", created, err)
	}

	const most, each, flood = 100, 40, 300
	if sc := of(events.StreamTraffic); sc.MaxMsgs < most || sc.MaxMsgsPerSubject < each || sc.MaxMsgsPerSubject > sc.MaxMsgs/2 {
		t.Fatalf("the bounds of %s: %+v", sc.Name, sc)
	}
	for name, perSubject := range map[string]int64{events.StreamJournal: -1, events.StreamTraffic: each} { // 500,000 take longer, and say the same
		sc := of(name)
		sc.MaxMsgs, sc.MaxMsgsPerSubject = most, perSubject
		_, err := r.js.UpdateStream(t.Context(), sc)
		r.must(err)
	}
	counts := events.JournalSubject(events.JournalCount, "ingest", "one")
	_, err = r.js.Publish(t.Context(), counts, []byte("{}"))
	r.must(err)
	for i := range flood {
		_, err := r.js.PublishAsync(push, fmt.Append(nil, i))
		r.must(err)
	}
	<-r.js.PublishAsyncComplete()
	if n := r.info(events.StreamTraffic).State.Msgs; n != each+1 {
		t.Errorf("%d records of traffic are left of one flood, want %d and the counts", n, each)
	}
	for i := range flood { // a stranger chooses among components, too
		_, err := r.js.PublishAsync(events.JournalSubject(events.JournalPush, fmt.Sprint("wx", i), "rejected"), []byte("{}"))
		r.must(err)
	}
	<-r.js.PublishAsyncComplete()
	if n := r.info(events.StreamTraffic).State.Msgs; n != most {
		t.Errorf("%d records of traffic are left of many floods, want %d", n, most)
	}
	journal, err := r.js.Stream(t.Context(), events.StreamJournal)
	r.must(err)
	for _, subject := range []string{audit, notice} {
		if _, err := journal.GetLastMsgForSubject(t.Context(), subject); err != nil {
			t.Errorf("%s is gone: %v", subject, err)
		}
	}
	for _, role := range []string{events.RoleIngest, events.RoleGateway} {
		for _, right := range events.Rights(role) {
			for _, subject := range of(events.StreamJournal).Subjects {
				if right.Verb == events.MayPublish && events.Overlaps(right.Subject, subject) {
					t.Errorf("%s may write %s, and so push out %s", role, right.Subject, subject)
				}
			}
		}
	}
}
