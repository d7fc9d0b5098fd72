package main

import (
	"cmp"
	"errors"
	"net"
	"net/url"
	"time"

	"wxtoken/client"
	"wxtoken/internal/gateway"
	"wxtoken/internal/ingest"
	"wxtoken/internal/login"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/notify"
	"wxtoken/internal/redis"
	"wxtoken/internal/refresher"
	"wxtoken/internal/settings"
	"wxtoken/wechatsim"
)

// program is this executable.
var program = settings.Program{
	Name:        "wxtoken",
	Description: "Everything in one process: NATS, ingest, refresher and console. With --sim also a fake WeChat platform, to see it work without an account.",
}

// simulated is the program with the defaults of --sim: other machines can't reach it, and the sweep finds missed
// renewals within the seconds that a token lives.
var simulated = settings.Program{
	Name: program.Name, Description: program.Description,
	Defaults: map[string]string{"http-addr": "127.0.0.1:8080", "sweep-every": "2s", "gateway-addr": "127.0.0.1:8092"},
}

// chooseProgram returns the program with the defaults for args and the environment. Main reports what is wrong with
// them.
func chooseProgram(args []string) settings.Program {
	var cfg config
	_ = program.Parse(&cfg, args)
	if cfg.Sim {
		return simulated
	}
	return program
}

// config holds all settings.
type config struct {
	NatsURL string `name:"nats-url" group:"NATS" default:"nats://127.0.0.1:4222" help:"Address on which the NATS server of this process listens for services and the nats command."`
	DataDir string `group:"NATS" default:"./wxtoken-data" help:"Directory of all data. One process at a time can use it."`

	ingest.Config
	Refresher refresher.Config `embed:"" group:"Renewals"`
	settings.ComponentSettings
	settings.AppsecretSettings
	settings.PushSettings
	GatewayAddr string         `name:"gateway-addr" group:"Gateway" placeholder:"host:port" help:"Address of the gateway, for programs that speak HTTP; port 0 takes any free one. Without it there is no gateway; with --sim the default is 127.0.0.1:8092."`
	Gateway     gateway.Config `embed:"" group:"Gateway"`
	Redis       redis.Config   `embed:""`
	Notify      notify.Config  `embed:""`
	Login       login.Config   `embed:""`
	SimSettings
	settings.Operations

	components []settings.Component
}

// SimSettings set up the fake platform.
type SimSettings struct {
	Sim            bool          `group:"Simulation" help:"Also run a fake WeChat platform, and serve its component: no other setting is needed. NOT FOR PRODUCTION."`
	SimAddr        string        `group:"Simulation" default:"127.0.0.1:8090" help:"Address of the fake platform's API."`
	SimControlAddr string        `group:"Simulation" default:"127.0.0.1:8091" help:"Address of its control API: authorize, cancel, fail and more."`
	SimLife        time.Duration `group:"Simulation" default:"20s" help:"Life of its access tokens: whole seconds, 10s or more."`
	SimAuthorizers int           `group:"Simulation" default:"3" help:"Accounts that authorize by themselves after the first ticket."`
	SimTroubles    string        `group:"Simulation" default:"on" enum:"on,off" help:"on: two more accounts have troubles that come and go, for the page to show."`
}

// Validate returns all that is wrong with the settings, joined.
func (s SimSettings) Validate() error {
	var faults []error
	fault := func(flag, format string, args ...any) {
		faults = append(faults, settings.Fault(flag, format, args...))
	}
	const hint = "%q: want an address that only this machine reaches, for instance 127.0.0.1:0"
	if !settings.Loopback(s.SimAddr) {
		fault("sim-addr", hint, s.SimAddr)
	}
	if !settings.Loopback(s.SimControlAddr) {
		fault("sim-control-addr", hint, s.SimControlAddr)
	}
	if s.SimLife < 10*time.Second || s.SimLife%time.Second != 0 {
		fault("sim-life", "%s: want whole seconds, 10s or more", s.SimLife)
	}
	if s.SimAuthorizers < 0 || s.SimAuthorizers > 100_000 {
		fault("sim-authorizers", "%d: want 0 to 100000", s.SimAuthorizers)
	}
	return errors.Join(faults...)
}

// demoPage is what the pages of authorization links say about the fake platform's component.
var demoPage = settings.Page{
	Name: "演示云店", NameEN: "Demo Cloud Shop", Contact: "客服微信 demo-shop", ContactEN: "support@shop.example", Color: "#0f6bd7",
	CategoryIDs: []int{1, 2, 18}, // the ones that its accounts grant
	Logo: `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 44 44"><rect width="44" height="44" rx="10" fill="#0f6bd7"/>` +
		`<path d="M13 19v13h18V19M10 19l3-8h18l3 8a4 4 0 0 1-8 0 4 4 0 0 1-8 0 4 4 0 0 1-8 0z" fill="none" stroke="#fff" stroke-width="2.5" stroke-linejoin="round"/></svg>`,
	LogoType: "image/svg+xml",
}

// nats returns the settings of the connections.
func (s *config) nats() natsconn.Settings { return natsconn.Settings{NatsURL: s.NatsURL} }

// Validate reads the components, and returns what is wrong with them and with the address of NATS.
// With --sim the component is the fake platform's own.
func (s *config) Validate() error {
	if s.Login.MakeConsoleUser != "" {
		return nil // no other setting is needed
	}
	faults := []error{s.nats().Validate()}
	if faults[0] == nil {
		_, err := s.nats().ListenAddr()
		faults = append(faults, err)
		if u, urlErr := url.Parse(s.NatsURL); err == nil && urlErr == nil && (u.User != nil || u.Scheme != "nats") {
			faults = append(faults, settings.Fault("nats-url", "want nats://host:port only: the server in this process has no users and no TLS"))
		}
	}
	if s.GatewayAddr == "" && !s.Redis.RedisURL.IsZero() {
		faults = append(faults, settings.Fault("redis-url", "want --gateway-addr as well: the gateway writes to Redis"))
	}
	if s.DataDir == "" {
		faults = append(faults, settings.Fault("data-dir", "empty: want a directory, for instance ./wxtoken-data"))
	}
	if s.Refresher.Replicas == 3 {
		faults = append(faults, settings.Fault("replicas", "3: want 1, for this process has a single NATS server (for a cluster run ingest and refresher)"))
	}
	if s.Sim {
		s.ComponentsDir, s.ComponentAppid = "", wechatsim.DemoAppID
		s.AppsecretSettings = settings.AppsecretSettings{ComponentAppsecret: wxtoken.NewSecret(wechatsim.DemoAppSecret)}
		s.PushSettings = settings.PushSettings{
			ComponentToken:  wxtoken.NewSecret(wechatsim.DemoToken),
			ComponentAesKey: wxtoken.NewSecret(wechatsim.DemoEncodingAESKey),
			ComponentPage:   demoPage, ComponentPageFile: s.ComponentPageFile,
		}
	}
	var err error
	s.components, err = settings.LoadComponents(s.ComponentSettings, &s.AppsecretSettings, &s.PushSettings)
	return errors.Join(append(faults, err)...)
}

// setSimAddrs points the refresher to the fake platform, for calls and pages, and to ingest, for links, unless the
// settings say otherwise.
func (s *config) setSimAddrs(platform, pushes string) {
	s.Refresher.WechatAPIURL = "http://" + platform
	s.Refresher.WechatPageURL = cmp.Or(s.Refresher.WechatPageURL, s.Refresher.WechatAPIURL)
	if host, port, err := net.SplitHostPort(pushes); err == nil && net.ParseIP(host).IsUnspecified() {
		// It listens on all addresses: a browser on this machine reaches it at this one.
		pushes = net.JoinHostPort("127.0.0.1", port)
	}
	s.Refresher.PublicURL = cmp.Or(s.Refresher.PublicURL, "http://"+pushes)
}
