package events

import (
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// In an account of services, which may only read, the buckets and MESSAGES are mirrors of ours. The
// server copies by means of a consumer that we make for it, so that such an account needs no right
// to make one in ours. The names stand in deploy/nats/nats-server.conf as well.
const (
	mirrorPrefix  = "mirror."    // mirror.<account>.<stream>: where the consumer of a mirror delivers
	keeperAPI     = "keeper.API" // what JetStream's API in our account is called in that of the services
	mirrorPending = 1000         // messages under way to a mirror
	mirrorBeat    = time.Second  // the server takes no other
)

// DefaultServicesAPI is the prefix that deploy/nats/nats-server.conf has. With one account for all
// there is no answer behind it, and none is missed.
const DefaultServicesAPI = "services.API"

// MirrorAccount returns the name of the consumers through which the account behind an API prefix is
// served: "services" for "services.API".
func MirrorAccount(api string) string {
	name, _, _ := strings.Cut(api, ".")
	return name
}

// Mirrored is a stream that services may read, as their account has it. Mirror is not set: see In.
type Mirrored struct {
	jetstream.StreamConfig
	Filter string // what they may see of it; "" = all
}

// Mirrors is the table of what an account of services has.
func Mirrors(cfg SetupConfig) (all []Mirrored) {
	for _, sc := range Streams(cfg) {
		m := Mirrored{StreamConfig: jetstream.StreamConfig{
			Name:              sc.Name,
			Description:       "read copy of what wxtoken keeps in its own account: " + sc.Description,
			MaxMsgsPerSubject: sc.MaxMsgsPerSubject,
			MaxAge:            sc.MaxAge,
			MaxBytes:          sc.MaxBytes,
			Replicas:          sc.Replicas,
			AllowDirect:       sc.AllowDirect,
			DenyDelete:        true,
			DenyPurge:         true,
			RePublish:         sc.RePublish, // by the mirror: a reader who hears of a token finds it there
		}}
		switch sc.Name {
		case StreamTokens:
			m.Description, m.Filter = "read copy of the current tokens (bucket tokens)", AllTokens
		case StreamStatus, StreamMessages:
		default:
			continue
		}
		all = append(all, m)
	}
	return all
}

// Feed returns the consumer in our account that feeds the mirror in another one.
func (m Mirrored) Feed(account string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: account, Description: "feeds the mirror in another account", FilterSubject: m.Filter,
		DeliverSubject: m.delivered(account), DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckFlowControlPolicy,
		FlowControl: true, IdleHeartbeat: mirrorBeat, MaxAckPending: mirrorPending, Replicas: m.Replicas,
	}
}

// In returns the mirror itself, which that consumer feeds.
func (m Mirrored) In(account string) jetstream.StreamConfig {
	sc := m.StreamConfig
	sc.Mirror = &jetstream.StreamSource{
		Name: m.Name, External: &jetstream.ExternalStream{APIPrefix: keeperAPI},
		Consumer: &jetstream.StreamConsumerSource{Name: account, DeliverSubject: m.delivered(account)},
	}
	return sc
}

func (m Mirrored) delivered(account string) string { return mirrorPrefix + account + "." + m.Name }
