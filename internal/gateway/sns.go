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

// usersPaths begin the paths of the calls for an account's users: they log in there, and have
// tokens of their own.
const usersPaths = "/sns/"

// logIn is a call with which an account logs its users in, and what a third-party platform calls
// instead.
type logIn struct {
	component string // the path ("thirdpartyCode2Session", "official_account_website_authorization")
	code      string // the parameter that says who logs in
	keyless   bool   // as at WeChat, it has no secret: the code, the user's own refresh token, is one
}

// The component's path of the third is what SDKs call, WxJava's WxOpenComponentService among them.
var logIns = map[string]logIn{
	"/sns/jscode2session":       {component: "/sns/component/jscode2session", code: "js_code"},
	"/sns/oauth2/access_token":  {component: "/sns/oauth2/component/access_token", code: "code"},
	"/sns/oauth2/refresh_token": {component: "/sns/oauth2/component/refresh_token", code: "refresh_token", keyless: true},
}

// wrongUser are the errcodes for a user's token that WeChat never gave, or gives no more.
var wrongUser = []int{40001, 40014, 40030}

// errSeveral is the error for an account of several components.
var errSeveral = errors.New("this account belongs to several components: ask for <component>/<appid>")

// compatLogIn makes the log-in of an account's user with the token of its component: accounts of a
// third-party platform give it no AppSecret.
func (g *Gateway) compatLogIn(w http.ResponseWriter, r *http.Request) {
	to := logIns[r.URL.Path]
	q, err := url.ParseQuery(r.URL.RawQuery)
	switch {
	case r.Method != http.MethodGet:
		g.refuse(w, http.StatusOK, codeGetWanted, "require GET method")
		return
	case err != nil, len(q["appid"]) > 1, len(q["secret"]) > 1, len(q[to.code]) > 1:
		g.refuse(w, http.StatusOK, codeBadBody, "data format error: the query can't be read, or has a parameter twice")
		return
	case q.Get("appid") == "":
		g.refuse(w, http.StatusOK, codeAppIDMissing, "appid missing")
		return
	case q.Get("secret") == "" && !to.keyless:
		g.refuse(w, http.StatusOK, codeSecretMissing, "appsecret missing: want a key of the service")
		return
	}
	p := g.logInOf(w, r, q)
	if p == nil {
		return
	}
	out := r.Clone(r.Context())
	out.URL.Path = to.component
	out.URL.RawQuery = url.Values{ // and nothing else: an SDK may add its access_token
		"appid": {p.account.Authorizer}, "component_appid": {p.account.Component},
		"grant_type": {q.Get("grant_type")}, to.code: {q.Get(to.code)},
	}.Encode()
	g.relay.pass(w, out, p)
}

// logInOf finds the account that a log-in is for, and whose it is. It answers itself and returns
// nil where that may not be.
func (g *Gateway) logInOf(w http.ResponseWriter, r *http.Request, q url.Values) *passage {
	var (
		p       = &passage{path: r.URL.Path}
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
		account, err = g.find(client, s, q.Get("appid"))
	} else {
		if !g.stranger(w, r, p) {
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

// stranger lets a call through that has no key and no token of ours, where some service may make
// it. It answers itself and returns false otherwise.
func (g *Gateway) stranger(w http.ResponseWriter, r *http.Request, p *passage) bool {
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

// findForAny returns the account that an appid means to the services that may make a call.
func (g *Gateway) findForAny(p *passage, appid string) (found wxtoken.Key, err error) {
	err = errUnknown
	for _, s := range g.d.Services.Now().All() {
		if !s.May(services.RightRelay) || !s.Calls(p.path) {
			continue
		}
		switch key, unknown := g.find(p.client, s, appid); {
		case errors.Is(unknown, errSeveral), unknown == nil && err == nil && key != found:
			return wxtoken.Key{}, errSeveral
		case unknown == nil:
			found, err = key, nil
		}
	}
	return found, err
}

// ofUser reports whether a call is one with a token of a user's: nothing is to be put in its place.
func ofUser(u *url.URL) bool {
	if !strings.HasPrefix(u.Path, usersPaths) {
		return false
	}
	token, err := tokenIn(u.RawQuery)
	q, unread := url.ParseQuery(u.RawQuery)
	return err == nil && unread == nil && token != "" && !IsOurs(token) && q.Get(wxtoken.TokenParameters[0]) == token
}

// serveUser hands a call with a token of a user's on as it is.
func (rl *relay) serveUser(w http.ResponseWriter, r *http.Request, path string) {
	p := &passage{path: path, untouched: true}
	switch {
	case answeredHere(path):
		rl.g.refuse(w, http.StatusOK, codeNotAllowed, "api unauthorized: not in this form")
	case r.Method != http.MethodGet:
		rl.g.refuse(w, http.StatusOK, codeGetWanted, "require GET method")
	case rl.g.stranger(w, r, p):
		rl.pass(w, r, p)
	}
}
