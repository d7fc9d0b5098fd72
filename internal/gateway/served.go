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
	// recordEvery is how often the figures are looked at.
	recordEvery = 15 * time.Second
	// recordPeriod is the time that one record covers, recordLife how long it is kept.
	recordPeriod, recordLife = 10 * time.Minute, 48 * time.Hour
	// openRecordLife is how long a record of a period that is not over is kept. The last record of the
	// period replaces it.
	openRecordLife = recordPeriod + time.Minute
	// retryMin is the first wait after a record could not be stored, for instance because no refresher
	// has made TRAFFIC yet. It doubles up to retryMax: a user without the right to write would be
	// refused each time.
	retryMin, retryMax = time.Second, time.Minute
	// publishTimeout bounds the wait for NATS.
	publishTimeout = 5 * time.Second
)

// recorder records what the gateway serves, for the operator's page.
type recorder struct {
	g        *Gateway
	js       jetstream.JetStream
	head     services.Served
	base     map[string]services.Figures // at the beginning of the period
	last     map[string]services.Figures // in the last record
	services *services.Services          // in the last record; nil: it could not be stored
	used     map[string]time.Time
	wait     time.Duration // after the last record could not be stored; 0: it was stored
	retryAt  time.Time     // not before then
}

// RecordServed records, until ctx ends, which services the gateway serves and what they did: on the
// stream TRAFFIC, one record per ten minutes, written anew while something changes. It returns an error
// only at once, where it can't begin.
func (g *Gateway) RecordServed(ctx context.Context) error {
	js, err := jetstream.New(g.d.NATS)
	if err != nil {
		return fmt.Errorf("set up JetStream: %w", err)
	}
	host, _ := os.Hostname() // for people only, may be empty
	t := &recorder{
		g: g, js: js, used: map[string]time.Time{}, base: map[string]services.Figures{},
		head: services.Served{Role: events.RoleGateway, Instance: nuid.Next(), Host: host, From: g.d.Now().UTC()},
	}
	for {
		changed := g.d.Services.Changed()
		t.record(ctx, false)
		select {
		case <-changed:
		case <-time.After(t.pause()):
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
			defer cancel()
			t.record(last, true)
			return nil
		}
	}
}

// pause returns the time until the figures are looked at again.
func (t *recorder) pause() time.Duration {
	if t.wait == 0 {
		return recordEvery
	}
	return min(t.wait, recordEvery)
}

// record writes a record if something changed, or if its period is over. What could not be stored is in
// the next one.
func (t *recorder) record(ctx context.Context, last bool) {
	now, of := t.g.d.Now().UTC(), t.g.d.Services.Now()
	figures, err := t.figures()
	if err != nil {
		t.g.d.Log.Debug().Err(err).Msg("failed to gather metrics of services")
		return
	}
	for name, f := range figures {
		if f.Since(t.last[name]).Used() {
			t.used[name] = now
		}
	}
	over := last || now.Truncate(recordPeriod).After(t.head.From)
	switch {
	case !over && of == t.services && maps.Equal(figures, t.last):
		return // nothing changed
	case !last && now.Before(t.retryAt):
		t.last, t.services = figures, nil // the uses are noted, and recorded later
		return
	}
	t.head.To = now
	if err := t.write(ctx, of, figures, over); err != nil {
		t.g.d.Log.Debug().Err(err).Msg("failed to store record of services")
		t.wait = min(max(2*t.wait, retryMin), retryMax)
		t.last, t.services, t.retryAt = figures, nil, now.Add(t.wait)
		return
	}
	t.last, t.services, t.wait = figures, of, 0
	if over {
		t.base, t.head.From = figures, now
	}
}

func (t *recorder) write(ctx context.Context, of *services.Services, figures map[string]services.Figures, over bool) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	var all []services.ServedService
	for _, s := range of.All() {
		all = append(all, services.ServedService{
			Summary: s.Summary(), Figures: figures[s.Name].Since(t.base[s.Name]), LastUse: t.used[s.Name],
		})
	}
	records, err := services.Records(t.head, all)
	if err != nil {
		return fmt.Errorf("encode what is served: %w", err)
	}
	life := openRecordLife
	if over {
		life = recordLife
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

// figures reads the figures of each service from the metrics, so that the page and /metrics can't differ.
func (t *recorder) figures() (map[string]services.Figures, error) {
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

// figure returns the value of one metric as Figures.
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
