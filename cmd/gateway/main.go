// Command gateway is the door to wxtoken for programs that speak HTTP: WeChat's own calls, with the token put in, and /v1.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"wxtoken/internal/events"
	"wxtoken/internal/gateway"
	"wxtoken/internal/logger"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/preflight"
	"wxtoken/internal/redis"
	"wxtoken/internal/serve"
	"wxtoken/internal/services"
	"wxtoken/internal/settings"
	"wxtoken/internal/webhooks"
)

func main() {
	var cfg config
	os.Exit(program.Main(&cfg,
		func(ctx context.Context) error { return run(ctx, &cfg) },
		func(ctx context.Context, out io.Writer) error { return check(ctx, &cfg, out) }))
}

func run(ctx context.Context, cfg *config) (err error) {
	if cfg.MakeTokenKey || cfg.MakeKey != "" {
		return cfg.make(os.Stdout)
	}
	log, err := logger.New(os.Stdout, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return err
	}
	if err := program.LogSettings(log, cfg); err != nil {
		return err
	}
	defer func() { logger.End(ctx, log, err) }()
	watch, err := services.Open(cfg.ServicesFile, log)
	if err != nil {
		return settings.NewError(settings.Fault("services-file", "%w", err))
	}
	nc, err := cfg.Connect(events.RoleGateway, log)
	if err != nil {
		return err
	}
	defer nc.Close()
	health, metrics := &serve.Health{}, serve.NewMetrics()
	natsconn.Watch(nc, events.RoleGateway, health, metrics, log)
	g, err := gateway.New(cfg.Config, gateway.Deps{
		NATS: nc, Services: watch, Signer: cfg.signer, WeChat: cfg.WechatAPIURL,
		Log: log.With().Str("role", events.RoleGateway).Logger(), Metrics: metrics.Registry, Now: time.Now,
	})
	if err != nil {
		return err
	}
	health.Check("tokens read", g.Ready)
	hooks, err := webhooks.New(webhooks.Deps{
		NATS: nc, Services: watch, Ref: g.Ref, Log: log.With().Str("role", events.RoleGateway).Logger(), Metrics: metrics.Registry,
	})
	if err != nil {
		return err
	}
	doors := []serve.Option{serve.MaxConns(gateway.MaxConns), serve.OnShutdown(g.EndStreams)}
	if cfg.TLSCert != "" {
		doors = append(doors, serve.TLS(cfg.TLSCert, cfg.TLSKey))
	}
	door, err := serve.Listen("gateway", cfg.HTTPAddr, g.Handler(), log, metrics, doors...)
	if err != nil {
		return fmt.Errorf("%w (--http-addr chooses another)", err)
	}
	checks, err := preflight.New(cfg.target(nc))
	if err != nil {
		return err
	}
	ops, err := serve.ListenOps(cfg.Operations, health, metrics, checks.Handler(nil), log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	serving, stop := health.Drain(ctx, cfg.Drain)
	defer stop()
	group.Go(func() error { return watch.Run(ctx) })
	served, end := context.WithCancel(context.WithoutCancel(ctx)) // the last requests still want tokens
	group.Go(func() error { return g.Run(served) })
	group.Go(func() error {
		defer end()
		return door.Run(serving)
	})
	group.Go(func() error { return hooks.Run(serving) })
	group.Go(func() error {
		return redis.Fill(serving, cfg.Redis, g.Client, watch, log, metrics.Registry, time.Now)
	})
	group.Go(func() error { return ops.Run(serving) })
	return group.Wait()
}
