package wxtoken

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bucket is a bucket that a Client follows.
type bucket struct {
	name string

	// apply applies a message to the view. Its error never quotes the message.
	apply func(w *watch, key Key, msg *nats.Msg, revision uint64) error
}

var (
	tokens   = &bucket{tokensBucket, (*watch).applyToken}
	statuses = &bucket{statusBucket, (*watch).applyStatus}
)

func (b *bucket) stream() string { return "KV_" + b.name }

// subjectPrefix returns what stands before the key in a subject.
func (b *bucket) subjectPrefix() string { return "$KV." + b.name + "." }

// createSubject returns the subject for creating a consumer, without the consumer's name and filter
// at its end.
func (b *bucket) createSubject() string { return "$JS.API.CONSUMER.CREATE." + b.stream() }

const (
	// heartbeat is how often the server confirms that a quiet watch is still running.
	heartbeat = 2 * time.Second

	// maxMissed is how many heartbeats may be missing before a watch counts as dead.
	maxMissed = 2

	// A watch that can't be started is tried again after retryMin, then after twice as long each
	// time up to retryMax, and at once when the connection comes back.
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second

	// refusedPoll is the time between two checks whether NATS refused a request.
	refusedPoll = 10 * time.Millisecond
)

// Why a watch had to be restarted.
var (
	errDisconnected = errors.New("connection lost")
	errSilent       = fmt.Errorf("no heartbeat in %s", maxMissed*heartbeat)
	errGap          = errors.New("messages missing")
	errConsumer     = errors.New("consumer ended by the server")
	errShared       = errors.New("this user may not create a consumer with several filters")
)

// watch is one consumer on the bucket, from its creation to its first fault.
//
// It is not jetstream's KeyWatcher, because that one survives faults by resuming after the last
// sequence it saw: it needs 10 to 20 seconds to notice a restarted server, and in a bucket that was
// recreated it silently skips everything below that sequence. A watch that never resumes, but ends
// at any doubt and reads the bucket again, has neither problem. It also needs fewer permissions.
type watch struct {
	c         *Client
	of        *bucket
	delivered uint64      // consumer sequence of the last entry; used by receive alone
	heard     atomic.Bool // a message came since the last heartbeat tick
	fault     chan error  // the first fault; capacity 1

	live bool // the view has all that the bucket held at the start; guarded by Client.mu
	over bool // messages that still arrive are ignored; guarded by Client.mu
}

// follow keeps a watch on some keys of a bucket running until the client or the connection is
// closed. Where this user may not create a consumer with several filters, each key gets a watch of
// its own.
func (c *Client) follow(b *bucket, filters []string) {
	status := c.nc.StatusChanged()
	defer c.nc.RemoveStatusListener(status)
	delay := retryMin
	for c.ctx.Err() == nil {
		for len(status) > 0 {
			<-status // changes from before this watch don't matter
		}
		if c.nc.IsClosed() {
			c.noteFault(nats.ErrConnectionClosed)
			return
		}
		if c.nc.IsConnected() {
			made, err := c.watch(b, filters, status)
			if c.ctx.Err() != nil {
				return
			}
			if errors.Is(err, errShared) {
				c.split(b, filters)
				return
			}
			c.noteFault(fmt.Errorf("watch %s: %w", b.describe(filters), err))
			if made {
				delay = retryMin
			} else if errors.Is(err, context.DeadlineExceeded) {
				c.restoreInbox()
			}
		}
		select {
		case <-c.ctx.Done():
		case <-status:
		case <-time.After(delay):
		}
		delay = min(2*delay, retryMax)
	}
}

// restoreInbox reconnects when NATS had withdrawn the right to the inbox of requests and allows it
// again. nats.go does not notice that a reload of the server's permissions removed the
// subscription: without a reconnect no request on this connection would get an answer any more.
func (c *Client) restoreInbox() {
	refused := func(subject string) bool {
		err := c.nc.LastError()
		return errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `Subscription to "`+subject)
	}
	if !refused(cmp.Or(c.nc.Opts.InboxPrefix, nats.InboxPrefix)) {
		return
	}
	sub, err := c.nc.SubscribeSync(c.nc.NewInbox())
	if err != nil {
		return
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	// The server reports a refused inbox before it answers the flush.
	if c.nc.FlushTimeout(requestTimeout) == nil && !refused(sub.Subject) {
		_ = c.nc.ForceReconnect() // fails only where it is closed
	}
}

// split follows each filter with a watch of its own.
func (c *Client) split(b *bucket, filters []string) {
	c.mu.Lock()
	c.watches += len(filters) - 1
	c.mu.Unlock()
	for _, filter := range filters {
		c.wg.Go(func() { c.follow(b, []string{filter}) })
	}
}

// describe returns what a watch covers, for error texts.
func (b *bucket) describe(filters []string) string {
	if len(filters) > 1 {
		return fmt.Sprintf("%s%s and %d more", b.subjectPrefix(), filters[0], len(filters)-1)
	}
	return b.subjectPrefix() + filters[0]
}

// watch reads what the filters cover, then follows it until the first fault, which it returns. made
// reports whether the consumer was created.
func (c *Client) watch(b *bucket, filters []string, status <-chan nats.Status) (made bool, err error) {
	w := &watch{c: c, of: b, fault: make(chan error, 1)}
	sub, err := c.nc.Subscribe(c.nc.NewInbox(), w.receive)
	if err != nil {
		return false, err
	}
	defer w.end(sub)

	// Created in a goroutine of its own: if the connection is lost, its answer is lost too, and
	// waiting for it would be in vain.
	ctx, cancel := context.WithTimeout(c.ctx, requestTimeout)
	defer cancel()
	consumer := make(chan error, 1)
	c.wg.Go(func() { consumer <- w.consume(ctx, filters, sub.Subject) })

	quiet := time.NewTicker(heartbeat)
	defer quiet.Stop()
	for missed := 0; ; {
		select {
		case <-c.ctx.Done():
			return made, c.ctx.Err()
		case <-status:
			return made, errDisconnected
		case err := <-w.fault:
			return made, err
		case err := <-consumer:
			if err != nil {
				return false, err
			}
			made = true
		case <-quiet.C:
			if missed++; w.heard.Swap(false) || !made {
				missed = 0
			}
			if missed == maxMissed {
				return made, errSilent
			}
		}
	}
}

// consume creates the consumer that sends what the filters cover to the subject deliver.
func (w *watch) consume(ctx context.Context, filters []string, deliver string) error {
	config := jetstream.ConsumerConfig{
		Name:           deliver[strings.LastIndexByte(deliver, '.')+1:], // as unique as the inbox
		Description:    "wxtoken reader",
		DeliverSubject: deliver,
		DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy:      jetstream.AckNonePolicy,
		MaxDeliver:     1,
		Replicas:       1,
		MemoryStorage:  true,
		FlowControl:    true,
		IdleHeartbeat:  heartbeat,
	}
	if len(filters) == 1 {
		// A single filter is part of the request's subject, where permissions can restrict it.
		config.FilterSubject = w.of.subjectPrefix() + filters[0]
	} else {
		for _, filter := range filters {
			config.FilterSubjects = append(config.FilterSubjects, w.of.subjectPrefix()+filter)
		}
		var done context.CancelFunc
		ctx, done = w.untilRefused(ctx, w.of.createSubject()+"."+config.Name)
		defer done()
	}
	consumer, err := w.c.js.CreatePushConsumer(ctx, w.of.stream(), config)
	if errors.Is(context.Cause(ctx), errShared) {
		return errShared
	}
	if err != nil {
		return explain(w.c.nc, err, w.of.createSubject())
	}
	if info := consumer.CachedInfo(); info.NumPending == 0 && info.Delivered.Consumer == 0 {
		w.setLive() // an empty bucket sends no message that would tell
	}
	return nil
}

// untilRefused returns a context that also ends, with errShared, when NATS refuses to let this
// connection publish to a subject: NATS does not answer such a request.
func (w *watch) untilRefused(ctx context.Context, subject string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	w.c.wg.Go(func() {
		for {
			last := w.c.nc.LastError()
			if errors.Is(last, nats.ErrPermissionViolation) && strings.Contains(last.Error(), subject) {
				cancel(errShared)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(refusedPoll):
			}
		}
	})
	return ctx, func() { cancel(nil) }
}

// end stops w. The server removes a consumer by itself when no client listens, so w doesn't ask for
// it.
func (w *watch) end(sub *nats.Subscription) {
	_ = sub.Unsubscribe() // fails only where the connection is closing and does the same
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.over = true
	if w.live {
		w.c.live--
	}
}

// receive handles one message of the consumer. Calls come one at a time and in order.
func (w *watch) receive(msg *nats.Msg) {
	w.heard.Store(true)
	switch msg.Header.Get("Status") {
	case "": // an entry of the bucket
	case "100": // heartbeat, or a request of the flow control, which is answered with nothing
		if msg.Reply != "" {
			_ = msg.Respond(nil)
			return
		}
		stalled := msg.Header.Get("Nats-Consumer-Stalled")
		if stalled != "" {
			_ = w.c.nc.Publish(stalled, nil)
		}
		if last := msg.Header.Get("Nats-Last-Consumer"); last != strconv.FormatUint(w.delivered, 10) {
			w.stop(errGap)
			return
		}
		if stalled == "" {
			// The server sends heartbeats only when it has nothing left to send, or waits for flow
			// control (stalled).
			w.setLive()
		}
		return
	default:
		w.stop(fmt.Errorf("%w: %s %s", errConsumer, msg.Header.Get("Status"), msg.Header.Get("Description")))
		return
	}
	meta, err := msg.Metadata()
	if err != nil {
		return // not from a consumer
	}
	if meta.Sequence.Consumer != w.delivered+1 {
		w.stop(errGap)
		return
	}
	w.delivered++
	w.apply(msg, meta.Sequence.Stream)
	if meta.NumPending == 0 {
		w.setLive()
	}
}

// stop ends the watch with its first fault; later ones are dropped.
func (w *watch) stop(fault error) {
	select {
	case w.fault <- fault:
	default:
	}
}

// setLive records that the view has all that the bucket held when the watch started.
func (w *watch) setLive() {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if w.live || w.over {
		return
	}
	w.live = true
	w.c.live++
	w.c.feeds.wake()
}

// apply applies one message of the bucket to the view. A message that can't be read changes
// nothing: what the view has is better than nothing. Only a deletion message removes something: a
// bucket that was lost is filled again, and until then WeChat still accepts the tokens that it
// held.
func (w *watch) apply(msg *nats.Msg, revision uint64) {
	key, err := ParseKey(strings.TrimPrefix(msg.Subject, w.of.subjectPrefix()))
	if err == nil {
		err = w.of.apply(w, key, msg, revision)
	}
	if err != nil {
		w.change(func(c *Client) {
			c.stats.Unreadable++
			c.stats.Err = fmt.Errorf("read the bucket %s at revision %d: %w", w.of.name, revision, err)
		})
	}
}

// change changes the view under its lock, unless the watch is over.
func (w *watch) change(f func(c *Client)) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if !w.over {
		f(w.c)
	}
}

func (w *watch) applyToken(key Key, msg *nats.Msg, revision uint64) error {
	e, err := readEntry(key, msg, revision, w.c.clock.now())
	if err != nil {
		return err
	}
	w.change(func(c *Client) {
		old := c.view.find(key)
		if old != nil && old.token.Revision == e.token.Revision && old.token.Value == e.token.Value {
			return // read again by a new watch
		}
		e.token.Key = c.intern(key)
		if e.token.Previous != nil {
			c.withPrevious = append(c.withPrevious, e)
		}
		c.view.set(e)
		c.stats.Updates++
		c.tokensAt = max(c.tokensAt, revision)
		if c.followsAll() {
			c.tokenTrail.add(old.revision(), revision, &e.token.Key)
			c.tokensAt = revision // lower than before in a bucket that was made anew
		}
		c.feeds.add(e.token.Key, tokenChanged)
	})
	return nil
}

// readEntry reads a message of the bucket of tokens.
func readEntry(key Key, msg *nats.Msg, revision uint64, now time.Time) (*entry, error) {
	if isDeletion(msg) {
		return &entry{Token{Key: key, Revision: revision}}, nil
	}
	token, err := readToken(msg.Data, now)
	if err == nil && token.Key != key {
		err = fmt.Errorf("%w: it is for %s", ErrBadToken, token.Key)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	token.Revision = revision
	return &entry{token}, nil
}

// intern returns a copy of a key for long-term storage: it keeps no message in memory, and shares
// its component with other keys. The lock is held.
func (c *Client) intern(key Key) Key {
	if e := c.view.find(key); e != nil {
		return e.token.Key
	}
	component, known := c.components[key.Component]
	if !known {
		component = strings.Clone(key.Component)
		c.components[component] = component
	}
	return Key{Kind: key.Kind, Component: component, Authorizer: strings.Clone(key.Authorizer)}
}

// dropPrevious drops previous tokens that WeChat no longer accepts. They take memory: nearly all of
// a million keys have one for a while.
func (c *Client) dropPrevious() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, gone := c.clock.now(), 0
	for _, e := range c.withPrevious {
		if now.Before(e.token.Previous.ValidUntil) {
			break // the others end later, within minutes
		}
		gone++
		if c.view.find(e.token.Key) == e {
			token := e.token
			token.Previous = nil
			next := &entry{token}
			c.view.set(next)
			c.tokenTrail.repoint(token.Revision, &next.token.Key) // so that e can be freed
		}
	}
	clear(c.withPrevious[:gone])
	c.withPrevious = c.withPrevious[gone:]
}

// isDeletion reports whether a message of a bucket removes its key.
func isDeletion(msg *nats.Msg) bool {
	return msg.Header.Get("KV-Operation") != "" || msg.Header.Get("Nats-Marker-Reason") != ""
}

// noteFault records why a watch ended or could not be started.
func (c *Client) noteFault(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Err = err
	c.stats.Faults++
	c.feeds.wake()
}

// feeds is a set of feeds. The Client's lock guards it.
type feeds map[*feed]struct{}

// add adds a changed key to every feed.
func (all feeds) add(key Key, what change) {
	for f := range all {
		f.add(key, what)
	}
}

// wake wakes every receiver.
func (all feeds) wake() {
	for f := range all {
		f.signal()
	}
}

// feed collects changed keys for one receiver, which may be slow.
type feed struct {
	keys    map[Key]bool   // nil means all
	pending map[Key]change // changed since take; guarded by Client.mu
	wake    chan struct{}  // capacity 1: filled when the receiver should look
}

// change says what changed about a key.
type change uint8

const (
	tokenChanged change = 1 << iota
	statusChanged
)

// newFeed returns a feed for some keys, or for all keys if none is given.
func newFeed(keys []Key) *feed {
	f := feedOf(nil)
	for _, key := range keys {
		if f.keys == nil {
			f.keys = make(map[Key]bool, len(keys))
		}
		f.keys[key] = true
	}
	return f
}

// feedOf returns a feed for a set of keys, which may be empty; nil means all keys.
func feedOf(keys map[Key]bool) *feed {
	return &feed{keys: keys, pending: make(map[Key]change), wake: make(chan struct{}, 1)}
}

// subscribe registers a feed for tokens, puts all keys that the view has into it, and returns it.
func (c *Client) subscribe(f *feed) *feed {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addTokenFeed(f)
	return f
}

func (c *Client) unsubscribe(f *feed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.feeds, f)
	delete(c.statusFeeds, f)
}

// take returns the keys that changed since the last call, and empties the feed.
func (c *Client) take(f *feed) map[Key]change {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := maps.Clone(f.pending)
	clear(f.pending)
	return changed
}

// add adds a changed key. The Client's lock is held.
func (f *feed) add(key Key, what change) {
	if f.keys != nil && !f.keys[key] {
		return
	}
	f.pending[key] |= what
	f.signal()
}

// signal wakes the receiver, now or when it next waits.
func (f *feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
