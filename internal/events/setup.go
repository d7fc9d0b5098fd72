package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// SetupConfig says how the streams are to be.
type SetupConfig struct {
	Replicas         int           // 1 or 3
	MessagesMaxAge   time.Duration // how long MESSAGES keeps a message
	MessagesMaxBytes int64         // how many bytes MESSAGES keeps; 0 = no limit of its own
	ServicesAPI      []string      // prefixes of JetStream's API in the accounts that have mirrors
}

// minServer is the oldest server that has all of: atomic batches, scheduled messages, @every.
var minServer = [2]int{2, 15}

// ErrServerTooOld is returned by Setup for a NATS server that lacks what wxtoken is built on.
var ErrServerTooOld = errors.New("the NATS server is too old")

// Setup creates the streams and buckets that are missing and updates the others. It may be run
// by several refreshers at once, and again at each start. It returns the names that it created.
func Setup(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, cfg SetupConfig) (created []string, err error) {
	if err := CheckServer(nc.ConnectedServerVersion()); err != nil {
		return nil, err
	}
	for _, sc := range streams(cfg) {
		_, err := js.Stream(ctx, sc.Name)
		missing := errors.Is(err, jetstream.ErrStreamNotFound)
		if err != nil && !missing {
			return created, fmt.Errorf("look up stream %s: %w", sc.Name, err)
		}
		if !missing {
			if _, err := js.UpdateStream(ctx, sc); err != nil {
				return created, fmt.Errorf("update stream %s: %w", sc.Name, err)
			}
			continue
		}
		// A mirror that outlived the stream has to be overtaken: it takes no message that it believes to have.
		last, err := lastMirrored(ctx, nc, cfg.ServicesAPI, sc.Name, cfg)
		if err != nil {
			return created, err
		}
		if sc.FirstSeq = 0; last > 0 {
			sc.FirstSeq = last + 1
		}
		if _, err := js.CreateStream(ctx, sc); err != nil {
			return created, fmt.Errorf("create stream %s: %w", sc.Name, err)
		}
		created = append(created, sc.Name)
	}
	return created, nil
}

// Exists reports whether the stream AUTH is there: ingest can't take a push before that.
func Exists(ctx context.Context, js jetstream.JetStream) error {
	if !js.Conn().IsConnected() {
		return errors.New("not connected to NATS")
	}
	if _, err := js.Stream(ctx, StreamAuth); err != nil {
		return fmt.Errorf("look up stream %s: %w", StreamAuth, err)
	}
	return nil
}

// CheckServer returns an error that wraps ErrServerTooOld for a version that lacks what wxtoken is built on.
func CheckServer(version string) error {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("read the NATS server's version %q: %w", version, err)
	}
	if major < minServer[0] || major == minServer[0] && minor < minServer[1] {
		return fmt.Errorf("%w: it is %s, wxtoken needs %d.%d or newer", ErrServerTooOld, version, minServer[0], minServer[1])
	}
	return nil
}

// Streams is how many there are.
const Streams = 5

const day = 24 * time.Hour

// streams is the table of everything that rests in NATS (docs/contract.md).
func streams(cfg SetupConfig) []jetstream.StreamConfig {
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
			// The bucket "tokens" for every KV client. What one renewal changes lies in this one
			// stream, so that one atomic batch can hold it. No age, size or count limit: each of
			// them could make a schedule vanish.
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
			RePublish:          &jetstream.RePublish{Source: AllTokens, Destination: prefixUpdated + ">"},
			Replicas:           replicas,
		},
		{
			Name:              StreamStatus,
			Description:       "what is known about each key beside its token",
			Subjects:          []string{"$KV." + BucketStatus + ".>"},
			MaxMsgsPerSubject: 1,
			Discard:           jetstream.DiscardNew,
			AllowDirect:       true,
			AllowRollup:       true,
			DenyDelete:        true,
			RePublish:         &jetstream.RePublish{Source: "$KV." + BucketStatus + ".>", Destination: "status.updated.>"},
			Replicas:          replicas,
		},
		{
			Name:        StreamDead,
			Description: "events that can't be processed, with the reason; private",
			Subjects:    []string{prefixDead + ">"},
			MaxAge:      30 * day,
			Replicas:    replicas,
		},
	}
}

// Drift returns in which settings a stream differs from the table, as "max_age 1h0m0s, want 0s"; nothing when it is as it should be. missing
// tells that there is no such stream. A refresher that starts sets right what NATS lets it change.
func Drift(ctx context.Context, js jetstream.JetStream, cfg SetupConfig, name string) (drift []string, missing bool, err error) {
	i := slices.IndexFunc(streams(cfg), func(sc jetstream.StreamConfig) bool { return sc.Name == name })
	if i < 0 {
		return nil, false, fmt.Errorf("stream %s is not in the table", name)
	}
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("look up stream %s: %w", name, err)
	}
	want, have := plain(streams(cfg)[i]), plain(stream.CachedInfo().Config)
	for setting, value := range want {
		if other := have[setting]; other != value {
			drift = append(drift, fmt.Sprintf("%s %v, want %v", setting, other, value))
		}
	}
	slices.Sort(drift)
	return drift, false, nil
}

// StreamNames returns the names of all streams, in the order of the table.
func StreamNames() (names []string) {
	for _, sc := range streams(SetupConfig{}) {
		names = append(names, sc.Name)
	}
	return names
}

// plain returns the settings of a stream that the table decides, by NATS's own names, with NATS's own defaults filled in.
func plain(sc jetstream.StreamConfig) map[string]any {
	for _, limit := range []*int64{&sc.MaxMsgs, &sc.MaxBytes, &sc.MaxMsgsPerSubject} {
		if *limit == 0 {
			*limit = -1
		}
	}
	if sc.MaxConsumers == 0 {
		sc.MaxConsumers = -1
	}
	if sc.MaxMsgSize == 0 {
		sc.MaxMsgSize = -1
	}
	if sc.AllowMsgSchedules {
		sc.AllowRollup = true
	}
	if sc.Duplicates == 0 { // two minutes, or the greatest age if that is less
		sc.Duplicates = 2 * time.Minute
		if sc.MaxAge > 0 {
			sc.Duplicates = min(sc.Duplicates, sc.MaxAge)
		}
	}
	rep := "none"
	if sc.RePublish != nil {
		rep = fmt.Sprint(*sc.RePublish)
	}
	return map[string]any{
		"subjects": fmt.Sprint(sc.Subjects), "retention": sc.Retention.String(), "storage": sc.Storage.String(), "discard": sc.Discard.String(),
		"max_msgs": sc.MaxMsgs, "max_bytes": sc.MaxBytes, "max_msgs_per_subject": sc.MaxMsgsPerSubject, "max_consumers": sc.MaxConsumers,
		"max_msg_size": sc.MaxMsgSize, "max_age": sc.MaxAge, "duplicate_window": sc.Duplicates, "num_replicas": sc.Replicas,
		"allow_direct": sc.AllowDirect, "allow_rollup_hdrs": sc.AllowRollup, "deny_delete": sc.DenyDelete, "allow_msg_ttl": sc.AllowMsgTTL,
		"allow_atomic": sc.AllowAtomicPublish, "allow_msg_schedules": sc.AllowMsgSchedules, "republish": rep, "sealed": sc.Sealed, "no_ack": sc.NoAck,
	}
}
