package events_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/events/eventstest"
)

// A canary is told what it is told about the stream, and leaves nothing that anybody else would notice.
func TestCanaries(t *testing.T) {
	r := newRig(t)
	for range 3 {
		if err := events.StoreCanary(t.Context(), r.js); err != nil {
			t.Fatal(err)
		}
		if err := events.RefusedCanary(t.Context(), r.js); err != nil {
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
	if err := events.StoreCanary(t.Context(), r.js); err == nil {
		t.Error("a stream that keeps nothing: no error")
	}
	for _, stream := range []string{events.StreamTokens, events.StreamAuth} {
		if err := r.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
	}
	if err := events.StoreCanary(t.Context(), r.js); err == nil || !strings.Contains(err.Error(), events.StreamTokens) {
		t.Errorf("without KV_tokens: %v", err)
	}
	if err := events.RefusedCanary(t.Context(), r.js); err == nil || !strings.Contains(err.Error(), events.StreamAuth) {
		t.Errorf("without AUTH: %v", err)
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

func (r *rig) messages(stream string) uint64 {
	r.Helper()
	s, err := r.js.Stream(r.Context(), stream)
	if err != nil {
		r.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func TestDrift(t *testing.T) {
	r := newEmptyRig(t)
	if drift, missing, err := events.Drift(t.Context(), r.js, config, events.StreamTokens); drift != nil || !missing || err != nil {
		t.Errorf("before the setup: %q, missing %v, %v", drift, missing, err)
	}
	eventstest.Setup(t, r.nc, r.js, config)
	for _, name := range events.StreamNames() {
		if drift, missing, err := events.Drift(t.Context(), r.js, config, name); drift != nil || missing || err != nil {
			t.Errorf("%s as it was set up: %q, missing %v, %v", name, drift, missing, err)
		}
	}
	cfg := r.config(events.StreamTokens)
	cfg.MaxAge, cfg.MaxMsgs, cfg.RePublish = time.Hour, 1000, nil
	if _, err := r.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	drift, _, err := events.Drift(t.Context(), r.js, config, events.StreamTokens)
	want := []string{"max_age 1h0m0s, want 0s", "max_msgs 1000, want -1", "republish none, want {$KV.tokens.> token.updated.> false}"}
	if !slices.Equal(drift, want) || err != nil {
		t.Errorf("got %q, %v, want %q", drift, err, want)
	}
}

func TestCoversAndOverlaps(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		allowed, wanted  string
		covers, overlaps bool
	}{
		{"a.b", "a.b", true, true},
		{"a.b", "a.c", false, false},
		{"a.*", "a.b", true, true},
		{"a.b", "a.*", false, true},
		{"a.*", "a.b.c", false, false},
		{"a.>", "a.b.c", true, true},
		{"a.>", "a", false, false},
		{"a.>", "a.>", true, true},
		{"a.*", "a.>", false, true},
		{"a.b.>", "a.>", false, true},
		{">", "a.>", true, true},
		{"*.b", "a.*", false, true},
		{"a.*.c", "a.b.c", true, true},
		{"a.*.c", "a.b.d", false, false},
		{"a.b", "a", false, false},
	} {
		if got := events.Covers(row.allowed, row.wanted); got != row.covers {
			t.Errorf("Covers(%q, %q) = %v", row.allowed, row.wanted, got)
		}
		if got := events.Overlaps(row.allowed, row.wanted); got != row.overlaps {
			t.Errorf("Overlaps(%q, %q) = %v", row.allowed, row.wanted, got)
		}
	}
}
