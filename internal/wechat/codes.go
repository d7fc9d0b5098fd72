package wechat

import (
	"errors"
	"net"
	"regexp"

	"wxtoken/internal/lang"
	"wxtoken/internal/runbook"
)

// Concern tells what a refusal is about: which other calls would get it, too.
type Concern int

// The concerns, from the narrowest to the widest.
const (
	ConcernCall      Concern = iota // the call itself, or not known
	ConcernAccount                  // the account that the call was made for
	ConcernComponent                // the component, its secret or its state: all its calls
	ConcernAddress                  // the address that calls come from: all calls from here
)

var concernNames = [...]string{
	ConcernCall: "call", ConcernAccount: "account", ConcernComponent: "component", ConcernAddress: "address",
}

// String returns the concern in one word.
func (c Concern) String() string { return concernNames[c] }

// remedy says what to do about a refusal.
type remedy struct {
	do   lang.Text
	more runbook.Entry
}

// The remedies. Names of fields are those of WeChat's console.
var (
	allowAddress = &remedy{addAddress(""), runbook.ComponentOperator} // Remedy fills in the address
	copySecret   = &remedy{lang.T("copy the AppSecret from WeChat's console (or reset it there) into "+
		"--component-appsecret-file (WXTOKEN_COMPONENT_APPSECRET_FILE), or appsecret in --components-dir",
		"从微信开放平台复制 AppSecret（或在那里重置），写入 "+
			"--component-appsecret-file (WXTOKEN_COMPONENT_APPSECRET_FILE) 指定的文件，或 --components-dir 里的 appsecret"), runbook.SecretWrong}
	compareAppID = &remedy{lang.T("compare --component-appid (WXTOKEN_COMPONENT_APPID) with the AppID of the third-party platform on WeChat's console",
		"核对 --component-appid (WXTOKEN_COMPONENT_APPID) 与微信开放平台上第三方平台的 AppID"), runbook.ComponentOperator}
	grantPermission = &remedy{lang.T("grant the permission set on WeChat's console (权限集), and release the platform again if WeChat asks for that",
		"在微信开放平台勾选相应的权限集；微信要求时重新全网发布"), runbook.ComponentOperator}
	waitForDay = &remedy{lang.T("wait for the day to turn at UTC+8, or have the quota cleared",
		"等到北京时间零点，或者清零额度"), runbook.QuotaGone}
	waitMinute = &remedy{lang.T("ask again in a minute", "一分钟后再试"), runbook.None}
	waitTicket = &remedy{lang.T("nothing as long as tickets arrive: WeChat pushes one every 10 minutes",
		"只要还能收到验证票据就不用处理：微信每 10 分钟推送一次"), runbook.NoTicket}
	tokenRenewed = &remedy{lang.T("nothing, the token is renewed; if it is refused again and again, another program renews it, too",
		"不用处理，令牌会自动续期；如果反复被拒，说明还有别的程序在换取令牌"), runbook.TokenRefused}
	listAsked = &remedy{lang.T("nothing yet: WeChat's list is asked for the current refresh token; if the state becomes needs_authorization, send the merchant the reauthorize_url",
		"先不用处理：会从微信的授权方列表找回当前的刷新令牌；状态变为 needs_authorization 时，把 reauthorize_url 发给商家"), runbook.AccountAuthorizes}
	authorizeAgain = &remedy{lang.T("have the merchant authorize again, by a link",
		"用授权链接请商家重新授权"), runbook.AccountAuthorizes}
	newLink = &remedy{lang.T("nothing if the account is active; otherwise have the merchant authorize once more, by a new link",
		"账号状态为 active 时不用处理；否则请商家用新的授权链接再授权一次"), runbook.AccountAuthorizes}
	lookUp = &remedy{lang.T("look the errcode up on WeChat's pages",
		"在微信的文档里查这个 errcode"), runbook.ComponentOperator}
)

// addAddress returns the remedy to put the address in WeChat's message on the whitelist.
func addAddress(message string) lang.Text {
	return lang.T("add %s on WeChat's console to 白名单IP地址列表",
		"在微信开放平台的白名单IP地址列表里加上：%s", addressIn(message))
}

// errcode is a row of the table.
type errcode struct {
	code, last int // last is the end of a range of codes; 0 if the row is for one code
	verdict    Verdict
	concern    Concern // ConcernCall also for calls made for an account: see Concerns
	remedy     *remedy
	elsewhere  *remedy // for calls on which the verdict is not possible (possibleOn), where it is Operator instead; nil means lookUp
}

// codes returns the codes of the row.
func (r errcode) codes() []int {
	codes := []int{r.code}
	for code := r.code + 1; code <= r.last && r.last != 0; code++ {
		codes = append(codes, code)
	}
	return codes
}

// table is all that is known about errcodes: what each means for renewing tokens
// ("Return_code_descriptions_new", and the pages of the calls), whom it concerns, and what to do.
// Codes of other parts of the platform (end-user OAuth, quick registration) are here too: our calls
// should never get them, so if one does, an operator must look. After a code that is not here the
// call is tried again.
var table = []errcode{
	{code: -1, verdict: Retry, remedy: waitMinute},    // system busy
	{code: -1000, verdict: Retry, remedy: waitMinute}, // system error

	// Credential invalid or not the latest.
	{code: 40001, verdict: RenewComponentToken, remedy: tokenRenewed, elsewhere: copySecret},
	// Access_token invalid.
	{code: 40014, verdict: RenewComponentToken, remedy: tokenRenewed},
	// Component credential invalid.
	{code: 40094, verdict: RenewComponentToken, remedy: tokenRenewed},
	// Access_token expired; on api_authorizer_token, too, it is the component's.
	{code: 42001, verdict: RenewComponentToken, remedy: tokenRenewed},
	// Component_access_token expired.
	{code: 42006, verdict: RenewComponentToken, remedy: tokenRenewed},

	{code: 40091, verdict: WaitForTicket, remedy: waitTicket}, // component ticket invalid
	{code: 61005, verdict: WaitForTicket, remedy: waitTicket}, // component ticket expired
	{code: 61006, verdict: WaitForTicket, remedy: waitTicket}, // component ticket invalid

	{code: 42007, verdict: RecoverRefreshToken, remedy: listAsked}, // the user changed the password
	{code: 61023, verdict: RecoverRefreshToken, remedy: listAsked}, // refresh_token invalid

	{code: 50002, verdict: Revoked, remedy: authorizeAgain}, // account frozen or deregistered
	{code: 61003, verdict: Revoked, remedy: authorizeAgain}, // not authorized by this account

	{code: 61009, verdict: CodeSpent, remedy: newLink}, // code invalid: used, or of another kind
	{code: 61010, verdict: CodeSpent, remedy: newLink}, // code expired

	{code: 45009, verdict: QuotaGone, remedy: waitForDay}, // daily quota
	{code: 45011, verdict: SlowDown, remedy: waitMinute},  // quota of the minute

	{code: 40090, verdict: Operator, concern: ConcernAddress, remedy: allowAddress}, // client IP refused
	// IP not on the whitelist.
	{code: 40164, verdict: Operator, concern: ConcernAddress, remedy: allowAddress},
	{code: 45035, verdict: Operator, concern: ConcernAddress, remedy: allowAddress}, // IP not registered
	// IP not on the component's whitelist.
	{code: 61004, verdict: Operator, concern: ConcernAddress, remedy: allowAddress},
	// Administrator has to confirm the IP.
	{code: 89501, verdict: Operator, concern: ConcernAddress, remedy: allowAddress},
	// Administrator has to confirm the IP.
	{code: 89502, verdict: Operator, concern: ConcernAddress, remedy: allowAddress},
	// Administrator has to confirm the IP.
	{code: 89503, verdict: Operator, concern: ConcernAddress, remedy: allowAddress},
	// Administrator has to confirm the IP.
	{code: 89504, verdict: Operator, concern: ConcernAddress, remedy: allowAddress},
	// Administrator has to confirm the IP.
	{code: 89505, verdict: Operator, concern: ConcernAddress, remedy: allowAddress},
	// Administrator refused the IP for 24 h.
	{code: 89506, verdict: Operator, concern: ConcernAddress, remedy: allowAddress},
	// Administrator refused the IP for 1 h.
	{code: 89507, verdict: Operator, concern: ConcernAddress, remedy: allowAddress},

	{code: 40125, verdict: Operator, concern: ConcernComponent, remedy: copySecret}, // appsecret invalid
	{code: 40243, verdict: Operator, concern: ConcernComponent, remedy: copySecret}, // appsecret frozen
	// Component's type or appid.
	{code: 61000, verdict: Operator, concern: ConcernComponent, remedy: compareAppID},
	// Component's type or appid.
	{code: 61001, verdict: Operator, concern: ConcernComponent, remedy: compareAppID},
	// Component's type or appid.
	{code: 61002, verdict: Operator, concern: ConcernComponent, remedy: compareAppID},
	{code: 61011, verdict: Operator, concern: ConcernComponent, remedy: compareAppID}, // component invalid
	{code: 61061, verdict: Operator, concern: ConcernComponent, remedy: lookUp},       // access from overseas

	{code: 48001, verdict: Operator, remedy: grantPermission}, // permission set missing
	{code: 61007, verdict: Operator, remedy: grantPermission}, // permission set not granted
	{code: 40013, verdict: Operator, remedy: compareAppID},    // appid invalid
	{code: 41018, verdict: Operator, remedy: compareAppID},    // component_appid missing
	{code: 41004, verdict: Operator, remedy: copySecret},      // secret missing

	{code: 40029, verdict: Operator, remedy: lookUp}, // oauth code invalid
	{code: 40030, verdict: Operator, remedy: lookUp}, // oauth refresh_token invalid
	{code: 40097, verdict: Operator, remedy: lookUp}, // bad argument
	{code: 40163, verdict: Operator, remedy: lookUp}, // oauth code used
	{code: 40170, verdict: Operator, remedy: lookUp}, // count above the limit
	{code: 41001, verdict: Operator, remedy: lookUp}, // access_token missing
	{code: 41002, verdict: Operator, remedy: lookUp}, // appid missing
	{code: 42002, verdict: Operator, remedy: lookUp}, // oauth refresh_token expired
	{code: 43002, verdict: Operator, remedy: lookUp}, // not a POST
	{code: 44002, verdict: Operator, remedy: lookUp}, // body empty
	{code: 47001, verdict: Operator, remedy: lookUp}, // JSON can't be read
	{code: 47002, verdict: Operator, remedy: lookUp}, // JSON with escaped characters
	{code: 48004, verdict: Operator, remedy: lookUp}, // call banned
	{code: 48006, verdict: Operator, remedy: lookUp}, // clear_quota used up
	{code: 48017, verdict: Operator, remedy: lookUp}, // retired address of the API
	{code: 49001, verdict: Operator, remedy: lookUp}, // appid is not the token's
	{code: 61008, verdict: Operator, remedy: lookUp}, // key twice in the request
	{code: 61012, verdict: Operator, remedy: lookUp}, // option name
	{code: 61013, verdict: Operator, remedy: lookUp}, // option value
	{code: 61014, verdict: Operator, remedy: lookUp}, // wants a component token
	{code: 61015, verdict: Operator, remedy: lookUp}, // wants an account's token
	{code: 61016, verdict: Operator, remedy: lookUp}, // permission set to be confirmed
	{code: 61017, verdict: Operator, remedy: lookUp}, // permission set not granted
	{code: 61018, verdict: Operator, remedy: lookUp}, // permission set to be confirmed
	{code: 61019, verdict: Operator, remedy: lookUp}, // permission set to be confirmed
	{code: 61021, verdict: Operator, remedy: lookUp}, // permission set to be confirmed
	{code: 61022, verdict: Operator, remedy: lookUp}, // permission set to be confirmed
	{code: 61024, verdict: Operator, remedy: lookUp}, // wants api_component_token
	{code: 61025, verdict: Operator, remedy: lookUp}, // option is read-only
	{code: 61026, verdict: Operator, remedy: lookUp}, // registration denied
	{code: 61027, verdict: Operator, remedy: lookUp}, // registration limit
	{code: 61028, verdict: Operator, remedy: lookUp}, // component not released, account not on the test list
	{code: 61029, verdict: Operator, remedy: lookUp}, // component to be released again
	{code: 61030, verdict: Operator, remedy: lookUp}, // cancelling not allowed
	{code: 76001, verdict: Operator, remedy: lookUp}, // rid invalid
	{code: 76002, verdict: Operator, remedy: lookUp}, // rid expired
	{code: 76003, verdict: Operator, remedy: lookUp}, // rid or path of another owner
	{code: 76004, verdict: Operator, remedy: lookUp}, // rid too old
	{code: 76021, verdict: Operator, remedy: lookUp}, // quota: bad path
	{code: 76022, verdict: Operator, remedy: lookUp}, // quota: token of another owner
	{code: 86000, verdict: Operator, remedy: lookUp}, // for third-party platforms only

	{code: 61051, last: 61060, verdict: Operator, remedy: lookUp}, // quick registration: identity
	{code: 61062, last: 61070, verdict: Operator, remedy: lookUp}, // quick registration: identity
	{code: 89000, last: 89004, verdict: Operator, remedy: lookUp}, // binding to an open-platform account
	{code: 89249, last: 89255, verdict: Operator, remedy: lookUp}, // quick registration: state of the task
}

// errcodes is the table by code. It never changes.
var errcodes = func() map[int]errcode {
	rows := map[int]errcode{}
	for _, row := range table {
		for _, code := range row.codes() {
			rows[code] = row
		}
	}
	return rows
}()

// ofOneAccount are the calls for an account that are made with the component's token.
var ofOneAccount = map[API]bool{APIAuthorizerToken: true, APIAuthorizerInfo: true, APIQueryAuth: true}

// Concerns returns what err, an error of Client, is about. If the table does not say component or
// address, it is about the account for which the call was made, if any.
func Concerns(err error) Concern {
	var e *Error
	if !errors.As(err, &e) {
		return ConcernCall
	}
	switch row := errcodes[e.Code]; {
	case row.concern != ConcernCall:
		return row.concern
	case ofOneAccount[e.API] || e.API.OfAccount():
		return ConcernAccount
	}
	return ConcernCall
}

// OfAccount reports whether err concerns only one account, not all calls of its component.
func OfAccount(err error) bool { return Concerns(err) == ConcernAccount }

// OfComponent reports whether every call of the component would get err: it is about its secret,
// its state, or the address that it calls from.
func OfComponent(err error) bool { return Concerns(err) >= ConcernComponent }

// Remedy tells an operator what to do about the refusal, and which entry of the runbook tells more.
// It is empty if WeChat gave no errcode.
func (e *Error) Remedy() lang.Text {
	switch r := e.remedy(); {
	case e.Code == 0:
		return lang.Text{}
	case r == allowAddress:
		return r.more.See(addAddress(e.Message))
	default:
		return r.more.See(r.do)
	}
}

// remedy returns the remedy of the errcode. Where Judge says Operator because the table's verdict
// is not possible on the call, it is the row's elsewhere.
func (e *Error) remedy() *remedy {
	row, known := errcodes[e.Code]
	switch _, limited := possibleOn[row.verdict]; {
	case !known:
		return lookUp
	case !limited || Judge(e) != Operator:
		return row.remedy
	case row.elsewhere != nil:
		return row.elsewhere
	}
	return lookUp
}

// LacksPermission reports whether a permission set is missing.
func (e *Error) LacksPermission() bool { return errcodes[e.Code].remedy == grantPermission }

// addressPattern finds an IP address in WeChat's message.
var addressPattern = regexp.MustCompile(`[0-9a-fA-F:.]*[0-9a-fA-F]`)

// addressIn returns the address in WeChat's message, or "this machine's outbound address".
func addressIn(message string) lang.Text {
	for _, word := range addressPattern.FindAllString(message, -1) {
		if ip := net.ParseIP(word); ip != nil {
			return lang.Same(ip.String())
		}
	}
	return lang.T("this machine's outbound address", "本机的出口地址")
}
