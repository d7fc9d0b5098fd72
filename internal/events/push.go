package events

import "time"

// Push is the record on journal.push.<component>.<result> of a push that was refused, odd, repeated
// or answered late. It holds nothing of the push's content or query.
type Push struct {
	At        time.Time `json:"at"` // when it was answered
	Result    string    `json:"result"`
	Reason    string    `json:"reason,omitempty"`
	Detail    string    `json:"detail,omitempty"`   // what was wrong and where
	Oddities  []string  `json:"oddities,omitempty"` // of an odd push, which was stored all the same: kind and place
	Component string    `json:"component,omitempty"`
	AppID     string    `json:"appid,omitempty"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	From      string    `json:"from,omitempty"` // the network that it came from: /24, or /48 for IPv6
	Kind      string    `json:"kind"`           // InfoType, or another label kind of wxtoken_push_total
	Subject   string    `json:"subject,omitempty"`
	EventID   string    `json:"event_id,omitempty"`
	Status    int       `json:"status"`
	Millis    int64     `json:"ms"` // until it was answered
	Bytes     int       `json:"bytes"`
	LeftOut   int64     `json:"left_out,omitempty"` // others with the same component and result that have no record
}

// PushKept is how long such a record is kept.
const PushKept = 7 * day
