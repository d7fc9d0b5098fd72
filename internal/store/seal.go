package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/seal"
)

// open returns the content of a record on a subject below credential.
func (s *Store) open(subject string, h nats.Header, data []byte) ([]byte, error) {
	return openRecord(s.keys, subject, h, data)
}

func openRecord(keys *seal.Keys, subject string, h nats.Header, data []byte) ([]byte, error) {
	text, err := keys.OpenOwn(subject, h, data)
	switch {
	case errors.Is(err, seal.ErrNoKey):
		return nil, fmt.Errorf("%w: %s is sealed for %s: put the seed of that key back into --seal-key-file",
			ErrSealed, subject, printableKey(h.Get(seal.HeaderFor)))
	case err != nil:
		return nil, fmt.Errorf("%w: %s is %w", ErrUnreadable, subject, err)
	}
	return text, nil
}

// printableKey returns a public key for an error text: the header may contain anything.
func printableKey(public string) string {
	if len(public) != 56 || !wxtoken.ValidAppID(public) {
		return "an unknown key"
	}
	return public
}

// credential opens and reads the credential of key.
func (s *Store) credential(key wxtoken.Key, subject string, h nats.Header, data []byte) (account.Credential, error) {
	data, err := s.open(subject, h, data)
	if err != nil {
		return account.Credential{Key: key}, err
	}
	c, err := decodeCredential(key, data)
	c.Key = key
	return c, err
}

// sealedFor returns the public key for which a value is sealed, "" for one in the clear.
func sealedFor(h nats.Header, data []byte) string {
	if !seal.Sealed(data) {
		return ""
	}
	return printableKey(h.Get(seal.HeaderFor))
}

// CheckSeal returns ErrSealed unless keys open the store's records. It opens the seal check: a
// record that the first start with keys has sealed. It returns ErrUnreadable if the seal check is
// damaged, and nil if there is none. It writes nothing.
func CheckSeal(ctx context.Context, js jetstream.JetStream, keys *seal.Keys) error {
	_, _, err := readSealCheck(ctx, js, keys)
	return err
}

// readSealCheck returns the revision of the seal check, 0 if there is none, and the public key for
// which it is sealed.
func readSealCheck(ctx context.Context, js jetstream.JetStream, keys *seal.Keys) (revision uint64, public string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, events.StreamTokens)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, "", nil
	}
	if err != nil {
		return 0, "", fmt.Errorf("look up stream %s: %w", events.StreamTokens, err)
	}
	m, err := stream.GetLastMsgForSubject(ctx, events.SealSubject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, "", nil
	}
	if err != nil {
		return 0, "", fmt.Errorf("read %s: %w", events.SealSubject, err)
	}
	_, err = openRecord(keys, m.Subject, m.Header, m.Data)
	return m.Sequence, sealedFor(m.Header, m.Data), err
}

// ensureSealCheck returns an error for keys that are not those of the store, and with keys writes
// the seal check if there is none.
func (s *Store) ensureSealCheck(ctx context.Context) error {
	return update(ctx, func() error {
		revision, _, err := readSealCheck(ctx, s.js, s.keys)
		damaged := errors.Is(err, ErrUnreadable) // its key is here, so it can be replaced: it holds no data
		if err != nil && !damaged {
			return err
		}
		if s.keys == nil || revision > 0 && !damaged {
			return nil
		}
		return s.writeSealCheck(ctx, revision)
	})
}

func (s *Store) writeSealCheck(ctx context.Context, revision uint64) error {
	data, err := json.Marshal(map[string]any{"v": recordVersion, "public": s.keys.Public()})
	if err != nil {
		return fmt.Errorf("encode %s: %w", events.SealSubject, err)
	}
	return s.rewrite(ctx, events.SealSubject, data, revision, "")
}

// rewrite replaces the record of the given revision with the same content, sealed with the current
// keys. It returns ErrLost as write does.
func (s *Store) rewrite(ctx context.Context, subject string, data []byte, revision uint64, ttl string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m := nats.NewMsg(subject)
	m.Data = data
	if ttl != "" {
		m.Header.Set(jetstream.MsgTTLHeader, ttl)
	}
	s.keys.Seal(m)
	_, err := s.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0), jetstream.WithExpectLastSequencePerSubject(revision))
	if err != nil {
		return fmt.Errorf("write %s: %w", subject, lost(err))
	}
	return nil
}

// Reseal seals every record anew that is not sealed for the first of the keys, one after the other
// by compare-and-set, and then the seal check. It skips records under a claim and records that it
// can't open, and returns their number as left. Without keys it does nothing.
func (s *Store) Reseal(ctx context.Context, now func() time.Time) (resealed, left int, err error) {
	if s.keys == nil {
		return 0, 0, nil
	}
	subjects, err := s.otherwiseSealed(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, subject := range subjects {
		switch done, err := s.reseal(ctx, subject, now()); {
		case ctx.Err() != nil:
			return resealed, left, ctx.Err()
		case errors.Is(err, ErrUnreadable): // damaged: no seed opens it
		case errors.Is(err, ErrLost), errors.Is(err, ErrNewer):
			left++
		case err != nil:
			return resealed, left, err
		case done:
			resealed++
		default:
			left++
		}
	}
	if left > 0 {
		return resealed, left, nil
	}
	// Last: once the seal check is sealed for the first key, so is every record.
	revision, public, err := readSealCheck(ctx, s.js, s.keys)
	if err == nil && public != s.keys.Public() {
		err = s.writeSealCheck(ctx, revision)
	}
	return resealed, 0, err
}

// otherwiseSealed returns the subjects of records in the clear or sealed for another key than the
// first.
func (s *Store) otherwiseSealed(ctx context.Context) (subjects []string, err error) {
	err = s.eachRecord(ctx, true, func(m jetstream.Msg) {
		name, sealKey := m.Subject(), m.Headers().Get(seal.HeaderFor)
		if name != events.SealSubject && name != events.ProofSubject && sealKey != s.keys.Public() {
			subjects = append(subjects, name)
		}
	})
	return subjects, err
}

// reseal seals one record anew. done is false if a refresher holds a claim on it.
func (s *Store) reseal(ctx context.Context, subject string, now time.Time) (done bool, err error) {
	m, err := s.last(ctx, subject)
	if err != nil || m == nil || sealedFor(m.Header, m.Data) == s.keys.Public() {
		return true, err
	}
	data, err := s.open(subject, m.Header, m.Data)
	if err != nil {
		return false, err
	}
	if key, ok := events.CredentialKey(subject); ok {
		// A revision that changes during a renewal would make it fail, and cost the token that
		// WeChat issued.
		if c, err := decodeCredential(key, data); err != nil || c.ClaimedAt(now) {
			return false, err
		}
	}
	ttl := m.Header.Get(jetstream.MsgTTLHeader)
	if life, err := time.ParseDuration(ttl); err == nil {
		ttl = max(life-now.Sub(m.Time), time.Second).Truncate(time.Second).String()
	}
	return true, s.rewrite(ctx, subject, data, m.Sequence, ttl)
}
