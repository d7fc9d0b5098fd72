package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wxtoken/client"
	"wxtoken/internal/services"
)

const (
	// keptNews is how many batches are remembered. A stream that falls behind reads the view
	// instead.
	keptNews = 1 << 10
	// missedAtOnce is how many tokens, and accounts, are looked at together for a stream that goes
	// on: ten thousand may do so at once.
	missedAtOnce = 64
	// keptEvents is how many events are kept as they were written: some megabytes.
	keptEvents = 4096
	// beatEvery is the time between two signs of life on a quiet stream: shorter than proxies wait.
	beatEvery = 15 * time.Second
)

// The kinds of events of a stream.
const (
	eventToken = "token" // the account has a new token; the value is not told
	eventState = "state" // something else is known of the account; a new one is told so too
	eventLost  = "lost"  // the account's token is gone: it cancelled
)

// item is one event.
type item struct {
	event string
	key   wxtoken.Key
	data  []byte // JSON, written once for all streams
}

// mark is how far a stream has come: the revisions of the buckets tokens and status.
type mark struct{ tokens, status uint64 }

func (m mark) String() string { return fmt.Sprintf("%d-%d", m.tokens, m.status) }

// parseMark reads a Last-Event-ID.
func parseMark(text string) (m mark, err error) {
	tokens, status, ok := strings.Cut(text, "-")
	m.tokens, err = strconv.ParseUint(tokens, 10, 64)
	if err == nil {
		m.status, err = strconv.ParseUint(status, 10, 64)
	}
	if !ok || err != nil {
		return mark{}, errors.New("want the id of an event of this stream")
	}
	return m, nil
}

// batch is what changed between two marks.
type batch struct {
	from, to mark
	items    []item
}

// news tells all streams what changes.
type news struct {
	mu      sync.Mutex
	first   uint64 // number of the first batch that is kept
	batches []batch
	mark    mark
	changed chan struct{} // closed at the next batch
	primed  bool          // the view as it was found has been taken note of

	lately sync.Map     // events as they were written: JSON by written
	many   atomic.Int64 // of them
}

func newNews() *news { return &news{changed: make(chan struct{})} }

// follow notes all changes until ctx ends.
func (n *news) follow(ctx context.Context, client *wxtoken.Client) {
	for changes := range client.Changes(ctx) {
		to := mark{changes.TokensRevision, changes.StatusRevision}
		primed := n.reach(to)
		var items []item
		if primed {
			items = n.itemsOf(client, changes)
		}
		n.add(to, items)
	}
}

// reach is called before the events up to a mark are written. Revisions that go back are those of a
// bucket that was made anew, and counts from 1: what was written of the old one is forgotten.
func (n *news) reach(to mark) (primed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if to.tokens < n.mark.tokens || to.status < n.mark.status {
		n.lately.Clear()
		n.many.Store(0)
	}
	return n.primed
}

func (n *news) add(to mark, items []item) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.primed {
		n.batches = append(n.batches, batch{n.mark, to, items})
		if over := len(n.batches) - keptNews; over > 0 {
			n.batches = slices.Clone(n.batches[over:])
			n.first += uint64(over)
		}
	}
	n.mark, n.primed = to, true
	close(n.changed)
	n.changed = make(chan struct{})
}

// next returns the batch of a number, or a channel that is closed when it may be there; lost is
// true for one that is no longer kept.
func (n *news) next(number uint64) (b batch, wait <-chan struct{}, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch end := n.first + uint64(len(n.batches)); {
	case number < n.first:
		return batch{}, nil, true
	case number >= end:
		return batch{}, n.changed, false
	}
	return n.batches[number-n.first], nil, false
}

// now returns the number of the next batch, and the mark that it begins at; ready is false before
// the view was taken note of.
func (n *news) now() (number uint64, m mark, ready bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.first + uint64(len(n.batches)), n.mark, n.primed
}

// itemsOf returns the events of some changes.
func (n *news) itemsOf(client *wxtoken.Client, changes wxtoken.Changes) (items []item) {
	for _, key := range changes.Tokens {
		if i, ok := n.tokenItem(client, key); ok {
			items = append(items, i)
		}
	}
	for _, key := range changes.Accounts {
		if status, err := client.Account(key); err == nil {
			items = append(items, n.written(written{eventState, key, status.Revision, status.State}, func() any { return accountOfStatus(status) }))
		}
	}
	return items
}

// tokenItem tells of a token, or that it is gone. Of one that has expired the state tells.
func (n *news) tokenItem(client *wxtoken.Client, key wxtoken.Key) (item, bool) {
	token, err := client.Token(key)
	switch {
	case errors.Is(err, wxtoken.ErrRevoked):
		return item{eventLost, key, mustJSON(map[string]any{"key": key})}, true
	case err != nil:
		return item{}, false
	}
	return n.written(written{event: eventToken, key: key, revision: token.Revision}, func() any {
		return map[string]any{"key": key, "generation": token.Generation, "expires_at": stamp(token.ExpiresAt)}
	}), true
}

// written names an event that was written.
type written struct {
	event    string
	key      wxtoken.Key
	revision uint64
	state    wxtoken.State // which goes by the clock, too
}

// written returns an event: as it was written a moment ago, since many streams go on at once after
// a gateway was restarted, and have missed the same.
func (n *news) written(w written, say func() any) item {
	if data, ok := n.lately.Load(w); ok { // without a lock: ten thousand would wait for it
		return item{w.event, w.key, data.([]byte)}
	}
	data := mustJSON(say())
	if n.many.Add(1) > keptEvents {
		n.lately.Clear()
		n.many.Store(1)
	}
	n.lately.Store(w, data)
	return item{w.event, w.key, data}
}

// events answers GET /v1/events with a stream of server-sent events, from Last-Event-ID on, or from
// now.
func (g *Gateway) events(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, _ *services.Service, _ url.Values) {
	number, from, ready := g.news.now()
	if !ready {
		problem(w, http.StatusServiceUnavailable, errAway.Error())
		return
	}
	resumed := r.Header.Get("Last-Event-ID")
	if resumed != "" {
		var err error
		if from, err = parseMark(resumed); err != nil {
			problem(w, http.StatusUnprocessableEntity, "Last-Event-ID: "+err.Error())
			return
		}
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep it back
	g.metrics.streams.Inc()
	defer g.metrics.streams.Dec()
	out := stream{g: g, w: w, control: control, client: client, key: shown(r)}
	var err error
	if resumed != "" {
		from, err = out.catchUp(from)
	} else {
		err = out.write(batch{from, from, nil})
	}
	if err != nil {
		return
	}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		b, wait, lost := g.news.next(number)
		switch {
		case lost:
			number, _, _ = g.news.now()
			if from, err = out.catchUp(from); err != nil {
				return
			}
			continue
		case wait != nil:
			select {
			case <-r.Context().Done():
				return
			case <-g.serving.Done():
				return
			case <-wait:
				continue
			case <-beat.C:
				if _, err := out.service(); err != nil || out.comment() != nil {
					return
				}
				continue
			}
		default:
			number++
		}
		if out.write(b) != nil {
			return
		}
		from = b.to
	}
}

// stream writes events to one service, which may lose its rights meanwhile.
type stream struct {
	g       *Gateway
	w       io.Writer
	control *http.ResponseController
	client  *wxtoken.Client
	key     string // with which it was asked for
}

// errEnded ends a stream whose service has gone, or lost the right or the key.
var errEnded = errors.New("service ended")

// service returns the one that the stream is for, as it is now.
func (s stream) service() (*services.Service, error) {
	service, ok := s.g.d.Services.Now().ByKey(s.key)
	if !ok || !service.May(services.RightEvents) {
		return nil, errEnded
	}
	return service, nil
}

// catchUp writes what changed since a mark, and returns the one to go on from. It looks at some at
// a time: streams that were away for long may be many, and have missed all that there is.
func (s stream) catchUp(from mark) (mark, error) {
	for {
		changes := s.client.ChangedSince(from.tokens, from.status, missedAtOnce)
		all := len(changes.Tokens) < missedAtOnce && len(changes.Accounts) < missedAtOnce
		service, err := s.service()
		if err != nil {
			return from, err
		}
		strange := func(key wxtoken.Key) bool { return !s.g.knows(s.client, service, key) }
		changes.Tokens, changes.Accounts = slices.DeleteFunc(changes.Tokens, strange), slices.DeleteFunc(changes.Accounts, strange)
		to := mark{changes.TokensRevision, changes.StatusRevision}
		if items := s.g.news.itemsOf(s.client, changes); all || len(items) > 0 {
			err = s.write(batch{from, to, items})
		}
		if from = to; all || err != nil {
			return from, err
		}
	}
}

// write writes those of a batch that the service may see. Only the last one has the new mark as its
// id: who goes on from the id of one before it gets the whole batch again.
func (s stream) write(b batch) error {
	service, err := s.service()
	if err != nil {
		return err
	}
	var seen []item
	for _, i := range b.items {
		if s.g.knows(s.client, service, i.key) {
			seen = append(seen, i)
		}
	}
	var text bytes.Buffer
	size := 0
	for _, i := range seen {
		size += len(i.data) + 64 // and what stands around it
	}
	text.Grow(size)
	for n, i := range seen {
		id := b.from
		if n == len(seen)-1 {
			id = b.to
		}
		fmt.Fprintf(&text, "id: %s\nevent: %s\ndata: %s\n\n", id, i.event, i.data)
	}
	if text.Len() == 0 {
		fmt.Fprintf(&text, "id: %s\n\n", b.to) // is no event, and moves the mark on
	}
	return s.send(text.Bytes())
}

// comment is a sign of life.
func (s stream) comment() error { return s.send([]byte(": still here\n\n")) }

// send sends bytes, and not a string: net/http would cut that into chunks of 2 KiB.
func (s stream) send(text []byte) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(paceLimit))
	// Over HTTP/2 it would end a stream on which nothing is being written.
	defer func() { _ = s.control.SetWriteDeadline(time.Time{}) }()
	if _, err := s.w.Write(text); err != nil {
		return err
	}
	return s.control.Flush()
}

// mustJSON writes a value that can always be written as WeChat does, on one line without an end.
func mustJSON(value any) []byte {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err) // a fault of ours
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}
