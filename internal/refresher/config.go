package refresher

import (
	"errors"
	"regexp"
	"slices"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/links"
	"wxtoken/internal/settings"
	"wxtoken/internal/wechat"
)

// Each field is a flag and a variable (WXTOKEN_...), made of its tags by package settings;
// docs/config.md is made of them, too. The defaults are right for a first start; docs/scale.md says
// what to raise with the accounts.
//
// Two of them belong together. renew-fraction leaves a third of a life for the time in which
// WeChat, NATS or all refreshers are away; api-rate says how long it takes to catch up afterwards.
// At twice the steady rate (accounts by the time between two renewals of one) that is as long as
// they were away.

// Config holds the refresher's settings; the tags are read by package settings.
type Config struct {
	WechatAPIURL     string        `name:"wechat-api-url" default:"https://api.weixin.qq.com" help:"WeChat's API."`
	RenewFraction    float64       `name:"renew-fraction" default:"0.66" help:"Part of a token's life after which it is renewed, less a random 0 to 0.05 (0.1 to 0.95)."`
	Concurrency      int           `name:"concurrency" default:"64" help:"Renewals at work at the same time."`
	APIRate          float64       `name:"api-rate" default:"20" help:"Calls to WeChat per second and component."`
	Replicas         int           `name:"replicas" default:"1" help:"Copies that NATS keeps of each stream (1 or 3)."`
	MessagesMaxAge   time.Duration `name:"messages-max-age" default:"168h" help:"How long the stream MESSAGES keeps a message."`
	MessagesMaxBytes int64         `name:"messages-max-bytes" default:"1073741824" help:"How many bytes of messages the stream MESSAGES keeps (0 = no limit)."`
	ServicesAPI      []string      `name:"services-api" default:"services.API" help:"Prefixes of the JetStream API in the NATS accounts of the services, as this account imports them. What services read is mirrored there; an account that does not answer is left out."`
	SweepEvery       time.Duration `name:"sweep-every" default:"30s" help:"How often to look for renewals that were missed."`
	ReconcileEvery   time.Duration `name:"reconcile-every" default:"6h" help:"How often to compare with WeChat's list of authorizers."`
	Derive           []string      `name:"derive" placeholder:"jsapi,wx_card" help:"Tickets to keep beside the tokens: jsapi, wx_card, or both."`
	DeriveFor        []string      `name:"derive-for" placeholder:"appid,..." help:"Authorizers to keep them for; without it, all."`

	links.Settings
}

// Validate returns every fault of the settings at once, each with the flag, the variable and what
// to write: so that a person need not start the process once for each of them.
func (c Config) Validate() error {
	var faults []error
	check := func(ok bool, flag, want string) {
		if !ok {
			faults = append(faults, settings.Fault(flag, "want %s", want))
		}
	}
	check(c.RenewFraction >= 0.1 && c.RenewFraction <= 0.95, "renew-fraction", "0.1 to 0.95, for instance 0.66")
	check(c.Concurrency >= 1 && c.Concurrency <= 10_000, "concurrency", "1 to 10000")
	check(c.APIRate > 0 && c.APIRate <= 10_000, "api-rate", "more than 0, at most 10000")
	check(c.Replicas == 1 || c.Replicas == 3, "replicas", "1, or 3 with a cluster of three servers")
	check(c.MessagesMaxAge >= time.Minute, "messages-max-age", "a minute or more, for instance 168h")
	check(c.MessagesMaxBytes >= 0, "messages-max-bytes", "0 or more bytes")
	for _, api := range c.ServicesAPI {
		check(apiPrefix.MatchString(api), "services-api", "prefixes such as services.API, each with another first part")
	}
	check(c.SweepEvery >= time.Second, "sweep-every", "a second or more, for instance 30s")
	// It becomes a schedule of NATS's (@every), which takes no less than a second.
	check(c.ReconcileEvery >= time.Second, "reconcile-every", "a second or more, for instance 6h")
	if _, err := wechat.NewClient(wechat.ClientConfig{BaseURL: c.WechatAPIURL}); err != nil {
		faults = append(faults, settings.Fault("wechat-api-url", "%w", err))
	}
	return errors.Join(slices.Concat(faults, c.Settings.Faults(), c.deriveFaults())...)
}

// deriveFaults returns all that is wrong with the settings for derived tickets. A name that is not
// known is a fault and not passed over: services would wait for a ticket that never comes.
func (c Config) deriveFaults() (faults []error) {
	for i, name := range c.Derive {
		switch {
		case name != "jsapi" && name != "wx_card":
			faults = append(faults, settings.Fault("derive", "%q is nothing that can be derived: want jsapi, wx_card, or both with a comma between", name))
		case slices.Contains(c.Derive[:i], name):
			faults = append(faults, settings.Fault("derive", "%s stands there twice: name it once", name))
		}
	}
	for _, appid := range c.DeriveFor {
		if !wxtoken.ValidAppID(appid) {
			faults = append(faults, settings.Fault("derive-for", "%q is not an appid: want those of authorizers, for instance wx1234567890abcdef, with commas between", appid))
		}
	}
	return faults
}

// apiPrefix is what a prefix of JetStream's API looks like. Its first part names consumers.
var apiPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}(\.[A-Za-z0-9_-]+)+$`)

// Setup returns how the streams are to be.
func (c Config) Setup() events.SetupConfig {
	return events.SetupConfig{Replicas: c.Replicas, MessagesMaxAge: c.MessagesMaxAge, MessagesMaxBytes: c.MessagesMaxBytes, ServicesAPI: c.ServicesAPI}
}
