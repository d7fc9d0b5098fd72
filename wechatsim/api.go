package wechatsim

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"wxtoken/client"
)

const (
	maxRequestBody = 64 << 10 // bytes of a call's body
	listAPI        = "api_get_authorizer_list"
	maxListCount   = 500 // of listAPI
	clearsPerMonth = 10  // of clear_quota, per appid

	// unlimitedDaily is the daily limit of an API that Config.DailyLimit does not name. The real
	// limits are not published; the quota API tells them.
	unlimitedDaily = 10_000_000
)

// The errcodes that the platform returns by itself, without a Fault.
const (
	codeBusy                = -1
	codeOK                  = 0
	codeInvalidCredential   = 40001
	codeInvalidGrant        = 40002
	codeInvalidOpenID       = 40003
	codeMediaType           = 40004
	codeMediaSize           = 40006
	codeMediaID             = 40007
	codeInvalidAppID        = 40013
	codeInvalidButtons      = 40016
	codeUserRefreshInvalid  = 40030
	codeInvalidTemplate     = 40037
	codeInvalidURL          = 40066
	codeInvalidArgs         = 40097
	codeInvalidSecret       = 40125
	codeLogInUsed           = 40163
	codeTooManyArgs         = 40170
	codeTokenMissing        = 41001
	codeAppIDMissing        = 41002
	codeUserRefreshMissing  = 41003
	codeSecretMissing       = 41004
	codeMediaMissing        = 41005
	codeLogInMissing        = 41008
	codeComponentMissing    = 41018
	codeTokenExpired        = 42001
	codePostRequired        = 43002
	codeEmptyBody           = 44002
	codeMediaTooLarge       = 45001
	codeDailyLimit          = 45009
	codeNoMenu              = 46003
	codeBadJSON             = 47001
	codeNotGranted          = 48001
	codeClearsUsedUp        = 48006
	codeNotAuthorized       = 61003
	codeTicketExpired       = 61005
	codeTicketInvalid       = 61006
	codeCodeInvalid         = 61009
	codeCodeExpired         = 61010
	codeNeedsComponentToken = 61014
	codeNeedsAccountToken   = 61015
	codeRefreshInvalid      = 61023
	codeBadCGIPath          = 76021
	codeWrongOwner          = 76022
)

// errmsgs are WeChat's texts for errcodes, without the rid at their end.
var errmsgs = map[int]string{
	codeBusy:                "system error",
	codeInvalidCredential:   "invalid credential, access_token is invalid or not latest",
	codeInvalidGrant:        "invalid grant_type",
	codeInvalidOpenID:       "invalid openid",
	codeUserRefreshInvalid:  "invalid refresh_token",
	codeUserRefreshMissing:  "refresh_token missing",
	codeNotGranted:          "api unauthorized",
	codeMediaType:           "invalid media type",
	codeMediaSize:           "invalid media size",
	codeMediaID:             "invalid media_id",
	codeInvalidAppID:        "invalid appid",
	codeInvalidButtons:      "invalid button size",
	codeInvalidTemplate:     "invalid template_id",
	codeInvalidURL:          "invalid url",
	codeInvalidArgs:         "invalid args",
	codeInvalidSecret:       "invalid appsecret",
	codeLogInUsed:           "code been used",
	codeTooManyArgs:         "args count exceed count limit",
	codeTokenMissing:        "access_token missing",
	codeAppIDMissing:        "appid missing",
	codeSecretMissing:       "appsecret missing",
	codeMediaMissing:        "media data missing",
	codeLogInMissing:        "missing code",
	codeComponentMissing:    "component_appid missing",
	codeTokenExpired:        "access_token expired",
	codePostRequired:        "require POST method",
	codeEmptyBody:           "empty post data",
	codeMediaTooLarge:       "media size out of limit",
	codeDailyLimit:          "reach max api daily quota limit",
	codeNoMenu:              "menu no exist",
	codeBadJSON:             "data format error",
	codeClearsUsedUp:        "forbid to clear quota because of reaching the limit",
	codeNotAuthorized:       "component is not authorized by this account",
	codeTicketExpired:       "component ticket is expired",
	codeTicketInvalid:       "component ticket is invalid",
	codeCodeInvalid:         "code is invalid",
	codeCodeExpired:         "code is expired",
	codeNeedsComponentToken: "must use component token for component api",
	codeNeedsAccountToken:   "must use user token for this api",
	codeRefreshInvalid:      "refresh_token is invalid",
	codeBadCGIPath:          "cgi_path not found",
	codeWrongOwner:          "could not use this cgi_path, no permission",
}

// tokenKind says which access token an API requires.
type tokenKind int

const (
	noToken tokenKind = iota
	componentToken
	accountToken
	eitherToken
	userToken // of a user of an account
)

type api struct {
	name   string
	path   string
	token  tokenKind
	get    bool // may also be called with GET
	run    func(*Platform, *call) (object, int)
	upload bool // its body is a form with a file
}

// apis is the list of the platform's APIs. The paths are WeChat's.
var apis = append([]*api{
	{name: "api_component_token", path: "/cgi-bin/component/api_component_token", run: (*Platform).apiComponentToken},
	{name: "api_start_push_ticket", path: "/cgi-bin/component/api_start_push_ticket", run: (*Platform).apiStartPushTicket},
	{name: "api_create_preauthcode", path: "/cgi-bin/component/api_create_preauthcode", token: componentToken, run: (*Platform).apiCreatePreAuthCode},
	{name: "api_query_auth", path: "/cgi-bin/component/api_query_auth", token: componentToken, run: (*Platform).apiQueryAuth},
	{name: "api_authorizer_token", path: "/cgi-bin/component/api_authorizer_token", token: componentToken, run: (*Platform).apiAuthorizerToken},
	{name: "api_get_authorizer_info", path: "/cgi-bin/component/api_get_authorizer_info", token: componentToken, run: (*Platform).apiGetAuthorizerInfo},
	{name: listAPI, path: "/cgi-bin/component/api_get_authorizer_list", token: componentToken, run: (*Platform).apiGetAuthorizerList},
	{name: "openapi/quota/get", path: "/cgi-bin/openapi/quota/get", token: eitherToken, run: (*Platform).apiQuotaGet},
	{name: "clear_quota", path: "/cgi-bin/clear_quota", token: eitherToken, run: (*Platform).apiClearQuota},
	{name: "component/clear_quota/v2", path: "/cgi-bin/component/clear_quota/v2", run: (*Platform).apiClearQuotaV2},
	{name: "getcallbackip", path: "/cgi-bin/getcallbackip", token: eitherToken, get: true, run: (*Platform).apiGetCallbackIP},
	{name: "ticket/getticket", path: "/cgi-bin/ticket/getticket", token: accountToken, get: true, run: (*Platform).apiGetTicket},
}, business...)

// findAPI returns an API by its name or path, or nil.
func findAPI(name string) *api {
	for _, a := range apis {
		if a.name == name || a.path == name {
			return a
		}
	}
	return nil
}

// request has all fields that any API reads.
type request struct {
	ComponentAppID        string `json:"component_appid"`
	ComponentAppSecret    string `json:"component_appsecret"`
	ComponentSecret       string `json:"component_secret"` // of api_start_push_ticket
	ComponentVerifyTicket string `json:"component_verify_ticket"`
	AuthorizationCode     string `json:"authorization_code"`
	AuthorizerAppID       string `json:"authorizer_appid"`
	AuthorizerRefresh     string `json:"authorizer_refresh_token"`
	Offset                int    `json:"offset"`
	Count                 int    `json:"count"`
	CGIPath               string `json:"cgi_path"`
	AppID                 string `json:"appid"`
	AppSecret             string `json:"appsecret"`
	ToUser                string `json:"touser"`
	MsgType               string `json:"msgtype"`
	Text                  struct {
		Content string `json:"content"`
	} `json:"text"`
	TemplateID string          `json:"template_id"`
	Button     json.RawMessage `json:"button"` // of a menu
}

// call is one call of an API.
type call struct {
	api     *api
	method  string
	query   url.Values
	body    []byte
	bodyErr error
	request request
	media   *media // the uploaded file, or the one to answer with
	user    *user  // of a call with a token of a user's

	componentAppID    string // what the call is about, for faults and history; not checked
	authorizer        string
	token             *token
	component         *component // checked by checkToken
	refreshGeneration int
	text              string
}

// Handler returns the platform's API and its authorization pages. It may be called before Run;
// calls that are waiting when Run ends are cut off.
func (p *Platform) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if page := pages[r.URL.Path]; page != nil {
			page(p, w, r)
			return
		}
		p.serveAPI(w, r)
	})
}

func (p *Platform) serveAPI(w http.ResponseWriter, r *http.Request) {
	a := p.apis[r.URL.Path]
	if a == nil {
		p.mu.Lock()
		answer := p.refusal(codeInvalidURL, "")
		p.mu.Unlock()
		writeAnswer(w, http.StatusOK, answer)
		return
	}
	if len(r.TransferEncoding) > 0 {
		// WeChat's front-end refuses a body without a Content-Length, as callers of the real
		// platform found out.
		w.WriteHeader(http.StatusPreconditionFailed)
		return
	}
	c, err := p.receive(a, w, r)
	if err != nil {
		panic(http.ErrAbortHandler)
	}

	p.mu.Lock()
	p.identify(c)
	f := p.decide(c)
	p.mu.Unlock()
	// The call is on the wire: it is executed even if the caller goes away now.
	if !p.wait(nil, f.before) {
		panic(http.ErrAbortHandler)
	}
	p.mu.Lock()
	status, answer := p.finish(c, f)
	p.mu.Unlock()
	if !p.wait(r.Context().Done(), f.after) || status == 0 {
		panic(http.ErrAbortHandler) // cuts the connection without an answer
	}
	if f.execute && answer == "" {
		serveMedia(w, c.media)
		return
	}
	writeAnswer(w, status, answer)
}

// receive reads a whole call. The error is a broken connection, or a body that is too long.
func (p *Platform) receive(a *api, w http.ResponseWriter, r *http.Request) (c *call, err error) {
	c = &call{api: a, method: r.Method, query: r.URL.Query()}
	if a.upload {
		r.Body = http.MaxBytesReader(w, r.Body, maxUploadBody)
		c.media, err = readUpload(r, p.config.KeepMedia)
		return c, err
	}
	if c.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBody)); err != nil {
		return nil, err
	}
	c.readQuery()
	if len(c.body) > 0 {
		c.bodyErr = json.Unmarshal(c.body, &c.request)
	}
	return c, nil
}

func writeAnswer(w http.ResponseWriter, status int, answer string) {
	kind := "application/json; charset=utf-8"
	if answer == "" || strings.HasPrefix(answer, "<") {
		kind = "text/html"
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, answer)
}

// identify sets which component and account a call is about. The caller holds p.mu.
func (p *Platform) identify(c *call) {
	c.token = p.tokens[cmp.Or(c.query.Get("access_token"), c.query.Get("component_access_token"))]
	// What the caller claims goes into the history only if it can't be a secret in the wrong field.
	if p.components[c.request.ComponentAppID] != nil {
		c.componentAppID = c.request.ComponentAppID
	}
	c.authorizer = claimed(c.request.AuthorizerAppID)
	if c.token != nil {
		c.componentAppID, c.authorizer = c.token.component, cmp.Or(c.authorizer, c.token.authorizer)
	}
	if code := p.codes[c.request.AuthorizationCode]; code != nil && c.authorizer == "" {
		c.authorizer = code.authorizer
	}
}

// claimed returns the appid that a caller sent, or "" if it is not an appid or is a secret in the
// wrong field.
func claimed(appid string) string {
	if !wxtoken.ValidAppID(appid) || strings.Contains(appid, "SEKRET") {
		return ""
	}
	return appid
}

// fate is what happens to a call.
type fate struct {
	outcome       string
	execute       bool
	before, after time.Duration // delays before and after the execution
	status        int           // of an answer without an execution
	answer        string
	errcode       int
	odd           FaultMode // the mode that makes the execution's answer odd
	account       string    // the account whose entry in a list becomes odd
}

// decide decides what happens to a call. The caller holds p.mu.
func (p *Platform) decide(c *call) fate {
	if p.down {
		return fate{outcome: OutcomeDown}
	}
	latency := p.config.Latency + p.upTo(p.config.LatencyJitter)
	result := fate{outcome: OutcomeAnswered, execute: true, before: latency / 2, after: latency - latency/2}
	busy := func() {
		result.outcome, result.execute, result.status = OutcomeBusy, false, http.StatusOK
		result.errcode, result.answer = codeBusy, p.refusal(codeBusy, "")
	}
	f := p.takeFault(c)
	if f == nil {
		if p.chance(p.config.BusyRate) {
			busy()
		} else if p.chance(p.config.LostAnswerRate) {
			result.outcome = OutcomeLost
		}
		return result
	}
	result.after += f.Delay
	if !slices.Contains([]FaultMode{FaultSlow, FaultLost, FaultNoRefresh, FaultEmptyRefresh, FaultRaw}, f.Mode) {
		result.outcome, result.execute, result.status = OutcomeFaked, false, http.StatusOK
	}
	switch f.Mode {
	case FaultSlow:
	case FaultNoRefresh, FaultEmptyRefresh, FaultRaw:
		result.odd = f.Mode
		if f.inList(c) {
			result.account = f.Authorizer
		}
	case FaultLost:
		result.outcome = OutcomeLost
	case FaultDrop:
		result.outcome, result.status = OutcomeDropped, 0
	case FaultBusy:
		busy()
	case FaultErrcode:
		result.errcode, result.answer = f.Errcode, p.refusal(f.Errcode, f.Errmsg)
	case FaultHTML:
		result.status = http.StatusBadGateway
		result.answer = "<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>"
	case FaultBody:
		result.status, result.answer = cmp.Or(f.Status, http.StatusOK), f.Body
	}
	return result
}

// finish executes the call, if that is its fate, and records it. It returns the answer; status 0
// means that the connection is cut. The caller holds p.mu.
func (p *Platform) finish(c *call, f fate) (status int, answer string) {
	status, answer = f.status, f.answer
	var errcode int
	if f.execute {
		var success object
		success, errcode = p.execute(c)
		switch {
		case errcode != codeOK:
			answer = p.refusal(errcode, "")
		case success != nil: // otherwise it is a file
			answer = renderJSON(f.oddAnswer(success), p.vary())
			if f.odd == FaultRaw {
				answer = rawAnswer(answer)
			}
		}
		if f.outcome != OutcomeLost {
			status = http.StatusOK
		}
	} else {
		errcode = f.errcode
	}
	e := Entry{
		Kind: EntryCall, Component: c.componentAppID, Authorizer: c.authorizer, API: c.api.name,
		Errcode: errcode, Outcome: f.outcome, RefreshGeneration: c.refreshGeneration, Text: c.text,
	}
	if c.media != nil {
		e.Digest, e.Size = c.media.digest, c.media.size
	}
	p.record(e)
	about(p.config.Log.Debug(), c.componentAppID, c.authorizer).
		Str("api", c.api.name).Int("errcode", errcode).Str("outcome", f.outcome).Msg("call handled")
	return status, answer
}

// vary returns the source of randomness for varying forms, or nil. The caller holds p.mu while
// using it.
func (p *Platform) vary() *rand.Rand {
	if p.config.VaryForm {
		return p.rng
	}
	return nil
}

// refusal returns an answer with errcode. The caller holds p.mu.
func (p *Platform) refusal(errcode int, errmsg string) string {
	errmsg = cmp.Or(errmsg, errmsgs[errcode], "error")
	rid := hex.EncodeToString(p.random(12))
	errmsg = fmt.Sprintf("%s rid: %s-%s-%s", errmsg, rid[:8], rid[8:16], rid[16:])
	return renderJSON(object{{"errcode", errcode}, {"errmsg", errmsg}}, p.vary())
}

// execute makes the checks that all calls have in common, counts the call and runs it. It returns
// the answer or an errcode. The caller holds p.mu.
func (p *Platform) execute(c *call) (object, int) {
	switch {
	case c.method != http.MethodPost && !(c.api.get && c.method == http.MethodGet):
		return nil, codePostRequired
	case !c.api.get && !c.api.upload && len(c.body) == 0:
		return nil, codeEmptyBody
	case c.bodyErr != nil:
		return nil, codeBadJSON
	}
	if errcode := p.checkToken(c); errcode != codeOK {
		return nil, errcode
	}
	if errcode := p.count(c); errcode != codeOK {
		return nil, errcode
	}
	return c.api.run(p, c)
}

// checkToken checks the access token of a call and sets c.component. It returns an errcode. The
// caller holds p.mu.
func (p *Platform) checkToken(c *call) int {
	if c.api.token == noToken {
		if c.request.ComponentAppID == "" {
			return codeComponentMissing
		}
		if c.component = p.components[c.request.ComponentAppID]; c.component == nil {
			return codeInvalidAppID
		}
		return codeOK
	}
	if c.api.token == userToken {
		return p.checkUser(c)
	}
	if c.query.Get("access_token") == "" && c.query.Get("component_access_token") == "" {
		return codeTokenMissing
	}
	if c.token != nil {
		c.component = p.components[c.token.component]
		if c.api.token == componentToken && c.token.authorizer != "" {
			return codeNeedsComponentToken
		}
		if c.api.token == accountToken && c.token.authorizer == "" {
			return codeNeedsAccountToken
		}
	}
	if errcode := c.token.refusal(p.now()); errcode != codeOK {
		if c.token != nil && c.token.authorizer != "" && !c.component.authorizers[c.token.authorizer].authorized {
			return codeNotAuthorized
		}
		return errcode
	}
	if c.api.token == componentToken {
		switch c.request.ComponentAppID {
		case c.token.component:
		case "":
			return codeComponentMissing
		default:
			return codeInvalidAppID
		}
	}
	return codeOK
}
