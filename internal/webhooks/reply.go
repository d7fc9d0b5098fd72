package webhooks

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/internal/events"
)

const (
	// replyTime is how long the durable consumer waits for the outcome of a request for the reply,
	// before it delivers the message itself.
	replyTime = 5 * time.Second
	// maxReplies is how many requests for a reply one webhook has under way at once. Beyond it
	// WeChat gets no reply.
	maxReplies = 256
)

// Whether a receiver took a message that it was asked to reply to: the body on
// events.AnsweredSubject.
const (
	bodyTaken    = "taken"
	bodyNotTaken = "not taken"
)

// answerReplies answers ingest's requests for replies until ctx ends.
func (s *subscription) answerReplies(ctx context.Context) error {
	replies := s.target.Load().replies
	if len(replies) == 0 {
		return nil
	}
	outcomes, err := s.d.NATS.Subscribe(events.AnsweredSubject(s.name), func(m *nats.Msg) {
		s.replyOutcomes.add(m.Header.Get("ce-id"), string(m.Data) == bodyTaken)
	})
	if err != nil {
		return err
	}
	subs := []*nats.Subscription{outcomes}
	slots := make(chan struct{}, maxReplies)
	var replying sync.WaitGroup
	for _, subject := range replies {
		sub, err := s.d.NATS.QueueSubscribe(subject, s.name, func(m *nats.Msg) {
			select {
			case slots <- struct{}{}:
			default:
				s.respond(m, nil) // at once: otherwise ingest would wait
				return
			}
			replying.Go(func() {
				defer func() { <-slots }()
				s.reply(context.WithoutCancel(ctx), m)
			})
		})
		if err != nil {
			return err
		}
		subs = append(subs, sub)
	}
	<-ctx.Done()
	for _, sub := range subs {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
	replying.Wait() // none takes longer than replyWithin
	return nil
}

// reply delivers a message for which ingest wants a reply, responds with the receiver's answer, and
// tells the gateway that has the durable consumer whether the receiver took the message.
func (s *subscription) reply(ctx context.Context, m *nats.Msg) {
	t := s.target.Load()
	kind, ok := events.ParseKind(m.Subject)
	wanted, known := t.wants(kind, s.d.Ref)
	if !ok || !wanted || !known {
		return // another service may have to answer
	}
	id := m.Header.Get("ce-id")
	header := nats.Header{
		"ce-id": {id}, "Content-Type": m.Header["Content-Type"], "ce-specversion": {"1.0"}, "ce-subject": {kind.AppID},
		"ce-type": {events.TypeOf(kind)}, "ce-source": {"/wechat/" + kind.Component + "/message/" + kind.AppID},
	}
	r := s.post(ctx, t, delivery{id: id, kind: kind, header: header, body: m.Data, reply: true}, time.Now())
	s.metrics.deliveries.WithLabelValues(t.service.Name, r.outcome).Inc()
	s.respond(m, r.answer)
	note := nats.NewMsg(events.AnsweredSubject(s.name))
	note.Header.Set("ce-id", id)
	note.Data = []byte(bodyNotTaken)
	if r.taken() {
		note.Data = []byte(bodyTaken)
	}
	_ = s.d.NATS.PublishMsg(note) // if it is lost, the message is delivered twice
	if !r.why.IsZero() {
		s.logFailure(kind, id, r.why.EN)
	}
}

func (s *subscription) respond(m *nats.Msg, answer []byte) {
	if m.Reply != "" {
		_ = m.Respond(answer) // fails only if the connection is closed
	}
}

// replyOutcomes remembers for a while which messages receivers took when they were asked for the
// reply.
type replyOutcomes struct {
	mu      sync.Mutex
	by      map[string]outcomeAt
	changed chan struct{} // closed when an outcome is added
	swept   time.Time
}

type outcomeAt struct {
	taken bool
	at    time.Time
}

func newReplyOutcomes() *replyOutcomes {
	return &replyOutcomes{by: map[string]outcomeAt{}, changed: make(chan struct{}), swept: time.Now()}
}

// remember is how long an outcome is kept. A message waits for it no longer than replyTime, and one
// that waits for the others of its account is marked at each check (turn.sendProgress).
const remember = time.Minute

func (a *replyOutcomes) add(id string, taken bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.by[id] = outcomeAt{taken || a.by[id].taken, now} // WeChat repeats a push, and then the reply is asked for again
	close(a.changed)
	a.changed = make(chan struct{})
	if now.Sub(a.swept) < remember {
		return
	}
	a.swept = now
	for id, o := range a.by {
		if now.Sub(o.at) > remember {
			delete(a.by, id)
		}
	}
}

// has reports whether it is known that the receiver took the message.
func (a *replyOutcomes) has(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.by[id].taken
}

// taken waits for the outcome of a message, until a time at most. It reports whether the receiver
// took the message.
func (a *replyOutcomes) taken(ctx context.Context, id string, until time.Time) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for {
		a.mu.Lock()
		o, ok := a.by[id]
		changed := a.changed
		a.mu.Unlock()
		if ok {
			return o.taken
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
