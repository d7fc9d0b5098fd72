package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
)

// Entry is what a View knows about a key.
type Entry struct {
	Credential account.Outline
	Token      account.Life // zero if the bucket has none
	Told       bool         // NoteTold was called for this token
}

// View is a live outline of all tokens and credentials. It may lag a little behind: it is good for
// choosing which records to read, but records must never be changed based on it. Only components'
// own credentials and tokens are complete.
type View struct {
	mu      sync.RWMutex
	places  map[place]uint32 // the index of each key's entry in chunks
	chunks  [][]entry        // each with chunkLen entries, except the last; entries are never removed or moved
	owners  []owner
	ownerAt map[owner]uint32

	components map[string]*component
	quotas     map[string]Quota // by component
	sealed     []sealed
	count      uint64 // how many messages the stream has for the entries
	seen       uint64 // sequence of the newest message
	read       uint64 // sequence of the newest message since the last reading from the beginning started

	// How many credentials were known when a reading started and were not read again, or only in an
	// older revision: see entry.unread. When the reading is complete, the rest is lost, unless the
	// replica lags behind.
	unread   int
	reading  bool
	outdated bool   // readAnew was called, and the next reading has not begun
	stop     func() // ends the watch, so that another one begins
}

// owner is what many keys have in common, stored once.
type owner struct {
	kind      wxtoken.Kind
	component string
}

// place identifies a key in a third of the memory of a wxtoken.Key.
type place struct {
	owner      uint32
	authorizer string
}

// entry is an Entry with what the view itself needs.
type entry struct {
	place
	Entry
	// The credential's revision when a reading started, until that or a newer one is read;
	// otherwise 0.
	unread uint64
	sealed uint32 // index in View.sealed of the key for which it is sealed
}

// sealed counts the credentials that are sealed for a public key; "" stands for those in the clear.
type sealed struct {
	public string
	n      int
}

// component is what a view knows about a component itself.
type component struct {
	credential account.Credential
	token      wxtoken.Token
}

// chunkLen is how many entries are allocated, and visited under the lock, at once: a visit takes
// some ten microseconds.
const chunkLen = 1 << 12

func newView() *View {
	return &View{
		places: map[place]uint32{}, ownerAt: map[owner]uint32{}, components: map[string]*component{}, quotas: map[string]Quota{},
		stop: func() {},
	}
}

func (v *View) at(i uint32) *entry { return &v.chunks[i/chunkLen][i%chunkLen] }

// find returns the entry of key, nil if there is none.
func (v *View) find(key wxtoken.Key) *entry {
	o, ok := v.ownerAt[owner{key.Kind, key.Component}]
	if !ok {
		return nil
	}
	i, ok := v.places[place{o, key.Authorizer}]
	if !ok {
		return nil
	}
	return v.at(i)
}

// entry returns the entry of key, a new one if there is none.
func (v *View) entry(key wxtoken.Key) *entry {
	if e := v.find(key); e != nil {
		return e
	}
	its := owner{key.Kind, key.Component}
	o, ok := v.ownerAt[its]
	if !ok {
		its.component = strings.Clone(its.component)
		o = uint32(len(v.owners))
		v.owners, v.ownerAt[its] = append(v.owners, its), o
	}
	last := len(v.chunks) - 1
	if last < 0 || len(v.chunks[last]) == chunkLen {
		v.chunks = append(v.chunks, make([]entry, 0, chunkLen))
		last++
	}
	p := place{o, strings.Clone(key.Authorizer)} // cloned: the key's is a part of the subject
	v.places[p] = uint32(last*chunkLen + len(v.chunks[last]))
	v.chunks[last] = append(v.chunks[last], entry{place: p})
	return &v.chunks[last][len(v.chunks[last])-1]
}

func (v *View) key(p place) wxtoken.Key {
	o := v.owners[p.owner]
	return wxtoken.Key{Kind: o.kind, Component: o.component, Authorizer: p.authorizer}
}

// begin records that a reading from the beginning starts.
func (v *View) begin() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reading, v.outdated, v.read, v.unread = true, false, 0, 0
	for _, chunk := range v.chunks {
		for i := range chunk {
			e := &chunk[i]
			if e.unread = max(e.unread, e.Credential.Revision); e.unread > 0 {
				v.unread++
			}
		}
	}
}

// end records that a reading is complete, and reports whether one was running.
func (v *View) end() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	was := v.reading
	v.reading = false
	return was
}

// lost returns how many credentials are missing, or older than they were. reading is true while
// that is not known yet, because not everything up to a sequence is read.
func (v *View) lost(upTo uint64) (n int, reading bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.unread, v.reading || v.outdated || v.read < upTo
}

// readAnew has everything read from the beginning again. What is missing is not known until then.
func (v *View) readAnew() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.outdated = true
	v.stop()
}

// stopBy tells v how the watch that feeds it is stopped.
func (v *View) stopBy(stop func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stop = stop
}

// await returns when everything up to a sequence is read, or ctx ends.
func (v *View) await(ctx context.Context, sequence uint64) {
	for _, reading := v.lost(sequence); reading; _, reading = v.lost(sequence) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(awaitPoll):
		}
	}
}

// awaitPoll is the time between two checks whether a message was read.
const awaitPoll = 10 * time.Millisecond

// Get returns the entry of key.
func (v *View) Get(key wxtoken.Key) (e Entry, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if known := v.find(key); known != nil {
		return known.Entry, true
	}
	return Entry{}, false
}

// Component returns the credential and the token of a component itself; empty ones if nothing is
// known.
func (v *View) Component(appid string) (account.Credential, wxtoken.Token) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if c := v.components[appid]; c != nil {
		return c.credential, c.token
	}
	return account.Credential{}, wxtoken.Token{}
}

// Quota returns what is known about a component's calls today.
func (v *View) Quota(component string) Quota {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.quotas[component]
}

// Len returns how many keys there are.
func (v *View) Len() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.places)
}

// Sealed returns how many credentials are sealed for each public key; "" stands for those in the
// clear.
func (v *View) Sealed() map[string]int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	all := map[string]int{}
	for _, s := range v.sealed {
		all[s.public] = s.n
	}
	return all
}

// records returns how many messages the stream must have at least: these are only ever replaced,
// never removed.
func (v *View) records() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.count
}

// Seen returns the sequence of the newest message that is in the view.
func (v *View) Seen() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.seen
}

// Each calls look for every entry, and visit for those for which look returns true. look is called
// with the view locked, a chunk at a time: it must not call the view, nor keep the Entry. visit may
// do anything. An account of which half is read is not there yet.
func (v *View) Each(look func(wxtoken.Key, *Entry) bool, visit func(wxtoken.Key, Entry)) {
	type found struct {
		key   wxtoken.Key
		entry Entry
	}
	var chosen []found
	for n := 0; ; n++ {
		v.mu.RLock()
		if n == len(v.chunks) {
			v.mu.RUnlock()
			return
		}
		chosen = chosen[:0]
		chunk := v.chunks[n]
		for i := range chunk {
			e := &chunk[i]
			if key := v.key(e.place); !v.halfRead(e) && look(key, &e.Entry) {
				chosen = append(chosen, found{key, e.Entry})
			}
		}
		v.mu.RUnlock()
		for _, f := range chosen {
			visit(f.key, f.entry)
		}
	}
}

// halfRead reports whether the first token of an account is the next record to be read: credential
// and token are stored at once, the credential first. By its credential alone the account would
// seem to have lost its token.
func (v *View) halfRead(e *entry) bool {
	return e.Credential.Revision == v.seen && e.Credential.JustBegun() && !e.Token.Exists()
}

// Find returns the key of an entry for which wanted is true; ok is false if there is none. wanted
// is called like look in Each.
func (v *View) Find(wanted func(wxtoken.Key, *Entry) bool) (key wxtoken.Key, ok bool) {
	v.Each(
		func(k wxtoken.Key, e *Entry) bool { return !ok && wanted(k, e) },
		func(k wxtoken.Key, _ Entry) { key, ok = k, true },
	)
	return key, ok
}

// NoteTold records that a status about a token was written: Entry.Told is true as long as that is
// the token of its key.
func (v *View) NoteTold(key wxtoken.Key, revision uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e := v.find(key); e != nil && e.Token.Revision == revision {
		e.Told = true
	}
}

// Watch returns a View that is complete as of now and follows the stream until ctx ends. wait
// returns when its goroutine has ended. read, if not nil, is called whenever everything was read
// from the beginning.
func (s *Store) Watch(ctx context.Context, log zerolog.Logger, read func()) (v *View, wait func(), err error) {
	v = newView()
	ready := make(chan struct{})
	var once sync.Once
	var following sync.WaitGroup
	following.Go(func() {
		patience := watchPatience
		for ctx.Err() == nil {
			if err := s.follow(ctx, v, patience, func() {
				patience = watchPatience
				once.Do(func() { close(ready) })
				if read != nil {
					read()
				}
			}); err != nil && ctx.Err() == nil {
				log.Warn().Err(err).Dur("delay", time.Second).Msg("watch ended")
				// With millions of messages a busy server needs longer.
				if errors.Is(err, context.DeadlineExceeded) {
					patience = min(2*patience, mostPatience)
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		}
	})
	select {
	case <-ready:
		return v, following.Wait, nil
	case <-ctx.Done():
		following.Wait()
		return nil, nil, fmt.Errorf("load stream %s: %w", events.StreamTokens, ctx.Err())
	}
}

// follow copies the stream into v until ctx or the consumer ends. It calls ready when v has
// everything that was stored when it started. patience bounds the wait for the consumer's creation.
//
// It ends at any doubt, and the next one reads everything again, as the Go client's watch does and
// for the same reasons (docs/adr/0006). Why the two are separate: docs/adr/0041.
func (s *Store) follow(ctx context.Context, v *View, patience time.Duration, ready func()) error {
	makeCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cons, err := s.js.CreateConsumer(makeCtx, events.StreamTokens, jetstream.ConsumerConfig{
		FilterSubjects:    []string{events.AllTokens, events.AllCredentials},
		DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		Replicas:          1,
		MemoryStorage:     true,
		InactiveThreshold: time.Minute,
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", events.StreamTokens, err)
	}
	msgs, err := cons.Messages(jetstream.PullExpiry(watchExpiry), jetstream.PullHeartbeat(watchHeartbeat),
		jetstream.PullMaxMessages(watchAtOnce))
	if err != nil {
		return fmt.Errorf("watch %s: %w", events.StreamTokens, err)
	}
	defer context.AfterFunc(ctx, msgs.Stop)()
	defer msgs.Stop()
	defer bus.StopAtReconnect(s.nc, msgs, nats.CONNECTED)()
	v.stopBy(msgs.Stop)
	v.begin()
	if info := cons.CachedInfo(); info != nil && info.NumPending == 0 && v.end() {
		ready()
	}
	news := make(chan *reading, watchAhead)
	failed := make(chan error, 1)
	go func() {
		defer close(news)
		failed <- s.readAll(msgs, news)
	}()
	for r := range news {
		<-r.done
		if v.apply(r.news); r.pending == 0 && v.end() {
			ready()
		}
	}
	return fmt.Errorf("watch %s: %w", events.StreamTokens, <-failed)
}

const (
	// watchHeartbeat is how often the server confirms that a quiet watch is running; after two
	// missing ones the watch ends.
	watchHeartbeat = 2 * time.Second
	// watchExpiry is how long one pull of the watch waits.
	watchExpiry = 30 * time.Second
	// watchPatience is how long the server may take to create the consumer, at first. Each time
	// that it takes longer the limit is doubled, up to mostPatience.
	watchPatience = 3 * time.Second
	mostPatience  = time.Minute
	// watchAtOnce is how many messages one pull asks for.
	watchAtOnce = 4096
	// watchGathered is how many waiting messages form one group for decoding, and watchAhead how
	// many groups are decoded ahead.
	watchGathered = 128
	watchAhead    = 16
)
