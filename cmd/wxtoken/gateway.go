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

// tokenKeyFile holds the key that signs gateway tokens, in the data directory.
const tokenKeyFile = "gateway.key"

// demoKey is the key of the service that the gateway serves with --sim. NOT FOR PRODUCTION.
const demoKey = "demo-key"

// signer returns the keys that sign gateway tokens: those of --token-key-file, or one that is made at the first
// start.
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

// openServices returns the services of the gateway: those of the file, or the demo service of --sim.
func (p *allInOne) openServices() (*services.Watch, error) {
	if p.cfg.Sim && p.cfg.Gateway.ServicesFile == "" {
		demo, err := services.Parse(fmt.Appendf(nil, `{"services":[{"name":"demo","keys":[%q],"accounts":["%s/*"],"may":["relay","component","links","accounts","events"]}]}`,
			services.Digest(demoKey), wechatsim.DemoAppID))
		return services.Fixed(demo), err
	}
	w, err := services.Open(p.cfg.Gateway.ServicesFile, p.log)
	if err != nil {
		return nil, settings.NewError(settings.Fault("services-file", "%w", err))
	}
	return w, nil
}

// startGateway makes the gateway, if one is set. It returns its address, the parts to run, and how to close its
// connection.
func (p *allInOne) startGateway(wechat string) (addr string, parts []func(context.Context) error, end func(), err error) {
	end = func() {}
	if p.cfg.GatewayAddr == "" {
		return "", nil, end, nil
	}
	signer, err := p.cfg.signer()
	if err != nil {
		return "", nil, end, err
	}
	served, err := p.openServices()
	if err != nil {
		return "", nil, end, err
	}
	nc, err := p.connect("gateway")
	if err != nil {
		return "", nil, end, err
	}
	addr, parts, err = doors.Open(p.cfg.Gateway, p.cfg.Redis, doors.Deps{
		NATS: nc, Services: served, Signer: signer, WeChat: wechat, Log: quietLog(p.log, p.cfg.Sim), Health: p.health, Metrics: p.metrics,
		Flag: "gateway-addr", Addr: p.cfg.GatewayAddr, Options: []serve.Option{serve.Behind(p.cfg.Operations.Proxies())},
	})
	return addr, parts, nc.Close, err
}
