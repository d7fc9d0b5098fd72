package webhooks

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/internal/events"
)

const (
	// replyTime is how long the durable consumer leaves a message to the question for its reply.
	replyTime = 5 * time.Second
	// maxReplies is how many replies of one webhook are asked for at once; others are not: WeChat
	// gets no reply.
	maxReplies = 256
)

// How a receiver took a message that it was asked to reply to.
const (
	bodyTaken    = "taken"
	bodyNotTaken = "not taken"
)

// answerReplies listens to the questions for replies until ctx ends.
func (s *subscription) answerReplies(ctx context.Context) error {
	replies := s.target.Load().replies
	if len(replies) == 0 {
		return nil
	}
	told, err := s.d.NATS.Subscribe(events.AnsweredSubject(s.name), func(m *nats.Msg) {
		s.answered.tell(m.Header.Get("ce-id"), string(m.Data) == bodyTaken)
	})
	if err != nil {
		return err
	}
	subs := []*nats.Subscription{told}
	asking := make(chan struct{}, maxReplies)
	var under sync.WaitGroup
	for _, subject := range replies {
		sub, err := s.d.NATS.QueueSubscribe(subject, s.name, func(m *nats.Msg) {
			select {
			case asking <- struct{}{}:
			default:
				s.respond(m, nil) // at once: ingest would wait
				return
			}
			under.Go(func() {
				defer func() { <-asking }()
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
		_ = sub.Unsubscribe() // the connection is gone otherwise
	}
	under.Wait() // none of them takes longer than replyWithin
	return nil
}

// reply delivers a message whose reply is asked for, answers with what the receiver says, and tells
// the gateway that has the durable consumer whether the receiver has the message.
func (s *subscription) reply(ctx context.Context, m *nats.Msg) {
	t := s.target.Load()
	kind, ok := events.ParseKind(m.Subject)
	wanted, known := t.wants(kind, s.d.Ref)
	if !ok || !wanted || !known {
		return // it may be another service's to answer
	}
	id := m.Header.Get("ce-id")
	header := nats.Header{"ce-id": {id}, "Content-Type": m.Header["Content-Type"], "ce-specversion": {"1.0"}, "ce-subject": {kind.AppID},
		"ce-type": {events.TypeOf(kind)}, "ce-source": {"/wechat/" + kind.Component + "/message/" + kind.AppID}}
	r := s.post(ctx, t, delivery{id: id, kind: kind, header: header, body: m.Data, reply: true}, time.Now())
	s.metrics.deliveries.WithLabelValues(t.service.Name, r.outcome).Inc()
	s.respond(m, r.answer)
	note := nats.NewMsg(events.AnsweredSubject(s.name))
	note.Header.Set("ce-id", id)
	note.Data = []byte(bodyNotTaken)
	if r.taken() {
		note.Data = []byte(bodyTaken)
	}
	_ = s.d.NATS.PublishMsg(note) // if it is lost, the message comes a second time
	if r.why != "" {
		s.complain(kind, id, r.why)
	}
}

func (s *subscription) respond(m *nats.Msg, answer []byte) {
	if m.Reply != "" {
		_ = m.Respond(answer) // ingest has stopped waiting otherwise
	}
}

// answered remembers for a while how messages were taken that a reply was asked for.
type answered struct {
	mu      sync.Mutex
	by      map[string]outcomeAt
	changed chan struct{} // closed when one is added
	swept   time.Time
}

type outcomeAt struct {
	taken bool
	at    time.Time
}

func newAnswered() *answered {
	return &answered{by: map[string]outcomeAt{}, changed: make(chan struct{}), swept: time.Now()}
}

// remember is how long an outcome is kept: a message waits for it for replyTime.
const remember = time.Minute

func (a *answered) tell(id string, taken bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.by[id] = outcomeAt{taken, now}
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

// taken waits until it is known how a message was taken, or until a time. It reports whether the
// receiver has the message.
func (a *answered) taken(ctx context.Context, id string, until time.Time) bool {
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
