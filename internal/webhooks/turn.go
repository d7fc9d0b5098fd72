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
	"wxtoken/internal/lang"
)

const (
	// giveUpAfter is the age at which a message is given up, after a failed try.
	giveUpAfter = 24 * time.Hour
	// proofLasts is how long the server's answer that this gateway has the pin is trusted. It is
	// shorter than pinTTL, after which another gateway can have the pin.
	proofLasts = 8 * time.Second
	// crowded is the number of waiting messages above which a failing account gives its oldest
	// messages up, as long as other messages get through: one was taken within aliveWithin.
	crowded     = window * 9 / 10
	aliveWithin = time.Minute
	// askAgain is the wait while it is not known yet whether a message is wanted.
	askAgain = time.Second
)

// turn is the time during which the server pins the consumer to this gateway, which alone delivers
// then. Messages that are not acked when it ends are delivered again, to the gateway with the next
// turn.
type turn struct {
	*subscription
	pin    string
	ctx    context.Context
	cancel context.CancelFunc
	proven atomic.Int64 // when the server last confirmed that the pin is here, Unix nanoseconds

	mu       sync.Mutex
	ended    bool
	settled  bool   // the messages of earlier turns have arrived too: deliveries can start in order
	until    uint64 // stream sequence up to which the server had handed out messages at the last check
	awaited  int    // how many messages up to there are neither acked nor here
	held     map[uint64]*item
	accounts map[string]*account
	failing  map[*account]bool // accounts whose first message failed at least once
}

// item is one message in a turn.
type item struct {
	msg        jetstream.Msg
	seq        uint64
	id         string // ce-id
	kind       events.Kind
	stored     time.Time
	received   time.Time
	progressAt time.Time // when the server got the last InProgress
	posting    bool
	replied    bool        // taken when the receiver was asked for the reply
	evicted    atomic.Bool // given up after the next failed try
}

// account is the queue of one account, oldest message first. Its goroutine runs while it is not
// empty.
type account struct {
	name    string
	waiting []*item
	busy    bool
	tries   int           // failed tries of the first message
	wake    chan struct{} // ends a wait
}

func (s *subscription) newTurn(pin string) *turn {
	t := &turn{
		subscription: s, pin: pin,
		held: map[uint64]*item{}, accounts: map[string]*account{}, failing: map[*account]bool{},
	}
	t.ctx, t.cancel = context.WithCancel(s.postCtx)
	return t
}

// end ends the turn and gives back all messages that are not being delivered at this moment.
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

// add adds a message to the queue of its account.
func (t *turn) add(m jetstream.Msg) {
	meta, err := m.Metadata()
	kind, ok := events.ParseKind(m.Subject())
	if err != nil || !ok {
		_ = m.Ack() // unexpected: the filters only let messages through
		return
	}
	if kind.MsgType == events.MsgTypeNotice {
		kind.AppID = m.Headers().Get("ce-subject")
	}
	now := time.Now()
	i := &item{
		msg: m, seq: meta.Sequence.Stream, id: m.Headers().Get("ce-id"), kind: kind,
		stored: meta.Timestamp, received: now, progressAt: now,
	}
	if i.id == "" {
		i.id = "message-" + strconv.FormatUint(i.seq, 10)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[i.seq] != nil {
		return // a repeat: one ack counts for all
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
	at, _ := slices.BinarySearchFunc(a.waiting, i.seq, func(other *item, seq uint64) int {
		return cmp.Compare(other.seq, seq)
	})
	if at == 0 && a.busy {
		at = 1 // the first one is being delivered
	}
	a.waiting = slices.Insert(a.waiting, at, i)
	// Only now that it is in its queue: it may be the last awaited message, and the first of its
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

// start starts the deliveries of an account, if they may start. The lock is held.
func (t *turn) start(a *account) {
	if t.settled && !a.busy && !t.ended {
		a.busy = true
		t.working.Go(func() { t.work(a) })
	}
}

// oldest returns when the oldest message here was stored. ok is false if there is none, or if older
// ones may be elsewhere.
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

// makeRoom gives up the oldest message of the failing account with the most messages, so that one
// account does not block the others. While no message gets through at all, none is given up. The
// lock is held.
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

// update takes over the state of the consumer at the time asked. It reports whether the turn is
// settled.
//
// A new turn must not start with new messages: those that the last turn left unacked are older, and
// come only when their ackWait is over. The turn is settled once all messages that the server has
// handed out without an ack are here.
func (t *turn) update(info *jetstream.ConsumerInfo, asked time.Time) (settled bool) {
	t.proven.Store(asked.UnixNano())
	t.sendProgress(asked)
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

// sendProgress sends InProgress for each message for which none was sent for a while, and marks
// those that were taken with the question for the reply: an outcome is forgotten before a message
// that waits behind a failing one is looked at.
func (t *turn) sendProgress(now time.Time) {
	var silent []*item
	t.mu.Lock()
	for _, i := range t.held {
		i.replied = i.replied || t.replyOutcomes.has(i.id)
		if now.Sub(i.progressAt) > progressEvery {
			i.progressAt = now
			silent = append(silent, i)
		}
	}
	t.mu.Unlock() // sending thousands may block
	for _, i := range silent {
		// If it can't be sent, the message is delivered again. For a message acked meanwhile
		// nothing is sent.
		_ = i.msg.InProgress()
	}
}

// settle starts the deliveries once no message is awaited. The lock is held.
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

// next removes the message that is done, and returns the account's next one, or nil if its
// goroutine should end.
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

// deliver tries until the message is taken or given up, and then acks it. It returns false when the
// turn ends first.
func (t *turn) deliver(a *account, i *item) bool {
	for {
		wanted, ok := t.awaitWanted(i) // before each try: the account may have become another service's
		if !ok {
			return false
		}
		if !wanted || t.takenByReply(i) {
			_ = i.msg.Ack()
			return t.ctx.Err() == nil
		}
		if !t.begin(i) {
			return false
		}
		d := delivery{id: i.id, kind: i.kind, header: i.msg.Headers(), body: i.msg.Data()}
		r := t.post(t.postCtx, t.target.Load(), d, time.Now())
		<-t.slots
		if t.postCtx.Err() != nil && !r.taken() { // cut short by the end of this process: no fault of the receiver's
			t.recordFailure(a, i)
			return false
		}
		t.metrics.deliveries.WithLabelValues(t.target.Load().service.Name, r.outcome).Inc()
		if r.taken() {
			_ = i.msg.Ack() // if it is lost, the message is delivered again
			t.taken.Store(time.Now().UnixNano())
			return true
		}
		t.logFailure(i.kind, i.id, r.why.EN)
		if why := t.giveUpReason(i, r); !why.IsZero() && t.copyToDead(i, why) == nil {
			_ = i.msg.Ack()
			return true
		}
		if !t.recordFailure(a, i) || !t.wait(a, hook.Pause(a.tries, r.after)) {
			return false
		}
	}
}

// awaitWanted waits until it is known whether a message is wanted, and reports that. ok is false
// when the turn ends first.
func (t *turn) awaitWanted(i *item) (wanted, ok bool) {
	for {
		if wanted, known := t.target.Load().wants(i.kind, t.d.Ref); known {
			return wanted, true
		}
		if !hook.Sleep(t.ctx, askAgain) {
			return false, false
		}
	}
}

// takenByReply reports whether the receiver already took a message when it was asked for the reply
// to it.
func (t *turn) takenByReply(i *item) bool {
	if !t.target.Load().hook.Reply || i.kind.MsgType == events.MsgTypeNotice {
		return false
	}
	t.mu.Lock()
	replied := i.replied
	t.mu.Unlock()
	if replied || i.received.Sub(i.stored) > 2*replyTime {
		return replied || t.replyOutcomes.has(i.id)
	}
	return t.replyOutcomes.taken(t.ctx, i.id, i.received.Add(replyTime))
}

// begin waits for a free slot, and for proof that the pin is still here: a process that was frozen
// or cut off must not deliver what another gateway delivers now.
func (t *turn) begin(i *item) bool {
	select {
	case t.slots <- struct{}{}:
	case <-t.ctx.Done():
		return false
	}
	for time.Since(time.Unix(0, t.proven.Load())) > proofLasts {
		if !hook.Sleep(t.ctx, checkSoon) {
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

// recordFailure ends a failed try. It returns false when the turn has ended.
func (t *turn) recordFailure(a *account, i *item) bool {
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

// wait waits before the next try. It returns false when the turn ends first.
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

// giveUpReason returns why a message must be given up; zero: it need not.
func (t *turn) giveUpReason(i *item, r result) lang.Text {
	switch {
	case time.Since(i.stored) > t.giveUp:
		return lang.T("%s, for a day", "%s，持续一天", r.why)
	case i.evicted.Load():
		return lang.T("%s, and too many messages of the account wait behind it", "%s，且该账号积压的消息过多", r.why)
	}
	return lang.Text{}
}

// isForwarded reports whether a header of a message goes to the webhook, and to DEAD, with it.
func isForwarded(name string) bool {
	return strings.HasPrefix(name, "ce-") || name == "Content-Type"
}
