package bus_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/bus"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// TestAcksThatNeverCome has 4,000 asynchronous publishes stay without an ack: nothing more is published then, but only until they are given
// up.
func TestAcksThatNeverCome(t *testing.T) {
	natsdtest.Bubble(t, func(t *testing.T) {
		nc := natsdtest.Start(t, natsdtest.InBubble).Connect()
		js, err := bus.JetStream(nc)
		if err != nil {
			t.Fatal(err)
		}
		silent, err := nc.SubscribeSync("silent") // somebody takes them, and says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = silent.Unsubscribe() }()
		publish := func() error {
			_, err := js.PublishAsync("silent", nil)
			return err
		}
		for range 4000 {
			if err := publish(); err != nil {
				t.Fatal(err)
			}
		}
		if err := publish(); !errors.Is(err, jetstream.ErrTooManyStalledMsgs) {
			t.Errorf("with 4,000 without an ack: %v", err)
		}
		time.Sleep(30 * time.Second)
		if err := publish(); err != nil {
			t.Errorf("after half a minute: %v", err)
		}
	})
}

func TestPublish(t *testing.T) {
	r := newRig(t)
	at := time.Date(2026, 11, 22, 20, 0, 0, 0, time.FixedZone("", 8*60*60))
	auth := events.Auth{Kind: events.KindAuthorized, Component: "wxc", Authorizer: "wxa", Code: "SEKRET", CreateTime: at, ReceivedAt: at}
	e, err := auth.Event("digest", "/wechat/wxc/auth")
	r.must(err)
	for i, want := range []bool{false, true} {
		if duplicate, err := bus.Publish(t.Context(), r.js, e); err != nil || duplicate != want {
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
