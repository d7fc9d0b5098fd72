package bus_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
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
	t.Parallel()
	r := &rig{T: t, nats: natsdtest.Start(t)}
	r.nc = r.nats.Connect()
	r.js = natsdtest.JetStream(t, r.nc)
	streamstest.Setup(t, r.nc, r.js, config)
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
