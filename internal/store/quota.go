package store

import (
	"context"
	"errors"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
)

// Quota is what is known of a component's calls today. All refreshers share it.
type Quota struct {
	Version int            `json:"v"`
	Day     string         `json:"day"`             // the day in China that Calls counts, such as "2026-11-22"
	Calls   map[string]int `json:"calls,omitempty"` // by API
	// Paused says until when no call of an API may be made, because WeChat said that the day's
	// quota is gone.
	Paused map[string]time.Time `json:"paused,omitempty"`
	// Limits are what WeChat said last of the day's limit of an API.
	Limits map[string]Limit `json:"limits,omitempty"`
	// QuotaError is what WeChat said when it last refused a call for that.
	QuotaError *wxtoken.LastError `json:"quota_error,omitempty"`
	// PushAskedAt is when WeChat was last asked to push tickets.
	PushAskedAt time.Time `json:"push_asked_at,omitzero"`
	// ListedAt is when WeChat's list of authorizers was last read whole.
	ListedAt time.Time `json:"listed_at,omitzero"`
	// Held says what holds back calls of which refresher; the keys are theirs. A day's quota stands
	// in Paused alone.
	Held map[string]Hold `json:"held,omitempty"`
}

// Limit is WeChat's word on the day's calls of an API.
type Limit struct {
	Daily int       `json:"daily"`
	Used  int       `json:"used"`
	At    time.Time `json:"at"` // when WeChat said it
}

// Hold is one reason why calls are held back, as one refresher met it.
type Hold struct {
	Reason  wxtoken.Reason     `json:"reason"`
	API     string             `json:"api,omitempty"`   // the call that rests; all, if none
	Until   time.Time          `json:"until,omitzero"`  // when the next call is made; zero if that is not known
	Message string             `json:"message"`         // for a person, without a secret
	Error   *wxtoken.LastError `json:"error,omitempty"` // what WeChat said, if it did
	SeenAt  time.Time          `json:"seen_at"`         // when it was last known to last
}

func (q *Quota) version() int { return q.Version }

// Quota returns what is known of a component's calls; an empty one when nothing is.
func (s *Store) Quota(ctx context.Context, component string) (q Quota, err error) {
	_, err = s.read(ctx, events.QuotaSubject(component), &q)
	return q, err
}

// UpdateQuota changes what is known of a component's calls by compare-and-set. change may be called
// several times; it reports whether there is anything to store.
func (s *Store) UpdateQuota(ctx context.Context, component string, change func(*Quota) bool) error {
	subject := events.QuotaSubject(component)
	return update(ctx, func() error {
		var q Quota
		revision, err := s.read(ctx, subject, &q)
		if errors.Is(err, ErrUnreadable) {
			q, err = Quota{}, nil // what could be read of it is worth nothing
		}
		if err != nil {
			return err
		}
		if !change(&q) {
			return nil
		}
		q.Version = recordVersion
		_, err = s.write(ctx, subject, &q, revision)
		return err
	})
}
