package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/internal/console"
	"wxtoken/internal/counts"
	"wxtoken/internal/ingest"
	"wxtoken/internal/login"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/natsd"
	"wxtoken/internal/notify"
	"wxtoken/internal/preflight"
	"wxtoken/internal/refresher"
	"wxtoken/internal/seal"
	"wxtoken/internal/serve"
	"wxtoken/internal/settings"
	"wxtoken/wechatsim"
)

// subdued returns log, without what is below a warning if that is wanted and debug is off.
func subdued(log zerolog.Logger, wanted bool) zerolog.Logger {
	if wanted && log.GetLevel() == zerolog.InfoLevel {
		return log.Level(zerolog.WarnLevel)
	}
	return log
}

// house is what the parts of the process share.
type house struct {
	cfg     *config
	log     zerolog.Logger
	nats    *natsd.Server
	walls   walls
	health  *serve.Health
	metrics *serve.Metrics
}

// run runs everything until ctx ends: first ingest stops taking pushes, then the refresher finishes
// what it is at, and NATS ends last.
func run(ctx context.Context, cfg *config, log zerolog.Logger, person io.Writer) error {
	h := house{cfg: cfg, log: log, health: &serve.Health{}, metrics: serve.NewMetrics()}
	if cfg.Sim {
		h.walls = newWalls()
	}
	srv, err := h.startNATS(ctx)
	if err != nil {
		return err
	}
	defer srv.Close()
	h.nats = srv

	keeper, err := h.connect("refresher")
	if err != nil {
		return err
	}
	defer keeper.Close()
	keeperJS, err := jetstream.New(keeper)
	if err != nil {
		return err
	}
	keys, err := cfg.sealKeys(ctx, keeperJS)
	if err != nil {
		return err
	}
	facing, err := h.connect("ingest")
	if err != nil {
		return err
	}
	defer facing.Close()
	js, err := jetstream.New(facing)
	if err != nil {
		return err
	}
	public, err := seal.FromPublic(keys.Public())
	if err != nil {
		return err
	}
	pushCount := h.counter("ingest", js)
	in, err := ingest.New(cfg.Config, cfg.components, ingest.Deps{
		JetStream: js, Seal: public, Log: log, Metrics: h.metrics.Registry, Counts: pushCount, Now: time.Now, Step: settings.CrashAt(),
	})
	if err != nil {
		return err
	}
	h.health.Check("AUTH exists", in.Ready)
	canaries := []*serve.Canary{serve.WatchCanary("ingest", h.health, h.metrics, in.Canary)}
	pushes, err := h.listen("http-addr", "pushes", cfg.HTTPAddr, in.Handler(), serve.Behind(cfg.Operations.Proxies()))
	if err != nil {
		return err
	}
	var sim *simulation
	if cfg.Sim {
		if sim, err = h.simulate("http://"+pushes.Addr(), in.Ready); err != nil {
			return err
		}
		cfg.meet(sim.api.Addr(), pushes.Addr())
	}
	notices, err := notify.New(cfg.Notify, notify.Deps{
		JetStream: keeperJS, Log: log.With().Str("role", "refresher").Logger(), Metrics: h.metrics.Registry, Now: time.Now,
	})
	if err != nil {
		return err
	}
	renewalCount := h.counter("refresher", keeperJS)
	r, err := refresher.New(cfg.Refresher, refresher.Deps{
		NATS: keeper, Components: cfg.components, Seal: keys, Log: log.With().Str("role", "refresher").Logger(),
		Metrics: h.metrics.Registry, Step: settings.CrashAt(), Counts: renewalCount, Direct: notices.Direct,
	})
	if err != nil {
		return err
	}
	h.health.Check("refresher", r.Ready)
	canaries = append(canaries, serve.WatchCanary("refresher", h.health, h.metrics, r.Canary))
	checks, err := preflight.New(cfg.target(facing, keeper, srv, keys, r.Components))
	if err != nil {
		return err
	}
	page, following, err := console.Open(console.Config{NATS: keeper, Ready: r.Ready, Checks: checks.Lines, Log: log},
		cfg.Login, login.Deps{Trusted: cfg.Operations.Proxies(), Metrics: h.metrics.Registry})
	if err != nil {
		return err
	}
	watch, err := serve.ListenOps(cfg.Operations, h.health, h.metrics, checks.Handler(page), subdued(log, cfg.Sim))
	if err != nil {
		return fmt.Errorf("%w (--ops-addr chooses another)", err)
	}
	gatewayAddr, doors, end, err := h.gateway(cfg.Refresher.WechatAPIURL)
	defer end()
	if err != nil {
		return err
	}
	parts := append([]func(context.Context) error{pushes.Run, in.Run}, doors...)
	parts = append(append(parts, pushCount.Run, r.Run, renewalCount.Run, notices.Run, watch.Run), following...)
	for _, canary := range canaries {
		parts = append(parts, canary.Run)
	}
	if sim != nil {
		sim.hint(person, srv.ClientURL(), watch.Addr(), gatewayAddr)
		parts = append(parts, sim.run)
		if cfg.SimTroubles == "on" {
			parts = append(parts, sim.troubles)
		}
		return serve.Together(ctx, append(parts, sim.api.Run, sim.control.Run)...)
	}
	components := settings.ComponentWatch{
		Components: cfg.ComponentSettings, Secret: &cfg.AppsecretSettings, Push: &cfg.PushSettings, Known: cfg.components, Log: log,
		Changed: func(c []settings.Component) error {
			if err := in.SetComponents(c); err != nil {
				return err
			}
			r.SetComponents(c)
			return nil
		},
	}
	return serve.Together(ctx, append([]func(context.Context) error{components.Run}, parts...)...)
}

// counter counts for a role. With --sim tokens live for seconds, and so does a record of what was
// done.
func (h *house) counter(role string, js jetstream.JetStream) *counts.Counter {
	c := counts.New(role, js, h.log)
	if h.cfg.Sim {
		c.Every = simCounts
	}
	return c
}

// simCounts is how long a record counts with --sim.
const simCounts = 15 * time.Second

// startNATS starts the NATS server.
func (h *house) startNATS(ctx context.Context) (*natsd.Server, error) {
	cfg := h.cfg
	if err := h.walls.fits(cfg.DataDir); err != nil {
		return nil, err
	}
	addr, err := cfg.nats().ListenAddr()
	if err != nil {
		return nil, err
	}
	switch {
	case !settings.Loopback(addr):
		h.log.Warn().Str("addr", addr).Msg("nats exposed without a password")
	case h.walls == nil:
		h.log.Info().Str("addr", addr).Str("hint", "every program that reaches this address may do everything; users and accounts: docs/nats.md").Msg("nats without users")
	}
	key, err := cfg.natsKey()
	if err != nil {
		return nil, err
	}
	srv, err := natsd.Start(ctx, natsd.Config{StoreDir: cfg.DataDir, Addr: addr, Key: key, SyncAlways: true, Log: h.log, Conf: h.walls.conf()})
	switch {
	case errors.Is(err, natsd.ErrLocked):
		err = fmt.Errorf("%w (--data-dir)", err)
	case errors.Is(err, natsd.ErrUnreadable):
		err = fmt.Errorf("%w. Is %s the one that it was written with? If not, %s", err, filepath.Join(cfg.DataDir, natsKeyFile), remedy)
	case err != nil:
		err = fmt.Errorf("%w (--nats-url and --data-dir choose others)", err)
	}
	return srv, err
}

// connect connects as role, within the process. Each part has a connection of its own, with its own
// name and inbox.
func (h *house) connect(role string) (*nats.Conn, error) {
	nc, err := h.cfg.nats().Connect(role, subdued(h.log, true), nats.InProcessServer(h.nats), h.walls.user(role))
	if err != nil {
		return nil, err
	}
	natsconn.Watch(nc, role, h.health, h.metrics, subdued(h.log, h.cfg.Sim))
	return nc, nil
}

// listen is serve.Listen, with the flag in its error.
func (h *house) listen(flag, name, addr string, handler http.Handler, options ...serve.Option) (*serve.Server, error) {
	s, err := serve.Listen(name, addr, handler, subdued(h.log, h.cfg.Sim), h.metrics, options...)
	if err != nil {
		return nil, fmt.Errorf("%w (--%s chooses another)", err, flag)
	}
	return s, nil
}

// simulation is the fake platform and its two doors.
type simulation struct {
	platform     *wechatsim.Platform
	api, control *serve.Server
	ready        func(context.Context) error // of ingest
	life         time.Duration               // of a token
}

// simulate sets up a platform that pushes to pushBase.
func (h *house) simulate(pushBase string, ready func(context.Context) error) (*simulation, error) {
	config := wechatsim.Demo(h.cfg.SimLife, h.cfg.SimAuthorizers, pushBase)
	config.Log = subdued(h.log, true).With().Str("role", "wechatsim").Logger()
	platform, err := wechatsim.New(config)
	if err != nil {
		return nil, err
	}
	api, err := h.listen("sim-addr", "platform", h.cfg.SimAddr, platform.Handler())
	if err != nil {
		return nil, err
	}
	control, err := h.listen("sim-control-addr", "control", h.cfg.SimControlAddr, platform.Control())
	if err != nil {
		return nil, err
	}
	return &simulation{platform, api, control, ready, h.cfg.SimLife}, nil
}

// readyPoll is the time between two looks whether pushes can be stored.
const readyPoll = 20 * time.Millisecond

// run pushes tickets and events from when they can be stored until ctx ends.
func (s *simulation) run(ctx context.Context) error {
	for s.ready(ctx) != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(readyPoll):
		}
	}
	return s.platform.Run(ctx)
}

// hint tells a person where to look. It goes to stderr: stdout is for log lines.
func (s *simulation) hint(w io.Writer, natsURL, opsAddr, gatewayAddr string) {
	key := "authorizer." + wechatsim.DemoAppID + ".wxa000000000000001"
	_, _ = fmt.Fprintf(w, `
wxtoken with a fake WeChat platform. NOT FOR PRODUCTION. Ctrl-C ends it.

  the page      http://%[1]s/ in a browser: shops meet troubles, and troubles end
  all keys      curl http://%[1]s/
  one token     nats --server %[2]s kv get tokens %[3]s
  every token   nats --server %[2]s sub 'token.updated.>'
  a link        nats --server %[2]s req wxtoken.connect.create '{"component":"%[5]s","ref":"tenant-17"}'
  the platform  curl http://%[4]s/    authorize, cancel, fail and more

The gateway is WeChat to any SDK: API host http://%[6]s, appid wxa000000000000001, secret %[7]s.

  as WeChat     curl 'http://%[6]s/cgi-bin/token?grant_type=client_credential&appid=wxa000000000000001&secret=%[7]s'
  as itself     curl -H 'Authorization: Bearer %[7]s' http://%[6]s/v1/tokens/%[3]s

NATS has the accounts and users of deploy/nats/nats-server.conf. Without a name you are service, who reads; to look
behind the wall:  nats --server %[2]s --user operator --password operator --inbox-prefix=_INBOX_operator stream ls

`, opsAddr, natsURL, key, s.control.Addr(), wechatsim.DemoAppID, gatewayAddr, demoKey)
}
