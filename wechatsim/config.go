package wechatsim

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"wxtoken/client"
)

// Off, in Config.Overlap, makes a replaced token invalid at once.
const Off time.Duration = -1

// Rotation says what a refresh does to the refresh token. WeChat's staff say that it stays the
// same; the API page (api_getauthorizeraccesstoken) has the field in the answer all the same.
type Rotation string

// The rotations.
const (
	RotateNever Rotation = "never" // the refresh token stays the same until the next authorization
	// Each refresh makes a new one; the old one works for 5 minutes more.
	RotateEach        Rotation = "each"
	RotateEachOldDead Rotation = "each-old-dead" // each refresh makes a new one, and the old one is invalid at once
)

// Retry says how often a push is tried until it is answered with success.
type Retry struct {
	Times int           // tries in all; 0 means 3, 1 means no repeat
	Every time.Duration // time between two tries; 0 means 5 s
}

// Config holds the settings of a Platform. Only Components is required; the other zero values give
// a well-behaved platform with WeChat's own lifetimes.
type Config struct {
	Components []Component // at least one

	TokenLife   time.Duration // life of component and authorizer access tokens, in whole seconds; 0 means 2 h
	TicketEvery time.Duration // time between two component_verify_ticket pushes; 0 means 10 min
	TicketLife  time.Duration // how long a ticket works; 0 means 12 h
	Overlap     time.Duration // how long a replaced token stays valid; 0 means 5 min; Off means not at all
	CodeLife    time.Duration // life of an authorization code; 0 means 1 h

	// Life of a jsapi_ticket and a wx_card_ticket, in whole seconds; 0 means TokenLife.
	AccountTicketLife time.Duration

	Rotation  Rotation // "" means RotateNever
	PushRetry Retry
	// Ticket pushes stop after they failed for six times TicketEvery, until api_start_push_ticket.
	PausePushes   bool
	OldTicketDies bool // a new ticket makes the older ones invalid, delivered or not
	// Access tokens and the account's tickets stay valid after a cancellation.
	KeepTokensOnCancel bool
	HideUnexchanged    bool // the list has no refresh_token until the code was exchanged
	TwoCodes           bool // the redirect of an authorization carries another code than its push
	ShuffleList        bool // the list's order changes from call to call
	// Events are pushed in random order within this time; 0 keeps the order for each account.
	ShuffleWithin time.Duration
	// Pushes and answers vary in order, spacing, CDATA, extra fields, numbers as strings.
	VaryForm bool

	BusyRate       float64 // share of calls answered with errcode -1 and not executed, 0 to 1
	LostAnswerRate float64 // share of executed calls whose answer is lost
	RepeatPushRate float64 // share of answered pushes that are sent once more
	LatePushRate   float64 // share of pushes that are up to a tenth of TicketEvery late

	// Duration of a call: half of it before the call is executed, half after.
	Latency       time.Duration
	LatencyJitter time.Duration // up to this much more, at random

	// Longest upload, in bytes, that media/get can return; of longer ones only length and digest
	// are kept. 0 means 1 MiB.
	KeepMedia int64
	// Calls a day of each appid, by API name ("api_authorizer_token"); beyond: 45009.
	DailyLimit map[string]int

	Seed      uint64            // seeds all randomness
	Transport http.RoundTripper // carries the pushes; nil means an http.Transport of its own
	Now       func() time.Time  // nil means time.Now
	Log       zerolog.Logger    // never receives a secret; the zero Logger is silent
}

// Component is one third-party platform, as its console page shows it.
type Component struct {
	AppID          string
	AppSecret      string
	Token          string // 消息校验Token
	EncodingAESKey string // 消息加解密Key, 43 characters
	AuthURL        string // 授权事件接收URL
	MessageURL     string // 消息与事件接收URL, with $APPID$ for the authorizer; "" sends no messages

	// AutoPush sends tickets from the start. Without it they start with the first
	// api_start_push_ticket.
	AutoPush bool

	// Authorizers authorize the component by themselves a moment after its first answered ticket.
	Authorizers []string
}

// Unkind returns a Config without Components that behaves as badly as the real platform has been
// seen to, a few percent of the time.
func Unkind() Config {
	return Config{
		TwoCodes:       true,
		ShuffleList:    true,
		VaryForm:       true,
		BusyRate:       0.05,
		LostAnswerRate: 0.02,
		RepeatPushRate: 0.02,
		LatePushRate:   0.02,
	}
}

// The component of Demo, the first DemoComponent. All of it is fake and well known on purpose.
const (
	DemoAppID          = "wxc0ffee0000000001"
	DemoAppSecret      = "5ec4e75ec4e75ec4e75ec4e75ec4e75e"
	DemoToken          = "SEKRETdemotoken"
	DemoEncodingAESKey = "SEKRETdemokeyABCDEFGHIJKLMNOPQRSTUVWXYZ0123"
)

// DemoComponent returns appid, secret, token and key of the nth demonstration component, n from 1
// to 9999. No two have one of them in common.
func DemoComponent(n int) Component {
	c := Component{AppID: DemoAppID, AppSecret: DemoAppSecret, Token: DemoToken, EncodingAESKey: DemoEncodingAESKey}
	if n > 1 {
		c.AppID = fmt.Sprintf("wxc0ffee%010d", n)
		c.AppSecret = fmt.Sprintf("%s%04d", DemoAppSecret[:28], n)
		c.Token += strconv.Itoa(n)
		// Not at the end: of the last character only four bits count.
		c.EncodingAESKey = fmt.Sprintf("%s%04d%s", DemoEncodingAESKey[:35], n, DemoEncodingAESKey[39:])
	}
	return c
}

// Demo returns an unkind Config for a demonstration: one well-known component, the given number of
// accounts that authorize it by themselves, tokens with the given life, and a ticket every 10 s.
// pushBase is where ingest listens, for instance "http://127.0.0.1:8080". The seed is random, so
// that no run accepts the tokens of an earlier one.
func Demo(life time.Duration, authorizers int, pushBase string) Config {
	return DemoOf(1, life, authorizers, pushBase)
}

// DemoOf is Demo with the given number of components. The same accounts authorize each of them.
func DemoOf(components int, life time.Duration, authorizers int, pushBase string) Config {
	config := Unkind()
	for n := range components {
		c := DemoComponent(n + 1)
		base := strings.TrimSuffix(pushBase, "/") + "/wechat/" + c.AppID
		c.AuthURL, c.MessageURL, c.AutoPush = base+"/auth", base+"/message/$APPID$", true
		for i := range authorizers {
			c.Authorizers = append(c.Authorizers, fmt.Sprintf("wxa%015d", i+1))
		}
		config.Components = append(config.Components, c)
	}
	config.TokenLife = life
	config.TicketEvery = 10 * time.Second
	config.PushRetry = Retry{Times: 3, Every: time.Second}
	config.Seed = rand.Uint64()
	return config
}

// withDefaults returns the config with its zero values filled in.
func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.TokenLife, 2 * time.Hour},
		{&c.TicketEvery, 10 * time.Minute},
		{&c.TicketLife, 12 * time.Hour},
		{&c.Overlap, 5 * time.Minute},
		{&c.CodeLife, time.Hour},
		{&c.PushRetry.Every, 5 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	c.AccountTicketLife = cmp.Or(c.AccountTicketLife, c.TokenLife)
	c.Overlap = max(c.Overlap, 0)
	if c.PushRetry.Times == 0 {
		c.PushRetry.Times = 3
	}
	c.KeepMedia = cmp.Or(c.KeepMedia, defaultKeep)
	if c.Rotation == "" {
		c.Rotation = RotateNever
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// validate returns all faults of a config with defaults, joined.
func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.Components) == 0 {
		fault("no component (set Components)")
	}
	if c.TokenLife < time.Second || c.TokenLife%time.Second != 0 {
		fault("token life %s: want whole seconds, at least one, as expires_in counts seconds", c.TokenLife)
	}
	if c.AccountTicketLife < time.Second || c.AccountTicketLife%time.Second != 0 {
		fault("AccountTicketLife %s: want whole seconds, at least one, as expires_in counts seconds", c.AccountTicketLife)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"TicketEvery", c.TicketEvery}, {"TicketLife", c.TicketLife}, {"CodeLife", c.CodeLife}, {"PushRetry.Every", c.PushRetry.Every}} {
		if d.value <= 0 {
			fault("%s %s: want a positive time", d.name, d.value)
		}
	}
	if c.Latency < 0 || c.LatencyJitter < 0 || c.ShuffleWithin < 0 {
		fault("Latency, LatencyJitter and ShuffleWithin: want 0 or a positive time")
	}
	if c.KeepMedia < 0 {
		fault("KeepMedia %d: want 0 or more bytes", c.KeepMedia)
	}
	if c.PushRetry.Times < 1 {
		fault("PushRetry.Times %d: want at least 1", c.PushRetry.Times)
	}
	switch c.Rotation {
	case RotateNever, RotateEach, RotateEachOldDead:
	default:
		fault("rotation %q: want %s, %s or %s", c.Rotation, RotateNever, RotateEach, RotateEachOldDead)
	}
	for _, r := range []struct {
		name string
		rate float64
	}{{"BusyRate", c.BusyRate}, {"LostAnswerRate", c.LostAnswerRate}, {"RepeatPushRate", c.RepeatPushRate}, {"LatePushRate", c.LatePushRate}} {
		if !(r.rate >= 0 && r.rate <= 1) {
			fault("%s %g: want 0 to 1", r.name, r.rate)
		}
	}
	for name := range c.DailyLimit {
		if findAPI(name) == nil {
			fault("DailyLimit for %q: no such API", name)
		}
	}
	seen := map[string]bool{}
	for _, component := range c.Components {
		if seen[component.AppID] {
			fault("component %q: given twice", component.AppID)
		}
		seen[component.AppID] = true
		if err := component.validate(); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

func (c Component) validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("component %q: "+format, append([]any{c.AppID}, args...)...))
	}
	if !wxtoken.ValidAppID(c.AppID) {
		fault("AppID: not an appid")
	}
	if c.AppSecret == "" {
		fault("AppSecret: missing")
	}
	if c.Token == "" {
		fault("Token: missing")
	}
	if _, err := aesKey(c.EncodingAESKey); err != nil {
		fault("EncodingAESKey: %w", err)
	}
	if _, err := parseURL(c.AuthURL); err != nil {
		fault("AuthURL: %w", err)
	}
	if c.MessageURL != "" {
		if _, err := parseURL(c.MessageURL); err != nil {
			fault("MessageURL: %w", err)
		}
	}
	for _, appid := range c.Authorizers {
		if !wxtoken.ValidAppID(appid) {
			fault("authorizer %q: not an appid", appid)
		}
	}
	return errors.Join(faults...)
}

func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q: want http:// or https:// and a host", raw)
	}
	return u, nil
}

// aesKey decodes an EncodingAESKey. The spare bits of its last character may be set, as in WeChat's
// own demo key, so the decoder is not strict.
func aesKey(encoded string) ([]byte, error) {
	if len(encoded) != 43 {
		return nil, fmt.Errorf("%d characters: want 43", len(encoded))
	}
	key, err := base64.StdEncoding.DecodeString(encoded + "=")
	if err != nil {
		return nil, errors.New("not base64: want 43 of a-z A-Z 0-9")
	}
	return key, nil
}
