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

// quietLog returns log, without what is below a warning if quiet is true and debug is off.
func quietLog(log zerolog.Logger, quiet bool) zerolog.Logger {
	if quiet && log.GetLevel() == zerolog.InfoLevel {
		return log.Level(zerolog.WarnLevel)
	}
	return log
}

// allInOne is what the parts of this process share.
type allInOne struct {
	cfg     *config
	log     zerolog.Logger
	nats    *natsd.Server
	users   natsUsers
	health  *serve.Health
	metrics *serve.Metrics
}

// run runs everything until ctx ends. Then ingest stops accepting pushes first, the refresher finishes its work, and
// NATS ends last.
func run(ctx context.Context, cfg *config, log zerolog.Logger, hints io.Writer) error {
	p := allInOne{cfg: cfg, log: log, health: &serve.Health{}, metrics: serve.NewMetrics()}
	if cfg.Sim {
		p.users = newNATSUsers()
	}
	srv, err := p.startNATS(ctx)
	if err != nil {
		return err
	}
	defer srv.Close()
	p.nats = srv

	refresherConn, err := p.connect("refresher")
	if err != nil {
		return err
	}
	defer refresherConn.Close()
	refresherJS, err := jetstream.New(refresherConn)
	if err != nil {
		return err
	}
	keys, err := cfg.sealKeys(ctx, refresherJS)
	if err != nil {
		return err
	}
	ingestConn, err := p.connect("ingest")
	if err != nil {
		return err
	}
	defer ingestConn.Close()
	ingestJS, err := jetstream.New(ingestConn)
	if err != nil {
		return err
	}
	public, err := seal.FromPublic(keys.Public())
	if err != nil {
		return err
	}
	pushCount := p.counter("ingest", ingestJS)
	in, err := ingest.New(cfg.Config, cfg.components, ingest.Deps{
		JetStream: ingestJS, Seal: public, Log: log, Metrics: p.metrics.Registry, Counts: pushCount, Now: time.Now, Step: settings.CrashAt(),
	})
	if err != nil {
		return err
	}
	p.health.Check("AUTH exists", in.Ready)
	canaries := []*serve.Canary{serve.WatchCanary("ingest", p.health, p.metrics, in.Canary)}
	pushes, err := p.listen("http-addr", "pushes", cfg.HTTPAddr, in.Handler(), serve.Behind(cfg.Operations.Proxies()))
	if err != nil {
		return err
	}
	var sim *simulation
	if cfg.Sim {
		if sim, err = p.simulate("http://"+pushes.Addr(), in.Ready); err != nil {
			return err
		}
		cfg.setSimAddrs(sim.api.Addr(), pushes.Addr())
	}
	notices, err := notify.New(cfg.Notify, notify.Deps{
		JetStream: refresherJS, Log: log.With().Str("role", "refresher").Logger(), Metrics: p.metrics.Registry, Now: time.Now,
	})
	if err != nil {
		return err
	}
	renewalCount := p.counter("refresher", refresherJS)
	r, err := refresher.New(cfg.Refresher, refresher.Deps{
		NATS: refresherConn, Components: cfg.components, Seal: keys, Log: log.With().Str("role", "refresher").Logger(),
		Metrics: p.metrics.Registry, Step: settings.CrashAt(), Counts: renewalCount, Direct: notices.Direct,
	})
	if err != nil {
		return err
	}
	p.health.Check("refresher", r.Ready)
	canaries = append(canaries, serve.WatchCanary("refresher", p.health, p.metrics, r.Canary))
	checks, err := preflight.New(cfg.target(ingestConn, refresherConn, srv, keys, r.Components))
	if err != nil {
		return err
	}
	page, following, err := console.Open(console.Config{NATS: refresherConn, Ready: r.Ready, Checks: checks.Lines, Log: log},
		cfg.Login, login.Deps{Trusted: cfg.Operations.Proxies(), Metrics: p.metrics.Registry})
	if err != nil {
		return err
	}
	watch, err := serve.ListenOps(cfg.Operations, p.health, p.metrics, checks.Handler(page), quietLog(log, cfg.Sim))
	if err != nil {
		return fmt.Errorf("%w (--ops-addr chooses another)", err)
	}
	gatewayAddr, doors, end, err := p.startGateway(cfg.Refresher.WechatAPIURL)
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
		sim.printHints(hints, srv.ClientURL(), watch.Addr(), gatewayAddr)
		parts = append(parts, sim.run)
		if cfg.SimTroubles == "on" {
			parts = append(parts, sim.runTroubles)
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

// counter returns the counter of a role. With --sim, where tokens live for seconds, a record covers seconds too.
func (p *allInOne) counter(role string, js jetstream.JetStream) *counts.Counter {
	c := counts.New(role, js, p.log)
	if p.cfg.Sim {
		c.Every = simCountPeriod
	}
	return c
}

// simCountPeriod is the time that a record covers with --sim.
const simCountPeriod = 15 * time.Second

// startNATS starts the NATS server.
func (p *allInOne) startNATS(ctx context.Context) (*natsd.Server, error) {
	cfg := p.cfg
	if err := p.users.checkDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	addr, err := cfg.nats().ListenAddr()
	if err != nil {
		return nil, err
	}
	switch {
	case !settings.Loopback(addr):
		p.log.Warn().Str("addr", addr).Msg("nats exposed without a password")
	case p.users == nil:
		p.log.Info().Str("addr", addr).Str("hint", "every program that reaches this address may do everything; users and accounts: docs/nats.md").Msg("nats without users")
	}
	key, err := cfg.natsKey()
	if err != nil {
		return nil, err
	}
	srv, err := natsd.Start(ctx, natsd.Config{StoreDir: cfg.DataDir, Addr: addr, Key: key, SyncAlways: true, Log: p.log, Conf: p.users.conf()})
	switch {
	case errors.Is(err, natsd.ErrLocked):
		err = fmt.Errorf("%w (--data-dir)", err)
	case errors.Is(err, natsd.ErrUnreadable):
		err = fmt.Errorf("%w. Is %s the one that it was written with? If not, %s", err, filepath.Join(cfg.DataDir, natsKeyFile), lostKeyRemedy)
	case err != nil:
		err = fmt.Errorf("%w (--nats-url and --data-dir choose others)", err)
	}
	return srv, err
}

// connect connects to NATS as role, within the process. Each part has a connection of its own, with its own name and
// inbox.
func (p *allInOne) connect(role string) (*nats.Conn, error) {
	nc, err := p.cfg.nats().Connect(role, quietLog(p.log, true), nats.InProcessServer(p.nats), p.users.user(role))
	if err != nil {
		return nil, err
	}
	natsconn.Watch(nc, role, p.health, p.metrics, quietLog(p.log, p.cfg.Sim))
	return nc, nil
}

// listen is serve.Listen, with the flag in the error.
func (p *allInOne) listen(flag, name, addr string, handler http.Handler, options ...serve.Option) (*serve.Server, error) {
	s, err := serve.Listen(name, addr, handler, quietLog(p.log, p.cfg.Sim), p.metrics, options...)
	if err != nil {
		return nil, fmt.Errorf("%w (--%s chooses another)", err, flag)
	}
	return s, nil
}

// simulation is the fake platform and its two servers.
type simulation struct {
	platform     *wechatsim.Platform
	api, control *serve.Server
	ready        func(context.Context) error // of ingest
	life         time.Duration               // of a token
}

// simulate makes a platform that pushes to pushBase, and its servers.
func (p *allInOne) simulate(pushBase string, ready func(context.Context) error) (*simulation, error) {
	config := wechatsim.Demo(p.cfg.SimLife, p.cfg.SimAuthorizers, pushBase)
	config.Log = quietLog(p.log, true).With().Str("role", "wechatsim").Logger()
	platform, err := wechatsim.New(config)
	if err != nil {
		return nil, err
	}
	api, err := p.listen("sim-addr", "platform", p.cfg.SimAddr, platform.Handler())
	if err != nil {
		return nil, err
	}
	control, err := p.listen("sim-control-addr", "control", p.cfg.SimControlAddr, platform.Control())
	if err != nil {
		return nil, err
	}
	return &simulation{platform, api, control, ready, p.cfg.SimLife}, nil
}

// readyPoll is how often run asks whether pushes can be stored.
const readyPoll = 20 * time.Millisecond

// run pushes tickets and events until ctx ends, as soon as they can be stored.
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

// printHints tells a person what to try. It goes to stderr: stdout is for log lines.
func (s *simulation) printHints(w io.Writer, natsURL, opsAddr, gatewayAddr string) {
	key := "authorizer." + wechatsim.DemoAppID + ".wxa000000000000001"
	_, _ = fmt.Fprintf(w, `
wxtoken with a fake WeChat platform. NOT FOR PRODUCTION. Ctrl-C ends it.

  the page      http://%[1]s/ in a browser: shops have troubles that come and go
  all keys      curl http://%[1]s/
  one token     nats --server %[2]s kv get tokens %[3]s
  every token   nats --server %[2]s sub 'token.updated.>'
  a link        nats --server %[2]s req wxtoken.connect.create '{"component":"%[5]s","ref":"tenant-17"}'
  the platform  curl http://%[4]s/    authorize, cancel, fail and more

The gateway is WeChat to any SDK: API host http://%[6]s, appid wxa000000000000001, secret %[7]s.

  as WeChat     curl 'http://%[6]s/cgi-bin/token?grant_type=client_credential&appid=wxa000000000000001&secret=%[7]s'
  as itself     curl -H 'Authorization: Bearer %[7]s' http://%[6]s/v1/tokens/%[3]s

NATS has the accounts and users of deploy/nats/nats-server.conf. Without a name you are the user service, who reads;
the streams of the refreshers:  nats --server %[2]s --user operator --password operator --inbox-prefix=_INBOX_operator stream ls

`, opsAddr, natsURL, key, s.control.Addr(), wechatsim.DemoAppID, gatewayAddr, demoKey)
}
