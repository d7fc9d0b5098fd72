package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
)

// Mirror is the state of one mirror of a stream.
type Mirror struct {
	MirrorOf
	Created bool   // created just now: the other fields are not set
	Watches int    // consumers that services have on it
	Newest  uint64 // sequence of the newest message that it should have
	Last    uint64 // sequence of the newest message of the mirrored stream
	Has     uint64 // sequence of the newest message that it has
	// Time since it last heard from the mirrored stream, which sends a heartbeat each second;
	// negative if it never did.
	Silent time.Duration
	Err    error // why it is missing, or not as it should be
}

// MirrorOf names a mirror.
type MirrorOf struct {
	Account string // the name of its consumer
	Stream  string // the name of both streams
}

// HasServices reports whether JetStream answers behind an API prefix, that is whether there is an
// account for services.
func HasServices(ctx context.Context, nc *nats.Conn, api string) bool {
	ctx, cancel := context.WithTimeout(ctx, servicesWait)
	defer cancel()
	_, err := nc.RequestWithContext(ctx, api+".STREAM.INFO."+events.StreamTokens, nil)
	return err == nil
}

// MaxConsumers returns how many consumers each mirror behind an API prefix may have; 0 means no
// limit.
func MaxConsumers(ctx context.Context, nc *nats.Conn, api string) (int, error) {
	remote, err := jetstream.NewWithAPIPrefix(nc, api)
	if err != nil {
		return 0, fmt.Errorf("use the API prefix %q: %w", api, err)
	}
	ctx, cancel := context.WithTimeout(ctx, servicesWait)
	defer cancel()
	account, err := remote.AccountInfo(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask %s for the limits of its account: %w", api, err)
	}
	return max(account.Limits.MaxConsumers, 0), nil
}

// servicesWait bounds the wait for an answer of the API behind a prefix.
const servicesWait = 2 * time.Second

// SetupMirrors creates the mirrors that services read in the account behind an API prefix, and
// returns the state of each. The streams themselves must exist. It may be run at any time, also by
// several refreshers at once.
func SetupMirrors(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, api string, cfg events.SetupConfig) (all []Mirror) {
	for _, m := range events.Mirrors(cfg) {
		remote, err := jetstream.NewWithAPIPrefix(nc, api)
		state := Mirror{MirrorOf: MirrorOf{events.MirrorAccount(api), m.Name}}
		if err == nil {
			state, err = setupMirror(ctx, js, remote, events.MirrorAccount(api), m)
		}
		if err != nil {
			state.Err = fmt.Errorf("mirror stream %s behind %s: %w", m.Name, api, err)
		}
		all = append(all, state)
	}
	return all
}

// FeedAnew resets the consumer of a mirror to continue after has, the last message that the mirror
// already has; 0 for an empty mirror.
//
// An empty mirror must be fed from sequence 1, even if the stream's first messages are gone: of
// sequences that the consumer counts as delivered only the mirror's leader skips over (nats-server
// 2.15.2), and its followers then stop for good at the first message. A mirror that has messages
// must not be fed from 1: it acks what it has, the consumer ignores those acks, and stops once
// max_ack_pending is reached.
func FeedAnew(ctx context.Context, js jetstream.JetStream, m MirrorOf, has uint64) error {
	if _, err := js.ResetConsumerToSequence(ctx, m.Stream, m.Account, has+1); err != nil {
		return fmt.Errorf("reset consumer %s of %s: %w", m.Account, m.Stream, err)
	}
	return nil
}

// CheckMirrors returns the faults of the mirrors behind the API prefixes of cfg. It changes
// nothing.
func CheckMirrors(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, cfg events.SetupConfig) error {
	var faults []error
	for _, api := range cfg.ServicesAPI {
		if !HasServices(ctx, nc, api) {
			if api != events.DefaultServicesAPI { // set by the operator
				faults = append(faults, fmt.Errorf("JetStream does not answer behind %s", api))
			}
			continue
		}
		remote, err := jetstream.NewWithAPIPrefix(nc, api)
		if err != nil {
			return fmt.Errorf("use the API prefix %q: %w", api, err)
		}
		limit, err := MaxConsumers(ctx, nc, api)
		if err != nil {
			faults = append(faults, err)
		}
		for _, m := range events.Mirrors(cfg) {
			state, err := inspect(ctx, js, remote, events.MirrorAccount(api), m)
			if err == nil && limit > 0 && state.Watches >= limit {
				err = fmt.Errorf("services use all %d consumers that max_consumers of their account allows "+
					"(raise it in nats-server.conf and reload)", limit)
			}
			if err == nil && state.Created {
				err = jetstream.ErrStreamNotFound
			}
			if err != nil {
				faults = append(faults, fmt.Errorf("mirror stream %s behind %s: %w", m.Name, api, err))
			}
		}
	}
	return errors.Join(faults...)
}

// inspect returns the state of a mirror; Created means that it does not exist yet.
func inspect(ctx context.Context, js, remote jetstream.JetStream, account string, m events.Mirrored) (Mirror, error) {
	state := Mirror{MirrorOf: MirrorOf{account, m.Name}, Silent: -1}
	stream, err := remote.Stream(ctx, m.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		state.Created = true
		return state, nil
	}
	if err != nil {
		return state, err
	}
	info := stream.CachedInfo()
	if info.Mirror == nil {
		return state, errors.New("no word of what it mirrors: it has no leader, or is not a mirror (if that stays, purge that " +
			"account with the system user, nats server account purge: then it is created anew)")
	}
	if !matches(m, info.Config) {
		return state, errors.New("made with other settings (purge that account with the system user, nats server account purge: " +
			"then it is created anew)")
	}
	state.Has, state.Silent, state.Watches = info.State.LastSeq, info.Mirror.Active, info.State.Consumers
	// Read after the mirror: otherwise a message in between would make the mirror look ahead of the
	// stream.
	state.Newest, state.Last, err = newest(ctx, js, m)
	return state, err
}

func setupMirror(ctx context.Context, js, remote jetstream.JetStream, account string, m events.Mirrored) (Mirror, error) {
	state, err := inspect(ctx, js, remote, account, m)
	if err != nil {
		return state, err
	}
	feeds, err := js.PushConsumer(ctx, m.Name, account)
	missing := errors.Is(err, jetstream.ErrConsumerNotFound)
	if missing { // the consumer is lost together with its stream
		feeds, err = js.CreateOrUpdatePushConsumer(ctx, m.Name, m.Feed(account))
	}
	if err != nil {
		return state, fmt.Errorf("look up or make its consumer: %w", err)
	}
	if state.Created && feeds.CachedInfo().AckFloor.Stream > 0 {
		// The consumer is where an earlier mirror left it, or where another refresher has just
		// created the mirror: look again.
		if state, err = inspect(ctx, js, remote, account, m); err != nil {
			return state, err
		}
	}
	if missing || state.Created {
		if err := FeedAnew(ctx, js, state.MirrorOf, state.Has); err != nil {
			return state, err
		}
	}
	if !state.Created {
		return state, nil
	}
	_, err = remote.CreateStream(ctx, m.In(account))
	return state, err
}

// newest returns the sequence of the newest message of a stream that its mirror should have, 0 if
// there is none, and that of the stream's newest message.
func newest(ctx context.Context, js jetstream.JetStream, m events.Mirrored) (wanted, last uint64, err error) {
	stream, err := js.Stream(ctx, m.Name)
	if err != nil {
		return 0, 0, err
	}
	last = stream.CachedInfo().State.LastSeq
	if m.Filter == "" {
		return last, last, nil
	}
	msg, err := stream.GetLastMsgForSubject(ctx, m.Filter)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, last, nil
	}
	if err != nil {
		return 0, 0, err
	}
	return msg.Sequence, max(last, msg.Sequence), nil
}

// matches reports whether a mirror has the settings that it should have.
func matches(m events.Mirrored, c jetstream.StreamConfig) bool {
	return c.MaxAge == m.MaxAge && max(c.MaxBytes, 0) == max(m.MaxBytes, 0) && c.Replicas == m.Replicas
}

// lastMirrored returns the newest sequence of a stream that any mirror has, 0 if there are no
// mirrors.
func lastMirrored(ctx context.Context, nc *nats.Conn, cfg events.SetupConfig, stream string) (last uint64, err error) {
	if !slices.ContainsFunc(events.Mirrors(cfg), func(m events.Mirrored) bool { return m.Name == stream }) {
		return 0, nil
	}
	for _, api := range cfg.ServicesAPI {
		remote, err := jetstream.NewWithAPIPrefix(nc, api)
		if err != nil {
			return 0, fmt.Errorf("use the API prefix %q: %w", api, err)
		}
		switch s, err := remote.Stream(ctx, stream); {
		case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		case err != nil:
			return 0, fmt.Errorf("ask %s for its mirror of %s: %w", api, stream, err)
		default:
			last = max(last, s.CachedInfo().State.LastSeq)
		}
	}
	return last, nil
}
