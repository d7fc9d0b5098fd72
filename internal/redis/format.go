package redis

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"wxtoken/client"
)

// format is how an SDK names and writes the tokens that its processes share.
type format struct {
	component string // only tokens of this component and its accounts; empty means all
	// Templates of keys by kind of token, with {component} and {appid}. Kinds without one are not
	// written.
	keys map[wxtoken.Kind]string
	json bool // the value is a JSON string; otherwise the token itself
}

// Keys of SDKs, from their sources.
var (
	// WxJava 4.7.2.B, AbstractWxOpenInRedisConfigStorage.java: Jedis, RedisTemplate and Redisson
	// alike.
	wxjavaKeys = map[wxtoken.Kind]string{
		wxtoken.KindComponent:    "wechat_component_access_token:{component}",
		wxtoken.KindAuthorizer:   "wechat_authorizer_access_token:{component}:{appid}",
		wxtoken.KindJSAPITicket:  "wechat_jsapi_ticket:{component}:{appid}",
		wxtoken.KindWxCardTicket: "wechat_card_api_ticket:{component}:{appid}",
	}
	// silenceper/wechat v2.1.10, openplatform/context/accessToken.go and
	// credential/default_js_ticket.go, whose prefix ends in "_" and is followed by another one. It
	// has no card ticket.
	silenceperKeys = map[wxtoken.Kind]string{
		wxtoken.KindComponent:   "component_access_token_{component}",
		wxtoken.KindAuthorizer:  "authorizer_access_token_{appid}",
		wxtoken.KindJSAPITicket: "gowechat_officialaccount__jsapi_ticket_{appid}",
	}
	// wechatpy 2.0.0.alpha26, component.py, client/__init__.py and session/redisstorage.py, which
	// writes JSON. Its tickets are not written: they need their expiry under a second key.
	wechatpyKeys = map[wxtoken.Kind]string{
		wxtoken.KindComponent:  "{component}_component_access_token",
		wxtoken.KindAuthorizer: "{appid}_access_token",
	}
)

// kinds are the kinds of token that a template may name.
var kinds = []wxtoken.Kind{wxtoken.KindComponent, wxtoken.KindAuthorizer, wxtoken.KindJSAPITicket, wxtoken.KindWxCardTicket}

var (
	placeholder = regexp.MustCompile(`\{[^{}]*\}`)
	badInKey    = regexp.MustCompile(`[{}\s[:cntrl:]]`)
)

// parseFormats reads the value of --redis-format.
func parseFormats(texts []string) ([]format, error) {
	var all []format
	var faults []error
	for _, text := range texts {
		f, err := parseFormat(text)
		if err == nil && slices.ContainsFunc(all, f.overlaps) {
			err = errors.New("another format fills the same key")
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%q: %w", text, err))
			continue
		}
		all = append(all, f)
	}
	return all, errors.Join(faults...)
}

// parseFormat reads one format: <name>[:prefix][@component] or [kind=]template[@component].
func parseFormat(text string) (format, error) {
	var component string
	if at := strings.LastIndexByte(text, '@'); at >= 0 && wxtoken.ValidAppID(text[at+1:]) {
		text, component = text[:at], text[at+1:]
	}
	if strings.ContainsAny(text, "{}") {
		f, err := parseTemplate(text)
		f.component = component
		return f, err
	}
	name, prefix, prefixed := strings.Cut(text, ":")
	prefix = strings.TrimSuffix(prefix, ":")
	if prefixed && (prefix == "" || badInKey.MatchString(prefix)) {
		return format{}, errors.New("want a prefix without spaces and braces after the colon")
	}
	f := format{component: component, json: name == "wechatpy"}
	switch {
	case name == "wxjava":
		f.keys = wxjavaKeys
	case name == "silenceper" && !prefixed:
		f.keys = silenceperKeys
	case name == "silenceper":
		return format{}, errors.New("silenceper's keys have no prefix")
	case name == "wechatpy" && !prefixed:
		prefix, prefixed = name, true // its own default
		fallthrough
	case name == "wechatpy":
		f.keys = wechatpyKeys
	default:
		return format{}, errors.New("no such format: want wxjava, silenceper, wechatpy, or a key with {component} and {appid}")
	}
	if prefixed {
		keys := map[wxtoken.Kind]string{}
		for kind, key := range f.keys {
			keys[kind] = prefix + ":" + key
		}
		f.keys = keys
	}
	return f, nil
}

// parseTemplate reads a key with placeholders. A kind= before it says for which kind of token it
// is; without, it is for authorizer tokens.
func parseTemplate(text string) (format, error) {
	kind := wxtoken.KindAuthorizer
	if name, rest, ok := strings.Cut(text, "="); ok && slices.Contains(kinds, wxtoken.Kind(name)) {
		kind, text = wxtoken.Kind(name), rest
	}
	for _, p := range placeholder.FindAllString(text, -1) {
		if p != "{component}" && p != "{appid}" {
			return format{}, fmt.Errorf("no such placeholder: %s: want {component} or {appid}", p)
		}
	}
	own := kind == wxtoken.KindComponent
	switch fixed := placeholder.ReplaceAllString(text, ""); {
	case badInKey.MatchString(fixed):
		return format{}, errors.New("a key has no spaces, and no braces but those of {component} and {appid}")
	case strings.HasPrefix(text, markPrefix):
		return format{}, fmt.Errorf("keys that begin with %s are wxtoken's own", markPrefix)
	case own && (!strings.Contains(text, "{component}") || strings.Contains(text, "{appid}")):
		return format{}, errors.New("want {component} in the key of a component's token, and no {appid}")
	case !own && !strings.Contains(text, "{appid}"):
		return format{}, errors.New("want {appid} in the key, or it would be the same for all accounts")
	}
	return format{keys: map[wxtoken.Kind]string{kind: text}}, nil
}

// overlaps reports whether two formats fill the same key for any account.
func (f format) overlaps(other format) bool {
	if f.component != other.component && f.component != "" && other.component != "" {
		return false
	}
	for _, key := range f.keys {
		for _, there := range other.keys {
			if key == there {
				return true
			}
		}
	}
	return false
}

// key returns the key in Redis for a token; ok is false if the format has none for it.
func (f format) key(k wxtoken.Key) (key string, ok bool) {
	pattern, ok := f.keys[k.Kind]
	if !ok || f.component != "" && f.component != k.Component {
		return "", false
	}
	return strings.ReplaceAll(strings.ReplaceAll(pattern, "{component}", k.Component), "{appid}", k.Authorizer), true
}

// value returns the value to write for a token.
func (f format) value(token wxtoken.Secret) string {
	if !f.json {
		return token.Reveal()
	}
	text, err := json.Marshal(token.Reveal())
	if err != nil {
		return "" // never: a string can always be marshalled
	}
	return string(text)
}
