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
	// keptBatches is how many batches are kept. A stream that falls further behind reads the view
	// instead.
	keptBatches = 1 << 10
	// catchUpBatch is how many tokens, and accounts, a stream that resumes handles at a time: ten
	// thousand streams may resume at once.
	catchUpBatch = 64
	// maxEncoded is how many encoded events are cached: some megabytes.
	maxEncoded = 4096
	// heartbeatEvery is the time between two comments on a quiet stream: shorter than the idle timeout of
	// proxies.
	heartbeatEvery = 15 * time.Second
)

// The kinds of events of a stream.
const (
	eventToken = "token" // the account has a new token; the event does not hold its value
	eventState = "state" // the status of the account changed, or it is new
	eventLost  = "lost"  // the account's token is gone: it cancelled
)

// item is one event.
type item struct {
	event string
	key   wxtoken.Key
	data  []byte // JSON, written once for all streams
}

// mark is the position of a stream: the revisions of the buckets tokens and status.
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

// changeLog keeps the latest changes for all streams.
type changeLog struct {
	mu      sync.Mutex
	first   uint64 // number of the first batch that is kept
	batches []batch
	mark    mark
	changed chan struct{} // closed at the next batch
	primed  bool          // the first batch, the view as it was found, has come

	encoded      sync.Map     // encoded events by eventID: JSON
	encodedCount atomic.Int64 // entries of encoded
}

func newChangeLog() *changeLog { return &changeLog{changed: make(chan struct{})} }

// follow adds all changes until ctx ends.
func (n *changeLog) follow(ctx context.Context, client *wxtoken.Client) {
	for changes := range client.Changes(ctx) {
		to := mark{changes.TokensRevision, changes.StatusRevision}
		primed := n.prepare(to)
		var items []item
		if primed {
			items = n.itemsOf(client, changes)
		}
		n.add(to, items)
	}
}

// prepare is called before the events up to a mark are encoded. Revisions that go back mean that a bucket
// was made anew and counts from 1: the encoded events of the old one are dropped, since new ones would get
// the same eventID.
func (n *changeLog) prepare(to mark) (primed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if to.tokens < n.mark.tokens || to.status < n.mark.status {
		n.encoded.Clear()
		n.encodedCount.Store(0)
	}
	return n.primed
}

func (n *changeLog) add(to mark, items []item) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.primed {
		n.batches = append(n.batches, batch{n.mark, to, items})
		if over := len(n.batches) - keptBatches; over > 0 {
			n.batches = slices.Clone(n.batches[over:])
			n.first += uint64(over)
		}
	}
	n.mark, n.primed = to, true
	close(n.changed)
	n.changed = make(chan struct{})
}

// next returns the batch with a number, or a channel that is closed when it may be there. lost: it is no
// longer kept.
func (n *changeLog) next(number uint64) (b batch, wait <-chan struct{}, lost bool) {
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

// now returns the number of the next batch and the mark at which it begins; ready is false before the
// view has been read.
func (n *changeLog) now() (number uint64, m mark, ready bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.first + uint64(len(n.batches)), n.mark, n.primed
}

// itemsOf returns the events of changes.
func (n *changeLog) itemsOf(client *wxtoken.Client, changes wxtoken.Changes) (items []item) {
	for _, key := range changes.Tokens {
		if i, ok := n.tokenItem(client, key); ok {
			items = append(items, i)
		}
	}
	for _, key := range changes.Accounts {
		if status, err := client.Account(key); err == nil {
			id := eventID{eventState, key, status.Revision, status.State}
			items = append(items, n.encode(id, func() any { return accountOfStatus(status) }))
		}
	}
	return items
}

// tokenItem returns the event that a token is new or gone. There is none for an expired token: the event
// of its state says so.
func (n *changeLog) tokenItem(client *wxtoken.Client, key wxtoken.Key) (item, bool) {
	token, err := client.Token(key)
	switch {
	case errors.Is(err, wxtoken.ErrRevoked):
		return item{eventLost, key, mustJSON(map[string]any{"key": key})}, true
	case err != nil:
		return item{}, false
	}
	return n.encode(eventID{event: eventToken, key: key, revision: token.Revision}, func() any {
		return map[string]any{"key": key, "generation": token.Generation, "expires_at": stamp(token.ExpiresAt)}
	}), true
}

// eventID identifies an encoded event.
type eventID struct {
	event    string
	key      wxtoken.Key
	revision uint64
	state    wxtoken.State // it changes with the clock, too
}

// encode returns an event, from the cache if it is there: after a restart of the gateway many streams
// resume at once, and have missed the same events.
func (n *changeLog) encode(w eventID, say func() any) item {
	if data, ok := n.encoded.Load(w); ok { // without a lock, for which ten thousand streams would wait
		return item{w.event, w.key, data.([]byte)}
	}
	data := mustJSON(say())
	if n.encodedCount.Add(1) > maxEncoded {
		n.encoded.Clear()
		n.encodedCount.Store(1)
	}
	n.encoded.Store(w, data)
	return item{w.event, w.key, data}
}

// events answers GET /v1/events with a stream of server-sent events, from Last-Event-ID or from now on.
func (g *Gateway) events(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, _ *services.Service, _ url.Values) {
	number, from, ready := g.changes.now()
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
	w.Header().Set("X-Accel-Buffering", "no") // or nginx would buffer the events
	g.metrics.streams.Inc()
	defer g.metrics.streams.Dec()
	out := stream{g: g, w: w, control: control, client: client, key: bearerKey(r)}
	var err error
	if resumed != "" {
		from, err = out.catchUp(from)
	} else {
		err = out.write(batch{from, from, nil})
	}
	if err != nil {
		return
	}
	beat := time.NewTicker(heartbeatEvery)
	defer beat.Stop()
	for {
		b, wait, lost := g.changes.next(number)
		switch {
		case lost:
			number, _, _ = g.changes.now()
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

// stream writes events to one service, which may lose its rights while the stream is open.
type stream struct {
	g       *Gateway
	w       io.Writer
	control *http.ResponseController
	client  *wxtoken.Client
	key     string // with which the stream was opened
}

// errEnded ends a stream whose service was removed, or lost the right or the key.
var errEnded = errors.New("service has no right to events any more")

// service returns the service of the stream as it is now.
func (s stream) service() (*services.Service, error) {
	service, ok := s.g.d.Services.Now().ByKey(s.key)
	if !ok || !service.May(services.RightEvents) {
		return nil, errEnded
	}
	return service, nil
}

// catchUp writes what changed since a mark, and returns the mark to go on from. It works in batches:
// many streams may have been away for long, and have missed everything.
func (s stream) catchUp(from mark) (mark, error) {
	for {
		changes := s.client.ChangedSince(from.tokens, from.status, catchUpBatch)
		all := len(changes.Tokens) < catchUpBatch && len(changes.Accounts) < catchUpBatch
		service, err := s.service()
		if err != nil {
			return from, err
		}
		foreign := func(key wxtoken.Key) bool { return !s.g.knows(s.client, service, key) }
		changes.Tokens = slices.DeleteFunc(changes.Tokens, foreign)
		changes.Accounts = slices.DeleteFunc(changes.Accounts, foreign)
		to := mark{changes.TokensRevision, changes.StatusRevision}
		if items := s.g.changes.itemsOf(s.client, changes); all || len(items) > 0 {
			err = s.write(batch{from, to, items})
		}
		if from = to; all || err != nil {
			return from, err
		}
	}
}

// write writes the events of a batch that the service may see. Only the last one has the new mark as its
// id, so that a stream that resumes from an earlier one gets the whole batch again.
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
		size += len(i.data) + 64 // and the lines around it
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
		fmt.Fprintf(&text, "id: %s\n\n", b.to) // no event, but moves Last-Event-ID on
	}
	return s.send(text.Bytes())
}

// comment writes a comment, as a sign of life.
func (s stream) comment() error { return s.send([]byte(": still here\n\n")) }

// send writes bytes and not a string, which net/http would cut into chunks of 2 KiB.
func (s stream) send(text []byte) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(paceLimit))
	// Over HTTP/2 a deadline that stays set would end an idle stream.
	defer func() { _ = s.control.SetWriteDeadline(time.Time{}) }()
	if _, err := s.w.Write(text); err != nil {
		return err
	}
	return s.control.Flush()
}

// mustJSON encodes a value as WeChat does: without HTML escapes, on one line without a line break.
func mustJSON(value any) []byte {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err) // our own values can always be encoded
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}
