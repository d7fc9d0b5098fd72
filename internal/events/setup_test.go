package events_test

import (
	"errors"
	"flag"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/events/eventstest"
	"wxtoken/internal/natsd/natsdtest"
)

func TestMain(m *testing.M) {
	natsdtest.Register()
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil { // they wait for the clock more than they work
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// within bounds everything that a test waits for. It is long, because a machine may be slow.
const within = time.Minute

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
	eventstest.Setup(t, r.nc, r.js, config)
	return r
}

// newEmptyRig is newRig without streams.
func newEmptyRig(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	r := &rig{T: t, nats: natsdtest.Start(t)}
	r.nc = r.nats.Connect()
	var err error
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) eventually(what string, f func() bool) {
	r.Helper()
	for deadline := time.Now().Add(within); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("not within %v: %s", within, what)
		}
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
	if err := events.Exists(t.Context(), r.js); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("before: %v", err)
	}
	want := []string{"AUTH", "DEAD", "KV_status", "KV_tokens", "MESSAGES"}
	created, err := events.Setup(t.Context(), r.nc, r.js, config)
	slices.Sort(created)
	if err != nil || !slices.Equal(created, want) {
		t.Fatalf("created %v, %v", created, err)
	}
	r.must(events.Exists(t.Context(), r.js))
	e, err := events.Auth{Kind: events.KindTicket, Component: "wxc", Ticket: "t", CreateTime: time.Now()}.Event("id", "/auth")
	r.must(err)
	_, err = events.Publish(t.Context(), r.js, e)
	r.must(err)

	changed := config
	changed.MessagesMaxAge, changed.MessagesMaxBytes = time.Hour, 0
	created, err = events.Setup(t.Context(), r.nc, r.js, changed)
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
	if created, err = events.Setup(t.Context(), r.nc, r.js, changed); err != nil || !slices.Equal(created, []string{"DEAD"}) {
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
				_, err = events.Setup(t.Context(), nc, js, config)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	setting.Wait()
	r.must(events.Exists(t.Context(), r.js))
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

func TestPublish(t *testing.T) {
	r := newRig(t)
	at := time.Date(2026, 11, 22, 20, 0, 0, 0, time.FixedZone("", 8*60*60))
	auth := events.Auth{Kind: events.KindAuthorized, Component: "wxc", Authorizer: "wxa", Code: "SEKRET", CreateTime: at, ReceivedAt: at}
	e, err := auth.Event("digest", "/wechat/wxc/auth")
	r.must(err)
	for i, want := range []bool{false, true} {
		if duplicate, err := events.Publish(t.Context(), r.js, e); err != nil || duplicate != want {
			t.Errorf("publish %d: duplicate %t, %v", i+1, duplicate, err)
		}
	}
	stream, err := r.js.Stream(t.Context(), events.StreamAuth)
	r.must(err)
	m, err := stream.GetLastMsgForSubject(t.Context(), "wechat.auth.wxc.authorized")
	r.must(err)
	for name, want := range map[string]string{
		"ce-specversion": "1.0", "ce-id": "digest", "ce-source": "/wechat/wxc/auth", "ce-type": "wechat.auth.authorized", "ce-subject": "wxa",
		"ce-time": "2026-11-22T12:00:00Z", "Content-Type": "application/json", "Nats-Msg-Id": "digest",
	} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	got, err := events.ParseAuth(m.Data)
	if err != nil || got.Code != auth.Code || !got.CreateTime.Equal(at) || got.Authorizer != "wxa" {
		t.Errorf("came back as %+v, %v", got, err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "SEKRET", "{}", `{"kind":"SEKRET"}`, `{"component":"SEKRET"}`} {
		if _, err := events.ParseAuth([]byte(data)); err == nil || strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("ParseAuth(%q): %v", data, err)
		}
	}
	for _, data := range []string{"", "x", "{}", `{"key":""}`, `{"key":"nonsense"}`, `{"key":"component.wxc","generation":-1}`} {
		if _, err := events.ParseDue([]byte(data)); err == nil {
			t.Errorf("ParseDue(%q) took it", data)
		}
	}
}

func TestMessagesOfAKey(t *testing.T) {
	t.Parallel()
	key := wxtoken.AuthorizerKey("wxc", "wxa")
	at := time.Date(2026, 11, 22, 12, 0, 0, 999_999_999, time.UTC)
	m, err := events.ScheduleMsg(key, 7, at)
	if err != nil || m.Subject != "renewal.scheduled.authorizer.wxc.wxa" || m.Header.Get("Nats-Schedule") != "@at 2026-11-22T12:00:00Z" ||
		m.Header.Get("Nats-Schedule-Target") != "renewal.due.authorizer.wxc.wxa" {
		t.Errorf("schedule %+v, %v", m, err)
	}
	due, err := events.ParseDue(m.Data)
	if err != nil || due != (events.Due{Key: key, Generation: 7, Reason: events.ReasonScheduled}) {
		t.Errorf("due message %+v, %v", due, err)
	}
	if _, err := events.DueMsg(events.Due{Key: wxtoken.Key{Kind: "a.b.>"}}); err == nil {
		t.Error("a due message of what is no key")
	}
	if m := events.ReconcileMsg("wxc", 6*time.Hour); m.Header.Get("Nats-Schedule") != "@every 6h0m0s" || m.Header.Get("Nats-Schedule-Target") != "renewal.due.reconcile.wxc" {
		t.Errorf("reconcile %+v", m)
	}
}
