package main

import (
	"errors"

	"wxtoken/internal/ops"
	"wxtoken/internal/preflight"
	"wxtoken/internal/refresher"
	"wxtoken/internal/seal"
)

// program is this executable.
var program = ops.Program{
	Name:        "refresher",
	Description: "Keeps every token fresh: takes tickets and codes from NATS, renews on scheduled messages, and is the only process that calls WeChat's API.",
}

// settings is all that an operator can set.
type settings struct {
	refresher.Config
	ops.NATSSettings
	ops.ComponentSettings
	ops.AppsecretSettings
	ops.SeedSettings
	TransferSettings
	Preflight preflight.Config `embed:""`
	ops.Settings

	components []ops.Component
	seal       *seal.Keys
}

// Validate reads the components and the seeds, and returns what is wrong with them.
func (s *settings) Validate() (err error) {
	if s.MakeSealKey != "" {
		return nil // that needs nothing else
	}
	s.components, err = ops.LoadComponents(s.ComponentSettings, &s.AppsecretSettings, nil)
	var sealErr error
	s.seal, sealErr = ops.LoadSeeds(s.SeedSettings)
	return errors.Join(err, sealErr)
}

// called returns the components as the refresher wants them.
func called(components []ops.Component) []refresher.Component {
	var out []refresher.Component
	for _, c := range components {
		out = append(out, refresher.Component{AppID: c.AppID, AppSecret: c.AppSecret})
	}
	return out
}
