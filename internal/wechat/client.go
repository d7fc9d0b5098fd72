package wechat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"wxtoken/client/document"
)

// DefaultBaseURL is where the platform's API lives.
const DefaultBaseURL = "https://api.weixin.qq.com"

// Bounds of an answer.
const (
	defaultTimeout = 10 * time.Second
	smallAnswer    = 64 << 10 // bytes
	largeAnswer    = 1 << 20  // bytes; a page of 500 authorizers has about 120 KiB
	maxTokenLength = 2048     // bytes; "AccessToken" asks to leave room for 512
	minExpiresIn   = 10 * time.Second
	maxExpiresIn   = 30 * 24 * time.Hour
)

// ClientConfig says how to reach the platform. The zero value can be used as it is.
type ClientConfig struct {
	BaseURL   string            // default DefaultBaseURL
	Transport http.RoundTripper // default: one of its own, with the environment's proxy
	Timeout   time.Duration     // of one call from dialling to the last byte of the answer; default 10 s
}

// Client calls the platform's token APIs. It makes each call once, never retries, follows no
// redirects, and keeps no state. Every error is an *Error. It is safe for concurrent use.
type Client struct {
	base    *url.URL
	http    *http.Client
	timeout time.Duration
}

// NewClient returns a Client. It fails if BaseURL is not an http or https address without user,
// query and fragment.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.BaseURL == "" {
		cfg.BaseURL = DefaultBaseURL
	}
	// JoinPath makes no absolute path of an empty one.
	base, err := url.Parse(strings.TrimRight(cfg.BaseURL, "/") + "/")
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" ||
		base.User != nil || base.RawQuery != "" || base.ForceQuery || base.Fragment != "" || base.Opaque != "" {
		return nil, errors.New("WeChat's API address: want http:// or https:// with a host and no user, query or fragment, " +
			"such as " + DefaultBaseURL)
	}
	if cfg.Timeout < 0 {
		return nil, errors.New("WeChat's API timeout is negative")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 64, // all calls go to one host, many at a time
			IdleConnTimeout:     90 * time.Second,
		}
	}
	return &Client{
		base: base,
		http: &http.Client{
			Transport: cfg.Transport,
			// Following a redirect would send the token, which is in the URL, to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		timeout: cfg.Timeout,
	}, nil
}

// Grant is an access token that WeChat issued.
type Grant struct {
	hidden
	AccessToken string
	ExpiresIn   time.Duration // counts from before the call
	// Often the one that was sent. Empty if WeChat sent none: then keep the old one.
	RefreshToken string
}

// ComponentToken gets a new component_access_token for a ticket ("api_getcomponentaccesstoken").
// The previous one is valid for five more minutes.
func (c *Client) ComponentToken(ctx context.Context, component, appsecret, ticket string) (Grant, error) {
	request := struct {
		Component string `json:"component_appid"`
		Secret    string `json:"component_appsecret"`
		Ticket    string `json:"component_verify_ticket"`
	}{component, appsecret, ticket}
	k := call{api: APIComponentToken, request: request, secrets: []string{appsecret, ticket}}
	var answer struct {
		Token     token  `json:"component_access_token"`
		ExpiresIn number `json:"expires_in"`
	}
	if err := c.do(ctx, &k, &answer); err != nil {
		return Grant{}, err
	}
	return k.grant(answer.Token, answer.ExpiresIn, "")
}

// Authorization is what an authorization code is exchanged for. An account without any API
// permission has no tokens.
type Authorization struct {
	hidden
	AuthorizerAppID string
	AccessToken     string        // may be empty
	RefreshToken    string        // may be empty
	ExpiresIn       time.Duration // of AccessToken, counts from before the call; 0 without one
	FuncInfo        []int         // ids of the permission sets granted
}

// QueryAuth exchanges an authorization code, which works once ("api_getauthorizerrefreshtoken").
func (c *Client) QueryAuth(ctx context.Context, componentToken, component, code string) (Authorization, error) {
	request := struct {
		Component string `json:"component_appid"`
		Code      string `json:"authorization_code"`
	}{component, code}
	k := call{api: APIQueryAuth, token: componentToken, request: request, secrets: []string{code}}
	var answer struct {
		Info struct {
			AppID        string   `json:"authorizer_appid"`
			Token        *token   `json:"authorizer_access_token"`
			ExpiresIn    number   `json:"expires_in"`
			RefreshToken token    `json:"authorizer_refresh_token"`
			FuncInfo     funcInfo `json:"func_info"`
		} `json:"authorization_info"`
	}
	if err := c.do(ctx, &k, &answer); err != nil {
		return Authorization{}, err
	}
	info := answer.Info
	if !document.IsAppID(info.AppID) {
		return Authorization{}, k.faulty("authorizer_appid is missing or not an appid")
	}
	var grant Grant
	switch noToken := info.Token == nil || *info.Token == ""; {
	case !noToken:
		var err error
		if grant, err = k.grant(*info.Token, info.ExpiresIn, info.RefreshToken); err != nil {
			return Authorization{}, err
		}
	// Only an account that granted no API has no tokens, and it has none of them.
	case info.RefreshToken != "", info.Token != nil && len(info.FuncInfo) > 0:
		return Authorization{}, k.faulty("the access token is missing")
	}
	return Authorization{
		AuthorizerAppID: info.AppID, AccessToken: grant.AccessToken, RefreshToken: grant.RefreshToken,
		ExpiresIn: grant.ExpiresIn, FuncInfo: info.FuncInfo,
	}, nil
}

// AuthorizerToken gets a new authorizer_access_token for a refresh token
// ("api_getauthorizeraccesstoken").
func (c *Client) AuthorizerToken(ctx context.Context, componentToken, component, authorizer, refreshToken string) (Grant, error) {
	request := struct {
		Component    string `json:"component_appid"`
		Authorizer   string `json:"authorizer_appid"`
		RefreshToken string `json:"authorizer_refresh_token"`
	}{component, authorizer, refreshToken}
	k := call{api: APIAuthorizerToken, token: componentToken, request: request, secrets: []string{refreshToken}}
	var answer struct {
		Token        token  `json:"authorizer_access_token"`
		ExpiresIn    number `json:"expires_in"`
		RefreshToken token  `json:"authorizer_refresh_token"`
	}
	if err := c.do(ctx, &k, &answer); err != nil {
		return Grant{}, err
	}
	return k.grant(answer.Token, answer.ExpiresIn, answer.RefreshToken)
}

// AuthorizerInfo is what WeChat tells about an account.
type AuthorizerInfo struct {
	hidden
	// The fields of authorizer_info, unchanged: nick_name, principal_name, account_status, ... ...
	// Empty if WeChat told only the refresh token.
	Profile      map[string]json.RawMessage
	FuncInfo     []int  // ids of the permission sets granted
	RefreshToken string // the current one; may be empty
}

// AuthorizerInfo asks for an account's profile, permission sets and refresh token
// ("api_getauthorizerinfo").
func (c *Client) AuthorizerInfo(ctx context.Context, componentToken, component, authorizer string) (AuthorizerInfo, error) {
	request := struct {
		Component  string `json:"component_appid"`
		Authorizer string `json:"authorizer_appid"`
	}{component, authorizer}
	k := call{api: APIAuthorizerInfo, token: componentToken, request: request, limit: largeAnswer}
	var answer struct {
		Profile json.RawMessage `json:"authorizer_info"`
		Info    json.RawMessage `json:"authorization_info"`
	}
	if err := c.do(ctx, &k, &answer); err != nil {
		return AuthorizerInfo{}, err
	}
	// Each is read by itself: one that is no object must not cost what the other tells.
	var profile map[string]json.RawMessage
	var info struct {
		AppID        string   `json:"authorizer_appid"`
		RefreshToken token    `json:"authorizer_refresh_token"`
		FuncInfo     funcInfo `json:"func_info"`
	}
	_, _ = json.Unmarshal(answer.Profile, &profile), json.Unmarshal(answer.Info, &info)
	refreshToken := info.RefreshToken.orNone()
	switch {
	case len(profile) == 0 && refreshToken == "":
		return AuthorizerInfo{}, k.faulty("authorizer_info is missing or empty")
	case info.AppID != "" && info.AppID != authorizer:
		return AuthorizerInfo{}, k.faulty("authorizer_appid is of another account")
	}
	return AuthorizerInfo{Profile: profile, FuncInfo: info.FuncInfo, RefreshToken: refreshToken}, nil
}

// AuthorizerPage is one page of the accounts that authorized a component.
type AuthorizerPage struct {
	Total int // accounts in all pages
	List  []ListedAuthorizer
	Odd   int // entries that can't be read, not in List
}

// ListedAuthorizer is one account in an AuthorizerPage.
type ListedAuthorizer struct {
	hidden
	AppID        string
	RefreshToken string    // the current one; empty for an account whose code was never exchanged
	AuthTime     time.Time // of the last authorization, UTC, to the second; zero if WeChat gave none
}

// AuthorizerList asks for a page of at most 500 accounts; offsets count from 0
// ("api_getauthorizerlist"). WeChat promises no order: a page may repeat an account, and an account
// that no page lists may still exist.
func (c *Client) AuthorizerList(ctx context.Context, componentToken, component string, offset, count int) (AuthorizerPage, error) {
	request := struct {
		Component string `json:"component_appid"`
		Offset    int    `json:"offset"`
		Count     int    `json:"count"`
	}{component, offset, count}
	k := call{api: APIAuthorizerList, token: componentToken, request: request, limit: largeAnswer}
	var answer struct {
		Total json.RawMessage   `json:"total_count"`
		List  []json.RawMessage `json:"list"`
	}
	if err := c.do(ctx, &k, &answer); err != nil {
		return AuthorizerPage{}, err
	}
	total := number(-1)
	if err := json.Unmarshal(answer.Total, &total); err != nil || total < 0 || total > math.MaxInt32 {
		// The accounts count all the same: whether there are more is seen by how full the page is.
		if total = 0; len(answer.List) == 0 {
			return AuthorizerPage{}, k.faulty("total_count is missing or absurd, and no account is listed")
		}
	}
	if total > 0 && len(answer.List) == 0 && offset == 0 {
		return AuthorizerPage{}, k.faulty("the list is missing or empty, and total_count is not 0")
	}
	page := AuthorizerPage{Total: int(total), List: make([]ListedAuthorizer, 0, len(answer.List))}
	for _, text := range answer.List {
		if entry, ok := readListed(text); ok {
			page.List = append(page.List, entry)
		} else {
			page.Odd++
		}
	}
	if page.Odd > 0 && len(page.List) == 0 {
		return AuthorizerPage{}, k.faulty("no entry of the list has an appid")
	}
	return page, nil
}

// readListed reads one entry of a list by itself, so that an odd entry does not affect other
// accounts. A refresh token or a time that can't be read is left out.
func readListed(text json.RawMessage) (ListedAuthorizer, bool) {
	var entry struct {
		AppID        string          `json:"authorizer_appid"`
		RefreshToken token           `json:"refresh_token"`
		AuthTime     json.RawMessage `json:"auth_time"`
	}
	if err := json.Unmarshal(text, &entry); err != nil || !document.IsAppID(entry.AppID) {
		return ListedAuthorizer{}, false
	}
	listed := ListedAuthorizer{AppID: entry.AppID, RefreshToken: entry.RefreshToken.orNone()}
	var at number
	if err := json.Unmarshal(entry.AuthTime, &at); err == nil && at > 0 {
		listed.AuthTime = time.Unix(int64(at), 0).UTC()
	}
	return listed, true
}

// StartPushTicket asks WeChat to push tickets to the component ("api_startpushticket"). alreadyOn
// reports that it was pushing them before.
func (c *Client) StartPushTicket(ctx context.Context, component, appsecret string) (alreadyOn bool, err error) {
	request := struct {
		Component string `json:"component_appid"`
		Secret    string `json:"component_secret"` // not component_appsecret, as elsewhere
	}{component, appsecret}
	k := call{api: APIStartPushTicket, request: request, secrets: []string{appsecret}}
	var answer struct {
		Code    *number `json:"errcode"`
		Message any     `json:"errmsg"`
	}
	if err := c.do(ctx, &k, &answer); err != nil {
		return false, err
	}
	if answer.Code == nil {
		return false, k.faulty("errcode is missing")
	}
	message, _ := answer.Message.(string)
	return strings.Contains(strings.ToLower(message), "normal state"), nil
}

// PreAuthCode is a code for making authorization links. It serves one authorization.
type PreAuthCode struct {
	hidden
	Code      string
	ExpiresIn time.Duration // counts from before the call
}

// CreatePreAuthCode gets a pre-auth code ("api_getpreauthcode").
func (c *Client) CreatePreAuthCode(ctx context.Context, componentToken, component string) (PreAuthCode, error) {
	request := struct {
		Component string `json:"component_appid"`
	}{component}
	k := call{api: APICreatePreAuthCode, token: componentToken, request: request}
	var answer struct {
		Code      token  `json:"pre_auth_code"`
		ExpiresIn number `json:"expires_in"`
	}
	if err := c.do(ctx, &k, &answer); err != nil {
		return PreAuthCode{}, err
	}
	grant, err := k.grant(answer.Code, answer.ExpiresIn, "")
	return PreAuthCode{Code: grant.AccessToken, ExpiresIn: grant.ExpiresIn}, err
}

// call is one call of an API.
type call struct {
	api     API
	token   string     // component token, or with inQuery an account's access token; empty for a call without a token
	inQuery url.Values // further query parameters; nil for a call whose token is in component_access_token
	get     bool       // GET instead of POST
	request any        // marshalled as the body
	secrets []string   // what must not appear in errors, besides token
	limit   int64      // of the answer, in bytes; 0 means smallAnswer
}

// fail returns an *Error; text may be foreign.
func (k *call) fail(code int, text string, cause error) error {
	message, rid := scrub(text, append([]string{k.token}, k.secrets...))
	return &Error{API: k.api, Code: code, Message: message, RID: rid, cause: cause}
}

// faulty returns the *Error for an answer that makes no sense.
func (k *call) faulty(what string) error {
	return k.fail(0, senseless+what, nil)
}

// grant checks the tokens that WeChat issued. An empty or odd token must never replace a good one.
// An odd refresh token must not cost the access token either: WeChat has ended the one before it.
func (k *call) grant(access token, expiresIn number, refresh token) (Grant, error) {
	if access.orNone() == "" {
		return Grant{}, k.faulty("the token is missing or not one")
	}
	if expiresIn < number(minExpiresIn/time.Second) || expiresIn > number(maxExpiresIn/time.Second) {
		return Grant{}, k.faulty(fmt.Sprintf("expires_in is missing or not %v to %v", minExpiresIn, maxExpiresIn))
	}
	return Grant{AccessToken: access.orNone(), ExpiresIn: time.Duration(expiresIn) * time.Second, RefreshToken: refresh.orNone()}, nil
}

// do sends the request and reads the answer into answer.
func (c *Client) do(ctx context.Context, k *call, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	body, err := marshal(k.request)
	if err != nil {
		return k.fail(0, "write the request: "+err.Error(), nil)
	}
	target := c.base.JoinPath(k.api.Path())
	switch {
	case k.inQuery != nil:
		k.inQuery.Set("access_token", k.token)
		target.RawQuery = k.inQuery.Encode()
	case k.token != "":
		// The older of two documented names, which every public SDK uses.
		target.RawQuery = url.Values{"component_access_token": {k.token}}.Encode()
	}
	method := http.MethodPost
	if k.get {
		method, body = http.MethodGet, nil
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base.String(), bytes.NewReader(body))
	if err != nil {
		return k.fail(0, "make the request: "+err.Error(), nil)
	}
	request.URL = target // set only here, so that no error of NewRequest can show the token
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "wxtoken")

	response, err := c.http.Do(request)
	if err != nil {
		return k.noAnswer(ctx, err)
	}
	defer response.Body.Close()
	limit := k.limit
	if limit == 0 {
		limit = smallAnswer
	}
	var text []byte
	if response.StatusCode != http.StatusSwitchingProtocols { // its body is the connection, which ctx does not end
		text, err = io.ReadAll(io.LimitReader(response.Body, limit+1))
	}
	if err != nil {
		return k.noAnswer(ctx, err)
	}
	return k.read(response.StatusCode, text, limit, answer)
}

// noAnswer returns the *Error for a call that got no complete answer. err may be a url.Error with
// the token in it, so only its scrubbed text and the context's error are kept.
func (k *call) noAnswer(ctx context.Context, err error) error {
	if withURL, ok := errors.AsType[*url.Error](err); ok {
		err = withURL.Err
	}
	cause := ctx.Err()
	if cause == nil && errors.Is(err, context.DeadlineExceeded) {
		cause = context.DeadlineExceeded
	}
	return k.fail(0, unanswered+err.Error(), cause)
}

// read reads an answer. WeChat's errcode comes first, whatever the HTTP status is.
func (k *call) read(status int, text []byte, limit int64, answer any) error {
	if len(bytes.TrimSpace(text)) == 0 {
		err := k.faulty(fmt.Sprintf("an empty body (HTTP %d)", status))
		if e, ok := errors.AsType[*Error](err); ok {
			e.Empty = status == http.StatusOK
		}
		return err
	}
	if int64(len(text)) > limit {
		return k.faulty(fmt.Sprintf("longer than %d bytes (HTTP %d)", limit, status))
	}
	text = document.Plain(text) // names of accounts may contain control characters and the like
	var refusal struct {
		Code    number `json:"errcode"`
		Message any    `json:"errmsg"`
	}
	if err := json.Unmarshal(text, &refusal); err != nil {
		return k.faulty(fmt.Sprintf("%d bytes that are not a JSON object with a fitting errcode (HTTP %d)", len(text), status))
	}
	if refusal.Code != 0 {
		message, _ := refusal.Message.(string)
		return k.fail(int(refusal.Code), message, nil)
	}
	if status != http.StatusOK {
		return k.faulty(fmt.Sprintf("HTTP %d without an errcode; redirects are not followed", status))
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return k.faulty("a field has the wrong type")
	}
	return nil
}

// marshal encodes v as WeChat wants it: UTF-8 without escapes, for which WeChat's answer is 47002.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// token is a token in an answer, without white space around it. It is empty only if WeChat gave
// none; what can't be a token is kept as oddToken.
type token string

const oddToken = token("\x00")

func (t *token) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		*t = oddToken
		return nil
	}
	*t = token(strings.TrimSpace(s))
	return nil
}

// orNone returns the token, or "" for what can't be one.
func (t token) orNone() string {
	if !isPrintable(string(t), maxTokenLength) {
		return ""
	}
	return string(t)
}

// number is a whole number, which WeChat sometimes writes as a string. Null and "" are 0.
type number int64

func (n *number) UnmarshalJSON(text []byte) error {
	s := strings.TrimSpace(strings.Trim(string(text), `"`))
	if s == "" || s == "null" {
		*n = 0
		return nil
	}
	whole, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return errors.New("not a whole number")
		}
		whole = int64(f)
	}
	*n = number(whole)
	return nil
}

// funcInfo is the ids in a list of permission sets. It is not essential and must never make a call
// fail, so entries that can't be read are left out.
type funcInfo []int

func (f *funcInfo) UnmarshalJSON(text []byte) error {
	var sets []json.RawMessage
	*f = nil
	_ = json.Unmarshal(text, &sets)
	for _, text := range sets {
		var set struct {
			Category struct {
				ID number `json:"id"`
			} `json:"funcscope_category"`
		}
		if err := json.Unmarshal(text, &set); err == nil && set.Category.ID > 0 && set.Category.ID <= math.MaxInt32 {
			*f = append(*f, int(set.Category.ID))
		}
	}
	return nil
}
