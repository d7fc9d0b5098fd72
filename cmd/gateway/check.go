package main

import (
	"context"
	"io"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"wxtoken/internal/doors"
	"wxtoken/internal/events"
	"wxtoken/internal/preflight"
)

// target says what --check and /check check.
func (s *config) target(nc *nats.Conn) preflight.Target {
	return preflight.Target{
		NATS: nc, NATSURL: s.Redacted(), Role: events.RoleGateway, WechatURL: s.WechatAPIURL, Language: s.Language(),
		Probes: []preflight.Probe{preflight.BucketsOfGateway(nc)}, BesideNATS: doors.Probes(s.Config, s.Redis),
	}
}

// check runs --check.
func check(ctx context.Context, cfg *config, out io.Writer) error {
	nc, err := cfg.Connect(events.RoleGateway, zerolog.Nop())
	if err != nil {
		return err
	}
	defer nc.Close()
	return preflight.Print(ctx, cfg.target(nc), out)
}
