package wxtoken

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// errNoAccounts says that the client was not told to follow accounts.
var errNoAccounts = errors.New("this client does not follow accounts: set Config.Accounts")

// Find returns the keys of the accounts that have a ref, your own id for them ([Authorizer.Ref]),
// in order. It reads memory, and needs Config.Accounts. An account stays where it is after a
// cancellation: State tells.
func (c *Client) Find(ref string) ([]Key, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if err := c.followsAccounts(); err != nil {
		return nil, err
	}
	found := []Key{}
	for a := c.accounts.byRef[ref]; a != nil; a = a.next {
		found = append(found, a.key)
	}
	slices.SortFunc(found, compareKeys)
	return found, nil
}

// Ref returns your own id for an account ([Authorizer.Ref]), "" if it has none or is not known. It
// reads memory, and needs Config.Accounts.
func (c *Client) Ref(key Key) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.accounts == nil || c.accounts.byKey[key] == nil {
		return ""
	}
	return c.accounts.byKey[key].ref
}

// Account returns what is known of a key beside its token, as Status does, but from memory. It
// needs Config.Accounts. Its error is ErrNoStatus for a key that nothing is known about. Don't
// change what the Status points to: it is shared.
func (c *Client) Account(key Key) (Status, error) {
	c.mu.RLock()
	var a *account
	err := c.followsAccounts()
	if err == nil {
		a = c.accounts.byKey[key]
	}
	c.mu.RUnlock()
	if err != nil {
		return Status{}, err
	}
	if a == nil {
		return Status{}, fmt.Errorf("%s: %w: check the appids, and whether the account was ever connected", key, ErrNoStatus)
	}
	return c.current(a.status()), nil
}

// Accounts yields what is known of every key, in the order of the keys, from memory: what it knew
// when the loop began. It needs Config.Accounts and yields nothing without. Don't change what a
// Status points to: it is shared.
func (c *Client) Accounts() iter.Seq[Status] {
	return func(yield func(Status) bool) {
		all := c.all(func(*account) bool { return true })
		// Not with the lock held: there may be a million.
		slices.SortFunc(all, func(a, b *account) int { return compareKeys(a.key, b.key) })
		for _, a := range all {
			if !yield(c.current(a.read())) {
				return
			}
		}
	}
}

// AccountsAfter yields what Accounts does, from the first key after another on: page by page,
// without reading those before. The zero Key comes before all.
func (c *Client) AccountsAfter(after Key) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		rest := ordered(c.all(func(a *account) bool { return after == Key{} || compareKeys(a.key, after) > 0 }))
		heap.Init(&rest) // a page takes a few of many: they aren't sorted all
		for len(rest) > 0 {
			if !yield(c.current(heap.Pop(&rest).(*account).read())) {
				return
			}
		}
	}
}

// all returns the accounts that are wanted, in no order.
func (c *Client) all(wanted func(*account) bool) (all []*account) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.followsAccounts() != nil {
		return nil
	}
	for _, a := range c.accounts.byKey {
		if wanted(a) {
			all = append(all, a)
		}
	}
	return all
}

// ordered is a heap of accounts by their keys.
type ordered []*account

func (o ordered) Len() int           { return len(o) }
func (o ordered) Less(i, j int) bool { return compareKeys(o[i].key, o[j].key) < 0 }
func (o ordered) Swap(i, j int)      { o[i], o[j] = o[j], o[i] }

// Push is never called.
func (o *ordered) Push(a any) { *o = append(*o, a.(*account)) }

// Pop takes the last one away.
func (o *ordered) Pop() any {
	last := (*o)[len(*o)-1]
	*o = (*o)[:len(*o)-1]
	return last
}

// StatusUpdates tells of changes of what Account returns, as Updates does for tokens: first what
// there is, then each change, of several to one key the newest. It needs Config.Accounts, and ends
// at once without. It ends when ctx ends, when the client is closed or when the loop is left. That
// a token expires is not a change, and a status that is removed is not told: Changes does that.
func (c *Client) StatusUpdates(ctx context.Context, keys ...Key) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		f := newFeed(keys)
		c.mu.Lock()
		follows := c.followsAccounts() == nil
		c.beginAccounts(f)
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

	// Revisions of the buckets tokens and status up to which nothing is missing, once these changes
	// have been looked at.
	TokensRevision, StatusRevision uint64
}

// Changes tells of all changes of the view, batch by batch: first everything that it has, then what
// has changed since. Of several changes to one key that come while the loop is busy it tells once.
// It is what to build a feed for others on, with the revisions as the mark from which one goes on.
// It ends when ctx ends, when the client is closed or when the loop is left.
func (c *Client) Changes(ctx context.Context) iter.Seq[Changes] {
	return func(yield func(Changes) bool) {
		f := newFeed(nil)
		c.mu.Lock()
		c.beginTokens(f)
		c.beginAccounts(f)
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

// ChangedSince tells what changed after two revisions, as Changes gave them, for those who were not
// there to hear: of each bucket some keys at most, in the order in which they changed last, and the
// revisions to go on from. It costs what changed, not what there is. An account that was removed is
// not told. It needs Config.Accounts and no Config.Keys, and tells nothing otherwise.
func (c *Client) ChangedSince(tokens, status uint64, most int) (changes Changes) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	changes.Tokens, changes.TokensRevision = c.tokenTrail.after(tokens, most, c.tokensAt)
	changes.Accounts, changes.StatusRevision = c.statusTrail.after(status, most, c.statusAt)
	return changes
}

// beginTokens has a feed begin with the tokens that the view has. The lock is held.
func (c *Client) beginTokens(f *feed) {
	for e := range c.view.all() {
		f.add(e.token.Key, tokenChanged)
	}
	c.feeds[f] = struct{}{}
}

// beginAccounts has a feed begin with the accounts that the view has. The lock is held.
func (c *Client) beginAccounts(f *feed) {
	if c.accounts != nil {
		for key := range c.accounts.byKey {
			f.add(key, statusChanged)
		}
	}
	c.told[f] = struct{}{}
}

// followsAccounts says why there are no accounts. The lock is held.
func (c *Client) followsAccounts() error {
	switch {
	case c.ctx.Err() != nil:
		return ErrClosed
	case c.accounts == nil:
		return errNoAccounts
	}
	return nil
}

// followsAll reports whether both buckets are followed whole, each by one watch.
func (c *Client) followsAll() bool { return c.accounts != nil && len(c.declared) == 0 }

// current returns a status with the state of now.
func (c *Client) current(status Status) Status {
	if e := c.view.find(status.Key); e != nil {
		status.State = status.StateAt(c.clock.now(), e.token.ExpiresAt)
	}
	return status
}

// compareKeys orders keys as their texts are, without making them.
func compareKeys(a, b Key) int {
	switch order := compareParts(string(a.Kind), string(b.Kind)); {
	case order != 0:
		return order
	case a.Kind == KindComponent:
		return strings.Compare(a.Component, b.Component)
	}
	return cmp.Or(compareParts(a.Component, b.Component), strings.Compare(a.Authorizer, b.Authorizer))
}

// compareParts compares what a dot follows: a part that is the beginning of the other is not the
// lesser one where that goes on with "-".
func compareParts(a, b string) int {
	n := min(len(a), len(b))
	if order := strings.Compare(a[:n], b[:n]); order != 0 || len(a) == len(b) {
		return order
	}
	if len(a) < len(b) {
		return cmp.Compare('.', b[n])
	}
	return cmp.Compare(a[n], '.')
}

func (w *watch) applyStatus(key Key, msg *nats.Msg, revision uint64) error {
	if isDeletion(msg) {
		w.change(func(c *Client) {
			if old := c.accounts.byKey[key]; old != nil {
				c.statusTrail.leave(old.revision, key)
			}
			c.accounts.remove(key)
			c.statusAt = max(c.statusAt, revision)
			c.told.add(key, statusChanged)
		})
		return nil
	}
	var status Status
	if err := json.Unmarshal(msg.Data, &status); err != nil {
		return fmt.Errorf("%s: %w", key, ErrBadStatus)
	}
	a := &account{record: bytes.Clone(msg.Data), revision: revision}
	if status.Authorizer != nil {
		a.ref = strings.Clone(status.Authorizer.Ref)
	}
	w.change(func(c *Client) {
		before := uint64(0)
		if old := c.accounts.byKey[key]; old != nil {
			before = old.revision
		}
		if before == revision {
			return // read again by a new watch
		}
		a.key = c.kept(key)
		c.accounts.put(a)
		c.statusAt = max(c.statusAt, revision)
		if c.followsAll() {
			c.statusTrail.step(before, revision, &a.key)
			c.statusAt = revision // lower than before in a bucket that was made anew
		}
		c.told.add(a.key, statusChanged)
	})
	return nil
}

// accounts is what a Client has of the bucket "status": the records as they lie there, since read
// they take several times as much. The Client's lock guards it.
type accounts struct {
	byKey  map[Key]*account
	byRef  map[string]*account // the first of those with a ref
	recent recent
}

// account is the record of one key. It is replaced, never changed, but for its neighbours and
// known.
type account struct {
	key          Key
	revision     uint64
	record       []byte
	ref          string
	before, next *account // of those with the same ref
	recent       *recent
	known        atomic.Pointer[Status] // what the record says, while it is asked for
}

func newAccounts() *accounts {
	return &accounts{byKey: map[Key]*account{}, byRef: map[string]*account{}}
}

func (all *accounts) put(a *account) {
	all.remove(a.key)
	a.recent = &all.recent
	all.byKey[a.key] = a
	if a.ref == "" {
		return
	}
	if a.next = all.byRef[a.ref]; a.next != nil {
		a.next.before = a
	}
	all.byRef[a.ref] = a
}

func (all *accounts) remove(key Key) {
	gone := all.byKey[key]
	if gone == nil {
		return
	}
	delete(all.byKey, key)
	switch {
	case gone.before != nil:
		gone.before.next = gone.next
	case gone.next != nil:
		all.byRef[gone.ref] = gone.next
	default:
		delete(all.byRef, gone.ref)
	}
	if gone.next != nil {
		gone.next.before = gone.before
	}
}

// read reads the record. It was read once before, when it came.
func (a *account) read() (status Status) {
	_ = json.Unmarshal(a.record, &status)
	status.Key, status.Revision = a.key, a.revision
	return status
}

// status is read, or what came of it not long ago.
func (a *account) status() Status {
	if known := a.known.Load(); known != nil {
		return *known
	}
	status := a.read()
	a.known.Store(&status)
	a.recent.add(a)
	return status
}

// recent are the accounts that were asked for last: these are remembered as they were read.
type recent struct {
	mu  sync.Mutex
	all [maxRecent]*account
	at  int
}

// maxRecent is how many accounts are remembered as they were read, some kilobytes each.
const maxRecent = 4096

// add remembers an account in the place of the one that came longest ago.
func (r *recent) add(a *account) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.all[r.at]; old != nil {
		old.known.Store(nil)
	}
	r.all[r.at] = a
	r.at = (r.at + 1) % maxRecent
}
