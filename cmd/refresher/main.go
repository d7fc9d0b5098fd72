// Command refresher renews all tokens.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"wxtoken/internal/console"
	"wxtoken/internal/counts"
	"wxtoken/internal/logger"
	"wxtoken/internal/login"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/notify"
	"wxtoken/internal/preflight"
	"wxtoken/internal/refresher"
	"wxtoken/internal/serve"
	"wxtoken/internal/settings"
)

func main() {
	var cfg config
	os.Exit(program.Main(&cfg,
		func(ctx context.Context) error { return run(ctx, &cfg) },
		func(ctx context.Context, out io.Writer) error { return check(ctx, &cfg, out) }))
}

func run(ctx context.Context, cfg *config) (err error) {
	if cfg.MakeSealKey != "" {
		public, err := settings.MakeSealKey(cfg.MakeSealKey)
		if err == nil {
			_, err = fmt.Println(public)
		}
		return err
	}
	if cfg.Notify.NotifyTest {
		return notify.Test(ctx, cfg.Notify, time.Now, nil, os.Stdout, cfg.Language())
	}
	if cfg.Login.MakeConsoleUser != "" {
		password, err := cfg.Login.MakeUser()
		if err == nil {
			_, err = fmt.Println(password)
		}
		return err
	}
	lines := os.Stdout
	if cfg.Import != "" || cfg.Export != "" {
		lines = os.Stderr // the answer stands alone on standard output
	}
	log, err := logger.New(lines, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return err
	}
	if err := program.LogSettings(log, cfg); err != nil {
		return err
	}
	nc, err := cfg.Connect("refresher", log)
	if err != nil {
		return err
	}
	defer nc.Close()
	if cfg.Import != "" || cfg.Export != "" {
		return transferAuthorizations(ctx, cfg, nc, log)
	}
	defer func() { logger.End(ctx, log, err) }()
	health, metrics := &serve.Health{}, serve.NewMetrics()
	natsconn.Watch(nc, "refresher", health, metrics, log)
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	notices, err := notify.New(cfg.Notify, notify.Deps{JetStream: js, Log: log, Metrics: metrics.Registry, Now: time.Now})
	if err != nil {
		return err
	}
	counter := counts.New("refresher", js, log)
	r, err := refresher.New(cfg.Config, refresher.Deps{
		NATS: nc, Components: cfg.components, Seal: cfg.seal, Log: log.With().Str("role", "refresher").Logger(),
		Metrics: metrics.Registry, Step: settings.CrashAt(), Counts: counter, Direct: notices.Direct,
	})
	if err != nil {
		return err
	}
	health.Check("refresher", r.Ready)
	canary := serve.WatchCanary("refresher", health, metrics, r.Canary)
	checks, err := preflight.New(cfg.target(nc, r.Components))
	if err != nil {
		return err
	}
	var page http.Handler // nil: another refresher serves it
	var following []func(context.Context) error
	if cfg.Console {
		page, following, err = console.Open(console.Config{NATS: nc, Ready: r.Ready, Checks: checks.Lines, Log: log},
			cfg.Login, login.Deps{Trusted: cfg.Operations.Proxies(), Metrics: metrics.Registry})
		if err != nil {
			return err
		}
	}
	watch, err := serve.ListenOps(cfg.Operations, health, metrics, checks.Handler(page), log)
	if err != nil {
		return err
	}
	components := settings.ComponentWatch{
		Components: cfg.ComponentSettings, Secret: &cfg.AppsecretSettings, Known: cfg.components, Log: log,
		Changed: func(c []settings.Component) error {
			r.SetComponents(c)
			return nil
		},
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return components.Run(ctx) })
	group.Go(func() error { return canary.Run(ctx) })
	group.Go(func() error { return counter.Run(ctx) })
	group.Go(func() error { return r.Run(ctx) })
	group.Go(func() error { return notices.Run(ctx) })
	for _, part := range following {
		group.Go(func() error { return part(ctx) })
	}
	group.Go(func() error { return watch.Run(ctx) })
	return group.Wait()
}
