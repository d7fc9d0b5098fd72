package preflight

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams/streamstest"
)

// TestUnread: what could not be looked at is not in order.
func TestUnread(t *testing.T) {
	t.Parallel()
	nc := natsdtest.Start(t).Connect()
	js := natsdtest.JetStream(t, nc)
	streamstest.Setup(t, nc, js, events.SetupConfig{Replicas: 1, MessagesMaxAge: time.Hour})
	key := wxtoken.AuthorizerKey("wxc", "wxa")
	data, err := json.Marshal(wxtoken.Status{Key: key, State: wxtoken.StateRenewingFailed})
	if err == nil {
		_, err = js.Publish(t.Context(), "$KV.status."+key.String(), data)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Target{NATS: nc})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), events.StreamStatus)
	if err != nil {
		t.Fatal(err)
	}
	if lines := c.permissions(t.Context(), stream); len(lines) != 2 || lines[1].Mark != Fail {
		t.Errorf("an account without a token: %+v", lines)
	}
	if err := js.DeleteStream(t.Context(), events.StreamTokens); err != nil {
		t.Fatal(err)
	}
	if lines := c.permissions(t.Context(), stream); len(lines) != 2 || lines[0].Mark != Skip || lines[1].Mark != Skip {
		t.Errorf("the tokens can't be read: %+v", lines)
	}

	if _, err := nc.Subscribe(events.SubjectConnectOpen, func(m *nats.Msg) {
		no := nats.NewMsg(m.Reply)
		no.Header.Set(micro.ErrorHeader, "step: want landing, callback or result")
		no.Header.Set(micro.ErrorCodeHeader, "400")
		_ = m.RespondMsg(no)
	}); err != nil {
		t.Fatal(err)
	}
	if line := RenewalsOfIngest(nc).line(t.Context()); line.Mark != Skip || line.Saw != doesNotSay {
		t.Errorf("a refresher that does not say: %+v", line)
	}
}

// TestClockToNATS: what comes between the server's answer and its line does not count as a difference of the clocks.
func TestClockToNATS(t *testing.T) {
	t.Parallel()
	nc := natsdtest.Start(t).Connect()
	const silent = "silent.API"
	if _, err := nc.Subscribe(silent+".>", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	c, err := New(Target{NATS: nc, Role: events.RoleRefresher, Setup: events.SetupConfig{ServicesAPI: []string{silent}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lines := c.nats(ctx)
	for _, line := range lines {
		if off, _, ok := strings.Cut(line.Saw.EN, " "); ok && line.Name == "clock, to NATS" {
			if d, err := time.ParseDuration(off); err != nil || d > 500*time.Millisecond {
				t.Errorf("%s, though it is the same clock", line.Saw.EN)
			}
			return
		}
	}
	t.Errorf("no line about the clock: %+v", lines)
}
