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

// Results in records of pushes, besides those of metrics.go.
const (
	resultOdd  = "odd"  // stored, though something was odd
	resultSlow = "slow" // answered so late that WeChat may have hung up
)

const (
	// lateAfter is the time after which an answer is late. WeChat waits 5 seconds, the time on the
	// network included ("message_push").
	lateAfter = 3 * time.Second
	// journalEvery is the time between two records of the same component and result.
	journalEvery = time.Second
	// journalWithin bounds the wait for NATS to store one record.
	journalWithin = 2 * time.Second
	// maxPath and maxMethod bound how much of a path and a method is kept, in bytes. Anybody can
	// send any.
	maxPath, maxMethod = 128, 16
)

// journal writes records of pushes that were refused, odd, repeated or answered late, for the
// operator's page: one a second for each component and result, with the number of those left out.
// It never delays a push: add keeps a record in memory, and run writes it. While NATS is away the
// first record of each group waits, and the others are counted.
type journal struct {
	js  jetstream.JetStream
	log zerolog.Logger

	mu      sync.Mutex
	waiting map[group]events.Push // bounded: components times results
}

// group is the pushes of which one record a second is written.
type group struct{ component, result string }

func newJournal(js jetstream.JetStream, log zerolog.Logger) *journal {
	return &journal{js: js, log: log, waiting: map[group]events.Push{}}
}

// add adds a record, which run writes.
func (j *journal) add(p events.Push) {
	j.mu.Lock()
	defer j.mu.Unlock()
	g := group{p.Component, p.Result}
	if first, waits := j.waiting[g]; waits {
		p, p.LeftOut = first, first.LeftOut+p.LeftOut+1
	}
	j.waiting[g] = p
}

// run writes the records until ctx ends, and then the rest.
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

// write writes the waiting records. Those that NATS does not take wait again, ahead of those that
// came meanwhile.
func (j *journal) write(ctx context.Context) {
	j.mu.Lock()
	waiting := j.waiting
	j.waiting = map[group]events.Push{}
	j.mu.Unlock()
	byPush := func(a, b events.Push) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Result, b.Result), cmp.Compare(a.Component, b.Component))
	}
	all := slices.SortedFunc(maps.Values(waiting), byPush)
	for i, p := range all {
		if err := j.publish(ctx, p); err != nil {
			j.log.Debug().Err(err).Msg("failed to write records of pushes")
			j.putBack(all[i:])
			return
		}
	}
}

// putBack makes records wait again that could not be written.
func (j *journal) putBack(all []events.Push) {
	j.mu.Lock()
	later := j.waiting
	j.waiting = map[group]events.Push{}
	j.mu.Unlock()
	for _, p := range all {
		j.add(p)
	}
	for _, p := range later {
		j.add(p)
	}
}

func (j *journal) publish(ctx context.Context, p events.Push) error {
	ctx, cancel := context.WithTimeout(ctx, journalWithin)
	defer cancel()
	if !j.js.Conn().IsConnected() { // otherwise the client would send it later, in addition to the next try
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

// addToJournal adds records of an answer that may interest an operator.
func (i *Ingest) addToJournal(r *http.Request, to target, a answer, took time.Duration) {
	p := events.Push{
		At: i.now().UTC(), Result: a.result, Reason: string(a.reason), Detail: a.detail,
		Method: clip(r.Method, maxMethod), Path: clip(r.URL.Path, maxPath), From: network(r.RemoteAddr),
		Kind: a.kind, Subject: a.subject, EventID: a.id,
		Status: a.status, Millis: took.Milliseconds(), Bytes: a.bytes,
	}
	if to.crypter != nil { // a component of the settings: subjects are never made from foreign text
		p.Component = to.component
		if wxtoken.ValidAppID(to.appid) {
			p.AppID = to.appid
		}
	}
	if a.err != nil {
		p.Detail = a.err.Error()
	}
	if a.result != resultAccepted {
		i.journal.add(p)
	}
	if len(a.odd) > 0 {
		odd := p
		odd.Result, odd.Reason = resultOdd, ""
		for _, o := range a.odd {
			odd.Oddities = append(odd.Oddities, string(o.Kind)+": "+o.Detail)
		}
		i.journal.add(odd)
	}
	if took >= lateAfter && (a.result == resultAccepted || a.result == resultDuplicate) {
		p.Result = resultSlow
		i.journal.add(p)
	}
}

// clip returns the beginning of a foreign text.
func clip(text string, most int) string {
	return strings.ToValidUTF8(text[:min(len(text), most)], "\uFFFD")
}

// network returns the network of the peer's address: enough to tell WeChat from others, but not a
// single household. Behind a proxy it is the proxy's.
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
