package streams_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/streams"
)

// Mirrors themselves are tested with the accounts that need them (cmd/wxtoken).
func TestMirrorsWithoutAnAccount(t *testing.T) {
	r := newRig(t)
	cfg := config
	cfg.ServicesAPI = []string{"services.API"}
	if streams.HasServices(t.Context(), r.nc, "services.API") {
		t.Error("there is an answer behind that prefix")
	}
	if err := streams.CheckMirrors(t.Context(), r.nc, r.js, cfg); err != nil {
		t.Errorf("no answer is needed behind the default: %v", err)
	}
	absent := cfg
	absent.ServicesAPI = []string{"absent.API"}
	if err := streams.CheckMirrors(t.Context(), r.nc, r.js, absent); err == nil || !strings.Contains(err.Error(), "absent.API") {
		t.Errorf("no answer for an account that was asked for: %v", err)
	}
	mirrors := streams.SetupMirrors(t.Context(), r.nc, r.js, "services.API", cfg)
	if len(mirrors) == 0 {
		t.Error("no mirror was tried")
	}
	for _, m := range mirrors {
		if m.Err == nil || !strings.Contains(m.Err.Error(), "services.API") {
			t.Errorf("no account has that prefix: %+v", m)
		}
	}
	// A stream that is lost is not made anew before it is known what the mirrors have: they would
	// not follow it.
	r.must(r.js.DeleteStream(t.Context(), events.StreamTokens))
	if created, err := streams.Setup(t.Context(), r.nc, r.js, cfg); err == nil || len(created) > 0 {
		t.Errorf("created %v, %v", created, err)
	}
	if _, err := r.js.Stream(t.Context(), events.StreamTokens); err == nil || !strings.Contains(err.Error(), jetstream.ErrStreamNotFound.Error()) {
		t.Errorf("the stream: %v", err)
	}
}
