package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"wxtoken/client"
	"wxtoken/internal/services"
)

// usersPaths begins the paths of calls about an account's users, who log in and have tokens of their own.
const usersPaths = "/sns/"

// logIn is a call with which an account logs a user in, and what a third-party platform calls instead.
type logIn struct {
	component string // the path ("thirdpartyCode2Session", "official_account_website_authorization")
	code      string // the parameter that says who logs in
	keyless   bool   // it has no secret, as at WeChat: the user's refresh token is secret enough
}

// The component's path of refresh_token is the one that SDKs call, such as WxJava's WxOpenComponentService.
var logIns = map[string]logIn{
	"/sns/jscode2session":       {component: "/sns/component/jscode2session", code: "js_code"},
	"/sns/oauth2/access_token":  {component: "/sns/oauth2/component/access_token", code: "code"},
	"/sns/oauth2/refresh_token": {component: "/sns/oauth2/component/refresh_token", code: "refresh_token", keyless: true},
}

// wrongUserToken are the errcodes for a user's token or code that WeChat does not know.
var wrongUserToken = []int{40001, 40014, 40030}

// errSeveral is the error for an account that authorized several components.
var errSeveral = errors.New("this account belongs to several components: ask for <component>/<appid>")

// compatLogIn logs a user of an account in with the component's token: a third-party platform has no
// AppSecret of its accounts.
func (g *Gateway) compatLogIn(w http.ResponseWriter, r *http.Request) {
	to := logIns[r.URL.Path]
	q, err := url.ParseQuery(r.URL.RawQuery)
	switch {
	case r.Method != http.MethodGet:
		g.refuse(w, http.StatusOK, codeGetWanted, "require GET method")
		return
	case err != nil, len(q["appid"]) > 1, len(q["secret"]) > 1, len(q[to.code]) > 1:
		g.refuse(w, http.StatusOK, codeBadBody, "data format error: malformed query, or a parameter twice")
		return
	case q.Get("appid") == "":
		g.refuse(w, http.StatusOK, codeAppIDMissing, "appid missing")
		return
	case q.Get("secret") == "" && !to.keyless:
		g.refuse(w, http.StatusOK, codeSecretMissing, "appsecret missing: want a key of the service")
		return
	}
	p := g.admitLogIn(w, r, q)
	if p == nil {
		return
	}
	out := r.Clone(r.Context())
	out.URL.Path = to.component
	out.URL.RawQuery = url.Values{ // nothing else is passed on: an SDK may have added its access_token
		"appid": {p.account.Authorizer}, "component_appid": {p.account.Component},
		"grant_type": {q.Get("grant_type")}, to.code: {q.Get(to.code)},
	}.Encode()
	g.relay.pass(w, out, p)
}

// admitLogIn finds the service that logs a user in, and the account. It answers itself and returns nil
// where that is not allowed.
func (g *Gateway) admitLogIn(w http.ResponseWriter, r *http.Request, q url.Values) *call {
	var (
		p       = &call{path: r.URL.Path}
		account wxtoken.Key
		err     error
	)
	if secret := q.Get("secret"); secret != "" {
		client, s := g.admit(w, r, secret)
		if s == nil {
			return nil
		}
		if !s.May(services.RightRelay) || !s.Calls(p.path) {
			g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: this service may not call %s", p.path)
			return nil
		}
		p.client, p.service = client, s.Name
		account, err = g.findAccount(client, s, q.Get("appid"))
	} else {
		if !g.admitStranger(w, r, p) {
			return nil
		}
		account, err = g.findForAny(p, q.Get("appid"))
	}
	if err == nil && account.Kind != wxtoken.KindAuthorizer {
		err = errors.New("the component has no users: want the appid of an account")
	}
	if err != nil {
		g.refuse(w, http.StatusOK, codeInvalidAppID, "invalid appid: %v", err)
		return nil
	}
	p.account, p.key = account, wxtoken.ComponentKey(account.Component)
	return p
}

// admitStranger admits a call without a key and without a gateway token, if some service may make it. It
// answers itself and returns false otherwise.
func (g *Gateway) admitStranger(w http.ResponseWriter, r *http.Request, p *call) bool {
	if p.client = g.view.Load(); p.client == nil {
		g.refuse(w, http.StatusServiceUnavailable, codeBusy, "system error: %v", errAway)
		return false
	}
	may := func(s *services.Service) bool { return s.May(services.RightRelay) && s.Calls(p.path) }
	switch {
	case g.users.Spent(r.RemoteAddr, g.d.Now()):
		w.Header().Set("Retry-After", "1")
		g.refuse(w, http.StatusTooManyRequests, codeTooFast, "api minute-quota reach limit: too many wrong tokens from this address")
	case !slices.ContainsFunc(g.d.Services.Now().All(), may):
		g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: no service may call %s", p.path)
	default:
		p.stranger = r.RemoteAddr
		return true
	}
	return false
}

// findForAny returns the account with an appid among those of the services that may make the call.
func (g *Gateway) findForAny(p *call, appid string) (found wxtoken.Key, err error) {
	err = errUnknown
	for _, s := range g.d.Services.Now().All() {
		if !s.May(services.RightRelay) || !s.Calls(p.path) {
			continue
		}
		switch key, unknown := g.findAccount(p.client, s, appid); {
		case errors.Is(unknown, errSeveral), unknown == nil && err == nil && key != found:
			return wxtoken.Key{}, errSeveral
		case unknown == nil:
			found, err = key, nil
		}
	}
	return found, err
}

// hasUserToken reports whether a call has a user's token, which must not be replaced.
func hasUserToken(u *url.URL) bool {
	if !strings.HasPrefix(u.Path, usersPaths) {
		return false
	}
	token, err := tokenIn(u.RawQuery)
	q, unread := url.ParseQuery(u.RawQuery)
	return err == nil && unread == nil && token != "" && !IsOurs(token) && q.Get(wxtoken.TokenParameters[0]) == token
}

// serveUser relays a call with a user's token unchanged.
func (rl *relay) serveUser(w http.ResponseWriter, r *http.Request, path string) {
	p := &call{path: path, untouched: true}
	switch {
	case answeredHere(path):
		rl.g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: not in this form")
	case r.Method != http.MethodGet:
		rl.g.refuse(w, http.StatusOK, codeGetWanted, "require GET method")
	case rl.g.admitStranger(w, r, p):
		rl.pass(w, r, p)
	}
}
