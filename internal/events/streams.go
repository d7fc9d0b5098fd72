package events

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// SetupConfig holds the settings of streams that operators choose.
type SetupConfig struct {
	Replicas         int           // 1 or 3
	MessagesMaxAge   time.Duration // how long MESSAGES keeps a message
	MessagesMaxBytes int64         // how many bytes MESSAGES keeps; 0 means no limit of its own
	ServicesAPI      []string      // prefixes of JetStream's API in the accounts that have mirrors
}

const day = 24 * time.Hour

const (
	journalRecords = 500_000  // on JOURNAL and on TRAFFIC each, some hundred bytes each
	trafficRecords = 20_000   // on TRAFFIC, of one subject
	journalRecord  = 16 << 10 // bytes, of one record
)

// Streams returns the table of everything that is stored in NATS (docs/contract.md).
func Streams(cfg SetupConfig) []jetstream.StreamConfig {
	maxBytes := cfg.MessagesMaxBytes
	if maxBytes == 0 {
		maxBytes = -1
	}
	replicas := max(cfg.Replicas, 1)
	return []jetstream.StreamConfig{
		{
			Name:        StreamAuth,
			Description: "tickets, codes and cancellations for the refresher; private",
			Subjects:    []string{AllAuth},
			Retention:   jetstream.WorkQueuePolicy,
			MaxAge:      day,
			Duplicates:  10 * time.Minute,
			Replicas:    replicas,
		},
		{
			Name:        StreamMessages,
			Description: "messages and notices for services; never a secret",
			Subjects:    []string{prefixMessage + ">", prefixNotice + ">"},
			MaxAge:      cfg.MessagesMaxAge,
			MaxBytes:    maxBytes,
			Duplicates:  2 * time.Minute,
			Replicas:    replicas,
		},
		{
			// The bucket "tokens" for every KV client. All that one renewal changes is in this one
			// stream, so that one atomic batch can store it. No limit of age, size or count: each
			// of them could make a schedule vanish.
			Name:               StreamTokens,
			Description:        "current tokens (bucket tokens), their credentials and their schedules",
			Subjects:           []string{AllTokens, AllCredentials, prefixScheduled + ">", AllDue},
			MaxMsgsPerSubject:  1,
			Discard:            jetstream.DiscardOld,
			MaxMsgs:            -1,
			MaxBytes:           -1,
			Duplicates:         2 * time.Minute,
			AllowDirect:        true,
			AllowRollup:        true,
			DenyDelete:         true,
			AllowMsgTTL:        true,
			AllowAtomicPublish: true,
			AllowMsgSchedules:  true,
			RePublish:          &jetstream.RePublish{Source: AllTokens, Destination: "token.updated.>"},
			Replicas:           replicas,
		},
		{
			Name:              StreamStatus,
			Description:       "what is known about each key beside its token",
			Subjects:          []string{AllStatuses},
			MaxMsgsPerSubject: 1,
			Discard:           jetstream.DiscardNew,
			AllowDirect:       true,
			AllowRollup:       true,
			DenyDelete:        true,
			RePublish:         &jetstream.RePublish{Source: AllStatuses, Destination: "status.updated.>"},
			Replicas:          replicas,
		},
		{
			Name:        StreamDead,
			Description: "events that can't be processed, with the reason; private",
			Subjects:    []string{prefixDead + ">"},
			MaxAge:      30 * day,
			AllowDirect: true,
			Replicas:    replicas,
		},
		{
			// What operators read and only refreshers write: records that each have their own TTL,
			// audit records the longest. It may drop the oldest records, but must never block
			// anything. It comes before TRAFFIC, whose subjects it once had: an update must release
			// them first.
			Name:        StreamJournal,
			Description: "what operators read: audit, notices; private, never a secret",
			Subjects:    []string{JournalFilter(JournalAudit), JournalFilter(JournalNotice)},
			MaxAge:      400 * day,
			// No limit of size: the server would reserve it at once and fill a small disk.
			MaxMsgs:     journalRecords,
			MaxMsgSize:  journalRecord,
			AllowDirect: true,
			AllowMsgTTL: true,
			Replicas:    replicas,
		},
		{
			// What strangers can cause, and what processes that face them can write: a flood of it
			// displaces only its own kind.
			Name:              StreamTraffic,
			Description:       "what operators read: counts, refused pushes; private, never a secret",
			Subjects:          []string{JournalFilter(JournalCount), JournalFilter(JournalPush)},
			MaxAge:            PushKept,
			MaxMsgs:           journalRecords,
			MaxMsgsPerSubject: trafficRecords,
			MaxMsgSize:        journalRecord,
			AllowDirect:       true,
			AllowMsgTTL:       true,
			Replicas:          replicas,
		},
	}
}

// StreamNames returns the names of all streams, in the order of the table.
func StreamNames() (names []string) {
	for _, sc := range Streams(SetupConfig{}) {
		names = append(names, sc.Name)
	}
	return names
}
