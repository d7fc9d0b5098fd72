// Command gateway serves programs that speak HTTP: it relays calls to WeChat with the current token, and has /v1.
package main

import (
	"context"
	"io"
	"os"

	"wxtoken/internal/doors"
	"wxtoken/internal/events"
	"wxtoken/internal/logger"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/preflight"
	"wxtoken/internal/serve"
	"wxtoken/internal/services"
	"wxtoken/internal/settings"
)

func main() {
	var cfg config
	os.Exit(program.Main(&cfg,
		func(ctx context.Context) error { return run(ctx, &cfg) },
		func(ctx context.Context, out io.Writer) error { return check(ctx, &cfg, out) }))
}

func run(ctx context.Context, cfg *config) (err error) {
	if cfg.MakeTokenKey || cfg.MakeKey != "" {
		return cfg.printKeys(os.Stdout)
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
	options := []serve.Option{serve.Behind(cfg.Operations.Proxies())}
	if cfg.TLSCert != "" {
		options = append(options, serve.TLS(cfg.TLSCert, cfg.TLSKey))
	}
	_, parts, err := doors.Open(cfg.Config, cfg.Redis, doors.Deps{
		NATS: nc, Services: watch, Signer: cfg.signer, WeChat: cfg.WechatAPIURL, Log: log, Health: health, Metrics: metrics,
		Flag: "http-addr", Addr: cfg.HTTPAddr, Options: options,
	})
	if err != nil {
		return err
	}
	checks, err := preflight.New(cfg.target(nc))
	if err != nil {
		return err
	}
	ops, err := serve.ListenOps(cfg.Operations, health, metrics, checks.Handler(nil), log)
	if err != nil {
		return err
	}
	drain := func(ctx context.Context) error {
		serving, stop := health.Drain(ctx, cfg.Drain)
		defer stop()
		<-serving.Done()
		return nil
	}
	return serve.Together(ctx, append(append([]func(context.Context) error{drain}, parts...), ops.Run)...)
}
