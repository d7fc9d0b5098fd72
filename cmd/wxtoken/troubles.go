package main

import (
	"context"
	"time"

	"wxtoken/wechatsim"
)

// The accounts that have troubles. They authorize before the first one; the accounts of --sim-authorizers have none.
const (
	troubledShop = "wxb000000000000001"
	fickleShop   = "wxb000000000000002"
)

// runTroubles causes one trouble after another for accounts of the fake platform, so that a person who watches the page
// sees them come and go. It begins after two lives of a token, and starts again when all are over.
func (s *simulation) runTroubles(ctx context.Context) error {
	p, life := s.platform, s.life
	fail := func(f wechatsim.Fault) func() error {
		f.API, f.Authorizer, f.For = "api_authorizer_token", troubledShop, 3*life
		return func() error { return p.Fail(f) }
	}
	visit := func() error { return p.PushMessage("", fickleShop, wechatsim.Message{Event: "subscribe"}) }
	pause := 2 * life
	for {
		for _, step := range []struct {
			wait time.Duration // before it
			do   func() error
		}{
			{pause, func() error { return p.Authorize("", troubledShop) }},
			{0, func() error { return p.Authorize("", fickleShop) }},
			{life, visit},
			// Renewals fail, the token expires, and all is well again.
			{life, fail(wechatsim.Fault{Mode: wechatsim.FaultBusy})},
			{3 * life, visit},
			{2 * life, func() error { return p.Cancel("", fickleShop) }},
			{2 * life, fail(wechatsim.Fault{Errcode: 48001})}, // a person has to act
			{2 * life, func() error { return p.Authorize("", fickleShop) }},
			{3 * life, visit},
		} {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(step.wait):
			}
			_ = step.do() // it fails if a person has already changed the account
		}
	}
}
