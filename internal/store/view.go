package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
)

// Entry is what a View knows about a key.
type Entry struct {
	Credential account.Credential
	Token      wxtoken.Token // zero when the bucket has none
	SealedFor  string        // public key for which the credential is sealed; "" in the clear
}

// View is a live copy of all tokens and credentials. It may lag a little behind: what it says is
// good for choosing what to look at, and for reading a token, never for changing a record.
type View struct {
	mu      sync.RWMutex
	entries map[wxtoken.Key]Entry
	quotas  map[string]Quota // by component
	seen    uint64           // sequence of the newest message
	read    uint64           // sequence of the newest message since all was read from the beginning

	// From the beginning of a reading on, the revisions of the credentials that were known and were
	// not read again, or only older than they were. Once all is read, what is left in it is lost;
	// but a replica may be a moment behind.
	unread  map[wxtoken.Key]uint64
	reading bool
}

// begin notes that all is read from the beginning.
func (v *View) begin() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reading, v.read = true, 0
	for key, e := range v.entries {
		if e.Credential.Revision > 0 {
			v.unread[key] = max(v.unread[key], e.Credential.Revision)
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
	return len(v.unread), v.reading || v.read < upTo
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
	e, ok = v.entries[key]
	return e, ok
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
	return len(v.entries)
}

// records returns how many messages the stream has at the least: none of these goes but for another
// in its place.
func (v *View) records() (n uint64) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, e := range v.entries {
		if e.Credential.Revision > 0 {
			n++
		}
		if e.Token.Revision > 0 {
			n++
		}
	}
	return n
}

// Seen returns the sequence of the newest message that is in the view.
func (v *View) Seen() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.seen
}

// All returns a copy of all entries.
func (v *View) All() map[wxtoken.Key]Entry {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return maps.Clone(v.entries)
}

// Find returns the key of an entry that is as wanted; ok is false when there is none.
func (v *View) Find(wanted func(wxtoken.Key, Entry) bool) (key wxtoken.Key, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for key, e := range v.entries {
		if wanted(key, e) {
			return key, true
		}
	}
	return wxtoken.Key{}, false
}

// Watch returns a View that is complete as of now and follows the stream until ctx ends. Wait on
// the returned function for its goroutine to end. read, if not nil, is called whenever everything
// was read from the beginning.
func (s *Store) Watch(ctx context.Context, log zerolog.Logger, read func()) (v *View, wait func(), err error) {
	v = &View{entries: map[wxtoken.Key]Entry{}, quotas: map[string]Quota{}, unread: map[wxtoken.Key]uint64{}}
	ready := make(chan struct{})
	var once sync.Once
	var following sync.WaitGroup
	following.Go(func() {
		for ctx.Err() == nil {
			if err := s.follow(ctx, v, func() {
				once.Do(func() { close(ready) })
				if read != nil {
					read()
				}
			}); err != nil && ctx.Err() == nil {
				log.Warn().Err(err).Dur("delay", time.Second).Msg("watch ended")
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
// everything that lay there at the start is in.
//
// At any doubt it ends, and the next reads everything again, as the Go client's watch does and for the same reasons
// (docs/adr/0006). Why the two are not one: docs/adr/0041.
func (s *Store) follow(ctx context.Context, v *View, ready func()) error {
	makeCtx, cancel := context.WithTimeout(ctx, watchHeartbeat+time.Second)
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
	msgs, err := cons.Messages(jetstream.PullExpiry(watchExpiry), jetstream.PullHeartbeat(watchHeartbeat))
	if err != nil {
		return fmt.Errorf("watch %s: %w", events.StreamTokens, err)
	}
	defer context.AfterFunc(ctx, msgs.Stop)()
	defer msgs.Stop()
	// A server that was started anew has forgotten the consumer: no need to wait for heartbeats
	// that can't come.
	again := s.nc.StatusChanged(nats.CONNECTED)
	defer s.nc.RemoveStatusListener(again)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-again:
			msgs.Stop()
		case <-ended:
		}
	}()
	for next := uint64(1); ; next++ {
		m, err := msgs.Next()
		if err != nil {
			return fmt.Errorf("watch %s: %w", events.StreamTokens, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("watch %s: %w", events.StreamTokens, err)
		}
		if meta.Sequence.Consumer != next {
			return fmt.Errorf("watch %s: messages lost on the way", events.StreamTokens)
		}
		s.take(v, m, meta.Sequence.Stream)
		if meta.NumPending == 0 && v.end() {
			ready()
		}
	}
}

const (
	// watchHeartbeat is how often the server says that a quiet watch stands; after two that did not
	// come the watch ends.
	watchHeartbeat = 2 * time.Second
	// watchExpiry is how long one pull of the watch waits.
	watchExpiry = 30 * time.Second
)

// take puts one message into the view.
func (s *Store) take(v *View, m jetstream.Msg, sequence uint64) {
	key, isCredential := events.CredentialKey(m.Subject())
	var c account.Credential
	if isCredential {
		// An unreadable record stands in the view as an empty one: there is nothing to renew with.
		c, _ = s.credential(key, m.Subject(), m.Headers(), m.Data())
		c.Revision = sequence
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen, v.read = max(v.seen, sequence), max(v.read, sequence)
	if isCredential {
		if v.unread[key] <= sequence {
			delete(v.unread, key)
		}
		e := v.entries[key]
		e.Credential, e.SealedFor = c, sealedFor(m.Headers(), m.Data())
		v.entries[key] = e
	} else if key, ok := events.TokenKey(m.Subject()); ok {
		e := v.entries[key]
		e.Token = wxtoken.Token{}
		if !deletes(m.Headers()) {
			if t, err := readToken(m.Data(), sequence); err == nil {
				e.Token = t
			}
		}
		v.entries[key] = e
	} else if component, ok := events.QuotaComponent(m.Subject()); ok {
		var q Quota
		if data, err := s.open(m.Subject(), m.Headers(), m.Data()); err == nil && json.Unmarshal(data, &q) == nil {
			v.quotas[component] = q // it is never changed in place
		}
	}
}
