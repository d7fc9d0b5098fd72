package main

import (
	"errors"
	"time"

	"wxtoken/internal/ingest"
	"wxtoken/internal/ops"
	"wxtoken/internal/seal"
)

// drainPause is how long a process that is asked to end still takes pushes, while the load balancer
// learns from /readyz to send them elsewhere.
const drainPause = time.Second

// program is this executable. Its ops-addr leaves 8081 to a refresher on the same machine.
var program = ops.Program{
	Name:        "ingest",
	Description: "Turns WeChat's pushes into events on NATS. It can read no token, and calls nobody but NATS.",
	Defaults:    map[string]string{"ops-addr": "127.0.0.1:8082"},
}

// settings is all that an operator can set.
type settings struct {
	ingest.Config
	ops.NATSSettings
	ops.ComponentSettings
	ops.PushSettings
	ops.SealSettings
	ops.Settings

	components []ops.Component
	seal       *seal.Keys
}

// Validate reads the components and the seal key, and returns what is wrong with them.
func (s *settings) Validate() (err error) {
	s.components, err = ops.LoadComponents(s.ComponentSettings, nil, &s.PushSettings)
	var sealErr error
	s.seal, sealErr = ops.LoadSealKey(s.SealSettings)
	return errors.Join(err, sealErr)
}

// pushed returns the components as ingest wants them.
func pushed(components []ops.Component) []ingest.Component {
	var out []ingest.Component
	for _, c := range components {
		out = append(out, ingest.Component{AppID: c.AppID, Tokens: c.Tokens, AESKeys: c.AESKeys})
	}
	return out
}
