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

// Mirror is how one mirror of a stream is doing.
type Mirror struct {
	MirrorOf
	Created bool   // just now: there is nothing more to tell
	Watches int    // consumers that services have on it
	Newest  uint64 // sequence of the newest message that it is to have
	Last    uint64 // sequence of the newest message of the stream that is mirrored
	Has     uint64 // sequence of the newest message that it has
	// Since it last heard of the stream that is mirrored, each second in quiet times; below 0:
	// never yet.
	Silent time.Duration
	Err    error // why it is not there, or not as it should be
}

// MirrorOf names a mirror.
type MirrorOf struct {
	Account string // the name of its consumer
	Stream  string // of both
}

// HasServices reports whether JetStream answers behind an API prefix. Without an account for
// services it does not.
func HasServices(ctx context.Context, nc *nats.Conn, api string) bool {
	ctx, cancel := context.WithTimeout(ctx, servicesWait)
	defer cancel()
	_, err := nc.RequestWithContext(ctx, api+".STREAM.INFO."+events.StreamTokens, nil)
	return err == nil
}

// MaxConsumers returns how many consumers each mirror behind an API prefix may have, 0 for any
// number.
func MaxConsumers(ctx context.Context, nc *nats.Conn, api string) (int, error) {
	there, err := jetstream.NewWithAPIPrefix(nc, api)
	if err != nil {
		return 0, fmt.Errorf("use the API prefix %q: %w", api, err)
	}
	ctx, cancel := context.WithTimeout(ctx, servicesWait)
	defer cancel()
	account, err := there.AccountInfo(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask %s for the limits of its account: %w", api, err)
	}
	return max(account.Limits.MaxConsumers, 0), nil
}

// servicesWait is how long the API behind a prefix may take to answer.
const servicesWait = 2 * time.Second

// SetupMirrors makes what services read in the account behind an API prefix, and tells how each
// mirror is doing. The streams themselves have to be there. It may be run at any time, by several
// at once.
func SetupMirrors(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, api string, cfg events.SetupConfig) (all []Mirror) {
	for _, m := range events.Mirrors(cfg) {
		there, err := jetstream.NewWithAPIPrefix(nc, api)
		state := Mirror{MirrorOf: MirrorOf{events.MirrorAccount(api), m.Name}}
		if err == nil {
			state, err = setupMirror(ctx, js, there, events.MirrorAccount(api), m)
		}
		if err != nil {
			state.Err = fmt.Errorf("mirror stream %s behind %s: %w", m.Name, api, err)
		}
		all = append(all, state)
	}
	return all
}

// FeedAnew has the consumer of a mirror begin behind the message that the mirror has already; 0 for
// an empty one.
//
// An empty mirror has to be fed from sequence 1, also where the first messages are gone: a sequence
// of 1 or more that its consumer calls delivered, its leader leaves out for itself alone
// (nats-server 2.15.2), and the followers stop for good at the first message. One that has messages
// must not be: it acks what it has, the consumer counts those acks for nothing, and stands still
// when all that may be pending is.
func FeedAnew(ctx context.Context, js jetstream.JetStream, m MirrorOf, has uint64) error {
	if _, err := js.ResetConsumerToSequence(ctx, m.Stream, m.Account, has+1); err != nil {
		return fmt.Errorf("reset consumer %s of %s: %w", m.Account, m.Stream, err)
	}
	return nil
}

// CheckMirrors returns what is wrong with the mirrors behind the API prefixes of cfg, and changes
// nothing.
func CheckMirrors(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, cfg events.SetupConfig) error {
	var faults []error
	for _, api := range cfg.ServicesAPI {
		if !HasServices(ctx, nc, api) {
			if api != events.DefaultServicesAPI { // a setting asks for it
				faults = append(faults, fmt.Errorf("JetStream does not answer behind %s", api))
			}
			continue
		}
		there, err := jetstream.NewWithAPIPrefix(nc, api)
		if err != nil {
			return fmt.Errorf("use the API prefix %q: %w", api, err)
		}
		limit, err := MaxConsumers(ctx, nc, api)
		if err != nil {
			faults = append(faults, err)
		}
		for _, m := range events.Mirrors(cfg) {
			state, err := look(ctx, js, there, events.MirrorAccount(api), m)
			if err == nil && limit > 0 && state.Watches >= limit {
				err = fmt.Errorf("services have all the %d consumers that max_consumers of their account allows: raise it in nats-server.conf and reload", limit)
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

// look tells how a mirror is doing; Created means that there is none yet.
func look(ctx context.Context, js, there jetstream.JetStream, account string, m events.Mirrored) (Mirror, error) {
	state := Mirror{MirrorOf: MirrorOf{account, m.Name}, Silent: -1}
	stream, err := there.Stream(ctx, m.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		state.Created = true
		return state, nil
	}
	if err != nil {
		return state, err
	}
	info := stream.CachedInfo()
	if info.Mirror == nil {
		return state, errors.New("it does not say what it mirrors: it has no leader, or is no mirror at all; if that stays, purge that account with the system user (nats server account purge), and it is made anew")
	}
	if !like(m, info.Config) {
		return state, errors.New("it was made with other settings: purge that account with the system user (nats server account purge), and it is made anew")
	}
	state.Has, state.Silent, state.Watches = info.State.LastSeq, info.Mirror.Active, info.State.Consumers
	// After the mirror: what comes in between is no sign that it is ahead.
	state.Newest, state.Last, err = newest(ctx, js, m)
	return state, err
}

func setupMirror(ctx context.Context, js, there jetstream.JetStream, account string, m events.Mirrored) (Mirror, error) {
	state, err := look(ctx, js, there, account, m)
	if err != nil {
		return state, err
	}
	feeds, err := js.PushConsumer(ctx, m.Name, account)
	missing := errors.Is(err, jetstream.ErrConsumerNotFound)
	if missing { // it goes with the stream when that is lost
		feeds, err = js.CreateOrUpdatePushConsumer(ctx, m.Name, m.Feed(account))
	}
	if err != nil {
		return state, fmt.Errorf("look up or make its consumer: %w", err)
	}
	if state.Created && feeds.CachedInfo().AckFloor.Stream > 0 {
		// It stands where a mirror before left it, or where another refresher's new mirror is by
		// now.
		if state, err = look(ctx, js, there, account, m); err != nil {
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
	_, err = there.CreateStream(ctx, m.In(account))
	return state, err
}

// newest returns the sequence of the newest message of a stream that a mirror is to have, 0 if
// there is none, and that of its newest message at all.
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

// like reports whether a mirror is as it is to be.
func like(m events.Mirrored, c jetstream.StreamConfig) bool {
	return c.MaxAge == m.MaxAge && max(c.MaxBytes, 0) == max(m.MaxBytes, 0) && c.Replicas == m.Replicas
}

// lastMirrored returns the newest sequence that any mirror has of a stream, 0 without mirrors.
func lastMirrored(ctx context.Context, nc *nats.Conn, cfg events.SetupConfig, stream string) (last uint64, err error) {
	if !slices.ContainsFunc(events.Mirrors(cfg), func(m events.Mirrored) bool { return m.Name == stream }) {
		return 0, nil
	}
	for _, api := range cfg.ServicesAPI {
		there, err := jetstream.NewWithAPIPrefix(nc, api)
		if err != nil {
			return 0, fmt.Errorf("use the API prefix %q: %w", api, err)
		}
		switch s, err := there.Stream(ctx, stream); {
		case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		case err != nil:
			return 0, fmt.Errorf("ask %s for its mirror of %s: %w", api, stream, err)
		default:
			last = max(last, s.CachedInfo().State.LastSeq)
		}
	}
	return last, nil
}
