package refresher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/seal"
	"wxtoken/internal/store"
)

// This file is where messages come in: what is asked is read here, and what a handler could not do
// because of a record it could not use is put off here.

// dueOrReconcile handles what the schedules in KV_tokens send on renewal.due.>: a key is due, or a
// component is to be compared with WeChat's list. Both lie in one stream and come through one
// consumer, so that one limit bounds all handlers at work.
//
// A message that can't be read would come again for ever. It goes to DEAD instead, where an
// operator sees it; its key is found by the sweep.
func (r *Refresher) dueOrReconcile(ctx context.Context, m events.Msg) error {
	if appid, ok := events.ReconcileComponent(m.Subject); ok {
		return r.reconcile(ctx, appid, m)
	}
	due, err := events.ParseDue(m.Data)
	if err != nil {
		return events.Never(err)
	}
	return r.setAside(ctx, due.Key.Component, r.due(ctx, due, m))
}

// auth handles wechat.auth.>: tickets, codes and cancellations, opened if they are sealed. WeChat
// was told success when ingest had published them and sends none of them again, so nothing here may
// be lost: what can't be handled now is put off, for as long as the stream keeps it, and what can
// never be handled goes to DEAD.
//
// An event of a component that is not in the settings waits, too: the settings are read again while
// refreshers run, and of two refreshers one may have read them a moment earlier.
func (r *Refresher) auth(ctx context.Context, m events.Msg) error {
	a, err := events.OpenAuth(r.seal, m)
	switch {
	case errors.Is(err, seal.ErrNoKey):
		return r.keepUnopened(ctx, m, err)
	case err != nil:
		return events.Never(err)
	}
	c, ok := r.component(a.Component)
	if !ok {
		return events.Later(unknownFor(m), fmt.Errorf("handle %s: component %s is not in the settings", a.Kind, a.Component))
	}
	return r.setAside(ctx, a.Component, r.handleAuth(ctx, c, a, m))
}

// handleAuth leads an opened event to its handler, by kind.
//
// Tickets and authorizations take the key for this process first, so that a renewal of the same key
// does not lose its compare-and-set for nothing. A cancellation doesn't: the merchant has withdrawn
// the rights, and a token that is being fetched meanwhile has to go, too. It changes the record,
// and the renewal's commit is refused by the revision.
func (r *Refresher) handleAuth(ctx context.Context, c *component, a events.Auth, m events.Msg) error {
	if a.Authorizer != "" && !wxtoken.ValidAppID(a.Authorizer) {
		return events.Never(lang.Error(lang.T("handle %s: the authorizer's appid is not one", "处理 %s：授权方的 appid 不是 appid", a.Kind), nil))
	}
	key := wxtoken.ComponentKey(a.Component)
	if a.Authorizer != "" {
		key = wxtoken.AuthorizerKey(a.Component, a.Authorizer)
	}
	if a.CreateTime.After(a.ReceivedAt.Add(account.MaxAhead)) {
		r.log.Warn().Stringer("key", key).Str("info_type", a.Kind).Time("create_time", a.CreateTime).Msg("push from the future: is the clock right?")
		a.CreateTime = a.ReceivedAt // so that it can't hold off those to come
	}
	switch a.Kind {
	case events.KindTicket:
		return r.alone(key, func() error { return r.handleTicket(ctx, key, a) })
	case events.KindUnauthorized:
		if a.Authorizer == "" {
			return events.Never(lang.Error(lang.T("handle %s: the authorizer is missing", "处理 %s：缺少授权方", a.Kind), nil))
		}
		return r.handleUnauthorized(ctx, c, key, a, m) // waits for no other handler: the token has to go
	case events.KindAuthorized, events.KindUpdated, events.KindFastRegister:
		if a.Authorizer == "" || a.Code == "" {
			if a.Kind != events.KindFastRegister {
				return events.Never(lang.Error(lang.T("handle %s: authorizer or code is missing", "处理 %s：缺少授权方或授权码", a.Kind), nil))
			}
			// A quick registration that failed brings no code: services learn of it from the
			// notice.
			return nil
		}
		return r.alone(key, func() error { return r.handleAuthorized(ctx, c, key, a, m) })
	case events.KindCallback:
		return r.handleCode(ctx, c, a, m)
	case events.KindReleaseCheck:
		return r.handleReleaseCheck(ctx, c, a, m)
	case events.KindUnreadable:
		return r.handleUnreadable(ctx, a)
	}
	return events.Never(lang.Error(lang.T("handle %s: no such kind of event", "处理 %s：没有这种事件", a.Kind), nil))
}

// unknownDelay is the wait for a component that is not in the settings: it may be added.
const unknownDelay = time.Minute

// unknownFor is the wait of a message for such a component. One that was removed costs less and
// less; should it come back, the sweep finds what was missed.
func unknownFor(m events.Msg) time.Duration {
	return jittered(min(unknownDelay*time.Duration(max(m.Deliveries, 1)), time.Hour))
}

// setAside puts a message off whose record can't be used, and returns any other error as it is. It
// stands here, once, and not in the handlers: each of them reads a record, and none could do more
// about it.
//
// A damaged record is for WeChat's list to bring back, so the list is asked for. A record that is
// sealed with another key, or that a newer program wrote, is left alone: another refresher, or this
// one after its next start, can read it. To replace it would destroy what the other still needs.
func (r *Refresher) setAside(ctx context.Context, component string, err error) error {
	_, later := events.After(err)
	switch {
	case later:
	case errors.Is(err, store.ErrUnreadable):
		r.log.Error().Err(err).Str("component", component).Msg("credential unreadable, asking WeChat's list")
		if err := r.store.ScheduleReconcile(ctx, component, r.cfg.ReconcileEvery, true); err != nil {
			return err
		}
		return events.Later(unknownDelay, err)
	case errors.Is(err, store.ErrSealed):
		r.unopened.Do(func() {
			r.log.Error().Err(err).Str("component", component).Msg("record sealed with another key, left alone")
		})
		return events.Later(unknownDelay, err)
	case errors.Is(err, store.ErrNewer):
		return events.Later(unknownDelay, err)
	}
	return err
}
