package gateway

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"wxtoken/client"
	"wxtoken/internal/services"
)

// accountJSON is an account as /v1 shows it: a flat object, with WeChat's own names for its profile.
type accountJSON map[string]any

// accountOfStatus returns an account for a service. A status holds no secret.
func accountOfStatus(status wxtoken.Status) accountJSON {
	out := accountJSON{}
	if a := status.Authorizer; a != nil {
		for name, value := range a.Profile {
			out[name] = value
		}
		if len(a.FuncInfo) > 0 {
			out["func_info"] = a.FuncInfo
		}
		if a.AuthorizedAt != nil {
			out["authorized_at"] = stamp(*a.AuthorizedAt)
		}
		out["ref"] = a.Ref
	}
	maps.Copy(out, accountJSON{
		"key": status.Key, "component": status.Key.Component, "appid": status.Key.Authorizer, "state": status.State,
		"conditions": status.Conditions, "failures": status.Failures,
	})
	if status.LastError != nil {
		out["last_error"] = status.LastError
	}
	if status.ReauthorizeURL != "" {
		out["reauthorize_url"] = status.ReauthorizeURL
	}
	return out
}

// account answers GET /v1/accounts/{key}.
func (g *Gateway) account(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service, _ url.Values) {
	key, ok := g.pathKey(w, r, client, s)
	if !ok {
		return
	}
	status, err := client.Account(key)
	if err != nil {
		problem(w, http.StatusNotFound, errUnknown.Error())
		return
	}
	out := accountOfStatus(status)
	if token, err := client.Token(key); err == nil {
		out["token"] = map[string]any{"generation": token.Generation, "expires_at": stamp(token.ExpiresAt), "renew_at": stamp(token.RenewAt)}
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, out)
}

// accounts answers GET /v1/accounts?ref=|q=|state=|component=&limit&after.
func (g *Gateway) accounts(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, s *services.Service, q url.Values) {
	limit := defaultAccounts
	if text := q.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxAccounts {
			problem(w, http.StatusUnprocessableEntity, "limit: want 1 to "+strconv.Itoa(maxAccounts))
			return
		}
	}
	if state := wxtoken.State(q.Get("state")); state != "" && !slices.Contains(states, state) {
		problem(w, http.StatusUnprocessableEntity, "state: want one of "+joined(states))
		return
	}
	var after wxtoken.Key
	if text := q.Get("after"); text != "" {
		var err error
		if after, err = wxtoken.ParseKey(text); err != nil {
			problem(w, http.StatusUnprocessableEntity, "after: "+err.Error())
			return
		}
	}
	out := struct {
		Accounts []accountJSON `json:"accounts"`
		Next     string        `json:"next,omitempty"`
	}{Accounts: []accountJSON{}}
	last := ""
	for status := range g.candidates(client, q.Get("ref"), after) {
		key := status.Key.String()
		if key <= q.Get("after") || status.Key.Kind != wxtoken.KindAuthorizer || !g.knows(client, s, status.Key) ||
			!matches(status, q.Get("q"), q.Get("state"), q.Get("component")) {
			continue
		}
		if len(out.Accounts) == limit {
			out.Next = last
			break
		}
		out.Accounts, last = append(out.Accounts, accountOfStatus(status)), key
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, out)
}

// states are the states of an account.
var states = []wxtoken.State{
	wxtoken.StateActive, wxtoken.StateRenewingFailed, wxtoken.StateNeedsAuthorization, wxtoken.StateRevoked,
	wxtoken.StateWaitingForTicket, wxtoken.StateOperator,
}

func joined[T ~string](words []T) string {
	var out []string
	for _, w := range words {
		out = append(out, string(w))
	}
	return strings.Join(out, ", ")
}

// candidates yields the accounts with a ref, or all after a key, in the order of their keys.
func (g *Gateway) candidates(client *wxtoken.Client, ref string, after wxtoken.Key) func(func(wxtoken.Status) bool) {
	if ref == "" {
		return client.AccountsAfter(after)
	}
	return func(yield func(wxtoken.Status) bool) {
		keys, err := client.Find(ref)
		if err != nil {
			return
		}
		for _, key := range keys {
			if status, err := client.Account(key); err == nil && !yield(status) {
				return
			}
		}
	}
}

// matches reports whether an account matches the filters; q is a part of its appid, ref, nickname or
// principal, in upper or lower case.
func matches(status wxtoken.Status, q, state, component string) bool {
	if state != "" && string(status.State) != state || component != "" && status.Key.Component != component {
		return false
	}
	if q == "" {
		return true
	}
	q = strings.ToLower(q)
	if strings.Contains(strings.ToLower(status.Key.Authorizer), q) {
		return true
	}
	a := status.Authorizer
	if a == nil {
		return false
	}
	return strings.Contains(strings.ToLower(a.Ref), q) || contains(a.Profile["nick_name"], q) || contains(a.Profile["principal_name"], q)
}

// contains reports whether a JSON string contains q, in upper or lower case.
func contains(raw json.RawMessage, q string) bool {
	var text string
	return json.Unmarshal(raw, &text) == nil && strings.Contains(strings.ToLower(text), q)
}
