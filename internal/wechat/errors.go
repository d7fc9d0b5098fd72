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

	"wxtoken/internal/lang"
)

// API names one of the platform's calls: those of the component by the last part of their path, the
// others by what follows /cgi-bin/.
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

// ComponentAPIs returns the calls that are charged to the component itself.
func ComponentAPIs() []API {
	return []API{APIComponentToken, APICreatePreAuthCode, APIQueryAuth, APIAuthorizerToken, APIAuthorizerInfo,
		APIAuthorizerList, APIStartPushTicket}
}

// Path returns the path of the call, for example /cgi-bin/component/api_query_auth.
func (a API) Path() string {
	if strings.Contains(string(a), "/") {
		return "/cgi-bin/" + string(a)
	}
	return "/cgi-bin/component/" + string(a)
}

// OfAccount reports whether the call is made with an account's own access token and charged to the
// account.
func (a API) OfAccount() bool { return a == APIGetTicket || a == APICustomSend }

// What the message of an Error without an errcode begins with.
const (
	unanswered = "no answer: "
	senseless  = "the answer makes no sense: "
)

// NoAnswer returns in both languages what Error says where it has no errcode; ok is false for any
// other text.
func NoAnswer(api API, said string) (text lang.Text, ok bool) {
	if what, is := strings.CutPrefix(said, string(api)+": "+unanswered); is {
		return lang.T("%s: no answer: %s", "%s：没有应答：%s", api, what), true
	}
	if what, is := strings.CutPrefix(said, string(api)+": "+senseless); is {
		return lang.T("%s: the answer makes no sense: %s", "%s：应答无法理解：%s", api, what), true
	}
	return lang.Text{}, false
}

// Error is the error of every call of Client: WeChat's refusal, no answer, or an answer that makes
// no sense. It holds no secret and may be logged.
type Error struct {
	API     API
	Code    int    // WeChat's errcode; 0 if it gave none
	Message string // WeChat's errmsg or what went wrong, at most 200 bytes
	RID     string // WeChat's request id; WeChat can look it up for seven days ("rid")
	Empty   bool   // WeChat answered with an empty body
	// Only context.Canceled or context.DeadlineExceeded: other errors may contain the URL with its
	// token.
	cause error
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

// Unwrap returns the context's error if the call ended because of it.
func (e *Error) Unwrap() error { return e.cause }

// maxMessage bounds Error.Message, in bytes.
const maxMessage = 200

var (
	ridPattern = regexp.MustCompile(`,?\s*\brid:\s*([0-9A-Za-z-]{1,64})`)
	// Most of WeChat's secrets have a mark; an access token is just a long run of letters and
	// digits.
	secretPattern = regexp.MustCompile(`(?i)\b(` + strings.Join(secretMarks, "|") + `)[^\s"'&,;]*|[0-9a-z_+=-]{40,}`)
)

// scrub removes the given secrets from a foreign text, and everything else that looks like a secret
// of WeChat's, and makes it one short line. It returns WeChat's request id separately.
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

// Verdict is what to do about an error of Client.
type Verdict int

// The verdicts.
const (
	Retry    Verdict = iota // try again, with growing delays: busy, no answer, nonsense, unknown
	SlowDown                // too many calls in this minute: continue after 60 s
	// Too many calls today: stop this call until midnight in China, or until an operator clears the
	// quota.
	QuotaGone
	// The component token that was sent is not valid any more: get a new one, once.
	RenewComponentToken
	// The account's access token that was sent is not valid any more: get a new one, once.
	RenewAccountToken
	WaitForTicket // the ticket is not valid any more: use a newer one
	// The refresh token is not valid: ask WeChat's list for the current one, once.
	RecoverRefreshToken
	Revoked // the account cancelled the authorization, or was frozen
	// The authorization code was used or has expired: WeChat's list may have the account.
	CodeSpent
	// Only an operator can fix this: secret, IP whitelist, permissions, or a fault of ours.
	Operator
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

// possibleOn lists, for some verdicts, the calls on which they are possible. For instance, an
// invalid credential on a call without a component token is a wrong appsecret, and a revoked
// account on a call that names no account is a fault of ours.
var possibleOn = map[Verdict][]API{
	RenewComponentToken: {APICreatePreAuthCode, APIQueryAuth, APIAuthorizerToken, APIAuthorizerInfo, APIAuthorizerList, APIQuotaGet},
	WaitForTicket:       {APIComponentToken},
	RecoverRefreshToken: {APIAuthorizerToken},
	Revoked:             {APIQueryAuth, APIAuthorizerToken, APIAuthorizerInfo},
	CodeSpent:           {APIQueryAuth},
}

// Judge returns what to do about err, an error of Client. It is Retry for an errcode that is not in
// the table, and for every fault without an errcode: contexts, networks, pages that are not JSON.
func Judge(err error) Verdict {
	var e *Error
	if !errors.As(err, &e) {
		return Retry
	}
	row, known := errcodes[e.Code]
	switch {
	case !known:
		return Retry
	case row.verdict == RenewComponentToken && e.API.OfAccount():
		return RenewAccountToken
	}
	if apis, limited := possibleOn[row.verdict]; limited && !slices.Contains(apis, e.API) {
		return Operator
	}
	return row.verdict
}
