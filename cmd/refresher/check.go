package main

import (
	"context"
	"io"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"wxtoken/internal/events"
	"wxtoken/internal/preflight"
	"wxtoken/internal/settings"
)

// target says what --check and /check check.
func (s *config) target(nc *nats.Conn, components func() []settings.Component) preflight.Target {
	return preflight.Target{
		NATS: nc, NATSURL: s.Redacted(), Role: events.RoleRefresher, Streams: events.StreamNames(), Setup: s.Setup(),
		MonitorURL: s.Preflight.NatsMonitorURL, WechatURL: s.WechatAPIURL, PublicURL: s.PublicURL, Statuses: true, Language: s.Language(),
		Probes: s.probes(nc), Components: components,
	}
}

func (s *config) probes(nc *nats.Conn) []preflight.Probe {
	all := []preflight.Probe{preflight.CanaryOfRefresher(nc), preflight.SealKey(nc, s.seal)}
	if setup := s.Setup(); len(setup.ServicesAPI) > 0 {
		all = append(all, preflight.Mirrors(nc, setup))
	}
	if s.Notify.NotifyFile != "" {
		all = append(all, preflight.Notices(nc, s.Notify.NotifyFile))
	}
	return all
}

// check runs --check.
func check(ctx context.Context, cfg *config, out io.Writer) error {
	nc, err := cfg.Connect(events.RoleRefresher, zerolog.Nop())
	if err != nil {
		return err
	}
	defer nc.Close()
	return preflight.Print(ctx, cfg.target(nc, func() []settings.Component { return cfg.components }), out)
}
