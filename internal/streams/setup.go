package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
)

// minServer is the oldest server version with atomic batches, scheduled messages and @every.
var minServer = [2]int{2, 15}

// ErrServerTooOld is returned by Setup for a NATS server that lacks features that wxtoken needs.
var ErrServerTooOld = errors.New("the NATS server is too old")

// Setup creates missing streams and buckets and updates the others. It may be run by several
// refreshers at once, and again at each start. It returns the names of those that it created.
func Setup(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, cfg events.SetupConfig) (created []string, err error) {
	if err := CheckServer(nc.ConnectedServerVersion()); err != nil {
		return nil, err
	}
	for _, sc := range events.Streams(cfg) {
		missing, err := setUp(ctx, nc, js, sc, cfg)
		if err != nil {
			return created, err
		}
		if missing {
			created = append(created, sc.Name)
		}
	}
	return created, nil
}

// setupWait bounds the creation of one stream. In a cluster the answer gets lost when two
// refreshers create the same stream at once.
const setupWait = 3 * time.Second

// setUp creates one stream if it is missing, or updates it.
func setUp(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, sc jetstream.StreamConfig, cfg events.SetupConfig) (missing bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, setupWait)
	defer cancel()
	_, err = js.Stream(ctx, sc.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		// If a mirror outlived the stream, the new stream must start above it: a mirror ignores
		// sequences that it believes to have.
		last, err := lastMirrored(ctx, nc, cfg, sc.Name)
		if err != nil {
			return true, err
		}
		if last > 0 {
			sc.FirstSeq = last + 1
		}
		if _, err := js.CreateStream(ctx, sc); err != nil {
			return true, fmt.Errorf("create stream %s: %w", sc.Name, err)
		}
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up stream %s: %w", sc.Name, err)
	}
	if _, err = js.UpdateStream(ctx, sc); err == nil {
		return false, nil
	}
	var refused *jetstream.APIError
	if errors.As(err, &refused) && refused.Code != 503 { // 503: no leader at the moment
		return false, fmt.Errorf("update stream %s: %w (if NATS can't change it to these settings, delete it; "+
			"its data is lost then)", sc.Name, err)
	}
	return false, fmt.Errorf("update stream %s: %w", sc.Name, err)
}

// CheckExists returns nil if the stream AUTH exists: before that ingest can't store pushes.
func CheckExists(ctx context.Context, js jetstream.JetStream) error {
	if !js.Conn().IsConnected() {
		return errors.New("not connected to NATS")
	}
	if err := CheckServer(js.Conn().ConnectedServerVersion()); err != nil {
		return err
	}
	if _, err := js.Stream(ctx, events.StreamAuth); err != nil {
		return fmt.Errorf("look up stream %s: %w", events.StreamAuth, err)
	}
	return nil
}

// CheckServer returns an error that wraps ErrServerTooOld for a server version that lacks features
// that wxtoken needs.
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

// Drift returns the settings in which a stream differs from the table, as "max_age 1h0m0s, want
// 0s"; none if it is as it should be. missing reports that there is no such stream. A refresher
// that starts corrects what NATS lets it change.
func Drift(ctx context.Context, js jetstream.JetStream, cfg events.SetupConfig, name string) (drift []string, missing bool, err error) {
	i := slices.IndexFunc(events.Streams(cfg), func(sc jetstream.StreamConfig) bool { return sc.Name == name })
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
	return differences(stream.CachedInfo().Config, events.Streams(cfg)[i]), false, nil
}

// differences returns the settings in which a stream is not as wanted, except for those in without.
func differences(have, want jetstream.StreamConfig, without ...string) (all []string) {
	has := settingsOf(have)
	for setting, value := range settingsOf(want) {
		if other := has[setting]; other != value && !slices.Contains(without, setting) {
			all = append(all, fmt.Sprintf("%s %v, want %v", setting, other, value))
		}
	}
	slices.Sort(all)
	return all
}

// CheckIntact returns an error that names each stream that is missing, or has other settings than Setup
// gives it: it was deleted, and perhaps recreated without the settings that wxtoken needs. Settings
// that an operator may choose (replicas, ages and sizes) are not checked. With names, only those
// streams are checked.
func CheckIntact(ctx context.Context, js jetstream.JetStream, cfg events.SetupConfig, names ...string) error {
	var faults []error
	for _, want := range events.Streams(cfg) {
		if names != nil && !slices.Contains(names, want.Name) {
			continue
		}
		stream, err := js.Stream(ctx, want.Name)
		if err != nil {
			faults = append(faults, fmt.Errorf("look up stream %s: %w", want.Name, err))
			continue
		}
		chosen := []string{"num_replicas", "duplicate_window", "max_msg_size", "max_consumers", "deny_delete"}
		if want.MaxAge > 0 {
			chosen = append(chosen, "max_age", "max_bytes")
		}
		if lacks := differences(stream.CachedInfo().Config, want, chosen...); lacks != nil {
			faults = append(faults, fmt.Errorf("stream has unexpected settings: %s: %s", want.Name, strings.Join(lacks, ", ")))
		}
	}
	return errors.Join(faults...)
}

// settingsOf returns the settings of a stream that are in the table, by NATS's own names, with
// NATS's defaults filled in.
func settingsOf(sc jetstream.StreamConfig) map[string]any {
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
	if sc.Duplicates == 0 { // two minutes, or MaxAge if that is less
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
