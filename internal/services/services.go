package services

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/hook"
	"wxtoken/internal/settings"
)

// A Right is something that a service may do.
type Right string

// The rights. RightRelay includes RightToken.
const (
	RightToken     Right = "token"     // get tokens, and report those that WeChat refused
	RightRelay     Right = "relay"     // have calls relayed to WeChat
	RightReal      Right = "real"      // get WeChat's own tokens instead of gateway tokens
	RightComponent Right = "component" // get the component's token, and act for the component
	RightLinks     Right = "links"     // make authorization links
	RightAccounts  Right = "accounts"  // list accounts and their profiles
	RightEvents    Right = "events"    // follow events
)

var rights = []Right{RightToken, RightRelay, RightReal, RightComponent, RightLinks, RightAccounts, RightEvents}

// Service is a program that the gateway serves.
type Service struct {
	Name     string
	accounts []scope
	may      map[Right]bool
	apis     []string // prefixes of paths; nil = all
	Webhooks []Webhook
}

// Webhook is a URL to which messages of accounts are posted.
type Webhook struct {
	URL string
	// <component>/<appid or *>/<msgtype or *>[/<event>]; of notices <component>/<appid or
	// *>/notice[/<infotype>].
	Messages []events.Kind
	Reply    bool   // the answer of the URL is the passive reply
	Secret   []byte // signs the posts, as Standard Webhooks say
}

// scope is one entry of a service's accounts.
type scope struct {
	component, appid string // appid "*": all accounts of the component
	ref              string // prefix of refs; then component is "*" and appid empty
}

// Services are the services of a file, unchangeable.
type Services struct {
	all     []*Service
	digests [][sha256.Size]byte
	owners  []*Service // of the digests, by index
}

// file is the JSON of the services file.
type file struct {
	Services []entry `json:"services"`
}

// entry is a service in the file.
type entry struct {
	Name     string    `json:"name"`
	Keys     []string  `json:"keys"`
	Accounts []string  `json:"accounts"`
	May      []Right   `json:"may"`
	APIs     *[]string `json:"apis"`
	Webhooks []webhook `json:"webhooks"`
}

// webhook is a webhook of an entry.
type webhook struct {
	URL      string   `json:"url"`
	Messages []string `json:"messages"`
	Reply    bool     `json:"reply"`
	Secret   string   `json:"secret"`
}

const digestPrefix = "sha256:"

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	messagePattern = regexp.MustCompile(`^([A-Za-z0-9_-]+)/(\*|[A-Za-z0-9_-]+)/(\*|[A-Za-z0-9_-]+)(?:/([A-Za-z0-9_-]+))?$`)
)

// Parse reads a services file. The error names every fault with its place, and shows no key.
func Parse(data []byte) (*Services, error) {
	s, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("services file: %w", err)
	}
	return s, nil
}

func parse(data []byte) (*Services, error) {
	var f file
	if err := settings.DecodeJSON(data, &f, ""); err != nil {
		return nil, err
	}
	s := &Services{}
	var faults []error
	for i, entry := range f.Services {
		service, errs := s.read(entry)
		for _, err := range errs {
			faults = append(faults, fmt.Errorf("services[%d] %s: %w", i, entry.Name, err))
		}
		s.all = append(s.all, service)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return s, nil
}

// read reads one entry. Its errors name places within it.
func (s *Services) read(e entry) (*Service, []error) {
	service := &Service{Name: e.Name, may: map[Right]bool{}}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !namePattern.MatchString(e.Name) {
		fault("name: want lower-case letters, digits, - and _, 64 at most")
	}
	if _, taken := s.ByName(e.Name); taken {
		fault("name: appears twice")
	}
	if len(e.Keys) == 0 {
		fault("keys: none (gateway --make-key=%s makes one)", e.Name)
	}
	for j, text := range e.Keys {
		digest, err := parseDigest(text)
		if err == nil && slices.Contains(s.digests, digest) {
			err = errors.New("appears twice")
		}
		if err != nil {
			fault("keys[%d]: %w", j, err)
			continue
		}
		s.digests, s.owners = append(s.digests, digest), append(s.owners, service)
	}
	for j, text := range e.Accounts {
		where, err := parseScope(text)
		if err != nil {
			fault("accounts[%d]: %w", j, err)
		}
		service.accounts = append(service.accounts, where)
	}
	for j, right := range e.May {
		if !slices.Contains(rights, right) {
			fault("may[%d]: want one of %s", j, join(rights))
		}
		service.may[right] = true
	}
	service.may[RightToken] = service.may[RightToken] || service.may[RightRelay]
	if e.APIs != nil {
		service.apis = []string{}
		for j, prefix := range *e.APIs {
			if !strings.HasPrefix(prefix, "/") || strings.Contains(prefix, "..") {
				fault("apis[%d]: want the beginning of a path, such as /cgi-bin/", j)
			}
			service.apis = append(service.apis, prefix)
		}
	}
	for j, w := range e.Webhooks {
		parsed, err := parseWebhook(w)
		if err != nil {
			fault("webhooks[%d]: %w", j, err)
		}
		same := func(other Webhook) bool { return other.URL == parsed.URL && other.Reply == parsed.Reply }
		if slices.ContainsFunc(service.Webhooks, same) {
			fault("webhooks[%d]: url: appears twice (one webhook can name several messages)", j)
		}
		service.Webhooks = append(service.Webhooks, parsed)
	}
	return service, faults
}

func join[T ~string](words []T) string {
	var out []string
	for _, w := range words {
		out = append(out, string(w))
	}
	return strings.Join(out, ", ")
}

func parseDigest(text string) (digest [sha256.Size]byte, err error) {
	hexed, ok := strings.CutPrefix(text, digestPrefix)
	raw, err := hex.DecodeString(hexed)
	if !ok || err != nil || len(raw) != sha256.Size {
		return digest, fmt.Errorf("want %s and 64 hex digits: the SHA-256 of the key's text", digestPrefix)
	}
	return [sha256.Size]byte(raw), nil
}

func parseScope(text string) (scope, error) {
	if ref, ok := strings.CutPrefix(text, "ref:"); ok {
		prefix, ok := strings.CutSuffix(ref, "*")
		if !ok || strings.Contains(prefix, "*") {
			return scope{}, errors.New("want ref:<prefix>*")
		}
		return scope{ref: prefix, component: "*"}, nil
	}
	component, appid, ok := strings.Cut(text, "/")
	if !ok || !wxtoken.ValidAppID(component) || appid != "*" && !wxtoken.ValidAppID(appid) {
		return scope{}, errors.New("want <component>/<appid>, <component>/* or ref:<prefix>*")
	}
	return scope{component: component, appid: appid}, nil
}

func parseWebhook(h webhook) (Webhook, error) {
	if _, err := hook.Address(h.URL); err != nil {
		return Webhook{}, fmt.Errorf("url: %w", err)
	}
	if len(h.Messages) == 0 {
		return Webhook{}, errors.New("messages: none")
	}
	kinds := make([]events.Kind, len(h.Messages))
	for i, m := range h.Messages {
		var err error
		if kinds[i], err = parseKind(m); err != nil {
			return Webhook{}, fmt.Errorf("messages[%d]: %w", i, err)
		}
	}
	secret, err := hook.Secret(h.Secret)
	if err != nil {
		return Webhook{}, fmt.Errorf("secret: %w", err)
	}
	return Webhook{URL: h.URL, Messages: kinds, Reply: h.Reply, Secret: secret}, nil
}

func parseKind(text string) (events.Kind, error) {
	parts := messagePattern.FindStringSubmatch(text)
	if parts == nil {
		return events.Kind{}, errors.New("want <component>/<appid or *>/<msgtype or *>[/<event>], or <component>/<appid or *>/notice[/<infotype>]")
	}
	kind := events.Kind{Component: parts[1], AppID: parts[2], MsgType: parts[3], Event: parts[4]}
	if kind.Event != "" && kind.MsgType != "event" && kind.MsgType != events.MsgTypeNotice {
		return events.Kind{}, errors.New("only event and notice are followed by a fourth part")
	}
	return kind, nil
}

// ByKey returns the service with a key. It takes the same time for every key.
func (s *Services) ByKey(key string) (found *Service, ok bool) {
	digest := sha256.Sum256([]byte(key))
	index := -1
	for i := range s.digests {
		index = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], s.digests[i][:]), i, index)
	}
	if index < 0 {
		return nil, false
	}
	return s.owners[index], true
}

// ByName returns the service with a name.
func (s *Services) ByName(name string) (*Service, bool) {
	i := slices.IndexFunc(s.all, func(one *Service) bool { return one.Name == name })
	if i < 0 {
		return nil, false
	}
	return s.all[i], true
}

// All returns the services in the order of the file.
func (s *Services) All() []*Service { return slices.Clone(s.all) }

// Summary describes a service for people: no key, no digest, no secret.
type Summary struct {
	Name     string           `json:"name"`
	May      []Right          `json:"may"`
	Accounts []string         `json:"accounts"`
	APIs     []string         `json:"apis,omitempty"` // beginnings of paths; missing = all
	Webhooks []WebhookSummary `json:"webhooks,omitempty"`
}

// WebhookSummary describes a webhook. It has only the host of the URL: the rest may be a secret of the
// receiver.
type WebhookSummary struct {
	Host     string   `json:"host"`
	Messages []string `json:"messages"`
	Reply    bool     `json:"reply,omitempty"`
}

// Summary describes the service.
func (s *Service) Summary() Summary {
	summary := Summary{Name: s.Name, May: []Right{}, Accounts: []string{}, APIs: s.apis}
	for _, right := range rights {
		if s.may[right] {
			summary.May = append(summary.May, right)
		}
	}
	for _, a := range s.accounts {
		summary.Accounts = append(summary.Accounts, a.String())
	}
	for _, w := range s.Webhooks {
		its := WebhookSummary{Reply: w.Reply}
		if u, err := hook.Address(w.URL); err == nil {
			its.Host = u.Host
		}
		for _, kind := range w.Messages {
			its.Messages = append(its.Messages, kindText(kind))
		}
		summary.Webhooks = append(summary.Webhooks, its)
	}
	return summary
}

// String is the entry as it stands in the file.
func (a scope) String() string {
	if a.component == "*" {
		return "ref:" + a.ref + "*"
	}
	return a.component + "/" + a.appid
}

// kindText is a kind of messages as it stands in the file.
func kindText(k events.Kind) string {
	text := k.Component + "/" + k.AppID + "/" + k.MsgType
	if k.Event != "" {
		text += "/" + k.Event
	}
	return text
}

// May reports whether the service has a right.
func (s *Service) May(right Right) bool { return s.may[right] }

// Knows reports whether an account with a ref belongs to the service. A component's own key does if the
// service has RightComponent and names an account of the component.
func (s *Service) Knows(key wxtoken.Key, ref string) bool {
	own := key.Kind == wxtoken.KindComponent
	if own && !s.may[RightComponent] {
		return false
	}
	return slices.ContainsFunc(s.accounts, func(a scope) bool {
		switch {
		case a.component == "*": // by ref
			return !own && ref != "" && strings.HasPrefix(ref, a.ref)
		case a.component != key.Component:
			return false
		}
		return own || a.appid == "*" || a.appid == key.Authorizer
	})
}

// Calls reports whether the service may call an API path.
func (s *Service) Calls(path string) bool {
	return s.apis == nil || slices.ContainsFunc(s.apis, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
}

// MayLink reports whether the service may make a link: for one of its components, if it has the whole of it,
// for its own refs, or for one of its accounts. A link that takes accounts away from other refs (move)
// needs the whole component.
func (s *Service) MayLink(link wxtoken.LinkRequest) bool {
	if !s.may[RightLinks] {
		return false
	}
	return slices.ContainsFunc(s.accounts, func(a scope) bool {
		switch {
		case a.component == "*":
			return !link.Move && link.Ref != "" && strings.HasPrefix(link.Ref, a.ref)
		case a.component != link.Component:
			return false
		}
		return a.appid == "*" || !link.Move && link.BizAppID == a.appid
	})
}

// Reach returns the accounts of a component that the service names one by one. all: it may have any account,
// by the whole component or by refs.
func (s *Service) Reach(component string) (appids []string, all bool) {
	for _, a := range s.accounts {
		switch {
		case a.component == "*", a.component == component && a.appid == "*":
			return nil, true
		case a.component == component:
			appids = append(appids, a.appid)
		}
	}
	return appids, false
}
