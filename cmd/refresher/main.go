// Command refresher keeps every token fresh.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"wxtoken/internal/console"
	"wxtoken/internal/ops"
	"wxtoken/internal/preflight"
	"wxtoken/internal/refresher"
)

func main() {
	var cfg settings
	os.Exit(program.Main(&cfg,
		func(ctx context.Context) error { return run(ctx, &cfg) },
		func(ctx context.Context, out io.Writer) error { return check(ctx, &cfg, out) }))
}

func run(ctx context.Context, cfg *settings) (err error) {
	if cfg.MakeSealKey != "" {
		public, err := ops.MakeSealKey(cfg.MakeSealKey)
		if err == nil {
			_, err = fmt.Println(public)
		}
		return err
	}
	log, err := ops.NewLogger(os.Stdout, cfg.LogLevel, cfg.LogFormat)
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
		return move(ctx, cfg, nc, log)
	}
	defer func() { ops.LogEnd(ctx, log, err) }()
	health, metrics := &ops.Health{}, ops.NewMetrics()
	ops.WatchNATS(nc, "refresher", health, metrics, log)
	r, err := refresher.New(cfg.Config, refresher.Deps{
		NATS: nc, Components: called(cfg.components), Seal: cfg.seal, Log: log.With().Str("role", "refresher").Logger(),
		Metrics: metrics.Registry, Step: ops.CrashPoints(),
	})
	if err != nil {
		return err
	}
	health.Check("refresher", r.Ready)
	canary := ops.WatchCanary("refresher", health, metrics, r.Canary)
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	checks, err := preflight.New(cfg.target(nc, r.Components))
	if err != nil {
		return err
	}
	watch, err := cfg.ListenOps(health, metrics, checks.Handler(console.New(js, time.Now)), log)
	if err != nil {
		return err
	}
	components := ops.ComponentWatch{
		Components: cfg.ComponentSettings, Secret: &cfg.AppsecretSettings, Known: cfg.components, Log: log,
		Changed: func(c []ops.Component) error {
			r.SetComponents(called(c))
			return nil
		},
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return components.Run(ctx) })
	group.Go(func() error { return canary.Run(ctx) })
	group.Go(func() error { return r.Run(ctx) })
	group.Go(func() error { return watch.Run(ctx) })
	return group.Wait()
}
