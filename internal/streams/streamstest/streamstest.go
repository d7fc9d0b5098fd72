// Package streamstest makes the streams for tests.
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

// within bounds the making of the streams. It is long, because a machine may be slow.
const within = time.Minute

// Setup makes the streams, and ends the test if that fails. streams.Setup waits for three seconds;
// on a busy machine that may be too short, and the programs begin anew then, too.
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
