package services

import (
	"encoding/json"
	"time"
)

// Served is the record on journal.count.gateway.<instance> of what a gateway serves, and of what it did
// between two times. A later record with the same From replaces an earlier one. A gateway with many
// services writes several, each of some of the services.
type Served struct {
	Role     string          `json:"role"` // gateway
	Instance string          `json:"instance"`
	Host     string          `json:"host"`
	From     time.Time       `json:"from"`
	To       time.Time       `json:"to"`
	Services []ServedService `json:"services"`
}

// ServedService is a service in a Served.
type ServedService struct {
	Summary
	Figures
	LastUse time.Time `json:"last_use,omitzero"`  // since the gateway started, as exact as the records are frequent
	LeftOut int       `json:"left_out,omitempty"` // entries of its lists that did not fit
}

// Figures are what a service did, by the metrics of the gateway.
type Figures struct {
	Tokens     int64 `json:"tokens,omitempty"`     // handed out
	Calls      int64 `json:"calls,omitempty"`      // that WeChat answered
	Errors     int64 `json:"errors,omitempty"`     // those with an errcode
	Unanswered int64 `json:"unanswered,omitempty"` // calls that WeChat did not answer
	Replaced   int64 `json:"replaced,omitempty"`   // calls whose token WeChat refused
	Delivered  int64 `json:"delivered,omitempty"`  // messages that webhooks took
	Failed     int64 `json:"failed,omitempty"`     // deliveries that failed
	Dead       int64 `json:"dead,omitempty"`       // messages given up
	Pending    int64 `json:"pending,omitempty"`    // messages that wait at the end of the period
}

// Add returns the sum of the figures of two periods, or of two gateways.
func (f Figures) Add(g Figures) Figures {
	return Figures{
		f.Tokens + g.Tokens, f.Calls + g.Calls, f.Errors + g.Errors, f.Unanswered + g.Unanswered, f.Replaced + g.Replaced,
		f.Delivered + g.Delivered, f.Failed + g.Failed, f.Dead + g.Dead, f.Pending + g.Pending,
	}
}

// Since returns the difference to base; Pending stays as it is.
func (f Figures) Since(base Figures) Figures {
	return Figures{
		f.Tokens - base.Tokens, f.Calls - base.Calls, f.Errors - base.Errors, f.Unanswered - base.Unanswered, f.Replaced - base.Replaced,
		f.Delivered - base.Delivered, f.Failed - base.Failed, f.Dead - base.Dead, f.Pending,
	}
}

// Used reports whether the service itself did anything.
func (f Figures) Used() bool { return f.Tokens+f.Calls+f.Unanswered > 0 }

const (
	// maxServed bounds a service in a record, maxRecord a record, in bytes: TRAFFIC takes 16 KiB.
	maxServed, maxRecord = 8 << 10, 14 << 10
	// maxEntries bounds the entries of a list.
	maxEntries = 64
)

// Records encodes records of services, as many as it takes. Each has the fields of head.
func Records(head Served, all []ServedService) (records [][]byte, err error) {
	head.Services = nil
	size := 0
	flush := func() error {
		data, err := json.Marshal(head)
		records, head.Services, size = append(records, data), nil, 0
		return err
	}
	for _, s := range all {
		s, n, err := s.fit()
		if err != nil {
			return nil, err
		}
		if size > 0 && size+n > maxRecord {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		head.Services, size = append(head.Services, s), size+n
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return records, nil
}

// fit shortens the lists of a service until it fits into a record, and returns its size there.
func (s ServedService) fit() (ServedService, int, error) {
	for most := maxEntries; ; most /= 2 {
		short := s
		short.LeftOut = 0
		short.Accounts = clip(s.Accounts, most, &short.LeftOut)
		short.APIs = clip(s.APIs, most, &short.LeftOut)
		short.Webhooks = nil
		for _, hook := range clip(s.Webhooks, most, &short.LeftOut) {
			hook.Messages = clip(hook.Messages, most, &short.LeftOut)
			short.Webhooks = append(short.Webhooks, hook)
		}
		data, err := json.Marshal(short)
		if err != nil || len(data) <= maxServed || most == 0 {
			return short, len(data), err
		}
	}
}

// clip returns the first entries of a list, and adds the number of the others to left.
func clip[T any](list []T, most int, left *int) []T {
	if len(list) <= most {
		return list
	}
	*left += len(list) - most
	return list[:most:most]
}
