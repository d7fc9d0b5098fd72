package preflight

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
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
	return Probe{Name: "canary " + role, Works: works, Remedy: canaryRemedy, Run: func(ctx context.Context) error {
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		return fly(ctx, js)
	}}
}
