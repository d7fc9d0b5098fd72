package serve_test

import (
	"testing"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"wxtoken/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder returns a logger and what it wrote.
func recorder() (zerolog.Logger, *logtest.Buffer) {
	out := &logtest.Buffer{}
	return zerolog.New(out), out
}
