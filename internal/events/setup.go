package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// SetupConfig says how the streams are to be.
type SetupConfig struct {
	Replicas         int           // 1 or 3
	MessagesMaxAge   time.Duration // how long MESSAGES keeps a message
	MessagesMaxBytes int64         // how many bytes MESSAGES keeps; 0 = no limit of its own
}

// minServer is the oldest server that has all of: atomic batches, scheduled messages, @every.
var minServer = [2]int{2, 15}

// ErrServerTooOld is returned by Setup for a NATS server that lacks what wxtoken is built on.
var ErrServerTooOld = errors.New("the NATS server is too old")

// Setup creates the streams and buckets that are missing and updates the others. It may be run
// by several refreshers at once, and again at each start. It returns the names that it created.
func Setup(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, cfg SetupConfig) (created []string, err error) {
	if err := checkServer(nc.ConnectedServerVersion()); err != nil {
		return nil, err
	}
	for _, sc := range streams(cfg) {
		missing, err := setUp(ctx, js, sc)
		if err != nil {
			return created, err
		}
		if missing {
			created = append(created, sc.Name)
		}
	}
	return created, nil
}

// setupWait bounds the making of one stream. In a cluster the answer gets lost when two ask for the same stream at once.
const setupWait = 3 * time.Second

// setUp creates one stream if it is missing, or updates it.
func setUp(ctx context.Context, js jetstream.JetStream, sc jetstream.StreamConfig) (missing bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, setupWait)
	defer cancel()
	_, err = js.Stream(ctx, sc.Name)
	missing = errors.Is(err, jetstream.ErrStreamNotFound)
	if err != nil && !missing {
		return false, fmt.Errorf("look up stream %s: %w", sc.Name, err)
	}
	if _, err = js.CreateOrUpdateStream(ctx, sc); err == nil {
		return missing, nil
	}
	var refused *jetstream.APIError
	if !missing && errors.As(err, &refused) && refused.Code != 503 { // not for want of a leader
		return false, fmt.Errorf("update stream %s: %w: if it can't be changed into what it has to be, delete it; what it holds is lost then", sc.Name, err)
	}
	return missing, fmt.Errorf("create or update stream %s: %w", sc.Name, err)
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

// Intact returns an error that names each stream that is not there, or is another than Setup makes: somebody deleted it, and
// may have made it anew without what wxtoken is built on. What an operator may choose (replicas, ages and sizes) is not looked at.
func Intact(ctx context.Context, js jetstream.JetStream, cfg SetupConfig) error {
	var faults []error
	for _, want := range streams(cfg) {
		stream, err := js.Stream(ctx, want.Name)
		if err != nil {
			faults = append(faults, fmt.Errorf("look up stream %s: %w", want.Name, err))
			continue
		}
		if lacks := differs(stream.CachedInfo().Config, want); len(lacks) > 0 {
			faults = append(faults, fmt.Errorf("%w: %s: %s", ErrAltered, want.Name, strings.Join(lacks, ", ")))
		}
	}
	return errors.Join(faults...)
}

// ErrAltered is returned by Intact for a stream that is not as Setup makes it.
var ErrAltered = errors.New("stream was made by somebody else, with other settings")

// differs names the settings in which a stream is not what it has to be.
func differs(got, want jetstream.StreamConfig) (names []string) {
	for _, setting := range []struct {
		name string
		same bool
	}{
		{"subjects", slices.Equal(got.Subjects, want.Subjects)},
		{"retention", got.Retention == want.Retention},
		{"storage", got.Storage == want.Storage},
		{"discard", got.Discard == want.Discard},
		{"max_age", want.MaxAge > 0 || got.MaxAge == 0},
		{"max_msgs", want.MaxMsgs > 0 || got.MaxMsgs <= 0},
		{"max_bytes", want.Name != StreamTokens || got.MaxBytes <= 0},
		{"max_msgs_per_subject", max(got.MaxMsgsPerSubject, 0) == want.MaxMsgsPerSubject},
		{"allow_direct", got.AllowDirect || !want.AllowDirect},
		{"allow_rollup_hdrs", got.AllowRollup || !want.AllowRollup},
		{"allow_msg_ttl", got.AllowMsgTTL || !want.AllowMsgTTL},
		{"allow_atomic", got.AllowAtomicPublish || !want.AllowAtomicPublish},
		{"allow_msg_schedules", got.AllowMsgSchedules || !want.AllowMsgSchedules},
		{"republish", want.RePublish == nil || got.RePublish != nil && *got.RePublish == *want.RePublish},
	} {
		if !setting.same {
			names = append(names, setting.name)
		}
	}
	return names
}

func checkServer(version string) error {
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
			Name:              "KV_" + BucketStatus,
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
