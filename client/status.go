package wxtoken

import (
	"encoding/json"
	"maps"
	"time"
)

// State is the state of a key in one word.
type State string

// The states of a key. They stand in Status.State.
const (
	StateActive             State = "active"              // the token is valid and will be renewed in time
	StateRenewingFailed     State = "renewing_failed"     // the last renewal failed; it is being tried again
	StateNeedsAuthorization State = "needs_authorization" // the merchant has to authorize again
	StateRevoked            State = "revoked"             // the merchant cancelled the authorization
	// The component has no usable component_verify_ticket.
	StateWaitingForTicket State = "waiting_for_ticket"
	// An operator must act: wrong secret, IP not on the whitelist, quota used up.
	StateOperator State = "operator"
)

// Status is what wxtoken knows about a key besides its token: the value in the bucket "status" and
// the payload of status.updated.<key>. It never holds a secret.
type Status struct {
	Key              Key         `json:"key"`
	State            State       `json:"state"`
	Conditions       []Condition `json:"conditions"`
	Authorizer       *Authorizer `json:"authorizer,omitempty"`
	TicketReceivedAt *time.Time  `json:"ticket_received_at,omitempty"` // component only
	LastError        *LastError  `json:"last_error,omitempty"`
	Failures         int         `json:"failures"` // renewals that failed since the last good one
	ReauthorizeURL   string      `json:"reauthorize_url,omitempty"`
	Revision         uint64      `json:"-"` // revision of the bucket's entry
}

// Condition is one aspect of a key and since when it holds.
type Condition struct {
	Type    ConditionType `json:"type"`
	Status  string        `json:"status"` // "True" or "False"
	Reason  Reason        `json:"reason"`
	Message string        `json:"message,omitempty"` // for a person
	Since   time.Time     `json:"since"`
	Until   *time.Time    `json:"until,omitempty"` // of Renewing: when it ends or is tried again, if known
}

// ConditionType says which aspect of a key a Condition is about. A later refresher may send others.
type ConditionType string

// The types of conditions. All but Ready are of components alone.
const (
	ConditionReady         ConditionType = "Ready"         // the token is valid
	ConditionTicketFlowing ConditionType = "TicketFlowing" // WeChat pushes component_verify_tickets
	// "False" while so many refresh tokens are refused at once that no account is marked.
	ConditionRefusalsBelieved ConditionType = "RefusalsBelieved"
	// The refreshers can open what ingest seals; missing until they first could not.
	ConditionEventsOpened ConditionType = "EventsOpened"

	// ConditionRenewing is "False" while something keeps tokens from being renewed, the component's
	// own or those of its accounts; its reason is then one of the Held constants.
	ConditionRenewing ConditionType = "Renewing"
)

// Reason is why a Condition is as it is, in one word. A later refresher may send others.
type Reason string

// The reasons of Ready.
const (
	ReasonRenewed       Reason = "Renewed"       // True
	ReasonRenewalFailed Reason = "RenewalFailed" // the last renewal failed; it is tried again
	ReasonExpired       Reason = "Expired"       // the token expired before the next one came
	// WeChat refuses the refresh token, and no other could be obtained.
	ReasonRefreshTokenInvalid Reason = "RefreshTokenInvalid"
	// There is no refresh token, and none could be obtained.
	ReasonNoRefreshToken  Reason = "NoRefreshToken"
	ReasonNoAPIPermission Reason = "NoAPIPermission" // the account granted no API permission
	ReasonTicketRefused   Reason = "TicketRefused"   // WeChat refuses the component_verify_ticket
	ReasonOperatorNeeded  Reason = "OperatorNeeded"  // an operator must act; the message says how
	ReasonCancelled       Reason = "Cancelled"       // the merchant cancelled the authorization
)

// The reasons of TicketFlowing.
const (
	ReasonTicketReceived Reason = "TicketReceived" // True
	ReasonNoTicket       Reason = "NoTicket"       // none came yet
	ReasonTicketLate     Reason = "TicketLate"     // none has come for 25 minutes
	ReasonTicketExpired  Reason = "TicketExpired"  // the last one is older than its 12 hours
)

// The reasons of RefusalsBelieved and EventsOpened.
const (
	ReasonBelieved       Reason = "Believed"       // True: back to normal
	ReasonManyAtOnce     Reason = "ManyAtOnce"     // so many refresh tokens were refused at once that no account is marked
	ReasonOpened         Reason = "Opened"         // True: back to normal
	ReasonSealKeyUnknown Reason = "SealKeyUnknown" // the refreshers don't have the seed that ingest seals for
)

// The reasons of Renewing: why tokens are not renewed, the gravest first. Where several apply at a
// time the condition names the first, and its message lists all.
const (
	ReasonUnhindered Reason = "Unhindered" // True

	HeldNATS     Reason = "NATSNotStoring" // NATS stores nothing, so WeChat's answer would be lost
	HeldNoTicket Reason = "NoTicket"       // there is no component_verify_ticket that WeChat takes
	HeldRefused  Reason = "CallsRefused"   // WeChat refuses the component: secret, IP whitelist, state
	// WeChat keeps answering api_component_token with an empty answer.
	HeldEmptyAnswers Reason = "EmptyAnswers"
	HeldQuota        Reason = "QuotaGone"       // the day's quota of a call is used up
	HeldDoubted      Reason = "RefusalsDoubted" // so many accounts are refused at once that the refusals are not believed
	HeldAway         Reason = "WeChatAway"      // WeChat does not answer
	// WeChat refused the component's token before it expired; another system may be renewing it.
	HeldTokenRefused Reason = "TokenRefused"
	HeldTokenDead    Reason = "TokenDead"   // the component has no valid token
	HeldListFirst    Reason = "ListFirst"   // the stored data is old: WeChat's list is read before any renewal
	HeldMinuteLimit  Reason = "MinuteLimit" // the minute's limit of a call is reached
)

// Held returns the condition that says what keeps tokens from being renewed; ok is false if nothing
// does.
func (s Status) Held() (c Condition, ok bool) {
	for _, c := range s.Conditions {
		if c.Type == ConditionRenewing && c.Status == "False" {
			return c, true
		}
	}
	return Condition{}, false
}

// StateAt returns the state at the time now: a key whose token has expired is not active, whatever
// State says. expiresAt is that of the newest token of the key, zero if there is none.
func (s Status) StateAt(now, expiresAt time.Time) State {
	if s.State == StateActive && !now.Before(expiresAt) {
		return StateRenewingFailed
	}
	return s.State
}

// LastError is the last refusal or failure that concerned the key.
type LastError struct {
	Code    int       `json:"code"` // WeChat's errcode; 0 when WeChat gave none
	Message string    `json:"message"`
	RID     string    `json:"rid,omitempty"` // WeChat's request id; WeChat can look it up for seven days
	API     string    `json:"api,omitempty"` // the call that was refused, such as api_authorizer_token
	At      time.Time `json:"at"`
}

// Authorizer is what is known about the account behind an authorizer key. Its JSON is one flat
// object: WeChat's own profile fields by their own names (nick_name, principal_name, ...; from
// authorizer_info of api_get_authorizer_info) beside func_info, authorized_at and ref.
type Authorizer struct {
	Profile      map[string]json.RawMessage
	FuncInfo     []int      // ids of the permission sets granted
	AuthorizedAt *time.Time // nil if not known
	Ref          string     // the caller's own id for this authorization
}

// authorizerRecord holds the fields of an Authorizer that are ours.
type authorizerRecord struct {
	FuncInfo     []int      `json:"func_info,omitempty"`
	AuthorizedAt *time.Time `json:"authorized_at,omitempty"`
	Ref          string     `json:"ref,omitempty"`
}

// ourNames are the names in authorizerRecord.
var ourNames = []string{"func_info", "authorized_at", "ref"}

// MarshalJSON writes the flat object.
func (a Authorizer) MarshalJSON() ([]byte, error) {
	ours, err := json.Marshal(authorizerRecord{FuncInfo: a.FuncInfo, AuthorizedAt: a.AuthorizedAt, Ref: a.Ref})
	if err != nil {
		return nil, err
	}
	flat := maps.Clone(a.Profile)
	if flat == nil {
		flat = map[string]json.RawMessage{}
	}
	for _, name := range ourNames {
		delete(flat, name) // a field of the profile never replaces one of ours
	}
	if err := json.Unmarshal(ours, &flat); err != nil {
		return nil, err
	}
	return json.Marshal(flat)
}

// UnmarshalJSON reads the flat object; fields that are not ours go into Profile.
func (a *Authorizer) UnmarshalJSON(data []byte) error {
	var ours authorizerRecord
	if err := json.Unmarshal(data, &ours); err != nil {
		return err
	}
	var flat map[string]json.RawMessage
	if err := json.Unmarshal(data, &flat); err != nil {
		return err
	}
	for _, name := range ourNames {
		delete(flat, name)
	}
	if len(flat) == 0 {
		flat = nil
	}
	*a = Authorizer{Profile: flat, FuncInfo: ours.FuncInfo, AuthorizedAt: ours.AuthorizedAt, Ref: ours.Ref}
	return nil
}
