package streams_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams"
	"wxtoken/internal/streams/streamstest"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 8) }

// rig is a NATS server with our streams.
type rig struct {
	*testing.T
	nats *natsdtest.Server
	nc   *nats.Conn
	js   jetstream.JetStream
}

var config = events.SetupConfig{Replicas: 1, MessagesMaxAge: 7 * 24 * time.Hour, MessagesMaxBytes: 1 << 30}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := newEmptyRig(t)
	streamstest.Setup(t, r.nc, r.js, config)
	return r
}

// newEmptyRig is newRig without streams.
func newEmptyRig(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	r := &rig{T: t, nats: natsdtest.Start(t)}
	r.nc = r.nats.Connect()
	r.js = natsdtest.JetStream(t, r.nc)
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) info(stream string) *jetstream.StreamInfo {
	r.Helper()
	s, err := r.js.Stream(r.Context(), stream)
	r.must(err)
	return s.CachedInfo()
}

func TestSetup(t *testing.T) {
	r := newEmptyRig(t)
	if err := streams.CheckExists(t.Context(), r.js); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("before: %v", err)
	}
	want := []string{"AUTH", "DEAD", "JOURNAL", "KV_status", "KV_tokens", "MESSAGES", "TRAFFIC"}
	created, err := streams.Setup(t.Context(), r.nc, r.js, config)
	slices.Sort(created)
	if err != nil || !slices.Equal(created, want) {
		t.Fatalf("created %v, %v", created, err)
	}
	r.must(streams.CheckExists(t.Context(), r.js))
	e, err := events.Auth{Kind: events.KindTicket, Component: "wxc", Ticket: "t", CreateTime: time.Now()}.Event("id", "/auth")
	r.must(err)
	_, err = bus.Publish(t.Context(), r.js, e)
	r.must(err)

	changed := config
	changed.MessagesMaxAge, changed.MessagesMaxBytes = time.Hour, 0
	created, err = streams.Setup(t.Context(), r.nc, r.js, changed)
	if err != nil || len(created) > 0 {
		t.Errorf("once more: created %v, %v", created, err)
	}
	if c := r.info(events.StreamMessages).Config; c.MaxAge != time.Hour || c.MaxBytes != -1 {
		t.Errorf("changed settings became %v, %d", c.MaxAge, c.MaxBytes)
	}
	if n := r.info(events.StreamAuth).State.Msgs; n != 1 {
		t.Errorf("%d events on AUTH after another setup, want the one that lay there", n)
	}
	r.must(r.js.DeleteStream(t.Context(), events.StreamDead))
	if created, err = streams.Setup(t.Context(), r.nc, r.js, changed); err != nil || !slices.Equal(created, []string{"DEAD"}) {
		t.Errorf("one was missing: created %v, %v", created, err)
	}
}

func TestSetupBySeveral(t *testing.T) {
	r := newEmptyRig(t)
	var setting sync.WaitGroup
	for range 5 {
		nc := r.nats.Connect()
		setting.Go(func() {
			js, err := jetstream.New(nc)
			if err == nil {
				_, err = streams.Setup(t.Context(), nc, js, config)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	setting.Wait()
	r.must(streams.CheckExists(t.Context(), r.js))
}

// TestStreams compares what the server has with the contract.
func TestStreams(t *testing.T) {
	r := newRig(t)
	const day = 24 * time.Hour
	for _, row := range []struct {
		name     string
		subjects []string
		policy   jetstream.RetentionPolicy
		age, dup time.Duration
		bytes    int64
	}{
		{"AUTH", []string{"wechat.auth.>"}, jetstream.WorkQueuePolicy, day, 10 * time.Minute, -1},
		{"MESSAGES", []string{"wechat.message.>", "wechat.notice.>"}, jetstream.LimitsPolicy, 7 * day, 2 * time.Minute, 1 << 30},
		{"KV_tokens", []string{"$KV.tokens.>", "credential.>", "renewal.scheduled.>", "renewal.due.>"}, jetstream.LimitsPolicy, 0, 2 * time.Minute, -1},
		{"KV_status", []string{"$KV.status.>"}, jetstream.LimitsPolicy, 0, 2 * time.Minute, -1},
		{"DEAD", []string{"dead.>"}, jetstream.LimitsPolicy, 30 * day, 2 * time.Minute, -1},
	} {
		c := r.info(row.name).Config
		if !slices.Equal(c.Subjects, row.subjects) || c.Retention != row.policy || c.MaxAge != row.age || c.Duplicates != row.dup ||
			c.MaxBytes != row.bytes || c.MaxMsgs != -1 || c.MaxMsgSize != -1 || c.Storage != jetstream.FileStorage || c.Replicas != 1 {
			t.Errorf("%s is %+v", row.name, c)
		}
	}
	tokens := r.info(events.StreamTokens).Config
	if tokens.MaxMsgsPerSubject != 1 || tokens.Discard != jetstream.DiscardOld || !tokens.AllowAtomicPublish || !tokens.AllowMsgSchedules ||
		!tokens.AllowMsgTTL || !tokens.AllowDirect || !tokens.AllowRollup || !tokens.DenyDelete {
		t.Errorf("KV_tokens is %+v", tokens)
	}
	if p := tokens.RePublish; p == nil || p.Source != "$KV.tokens.>" || p.Destination != "token.updated.>" || p.HeadersOnly {
		t.Errorf("KV_tokens is republished as %+v", p)
	}
	if p := r.info("KV_status").Config.RePublish; p == nil || p.Source != "$KV.status.>" || p.Destination != "status.updated.>" {
		t.Errorf("KV_status is republished as %+v", p)
	}
	for _, bucket := range []string{events.BucketTokens, events.BucketStatus} {
		kv, err := r.js.KeyValue(t.Context(), bucket)
		r.must(err)
		_, err = kv.PutString(t.Context(), wxtoken.ComponentKey("wxc").String(), "value")
		r.must(err)
		status, err := kv.Status(t.Context())
		r.must(err)
		if status.History() != 1 {
			t.Errorf("bucket %s keeps %d values", bucket, status.History())
		}
	}
}

func TestDrift(t *testing.T) {
	r := newEmptyRig(t)
	if drift, missing, err := streams.Drift(t.Context(), r.js, config, events.StreamTokens); drift != nil || !missing || err != nil {
		t.Errorf("before the setup: %q, missing %v, %v", drift, missing, err)
	}
	streamstest.Setup(t, r.nc, r.js, config)
	for _, name := range events.StreamNames() {
		if drift, missing, err := streams.Drift(t.Context(), r.js, config, name); drift != nil || missing || err != nil {
			t.Errorf("%s as it was set up: %q, missing %v, %v", name, drift, missing, err)
		}
	}
	cfg := r.config(events.StreamTokens)
	cfg.MaxAge, cfg.MaxMsgs, cfg.RePublish = time.Hour, 1000, nil
	if _, err := r.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	drift, _, err := streams.Drift(t.Context(), r.js, config, events.StreamTokens)
	want := []string{"max_age 1h0m0s, want 0s", "max_msgs 1000, want -1", "republish none, want {$KV.tokens.> token.updated.> false}"}
	if !slices.Equal(drift, want) || err != nil {
		t.Errorf("got %q, %v, want %q", drift, err, want)
	}
}

func (r *rig) config(stream string) jetstream.StreamConfig {
	r.Helper()
	s, err := r.js.Stream(r.Context(), stream)
	if err != nil {
		r.Fatal(err)
	}
	return s.CachedInfo().Config
}

// TestForeignTextPublishes gives a server what was made of the worst text.
func TestForeignTextPublishes(t *testing.T) {
	r := newRig(t)
	for _, text := range []string{"", " ", "a.b.*.>", "\r\nPUB x 0\r\n", strings.Repeat("长", 100)} {
		m := nats.NewMsg(events.MessageSubject(text, text, text, text))
		ack, err := r.js.PublishMsg(t.Context(), m)
		if err != nil || ack.Stream != events.StreamMessages {
			t.Errorf("publish %q: %+v, %v", m.Subject, ack, err)
		}
	}
}
