package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/truth"
)

// How long a change must last before a notice is written, in looks: each sweep of a refresher makes
// one look, every 30 s by default.
const (
	// A cause that may end by itself. This also gathers the accounts of one cause into one notice.
	lastsFor   = 4
	overFor    = 2    // absence of a cause before it counts as over
	removedFor = 20   // absence of a component from the settings here, before it is taken to be gone from all refreshers
	grownAfter = 20   // before more is reported where twice as many accounts are concerned; also before a smaller number is believed
	grownAtAll = 2880 // before more is reported where any more accounts are concerned: a day
)

// Teller writes notices: one when a cause begins and one when it is over, however many refreshers
// see it.
//
// The last notice on a subject of JOURNAL is the current state. Each refresher compares it with
// what it sees, and writes the next one only if the one it has read is still the last
// (Nats-Expected-Last-Subject-Sequence): of several refreshers that see a change at once, one
// writes it.
type Teller struct {
	JetStream jetstream.JetStream
	Log       zerolog.Logger
	Look      time.Duration // between two looks
	// Fresh returns how many of a component's messages are on DEAD beyond a sequence. If there are
	// many it may count only a part.
	Fresh func(ctx context.Context, component string, sequence uint64) (int, error)
	// Direct is called with notices about NATS itself, which can't go through NATS: each refresher
	// sends its own.
	Direct func(events.Notice)

	stream jetstream.Stream
	last   map[string]record    // by subject
	first  map[string]time.Time // since when this refresher sees a cause
	gone   map[string]time.Time // since when a reported cause is not seen any more
	ended  map[string]bool      // reported as over because the component was removed
	levels map[string]level     // by subject
	away   *events.Notice       // the notice that was sent directly, while it lasts
}

// record is the last notice on a subject of JOURNAL.
type record struct {
	sequence uint64
	messages uint64 // how many are on its subject
	notice   events.Notice
}

// level is how many of the reported accounts are still concerned. It falls when fewer are seen for
// a while, so that accounts that come later are reported as more.
type level struct {
	sequence uint64 // of the notice that reported them
	accounts int
	since    time.Time // since when fewer are seen
	most     int       // the largest number seen since then
}

// standing reports whether the last notice says that the cause still exists.
func (r record) standing() bool { return r.sequence > 0 && r.notice.Data.Phase != events.PhaseOver }

// Tell compares what is wrong now with what was reported, and writes notices about the differences.
// components are those in the settings of this refresher. Causes that need no person are skipped.
func (t *Teller) Tell(ctx context.Context, now time.Time, components []string, wrong []events.NoticeData) error {
	if t.first == nil {
		t.last, t.levels = map[string]record{}, map[string]level{}
		t.first, t.gone, t.ended = map[string]time.Time{}, map[string]time.Time{}, map[string]bool{}
	}
	seen := map[string]events.NoticeData{}
	var away *events.NoticeData
	for _, d := range wrong {
		cause := truth.CauseOf(wxtoken.Reason(d.Cause))
		switch {
		case cause.Severity == "":
			continue
		case cause.Name == wxtoken.HeldNATS:
			d.Component = "" // it concerns all components
			away = &d
		default:
			seen[events.JournalSubject(events.JournalNotice, d.Component, d.Cause)] = d
		}
	}
	t.tellDirectly(now, away)
	if away != nil {
		return nil // the rest can't be written
	}
	if err := t.read(ctx); err != nil {
		return err
	}
	var failed error
	for _, subject := range inOrder(seen) {
		failed = errors.Join(failed, t.tellSeen(ctx, now, subject, seen[subject]))
	}
	for subject, r := range t.last {
		if _, there := seen[subject]; there || !r.standing() {
			continue
		}
		component := r.notice.Data.Component
		kept := component == "" || slices.Contains(components, component)
		failed = errors.Join(failed, t.tellOver(ctx, now, subject, r, kept))
	}
	// Another refresher may have written that it is over. Without this the next time would count as
	// gone since this one, and this refresher would say that it is over before it has seen it begin.
	maps.DeleteFunc(t.gone, func(subject string, _ time.Time) bool { return !t.last[subject].standing() })
	for subject := range t.first {
		if _, there := seen[subject]; !there && subject != "" {
			delete(t.first, subject)
		}
	}
	return failed
}

// inOrder returns the subjects of what is seen, the most urgent first: receivers get notices in the
// order of JOURNAL.
func inOrder(seen map[string]events.NoticeData) []string {
	return slices.SortedFunc(maps.Keys(seen), func(a, b string) int {
		return cmp.Or(truth.OfNotice(seen[a]).Compare(truth.OfNotice(seen[b])), cmp.Compare(a, b))
	})
}

// tellDirectly sends a notice when NATS is away, and one when it is back, without NATS.
func (t *Teller) tellDirectly(now time.Time, wrong *events.NoticeData) {
	const subject = "" // not a subject of JOURNAL
	switch {
	case wrong == nil && t.away != nil:
		d := t.away.Data
		t.away = nil
		t.send(events.NewNotice(now, over(d)))
		fallthrough
	case wrong == nil:
		delete(t.first, subject)
	case t.first[subject].IsZero():
		t.first[subject] = now
	case t.away == nil && now.Sub(t.first[subject]) >= lastsFor*t.Look:
		wrong.Instance, _ = os.Hostname()
		n := events.NewNotice(now, complete(*wrong, events.PhaseBegan, t.first[subject]))
		t.away = &n
		t.send(n)
	}
}

func (t *Teller) send(n events.Notice) {
	if t.Direct != nil {
		t.Direct(n)
	}
}

// complete adds phase, severity and texts to a notice.
func complete(d events.NoticeData, phase events.Phase, first time.Time) events.NoticeData {
	cause := truth.CauseOf(wxtoken.Reason(d.Cause))
	d.Phase, d.Severity, d.What, d.Do = phase, cause.Severity, cause.What(d.Error), cause.Do(d.Error)
	if d.Since.IsZero() {
		d.Since = first
	}
	d.Since, d.Most = d.Since.UTC(), max(d.Most, d.Count)
	if d.Error != nil {
		bounded := *d.Error
		bounded.Message = shorten(bounded.Message)
		d.Error = &bounded
	}
	return d
}

// over returns the data of a cause for the notice that it is over.
func over(d events.NoticeData) events.NoticeData {
	d.Phase, d.Until, d.Count, d.Keys, d.Names, d.Do = events.PhaseOver, nil, 0, nil, nil, lang.Text{}
	return d
}

// tellSeen writes a notice about a cause that is seen, if it is new or has grown.
func (t *Teller) tellSeen(ctx context.Context, now time.Time, subject string, d events.NoticeData) error {
	delete(t.gone, subject)
	delete(t.ended, subject)
	if t.first[subject].IsZero() {
		t.first[subject] = now
	}
	r := t.last[subject]
	if r.standing() {
		left, err := t.left(ctx, now, subject, r, d)
		since := now.Sub(r.notice.Time)
		if err != nil || d.Count <= left || since < grownAfter*t.Look || d.Count < 2*left && since < grownAtAll*t.Look {
			return err
		}
		d.Since = r.notice.Data.Since
		return t.write(ctx, subject, r, events.NewNotice(now, complete(d, events.PhaseGrew, d.Since)))
	}
	if truth.CauseOf(wxtoken.Reason(d.Cause)).Lasting && now.Sub(t.first[subject]) < lastsFor*t.Look {
		return nil
	}
	return t.write(ctx, subject, r, events.NewNotice(now, complete(d, events.PhaseBegan, t.first[subject])))
}

// left returns how many of the reported messages or accounts are still concerned. For messages on
// DEAD their sequences tell. For accounts only their number is known, and a refresher that has just
// started assumes that all still are.
func (t *Teller) left(ctx context.Context, now time.Time, subject string, r record, d events.NoticeData) (int, error) {
	told := r.notice.Data
	switch {
	case d.Upto > 0 && d.Upto <= told.Upto:
		return d.Count, nil
	case d.Upto > 0:
		fresh, err := t.Fresh(ctx, d.Component, told.Upto)
		return min(d.Count-fresh, told.Most), err
	}
	l := t.levels[subject]
	if l.sequence != r.sequence {
		l = level{sequence: r.sequence, accounts: told.Most, since: now}
	}
	if d.Count >= l.accounts {
		l.since, l.most = now, 0
	} else if l.most = max(l.most, d.Count); now.Sub(l.since) >= grownAfter*t.Look {
		l.accounts, l.since, l.most = l.most, now, 0
	}
	t.levels[subject] = l
	return l.accounts, nil
}

// tellOver writes the notice that a cause is over, once it was not seen for a while: refreshers
// learn of a cause one after the other, and one that has just started knows little. kept says that
// its component is in the settings of this refresher.
//
// If it is not, it was removed from the settings, which refreshers read one after the other. A
// refresher that still has the component reports the cause again; this one does not contradict it a
// second time.
func (t *Teller) tellOver(ctx context.Context, now time.Time, subject string, r record, kept bool) error {
	lasts := overFor
	if !kept {
		lasts = removedFor
	}
	if t.gone[subject].IsZero() {
		t.gone[subject] = now
	}
	if now.Sub(t.gone[subject]) < time.Duration(lasts)*t.Look || !kept && t.ended[subject] {
		return nil
	}
	d := over(r.notice.Data)
	if !kept {
		d.What = lang.T("%s (the component was removed from the settings)", "%s（该第三方平台已从设置中移除）", d.What)
		t.ended[subject] = true
	}
	delete(t.gone, subject)
	return t.write(ctx, subject, r, events.NewNotice(now, d))
}

// read reads the last notices of subjects that changed since the last call.
func (t *Teller) read(ctx context.Context) (err error) {
	if t.stream == nil {
		if t.stream, err = t.JetStream.Stream(ctx, events.StreamJournal); err != nil {
			return fmt.Errorf("read notices: %w", err)
		}
	}
	info, err := t.stream.Info(ctx, jetstream.WithSubjectFilter(events.JournalFilter(events.JournalNotice)))
	if err != nil {
		return fmt.Errorf("read notices: %w", err)
	}
	for subject := range t.last {
		if info.State.Subjects[subject] == 0 {
			delete(t.last, subject) // it has expired
		}
	}
	for subject, messages := range info.State.Subjects {
		if r, known := t.last[subject]; known && r.messages == messages {
			continue
		}
		m, err := t.stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // read from a replica that lags behind
		}
		if err != nil {
			return fmt.Errorf("read notice on %s: %w", subject, err)
		}
		n, err := events.ParseNotice(m.Data)
		if err != nil {
			t.Log.Warn().Str("subject", subject).Msg("unreadable notice skipped")
		}
		t.last[subject] = record{m.Sequence, messages, n}
	}
	return nil
}

// write writes a notice after r. If another refresher was faster that is not a fault: it wrote the
// same.
func (t *Teller) write(ctx context.Context, subject string, r record, n events.Notice) error {
	data, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode notice: %w", err)
	}
	m := nats.NewMsg(subject)
	m.Data = data
	ack, err := t.JetStream.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(r.sequence),
		jetstream.WithMsgID(subject+"/"+strconv.FormatUint(r.sequence, 10)), jetstream.WithMsgTTL(events.NoticeLife))
	refused := (*jetstream.APIError)(nil)
	switch {
	case errors.As(err, &refused) && refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		delete(t.last, subject)
		return nil
	case err != nil:
		return fmt.Errorf("write notice on %s: %w", subject, err)
	case ack.Duplicate:
		delete(t.last, subject)
		return nil
	}
	t.last[subject] = record{ack.Sequence, r.messages + 1, n}
	t.Log.Warn().Str("component", n.Data.Component).Str("cause", n.Data.Cause).Str("phase", string(n.Data.Phase)).
		Int("accounts", n.Data.Count).Msg("notice written")
	return nil
}
