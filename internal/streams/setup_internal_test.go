package streams

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/natsd/natsdtest"
)

// TestFillWithoutAcks has nobody answer while a stream is filled, again and again: once somebody does, it goes on.
func TestFillWithoutAcks(t *testing.T) {
	nc := natsdtest.Start(t).Connect()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := nc.SubscribeSync("filler")
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := fill(ctx, js, nats.NewMsg("filler"), raiseBatch); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without an ack: %v", err)
		}
		cancel()
	}
	if err := silent.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FILLED", Subjects: []string{"filler"}}); err != nil {
		t.Fatal(err)
	}
	if last, err := fill(t.Context(), js, nats.NewMsg("filler"), raiseBatch); err != nil || last != raiseBatch {
		t.Errorf("filled up to %d, %v", last, err)
	}
}

func TestCheckServer(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		version string
		ok, old bool
	}{
		{"2.15.0", true, false},
		{"2.15.2", true, false},
		{"2.16.0-RC.1", true, false},
		{"3.0.0", true, false},
		{"2.14.9", false, true},
		{"1.99.0", false, true},
		{"", false, false},
		{"unknown", false, false},
	} {
		err := CheckServer(row.version)
		if (err == nil) != row.ok || errors.Is(err, ErrServerTooOld) != row.old {
			t.Errorf("%q: %v", row.version, err)
		}
	}
}
