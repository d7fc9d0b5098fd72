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

// How long things last before they are told, in looks: a look is what a refresher's sweep makes,
// every 30 s by default.
const (
	// A cause that may end by itself; within that time the accounts of a cause come together, too.
	lastsFor   = 4
	overFor    = 2    // the absence of a cause, before it counts as over
	removedFor = 20   // that a component is not looked after here, before another refresher is taken not to do so either
	grownAfter = 20   // that twice as many accounts are concerned as were told; and fewer, before the others count as mended
	grownAtAll = 2880 // that more are
)

// Teller writes notices: one for the beginning of each cause and one for its end, however many
// refreshers see it.
//
// The last notice on a subject of JOURNAL is what holds. Each refresher compares it with what it
// sees, and writes the next one only in the place after the one that it has read
// (Nats-Expected-Last-Subject-Sequence): of several that see a change at once, one writes it.
type Teller struct {
	JetStream jetstream.JetStream
	Log       zerolog.Logger
	Look      time.Duration // between two looks
	// Fresh returns how many of a component's messages lie on DEAD beyond a sequence. It may count
	// a part of many.
	Fresh func(ctx context.Context, component string, sequence uint64) (int, error)
	// Direct is called with what can't be told through NATS, since it is about NATS: by each
	// refresher for itself.
	Direct func(events.Notice)

	stream jetstream.Stream
	last   map[string]record    // by subject
	first  map[string]time.Time // since when a cause is seen here
	gone   map[string]time.Time // since when one that was told is not seen
	ended  map[string]bool      // told as over since the component was removed
	levels map[string]level     // by subject
	away   *events.Notice       // what was told directly
}

// record is a notice that lies on JOURNAL.
type record struct {
	sequence uint64
	messages uint64 // on its subject
	notice   events.Notice
}

// level is how many accounts are concerned of those that were told: it falls when fewer are seen
// for a while, so that others that come after them are told.
type level struct {
	sequence uint64 // of the notice that told
	accounts int
	since    time.Time // since when fewer are seen
	most     int       // the most of these
}

// standing reports whether the last notice says that the cause goes on.
func (r record) standing() bool { return r.sequence > 0 && r.notice.Data.Phase != events.PhaseOver }

// Tell compares what is wrong now with what was told, for the components that are looked after
// here, and tells the difference. What needs no person is passed over.
func (t *Teller) Tell(ctx context.Context, now time.Time, components []string, wrong []events.NoticeData) error {
	if t.first == nil {
		t.last, t.first, t.gone, t.ended, t.levels = map[string]record{}, map[string]time.Time{}, map[string]time.Time{}, map[string]bool{}, map[string]level{}
	}
	seen := map[string]events.NoticeData{}
	var away *events.NoticeData
	for _, d := range wrong {
		cause := truth.CauseOf(wxtoken.Reason(d.Cause))
		switch {
		case cause.Severity == "":
			continue
		case cause.Name == wxtoken.HeldNATS:
			d.Component = "" // it is all of theirs
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
		failed = errors.Join(failed, t.wrong(ctx, now, subject, seen[subject]))
	}
	for subject, r := range t.last {
		if _, there := seen[subject]; there || !r.standing() {
			continue
		}
		component := r.notice.Data.Component
		failed = errors.Join(failed, t.over(ctx, now, subject, r, component == "" || slices.Contains(components, component)))
	}
	for subject := range t.first {
		if _, there := seen[subject]; !there && subject != "" {
			delete(t.first, subject)
		}
	}
	return failed
}

// inOrder returns the subjects of what is seen, what is to be looked at first first: receivers get
// notices in the order of JOURNAL.
func inOrder(seen map[string]events.NoticeData) []string {
	return slices.SortedFunc(maps.Keys(seen), func(a, b string) int {
		return cmp.Or(truth.OfNotice(seen[a]).Compare(truth.OfNotice(seen[b])), cmp.Compare(a, b))
	})
}

// tellDirectly tells that NATS is away, and that it is back, each once.
func (t *Teller) tellDirectly(now time.Time, wrong *events.NoticeData) {
	const subject = "" // no other has it
	switch {
	case wrong == nil && t.away != nil:
		d := t.away.Data
		t.away = nil
		t.send(events.NewNotice(now, ended(d)))
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

// complete puts phase and words into a notice.
func complete(d events.NoticeData, phase events.Phase, first time.Time) events.NoticeData {
	cause := truth.CauseOf(wxtoken.Reason(d.Cause))
	d.Phase, d.Severity, d.What, d.Do = phase, cause.Severity, cause.What(d.Error), cause.Do(d.Error)
	if d.Since.IsZero() {
		d.Since = first
	}
	d.Since, d.Most = d.Since.UTC(), max(d.Most, d.Count)
	if d.Error != nil {
		bounded := *d.Error
		bounded.Message = shortened(bounded.Message)
		d.Error = &bounded
	}
	return d
}

// ended returns what is said of a cause when it is over.
func ended(d events.NoticeData) events.NoticeData {
	d.Phase, d.Until, d.Count, d.Keys, d.Names, d.Do = events.PhaseOver, nil, 0, nil, nil, lang.Text{}
	return d
}

// wrong tells a cause that is seen.
func (t *Teller) wrong(ctx context.Context, now time.Time, subject string, d events.NoticeData) error {
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

// left returns how many of those that were told are still there. Of messages on DEAD their
// sequences say it. Of accounts it is known by their number alone, and a refresher that has just
// begun takes all to be there.
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

// over tells that a cause is not seen any more, once that has lasted: what one refresher met the
// others learn a moment later, and a refresher that has just begun knows little yet. kept: its
// component is looked after here.
//
// Where it is not, it was removed from the settings, of which refreshers hear one after the other.
// One that has it still sees the cause and tells it anew: this refresher does not gainsay it a
// second time.
func (t *Teller) over(ctx context.Context, now time.Time, subject string, r record, kept bool) error {
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
	d := ended(r.notice.Data)
	if !kept {
		d.What = lang.T("%s (the component was removed from the settings)", "%s（该第三方平台已从设置中移除）", d.What)
		t.ended[subject] = true
	}
	delete(t.gone, subject)
	return t.write(ctx, subject, r, events.NewNotice(now, d))
}

// read reads the last notices that are new since the last reading.
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
			delete(t.last, subject) // its time is over
		}
	}
	for subject, messages := range info.State.Subjects {
		if r, known := t.last[subject]; known && r.messages == messages {
			continue
		}
		m, err := t.stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // a replica that is behind
		}
		if err != nil {
			return fmt.Errorf("read notice on %s: %w", subject, err)
		}
		n, err := events.ParseNotice(m.Data)
		if err != nil {
			t.Log.Warn().Str("subject", subject).Msg("unreadable notice passed over")
		}
		t.last[subject] = record{m.Sequence, messages, n}
	}
	return nil
}

// write writes a notice in the place after r. That another refresher was faster is no fault: it
// said the same.
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
	t.Log.Warn().Str("component", n.Data.Component).Str("cause", n.Data.Cause).Str("phase", string(n.Data.Phase)).Int("accounts", n.Data.Count).Msg("notice written")
	return nil
}
