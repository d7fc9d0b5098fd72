package wxtoken

import (
	"fmt"
	"strings"

	"wxtoken/client/document"
)

// Kind says what sort of token a Key names.
type Kind string

// The kinds of token that wxtoken keeps.
const (
	KindComponent    Kind = "component"      // component_access_token of a third-party platform
	KindAuthorizer   Kind = "authorizer"     // authorizer_access_token of one account under one component
	KindJSAPITicket  Kind = "jsapi_ticket"   // ticket for the JS-SDK of one authorizer
	KindWxCardTicket Kind = "wx_card_ticket" // ticket for the card API of one authorizer
)

var kinds = [...]Kind{KindAuthorizer, KindComponent, KindJSAPITicket, KindWxCardTicket}

// Key names one token everywhere: as key in the KV bucket, at the end of subjects, in log lines.
// Make one with [ComponentKey], [AuthorizerKey], [JSAPITicketKey] or [WxCardTicketKey], or read one
// with [ParseKey]. The zero Key names nothing.
type Key struct {
	Kind       Kind
	Component  string // component_appid
	Authorizer string // authorizer_appid; empty for KindComponent
}

// ComponentKey returns the key of a component's own access token. No constructor checks its appids
// ([ValidAppID]): what is called with a malformed key returns ErrBadKey.
func ComponentKey(component string) Key {
	return Key{Kind: KindComponent, Component: component}
}

// AuthorizerKey returns the key of the access token of authorizer under component.
func AuthorizerKey(component, authorizer string) Key {
	return Key{Kind: KindAuthorizer, Component: component, Authorizer: authorizer}
}

// JSAPITicketKey returns the key of the jsapi_ticket of authorizer under component. It is kept with
// --derive=jsapi.
func JSAPITicketKey(component, authorizer string) Key {
	return Key{Kind: KindJSAPITicket, Component: component, Authorizer: authorizer}
}

// WxCardTicketKey returns the key of the wx_card ticket of authorizer under component. It is kept
// with --derive=wx_card.
func WxCardTicketKey(component, authorizer string) Key {
	return Key{Kind: KindWxCardTicket, Component: component, Authorizer: authorizer}
}

// ParseKey reads a key as String writes it. It returns an error that wraps ErrBadKey
// when the kind is unknown, a part is missing, or an appid is not an appid.
func ParseKey(s string) (Key, error) {
	kind, rest, _ := strings.Cut(s, ".")
	component, authorizer, two := strings.Cut(rest, ".")
	key := Key{Component: component, Authorizer: authorizer}
	for _, known := range kinds {
		if string(known) == kind && two == (known != KindComponent) {
			key.Kind = known // not a part of s: a stored key would keep all of s in memory
		}
	}
	if key.Kind == "" {
		return Key{}, fmt.Errorf("%w: %q (want component.<appid>, or authorizer, jsapi_ticket or "+
			"wx_card_ticket.<component_appid>.<authorizer_appid>)", ErrBadKey, clip(s))
	}
	if !ValidAppID(key.Component) || key.Kind != KindComponent && !ValidAppID(key.Authorizer) {
		return Key{}, fmt.Errorf("%w: %q (an appid is 1 to 64 of A-Z a-z 0-9 _ -)", ErrBadKey, clip(s))
	}
	return key, nil
}

// check returns an error that wraps ErrBadKey unless ParseKey(k.String()) returns k.
func (k Key) check() error {
	parsed, err := ParseKey(k.String())
	if err == nil && parsed != k {
		err = fmt.Errorf("%w: %s with authorizer %q (a component's own token has none)", ErrBadKey, k, clip(k.Authorizer))
	}
	return err
}

// String returns the key as it stands in the bucket and at the end of subjects,
// for instance "authorizer.wx1234567890abcdef.wxfedcba0987654321".
func (k Key) String() string {
	if k.Kind == KindComponent {
		return string(k.Kind) + "." + k.Component
	}
	return string(k.Kind) + "." + k.Component + "." + k.Authorizer
}

// MarshalText returns String, or an error that wraps ErrBadKey for a Key that UnmarshalText would
// refuse.
func (k Key) MarshalText() ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	return []byte(k.String()), nil
}

// UnmarshalText is ParseKey.
func (k *Key) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKey(string(text))
	return err
}

// ValidAppID reports whether s can be an appid in a key: 1 to 64 of A-Z a-z 0-9 _ -. No such
// character has a meaning in a subject. Check appids that come from elsewhere before making a key
// of them.
func ValidAppID(s string) bool { return document.IsAppID(s) }

// maxShown bounds how much of a foreign text an error shows, in bytes.
const maxShown = 128

// clip keeps a foreign text short enough for an error message.
func clip(s string) string {
	if len(s) > maxShown {
		return s[:maxShown] + "..."
	}
	return s
}
