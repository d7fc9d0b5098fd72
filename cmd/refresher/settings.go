package main

import (
	"errors"

	"wxtoken/internal/login"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/notify"
	"wxtoken/internal/preflight"
	"wxtoken/internal/refresher"
	"wxtoken/internal/seal"
	"wxtoken/internal/settings"
)

// program is this executable.
var program = settings.Program{
	Name:        "refresher",
	Description: "Keeps all tokens fresh: takes tickets and codes from NATS, renews on scheduled messages, and is the only process that asks WeChat for tokens.",
}

// config holds all settings.
type config struct {
	refresher.Config
	natsconn.Settings
	settings.ComponentSettings
	settings.AppsecretSettings
	settings.SeedSettings
	TransferSettings
	Console   bool             `name:"console" group:"Operator's page" default:"true" help:"Serve the operator's page. It takes half a kilobyte of memory per account; with very many accounts, let one refresher serve it and set --console=false for the others."`
	Notify    notify.Config    `embed:""`
	Login     login.Config     `embed:""`
	Preflight preflight.Config `embed:""`
	settings.Operations

	components []settings.Component
	seal       *seal.Keys
}

// Validate reads the components and the seeds, and returns what is wrong with them.
func (s *config) Validate() (err error) {
	if s.MakeSealKey != "" || s.Login.MakeConsoleUser != "" {
		return nil // no other setting is needed
	}
	s.components, err = settings.LoadComponents(s.ComponentSettings, &s.AppsecretSettings, nil)
	var sealErr error
	s.seal, sealErr = settings.LoadSeeds(s.SeedSettings)
	return errors.Join(err, sealErr)
}
