package refresher_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/refresher"
	"wxtoken/internal/truth"
)

// TestServicesComeLater has nobody answer for the account of the services when the refresher starts. Once somebody
// does, what services read is mirrored there; who was asked for and stays away is told. That account is a server of its own here; cmd/wxtoken has the tests with
// real ones.
func TestServicesComeLater(t *testing.T) {
	r := newRig(t, options{idle: true, cfg: func(c *refresher.Config) { looking(c); c.ServicesAPI = []string{"services.API", "absent.API"} }})
	r.deps = func(d *refresher.Deps) { d.LookEvery = 50 * time.Millisecond }
	r.start()
	r.until("not started", func() bool { return r.log.count("refresher started") == 1 })
	theirs := natsdtest.Start(t).Connect()
	_, err := r.nc.Subscribe("services.API.>", func(m *nats.Msg) {
		if answer, err := theirs.Request("$JS.API"+strings.TrimPrefix(m.Subject, "services.API"), m.Data, within); err == nil {
			_ = m.Respond(answer.Data)
		}
	})
	r.must(err)
	js := natsdtest.JetStream(r.T, theirs)
	for _, stream := range []string{events.StreamTokens, events.StreamStatus, events.StreamMessages} {
		r.until(stream+" is not mirrored", func() bool {
			mirror, err := js.Stream(t.Context(), stream)
			return err == nil && mirror.CachedInfo().Config.Mirror != nil
		})
	}
	if n := r.log.count("account of services found"); n != 1 {
		t.Errorf("the account was found %d times, want once", n)
	}
	// That server is not this one's: nothing is copied there, and so services read old values.
	if said := r.told(truth.MirrorBehind, events.PhaseBegan); said.Component != "" || said.Count != len(said.Names) || said.Count == 0 || said.Severity != events.SeverityPage || said.Since.IsZero() {
		t.Errorf("told %+v", said)
	}
	r.until("nobody is told of the one that stays away", func() bool { return r.log.count("account of services not found") > 0 })
}

// TestServicesFallSilent has the account of the services answer once and never more: that nobody knows what services read there is told.
func TestServicesFallSilent(t *testing.T) {
	r := newRig(t, options{idle: true, cfg: looking})
	r.cfg.ServicesAPI = []string{"services.API"}
	r.deps = func(d *refresher.Deps) { d.LookEvery = 50 * time.Millisecond }
	var once sync.Once
	_, err := r.nc.Subscribe("services.API.>", func(m *nats.Msg) { once.Do(func() { _ = m.Respond(nil) }) })
	r.must(err)
	p := r.start()
	r.until("not told", func() bool { return r.log.count("failed to set up mirror", "services") > 0 })
	r.until("not counted", func() bool { return r.metric(p, "wxtoken_mirror_behind", "services", events.StreamTokens) == 1 })
}
