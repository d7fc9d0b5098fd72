package gateway

import (
	"bytes"
	"cmp"
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
	"time"

	"wxtoken/client"
	"wxtoken/internal/services"
)

const (
	// keptNews is how many batches are remembered. A stream that falls behind reads the view instead.
	keptNews = 1 << 10
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
}

func newNews() *news { return &news{changed: make(chan struct{})} }

// follow notes all changes until ctx ends.
func (n *news) follow(ctx context.Context, client *wxtoken.Client) {
	for changes := range client.Changes(ctx) {
		to := mark{changes.TokensRevision, changes.StatusRevision}
		n.mu.Lock()
		primed := n.primed
		n.mu.Unlock()
		var items []item
		if primed {
			items = itemsOf(client, changes)
		}
		n.add(to, items)
	}
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

// next returns the batch of a number, or a channel that is closed when it may be there; lost is true for one that is no longer kept.
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

// now returns the number of the next batch, and the mark that it begins at; ready is false before the view was taken note of.
func (n *news) now() (number uint64, m mark, ready bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.first + uint64(len(n.batches)), n.mark, n.primed
}

// itemsOf returns the events of some changes.
func itemsOf(client *wxtoken.Client, changes wxtoken.Changes) (items []item) {
	for _, key := range changes.Tokens {
		items = append(items, tokenItem(client, key))
	}
	for _, key := range changes.Accounts {
		if i, ok := stateItem(client, key); ok {
			items = append(items, i)
		}
	}
	return items
}

// tokenItem tells of a token, or that it is gone.
func tokenItem(client *wxtoken.Client, key wxtoken.Key) item {
	token, err := client.Token(key)
	if errors.Is(err, wxtoken.ErrRevoked) {
		return item{eventLost, key, mustJSON(map[string]any{"key": key})}
	}
	return item{eventToken, key, mustJSON(map[string]any{"key": key, "generation": token.Generation, "expires_at": stamp(token.ExpiresAt)})}
}

// stateItem tells what else is known of a key.
func stateItem(client *wxtoken.Client, key wxtoken.Key) (item, bool) {
	status, err := client.Account(key)
	if err != nil {
		return item{}, false
	}
	return item{eventState, key, mustJSON(accountOfStatus(status))}, true
}

// since returns what the view has that is newer than a mark, and the mark to go on from. What was lost in between is told by the state.
func since(client *wxtoken.Client, from mark) (items []item) {
	type dated struct {
		at uint64
		item
	}
	var found []dated
	for status := range client.Accounts() {
		if token, err := client.Token(status.Key); err == nil && token.Revision > from.tokens {
			found = append(found, dated{token.Revision, tokenItem(client, status.Key)})
		}
		if status.Revision > from.status {
			if i, ok := stateItem(client, status.Key); ok {
				found = append(found, dated{status.Revision, i})
			}
		}
	}
	slices.SortFunc(found, func(a, b dated) int { return cmp.Compare(a.at, b.at) })
	for _, one := range found {
		items = append(items, one.item)
	}
	return items
}

// events answers GET /v1/events with a stream of server-sent events, from Last-Event-ID on, or from now.
func (g *Gateway) events(w http.ResponseWriter, r *http.Request, client *wxtoken.Client, _ *services.Service, _ url.Values) {
	number, from, ready := g.news.now()
	if !ready {
		problem(w, http.StatusServiceUnavailable, errAway.Error())
		return
	}
	resumed := r.Header.Get("Last-Event-ID")
	var missed []item
	to := from
	if resumed != "" {
		var err error
		if from, err = parseMark(resumed); err != nil {
			problem(w, http.StatusUnprocessableEntity, "Last-Event-ID: "+err.Error())
			return
		}
		missed = since(client, from)
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep it back
	g.metrics.streams.Inc()
	defer g.metrics.streams.Dec()
	out := stream{g: g, w: w, control: control, client: client, key: shown(r)}
	if out.write(batch{from, to, missed}) != nil {
		return
	}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		b, wait, lost := g.news.next(number)
		switch {
		case lost:
			number, to, _ = g.news.now()
			b = batch{from, to, since(client, from)}
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

// write writes those of a batch that the service may see. Only the last one has the new mark as its id: who goes on from the id of one
// before it gets the whole batch again.
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
	var text strings.Builder
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
	return s.send(text.String())
}

// comment is a sign of life.
func (s stream) comment() error { return s.send(": still here\n\n") }

func (s stream) send(text string) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(paceLimit))
	if _, err := io.WriteString(s.w, text); err != nil {
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
