package events

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"wxtoken/internal/lang"
	"wxtoken/internal/seal"
)

// Auth is the payload of every event on AUTH.
type Auth struct {
	Kind       string    `json:"kind"`
	Component  string    `json:"component"`
	CreateTime time.Time `json:"create_time"` // WeChat's CreateTime; for a callback when it arrived
	ReceivedAt time.Time `json:"received_at"`

	Authorizer  string `json:"authorizer,omitempty"`
	Ticket      string `json:"ticket,omitempty"`
	Code        string `json:"code,omitempty"`
	PreAuthCode string `json:"pre_auth_code,omitempty"`
	Connect     string `json:"connect,omitempty"` // id of the authorization by link; callback only
	OpenID      string `json:"openid,omitempty"`  // who wrote the message; release_check only

	Document string `json:"document,omitempty"` // as WeChat sent it, in base64; unreadable only
	Detail   string `json:"detail,omitempty"`   // what of it can't be read, quoting nothing of it
	AskList  bool   `json:"ask_list,omitempty"` // it may have been about an authorization, so WeChat's list is asked for
}

// Event returns the event that carries a. id is the digest of the push, source its path.
func (a Auth) Event(id, source string) (Event, error) {
	data, err := json.Marshal(a)
	if err != nil {
		return Event{}, fmt.Errorf("encode event %s: %w", a.Kind, err)
	}
	return Event{
		Subject: AuthSubject(a.Component, a.Kind), ID: id, Source: source, Type: prefixAuth + a.Kind, About: a.Authorizer,
		Time: a.CreateTime, ContentType: "application/json", Data: data,
	}, nil
}

// OpenAuth opens and reads an event on AUTH. Its error wraps seal.ErrNoKey if the event was sealed
// for a key that is not here; with any other error the event can't be read, now or later. It never
// shows the payload.
func OpenAuth(keys *seal.Keys, m Msg) (Auth, error) {
	data, err := keys.Open(m.Subject, m.Header, m.Data)
	if err != nil {
		return Auth{}, lang.Error(lang.T("open event: %v", "打开密封的事件：%v", err), err)
	}
	return ParseAuth(data)
}

// AuthAbout returns what is known of an event on AUTH without opening it: its component and kind,
// and the CreateTime of the push, zero if the header has none.
func AuthAbout(m Msg) (component, kind string, created time.Time) {
	component, kind, _ = strings.Cut(strings.TrimPrefix(m.Subject, prefixAuth), ".")
	created, _ = time.Parse(time.RFC3339, m.Header.Get(headerTime))
	return component, kind, created
}

// ParseAuth reads the payload of an event on AUTH. The error never shows the payload.
func ParseAuth(data []byte) (Auth, error) {
	var a Auth
	if err := json.Unmarshal(data, &a); err != nil {
		return Auth{}, lang.Error(lang.T("read event: not the JSON of an AUTH event", "读取事件：不是 AUTH 事件的 JSON"), nil)
	}
	var missing []string
	if a.Kind == "" {
		missing = append(missing, "kind")
	}
	if a.Component == "" {
		missing = append(missing, "component")
	}
	if missing != nil {
		return Auth{}, lang.Error(lang.T("read event: %s is missing", "读取事件：缺少 %s", strings.Join(missing, ", ")), nil)
	}
	return a, nil
}
