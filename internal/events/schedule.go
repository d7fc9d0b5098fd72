package events

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/lang"
)

// Due is the payload of renewal.scheduled.<key> and renewal.due.<key>: the request for the token
// after the one with this generation. It is fulfilled once the key has a later generation.
type Due struct {
	Key        wxtoken.Key `json:"key"`
	Generation uint64      `json:"generation"`
	Reason     string      `json:"reason"`
	// By is the name that the service gave that reported the token.
	By string `json:"by,omitempty"`
	// Revision is that of the key's credential when the renewal was asked for. While the credential
	// still has it, no refresher has tried since.
	Revision uint64 `json:"revision,omitempty"`
}

// Reasons of a due message.
const (
	ReasonScheduled = "scheduled" // its schedule came due
	ReasonSwept     = "swept"     // it was overdue and no refresher held a claim
	ReasonRefused   = "refused"   // WeChat refused the token
	ReasonTicket    = "ticket"    // a ticket came for a component without a valid token
	// WeChat lists an authorizer that was unknown, or that has another refresh token.
	ReasonListed   = "listed"
	ReasonOverlap  = "overlap"  // two calls overlapped, so it is unknown which token WeChat considers the newest
	ReasonAsked    = "asked"    // an operator asked for it
	ReasonDerived  = "derived"  // a JS or card ticket is kept for an account
	ReasonImported = "imported" // the refresh token came from another keeper
)

// ParseDue reads a due message.
func ParseDue(data []byte) (Due, error) {
	var d Due
	if err := json.Unmarshal(data, &d); err != nil {
		return Due{}, lang.Error(lang.T("read due message: %v", "读取定时消息：%v", err), err)
	}
	if d.Key == (wxtoken.Key{}) || d.Reason == "" { // without the reason, the JSON of a token would pass
		return Due{}, lang.Error(lang.T("read due message: the key or the reason is missing", "读取定时消息：缺少 key 或 reason"), nil)
	}
	return d, nil
}

// DueMsg returns the message that makes key due now.
func DueMsg(d Due) (*nats.Msg, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode due message of %s: %w", d.Key, err)
	}
	m := nats.NewMsg(DueSubject(d.Key))
	m.Data = data
	return m, nil
}

// ScheduleMsg returns the message that makes key due at the given time, truncated to seconds. Each
// key has one schedule: this one replaces the one before.
func ScheduleMsg(key wxtoken.Key, generation uint64, at time.Time) (*nats.Msg, error) {
	data, err := json.Marshal(Due{Key: key, Generation: generation, Reason: ReasonScheduled})
	if err != nil {
		return nil, fmt.Errorf("encode schedule of %s: %w", key, err)
	}
	m := nats.NewMsg(ScheduleSubject(key))
	m.Data = data
	m.Header.Set(jetstream.ScheduleHeader, "@at "+at.UTC().Truncate(time.Second).Format(time.RFC3339))
	m.Header.Set(jetstream.ScheduleTargetHeader, DueSubject(key))
	return m, nil
}

// ReconcileMsg returns the schedule that makes a reconcile of component due each time that interval
// has passed. It is at least a second.
func ReconcileMsg(component string, every time.Duration) *nats.Msg {
	m := nats.NewMsg(ReconcileScheduleSubject(component))
	m.Header.Set(jetstream.ScheduleHeader, "@every "+every.String())
	m.Header.Set(jetstream.ScheduleTargetHeader, ReconcileDueSubject(component))
	return m
}

// EndSchedule sets headers on a message of the stream, so that storing it removes the schedule of
// key.
func EndSchedule(m *nats.Msg, key wxtoken.Key) {
	m.Header.Set(jetstream.ScheduleNextHeader, "purge")
	m.Header.Set(jetstream.SchedulerHeader, ScheduleSubject(key))
}
