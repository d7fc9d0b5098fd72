package refresher

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
)

// Who had what done is kept for 400 days on JOURNAL. A person is known by name and role only
// through the operator's page, whose subjects no other user may publish on; a name that comes on
// any other subject is a claim, since NATS does not tell who published a message. The record says
// which it was ("by").
//
// The record is written by the refresher that did it, and not by the page: what another program has
// done over NATS is recorded the same way.

// The roles of the operator's page that matter here (internal/login).
const (
	roleOperator = "operator"
	roleAdmin    = "admin"
)

// journal keeps the record of who had what done, in the stream JOURNAL. Actions are recorded after
// they are done, and a token that is revealed before: there, no record means no answer.
type journal struct {
	js  jetstream.JetStream
	log zerolog.Logger
	now func() time.Time
}

// write stores a record, and returns when NATS has it.
//
// It has time of its own (bus.Record): that the asker is gone leaves no deed without its record.
func (j journal) write(ctx context.Context, by events.Asker, a events.Audit) error {
	a.At, a.Actor, a.Role, a.By, a.Inbox = j.now(), by.Name, by.Role, by.By, by.Inbox
	return bus.Record(ctx, j.js, a)
}

// recordOf returns the record of an action that ended with err; as it is for nil.
//
// A refusal is recorded as well. An error without a status is one of ours, so it counts as 503,
// which is what the asker was told.
func recordOf(a events.Audit, err error) events.Audit {
	if err == nil {
		return a
	}
	why := lang.Of(err)
	a.Outcome, a.Status, a.Detail, a.DetailZH = events.OutcomeRefused, http.StatusServiceUnavailable, why.EN, why.ZH
	if known, ok := errors.AsType[*events.RequestError](err); ok {
		a.Status = known.Code
	}
	return a
}

// withRecord answers a request and then leaves a record of it. about tells what is recorded of
// question and answer; ok is false where nothing was done that needs a record. The action is done
// by then: where JOURNAL does not take the record, the log has it.
//
// Where the record is lost the deed stands: to undo a renewal is not possible, and to refuse it
// after it was done would be a lie.
func withRecord[Q, A any](j journal, answer func(context.Context, Q) (A, error), about func(events.Asker, Q, A) (record events.Audit, ok bool)) answerer {
	return func(ctx context.Context, request asked) (any, error) {
		var q Q
		if err := readQuestion(request.data, &q, true); err != nil {
			return nil, err
		}
		reply, err := answer(ctx, q)
		record, ok := about(request.by, q, reply)
		if !ok {
			return reply, err
		}
		record = recordOf(record, err)
		if lost := j.write(ctx, request.by, record); lost != nil {
			j.log.Warn().Err(lost).Str("action", record.Action).Str("key", record.Key).Str("component", record.Component).
				Str("actor", request.by.Name).Str("by", request.by.By).Str("outcome", record.Outcome).Msg("failed to store audit record")
		}
		return reply, err
	}
}

// ifPermitted answers a request of the operator's page if the role of who asks may have that done.
// The page has looked before; this is for one that is older, or faulty.
func ifPermitted(answer answerer) answerer {
	return func(ctx context.Context, request asked) (any, error) {
		if request.by.Role != roleOperator && request.by.Role != roleAdmin {
			return nil, events.Refused(http.StatusForbidden, lang.T("a reader has nothing done (header %s: want operator or admin)", "只读角色不能执行操作（%s 应为 operator 或 admin）", events.HeaderRole))
		}
		return answer(ctx, request)
	}
}

func recordOfRenew(_ events.Asker, q events.Renew, v events.Verdict) (events.Audit, bool) {
	record := events.About(q.Key)
	record.Action, record.Outcome = events.ActionRenew, string(v.Outcome)
	return record, q.Key != wxtoken.Key{}
}

func recordOfReconcile(_ events.Asker, q events.ReconcileRequest, answer events.Reconciling) (events.Audit, bool) {
	record := events.Audit{Action: events.ActionReconcile, Component: events.Clip(q.Component), Outcome: answer.Outcome}
	if q.Authorizer != "" {
		record.Key = wxtoken.AuthorizerKey(record.Component, events.Clip(q.Authorizer)).String()
	}
	return record, true
}

// recordOfClear leaves no record of a look.
func recordOfClear(_ events.Asker, q events.QuotaRequest, _ events.QuotaAnswer) (events.Audit, bool) {
	return events.Audit{Action: events.ActionClear, Component: events.Clip(q.Component), Outcome: events.OutcomeDone}, q.Clear
}

// recordOfLink leaves no record of the links that backends make, by the thousand: the links
// themselves tell of those.
func recordOfLink(by events.Asker, q events.ConnectCreate, _ events.ConnectCreated) (events.Audit, bool) {
	record := events.Audit{Action: events.ActionLink, Component: events.Clip(q.Component), Outcome: events.OutcomeDone, Parameters: map[string]any{}}
	for name, value := range map[string]string{"ref": q.Ref, "biz_appid": q.BizAppID} {
		if value != "" {
			record.Parameters[name] = events.Clip(value)
		}
	}
	if q.Move {
		record.Parameters["move"] = true
	}
	return record, by.By == events.ByConsole || by.Name != ""
}

func recordOfDead(_ events.Asker, q events.DeadRequest, answer events.DeadAnswer) (events.Audit, bool) {
	record := events.Audit{Action: events.ActionReplay, Outcome: answer.Outcome, Parameters: map[string]any{"sequence": q.Sequence}}
	if q.Do != events.DoReplay {
		record.Action = events.ActionDiscard
	}
	if answer.Subject != "" {
		record.Parameters["subject"] = answer.Subject
		record.Component = events.ComponentOf(answer.Subject)
	}
	return record, true
}
