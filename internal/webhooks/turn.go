package webhooks

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/hook"
)

const (
	// giveUpAfter is how old a message is when it is given up, after a try that failed.
	giveUpAfter = 24 * time.Hour
	// proofLasts is how long the server's word counts that this gateway has the pin. It ends before
	// another can have it: pinTTL later.
	proofLasts = 8 * time.Second
	// crowded is how many messages wait when one account must not take more of the window; others
	// are being delivered if one was within aliveWithin.
	crowded     = window * 9 / 10
	aliveWithin = time.Minute
	// askAgain is the wait where it isn't known yet whose a message is.
	askAgain = time.Second
)

// turn is the time in which the server pins the consumer to this gateway: it alone delivers. All
// that is not acked when it ends comes again, to the gateway that has the next one.
type turn struct {
	*subscription
	pin    string
	ctx    context.Context
	cancel context.CancelFunc
	proven atomic.Int64 // when the server was last known to keep the pin here, Unix nanoseconds

	mu       sync.Mutex
	ended    bool
	settled  bool   // what others left behind is here: accounts can go on in order
	until    uint64 // what the server had handed out at the last look, by the sequence in the stream
	awaited  int    // how many of these had no ack and were not here
	held     map[uint64]*item
	accounts map[string]*account
	failing  map[*account]bool // those whose first message a try has failed of
}

// item is one message in a turn.
type item struct {
	msg     jetstream.Msg
	seq     uint64
	id      string // ce-id
	kind    events.Kind
	stored  time.Time
	came    time.Time
	beaten  time.Time // when the server got the last sign of life
	posting bool
	evicted atomic.Bool // it is given up after the next try
}

// account has the messages of one account, the oldest first. Its goroutine runs while there are
// some.
type account struct {
	name    string
	waiting []*item
	busy    bool
	tries   int           // of the first message, that failed
	wake    chan struct{} // ends a wait
}

func (s *subscription) newTurn(pin string) *turn {
	t := &turn{subscription: s, pin: pin, held: map[uint64]*item{}, accounts: map[string]*account{}, failing: map[*account]bool{}}
	t.ctx, t.cancel = context.WithCancel(s.posts)
	return t
}

// end gives back what is not being delivered at this moment.
func (t *turn) end() {
	if t == nil {
		return
	}
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for _, i := range t.held {
		if !i.posting {
			_ = i.msg.Nak()
		}
	}
}

// add takes a message.
func (t *turn) add(m jetstream.Msg) {
	meta, err := m.Metadata()
	kind, ok := events.ParseKind(m.Subject())
	if err != nil || !ok {
		_ = m.Ack() // a filter lets nothing else through
		return
	}
	if kind.MsgType == events.MsgTypeNotice {
		kind.AppID = m.Headers().Get("ce-subject")
	}
	now := time.Now()
	i := &item{msg: m, seq: meta.Sequence.Stream, id: m.Headers().Get("ce-id"), kind: kind, stored: meta.Timestamp, came: now, beaten: now}
	if i.id == "" {
		i.id = "message-" + strconv.FormatUint(i.seq, 10)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[i.seq] != nil {
		return // it came again: the first ack counts for all
	}
	if wanted, known := t.target.Load().wants(kind, t.d.Ref); known && !wanted {
		_ = m.Ack()
		return
	}
	t.held[i.seq] = i
	name := kind.Component + "/" + kind.AppID
	a := t.accounts[name]
	if a == nil {
		a = &account{name: name, wake: make(chan struct{}, 1)}
		t.accounts[name] = a
	}
	at, _ := slices.BinarySearchFunc(a.waiting, i.seq, func(other *item, seq uint64) int { return cmp.Compare(other.seq, seq) })
	if at == 0 && a.busy {
		at = 1 // the first is under way
	}
	a.waiting = slices.Insert(a.waiting, at, i)
	// Not before it has its place: it may be the one that was awaited, and the first of its
	// account.
	if i.seq <= t.until && !t.settled {
		t.awaited--
		t.settle()
	}
	t.start(a)
	if len(t.held) > crowded {
		t.makeRoom()
	}
}

// start lets an account's messages be delivered. The lock is held.
func (t *turn) start(a *account) {
	if t.settled && !a.busy && !t.ended {
		a.busy = true
		t.working.Go(func() { t.work(a) })
	}
}

// oldest returns when the oldest message was stored that is held; ok is false where none is, or
// where older ones may be elsewhere.
func (t *turn) oldest() (stored time.Time, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range t.held {
		if !ok || i.stored.Before(stored) {
			stored, ok = i.stored, true
		}
	}
	return stored, ok && t.settled
}

// makeRoom has the oldest message of the account given up that has most of the window, while other
// accounts get theirs: one account must not hold up the others. Where nothing is delivered nothing
// is given up. The lock is held.
func (t *turn) makeRoom() {
	if time.Since(time.Unix(0, t.taken.Load())) > aliveWithin {
		return
	}
	var most *account
	for a := range t.failing {
		if most == nil || len(a.waiting) > len(most.waiting) {
			most = a
		}
	}
	if most != nil {
		most.waiting[0].evicted.Store(true)
		select {
		case most.wake <- struct{}{}:
		default:
		}
	}
}

// look takes in what the server says of the consumer, as of a time. It reports whether the turn is
// settled.
//
// A new turn must not begin with what is new: what the last one left comes only when its ackWait is
// over, and is older. It is settled once as many of the messages that were handed out are here as
// the server has no ack for.
func (t *turn) look(info *jetstream.ConsumerInfo, asked time.Time) (settled bool) {
	t.proven.Store(asked.UnixNano())
	t.beat(asked)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.settled {
		return true
	}
	t.until, t.awaited = info.Delivered.Stream, info.NumAckPending
	for seq := range t.held {
		if seq <= t.until {
			t.awaited--
		}
	}
	t.settle()
	return t.settled
}

// beat gives a sign of life for each message that has given none for a while.
func (t *turn) beat(now time.Time) {
	var silent []*item
	t.mu.Lock()
	for _, i := range t.held {
		if now.Sub(i.beaten) > beatEvery {
			i.beaten = now
			silent = append(silent, i)
		}
	}
	t.mu.Unlock() // thousands may be more than the connection takes at once
	for _, i := range silent {
		// If it can't be sent, the message comes again; one that was acked meanwhile gives none.
		_ = i.msg.InProgress()
	}
}

// settle begins the deliveries once nothing is awaited. The lock is held.
func (t *turn) settle() {
	if t.awaited > 0 {
		return
	}
	t.settled = true
	for _, a := range t.accounts {
		t.start(a)
	}
}

// work delivers the messages of one account, one after the other.
func (t *turn) work(a *account) {
	for i := t.next(a, nil); i != nil && t.deliver(a, i); {
		i = t.next(a, i)
	}
}

// next takes away what is done, and returns the next message of an account, or nil when its
// goroutine is to end.
func (t *turn) next(a *account, done *item) *item {
	t.mu.Lock()
	defer t.mu.Unlock()
	if done != nil {
		a.waiting = a.waiting[1:]
		delete(t.held, done.seq)
	}
	a.tries = 0
	delete(t.failing, a)
	if len(a.waiting) == 0 {
		a.busy = false
		delete(t.accounts, a.name)
		return nil
	}
	if t.ended {
		return nil
	}
	return a.waiting[0]
}

// deliver tries until the message was taken or given up, and acks it then. It returns false when
// the turn ends first.
func (t *turn) deliver(a *account, i *item) bool {
	wanted, ok := t.decided(i)
	if !ok {
		return false
	}
	if !wanted || t.takenByReply(i) {
		_ = i.msg.Ack()
		return t.ctx.Err() == nil
	}
	for {
		if !t.begin(i) {
			return false
		}
		r := t.post(t.posts, t.target.Load(), delivery{id: i.id, kind: i.kind, header: i.msg.Headers(), body: i.msg.Data()}, time.Now())
		<-t.slots
		t.metrics.deliveries.WithLabelValues(t.target.Load().service.Name, r.outcome).Inc()
		if r.taken() {
			_ = i.msg.Ack() // a lost one brings the message again
			t.taken.Store(time.Now().UnixNano())
			return true
		}
		t.complain(i.kind, i.id, r.why)
		if why := t.hopeless(i, r); why != "" && t.bury(i, why) == nil {
			_ = i.msg.Ack()
			return true
		}
		if !t.failed(a, i) || !t.wait(a, hook.Pause(a.tries, r.after)) {
			return false
		}
	}
}

// decided waits until it is known whose a message is, and reports whether it is wanted; ok is false
// when the turn ends first.
func (t *turn) decided(i *item) (wanted, ok bool) {
	for {
		if wanted, known := t.target.Load().wants(i.kind, t.d.Ref); known {
			return wanted, true
		}
		if !hook.Sleep(t.ctx, askAgain) {
			return false, false
		}
	}
}

// takenByReply reports whether the receiver has a message because it was asked for the reply to it.
func (t *turn) takenByReply(i *item) bool {
	if !t.target.Load().hook.Reply || i.kind.MsgType == events.MsgTypeNotice || i.came.Sub(i.stored) > 2*replyTime {
		return false
	}
	return t.answered.taken(t.ctx, i.id, i.came.Add(replyTime))
}

// begin waits for a free hand, and for the proof that the pin is still here: a process that was
// frozen, or cut off, must not deliver what another one delivers.
func (t *turn) begin(i *item) bool {
	select {
	case t.slots <- struct{}{}:
	case <-t.ctx.Done():
		return false
	}
	for time.Since(time.Unix(0, t.proven.Load())) > proofLasts {
		if !hook.Sleep(t.ctx, lookSoon) {
			<-t.slots
			return false
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		<-t.slots
		return false
	}
	i.posting = true
	return true
}

// failed ends a try that failed. It returns false when the turn has ended.
func (t *turn) failed(a *account, i *item) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i.posting = false
	if t.ended {
		_ = i.msg.Nak()
	}
	a.tries++
	t.failing[a] = true
	return !t.ended
}

// wait waits for the next try.
func (t *turn) wait(a *account, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.wake:
	case <-t.ctx.Done():
		return false
	}
	return true
}

// hopeless says why a message is to be given up, or "".
func (t *turn) hopeless(i *item, r result) string {
	switch {
	case time.Since(i.stored) > t.giveUp:
		return r.why + ", for a day"
	case i.evicted.Load():
		return r.why + ", and too many messages of the account wait behind it"
	}
	return ""
}

// carried reports whether a header of a message goes to DEAD with it.
func carried(name string) bool {
	return strings.HasPrefix(name, "ce-") || name == "Content-Type"
}
