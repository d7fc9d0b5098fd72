package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
)

// reading is a group of messages of the stream, in order. They are decoded while earlier groups are
// put into the view.
type reading struct {
	msgs    []jetstream.Msg
	news    []news
	pending uint64        // how many messages came after the last of them
	done    chan struct{} // closed when news holds the content of msgs
}

// news is the content of one message.
type news struct {
	sequence uint64
	key      wxtoken.Key // zero for a message that is not about a key

	credential *account.Credential // of a component
	outline    *account.Outline    // of any key
	sealed     string
	token      *wxtoken.Token // of a component; the zero Token for a deletion
	life       *account.Life

	component string // of quota
	quota     *Quota
}

// errMissed ends a watch: the next one reads everything again.
var errMissed = errors.New("messages missing")

// readAll gathers messages into groups and decodes them on all processors, until the consumer ends.
// Opening and decoding one credential takes as long as the server needs to send ten.
func (s *Store) readAll(msgs jetstream.MessagesContext, out chan<- *reading) error {
	arrived := make(chan jetstream.Msg, watchGathered)
	failed := make(chan error, 1)
	go func() {
		defer close(arrived)
		for {
			m, err := msgs.Next()
			if err != nil {
				failed <- err
				return
			}
			arrived <- m
		}
	}()
	free := make(chan struct{}, runtime.GOMAXPROCS(0))
	expected := uint64(1)
	for first := range arrived {
		r := &reading{msgs: []jetstream.Msg{first}, done: make(chan struct{})}
		for more := true; more && len(r.msgs) < watchGathered; {
			select {
			case m, ok := <-arrived:
				if more = ok; ok {
					r.msgs = append(r.msgs, m)
				}
			default:
				more = false
			}
		}
		for _, m := range r.msgs {
			meta, err := m.Metadata()
			if err == nil && meta.Sequence.Consumer != expected {
				err = errMissed
			}
			if err != nil {
				go drain(arrived)
				return err
			}
			expected++
			r.news = append(r.news, news{sequence: meta.Sequence.Stream})
			r.pending = meta.NumPending
		}
		free <- struct{}{}
		go func() {
			defer func() { <-free; close(r.done) }()
			for i, m := range r.msgs {
				s.decode(m, &r.news[i])
			}
		}()
		out <- r
	}
	return <-failed
}

// drain reads a channel until it is closed, so that the goroutine that fills it can end.
func drain(msgs <-chan jetstream.Msg) {
	for range msgs {
		continue // dropped: the next watch reads everything again
	}
}

// decode reads the content of a message into n.
func (s *Store) decode(m jetstream.Msg, n *news) {
	if key, ok := events.CredentialKey(m.Subject()); ok {
		record, _ := s.open(m.Subject(), m.Headers(), m.Data()) // empty if it can't be opened
		o := outline(key, record, n.sequence)
		n.key, n.outline, n.sealed = key, &o, sealedFor(m.Headers(), m.Data())
		if account.KindOf(key).OfComponent {
			c, _ := decodeCredential(key, record)
			c.Key, c.Revision = key, n.sequence
			n.credential = &c
		}
	} else if key, ok := events.TokenKey(m.Subject()); ok {
		n.key = key
		n.token, n.life = s.decodeToken(key, m, n.sequence)
	} else if component, ok := events.QuotaComponent(m.Subject()); ok {
		var q Quota
		if data, err := s.open(m.Subject(), m.Headers(), m.Data()); err == nil && json.Unmarshal(data, &q) == nil {
			n.component, n.quota = component, &q // never changed in place
		}
	}
}

// decodeToken reads the life of a token, and for a component the token itself. A deletion, or a
// record that is not a token, gives zero values.
func (s *Store) decodeToken(key wxtoken.Key, m jetstream.Msg, sequence uint64) (*wxtoken.Token, *account.Life) {
	var t wxtoken.Token
	var l account.Life
	switch {
	case deletes(m.Headers()):
	case account.KindOf(key).OfComponent:
		if read, err := readToken(m.Data(), sequence); err == nil {
			t, l = read, account.LifeOf(read)
		}
	default:
		l, _ = readLife(m.Data(), sequence)
	}
	if !account.KindOf(key).OfComponent {
		return nil, &l
	}
	return &t, &l
}

// apply puts the content of messages into the view.
func (v *View) apply(all []news) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range all {
		n := &all[i]
		v.seen, v.read = max(v.seen, n.sequence), max(v.read, n.sequence)
		switch {
		case n.quota != nil:
			v.quotas[n.component] = *n.quota
		case n.outline != nil:
			v.applyCredential(v.entry(n.key), n)
		case n.life != nil:
			e := v.entry(n.key)
			if e.Token.Exists() {
				v.count--
			}
			if n.life.Exists() {
				v.count++
			}
			e.Told = e.Told && e.Token.Revision == n.life.Revision
			e.Token = *n.life
		}
		if n.credential != nil || n.token != nil {
			v.applyComponent(n)
		}
	}
}

func (v *View) applyCredential(e *entry, n *news) {
	if e.unread > 0 && e.unread <= n.sequence {
		e.unread = 0
		v.unread--
	}
	if e.Credential.Revision > 0 {
		v.sealed[e.sealed].n--
	} else {
		v.count++
	}
	e.Credential, e.sealed = *n.outline, v.sealedAt(n.sealed)
	v.sealed[e.sealed].n++
}

// sealedAt returns the index in v.sealed of the count for a public key. There are few such keys.
func (v *View) sealedAt(public string) uint32 {
	i := slices.IndexFunc(v.sealed, func(s sealed) bool { return s.public == public })
	if i < 0 {
		i = len(v.sealed)
		v.sealed = append(v.sealed, sealed{public: strings.Clone(public)})
	}
	return uint32(i)
}

func (v *View) applyComponent(n *news) {
	c := v.components[n.key.Component]
	if c == nil {
		c = &component{}
		v.components[n.key.Component] = c
	}
	if n.credential != nil {
		c.credential = *n.credential
	}
	if n.token != nil {
		c.token = *n.token
	}
}

// Credentials returns all credentials that can be read, by key. They are complete credentials:
// those of a million accounts take a gigabyte.
func (s *Store) Credentials(ctx context.Context) (map[wxtoken.Key]account.Credential, error) {
	all := map[wxtoken.Key]account.Credential{}
	err := s.eachRecord(ctx, false, func(m jetstream.Msg) {
		if key, ok := events.CredentialKey(m.Subject()); ok {
			if c, err := s.credential(key, m.Subject(), m.Headers(), m.Data()); err == nil {
				all[key] = c
			}
		}
	})
	return all, err
}

// eachRecord calls visit once for each record below credential. After a reconnect a record may come
// twice, the newer one last.
func (s *Store) eachRecord(ctx context.Context, headersOnly bool, visit func(jetstream.Msg)) error {
	cons, err := s.js.OrderedConsumer(ctx, events.StreamTokens, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{events.AllCredentials}, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		HeadersOnly: headersOnly,
	})
	if err != nil {
		return fmt.Errorf("read the records in %s: %w", events.StreamTokens, err)
	}
	if info := cons.CachedInfo(); info != nil && info.NumPending == 0 {
		return nil
	}
	msgs, err := cons.Messages()
	if err != nil {
		return fmt.Errorf("read the records in %s: %w", events.StreamTokens, err)
	}
	defer context.AfterFunc(ctx, msgs.Stop)()
	defer msgs.Stop()
	for {
		m, err := msgs.Next()
		if err != nil {
			return fmt.Errorf("read the records in %s: %w", events.StreamTokens, err)
		}
		visit(m)
		if meta, err := m.Metadata(); err != nil || meta.NumPending == 0 {
			return err
		}
	}
}
