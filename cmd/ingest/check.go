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
func (s *config) target(nc *nats.Conn, components func() []string) preflight.Target {
	return preflight.Target{
		NATS: nc, NATSURL: s.Redacted(), Role: events.RoleIngest, Streams: []string{events.StreamAuth}, Language: s.Language(),
		Probes: []preflight.Probe{preflight.CanaryOfIngest(nc), preflight.SealKeyOfIngest(nc, s.seal), preflight.RenewalsOfIngest(nc)},
		Components: func() (out []settings.Component) {
			for _, appid := range components() {
				out = append(out, settings.Component{AppID: appid})
			}
			return out
		},
	}
}

// check runs --check.
func check(ctx context.Context, cfg *config, out io.Writer) error {
	nc, err := cfg.Connect(events.RoleIngest, zerolog.Nop())
	if err != nil {
		return err
	}
	defer nc.Close()
	return preflight.Print(ctx, cfg.target(nc, func() []string { return settings.AppIDs(cfg.components) }), out)
}
