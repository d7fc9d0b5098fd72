// Command ingest turns WeChat's pushes into events on NATS.
package main

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"wxtoken/internal/ingest"
	"wxtoken/internal/ops"
	"wxtoken/internal/preflight"
)

func main() {
	var cfg settings
	os.Exit(program.Main(&cfg,
		func(ctx context.Context) error { return run(ctx, &cfg) },
		func(ctx context.Context, out io.Writer) error { return check(ctx, &cfg, out) }))
}

func run(ctx context.Context, cfg *settings) (err error) {
	log, err := ops.NewLogger(os.Stdout, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return err
	}
	if err := program.LogSettings(log, cfg); err != nil {
		return err
	}
	defer func() { ops.LogEnd(ctx, log, err) }()
	nc, err := cfg.Connect("ingest", log)
	if err != nil {
		return err
	}
	defer nc.Close() // by then every push is acked
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	health, metrics := &ops.Health{}, ops.NewMetrics()
	ops.WatchNATS(nc, "ingest", health, metrics, log)
	in, err := ingest.New(cfg.Config, pushed(cfg.components), ingest.Deps{JetStream: js, Seal: cfg.seal, Log: log, Metrics: metrics.Registry, Now: time.Now, Crash: ops.CrashPoints()})
	if err != nil {
		return err
	}
	health.Check("AUTH exists", in.Ready)
	canary := ops.WatchCanary("ingest", health, metrics, in.Canary)
	pushes, err := ops.Listen("pushes", cfg.HTTPAddr, in.Handler(), log, metrics)
	if err != nil {
		return err
	}
	checks, err := preflight.New(cfg.target(nc, in.Components))
	if err != nil {
		return err
	}
	watch, err := cfg.ListenOps(health, metrics, checks.Handler(nil), log)
	if err != nil {
		return err
	}
	components := ops.ComponentWatch{
		Components: cfg.ComponentSettings, Push: &cfg.PushSettings, Known: cfg.components, Log: log,
		Changed: func(c []ops.Component) error { return in.SetComponents(pushed(c)) },
	}
	group, ctx := errgroup.WithContext(ctx)
	serving, stop := health.Drain(ctx, cfg.Drain)
	defer stop()
	group.Go(func() error { return components.Run(ctx) })
	group.Go(func() error { return canary.Run(ctx) })
	group.Go(func() error { return pushes.Run(serving) })
	group.Go(func() error { return watch.Run(serving) })
	return group.Wait()
}
