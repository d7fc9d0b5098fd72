// Command ingest turns WeChat's pushes into events on NATS.
package main

import (
	"context"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"wxtoken/internal/counts"
	"wxtoken/internal/ingest"
	"wxtoken/internal/logger"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/preflight"
	"wxtoken/internal/serve"
	"wxtoken/internal/settings"
)

// gcPercent lets the heap grow to five times what is in use, some 20 MB. With the default of twice, at thousands of
// pushes a second, the collector would start every few hundred pushes and take a tenth of the time.
const gcPercent = 400

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	var cfg config
	os.Exit(program.Main(&cfg,
		func(ctx context.Context) error { return run(ctx, &cfg) },
		func(ctx context.Context, out io.Writer) error { return check(ctx, &cfg, out) }))
}

func run(ctx context.Context, cfg *config) (err error) {
	log, err := logger.New(os.Stdout, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return err
	}
	if err := program.LogSettings(log, cfg); err != nil {
		return err
	}
	defer func() { logger.End(ctx, log, err) }()
	nc, err := cfg.Connect("ingest", log)
	if err != nil {
		return err
	}
	defer nc.Close() // all pushes are acked by then
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	health, metrics := &serve.Health{}, serve.NewMetrics()
	natsconn.Watch(nc, "ingest", health, metrics, log)
	counter := counts.New("ingest", js, log)
	in, err := ingest.New(cfg.Config, cfg.components, ingest.Deps{
		JetStream: js, Seal: cfg.seal, Log: log, Metrics: metrics.Registry, Counts: counter, Now: time.Now, Step: settings.CrashAt(),
	})
	if err != nil {
		return err
	}
	health.Check("AUTH exists", in.Ready)
	canary := serve.WatchCanary("ingest", health, metrics, in.Canary)
	pushes, err := serve.Listen("pushes", cfg.HTTPAddr, in.Handler(), log, metrics, serve.Behind(cfg.Operations.Proxies()))
	if err != nil {
		return err
	}
	checks, err := preflight.New(cfg.target(nc, in.Components))
	if err != nil {
		return err
	}
	watch, err := serve.ListenOps(cfg.Operations, health, metrics, checks.Handler(nil), log)
	if err != nil {
		return err
	}
	components := settings.ComponentWatch{
		Components: cfg.ComponentSettings, Push: &cfg.PushSettings, Known: cfg.components, Log: log,
		Changed: in.SetComponents,
	}
	group, ctx := errgroup.WithContext(ctx)
	serving, stop := health.Drain(ctx, cfg.Drain)
	defer stop()
	group.Go(func() error { return components.Run(ctx) })
	group.Go(func() error { return canary.Run(ctx) })
	// These end after the server, so that the last pushes are counted and recorded too.
	recording, endRecording := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return counter.Run(recording) })
	group.Go(func() error { return in.Run(recording) })
	group.Go(func() error {
		defer endRecording()
		return pushes.Run(serving)
	})
	group.Go(func() error { return watch.Run(serving) })
	return group.Wait()
}
