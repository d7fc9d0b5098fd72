package preflight

import (
	"context"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/seal"
	"wxtoken/internal/store"
)

const canaryRemedy = "look at nats-server's log, and at the room that is left; runbook: A full disk under NATS"

// CanaryOfRefresher has NATS store a message where the tokens lie, and give it back.
func CanaryOfRefresher(nc *nats.Conn) Probe {
	return canary(nc, events.RoleRefresher, events.StoreCanary, "a message was stored with the tokens and read back")
}

// CanaryOfIngest has the stream of the pushes look at a message that it may not store.
func CanaryOfIngest(nc *nats.Conn) Probe {
	return canary(nc, events.RoleIngest, events.RefusedCanary, "AUTH looked at a message, and refused it as it should; that it stores one, a push shows")
}

func canary(nc *nats.Conn, role string, fly func(context.Context, jetstream.JetStream) error, works string) Probe {
	return Probe{Name: "canary " + role, Works: works, Remedy: canaryRemedy, Run: with(nc, fly)}
}

// SealKey tells whether the seeds open what is sealed.
func SealKey(nc *nats.Conn, keys *seal.Keys) Probe {
	p := Probe{
		Name: "seal key", Works: "none, and nothing is sealed: tickets, codes and refresh tokens lie in NATS in the clear",
		Remedy: "put the seed that the line names into --seal-key-file (WXTOKEN_SEAL_KEY_FILE); runbook: A refresher does not start: `record sealed for a key whose seed is not here`",
		Run:    with(nc, func(ctx context.Context, js jetstream.JetStream) error { return store.CheckSeal(ctx, js, keys) }),
	}
	if keys != nil {
		p.Works = "its seed is here, public key " + keys.Public()
	}
	return p
}

// Mirrors tells whether services can read, in accounts of their own, what is kept.
func Mirrors(nc *nats.Conn, setup events.SetupConfig) Probe {
	return Probe{
		Name: "mirrors", Works: "as they should be, where there is an account of services (" + strings.Join(setup.ServicesAPI, ", ") + ")",
		Remedy: "a refresher makes them; its log says what keeps it from it; runbook: Services read old values",
		Run: with(nc, func(ctx context.Context, js jetstream.JetStream) error {
			return events.CheckMirrors(ctx, nc, js, setup)
		}),
	}
}

func with(nc *nats.Conn, do func(context.Context, jetstream.JetStream) error) func(context.Context) error {
	return func(ctx context.Context) error {
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		return do(ctx, js)
	}
}
