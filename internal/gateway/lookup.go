package gateway

import (
	"errors"
	"net/http"
	"strings"

	"wxtoken/client"
	"wxtoken/internal/services"
)

// errUnknown is the error for an account that does not exist and for one of another service: a service
// can't tell the two apart.
var errUnknown = errors.New("no account of this service")

// serviceByKey returns the service with a key. It calls refuse and returns nil where there is none, or
// where the address has tried too many wrong keys.
func (g *Gateway) serviceByKey(w http.ResponseWriter, r *http.Request, key string, refuse func(status int, why string)) *services.Service {
	if g.tries.Spent(r.RemoteAddr, g.d.Now()) {
		w.Header().Set("Retry-After", "1")
		refuse(http.StatusTooManyRequests, "too many wrong keys from this address")
		return nil
	}
	s, ok := g.d.Services.Now().ByKey(key)
	if !ok {
		g.tries.Count(r.RemoteAddr, g.d.Now())
		g.metrics.refused.WithLabelValues("key").Inc()
		g.d.Log.Warn().Str("address", hostOf(r.RemoteAddr)).Str("path", shortPath(r)).Msg("key refused")
		refuse(http.StatusUnauthorized, "no service has this key")
		return nil
	}
	return s
}

// knows reports whether an account belongs to a service.
func (g *Gateway) knows(client *wxtoken.Client, s *services.Service, key wxtoken.Key) bool {
	return s.Knows(key, "") || s.Knows(key, client.Ref(accountOf(key)))
}

// accountOf returns the key of the account that a ticket belongs to, and any other key as it is.
func accountOf(key wxtoken.Key) wxtoken.Key {
	if key.Kind == wxtoken.KindComponent {
		return key
	}
	return wxtoken.AuthorizerKey(key.Component, key.Authorizer)
}

// exists reports whether anything is known about a key.
func exists(client *wxtoken.Client, key wxtoken.Key) bool {
	if _, err := client.Account(key); err == nil {
		return true
	}
	_, err := client.Token(key)
	return err == nil || errors.Is(err, wxtoken.ErrExpired)
}

// findAccount returns the account that a service means by an appid: <appid>, or <component>/<appid> where
// the account authorized several components. A component's own appid means the component.
func (g *Gateway) findAccount(client *wxtoken.Client, s *services.Service, text string) (wxtoken.Key, error) {
	component, appid, both := strings.Cut(text, "/")
	var found []wxtoken.Key
	for _, own := range client.Components() {
		key := wxtoken.AuthorizerKey(own, text)
		switch {
		case both && own != component:
			continue
		case both:
			key.Authorizer = appid
		case own == text:
			key = wxtoken.ComponentKey(own)
		}
		if exists(client, key) && g.knows(client, s, key) {
			found = append(found, key)
		}
	}
	switch len(found) {
	case 0:
		return wxtoken.Key{}, errUnknown
	case 1:
		return found[0], nil
	}
	return wxtoken.Key{}, errSeveral
}
