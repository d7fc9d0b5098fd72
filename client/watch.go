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

// bucket is one of the buckets that a Client follows.
type bucket struct {
	name string

	// apply brings a message into the view. Its error never shows the message.
	apply func(w *watch, key Key, msg *nats.Msg, revision uint64) error
}

var (
	tokens   = &bucket{tokensBucket, (*watch).applyToken}
	statuses = &bucket{statusBucket, (*watch).applyStatus}
)

func (b *bucket) stream() string { return "KV_" + b.name }

// subject is followed by the key.
func (b *bucket) subject() string { return "$KV." + b.name + "." }

// creates is followed by the consumer's name and the filter.
func (b *bucket) creates() string { return "$JS.API.CONSUMER.CREATE." + b.stream() }

const (
	// heartbeat is how often the server says that a quiet watch still stands.
	heartbeat = 2 * time.Second

	// maxMissed is how many times a heartbeat long a watch may say nothing before it counts as
	// dead.
	maxMissed = 2

	// A watch that can't be made is tried again after retryMin, then after twice as long each
	// time up to retryMax, and at once when the connection comes back.
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second

	// refusedPoll is the time between two looks for a refusal.
	refusedPoll = 10 * time.Millisecond
)

// Why a watch had to be begun anew.
var (
	errDisconnected = errors.New("connection lost")
	errSilent       = fmt.Errorf("no heartbeat in %s", maxMissed*heartbeat)
	errGap          = errors.New("messages lost on the way")
	errConsumer     = errors.New("consumer ended by the server")
	errShared       = errors.New("this user may make no consumer with several filters")
)

// watch is one consumer on the bucket, from its making to its first fault.
//
// It is not jetstream's KeyWatcher, because that one outlives its faults by resuming after the
// last sequence it saw: it needs 10 to 20 seconds to notice a restarted server, and in a bucket
// that was made anew it skips everything below that sequence without a word. A watch that never
// resumes, but ends at any doubt and reads the bucket again, has none of these cases.
// It needs fewer permissions as well.
type watch struct {
	c         *Client
	of        *bucket
	delivered uint64      // consumer sequence of the last entry; touched by receive alone
	heard     atomic.Bool // something came since the supervisor last looked
	fault     chan error  // the first fault; capacity 1

	live bool // what the bucket held at the start is in the view; guarded by Client.mu
	over bool // nothing that still arrives counts; guarded by Client.mu
}

// follow keeps a watch on some keys of a bucket going until the client is closed, or the
// connection. Where this user may not make a consumer with several filters, each key gets a watch
// of its own.
func (c *Client) follow(b *bucket, filters []string) {
	status := c.nc.StatusChanged()
	defer c.nc.RemoveStatusListener(status)
	delay := retryMin
	for c.ctx.Err() == nil {
		for len(status) > 0 {
			<-status // what happened before this watch does not concern it
		}
		if c.nc.IsClosed() {
			c.fail(nats.ErrConnectionClosed)
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
			c.fail(fmt.Errorf("watch %s: %w", b.named(filters), err))
			if made {
				delay = retryMin
			} else if errors.Is(err, context.DeadlineExceeded) {
				c.hearAgain()
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

// hearAgain has the connection made anew when NATS had taken the inbox of its requests away and
// allows inboxes again. The library goes on believing in a subscription that a reload of the
// server's permissions removed: no answer would be heard any more, by anything on this connection.
func (c *Client) hearAgain() {
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
	// The server complains of the inbox before it answers the flush.
	if c.nc.FlushTimeout(requestTimeout) == nil && !refused(sub.Subject) {
		_ = c.nc.ForceReconnect() // fails only where it is closed
	}
}

// split follows each filter by itself.
func (c *Client) split(b *bucket, filters []string) {
	c.mu.Lock()
	c.watches += len(filters) - 1
	c.mu.Unlock()
	for _, filter := range filters {
		c.wg.Go(func() { c.follow(b, []string{filter}) })
	}
}

// named says what a watch is on.
func (b *bucket) named(filters []string) string {
	if len(filters) > 1 {
		return fmt.Sprintf("%s%s and %d more", b.subject(), filters[0], len(filters)-1)
	}
	return b.subject() + filters[0]
}

// watch reads what the filters cover, then follows it until the first fault, which it returns. It
// reports whether the consumer could be made at all.
func (c *Client) watch(b *bucket, filters []string, status <-chan nats.Status) (made bool, err error) {
	w := &watch{c: c, of: b, fault: make(chan error, 1)}
	sub, err := c.nc.Subscribe(c.nc.NewInbox(), w.receive)
	if err != nil {
		return false, err
	}
	defer w.end(sub)

	// Made on the side, because an answer that was lost with the connection would be waited for in
	// vain.
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

// consume makes the consumer that sends what the filters cover to deliver.
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
		// Alone, it stands in the request's subject, where permissions can see it.
		config.FilterSubject = w.of.subject() + filters[0]
	} else {
		for _, filter := range filters {
			config.FilterSubjects = append(config.FilterSubjects, w.of.subject()+filter)
		}
		var done context.CancelFunc
		ctx, done = w.untilRefused(ctx, w.of.creates()+"."+config.Name)
		defer done()
	}
	consumer, err := w.c.js.CreatePushConsumer(ctx, w.of.stream(), config)
	if errors.Is(context.Cause(ctx), errShared) {
		return errShared
	}
	if err != nil {
		return explain(w.c.nc, err, w.of.creates())
	}
	if info := consumer.CachedInfo(); info.NumPending == 0 && info.Delivered.Consumer == 0 {
		w.loaded() // an empty bucket sends nothing that could say so
	}
	return nil
}

// untilRefused returns a context that also ends, with errShared, when NATS refuses this connection
// to publish to a subject: it does not answer such a request.
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

// end stops w. The server removes the consumer by itself when no client listens, so no time is spent
// on asking it to.
func (w *watch) end(sub *nats.Subscription) {
	_ = sub.Unsubscribe() // fails only where the connection is closing and does the same
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.over = true
	if w.live {
		w.c.live--
	}
}

// receive takes one message of the consumer. Calls come one at a time and in order.
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
			// The server beats only when it has nothing left to send, or has not heard that we took
			// what it sent.
			w.loaded()
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
		w.loaded()
	}
}

// stop tells the supervisor of the first fault.
func (w *watch) stop(fault error) {
	select {
	case w.fault <- fault:
	default:
	}
}

// loaded notes that the view has everything that the bucket held when the watch began.
func (w *watch) loaded() {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if w.live || w.over {
		return
	}
	w.live = true
	w.c.live++
	w.c.feeds.wake()
}

// apply brings one message of the bucket into the view. A message that can't be read changes
// nothing: what the view has is better than nothing. Nor is anything removed but by a message that
// says so: a bucket that was lost is filled again, and until then WeChat still accepts the tokens
// that it held.
func (w *watch) apply(msg *nats.Msg, revision uint64) {
	key, err := ParseKey(strings.TrimPrefix(msg.Subject, w.of.subject()))
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
		e.token.Key = c.kept(key)
		if e.token.Previous != nil {
			c.fading = append(c.fading, e)
		}
		c.view.set(e)
		c.stats.Updates++
		c.tokensAt = max(c.tokensAt, revision)
		if c.followsAll() {
			c.tokenTrail.step(old.revision(), revision, &e.token.Key)
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

// kept returns a key that may be kept for long: it holds no more than itself alive, and shares what
// keys have in common. The lock is held.
func (c *Client) kept(key Key) Key {
	if e := c.view.find(key); e != nil {
		return e.token.Key
	}
	component, known := c.own[key.Component]
	if !known {
		component = strings.Clone(key.Component)
		c.own[component] = component
	}
	return Key{Kind: key.Kind, Component: component, Authorizer: strings.Clone(key.Authorizer)}
}

// fade forgets the tokens before, once WeChat no longer accepts them: of a million keys all but a
// few have one.
func (c *Client) fade() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, gone := c.clock.now(), 0
	for _, e := range c.fading {
		if now.Before(e.token.Previous.ValidUntil) {
			break // those behind it follow within minutes
		}
		gone++
		if c.view.find(e.token.Key) == e {
			token := e.token
			token.Previous = nil
			next := &entry{token}
			c.view.set(next)
			c.tokenTrail.hold(token.Revision, &next.token.Key) // and no longer e
		}
	}
	clear(c.fading[:gone])
	c.fading = c.fading[gone:]
}

// isDeletion reports whether a message of a bucket removes its key.
func isDeletion(msg *nats.Msg) bool {
	return msg.Header.Get("KV-Operation") != "" || msg.Header.Get("Nats-Marker-Reason") != ""
}

// fail notes why a watch ended or could not be made.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Err = err
	c.stats.Faults++
	c.feeds.wake()
}

// feeds are the receivers of changes. The Client's lock guards them.
type feeds map[*feed]struct{}

// add notes for all that key changed.
func (all feeds) add(key Key, what change) {
	for f := range all {
		f.add(key, what)
	}
}

// wake lets all look again.
func (all feeds) wake() {
	for f := range all {
		f.signal()
	}
}

// feed collects the keys that changed for one receiver, who may be slow.
type feed struct {
	keys    map[Key]bool   // nil: all
	pending map[Key]change // changed since take; guarded by Client.mu
	wake    chan struct{}  // capacity 1: there is something to look at
}

// change says what of a key changed.
type change uint8

const (
	tokenChanged change = 1 << iota
	statusChanged
)

// newFeed returns a feed for some keys; for all without any.
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

// feedOf returns a feed for a set of keys, which may be empty; for all without a set.
func feedOf(keys map[Key]bool) *feed {
	return &feed{keys: keys, pending: make(map[Key]change), wake: make(chan struct{}, 1)}
}

// subscribe has a feed of tokens begin with what the view has now, and returns it.
func (c *Client) subscribe(f *feed) *feed {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beginTokens(f)
	return f
}

func (c *Client) unsubscribe(f *feed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.feeds, f)
	delete(c.told, f)
}

// take returns the keys that changed since it was last called.
func (c *Client) take(f *feed) map[Key]change {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := maps.Clone(f.pending)
	clear(f.pending)
	return changed
}

// add notes that key changed. The Client's lock is held.
func (f *feed) add(key Key, what change) {
	if f.keys != nil && !f.keys[key] {
		return
	}
	f.pending[key] |= what
	f.signal()
}

// signal wakes the receiver, now or when it next looks.
func (f *feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
