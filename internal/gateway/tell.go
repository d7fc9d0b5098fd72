package gateway

import (
	"context"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"wxtoken/internal/events"
	"wxtoken/internal/services"
)

const (
	// tellEvery is the time between two looks whether there is something to tell.
	tellEvery = 15 * time.Second
	// tellFor is how long one record counts, and tellKept how long it is kept.
	tellFor, tellKept = 10 * time.Minute, 48 * time.Hour
	// tellNow is the life of a record of a time that is not over. The last of it takes its place.
	tellNow = tellFor + time.Minute
	// tellAgain is the first wait after NATS did not take a record, as long as refreshers have not
	// made TRAFFIC for instance. It doubles up to tellAgainMost: a user without the right to write
	// it is refused each time.
	tellAgain, tellAgainMost = time.Second, time.Minute
	// tellWithin bounds the wait for NATS.
	tellWithin = 5 * time.Second
)

// teller writes down what the gateway serves, for the operator's page.
type teller struct {
	g    *Gateway
	js   jetstream.JetStream
	head services.Served
	base map[string]services.Figures // when the time of the record began
	told map[string]services.Figures // what was told last
	of   *services.Services          // of whom
	used map[string]time.Time
	wait time.Duration // since NATS did not take the last record; 0: it did
	rest time.Time     // when the next record may be tried
}

// RecordServed writes down what is served and how much, until ctx ends: on the stream TRAFFIC, a record for
// ten minutes. While something happens there is one sooner. It always returns nil.
func (g *Gateway) RecordServed(ctx context.Context) error {
	if g.d.Figures == nil {
		<-ctx.Done()
		return nil
	}
	js, err := jetstream.New(g.d.NATS)
	if err != nil {
		return fmt.Errorf("set up JetStream: %w", err)
	}
	host, _ := os.Hostname() // for people; empty is as good
	t := &teller{
		g: g, js: js, used: map[string]time.Time{}, base: map[string]services.Figures{},
		head: services.Served{Role: events.RoleGateway, Instance: nuid.Next(), Host: host, From: g.d.Now().UTC()},
	}
	for {
		changed := g.d.Services.Changed()
		t.tell(ctx, false)
		select {
		case <-changed:
		case <-time.After(t.pause()):
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellWithin)
			defer cancel()
			t.tell(last, true)
			return nil
		}
	}
}

// pause is the time until the next look.
func (t *teller) pause() time.Duration {
	if t.wait == 0 {
		return tellEvery
	}
	return min(t.wait, tellEvery)
}

// tell writes a record if there is news, or if the time of one is over. What NATS does not take is
// told with the next.
func (t *teller) tell(ctx context.Context, last bool) {
	now, of := t.g.d.Now().UTC(), t.g.d.Services.Now()
	figures, err := t.figures()
	if err != nil {
		t.g.d.Log.Debug().Err(err).Msg("failed to count what is served")
		return
	}
	for name, f := range figures {
		if f.Since(t.told[name]).Used() {
			t.used[name] = now
		}
	}
	over := last || now.Truncate(tellFor).After(t.head.From)
	switch {
	case !over && of == t.of && maps.Equal(figures, t.told):
		return // no news
	case !last && now.Before(t.rest):
		t.told, t.of = figures, nil // the uses are noted, and told later
		return
	}
	t.head.To = now
	if err := t.write(ctx, of, figures, over); err != nil {
		t.g.d.Log.Debug().Err(err).Msg("failed to write down what is served")
		t.wait = min(max(2*t.wait, tellAgain), tellAgainMost)
		t.told, t.of, t.rest = figures, nil, now.Add(t.wait)
		return
	}
	t.told, t.of, t.wait = figures, of, 0
	if over {
		t.base, t.head.From = figures, now
	}
}

func (t *teller) write(ctx context.Context, of *services.Services, figures map[string]services.Figures, over bool) error {
	ctx, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	var all []services.ServedService
	for _, s := range of.All() {
		all = append(all, services.ServedService{Summary: s.Summary(), Figures: figures[s.Name].Since(t.base[s.Name]), LastUse: t.used[s.Name]})
	}
	records, err := services.Records(t.head, all)
	if err != nil {
		return fmt.Errorf("encode what is served: %w", err)
	}
	life := tellNow
	if over {
		life = tellKept
	}
	for _, data := range records {
		m := nats.NewMsg(events.JournalSubject(events.JournalCount, t.head.Role, t.head.Instance))
		m.Data = data
		if _, err := t.js.PublishMsg(ctx, m, jetstream.WithMsgTTL(life), jetstream.WithRetryAttempts(0)); err != nil {
			return fmt.Errorf("publish %s: %w", m.Subject, err)
		}
	}
	return nil
}

// figures returns what the metrics say of each service: the page and /metrics can't differ.
func (t *teller) figures() (map[string]services.Figures, error) {
	families, err := t.g.d.Figures.Gather()
	if err != nil {
		return nil, fmt.Errorf("gather metrics: %w", err)
	}
	all := map[string]services.Figures{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, pair := range m.GetLabel() {
				labels[pair.GetName()] = pair.GetValue()
			}
			if name, ok := labels["service"]; ok {
				n := int64(m.GetCounter().GetValue() + m.GetGauge().GetValue()) // it is one of the two
				all[name] = all[name].Add(figure(family.GetName(), labels, n))
			}
		}
	}
	return all, nil
}

// figure returns what one metric counts.
func figure(metric string, labels map[string]string, n int64) (f services.Figures) {
	switch metric {
	case "wxtoken_gateway_tokens_total":
		f.Tokens = n
	case "wxtoken_gateway_calls_total":
		if f.Calls = n; labels["errcode"] != "0" {
			f.Errors = n
		}
	case "wxtoken_gateway_unanswered_total":
		f.Unanswered = n
	case "wxtoken_gateway_replaced_total":
		f.Replaced = n
	case "wxtoken_webhook_deliveries_total":
		switch labels["outcome"] {
		case "ok", "replied":
			f.Delivered = n
		default:
			f.Failed = n
		}
	case "wxtoken_webhook_dead_total":
		f.Dead = n
	case "wxtoken_webhook_pending":
		f.Pending = n
	}
	return f
}
