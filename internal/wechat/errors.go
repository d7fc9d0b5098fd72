package wechat

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// API names one of the platform's calls: those of the component by the last part of their path, the others
// by what follows /cgi-bin/.
type API string

// The calls of Client.
const (
	APIComponentToken    API = "api_component_token"
	APICreatePreAuthCode API = "api_create_preauthcode"
	APIQueryAuth         API = "api_query_auth"
	APIAuthorizerToken   API = "api_authorizer_token"
	APIAuthorizerInfo    API = "api_get_authorizer_info"
	APIAuthorizerList    API = "api_get_authorizer_list"
	APIStartPushTicket   API = "api_start_push_ticket"
	APIGetTicket         API = "ticket/getticket"
	APICustomSend        API = "message/custom/send"
	APIQuotaGet          API = "openapi/quota/get"
	APIClearQuota        API = "component/clear_quota/v2"
)

// ComponentAPIs are the calls that are charged to the component itself.
func ComponentAPIs() []API {
	return []API{APIComponentToken, APICreatePreAuthCode, APIQueryAuth, APIAuthorizerToken, APIAuthorizerInfo,
		APIAuthorizerList, APIStartPushTicket}
}

// Path returns the call's path, as "openapi/quota/get" wants it.
func (a API) Path() string {
	if strings.Contains(string(a), "/") {
		return "/cgi-bin/" + string(a)
	}
	return "/cgi-bin/component/" + string(a)
}

// OfAccount reports whether the call is made with an account's own access token and charged to the account.
func (a API) OfAccount() bool { return a == APIGetTicket || a == APICustomSend }

// Error is the error of every call of Client: WeChat's refusal, no answer, or an answer that makes no sense.
// It holds no secret and may be logged.
type Error struct {
	API     API
	Code    int    // WeChat's errcode; 0 when it gave none
	Message string // WeChat's errmsg or what went wrong, at most 200 bytes
	RID     string // WeChat's request id; the platform explains it for seven days ("rid")
	Empty   bool   // WeChat answered, with nothing in the body
	cause   error  // context.Canceled or context.DeadlineExceeded; anything else could hold the URL with its token
}

// Error returns the call, WeChat's errcode and the message.
func (e *Error) Error() string {
	text := string(e.API)
	if e.Code != 0 {
		text += ": errcode " + strconv.Itoa(e.Code)
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.RID != "" {
		text += " (rid " + e.RID + ")"
	}
	return text
}

// Unwrap returns the context's error when the call ended because of it.
func (e *Error) Unwrap() error { return e.cause }

// maxMessage bounds Error.Message, in bytes.
const maxMessage = 200

var (
	ridPattern = regexp.MustCompile(`,?\s*\brid:\s*([0-9A-Za-z-]{1,64})`)
	// WeChat marks most of its secrets; an access token is no more than a long run of letters and digits.
	secretPattern = regexp.MustCompile(`(?i)\b(ticket|refreshtoken|queryauthcode|preauthcode)@@@[^\s"'&,;]*|[0-9a-z_+=-]{40,}`)
)

// scrub takes out of a foreign text the secrets given and whatever else looks like one of WeChat's, and
// makes it one short line. It returns WeChat's request id apart.
func scrub(text string, secrets []string) (message, rid string) {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[redacted]")
			text = strings.ReplaceAll(text, url.QueryEscape(secret), "[redacted]")
		}
	}
	text = secretPattern.ReplaceAllString(text, "[redacted]")
	if match := ridPattern.FindStringSubmatch(text); match != nil {
		rid = match[1]
		text = ridPattern.ReplaceAllString(text, "")
	}
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	text = strings.TrimSpace(text)
	if len(text) > maxMessage {
		cut := maxMessage
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut]
	}
	return text, rid
}

// Verdict is what a keeper of tokens has to do about an error of Client.
type Verdict int

// The verdicts.
const (
	Retry               Verdict = iota // try again, later and later: busy, no answer, nonsense, unknown
	SlowDown                           // too many calls in this minute: go on after 60 s
	QuotaGone                          // too many calls today: stop this call until midnight in China, or until an operator clears the quota
	RenewComponentToken                // the component token that was sent is not good any more: get a new one, once
	RenewAccountToken                  // the account's access token that was sent is not good any more: get a new one, once
	WaitForTicket                      // the ticket is not good any more: use a newer one
	RecoverRefreshToken                // the refresh token is not good: ask WeChat's list for the current one, once
	Revoked                            // the account cancelled the authorization, or was frozen
	CodeSpent                          // the authorization code was used or has expired: WeChat's list may know the account
	Operator                           // only a person can put this right: secret, IP whitelist, permissions, or a fault of ours
)

var verdictNames = [...]string{
	Retry: "retry", SlowDown: "slow_down", QuotaGone: "quota_gone", RenewComponentToken: "renew_component_token",
	RenewAccountToken: "renew_account_token",
	WaitForTicket:     "wait_for_ticket", RecoverRefreshToken: "recover_refresh_token", Revoked: "revoked",
	CodeSpent: "code_spent", Operator: "operator",
}

// String returns the verdict in snake case, as for a label.
func (v Verdict) String() string {
	if v >= 0 && int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "Verdict(" + strconv.Itoa(int(v)) + ")"
}

// verdicts says what each errcode means to a keeper of tokens ("Return_code_descriptions_new", and the pages of the calls).
// Codes of other parts of the platform (end-user OAuth, quick registration) are here as well: our calls never
// give them, so if one does, a person has to look.
var verdicts = map[int]Verdict{
	-1:    Retry, // system busy
	-1000: Retry, // system error

	40001: RenewComponentToken, // credential invalid or not the latest
	40014: RenewComponentToken, // access_token invalid
	40094: RenewComponentToken, // component credential invalid
	42001: RenewComponentToken, // access_token expired; on api_authorizer_token, too, it is the component's
	42006: RenewComponentToken, // component_access_token expired

	40091: WaitForTicket, // component ticket invalid
	61005: WaitForTicket, // component ticket expired
	61006: WaitForTicket, // component ticket invalid

	42007: RecoverRefreshToken, // the user changed the password
	61023: RecoverRefreshToken, // refresh_token invalid

	50002: Revoked, // account frozen or deregistered
	61003: Revoked, // not authorized by this account

	61009: CodeSpent, // code invalid: used, or of another kind
	61010: CodeSpent, // code expired

	45009: QuotaGone, // daily quota
	45011: SlowDown,  // quota of the minute

	40013: Operator, // appid invalid
	40029: Operator, // oauth code invalid
	40030: Operator, // oauth refresh_token invalid
	40090: Operator, // client IP refused
	40097: Operator, // bad argument
	40125: Operator, // appsecret invalid
	40163: Operator, // oauth code used
	40164: Operator, // IP not on the whitelist
	40170: Operator, // count above the limit
	40243: Operator, // appsecret frozen
	41001: Operator, // access_token missing
	41002: Operator, // appid missing
	41004: Operator, // secret missing
	41018: Operator, // component_appid missing
	42002: Operator, // oauth refresh_token expired
	43002: Operator, // not a POST
	44002: Operator, // body empty
	45035: Operator, // IP not registered
	47001: Operator, // JSON can't be read
	47002: Operator, // JSON with escaped characters
	48001: Operator, // permission set missing
	48004: Operator, // call banned
	48006: Operator, // clear_quota used up
	48017: Operator, // retired address of the API
	49001: Operator, // appid is not the token's
	61000: Operator, // component's type or appid
	61001: Operator, // component's type or appid
	61002: Operator, // component's type or appid
	61004: Operator, // IP not on the component's whitelist
	61007: Operator, // permission set not granted
	61008: Operator, // key twice in the request
	61011: Operator, // component invalid
	61012: Operator, // option name
	61013: Operator, // option value
	61014: Operator, // wants a component token
	61015: Operator, // wants an account's token
	61016: Operator, // permission set to be confirmed
	61017: Operator, // permission set not granted
	61018: Operator, // permission set to be confirmed
	61019: Operator, // permission set to be confirmed
	61021: Operator, // permission set to be confirmed
	61022: Operator, // permission set to be confirmed
	61024: Operator, // wants api_component_token
	61025: Operator, // option is read-only
	61026: Operator, // registration denied
	61027: Operator, // registration limit
	61028: Operator, // component not released, account not on the test list
	61029: Operator, // component to be released again
	61030: Operator, // cancelling not allowed
	76001: Operator, // rid invalid
	76002: Operator, // rid expired
	76003: Operator, // rid or path of another owner
	76004: Operator, // rid too old
	76021: Operator, // quota: bad path
	76022: Operator, // quota: token of another owner
	86000: Operator, // for third-party platforms only
	89501: Operator, // administrator has to confirm the IP
	89502: Operator, // administrator has to confirm the IP
	89503: Operator, // administrator has to confirm the IP
	89504: Operator, // administrator has to confirm the IP
	89505: Operator, // administrator has to confirm the IP
	89506: Operator, // administrator refused the IP for 24 h
	89507: Operator, // administrator refused the IP for 1 h
}

// operatorRanges are codes of the platform that come in rows.
var operatorRanges = [][2]int{
	{61051, 61070}, // quick registration: identity; 61061 is access from overseas
	{89000, 89004}, // binding to an open-platform account
	{89249, 89255}, // quick registration: state of the task
}

// asksFor lists the calls on which a verdict can mean what it says. A wrong credential on a call
// without a component token, for instance, is a wrong appsecret; a revoked account on a call that names no account is a fault of ours.
var asksFor = map[Verdict][]API{
	RenewComponentToken: {APICreatePreAuthCode, APIQueryAuth, APIAuthorizerToken, APIAuthorizerInfo, APIAuthorizerList, APIQuotaGet},
	WaitForTicket:       {APIComponentToken},
	RecoverRefreshToken: {APIAuthorizerToken},
	Revoked:             {APIQueryAuth, APIAuthorizerToken, APIAuthorizerInfo},
	CodeSpent:           {APIQueryAuth},
}

// Judge tells what to do about err, an error of Client. Whatever WeChat did not say, and an errcode that
// is not in the table, is worth another try: contexts, networks, pages that are not JSON.
func Judge(err error) Verdict {
	var e *Error
	if !errors.As(err, &e) {
		return Retry
	}
	verdict, known := verdicts[e.Code]
	if !known {
		for _, codes := range operatorRanges {
			if codes[0] <= e.Code && e.Code <= codes[1] {
				return Operator
			}
		}
		return Retry
	}
	if verdict == RenewComponentToken && e.API.OfAccount() {
		return RenewAccountToken
	}
	if apis, limited := asksFor[verdict]; limited && !slices.Contains(apis, e.API) {
		return Operator
	}
	return verdict
}
