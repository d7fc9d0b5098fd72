package events

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"wxtoken/client"
)

// Requests of operators, services and ingest. The refresher answers them as one NATS micro service;
// each has a subject of its own, so that each can be permitted on its own. Question and answer are
// JSON; a question that can't be answered gets an error of the micro service, whose code is an HTTP
// status, and in the body a Refusal, which says the same.
const (
	ServiceName = "wxtoken"

	SubjectReject        = "wxtoken.reject"
	SubjectRenew         = "wxtoken.renew"
	SubjectReconcile     = "wxtoken.reconcile"
	SubjectQuota         = "wxtoken.quota"
	SubjectAccount       = "wxtoken.account"
	SubjectConnectCreate = "wxtoken.connect.create"
	SubjectConnectOpen   = "wxtoken.connect.open"
	SubjectDead          = "wxtoken.dead"
	SubjectReveal        = "wxtoken.reveal"

	// ConsolePrefix begins the subjects on which the operator's page asks, and no other process may:
	// there a request says, in its headers, which person asks.
	ConsolePrefix = "wxtoken.console."
)

// ConsoleSubject returns where the operator's page asks what others ask on subject.
func ConsoleSubject(subject string) string {
	return ConsolePrefix + strings.TrimPrefix(subject, ServiceName+".")
}

// Refusal answers a question that can't be answered. The headers of the micro service say the same
// to those who look at them; a person at the nats command, and many a client, sees the body alone.
type Refusal struct {
	Error RequestError `json:"error"`
}

// RequestError is why a question can't be answered. As an error it reads like its description.
type RequestError struct {
	Code        int    `json:"code"` // an HTTP status
	Description string `json:"description"`
}

func (e *RequestError) Error() string { return e.Description }

// Refused returns the error of a question that gets an HTTP status for an answer.
func Refused(status int, format string, args ...any) *RequestError {
	return &RequestError{status, fmt.Sprintf(format, args...)}
}

// BadRequest returns the error of a question that is wrong in itself.
func BadRequest(format string, args ...any) error {
	return Refused(http.StatusBadRequest, format, args...)
}

// UnknownComponent returns the error of a question about a component for which no refresher acts.
func UnknownComponent(appid string) error {
	return Refused(http.StatusNotFound, "component %q is not in the settings of the refreshers", Clip(appid))
}

// Clip keeps a foreign text short enough for an error text.
func Clip(s string) string { return s[:min(len(s), 64)] }

// Digest returns the SHA-256 of a token or a code in hex, as questions name one without showing it.
func Digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// IsDigest reports whether s is what Digest returns; the digits of others may be capitals.
func IsDigest(s string) bool {
	sum, err := hex.DecodeString(s)
	return err == nil && len(sum) == sha256.Size
}

// Reject is the request on SubjectReject: a service reports that WeChat refused this token.
type Reject = wxtoken.Report

// Renew is the request on SubjectRenew: fetch the next token of this key now.
type Renew struct {
	Key wxtoken.Key `json:"key"`
}

// Verdict answers Reject and Renew.
type Verdict struct {
	Outcome  wxtoken.Outcome `json:"outcome"`
	Revision uint64          `json:"revision,omitempty"` // of the bucket's entry that the outcome speaks of
}

// ReconcileRequest is the request on SubjectReconcile: compare with what WeChat says now.
type ReconcileRequest struct {
	Component  string `json:"component"`
	Authorizer string `json:"authorizer,omitempty"` // this account alone
}

// Outcomes of ReconcileRequest.
const (
	ReconcileListed    = "reconciling" // WeChat's list has been asked for
	ReconcileUnchanged = "unchanged"   // of one account: WeChat says what is known
	ReconcileRecovered = "recovered"   // it told another refresh token, which is stored
	ReconcileCancelled = "cancelled"   // it says that the authorization is over
)

// Reconciling answers SubjectReconcile.
type Reconciling struct {
	Outcome string `json:"outcome"`
}

// QuotaRequest is the request on SubjectQuota. Clearing takes one of WeChat's ten clearings a
// month, so the component has to be named twice.
type QuotaRequest struct {
	Component string `json:"component"`
	Clear     bool   `json:"clear,omitempty"`
	Confirm   string `json:"confirm,omitempty"` // the component's appid once more
	Own       bool   `json:"own,omitempty"`     // only what the refreshers know: WeChat is not asked
}

// QuotaAnswer answers SubjectQuota.
type QuotaAnswer struct {
	Component string     `json:"component"`
	Cleared   bool       `json:"cleared,omitempty"`
	APIs      []APIQuota `json:"apis"`
}

// QuotaLeft is WeChat's count.
type QuotaLeft struct {
	DailyLimit int `json:"daily_limit"`
	Used       int `json:"used"`
	Remain     int `json:"remain"`
}

// APIQuota is how much of one call is left today.
type APIQuota struct {
	API string `json:"api"`
	*QuotaLeft
	Told        *QuotaTold `json:"told,omitempty"` // WeChat's count when it was last asked; nil: it never was
	Calls       int        `json:"calls"`          // made by the refreshers today, by their own count
	PausedUntil *time.Time `json:"paused_until,omitempty"`
	Error       string     `json:"error,omitempty"` // WeChat did not tell
}

// QuotaTold is what WeChat said when it was last asked. Its limit hardly changes.
type QuotaTold struct {
	DailyLimit int       `json:"daily_limit"`
	Used       int       `json:"used"`
	At         time.Time `json:"at"`
}

// AccountRequest is the request on SubjectAccount: what is recorded of a key beside its token and
// its status.
type AccountRequest struct {
	Key wxtoken.Key `json:"key"`
}

// AccountAnswer answers SubjectAccount. It holds no secret.
type AccountAnswer struct {
	Key            wxtoken.Key `json:"key"`
	Generation     uint64      `json:"generation"`
	Ref            string      `json:"ref,omitempty"`
	AuthorizedAt   time.Time   `json:"authorized_at,omitzero"`
	RevokedAt      time.Time   `json:"revoked_at,omitzero"`
	Authorizations uint64      `json:"authorizations,omitempty"` // how often it was authorized
	Failures       int         `json:"failures,omitempty"`       // since the last good renewal
	RetryAt        time.Time   `json:"retry_at,omitzero"`        // when the next try may start
	ClaimedUntil   time.Time   `json:"claimed_until,omitzero"`   // a refresher is at it
	Forced         int         `json:"forced_today,omitempty"`   // renewals that were asked for today, in China, by a report or by hand
	ForcedAt       time.Time   `json:"forced_at,omitzero"`
	History        []TokenPast `json:"history"` // of the last tokens, the newest first
}

// TokenPast is how a key came to one of its tokens.
type TokenPast struct {
	Generation uint64    `json:"generation"`
	At         time.Time `json:"at"`      // when it was asked for
	Reason     string    `json:"reason"`  // of the due message, or "authorized"
	LateMS     int64     `json:"late_ms"` // after its time
	TookMS     int64     `json:"took_ms"`
	By         string    `json:"by,omitempty"`          // the refresher's host
	ReportedBy string    `json:"reported_by,omitempty"` // what the service that reported the token before calls itself
}

// ConnectCreate is the request on SubjectConnectCreate: a link with which a merchant can authorize.
type ConnectCreate struct {
	Component   string   `json:"component"`
	Ref         string   `json:"ref,omitempty"`       // the caller's own id for the authorization
	Return      string   `json:"return,omitempty"`    // where the browser goes afterwards; its host must be allowed
	AuthType    int      `json:"auth_type,omitempty"` // WeChat's; 3, all kinds of accounts, by default
	BizAppID    string   `json:"biz_appid,omitempty"` // this account and no other
	CategoryIDs Category `json:"category_id_list,omitempty"`
	ExpiresIn   int      `json:"expires_in,omitempty"` // seconds that the link lives; 1800 by default
	Move        bool     `json:"move,omitempty"`       // an account that has another ref may take this one
}

// ConnectCreated answers SubjectConnectCreate.
type ConnectCreated struct {
	URL       string    `json:"url"`
	ID        string    `json:"id"`
	ExpiresAt time.Time `json:"expires_at"`
}

// What DeadRequest has done.
const (
	DoReplay  = "replay"
	DoDiscard = "discard"
)

// DeadRequest is the request on SubjectDead: replay or discard a message on DEAD.
type DeadRequest struct {
	Sequence uint64 `json:"sequence"`
	Do       string `json:"do"`
}

// DeadAnswer answers SubjectDead.
type DeadAnswer struct {
	Outcome string `json:"outcome"` // OutcomeReplayed or OutcomeDiscarded
	Subject string `json:"subject"` // of the original
}

// RevealRequest is the request on SubjectReveal.
type RevealRequest struct {
	Key wxtoken.Key `json:"key"`
}

// Revealed answers SubjectReveal.
type Revealed struct {
	Key        wxtoken.Key `json:"key"`
	Value      string      `json:"value"`
	Generation uint64      `json:"generation"`
	ExpiresAt  time.Time   `json:"expires_at"`
}

// Steps of an authorization by link.
const (
	StepLanding  = "landing"  // the page that leads to WeChat is shown
	StepCallback = "callback" // the browser comes back with a code
	StepResult   = "result"   // the page after that asks how it ended

	// StepSeal is no page: ingest's --check asks whether the refreshers open what it seals.
	StepSeal = "seal"
	// StepHeld is none either: ingest's --check asks what keeps tokens from being renewed, since it
	// may read no status.
	StepHeld = "held"
)

// ConnectOpen is ingest's request on SubjectConnectOpen. An id that does not exist is answered with
// 404, one that expired or was used with 410, a browser that never opened the landing page with
// 403, and one too many at once with 503. With Over the answer tells in the place of a 410 why the
// link is over.
type ConnectOpen struct {
	ID         string `json:"id"`
	Step       string `json:"step,omitempty"`        // StepLanding by default
	Session    string `json:"session,omitempty"`     // callback and result: what the landing page gave to the browser
	CodeSHA256 string `json:"code_sha256,omitempty"` // callback: hex digest of the code
	SealKey    string `json:"seal_key,omitempty"`    // seal: the public key that ingest seals for; empty: it does not seal
	Over       bool   `json:"over,omitempty"`        // ingest knows ConnectOpened.Over; one of an earlier version does not
}

// States of an authorization by link.
const (
	ConnectPending    = "pending"    // the merchant has not come back yet
	ConnectExchanging = "exchanging" // a code came and is being exchanged
	ConnectAuthorized = "authorized"
	ConnectConflict   = "conflict" // authorized, but the account belongs to another ref, and kept it
	ConnectFailed     = "failed"   // the code came to nothing
)

// Why a link is over, or is for this browser.
const (
	OverExpired = "expired" // no code came in time
	OverEnded   = "ended"   // the state tells how, and about whom
	OverBusy    = "busy"    // the code of another browser is being exchanged
)

// What StepSeal is answered as the state.
const (
	SealOpened  = "opened"   // the refreshers open what is sealed for that key
	SealUnknown = "unknown"  // they don't have its seed
	SealUnused  = "in_clear" // neither seals
	SealMissing = "missing"  // they have seeds, and ingest does not seal
)

// ConnectOpened answers SubjectConnectOpen.
type ConnectOpened struct {
	State      string    `json:"state"`
	Component  string    `json:"component"`
	URL        string    `json:"url"`                   // of the landing page, with the public host
	Session    string    `json:"session,omitempty"`     // landing: for the browser, which has to bring it back
	PCLink     string    `json:"pc_link,omitempty"`     // landing: WeChat's page with a QR code to scan
	MobileLink string    `json:"mobile_link,omitempty"` // landing: WeChat's page inside WeChat
	CodeAt     time.Time `json:"code_at,omitzero"`      // when the browser came back
	Authorizer string    `json:"authorizer,omitempty"`  // once authorized
	NickName   string    `json:"nick_name,omitempty"`   // of the account, once known; on the landing page, of BizAppID
	ReturnTo   string    `json:"return_to,omitempty"`   // once authorized: return with authorizer_appid and ref in its query
	Reason     string    `json:"reason,omitempty"`      // why it failed
	Over       string    `json:"over,omitempty"`        // where the question asks for it: why the link is over
	EndedAt    time.Time `json:"ended_at,omitzero"`     // when the state became final
	Lapsed     bool      `json:"lapsed,omitempty"`      // authorized, and cancelled or ended since
	SealKeys   []string  `json:"seal_keys,omitempty"`   // seal: the public keys whose seeds the refresher has

	// landing: what the link was made with, for the merchant to read
	AuthType    int       `json:"auth_type,omitempty"`
	BizAppID    string    `json:"biz_appid,omitempty"`
	CategoryIDs Category  `json:"category_id_list,omitempty"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"` // of the link

	Held map[string]wxtoken.Condition `json:"held,omitempty"` // held: the condition Renewing of each component that is held back
}

// Category is a list of permission sets. It is read from an array of numbers or from WeChat's own
// form, the numbers with "|" between them.
type Category []int

// UnmarshalJSON reads either form.
func (c *Category) UnmarshalJSON(text []byte) error {
	var list []int
	if err := json.Unmarshal(text, &list); err == nil {
		*c = list
		return nil
	}
	var joined string
	if err := json.Unmarshal(text, &joined); err != nil {
		return errCategory
	}
	ids, err := ParseCategory(joined)
	if err != nil {
		return err
	}
	*c = ids
	return nil
}

var errCategory = errors.New("category_id_list: want an array of numbers, or numbers with | between them")

// ParseCategory reads WeChat's form.
func ParseCategory(joined string) (c Category, err error) {
	for part := range strings.SplitSeq(joined, "|") {
		if part == "" {
			continue
		}
		id, err := strconv.Atoi(part)
		if err != nil {
			return nil, errCategory
		}
		c = append(c, id)
	}
	return c, nil
}

// String returns WeChat's form.
func (c Category) String() string {
	parts := make([]string, len(c))
	for i, id := range c {
		parts[i] = strconv.Itoa(id)
	}
	return strings.Join(parts, "|")
}
