package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"wxtoken/internal/gateway"
	"wxtoken/internal/redis"
	"wxtoken/internal/serve"
	"wxtoken/internal/services"
	"wxtoken/internal/settings"
	"wxtoken/internal/webhooks"
	"wxtoken/wechatsim"
)

// tokenKeyFile keeps the key that signs the gateway's tokens, in the data directory.
const tokenKeyFile = "gateway.key"

// demoKey is the key of the one service that the gateway serves with --sim. NOT FOR PRODUCTION.
const demoKey = "demo-key"

// signer returns the keys that sign the gateway's tokens: those of --token-key-file, or one of the process's own, made at the first start.
func (s *config) signer() (*gateway.Signer, error) {
	if s.Gateway.TokenKeyFile != "" {
		return s.Gateway.Signer()
	}
	file := filepath.Join(s.DataDir, tokenKeyFile)
	key, ok, err := readKey(file)
	if err != nil {
		return nil, err
	}
	if !ok {
		key = gateway.MakeTokenKey()
		if err := settings.WriteSecret(file, key); err != nil {
			return nil, err
		}
	}
	return gateway.ReadSigner(strings.NewReader(key))
}

// served returns the services that the gateway serves; with --sim and without a file, the demo.
func (h *house) served() (*services.Watch, error) {
	if h.cfg.Sim && h.cfg.Gateway.ServicesFile == "" {
		demo, err := services.Parse(fmt.Appendf(nil, `{"services":[{"name":"demo","keys":[%q],"accounts":["%s/*"],"may":["relay","component","links","accounts","events"]}]}`,
			services.Digest(demoKey), wechatsim.DemoAppID))
		return services.Fixed(demo), err
	}
	w, err := services.Open(h.cfg.Gateway.ServicesFile, h.log)
	if err != nil {
		return nil, settings.NewError(settings.Fault("services-file", "%w", err))
	}
	return w, nil
}

// gateway starts the gateway, if there is to be one. It returns its address and what it runs.
func (h *house) gateway(wechat string) (addr string, parts []func(context.Context) error, end func(), err error) {
	end = func() {}
	if h.cfg.GatewayAddr == "" {
		return "", nil, end, nil
	}
	signer, err := h.cfg.signer()
	if err != nil {
		return "", nil, end, err
	}
	served, err := h.served()
	if err != nil {
		return "", nil, end, err
	}
	nc, err := h.connect("gateway")
	if err != nil {
		return "", nil, end, err
	}
	g, err := gateway.New(h.cfg.Gateway, gateway.Deps{
		NATS: nc, Services: served, Signer: signer, WeChat: wechat,
		Log: subdued(h.log, h.cfg.Sim).With().Str("role", "gateway").Logger(), Metrics: h.metrics.Registry, Now: time.Now,
	})
	if err != nil {
		return "", nil, nc.Close, err
	}
	h.health.Check("gateway", g.Ready)
	hooks, err := webhooks.New(webhooks.Deps{
		NATS: nc, Services: served, Ref: g.Ref, Log: h.log.With().Str("role", "gateway").Logger(), Metrics: h.metrics.Registry,
	})
	if err != nil {
		return "", nil, nc.Close, err
	}
	door, err := h.listen("gateway-addr", "gateway", h.cfg.GatewayAddr, g.Handler(), serve.MaxConns(gateway.MaxConns), serve.OnShutdown(g.EndStreams))
	if err != nil {
		return "", nil, nc.Close, err
	}
	fill := func(ctx context.Context) error {
		return redis.Fill(ctx, h.cfg.Redis, g.Client, served, h.log.With().Str("role", "gateway").Logger(), h.metrics.Registry, time.Now)
	}
	return door.Addr(), []func(context.Context) error{door.Run, hooks.Run, fill, g.Run, served.Run}, nc.Close, nil
}
