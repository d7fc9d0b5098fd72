// Package streamstest creates the streams in tests.
package streamstest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/streams"
)

// within bounds the creation of the streams. It is long, because a machine may be slow.
const within = time.Minute

// Setup creates the streams, and ends the test if that fails. streams.Setup waits three seconds for
// each; on a busy machine that may be too short, and it is tried again, as the programs do.
func Setup(t testing.TB, nc *nats.Conn, js jetstream.JetStream, cfg events.SetupConfig) {
	t.Helper()
	for began := time.Now(); ; {
		_, err := streams.Setup(t.Context(), nc, js, cfg)
		if err == nil {
			return
		}
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > within {
			t.Fatal(err)
		}
	}
}
