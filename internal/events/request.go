package events

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
)

// Requests of operators, services and ingest. The refresher answers them as one NATS micro service;
// each has its own subject, so that each can be permitted separately. Request and answer are JSON.
// A request that can't be answered gets an error of the micro service, whose code is an HTTP
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

	// ConsolePrefix is the prefix of the subjects for requests of the operator's page. No other
	// process may publish there: the headers of such a request say which person asks.
	ConsolePrefix = "wxtoken.console."
)

// ConsoleSubject returns the subject on which the operator's page sends the requests that others
// send on subject.
func ConsoleSubject(subject string) string {
	return ConsolePrefix + strings.TrimPrefix(subject, ServiceName+".")
}

// Refusal is the body of the answer to a request that can't be answered. The headers of the micro
// service say the same, but a person using the nats command, and many clients, see only the body.
type Refusal struct {
	Error RequestError `json:"error"`
}

// RequestError is why a request can't be answered. Its error text is its description.
type RequestError struct {
	Code          int    `json:"code"` // an HTTP status
	Description   string `json:"description"`
	DescriptionZH string `json:"description_zh,omitempty"` // the same in Chinese, for the operator's page
}

func (e *RequestError) Error() string { return e.Description }

// Text is the description in both languages; from an earlier refresher it has no Chinese.
func (e *RequestError) Text() lang.Text { return bilingual(e.Description, e.DescriptionZH) }

// bilingual returns a text of which the Chinese may be missing.
func bilingual(en, zh string) lang.Text { return lang.Given(en, cmp.Or(zh, en)) }

// Refused returns the error of a request that is answered with an HTTP status.
func Refused(status int, why lang.Text) *RequestError {
	return &RequestError{status, why.EN, chinese(why)}
}

// chinese returns the Chinese of a text, "" where it is the English.
func chinese(text lang.Text) string {
	if text.ZH == text.EN {
		return ""
	}
	return text.ZH
}

// BadRequest returns the error of a faulty request.
func BadRequest(why lang.Text) error { return Refused(http.StatusBadRequest, why) }

// WrongType says which field of a question has a value of a wrong type, and what it should be; nothing
// if err is about something else. It does not quote the value, which may be a token by mistake.
func WrongType(err error) lang.Text {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	switch {
	case !ok:
		return lang.Text{}
	case wrong.Field == "":
		return lang.T("want a JSON object", "应为一个 JSON 对象")
	}
	want := lang.T("another value", "其他类型的值")
	switch wrong.Type.Kind() {
	case reflect.String, reflect.Struct: // a Key or a Secret
		want = lang.T("a string", "字符串")
	case reflect.Bool:
		want = lang.T("true or false", "true 或 false")
	case reflect.Int:
		want = lang.T("a whole number", "整数")
	case reflect.Uint64:
		want = lang.T("a whole number that is not negative", "不小于 0 的整数")
	case reflect.Slice:
		want = lang.T("an array", "数组")
	}
	return lang.T("%s: want %s", "%s：应为%s", wrong.Field, want)
}

// UnknownComponent returns the error of a request about a component that is not in the refreshers'
// settings.
func UnknownComponent(appid string) error {
	return Refused(http.StatusNotFound, lang.T("component %q is not in the settings of the refreshers", "refresher 的设置中没有第三方平台 %q", Clip(appid)))
}

// Clip shortens a foreign text for an error text.
func Clip(s string) string { return s[:min(len(s), 64)] }

// Digest returns the SHA-256 of a token or a code in hex: requests name one this way without
// showing it.
func Digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// IsDigest reports whether s is the hex of a SHA-256. Upper-case digits are accepted too.
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

// Verdict is the answer to Reject and Renew.
type Verdict struct {
	Outcome  wxtoken.Outcome `json:"outcome"`
	Revision uint64          `json:"revision,omitempty"` // of the bucket's entry that the outcome is about
}

// ReconcileRequest is the request on SubjectReconcile: compare the stored data with WeChat's.
type ReconcileRequest struct {
	Component  string `json:"component"`
	Authorizer string `json:"authorizer,omitempty"` // this account only
}

// Outcomes of ReconcileRequest.
const (
	ReconcileListed    = "reconciling" // WeChat's list has been asked for
	ReconcileUnchanged = "unchanged"   // of one account: WeChat has the same data
	ReconcileRecovered = "recovered"   // WeChat gave another refresh token, which is stored
	ReconcileCancelled = "cancelled"   // WeChat says that the authorization is cancelled
)

// Reconciling is the answer on SubjectReconcile.
type Reconciling struct {
	Outcome string `json:"outcome"`
}

// QuotaRequest is the request on SubjectQuota. WeChat allows ten clearings a month, so to clear the
// component must be named twice.
type QuotaRequest struct {
	Component string `json:"component"`
	Clear     bool   `json:"clear,omitempty"`
	Confirm   string `json:"confirm,omitempty"` // the component's appid again
	Own       bool   `json:"own,omitempty"`     // only the refreshers' own counts: WeChat is not asked
}

// QuotaAnswer is the answer on SubjectQuota.
type QuotaAnswer struct {
	Component string     `json:"component"`
	Cleared   bool       `json:"cleared,omitempty"`
	APIs      []APIQuota `json:"apis"`
}

// QuotaLeft is WeChat's count of one call.
type QuotaLeft struct {
	DailyLimit int `json:"daily_limit"`
	Used       int `json:"used"`
	Remain     int `json:"remain"`
}

// APIQuota is how much of one call is left today.
type APIQuota struct {
	API string `json:"api"`
	*QuotaLeft
	Told        *QuotaTold `json:"told,omitempty"` // WeChat's count when it was last asked; nil if it never was
	Calls       int        `json:"calls"`          // made by the refreshers today, by their own count
	PausedUntil *time.Time `json:"paused_until,omitempty"`
	Error       string     `json:"error,omitempty"` // why WeChat's count is missing
	ErrorZH     string     `json:"error_zh,omitempty"`
}

// Why is why WeChat's count is missing, in both languages.
func (q APIQuota) Why() lang.Text { return bilingual(q.Error, q.ErrorZH) }

// QuotaTold is WeChat's count when it was last asked. The limit rarely changes.
type QuotaTold struct {
	DailyLimit int       `json:"daily_limit"`
	Used       int       `json:"used"`
	At         time.Time `json:"at"`
}

// AccountRequest is the request on SubjectAccount: for what is recorded about a key besides its
// token and its status.
type AccountRequest struct {
	Key wxtoken.Key `json:"key"`
}

// AccountAnswer is the answer on SubjectAccount. It holds no secret.
type AccountAnswer struct {
	Key            wxtoken.Key `json:"key"`
	Generation     uint64      `json:"generation"`
	Ref            string      `json:"ref,omitempty"`
	AuthorizedAt   time.Time   `json:"authorized_at,omitzero"`
	RevokedAt      time.Time   `json:"revoked_at,omitzero"`
	Authorizations uint64      `json:"authorizations,omitempty"` // how often it was authorized
	Failures       int         `json:"failures,omitempty"`       // since the last good renewal
	RetryAt        time.Time   `json:"retry_at,omitzero"`        // when the next try may start
	ClaimedUntil   time.Time   `json:"claimed_until,omitzero"`   // until when a refresher claims it
	Forced         int         `json:"forced_today,omitempty"`   // renewals requested today (China's day), by a report or by an operator
	ForcedAt       time.Time   `json:"forced_at,omitzero"`
	History        []TokenPast `json:"history"` // of the last tokens, the newest first
}

// TokenPast is how one token of a key was obtained.
type TokenPast struct {
	Generation uint64    `json:"generation"`
	At         time.Time `json:"at"`      // when WeChat was asked for it
	Reason     string    `json:"reason"`  // of the due message, or "authorized"
	LateMS     int64     `json:"late_ms"` // how long after renew_at
	TookMS     int64     `json:"took_ms"`
	By         string    `json:"by,omitempty"`          // the refresher's host
	ReportedBy string    `json:"reported_by,omitempty"` // the name that the service gave that reported the token before
}

// ConnectCreate is the request on SubjectConnectCreate: a link with which a merchant can authorize.
type ConnectCreate struct {
	Component   string   `json:"component"`
	Ref         string   `json:"ref,omitempty"`       // the caller's own id for the authorization
	Return      string   `json:"return,omitempty"`    // where the browser goes afterwards; its host must be allowed
	AuthType    int      `json:"auth_type,omitempty"` // WeChat's; 3, all kinds of accounts, by default
	BizAppID    string   `json:"biz_appid,omitempty"` // only this account may authorize
	CategoryIDs Category `json:"category_id_list,omitempty"`
	ExpiresIn   int      `json:"expires_in,omitempty"` // life of the link in seconds; 1800 by default
	Move        bool     `json:"move,omitempty"`       // an account that has another ref gets this one
}

// ConnectCreated is the answer on SubjectConnectCreate.
type ConnectCreated struct {
	URL       string    `json:"url"`
	ID        string    `json:"id"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Values of DeadRequest.Do.
const (
	DoReplay  = "replay"
	DoDiscard = "discard"
)

// DeadRequest is the request on SubjectDead: replay or discard a message on DEAD.
type DeadRequest struct {
	Sequence uint64 `json:"sequence"`
	Do       string `json:"do"`
}

// DeadAnswer is the answer on SubjectDead.
type DeadAnswer struct {
	Outcome string `json:"outcome"` // OutcomeReplayed or OutcomeDiscarded
	Subject string `json:"subject"` // of the original
}

// RevealRequest is the request on SubjectReveal: for the value of a token.
type RevealRequest struct {
	Key wxtoken.Key `json:"key"`
}

// Revealed is the answer on SubjectReveal.
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

	// StepSeal is not a page: ingest's --check asks whether the refreshers can open what ingest
	// seals.
	StepSeal = "seal"
	// StepHeld is not a page either: ingest's --check asks what keeps tokens from being renewed,
	// since ingest may not read statuses.
	StepHeld = "held"
)

// ConnectOpen is ingest's request on SubjectConnectOpen. An id that does not exist is answered with
// 404, one that expired or was used with 410, a browser that never opened the landing page with
// 403, and one too many at once with 503. With Over the answer, instead of a 410, tells why the
// link is over.
type ConnectOpen struct {
	ID         string `json:"id"`
	Step       string `json:"step,omitempty"`        // StepLanding by default
	Session    string `json:"session,omitempty"`     // callback and result: the session that the landing page gave to the browser
	CodeSHA256 string `json:"code_sha256,omitempty"` // callback: hex digest of the code
	SealKey    string `json:"seal_key,omitempty"`    // seal: the public key that ingest seals for; empty if it does not seal
	Over       bool   `json:"over,omitempty"`        // ingest knows ConnectOpened.Over; an earlier version does not
}

// States of an authorization by link.
const (
	ConnectPending    = "pending"    // the merchant has not come back yet
	ConnectExchanging = "exchanging" // a code came and is being exchanged
	ConnectAuthorized = "authorized"
	ConnectConflict   = "conflict" // authorized, but the account has another ref, and keeps it
	ConnectFailed     = "failed"   // the code could not be exchanged
)

// Why a link is over, or is over for this browser.
const (
	OverExpired = "expired" // no code came in time
	OverEnded   = "ended"   // the state tells how it ended, and for which account
	OverBusy    = "busy"    // the code of another browser is being exchanged
)

// Values of ConnectOpened.State for StepSeal.
const (
	SealOpened  = "opened"   // the refreshers can open what is sealed for that key
	SealUnknown = "unknown"  // they don't have its seed
	SealUnused  = "in_clear" // neither side seals
	SealMissing = "missing"  // they have seeds, and ingest does not seal
)

// ConnectOpened is the answer on SubjectConnectOpen.
type ConnectOpened struct {
	State      string    `json:"state"`
	Component  string    `json:"component"`
	URL        string    `json:"url"`                   // of the landing page, with the public host
	Session    string    `json:"session,omitempty"`     // landing: for the browser, which must bring it back
	PCLink     string    `json:"pc_link,omitempty"`     // landing: WeChat's page with a QR code to scan
	MobileLink string    `json:"mobile_link,omitempty"` // landing: WeChat's page inside WeChat
	CodeAt     time.Time `json:"code_at,omitzero"`      // when the browser came back
	Authorizer string    `json:"authorizer,omitempty"`  // once authorized
	NickName   string    `json:"nick_name,omitempty"`   // of the account, once known; on the landing page, of BizAppID
	ReturnTo   string    `json:"return_to,omitempty"`   // once authorized: return with authorizer_appid and ref in its query
	Reason     string    `json:"reason,omitempty"`      // why it failed
	Over       string    `json:"over,omitempty"`        // if the request asks for it: why the link is over
	EndedAt    time.Time `json:"ended_at,omitzero"`     // when the state became final
	Lapsed     bool      `json:"lapsed,omitempty"`      // authorized, and cancelled or ended since
	SealKeys   []string  `json:"seal_keys,omitempty"`   // seal: the public keys whose seeds the refresher has

	// landing: the link's parameters, for the merchant to read
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

var errCategory = BadRequest(lang.T("category_id_list: want an array of numbers, or numbers with | between them", "category_id_list：应为数字的数组，或用 | 分隔的数字"))

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
