package main

import (
	"errors"
	"time"

	"wxtoken/internal/ingest"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/seal"
	"wxtoken/internal/settings"
)

// program is this executable. Its ops-addr leaves 8081 to a refresher on the same machine.
var program = settings.Program{
	Name:        "ingest",
	Description: "Turns WeChat's pushes into events on NATS. It can't read tokens, and connects to NATS only.",
	Defaults:    map[string]string{"ops-addr": "127.0.0.1:8082"},
}

// config holds all settings.
type config struct {
	ingest.Config
	natsconn.Settings
	settings.ComponentSettings
	settings.PushSettings
	settings.SealSettings
	Drain time.Duration `group:"Operations" default:"1s" help:"How long pushes are still accepted after SIGTERM, while the load balancer learns from /readyz to send them elsewhere: longer than the time between two of its checks."`
	settings.Operations

	components []settings.Component
	seal       *seal.Keys
}

// maxDrain bounds --drain, and with it how long the process takes to end.
const maxDrain = time.Minute

// Validate reads the components and the seal key, and returns what is wrong with them and with --drain.
func (s *config) Validate() error {
	var drain, components, sealing error
	if s.Drain < 0 || s.Drain > maxDrain {
		drain = settings.Fault("drain", "%s: want 0s to %s", s.Drain, maxDrain)
	}
	s.components, components = settings.LoadComponents(s.ComponentSettings, nil, &s.PushSettings)
	s.seal, sealing = settings.LoadSealKey(s.SealSettings)
	return errors.Join(drain, components, sealing)
}
