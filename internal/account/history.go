package account

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// keptPast is how many tokens of the past a record tells of.
const keptPast = 8

// Past is how a key came to one of its tokens, for people who look at it later. Nothing is decided
// by it.
type Past struct {
	Generation uint64
	At         time.Time     // when it was asked for
	Reason     string        // of the due message; ReasonAuthorized for the first of an authorization
	Late       time.Duration // after its time; 0: it was in time, or had none
	Took       time.Duration // until it was there
	By         string        // the host
	Reporter   string        // what the service that reported the token before calls itself
}

// ReasonAuthorized is the Reason of a token that came with an authorization.
const ReasonAuthorized = "authorized"

// pastRecord is a Past as it is stored: there are eight of them in each record.
type pastRecord struct {
	Generation uint64 `json:"g"`
	At         int64  `json:"at"` // seconds since 1970
	Reason     string `json:"r"`
	LateMS     int64  `json:"l,omitempty"`
	TookMS     int64  `json:"t,omitempty"`
	By         string `json:"by,omitempty"`
	Reporter   string `json:"s,omitempty"`
}

// MarshalJSON writes it shortly.
func (p Past) MarshalJSON() ([]byte, error) {
	return json.Marshal(pastRecord{p.Generation, p.At.Unix(), p.Reason, p.Late.Milliseconds(), p.Took.Milliseconds(), p.By, p.Reporter})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Past) UnmarshalJSON(data []byte) error {
	var r pastRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("read the past of a token: %w", err)
	}
	*p = Past{r.Generation, time.Unix(r.At, 0).UTC(), r.Reason, time.Duration(r.LateMS) * time.Millisecond, time.Duration(r.TookMS) * time.Millisecond, r.By, r.Reporter}
	return nil
}

// noted adds how the newest token came about; the oldest goes.
func (c Credential) noted(p Past) Credential {
	p.Generation = c.Generation
	past := slices.Clone(c.History) // copies of a credential share it
	c.History = append(past[max(0, len(past)-keptPast+1):], p)
	return c
}
