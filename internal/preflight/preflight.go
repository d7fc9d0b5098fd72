package preflight

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/settings"
)

// within bounds all checks together; it leaves the ops door time to answer.
const within = 8 * time.Second

// Config holds the settings that only the checks read.
type Config struct {
	NatsMonitorURL string `group:"NATS" placeholder:"http://host:8222" help:"Monitoring address of the NATS server. Only --check and /check read it, for settings of the server that a client can't see."`
}

// Server is what a process knows of the NATS server that it runs itself.
type Server struct {
	StoreDir   string
	MaxStore   int64 // bytes
	SyncAlways bool
}

// Target is what is looked at. What is zero is not.
type Target struct {
	NATS    *nats.Conn // connected or not; nil: the server does not run
	NATSURL string     // for the remedy, without a password
	// Whose rights the user must have: events.RoleIngest or RoleRefresher; empty: the server knows
	// no users.
	Role       string
	Streams    []string // those that the process may look at
	Setup      events.SetupConfig
	Probes     []Probe // what else must work once the streams are there
	BesideNATS []Probe // what must work beside NATS
	Server     *Server // of a process that runs its own
	MonitorURL string

	WechatURL  string                      // its API
	Components func() []settings.Component // as they are now
	PublicURL  string
	Statuses   bool // the bucket status may be read
	Transport  http.RoundTripper
	Language   lang.Language    // of the report
	Now        func() time.Time // nil: time.Now
}

// Probe is a check that works or says why not, in words without a secret.
type Probe struct {
	Name   string
	Run    func(context.Context) error
	Works  lang.Text // what it proves
	Remedy lang.Text
	Look   func(context.Context) Line // in the place of Run, for what has more than two answers
}

// Checker makes the checks of a target.
type Checker struct {
	Target
	js     jetstream.JetStream
	client *http.Client
	calls  *calls

	mu   sync.Mutex
	last Report // what was found last
	made time.Time
}

// New returns a Checker.
func New(t Target) (*Checker, error) {
	c := &Checker{Target: t, calls: &calls{known: map[string]called{}}}
	if c.Now == nil {
		c.Now = time.Now
	}
	if t.NATS != nil {
		var err error
		if c.js, err = jetstream.New(t.NATS); err != nil {
			return nil, err
		}
	}
	if c.Transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.DisableKeepAlives = true
		c.Transport = own
	}
	c.client = &http.Client{
		Transport: c.Transport,
		// WeChat follows none.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Run makes all checks, those that do not depend on each other at once.
func (c *Checker) Run(ctx context.Context) Report {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	// One after the other: what NATS refuses is told to the connection, not to who asked.
	onNATS := func(ctx context.Context) []Line {
		return append(c.nats(ctx), c.statuses(ctx)...)
	}
	apart := func(ctx context.Context) (lines []Line) {
		for _, p := range c.BesideNATS {
			lines = append(lines, p.line(ctx))
		}
		return lines
	}
	groups := []func(context.Context) []Line{onNATS, c.wechat, c.callback, apart}
	lines := make([][]Line, len(groups))
	var working sync.WaitGroup
	for i, group := range groups {
		working.Go(func() { lines[i] = group(ctx) })
	}
	working.Wait()
	var found []string
	for _, component := range c.components() {
		found = append(found, component.AppID)
	}
	read := lang.T("no fault; components: %s", "没有错误；第三方平台：%s", joined(found))
	if c.Role == events.RoleGateway { // its components are those of the refreshers
		read = lang.T("no fault", "没有错误")
	}
	return append(Report{ok("settings", read)}, slices.Concat(lines...)...)
}

func (c *Checker) components() []settings.Component {
	if c.Components == nil {
		return nil
	}
	return c.Components()
}
