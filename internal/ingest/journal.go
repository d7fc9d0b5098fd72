package ingest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/events"
)

// What is written down of pushes beside their results.
const (
	resultOdd  = "odd"  // stored, though something was odd
	resultSlow = "slow" // answered so late that WeChat may have hung up
)

const (
	// lateAfter is when an answer is late. WeChat waits 5 seconds, the way to it included
	// ("message_push").
	lateAfter = 3 * time.Second
	// journalEvery is the time between two records of the same component and result.
	journalEvery = time.Second
	// journalWithin bounds the wait for NATS, for one record.
	journalWithin = 2 * time.Second
	// maxPath and maxMethod bound what is kept of a path and a method, in bytes. Anybody can send
	// any.
	maxPath, maxMethod = 128, 16
)

// journal writes down which pushes were refused, odd, repeated or answered late, for the operator's
// page: one a second for each component and result, and how many were left out. It never holds up a
// push: note keeps a record in memory, and run writes it. While NATS is away the first of each
// waits, and the others are counted.
type journal struct {
	js  jetstream.JetStream
	log zerolog.Logger

	mu      sync.Mutex
	waiting map[likes]events.Push // few: the components of the settings, times the results
}

// likes are the pushes of which one is written down in a second.
type likes struct{ component, result string }

func newJournal(js jetstream.JetStream, log zerolog.Logger) *journal {
	return &journal{js: js, log: log, waiting: map[likes]events.Push{}}
}

// note has a record written.
func (j *journal) note(p events.Push) {
	j.mu.Lock()
	defer j.mu.Unlock()
	like := likes{p.Component, p.Result}
	if first, waits := j.waiting[like]; waits {
		p, p.LeftOut = first, first.LeftOut+p.LeftOut+1
	}
	j.waiting[like] = p
}

// run writes what was noted until ctx ends, and then the rest.
func (j *journal) run(ctx context.Context) {
	again := time.NewTicker(journalEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalWithin)
			defer cancel()
			j.write(last)
			return
		case <-again.C:
			j.write(ctx)
		}
	}
}

// write writes what waits. What NATS does not take waits on, before what came meanwhile.
func (j *journal) write(ctx context.Context) {
	j.mu.Lock()
	waiting := j.waiting
	j.waiting = map[likes]events.Push{}
	j.mu.Unlock()
	byPush := func(a, b events.Push) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Result, b.Result), cmp.Compare(a.Component, b.Component))
	}
	all := slices.SortedFunc(maps.Values(waiting), byPush)
	for i, p := range all {
		if err := j.publish(ctx, p); err != nil {
			j.log.Debug().Err(err).Msg("failed to write down refused pushes")
			j.giveBack(all[i:])
			return
		}
	}
}

// giveBack has records wait that could not be written.
func (j *journal) giveBack(all []events.Push) {
	j.mu.Lock()
	later := j.waiting
	j.waiting = map[likes]events.Push{}
	j.mu.Unlock()
	for _, p := range all {
		j.note(p)
	}
	for _, p := range later {
		j.note(p)
	}
}

func (j *journal) publish(ctx context.Context, p events.Push) error {
	ctx, cancel := context.WithTimeout(ctx, journalWithin)
	defer cancel()
	if !j.js.Conn().IsConnected() { // the client would send it later, beside the next try
		return nats.ErrDisconnected
	}
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode record of a push: %w", err)
	}
	m := nats.NewMsg(events.JournalSubject(events.JournalPush, p.Component, p.Result))
	m.Data = data
	if _, err = j.js.PublishMsg(ctx, m, jetstream.WithMsgTTL(events.PushKept), jetstream.WithRetryAttempts(0)); err != nil {
		return fmt.Errorf("publish %s: %w", m.Subject, err)
	}
	return nil
}

// writeDown notes an answer that an operator may want to hear of.
func (i *Ingest) writeDown(r *http.Request, to target, a answer, took time.Duration) {
	p := events.Push{
		At: i.now().UTC(), Result: a.result, Reason: string(a.reason), Detail: a.detail, Method: clip(r.Method, maxMethod), Path: clip(r.URL.Path, maxPath),
		From: network(r.RemoteAddr), Kind: a.kind, Subject: a.subject, EventID: a.id, Status: a.status, Millis: took.Milliseconds(), Bytes: a.bytes,
	}
	if to.crypter != nil { // of the settings: no subject is made of what anybody sends
		p.Component = to.component
		if wxtoken.ValidAppID(to.appid) {
			p.AppID = to.appid
		}
	}
	if a.err != nil {
		p.Detail = a.err.Error()
	}
	if a.result != resultAccepted {
		i.journal.note(p)
	}
	if len(a.odd) > 0 {
		odd := p
		odd.Result, odd.Reason = resultOdd, ""
		for _, o := range a.odd {
			odd.Oddities = append(odd.Oddities, string(o.Kind)+": "+o.Detail)
		}
		i.journal.note(odd)
	}
	if took >= lateAfter && (a.result == resultAccepted || a.result == resultDuplicate) {
		p.Result = resultSlow
		i.journal.note(p)
	}
}

// clip returns the beginning of a foreign text.
func clip(text string, most int) string {
	return strings.ToValidUTF8(text[:min(len(text), most)], "\uFFFD")
}

// network returns the network of a connection's other end: enough to tell WeChat from a stranger,
// and of no one house. It is that of the proxy where there is one.
func network(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return ""
	}
	addr, bits := ap.Addr().Unmap().WithZone(""), 24
	if addr.Is6() {
		bits = 48
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return ""
	}
	return prefix.String()
}
