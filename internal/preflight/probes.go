package preflight

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
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

// SealKeyOfIngest asks a refresher whether it opens what ingest seals.
func SealKeyOfIngest(nc *nats.Conn, keys *seal.Keys) Probe {
	const runbook = "; runbook: Change the seal key"
	return Probe{Name: "seal key", Look: func(ctx context.Context) Line {
		const name = "seal key"
		answer, err := askSeal(ctx, nc, keys.Public())
		if err != nil {
			return skip(name, "no refresher tells whether it opens what ingest seals%s", because(err))
		}
		have := joined(answer.SealKeys)
		switch answer.State {
		case events.SealOpened:
			return ok(name, "the refreshers have the seed of %s", keys.Public())
		case events.SealUnused:
			return ok(name, "none, neither here nor at the refreshers: tickets and codes lie in NATS in the clear")
		case events.SealMissing:
			return Line{Warn, name, "none here, and the refreshers have seeds (" + have + "): tickets and codes lie in NATS in the clear",
				"give ingest the public key, with --seal-key or --seal-key-file (WXTOKEN_SEAL_KEY_FILE); runbook: Turn sealing on"}
		case events.SealUnknown:
			return Line{Fail, name, "no refresher could open what is sealed for " + keys.Public() + ": theirs are " + have,
				"give ingest the public key of the refreshers' seed, with --seal-key or --seal-key-file (WXTOKEN_SEAL_KEY_FILE)" + runbook}
		}
		return skip(name, "the refresher is of a version that does not tell")
	}}
}

// askSeal asks a refresher about a public key. An older one knows no such question.
func askSeal(ctx context.Context, nc *nats.Conn, public string) (answer events.ConnectOpened, err error) {
	return askOpen(ctx, nc, events.ConnectOpen{Step: events.StepSeal, SealKey: public})
}

// askOpen asks a refresher. A refusal is an empty answer: it is of an older version.
func askOpen(ctx context.Context, nc *nats.Conn, q events.ConnectOpen) (answer events.ConnectOpened, err error) {
	question, err := json.Marshal(q)
	if err != nil {
		return answer, err
	}
	m, err := nc.RequestWithContext(ctx, events.SubjectConnectOpen, question)
	if err != nil || m.Header.Get(micro.ErrorHeader) != "" {
		return answer, err
	}
	return answer, json.Unmarshal(m.Data, &answer)
}

// HeldOfIngest asks a refresher what keeps tokens from being renewed: ingest may read no status.
func HeldOfIngest(nc *nats.Conn) Probe {
	return Probe{Name: "renewals", Look: func(ctx context.Context) Line {
		const name = "renewals"
		answer, err := askOpen(ctx, nc, events.ConnectOpen{Step: events.StepHeld})
		if err != nil {
			return skip(name, "no refresher tells whether anything holds them back%s", because(err))
		}
		line := ok(name, "nothing holds them back")
		for _, appid := range slices.Sorted(maps.Keys(answer.Held)) {
			one := held(name, &wxtoken.Status{Conditions: []wxtoken.Condition{answer.Held[appid]}})
			if one.Saw = appid + " " + one.Saw; line.Mark != OK {
				one.Saw = line.Saw + "; " + one.Saw
			}
			if line.Mark == Fail {
				one.Mark, one.Remedy = Fail, line.Remedy
			}
			line = one
		}
		return line
	}}
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
