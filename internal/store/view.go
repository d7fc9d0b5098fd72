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
	Token      account.Life // zero when the bucket has none
	Told       bool         // NoteTold was called for this token
}

// View is a live outline of all tokens and credentials. It may lag a little behind: what it says is
// good for choosing what to look at, never for changing a record. Only what a component calls
// WeChat with is held whole.
type View struct {
	mu      sync.RWMutex
	places  map[place]uint32 // of each key in chunks
	chunks  [][]entry        // each of chunkLen but the last; an entry is never taken out, nor moved
	owners  []owner
	ownerAt map[owner]uint32

	components map[string]*own
	quotas     map[string]Quota // by component
	sealed     []sealed
	count      uint64 // of the messages that the stream has for the entries
	seen       uint64 // sequence of the newest message
	read       uint64 // sequence of the newest message since all was read from the beginning

	// How many credentials were known at the beginning of a reading and were not read again, or
	// only older than they were: see entry.unread. Once all is read, what is left is lost; but a
	// replica may be a moment behind.
	unread  int
	reading bool
}

// owner is what many keys have in common.
type owner struct {
	kind      wxtoken.Kind
	component string
}

// place names a key in a third of the memory of a wxtoken.Key.
type place struct {
	owner      uint32
	authorizer string
}

// entry is an Entry with what the view itself has to know.
type entry struct {
	place
	Entry
	// The revision of the credential that was known when a reading began, until that or a newer one
	// is read again.
	unread uint64
	sealed uint32 // for which key, in View.sealed
}

// sealed counts the credentials that are sealed for a public key; "" stands for those in the clear.
type sealed struct {
	public string
	n      int
}

// own is what is known of a component itself.
type own struct {
	credential account.Credential
	token      wxtoken.Token
}

// chunkLen is how many entries are made, and looked at, in one go: that takes some ten
// microseconds.
const chunkLen = 1 << 12

func newView() *View {
	return &View{
		places: map[place]uint32{}, ownerAt: map[owner]uint32{}, components: map[string]*own{}, quotas: map[string]Quota{},
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
	p := place{o, strings.Clone(key.Authorizer)} // it is a piece of the subject
	v.places[p] = uint32(last*chunkLen + len(v.chunks[last]))
	v.chunks[last] = append(v.chunks[last], entry{place: p})
	return &v.chunks[last][len(v.chunks[last])-1]
}

func (v *View) key(p place) wxtoken.Key {
	o := v.owners[p.owner]
	return wxtoken.Key{Kind: o.kind, Component: o.component, Authorizer: p.authorizer}
}

// begin notes that all is read from the beginning.
func (v *View) begin() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reading, v.read, v.unread = true, 0, 0
	for _, chunk := range v.chunks {
		for i := range chunk {
			e := &chunk[i]
			if e.unread = max(e.unread, e.Credential.Revision); e.unread > 0 {
				v.unread++
			}
		}
	}
}

// end notes that all is read that lay there, and reports whether that is new.
func (v *View) end() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	was := v.reading
	v.reading = false
	return was
}

// lost returns how many credentials are missing, or older than they were; reading tells that it is
// not known yet, since not everything is read up to a sequence.
func (v *View) lost(upTo uint64) (n int, reading bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.unread, v.reading || v.read < upTo
}

// await returns when everything is read up to a sequence, or ctx ends.
func (v *View) await(ctx context.Context, sequence uint64) {
	for _, reading := v.lost(sequence); reading; _, reading = v.lost(sequence) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(awaitPoll):
		}
	}
}

// awaitPoll is the time between two looks whether a message was read.
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

// Component returns what is known of a component itself; empty records if nothing is.
func (v *View) Component(appid string) (account.Credential, wxtoken.Token) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if c := v.components[appid]; c != nil {
		return c.credential, c.token
	}
	return account.Credential{}, wxtoken.Token{}
}

// Quota returns what is known of a component's calls today.
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

// Sealed returns how many credentials are sealed for which public key; "" stands for those in the
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

// records returns how many messages the stream has at the least: none of these goes but for another
// in its place.
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

// Each looks at every entry, and calls visit for those of which look says so. look is called with
// the view locked, a chunk at a time: it must not ask the view, and what it is shown is good until
// it returns. visit may do anything.
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
			if key := v.key(e.place); look(key, &e.Entry) {
				chosen = append(chosen, found{key, e.Entry})
			}
		}
		v.mu.RUnlock()
		for _, f := range chosen {
			visit(f.key, f.entry)
		}
	}
}

// Find returns the key of an entry that is as wanted; ok is false when there is none. wanted is
// called as look is by Each.
func (v *View) Find(wanted func(wxtoken.Key, *Entry) bool) (key wxtoken.Key, ok bool) {
	v.Each(func(k wxtoken.Key, e *Entry) bool { return !ok && wanted(k, e) }, func(k wxtoken.Key, _ Entry) { key, ok = k, true })
	return key, ok
}

// NoteTold marks a token as one of which something was told: Entry.Told says so as long as it is
// the token of its key.
func (v *View) NoteTold(key wxtoken.Key, revision uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e := v.find(key); e != nil && e.Token.Revision == revision {
		e.Told = true
	}
}

// Watch returns a View that is complete as of now and follows the stream until ctx ends. Wait on
// the returned function for its goroutine to end. read, if not nil, is called whenever everything
// was read from the beginning.
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
				// With millions of messages a busy server takes its time.
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

// follow copies the stream into v until ctx ends or the consumer does. It calls ready when
// everything that lay there at the start is in. patience bounds the wait for the consumer.
//
// At any doubt it ends, and the next reads everything again, as the Go client's watch does and for
// the same reasons (docs/adr/0006). Why the two are not one: docs/adr/0041.
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
	v.begin()
	if info := cons.CachedInfo(); info != nil && info.NumPending == 0 && v.end() {
		ready()
	}
	msgs, err := cons.Messages(jetstream.PullExpiry(watchExpiry), jetstream.PullHeartbeat(watchHeartbeat), jetstream.PullMaxMessages(watchAtOnce))
	if err != nil {
		return fmt.Errorf("watch %s: %w", events.StreamTokens, err)
	}
	defer context.AfterFunc(ctx, msgs.Stop)()
	defer msgs.Stop()
	defer bus.StopAtReconnect(s.nc, msgs, nats.CONNECTED)()
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
	// watchHeartbeat is how often the server says that a quiet watch stands; after two that did not
	// come the watch ends.
	watchHeartbeat = 2 * time.Second
	// watchExpiry is how long one pull of the watch waits.
	watchExpiry = 30 * time.Second
	// watchPatience is how long the server may take to make the consumer. Each time that it takes
	// longer it gets twice as long.
	watchPatience = 3 * time.Second
	mostPatience  = time.Minute
	// watchAtOnce is how many messages one pull asks for.
	watchAtOnce = 4096
	// watchGathered is how many messages that lie there are decoded in one go, and watchAhead how
	// many such goes are under way.
	watchGathered = 128
	watchAhead    = 16
)
