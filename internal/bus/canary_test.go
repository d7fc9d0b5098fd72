package bus_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/bus"
	"wxtoken/internal/events"
)

// A canary returns the server's answer about the stream, and leaves nothing behind that another process would notice.
func TestCanaries(t *testing.T) {
	r := newRig(t)
	for range 3 {
		if err := bus.StoreCanary(t.Context(), r.js); err != nil {
			t.Fatal(err)
		}
		if err := bus.RefusedCanary(t.Context(), r.js); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.messages(events.StreamTokens); got != 1 {
		t.Errorf("%d messages on KV_tokens, want one that is overwritten", got)
	}
	if got := r.messages(events.StreamAuth); got != 0 {
		t.Errorf("%d events on AUTH, want none", got)
	}

	// A stream at its limit takes no write, and says so at once.
	cfg := r.config(events.StreamTokens)
	cfg.MaxBytes = 1
	if _, err := r.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := bus.StoreCanary(t.Context(), r.js); err == nil {
		t.Error("a stream that keeps nothing: no error")
	}
	for _, stream := range []string{events.StreamTokens, events.StreamAuth} {
		if err := r.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
	}
	if err := bus.StoreCanary(t.Context(), r.js); err == nil || !strings.Contains(err.Error(), events.StreamTokens) {
		t.Errorf("without KV_tokens: %v", err)
	}
	if err := bus.RefusedCanary(t.Context(), r.js); err == nil || !strings.Contains(err.Error(), events.StreamAuth) {
		t.Errorf("without AUTH: %v", err)
	}
}

func (r *rig) messages(stream string) uint64 {
	r.Helper()
	s, err := r.js.Stream(r.Context(), stream)
	if err != nil {
		r.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func (r *rig) config(stream string) jetstream.StreamConfig {
	r.Helper()
	s, err := r.js.Stream(r.Context(), stream)
	if err != nil {
		r.Fatal(err)
	}
	return s.CachedInfo().Config
}
