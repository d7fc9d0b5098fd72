package refresher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
)

// A message that could not be processed lies on DEAD for 30 days, with the reason. Here an operator
// has it tried again, after a fault of ours was mended, or discarded. And, apart from that, a token
// is shown in the clear. Both are done by a person only, and leave a record of who it was.

// dead answers wxtoken.dead: a message on DEAD is tried again, or is not wanted any more. The
// subject is in the answer also where it is refused, for the record.
//
// Published first, deleted after: a refresher that dies in between leaves the message on DEAD,
// where it can be tried again, and the message id has it count once within ten minutes (TestDead).
func (a *answers) dead(ctx context.Context, q events.DeadRequest) (answer events.DeadAnswer, err error) {
	switch {
	case q.Do != events.DoReplay && q.Do != events.DoDiscard:
		return answer, events.BadRequest(lang.T("do: want %s or %s", "do：应为 %s 或 %s", events.DoReplay, events.DoDiscard))
	case q.Sequence == 0:
		return answer, events.BadRequest(lang.T("sequence: want that of a message on %s", "sequence：应为 %s 中某条消息的序号", events.StreamDead))
	}
	stream, err := a.js.Stream(ctx, events.StreamDead)
	if err != nil {
		return answer, fmt.Errorf("look up stream %s: %w", events.StreamDead, err)
	}
	m, err := stream.GetMsg(ctx, q.Sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return answer, events.Refused(http.StatusNotFound, lang.T("no message %d is on %s", "没有消息 %d（%s）：可能已被处理", q.Sequence, events.StreamDead))
	}
	if err != nil {
		return answer, fmt.Errorf("read message %d of %s: %w", q.Sequence, events.StreamDead, err)
	}
	answer.Subject = events.OriginalSubject(m.Subject)
	if q.Do == events.DoReplay {
		if err := a.replay(ctx, answer.Subject, m); err != nil {
			return answer, err
		}
	}
	// The content is overwritten: it may be a code or a ticket. Of two at once one finds the
	// message gone, which nats.go v1.55 tells by text alone: so it is looked for.
	if err := stream.SecureDeleteMsg(ctx, q.Sequence); err != nil {
		if _, gone := stream.GetMsg(ctx, q.Sequence); !errors.Is(gone, jetstream.ErrMsgNotFound) {
			return answer, fmt.Errorf("delete message %d of %s: %w", q.Sequence, events.StreamDead, err)
		}
	}
	answer.Outcome = map[string]string{events.DoReplay: events.OutcomeReplayed, events.DoDiscard: events.OutcomeDiscarded}[q.Do]
	a.log.Info().Uint64("sequence", q.Sequence).Str("subject", answer.Subject).Str("outcome", answer.Outcome).Msg("dead letter handled")
	return answer, nil
}

// replay publishes what lies on DEAD once more, with its headers and on its first subject, to which
// a sealed value is bound. Only events of WeChat's are tried again: a due message would speak of a
// generation that is long over.
//
// Headers that begin with Nats- told the server what to do with the first message, its id among
// them. Its reason is of the first failure. All others stay, those about the seal above all.
func (a *answers) replay(ctx context.Context, subject string, m *jetstream.RawStreamMsg) error {
	if !events.IsAuth(subject) {
		return events.Refused(http.StatusConflict, lang.T("%s: %s", "不能重放 %s：%s", events.Clip(subject), whyNot(subject)))
	}
	again := nats.NewMsg(subject)
	for name, values := range m.Header {
		if !events.IsReason(name) && !strings.HasPrefix(name, "Nats-") {
			again.Header[name] = values
		}
	}
	again.Data = m.Data
	// Its own id, so that it is no repeat of the first; and always the same one, so that two who
	// press the button at once, or one whose message could not be deleted, have it tried again
	// once.
	id := fmt.Sprintf("dead.%d.%d", m.Sequence, m.Time.UnixNano())
	if _, err := a.js.PublishMsg(ctx, again, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0)); err != nil {
		return fmt.Errorf("publish %s again: %w", subject, err)
	}
	return nil
}

// whyNot says why a message on DEAD is not tried again.
func whyNot(subject string) lang.Text {
	switch {
	case strings.HasPrefix(subject, "webhook."):
		return lang.T("a gateway delivers messages to webhooks, once for a day; read it on DEAD and hand it to the service, or discard it", "Webhook 消息由网关投递，为期一天；请在 DEAD 中读出后转交业务服务，或者丢弃")
	case strings.HasPrefix(subject, "renewal."):
		return lang.T("it is a schedule, and its key has another by now; to renew it: %s", "这是一条定时消息，对应的 key 已有新的；要续期请用 %s", events.SubjectRenew)
	}
	return lang.T("only events on %s are tried again", "只有 %s 上的事件可以重放", events.AllAuth)
}

// reveal answers wxtoken.reveal with a token in the clear. There is a record first: without one, no
// token.
//
// The token is read before the record is written, since the record tells how it ended. Between the
// two nothing leaves this process.
func (a *answers) reveal(ctx context.Context, request asked) (any, error) {
	var q events.RevealRequest
	if err := readQuestion(request.data, &q, true); err != nil {
		return nil, err
	}
	if q.Key == (wxtoken.Key{}) {
		return nil, errKey
	}
	record := events.About(q.Key)
	record.Action, record.Outcome = events.ActionReveal, events.OutcomeRevealed
	revealed, err := a.readToken(ctx, request.by, q)
	record = recordOf(record, err)
	if lost := a.journal.write(ctx, request.by, record); lost != nil {
		a.log.Warn().Err(lost).Stringer("key", q.Key).Str("actor", request.by.Name).Str("by", request.by.By).Msg("failed to store audit record, token not revealed")
		lost = events.Refused(http.StatusServiceUnavailable, lang.T("not revealed: %v", "无法写入操作记录，因此不显示：%v", lost))
		return nil, cmp.Or(err, lost)
	}
	if err != nil {
		return nil, err
	}
	a.log.Warn().Stringer("key", q.Key).Str("actor", request.by.Name).Str("by", request.by.By).Msg("token revealed")
	return revealed, nil
}

// readToken reads a token for one who may see it. The page's roles are looked at here; on the
// subject that is not the page's the rights of NATS decide, and none of the shipped users has that
// right (docs/contract.md).
func (a *answers) readToken(ctx context.Context, by events.Asker, q events.RevealRequest) (events.Revealed, error) {
	if by.By == events.ByConsole && by.Role != roleAdmin {
		return events.Revealed{}, events.Refused(http.StatusForbidden, lang.T("only an admin has a token revealed", "只有管理员可以查看令牌"))
	}
	t, ok, err := a.store.Token(ctx, q.Key)
	if err != nil {
		return events.Revealed{}, err
	}
	if !ok {
		return events.Revealed{}, events.Refused(http.StatusNotFound, lang.T("%s has no token", "%s 没有令牌", q.Key))
	}
	return events.Revealed{Key: q.Key, Value: t.Value.Reveal(), Generation: t.Generation, ExpiresAt: t.ExpiresAt}, nil
}
