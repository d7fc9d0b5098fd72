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

// errNoAccounts is returned where Config.Accounts is not set.
var errNoAccounts = errors.New("no accounts in this client (set Config.Accounts)")

// Find returns the keys of the accounts that have a ref, your own id for them ([Authorizer.Ref]),
// in ascending order. It reads memory, and needs Config.Accounts. A cancelled account is still
// found; its State tells.
func (c *Client) Find(ref string) ([]Key, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if err := c.checkAccounts(); err != nil {
		return nil, err
	}
	found := []Key{}
	for a := c.accounts.byRef[ref]; a != nil; a = a.next {
		found = append(found, a.key)
	}
	slices.SortFunc(found, compareKeys)
	return found, nil
}

// Ref returns your own id for an account ([Authorizer.Ref]), "" if it has none or the account is
// unknown. It reads memory, and needs Config.Accounts.
func (c *Client) Ref(key Key) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.accounts == nil || c.accounts.byKey[key] == nil {
		return ""
	}
	return c.accounts.byKey[key].ref
}

// Account returns what is known about a key besides its token, as Status does, but from memory. It
// needs Config.Accounts. It returns ErrNoStatus for a key without a status. Don't change what the
// Status points to: it is shared.
func (c *Client) Account(key Key) (Status, error) {
	c.mu.RLock()
	var a *account
	err := c.checkAccounts()
	if err == nil {
		a = c.accounts.byKey[key]
	}
	c.mu.RUnlock()
	if err != nil {
		return Status{}, err
	}
	if a == nil {
		return Status{}, fmt.Errorf("%s: %w (check the appids, and whether the account was ever connected)", key, ErrNoStatus)
	}
	return c.current(a.status()), nil
}

// Accounts yields the status of every key, in the order of the keys, from memory. It yields what
// was known when the loop began. It needs Config.Accounts and yields nothing without. Don't change
// what a Status points to: it is shared.
func (c *Client) Accounts() iter.Seq[Status] {
	return func(yield func(Status) bool) {
		all := c.all(func(*account) bool { return true })
		// Sorted without the lock: there may be a million.
		slices.SortFunc(all, func(a, b *account) int { return compareKeys(a.key, b.key) })
		for _, a := range all {
			if !yield(c.current(a.parse())) {
				return
			}
		}
	}
}

// AccountsAfter yields what Accounts does, starting with the first key after the given one: for
// reading page by page without reading the earlier pages again. The zero Key comes before all
// others.
func (c *Client) AccountsAfter(after Key) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		rest := keyHeap(c.all(func(a *account) bool { return after == Key{} || compareKeys(a.key, after) > 0 }))
		heap.Init(&rest) // a page takes a few of many: no need to sort them all
		for len(rest) > 0 {
			if !yield(c.current(heap.Pop(&rest).(*account).parse())) {
				return
			}
		}
	}
}

// all returns the accounts for which wanted is true, in no particular order.
func (c *Client) all(wanted func(*account) bool) (all []*account) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.checkAccounts() != nil {
		return nil
	}
	for _, a := range c.accounts.byKey {
		if wanted(a) {
			all = append(all, a)
		}
	}
	return all
}

// keyHeap is a heap of accounts, ordered by their keys.
type keyHeap []*account

func (o keyHeap) Len() int           { return len(o) }
func (o keyHeap) Less(i, j int) bool { return compareKeys(o[i].key, o[j].key) < 0 }
func (o keyHeap) Swap(i, j int)      { o[i], o[j] = o[j], o[i] }

// Push is there for heap.Interface alone and is never called.
func (o *keyHeap) Push(a any) { *o = append(*o, a.(*account)) }

// Pop removes the last account and returns it.
func (o *keyHeap) Pop() any {
	last := (*o)[len(*o)-1]
	*o = (*o)[:len(*o)-1]
	return last
}

// StatusUpdates yields what Account returns for each of the keys, then again for each key that
// changes, as Updates does for tokens; without keys, for every key. Of several changes to one key
// while the loop is busy it yields the newest. It needs Config.Accounts, and ends at once without.
// It ends when ctx ends, when the client is closed or when the loop is left. The expiry of a token
// is not a change, and the removal of a status is not reported: Changes does that.
func (c *Client) StatusUpdates(ctx context.Context, keys ...Key) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		f := newFeed(keys)
		c.mu.Lock()
		follows := c.checkAccounts() == nil
		c.addStatusFeed(f)
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

// Changes are keys whose token or account changed.
type Changes struct {
	Tokens   []Key // whose token changed or was removed
	Accounts []Key // whose status changed or was removed

	// Revisions of the buckets tokens and status: once these changes are handled, nothing up to
	// there was missed.
	TokensRevision, StatusRevision uint64
}

// Changes yields all changes of the view, batch by batch: first every key that it has, then what
// has changed since. Several changes to one key while the loop is busy are yielded once. Use it to
// build a feed for other programs; the revisions are the mark from which such a program resumes
// (ChangedSince). It ends when ctx ends, when the client is closed or when the loop is left.
func (c *Client) Changes(ctx context.Context) iter.Seq[Changes] {
	return func(yield func(Changes) bool) {
		f := newFeed(nil)
		c.mu.Lock()
		c.addTokenFeed(f)
		c.addStatusFeed(f)
		c.mu.Unlock()
		defer c.unsubscribe(f)
		for first := true; ; first = false {
			batch := c.takeChanges(f)
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

// takeChanges returns what changed since it was last called, with the revisions of this moment.
func (c *Client) takeChanges(f *feed) Changes {
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

// ChangedSince returns what changed after two revisions that Changes gave, for a program that was
// away in between: up to most keys of each bucket, in the order in which they changed last, and the
// revisions to go on from. Its cost depends on the number of changes, not of accounts. Removed
// accounts are not among them. It needs Config.Accounts and no Config.Keys, and returns nothing
// otherwise.
func (c *Client) ChangedSince(tokens, status uint64, most int) (changes Changes) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	changes.Tokens, changes.TokensRevision = c.tokenTrail.after(tokens, most, c.tokensAt)
	changes.Accounts, changes.StatusRevision = c.statusTrail.after(status, most, c.statusAt)
	return changes
}

// addTokenFeed registers a feed, and puts the keys of all tokens that the view has into it. The
// lock is held.
func (c *Client) addTokenFeed(f *feed) {
	for e := range c.view.all() {
		f.add(e.token.Key, tokenChanged)
	}
	c.feeds[f] = struct{}{}
}

// addStatusFeed registers a feed, and puts the keys of all accounts that the view has into it. The
// lock is held.
func (c *Client) addStatusFeed(f *feed) {
	if c.accounts != nil {
		for key := range c.accounts.byKey {
			f.add(key, statusChanged)
		}
	}
	c.statusFeeds[f] = struct{}{}
}

// checkAccounts returns an error if this client has no accounts in memory. The lock is held.
func (c *Client) checkAccounts() error {
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

// current returns a status with its state as of now.
func (c *Client) current(status Status) Status {
	if e := c.view.find(status.Key); e != nil {
		status.State = status.StateAt(c.clock.now(), e.token.ExpiresAt)
	}
	return status
}

// compareKeys orders keys as their texts sort, without building the texts.
func compareKeys(a, b Key) int {
	switch order := compareParts(string(a.Kind), string(b.Kind)); {
	case order != 0:
		return order
	case a.Kind == KindComponent:
		return strings.Compare(a.Component, b.Component)
	}
	return cmp.Or(compareParts(a.Component, b.Component), strings.Compare(a.Authorizer, b.Authorizer))
}

// compareParts compares parts of keys that a dot follows. The shorter of two parts, one being the
// beginning of the other, does not come first where the longer one goes on with "-": in the texts
// the dot is compared with that "-", which sorts before it.
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
				c.statusTrail.remove(old.revision, key)
			}
			c.accounts.remove(key)
			c.statusAt = max(c.statusAt, revision)
			c.statusFeeds.add(key, statusChanged)
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
			if before = old.revision; before == revision && bytes.Equal(old.record, a.record) {
				return // a new watch reads everything again
			} // else the bucket was made anew, or restored, and counts from lower on
		}
		a.key = c.intern(key)
		c.accounts.put(a)
		c.statusAt = max(c.statusAt, revision)
		if c.followsAll() {
			c.statusTrail.add(before, revision, &a.key)
			c.statusAt = revision // lower than before in a bucket that was made anew
		}
		c.statusFeeds.add(a.key, statusChanged)
	})
	return nil
}

// accounts is what a Client has of the bucket "status": the records in their JSON, since parsed
// they take several times the memory. The Client's lock guards it.
type accounts struct {
	byKey  map[Key]*account
	byRef  map[string]*account // head of the list of accounts with that ref
	recent recent
}

// account is the record of one key. It is replaced, never changed, except for its links to
// neighbours and its cache.
type account struct {
	key          Key
	revision     uint64
	record       []byte
	ref          string
	before, next *account // in the list of accounts with the same ref
	recent       *recent
	cached       atomic.Pointer[Status] // cache: the parsed record of an account that was read lately
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

// parse parses the record. It can't fail: applyStatus has parsed it once before.
func (a *account) parse() (status Status) {
	_ = json.Unmarshal(a.record, &status)
	status.Key, status.Revision = a.key, a.revision
	return status
}

// status returns the parsed record, from the cache if it is there.
func (a *account) status() Status {
	if cached := a.cached.Load(); cached != nil {
		return *cached
	}
	status := a.parse()
	a.cached.Store(&status)
	a.recent.add(a)
	return status
}

// recent are the accounts that were read last: their parsed records are cached.
type recent struct {
	mu  sync.Mutex
	all [maxRecent]*account
	at  int
}

// maxRecent is how many parsed records are cached, some kilobytes each.
const maxRecent = 4096

// add adds an account, in the place of the oldest one, whose cache is emptied.
func (r *recent) add(a *account) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.all[r.at]; old != nil {
		old.cached.Store(nil)
	}
	r.all[r.at] = a
	r.at = (r.at + 1) % maxRecent
}
