package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"wxtoken/internal/doors"
	"wxtoken/internal/gateway"
	"wxtoken/internal/serve"
	"wxtoken/internal/services"
	"wxtoken/internal/settings"
	"wxtoken/wechatsim"
)

// tokenKeyFile keeps the key that signs the gateway's tokens, in the data directory.
const tokenKeyFile = "gateway.key"

// demoKey is the key of the one service that the gateway serves with --sim. NOT FOR PRODUCTION.
const demoKey = "demo-key"

// signer returns the keys that sign the gateway's tokens: those of --token-key-file, or one of the
// process's own, made at the first start.
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
	addr, parts, err = doors.Open(h.cfg.Gateway, h.cfg.Redis, doors.Deps{
		NATS: nc, Services: served, Signer: signer, WeChat: wechat, Log: subdued(h.log, h.cfg.Sim), Health: h.health, Metrics: h.metrics,
		Flag: "gateway-addr", Addr: h.cfg.GatewayAddr, Options: []serve.Option{serve.Behind(h.cfg.Operations.Proxies())},
	})
	return addr, parts, nc.Close, err
}
