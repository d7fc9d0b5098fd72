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

// timeout bounds all checks together; the ops server still has time to answer then.
const timeout = 8 * time.Second

// Config holds the settings that only the checks read.
type Config struct {
	NatsMonitorURL string `group:"NATS" placeholder:"http://host:8222" help:"Monitoring address of the NATS server. Only --check and /check use it, for settings of the server that a client can't see."`
}

// Server is the NATS server that the process runs itself.
type Server struct {
	StoreDir   string
	MaxStore   int64 // bytes
	SyncAlways bool
}

// Target says what to check. Zero fields are not checked.
type Target struct {
	NATS    *nats.Conn // connected or not; nil: the process's own server does not run
	NATSURL string     // for the remedy, without a password
	// The role whose rights the NATS user needs, such as events.RoleIngest; empty: the server has no
	// users.
	Role       string
	Streams    []string // streams that the process may look at
	Setup      events.SetupConfig
	Probes     []Probe // further checks, once the streams exist
	BesideNATS []Probe // further checks that do not need NATS
	Server     *Server // nil: the process runs no server
	MonitorURL string

	WechatURL  string                      // its API
	Components func() []settings.Component // the present ones
	PublicURL  string
	Statuses   bool // whether to read the bucket status
	Transport  http.RoundTripper
	Language   lang.Language    // of the report
	Now        func() time.Time // nil: time.Now
}

// Probe is a check that passes, or fails with an error that holds no secret.
type Probe struct {
	Name   string
	Run    func(context.Context) error
	Works  lang.Text // what is shown when it passes
	Remedy lang.Text
	Look   func(context.Context) Line // instead of Run, for checks with more than two results
}

// Checker runs the checks of a target.
type Checker struct {
	Target
	js     jetstream.JetStream
	client *http.Client
	calls  *calls

	mu     sync.Mutex
	last   Report // the last report
	lastAt time.Time
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
		// WeChat does not follow redirects.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Run runs all checks; independent ones run in parallel.
func (c *Checker) Run(ctx context.Context) Report {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// One after the other: NATS reports a refused request to the connection, not to the requester.
	onNATS := func(ctx context.Context) []Line {
		return append(c.nats(ctx), c.statuses(ctx)...)
	}
	besideNATS := func(ctx context.Context) (lines []Line) {
		for _, p := range c.BesideNATS {
			lines = append(lines, p.line(ctx))
		}
		return lines
	}
	groups := []func(context.Context) []Line{onNATS, c.wechat, c.callback, besideNATS}
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
	if c.Role == events.RoleGateway { // it has no components of its own
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
