package wxtoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	tokensBucket = "tokens"
	statusBucket = "status"

	// requestTimeout bounds one request to NATS where the caller sets no deadline.
	requestTimeout = 5 * time.Second

	// maxFilters is how many keys share a consumer: the request that creates it stays far below
	// max_payload.
	maxFilters = 1000

	// consumersLimit is nats-server's JSMaximumConsumersLimitErr, for which nats.go has no name.
	consumersLimit = 10026

	// maxNamed is how many missing keys an error names; a service may declare thousands.
	maxNamed = 10
)

// Config says what a Client watches. The zero Config watches every token.
type Config struct {
	// Keys are the tokens that the service needs. NewClient waits for each of them, and the client
	// watches nothing else. Set them where the service may read only some tokens, or needs only a
	// few. Up to 1,000 keys share one NATS consumer where this user may create one with several
	// filters; otherwise each key has its own. Default: every token, with one consumer.
	Keys []Key

	// Accounts has the client keep the whole bucket "status" in memory too: profile and state of
	// every account. [Client.Find], [Client.Accounts] and [Client.StatusUpdates] read it. It takes
	// a second consumer.
	Accounts bool

	// Name is what the service calls itself when it reports a token that WeChat refused, so that
	// operators see which service did. Its form: [CheckName]. Refreshers can't verify it. Default:
	// none.
	Name string

	// Now is the clock that decides whether a token has expired. The Client asks it at each call of
	// Token, and from goroutines of its own. Default: the clock of the machine, read once a second;
	// it may be up to a second ahead, never behind.
	Now func() time.Time
}

// Client is a live view of the tokens: it keeps the bucket "tokens" in memory and follows it.
// Its methods may be called from any goroutine.
type Client struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	clock *clock
	name  string // Config.Name

	declared map[Key]bool // Config.Keys; empty when every token is watched

	ctx   context.Context // ends with Close
	close context.CancelFunc
	wg    sync.WaitGroup

	view view // of the bucket "tokens"; read without the lock, empty after Close

	mu           sync.RWMutex
	withPrevious []*entry // entries whose token has a Previous, in the order in which they came
	feeds        feeds    // of tokens
	// The components in the buckets: for each, the one string that all its keys share.
	components map[string]string
	// What the bucket "status" holds; nil without Config.Accounts and after Close.
	accounts           *accounts
	statusFeeds        feeds  // of statuses
	tokensAt, statusAt uint64 // newest revisions of the two buckets in the view
	// Of the tokens; kept only where all is followed, since messages then come in the order of
	// their revisions.
	tokenTrail  trail
	statusTrail trail // of the accounts, likewise
	watches     int   // how many there should be
	live        int   // how many have delivered what the bucket held, and still run
	stats       Stats
}

// Stats is the state of a Client's view in figures, meant to be published as metrics.
type Stats struct {
	Live       bool   // the view follows the bucket; false while NATS is away
	Tokens     int    // tokens in the view, expired ones included
	Updates    uint64 // entries of the bucket that changed the view
	Unreadable uint64 // entries of the bucket that could not be read and changed nothing
	Faults     uint64 // how often a watch ended or could not be started; each time it is tried again
	Err        error  // the last fault; nil if there never was one
}

// NewClient returns a Client once its view is complete: every key in cfg.Keys has a token that
// has not expired, or, without Keys, everything that the bucket holds has been read. It is the
// only call that waits for tokens. It waits for NATS, and for the bucket, which the refresher
// creates, as long as ctx lasts: give ctx a deadline.
//
// When ctx ends first, the error wraps ctx's and, for each key that is missing, ErrNoToken,
// ErrExpired or ErrRevoked; it says what is missing and what to do. ErrBadKey is returned for a
// malformed key. ctx does not bound the life of the Client: Close does. The Client uses nc and
// never closes it. It makes nc reconnect (nats.Conn.ForceReconnect) after NATS withdrew the right
// to an inbox and granted it again, since no request on nc would get an answer otherwise.
func NewClient(ctx context.Context, nc *nats.Conn, cfg Config) (*Client, error) {
	if err := CheckName(cfg.Name); err != nil {
		return nil, fmt.Errorf("Config.Name: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	c := &Client{
		nc: nc, js: js, clock: newClock(cfg.Now), name: cfg.Name,
		declared:    make(map[Key]bool, len(cfg.Keys)),
		feeds:       make(feeds),
		statusFeeds: make(feeds),
		components:  make(map[string]string),
	}
	var filters []string
	for _, key := range cfg.Keys {
		if err := key.check(); err != nil {
			return nil, fmt.Errorf("Config.Keys: %w", err)
		}
		if !c.declared[key] {
			c.declared[key] = true
			filters = append(filters, key.String())
		}
	}
	c.ctx, c.close = context.WithCancel(context.Background())
	if len(filters) == 0 {
		filters = []string{">"}
	}
	shared := slices.Collect(slices.Chunk(filters, maxFilters))
	c.watches = len(shared)
	if cfg.Accounts {
		c.accounts = newAccounts()
		c.watches++
	}
	// Subscribed before the watches start, so that it misses nothing, and to the declared keys
	// only: there may be a million others.
	wait := c.subscribe(feedOf(c.declared))
	defer c.unsubscribe(wait)
	c.wg.Go(func() { c.clock.run(c.ctx, c.dropPrevious) })
	for _, filters := range shared {
		c.wg.Go(func() { c.follow(tokens, filters) })
	}
	if cfg.Accounts {
		c.wg.Go(func() { c.follow(statuses, []string{">"}) })
	}
	if err := c.await(ctx, wait); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// await returns when the view is complete, or an error when ctx or the connection ends first.
func (c *Client) await(ctx context.Context, wait *feed) error {
	for !c.complete() {
		select {
		case <-wait.wake:
		case <-ctx.Done():
			return c.incomplete(context.Cause(ctx))
		}
		if c.nc.IsClosed() {
			return c.incomplete(nats.ErrConnectionClosed)
		}
	}
	return nil
}

// complete reports whether all watches are live and every declared key has a usable token.
func (c *Client) complete() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.live < c.watches {
		return false
	}
	now := c.clock.now()
	for key := range c.declared {
		if !c.view.find(key).usable(now) {
			return false
		}
	}
	return true
}

// incomplete returns the error of a NewClient that gave up.
func (c *Client) incomplete(cause error) error {
	if stats := c.Stats(); !stats.Live {
		cause = explain(c.nc, cause, tokens.createSubject())
		switch {
		case stats.Err == nil:
			return fmt.Errorf("read the tokens from NATS (connection %s): %w", c.nc.Status(), cause)
		case errors.Is(stats.Err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("read the tokens from NATS: %w: %w: no bucket %s (the refresher creates it: "+
				"start it, or check that this connection is to its NATS account)", cause, stats.Err, tokensBucket)
		}
		return fmt.Errorf("read the tokens from NATS: %w: %w", cause, stats.Err)
	}
	errs := []error{}
	byText := func(a, b Key) int { return strings.Compare(a.String(), b.String()) }
	for _, key := range slices.SortedFunc(maps.Keys(c.declared), byText) {
		if _, err := c.Token(key); err != nil {
			errs = append(errs, err)
		}
	}
	rest := ""
	if len(errs) > maxNamed {
		rest = fmt.Sprintf(" and %d more", len(errs)-maxNamed)
		errs = errs[:maxNamed]
	}
	return fmt.Errorf("wait for the tokens in Config.Keys: %w: %w%s", cause, errors.Join(errs...), rest)
}

// Token returns the token of key from memory: it does no I/O, waits for nothing and allocates
// nothing. While NATS is away it goes on returning the last token known, until that expires. WeChat
// may refuse a returned token all the same: see Replace.
//
// The errors are ErrNoToken for a key that the view does not have, ErrExpired for a token that
// expired without a successor, ErrRevoked when the authorization was cancelled, and ErrClosed. The
// text of each says what to do. What Previous points to is shared: don't change it.
func (c *Client) Token(key Key) (Token, error) {
	e, now := c.view.find(key), c.clock.now()
	if !e.usable(now) {
		return Token{}, c.unusable(key, e, now)
	}
	return e.token, nil
}

// unusable returns the error for a key whose entry is not usable.
func (c *Client) unusable(key Key, e *entry, now time.Time) error {
	switch {
	case c.ctx.Err() != nil:
		return fmt.Errorf("%s: %w", key, ErrClosed)
	case e == nil && len(c.declared) > 0 && !c.declared[key]:
		return fmt.Errorf("%s: %w (add the key to Config.Keys, or leave Keys empty to watch every token)", key, ErrNoToken)
	case e == nil:
		return fmt.Errorf("%s: %w in the bucket (check the appids, and whether the account is connected: "+
			"Client.Status and the operator's page tell)", key, ErrNoToken)
	case e.revoked():
		return fmt.Errorf("%s: %w, and the token was removed (ask the merchant to authorize again: "+
			"Client.Status may have the link)", key, ErrRevoked)
	}
	ago := now.Sub(e.token.ExpiresAt).Round(time.Second)
	if !c.Live() {
		return fmt.Errorf("%s: %w %s ago, and this view is cut off from NATS (check the connection, then the clock "+
			"of this machine)", key, ErrExpired, ago)
	}
	return fmt.Errorf("%s: %w %s ago and was not renewed (Client.Status tells why; check that the refresher runs, "+
		"and the clock of this machine)", key, ErrExpired, ago)
}

// Updates is for programs that must rebuild something when a token changes. It yields what Token
// returns for each of the keys that the view has, and again for each that changes; without keys,
// for every key. With an error the Token has only its Key.
//
// It ends when ctx ends, when the client is closed or when the loop is left. A slow loop delays no
// other: of several changes to one key while it is busy it sees the newest. Keys come in no
// particular order. The expiry of a token is not a change.
func (c *Client) Updates(ctx context.Context, keys ...Key) iter.Seq2[Token, error] {
	return func(yield func(Token, error) bool) {
		f := c.subscribe(newFeed(keys))
		defer c.unsubscribe(f)
		for {
			for key := range c.take(f) {
				token, err := c.Token(key)
				if ctx.Err() != nil || c.ctx.Err() != nil {
					return
				}
				if err != nil {
					token = Token{Key: key}
				}
				if !yield(token, err) {
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

// Next waits until the view has another token than old for old.Key, and returns it. Call it after
// Report returned OutcomeRenewing or OutcomeAlreadyRenewed. With only a Key in old it waits for the
// first token, for instance of a merchant who is just authorizing.
//
// It returns ErrRevoked as soon as the authorization is cancelled, ErrClosed, or an error that
// wraps ctx's when ctx ends first: give ctx a deadline.
func (c *Client) Next(ctx context.Context, old Token) (Token, error) {
	for token, err := range c.Updates(ctx, old.Key) {
		if errors.Is(err, ErrRevoked) {
			return Token{}, err
		}
		if err == nil && token.Value != old.Value {
			return token, nil
		}
	}
	if ctx.Err() == nil {
		return Token{}, fmt.Errorf("wait for a token of %s: %w", old.Key, ErrClosed)
	}
	if _, err := c.Token(old.Key); err != nil {
		return Token{}, fmt.Errorf("wait for a token: %w: %w", context.Cause(ctx), err)
	}
	return Token{}, fmt.Errorf("wait for a token of %s: %w: the view still has the old one (Client.Status tells why)",
		old.Key, context.Cause(ctx))
}

// Status asks NATS what wxtoken knows about key besides its token: state, last error, profile. For
// a key that this client watches the state is that of now ([Status.StateAt]): it is never "active"
// with an expired token. It returns ErrNoStatus for a key without a status, ErrBadStatus for a
// record that can't be read, and an error that wraps jetstream.ErrBucketNotFound before the
// refresher has created the bucket.
func (c *Client) Status(ctx context.Context, key Key) (Status, error) {
	status, err := c.status(ctx, key)
	if err != nil {
		return Status{}, fmt.Errorf("read the status of %s: %w", key, err)
	}
	return status, nil
}

func (c *Client) status(ctx context.Context, key Key) (status Status, err error) {
	if c.ctx.Err() != nil {
		return status, ErrClosed
	}
	if err := key.check(); err != nil {
		return status, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	kv, err := c.js.KeyValue(ctx, statusBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return status, fmt.Errorf("%w: no bucket %s (the refresher creates it: start it, or check that this connection "+
			"is to its NATS account)", err, statusBucket)
	}
	if err != nil {
		return status, explain(c.nc, err, "$JS.API.STREAM.INFO.KV_"+statusBucket)
	}
	record, err := kv.Get(ctx, key.String())
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // or deleted
		return status, fmt.Errorf("%w (check the appids, and whether the account was ever connected)", ErrNoStatus)
	case err != nil:
		return status, explain(c.nc, err, "$JS.API.DIRECT.GET.KV_"+statusBucket)
	}
	if err := json.Unmarshal(record.Value(), &status); err != nil {
		return Status{}, fmt.Errorf("%w: revision %d: %w", ErrBadStatus, record.Revision(), err)
	}
	status.Revision = record.Revision()
	return c.current(status), nil
}

// Components returns the appids of the components of which the view has tokens or accounts, sorted.
func (c *Client) Components() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Sorted(maps.Keys(c.components))
}

// Stats returns the state of the view in figures.
func (c *Client) Stats() Stats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	stats := c.stats
	stats.Live = c.live == c.watches
	stats.Tokens = c.view.tokens
	return stats
}

// Live reports whether the view follows the buckets. It is false while NATS is away.
func (c *Client) Live() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.live == c.watches
}

// Close ends the view and returns when its goroutines have ended. It leaves the connection open.
func (c *Client) Close() {
	c.close()
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view.clear() // a view that is no longer updated must not be read
	c.withPrevious, c.accounts = nil, nil
	c.tokenTrail, c.statusTrail = trail{}, trail{}
}

// withTimeout gives ctx a deadline if it has none.
func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, requestTimeout)
}

// explain adds the likely cause to err, the failure of a request on a subject that begins with
// subject: the last permission that NATS refused this connection, if it fits. NATS does not answer
// a request that is not permitted, so without this a missing permission looks like a slow server.
func explain(nc *nats.Conn, err error, subject string) error {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == consumersLimit {
		return fmt.Errorf("%w: max_consumers of this NATS account is reached (raise it in the server's settings, "+
			"or run fewer clients)", err)
	}
	last := nc.LastError()
	if !errors.Is(last, nats.ErrPermissionViolation) || errors.Is(err, nats.ErrPermissionViolation) {
		return err
	}
	// A refused subscription is that of the inbox, without which no answer arrives.
	if text := last.Error(); !strings.Contains(text, `"`+subject) && !strings.Contains(text, "Subscription") {
		return err
	}
	return fmt.Errorf("%w: %w (give this user the permissions that package wxtoken lists)", err, last)
}
