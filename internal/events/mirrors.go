package events

import (
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// In an account of services, which may only read, the buckets and MESSAGES are mirrors of ours. The
// server copies them through a consumer that we create, so that such an account needs no right to
// create one in ours. The names are also in deploy/nats/nats-server.conf.
const (
	mirrorPrefix    = "mirror."    // mirror.<account>.<stream>: where the consumer of a mirror delivers
	keeperAPI       = "keeper.API" // prefix of our account's JetStream API in the services' account
	mirrorPending   = 1000         // unacked messages on their way to a mirror
	mirrorHeartbeat = time.Second  // the server accepts no other
)

// DefaultServicesAPI is the prefix in deploy/nats/nats-server.conf. If all use one account, nothing
// answers behind it, which is not a fault.
const DefaultServicesAPI = "services.API"

// MirrorAccount returns the name of the consumers that feed the mirrors in the account behind an
// API prefix: "services" for "services.API".
func MirrorAccount(api string) string {
	name, _, _ := strings.Cut(api, ".")
	return name
}

// Mirrored is a stream that services may read, with the settings that it has in their account.
// Mirror is not set: see In.
type Mirrored struct {
	jetstream.StreamConfig
	Filter string // the subjects that they may see; "" means all
}

// Mirrors returns the table of the mirrors in an account of services.
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
			RePublish:         sc.RePublish, // by the mirror, so that a reader that hears of a token finds it in the mirror
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
		DeliverSubject: m.deliverSubject(account), DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckFlowControlPolicy,
		FlowControl: true, IdleHeartbeat: mirrorHeartbeat, MaxAckPending: mirrorPending, Replicas: m.Replicas,
	}
}

// In returns the configuration of the mirror itself, in the account that the consumer feeds.
func (m Mirrored) In(account string) jetstream.StreamConfig {
	sc := m.StreamConfig
	sc.Mirror = &jetstream.StreamSource{
		Name: m.Name, External: &jetstream.ExternalStream{APIPrefix: keeperAPI},
		Consumer: &jetstream.StreamConsumerSource{Name: account, DeliverSubject: m.deliverSubject(account)},
	}
	return sc
}

func (m Mirrored) deliverSubject(account string) string { return mirrorPrefix + account + "." + m.Name }
