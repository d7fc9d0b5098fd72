package main

import (
	"wxtoken/internal/ops"
	"wxtoken/internal/refresher"
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
	TransferSettings
	ops.Settings

	components []refresher.Component
}

// Validate reads the components, and returns what is wrong with them.
func (s *settings) Validate() error {
	loaded, err := ops.LoadComponents(s.ComponentSettings, &s.AppsecretSettings, nil)
	s.components = nil // it may be called more than once
	for _, c := range loaded {
		s.components = append(s.components, refresher.Component{AppID: c.AppID, AppSecret: c.AppSecret})
	}
	return err
}
