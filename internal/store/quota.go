package store

import (
	"context"
	"errors"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
)

// Quota is what is known about a component's calls today. All refreshers share it.
type Quota struct {
	Version int            `json:"v"`
	Day     string         `json:"day"`             // the day in China that Calls counts, such as "2026-11-22"
	Calls   map[string]int `json:"calls,omitempty"` // by API
	// Paused holds, by API, until when no call may be made because the day's quota is used up.
	Paused map[string]time.Time `json:"paused,omitempty"`
	// Limits holds, by API, the day's limit that WeChat gave last.
	Limits map[string]Limit `json:"limits,omitempty"`
	// QuotaError is WeChat's last refusal of a call because its quota was used up.
	QuotaError *wxtoken.LastError `json:"quota_error,omitempty"`
	// PushAskedAt is when WeChat was last asked to push tickets.
	PushAskedAt time.Time `json:"push_asked_at,omitzero"`
	// ListedAt is when WeChat's whole list of authorizers was last read.
	ListedAt time.Time `json:"listed_at,omitzero"`
	// Held says what holds back calls; the keys are the refreshers' own. A used up day's quota is
	// only in Paused.
	Held map[string]Hold `json:"held,omitempty"`
}

// Limit is WeChat's count of the day's calls of an API.
type Limit struct {
	Daily int       `json:"daily"`
	Used  int       `json:"used"`
	At    time.Time `json:"at"` // when WeChat gave it
}

// Hold is one reason why calls are held back, as one refresher sees it.
type Hold struct {
	Reason  wxtoken.Reason     `json:"reason"`
	API     string             `json:"api,omitempty"`   // the call that is held back; "" means all
	Until   time.Time          `json:"until,omitzero"`  // when the next call is made; zero if not known
	Message string             `json:"message"`         // for a person, without a secret
	Error   *wxtoken.LastError `json:"error,omitempty"` // WeChat's error, if it gave one
	SeenAt  time.Time          `json:"seen_at"`         // when it was last confirmed
}

func (q *Quota) version() int { return q.Version }

// Quota returns what is known about a component's calls; an empty Quota if nothing is.
func (s *Store) Quota(ctx context.Context, component string) (q Quota, err error) {
	_, err = s.read(ctx, events.QuotaSubject(component), &q)
	return q, err
}

// UpdateQuota changes the Quota of a component by compare-and-set. change may be called several
// times; it reports whether there is anything to store.
func (s *Store) UpdateQuota(ctx context.Context, component string, change func(*Quota) bool) error {
	subject := events.QuotaSubject(component)
	return update(ctx, func() error {
		var q Quota
		revision, err := s.read(ctx, subject, &q)
		if errors.Is(err, ErrUnreadable) {
			q, err = Quota{}, nil // start again: the unreadable rest is worthless
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
