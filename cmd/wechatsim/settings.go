package main

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/alecthomas/kong"

	"wxtoken/internal/logger"
	"wxtoken/internal/settings"
	"wxtoken/wechatsim"
)

// prefix stands before the name of each flag in that of its variable.
const prefix = "sim"

// flags are what an operator can set. Each has a variable: --life is WXTOKEN_SIM_LIFE.
type flags struct {
	Addr               string `default:"127.0.0.1:8090" help:"Address of the platform's API."`
	ControlAddr        string `default:"127.0.0.1:8091" help:"Address of the control door."`
	ExposeTestPlatform bool   `help:"Allow addresses that are not loopback: any program that reaches the control door can do everything."`

	Components int `default:"1" help:"Third-party platforms (components), all authorized by the same accounts."`

	PushBase   string `default:"http://127.0.0.1:8080" help:"Where ingest listens: pushes go to <push-base>/wechat/<component_appid>/auth and .../message/$APPID$$."`
	AuthURL    string `help:"授权事件接收URL of every component, instead of the one under --push-base."`
	MessageURL string `help:"消息与事件接收URL of every component, instead of the one under --push-base."`

	Authorizers int           `default:"3" help:"Accounts that authorize by themselves after the first answered ticket."`
	Life        time.Duration `default:"20s" help:"Life of access tokens, in whole seconds."`
	TicketEvery time.Duration `default:"10s" help:"Time between two ticket pushes."`
	TicketLife  time.Duration `default:"12h" help:"How long a ticket works."`
	Overlap     time.Duration `default:"5m" help:"How long a replaced token still works; 0s: not at all."`

	AccountTicketLife time.Duration `help:"Life of a jsapi_ticket and a wx_card_ticket, in whole seconds; 0s: that of access tokens."`

	Rotation        string        `default:"never" enum:"never,each,each-old-dead" help:"What a refresh does to the refresh token: ${enum}."`
	PushTries       int           `default:"3" help:"Tries of a push in all."`
	PushEvery       time.Duration `default:"1s" help:"Time between two tries."`
	PausePushes     bool          `help:"Tickets stop after failing for long, until api_start_push_ticket."`
	OldTicketDies   bool          `help:"A new ticket kills the older ones."`
	HideUnexchanged bool          `help:"The list shows no refresh token until the code was exchanged."`
	ShuffleWithin   time.Duration `help:"Push events in random order within this time."`

	Kind           bool          `help:"No trouble by chance: no rates, no varying forms."`
	BusyRate       float64       `default:"0.05" help:"Share of calls answered busy."`
	LostAnswerRate float64       `default:"0.02" help:"Share of calls executed but not answered."`
	RepeatPushRate float64       `default:"0.02" help:"Share of pushes sent twice."`
	LatePushRate   float64       `default:"0.02" help:"Share of pushes sent late."`
	Latency        time.Duration `help:"Time an answer takes."`
	LatencyJitter  time.Duration `help:"Up to this much more."`
	Seed           uint64        `help:"Seed of all chance; 0: another one each time."`

	LogLevel  string           `default:"info" enum:"debug,info,warn,error" help:"${enum}."`
	LogFormat string           `default:"auto" enum:"auto,json,console" help:"${enum}; auto is console on a terminal."`
	Version   kong.VersionFlag `env:"-" help:"Print the version and exit."`
}

// parse reads flags and variables. It exits with 2 when they are bad.
func parse(args []string) flags {
	var s flags
	parser, err := kong.New(&s,
		kong.Name("wechatsim"),
		kong.Description("A fake WeChat Open Platform to develop and test against. NOT FOR PRODUCTION."),
		kong.DefaultEnvars(settings.Variable(prefix)),
		kong.Vars{"version": "wechatsim " + settings.VersionLine()},
	)
	if err != nil {
		exit(1, err)
	}
	if _, err := parser.Parse(args); err != nil {
		exit(2, fmt.Errorf("%w (see --help)", err))
	}
	if err := s.validate(); err != nil {
		exit(2, err)
	}
	return s
}

func (s flags) validate() error {
	var faults []error
	fault := func(flag, format string, args ...any) {
		faults = append(faults, fmt.Errorf("--%s (%s): %s", flag, settings.Variable(prefix+"-"+flag), fmt.Sprintf(format, args...)))
	}
	if !s.ExposeTestPlatform {
		const hint = "%q is not a loopback address: use 127.0.0.1, or --expose-test-platform if you mean it"
		if !settings.Loopback(s.Addr) {
			fault("addr", hint, s.Addr)
		}
		if !settings.Loopback(s.ControlAddr) {
			fault("control-addr", hint, s.ControlAddr)
		}
	}
	if s.Life < time.Second || s.Life%time.Second != 0 {
		fault("life", "%s: want whole seconds, at least 1s", s.Life)
	}
	if s.Components < 1 || s.Components > 100 {
		fault("components", "%d: want 1 to 100", s.Components)
	}
	if s.Authorizers < 0 || s.Authorizers > 1_000_000 {
		fault("authorizers", "%d: want 0 to 1000000", s.Authorizers)
	}
	return errors.Join(faults...)
}

// config returns the platform that the settings describe.
func (s flags) config() wechatsim.Config {
	config := wechatsim.DemoOf(s.Components, s.Life, s.Authorizers, s.PushBase)
	for i := range config.Components {
		component := &config.Components[i]
		component.AuthURL = cmp.Or(s.AuthURL, component.AuthURL)
		component.MessageURL = cmp.Or(s.MessageURL, component.MessageURL)
	}
	if s.Kind {
		config = wechatsim.Config{Components: config.Components, TokenLife: s.Life}
	} else {
		config.BusyRate, config.LostAnswerRate = s.BusyRate, s.LostAnswerRate
		config.RepeatPushRate, config.LatePushRate = s.RepeatPushRate, s.LatePushRate
	}
	config.TicketEvery, config.TicketLife, config.AccountTicketLife = s.TicketEvery, s.TicketLife, s.AccountTicketLife
	config.Overlap = cmp.Or(s.Overlap, wechatsim.Off)
	config.Rotation = wechatsim.Rotation(s.Rotation)
	config.PushRetry = wechatsim.Retry{Times: s.PushTries, Every: s.PushEvery}
	config.PausePushes, config.OldTicketDies, config.HideUnexchanged = s.PausePushes, s.OldTicketDies, s.HideUnexchanged
	config.ShuffleWithin = s.ShuffleWithin
	config.Latency, config.LatencyJitter = s.Latency, s.LatencyJitter
	config.Seed = cmp.Or(s.Seed, rand.Uint64())
	log, err := logger.New(os.Stdout, s.LogLevel, s.LogFormat)
	if err != nil {
		exit(2, err)
	}
	config.Log = log.With().Str("role", "wechatsim").Logger()
	return config
}

// announce prints what a person copies. It goes to stderr: stdout is for log lines.
func announce(config wechatsim.Config, pushBase string, api, control net.Addr) {
	fmt.Fprint(os.Stderr, "wechatsim, a fake WeChat Open Platform. NOT FOR PRODUCTION: everything below is fake and known to all.\n\n")
	export := func(flag string, value string) {
		fmt.Fprintf(os.Stderr, "  export %s=%s\n", settings.Variable(flag), value)
	}
	export("wechat-api-url", "http://"+api.String())
	export("wechat-page-url", "http://"+api.String())
	export("public-url", pushBase)
	if len(config.Components) == 1 {
		c := config.Components[0]
		export("component-appid", c.AppID)
		export("component-appsecret", c.AppSecret)
		export("component-token", c.Token)
		export("component-aes-key", c.EncodingAESKey)
	} else {
		export("components-dir", "components")
		fmt.Fprintln(os.Stderr)
		for _, c := range config.Components {
			fmt.Fprintf(os.Stderr, "  (mkdir -p components/%[1]s && cd components/%[1]s && printf %[2]s >appsecret && printf %[3]s >token && printf %[4]s >aes_key)\n",
				c.AppID, c.AppSecret, c.Token, c.EncodingAESKey)
		}
	}
	fmt.Fprintln(os.Stderr)
	for _, c := range config.Components {
		fmt.Fprintf(os.Stderr, "Tickets and events are pushed to %s\n", c.AuthURL)
	}
	fmt.Fprintf(os.Stderr, "What you can do to it:           curl http://%s\n\n", control)
}
