package events

import "time"

// SubjectConnectList is where the refreshers list the links, for operators.
const SubjectConnectList = "wxtoken.connect.list"

// ConnectList is the request on SubjectConnectList.
type ConnectList struct {
	Component string `json:"component,omitempty"` // "" means all components
	Limit     int    `json:"limit,omitempty"`     // 100 by default, MaxConnectList at most
}

// MaxConnectList is how many links one answer holds at most.
const MaxConnectList = 200

// ConnectListed is the answer on SubjectConnectList: the links that were made or changed last, the
// newest first.
type ConnectListed struct {
	Links []ConnectSeen `json:"links"`
	More  bool          `json:"more"` // there are older ones
}

// ConnectSeen is what may be shown of a link. It is not enough to open the link.
type ConnectSeen struct {
	Link       string    `json:"link"` // the beginning of its id, as in the log
	Component  string    `json:"component"`
	Ref        string    `json:"ref,omitempty"`
	BizAppID   string    `json:"biz_appid,omitempty"`
	ReturnHost string    `json:"return_host,omitempty"`
	State      string    `json:"state"`
	MadeAt     time.Time `json:"made_at,omitzero"`
	OpenedAt   time.Time `json:"opened_at,omitzero"` // by a browser, for the first time
	CodeAt     time.Time `json:"code_at,omitzero"`   // when a browser came back from WeChat
	EndedAt    time.Time `json:"ended_at,omitzero"`
	ExpiresAt  time.Time `json:"expires_at"`
	Authorizer string    `json:"authorizer,omitempty"`
	Reason     string    `json:"reason,omitempty"` // why it failed
}
