package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/services"
)

// The errcodes of the gateway's own answers; they are WeChat's ("Global return codes").
const (
	codeBusy           = -1
	codeForged         = 40001
	codeInvalidAppID   = 40013
	codeInvalidURL     = 40066
	codeInvalidSecret  = 40125
	codeTokenMissing   = 41001
	codeExpired        = 42001
	codeTooFast        = 45011
	codeBadBody        = 47001
	codeAppIDMissing   = 41002
	codeSecretMissing  = 41004
	codeGetWanted      = 43001
	codePostWanted     = 43002
	codeNotAllowed     = 48001
	codeInvalidGrant   = 40002
	codeTooLargeToPass = 45001
)

const (
	// maxQuestion bounds the body of a call that the gateway answers itself, in bytes.
	maxQuestion = 64 << 10
	// overlap is how long WeChat accepts a token that was replaced ("Get_access_token": 5 minutes),
	// less a minute for clocks and network.
	overlap = 4 * time.Minute
	// leastLife is the expires_in of WeChat's own token when its renewal is late.
	leastLife = time.Minute
)

// compatible are the calls that issue or renew tokens. The gateway answers or refuses them as WeChat
// would; none is relayed as it came.
var compatible = map[string]func(*Gateway, http.ResponseWriter, *http.Request){
	"/cgi-bin/token":                           (*Gateway).compatToken,
	"/cgi-bin/stable_token":                    (*Gateway).compatStableToken,
	"/cgi-bin/component/api_component_token":   (*Gateway).compatComponentToken,
	"/cgi-bin/component/api_authorizer_token":  (*Gateway).compatAuthorizerToken,
	"/cgi-bin/component/api_query_auth":        doneElsewhere("the refreshers exchange each code, once, when WeChat pushes it"),
	"/cgi-bin/component/api_start_push_ticket": doneElsewhere("the refreshers ask for tickets"),
	"/cgi-bin/component/clear_quota/v2":        doneElsewhere("the operator clears it: wxtoken.quota"),
	"/cgi-bin/clear_quota/v2":                  doneElsewhere("the operator clears it: wxtoken.quota"),
	"/sns/jscode2session":                      (*Gateway).compatLogIn,
	"/sns/oauth2/access_token":                 (*Gateway).compatLogIn,
	"/sns/oauth2/refresh_token":                (*Gateway).compatLogIn,
}

// doneElsewhere refuses a call whose work another process of wxtoken does.
func doneElsewhere(who string) func(*Gateway, http.ResponseWriter, *http.Request) {
	return func(g *Gateway, w http.ResponseWriter, _ *http.Request) {
		g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: not through the gateway, %s", who)
	}
}

// refuse answers in WeChat's form.
func (g *Gateway) refuse(w http.ResponseWriter, status, code int, format string, args ...any) {
	g.metrics.refused.WithLabelValues(fmt.Sprint(code)).Inc()
	writeJSON(w, status, struct {
		Errcode int    `json:"errcode"`
		Errmsg  string `json:"errmsg"`
	}{code, fmt.Sprintf(format, args...) + " (wxtoken gateway)"})
}

// writeJSON answers with a value that can always be written, without a line break at its end:
// co-wechat-api 3.11.0 can't parse that.
func writeJSON(w http.ResponseWriter, status int, value any) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.WriteHeader(status)
	_, _ = w.Write(mustJSON(value)) // the client may have gone
}

// compatToken answers GET /cgi-bin/token?grant_type=client_credential&appid&secret
// ("Get_access_token").
func (g *Gateway) compatToken(w http.ResponseWriter, r *http.Request) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost: // some programs POST with the parameters in the query
		g.refuse(w, http.StatusOK, codeGetWanted, "require GET method")
	case err != nil, len(q["grant_type"]) > 1, len(q["appid"]) > 1, len(q["secret"]) > 1:
		g.refuse(w, http.StatusOK, codeBadBody, "data format error: malformed query, or a parameter twice")
	default:
		g.issue(w, r, "token", grant{q.Get("grant_type"), q.Get("appid"), q.Get("secret")})
	}
}

// compatStableToken answers POST /cgi-bin/stable_token. force_refresh changes nothing: only
// wxtoken renews, and a token that WeChat refuses is replaced when that happens.
func (g *Gateway) compatStableToken(w http.ResponseWriter, r *http.Request) {
	var question struct {
		GrantType string `json:"grant_type"`
		AppID     string `json:"appid"`
		Secret    string `json:"secret"`
	}
	if g.readQuestion(w, r, &question) {
		g.issue(w, r, "stable_token", grant{question.GrantType, question.AppID, question.Secret})
	}
}

// grant is what a program sends to get a token.
type grant struct{ kind, appid, secret string }

func (g *Gateway) issue(w http.ResponseWriter, r *http.Request, door string, asked grant) {
	switch "" {
	case asked.appid:
		g.refuse(w, http.StatusOK, codeAppIDMissing, "appid missing")
		return
	case asked.secret:
		g.refuse(w, http.StatusOK, codeSecretMissing, "appsecret missing: want a key of the service")
		return
	}
	client, s := g.admit(w, r, asked.secret)
	if s == nil {
		return
	}
	if asked.kind != "client_credential" {
		g.refuse(w, http.StatusOK, codeInvalidGrant, "invalid grant_type: want client_credential")
		return
	}
	key, err := g.findAccount(client, s, asked.appid)
	if err != nil {
		g.refuse(w, http.StatusOK, codeInvalidAppID, "invalid appid: %v", err)
		return
	}
	g.handOut(w, r, client, s, key, door, "access_token", nil)
}

// compatComponentToken answers api_component_token, with the service's key as component_appsecret
// and any ticket.
func (g *Gateway) compatComponentToken(w http.ResponseWriter, r *http.Request) {
	var question struct {
		Component string `json:"component_appid"`
		Secret    string `json:"component_appsecret"`
	}
	if !g.readQuestion(w, r, &question) {
		return
	}
	if question.Secret == "" {
		g.refuse(w, http.StatusOK, codeSecretMissing, "component_appsecret missing: want a key of the service")
		return
	}
	client, s := g.admit(w, r, question.Secret)
	if s == nil {
		return
	}
	if !s.May(services.RightComponent) {
		g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: this service has no right component")
		return
	}
	key := wxtoken.ComponentKey(question.Component)
	if !exists(client, key) || !s.Knows(key, "") {
		g.refuse(w, http.StatusOK, codeInvalidAppID, "invalid appid: %v", errUnknown)
		return
	}
	g.handOut(w, r, client, s, key, "component", "component_access_token", nil)
}

// compatAuthorizerToken answers api_authorizer_token from the view. The answer has the refresh token that
// was sent; WeChat is not asked.
func (g *Gateway) compatAuthorizerToken(w http.ResponseWriter, r *http.Request) {
	client, s, claims, ok := g.checkToken(w, r)
	if !ok {
		return
	}
	var question struct {
		Component string `json:"component_appid"`
		AppID     string `json:"authorizer_appid"`
		Refresh   string `json:"authorizer_refresh_token"`
	}
	if !g.readQuestion(w, r, &question) {
		return
	}
	key := wxtoken.AuthorizerKey(claims.Key.Component, question.AppID)
	switch {
	case claims.Key.Kind != wxtoken.KindComponent, !s.May(services.RightToken):
		g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: want the component's token, and the right \"token\"")
	case question.Component != claims.Key.Component, !exists(client, key), !g.knows(client, s, key):
		g.refuse(w, http.StatusOK, codeInvalidAppID, "invalid appid: %v", errUnknown)
	default:
		g.handOut(w, r, client, s, key, "refresh", "authorizer_access_token", map[string]any{"authorizer_refresh_token": question.Refresh})
	}
}

// admit returns the service of a key that may get tokens. It answers itself, in WeChat's form, and returns
// nil where there is none.
func (g *Gateway) admit(w http.ResponseWriter, r *http.Request, key string) (*wxtoken.Client, *services.Service) {
	client := g.view.Load()
	if client == nil {
		g.refuse(w, http.StatusServiceUnavailable, codeBusy, "system error: %v", errAway)
		return nil, nil
	}
	s := g.serviceByKey(w, r, key, func(status int, why string) {
		if status == http.StatusUnauthorized {
			status = http.StatusOK
		}
		g.refuse(w, status, codeInvalidSecret, "invalid appsecret: %s", why)
	})
	if s == nil {
		return nil, nil
	}
	if !s.May(services.RightToken) {
		g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: this service has no right token")
		return nil, nil
	}
	return client, s
}

// handOut answers with a token: WeChat's own to a service with the right real, else a gateway token.
func (g *Gateway) handOut(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service, key wxtoken.Key, door, field string, more map[string]any) {
	token, err := client.Token(key)
	real := s.May(services.RightReal)
	switch {
	case errors.Is(err, wxtoken.ErrRevoked):
		g.refuse(w, http.StatusOK, codeInvalidAppID, "invalid appid: the account has cancelled its authorization")
		return
	case err != nil && real:
		g.refuse(w, http.StatusServiceUnavailable, codeBusy, "system error: %s has no valid token", key)
		return
	case err != nil:
		token = wxtoken.Token{} // a gateway token is of use all the same: there may be a valid one when it is used
	}
	now := g.d.Now()
	out := map[string]any{}
	maps.Copy(out, more)
	if real {
		out[field], out["expires_in"] = token.Value.Reveal(), int(realTokenLife(token, now)/time.Second)
	} else {
		ours := g.d.Signer.Sign(Claims{Service: s.Name, Key: key, Ends: now.Add(TokenLife + tokenGrace), Generation: token.Generation})
		out[field], out["expires_in"] = ours.Reveal(), int(TokenLife/time.Second)
	}
	g.recordHandedOut(r, s, key, door, real)
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, out)
}

// recordHandedOut counts and logs that a token was handed out.
func (g *Gateway) recordHandedOut(r *http.Request, s *services.Service, key wxtoken.Key, door string, real bool) {
	g.metrics.tokens.WithLabelValues(s.Name, door).Inc()
	g.d.Log.Info().Str("service", s.Name).Stringer("key", key).Str("door", door).Bool("real", real).
		Str("address", hostOf(r.RemoteAddr)).Msg("token handed out")
}

// realTokenLife is how long a program may cache WeChat's own token: until WeChat stops accepting it after
// its replacement, and never beyond its expiry.
func realTokenLife(token wxtoken.Token, now time.Time) time.Duration {
	good := max(token.RenewAt.Add(overlap).Sub(now), leastLife)
	return min(good, token.ExpiresAt.Sub(now))
}

// readQuestion reads the JSON body of a call that the gateway answers itself. Where it can't be read, it
// answers with an error and returns false.
func (g *Gateway) readQuestion(w http.ResponseWriter, r *http.Request, into any) bool {
	if r.Method != http.MethodPost {
		g.refuse(w, http.StatusOK, codePostWanted, "require POST method")
		return false
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuestion))
	if err != nil || json.Unmarshal(text, into) != nil {
		g.refuse(w, http.StatusOK, codeBadBody, "data format error: want a JSON object")
		return false
	}
	return true
}

// checkToken reads the gateway token in the query of a call. Where there is no valid one, it answers with
// an error and returns ok false.
func (g *Gateway) checkToken(w http.ResponseWriter, r *http.Request) (client *wxtoken.Client, s *services.Service, claims Claims, ok bool) {
	deny := func(code int, format string, args ...any) (*wxtoken.Client, *services.Service, Claims, bool) {
		g.refuse(w, http.StatusOK, code, format, args...)
		return nil, nil, Claims{}, false
	}
	text, err := tokenIn(r.URL.RawQuery)
	switch {
	case err != nil:
		return deny(codeForged, "invalid credential: %v", err)
	case text == "":
		return deny(codeTokenMissing, "access_token missing")
	}
	claims, err = g.d.Signer.Open(text, g.d.Now())
	switch {
	case errors.Is(err, ErrExpired):
		return deny(codeExpired, "access_token expired")
	case err != nil:
		return deny(codeForged, "invalid credential, access_token is invalid or not latest: %v", err)
	}
	if client = g.view.Load(); client == nil {
		g.refuse(w, http.StatusServiceUnavailable, codeBusy, "system error: %v", errAway)
		return nil, nil, Claims{}, false
	}
	s, known := g.d.Services.Now().ByName(claims.Service)
	if !known || !g.knows(client, s, claims.Key) {
		return deny(codeForged, "invalid credential, access_token is invalid or not latest: %v", errUnknown)
	}
	return client, s, claims, true
}

// tokenIn returns the token in a query, "" if there is none. It refuses queries that WeChat might read
// differently.
func tokenIn(query string) (string, error) {
	found := 0
	var token string
	for part := range strings.SplitSeq(query, "&") {
		raw, value, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(raw)
		if err != nil || strings.Contains(part, ";") {
			return "", errors.New("ambiguous query")
		}
		if !isTokenParameter(strings.TrimSpace(name)) {
			continue
		}
		if name != raw {
			return "", errors.New("ambiguous query")
		}
		if token, err = url.QueryUnescape(value); err != nil {
			return "", errors.New("malformed query")
		}
		found++
	}
	if found > 1 {
		return "", errors.New("two tokens in one query")
	}
	return token, nil
}

// isTokenParameter reports whether WeChat might take a parameter for one with a token, in any spelling.
func isTokenParameter(name string) bool {
	for _, one := range wxtoken.TokenParameters {
		if strings.EqualFold(name, one) || strings.HasPrefix(strings.ToLower(name), one+"[") {
			return true
		}
	}
	return false
}
