package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
)

// Status returns the status of key and its revision; an empty one if none is stored or it can't be
// read.
func (s *Store) Status(ctx context.Context, key wxtoken.Key) (st wxtoken.Status, revision uint64, err error) {
	st.Key = key
	entry, err := hedged(ctx, func(ctx context.Context) (jetstream.KeyValueEntry, error) {
		return s.status.Get(ctx, key.String())
	})
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return st, 0, nil
	}
	if err != nil {
		return st, 0, fmt.Errorf("read status of %s: %w", key, err)
	}
	if json.Unmarshal(entry.Value(), &st) != nil {
		st = wxtoken.Status{} // derived from other records, so it can be written anew
	}
	st.Key = key
	return st, entry.Revision(), nil
}

// UpdateStatus changes the status of key by compare-and-set. It does not write an unchanged one.
func (s *Store) UpdateStatus(ctx context.Context, key wxtoken.Key, change func(*wxtoken.Status)) error {
	err := update(ctx, func() error {
		st, revision, err := s.Status(ctx, key)
		if err != nil {
			return err
		}
		before, _ := json.Marshal(st)
		change(&st)
		if st.Conditions == nil {
			st.Conditions = []wxtoken.Condition{}
		}
		after, err := json.Marshal(st)
		if err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		if revision != 0 && string(before) == string(after) {
			return nil
		}
		return s.putStatus(ctx, key, after, revision)
	})
	if err != nil {
		return fmt.Errorf("write status of %s: %w", key, err)
	}
	return nil
}

func (s *Store) putStatus(ctx context.Context, key wxtoken.Key, data []byte, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var err error
	if revision == 0 {
		_, err = s.status.Create(ctx, key.String(), data) // also replaces a deletion
	} else {
		_, err = s.status.Update(ctx, key.String(), data, revision)
	}
	if errors.Is(err, jetstream.ErrKeyExists) {
		return ErrLost
	}
	return lost(err)
}
