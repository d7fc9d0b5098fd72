package wxtoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// errNoAccounts says that the client was not told to follow accounts.
var errNoAccounts = errors.New("this client does not follow accounts: set Config.Accounts")

// Find returns the keys of the accounts that have a ref, your own id for them ([Authorizer.Ref]), in order. It reads memory, and needs
// Config.Accounts. An account stays where it is after a cancellation: State tells.
func (c *Client) Find(ref string) ([]Key, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if err := c.followsAccounts(); err != nil {
		return nil, err
	}
	found := make([]Key, 0, len(c.refs[ref]))
	for key := range c.refs[ref] {
		found = append(found, key)
	}
	slices.SortFunc(found, compareKeys)
	return found, nil
}

// Account returns what is known of a key beside its token, as Status does, but from memory. It needs Config.Accounts. Its error is
// ErrNoStatus for a key that nothing is known about. Don't change what the Status points to: it is shared.
func (c *Client) Account(key Key) (Status, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if err := c.followsAccounts(); err != nil {
		return Status{}, err
	}
	status, ok := c.known[key]
	if !ok {
		return Status{}, fmt.Errorf("%s: %w: check the appids, and whether the account was ever connected", key, ErrNoStatus)
	}
	return c.current(status), nil
}

// Accounts yields what is known of every key, in the order of the keys, from memory: what it knew when the loop began. It needs
// Config.Accounts and yields nothing without. Don't change what a Status points to: it is shared.
func (c *Client) Accounts() iter.Seq[Status] {
	return func(yield func(Status) bool) {
		c.mu.RLock()
		all := make([]Status, 0, len(c.known))
		for _, status := range c.known {
			all = append(all, c.current(status))
		}
		c.mu.RUnlock()
		slices.SortFunc(all, func(a, b Status) int { return compareKeys(a.Key, b.Key) })
		for _, status := range all {
			if !yield(status) {
				return
			}
		}
	}
}

// StatusUpdates tells of changes of what Account returns, as Updates does for tokens: first what there is, then each change, of several
// to one key the newest. It needs Config.Accounts, and ends at once without. It ends when ctx ends, when the client is closed or when
// the loop is left. That a token expires is not a change, and a status that is removed is not told: Changes does that.
func (c *Client) StatusUpdates(ctx context.Context, keys ...Key) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		f := newFeed(keys)
		c.mu.Lock()
		follows := c.followsAccounts() == nil
		for key := range c.known {
			f.add(key, statusChanged)
		}
		c.told[f] = struct{}{}
		c.mu.Unlock()
		defer c.unsubscribe(f)
		for follows {
			for key := range c.take(f) {
				status, err := c.Account(key)
				if ctx.Err() != nil || c.ctx.Err() != nil {
					return
				}
				if err == nil && !yield(status) {
					return
				}
			}
			select {
			case <-f.wake:
			case <-ctx.Done():
				return
			case <-c.ctx.Done():
				return
			}
		}
	}
}

// Changes are keys of which something changed.
type Changes struct {
	Tokens   []Key // whose token changed, or went
	Accounts []Key // of which something else is known now

	// Revisions of the buckets tokens and status up to which nothing is missing, once these changes have been looked at.
	TokensRevision, StatusRevision uint64
}

// Changes tells of all changes of the view, batch by batch: first everything that it has, then what has changed since. Of several
// changes to one key that come while the loop is busy it tells once. It is what to build a feed for others on, with the revisions as
// the mark from which one goes on. It ends when ctx ends, when the client is closed or when the loop is left.
func (c *Client) Changes(ctx context.Context) iter.Seq[Changes] {
	return func(yield func(Changes) bool) {
		f := newFeed(nil)
		c.mu.Lock()
		for key := range c.entries {
			f.add(key, tokenChanged)
		}
		for key := range c.known {
			f.add(key, statusChanged)
		}
		c.feeds[f], c.told[f] = struct{}{}, struct{}{}
		c.mu.Unlock()
		defer c.unsubscribe(f)
		for first := true; ; first = false {
			batch := c.changes(f)
			if ctx.Err() != nil || c.ctx.Err() != nil {
				return
			}
			if (first || len(batch.Tokens)+len(batch.Accounts) > 0) && !yield(batch) {
				return
			}
			select {
			case <-f.wake:
			case <-ctx.Done():
				return
			case <-c.ctx.Done():
				return
			}
		}
	}
}

// changes takes what changed since it was last called, with the revisions of that moment.
func (c *Client) changes(f *feed) Changes {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := Changes{TokensRevision: c.tokensAt, StatusRevision: c.statusAt}
	for key, what := range f.pending {
		if what&tokenChanged != 0 {
			batch.Tokens = append(batch.Tokens, key)
		}
		if what&statusChanged != 0 {
			batch.Accounts = append(batch.Accounts, key)
		}
	}
	clear(f.pending)
	return batch
}

// followsAccounts says why there are no accounts. The lock is held.
func (c *Client) followsAccounts() error {
	switch {
	case c.ctx.Err() != nil:
		return ErrClosed
	case c.known == nil:
		return errNoAccounts
	}
	return nil
}

// current returns a status with the state of now. The lock is held.
func (c *Client) current(status Status) Status {
	if e := c.entries[status.Key]; e != nil {
		status.State = status.StateAt(c.now(), e.token.ExpiresAt)
	}
	return status
}

func compareKeys(a, b Key) int { return strings.Compare(a.String(), b.String()) }

func (w *watch) applyStatus(key Key, msg *nats.Msg, revision uint64) error {
	if isDeletion(msg) {
		w.change(func(c *Client) {
			c.refer(key, c.known[key], Status{})
			delete(c.known, key)
			c.statusAt = max(c.statusAt, revision)
			c.told.add(key, statusChanged)
		})
		return nil
	}
	var status Status
	if err := json.Unmarshal(msg.Data, &status); err != nil {
		return fmt.Errorf("%s: %w", key, ErrBadStatus)
	}
	status.Key, status.Revision = key, revision
	w.change(func(c *Client) {
		old, had := c.known[key]
		if had && old.Revision == revision {
			return // read again by a new watch
		}
		c.refer(key, old, status)
		c.known[key] = status
		c.own[key.Component] = struct{}{}
		c.statusAt = max(c.statusAt, revision)
		c.told.add(key, statusChanged)
	})
	return nil
}

// refer keeps the index of refs. The lock is held.
func (c *Client) refer(key Key, old, now Status) {
	before, after := old.ref(), now.ref()
	if before == after {
		return
	}
	if before != "" {
		if delete(c.refs[before], key); len(c.refs[before]) == 0 {
			delete(c.refs, before)
		}
	}
	if after != "" {
		if c.refs[after] == nil {
			c.refs[after] = map[Key]struct{}{}
		}
		c.refs[after][key] = struct{}{}
	}
}

func (s Status) ref() string {
	if s.Authorizer == nil {
		return ""
	}
	return s.Authorizer.Ref
}
