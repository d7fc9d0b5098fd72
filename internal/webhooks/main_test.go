package webhooks

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/services"
)

// TestMain is also a process that delivers, for the test that kills it.
func TestMain(m *testing.M) {
	if url := os.Getenv("DELIVER_FROM"); url != "" {
		deliver(url, os.Getenv("DELIVER_FOR"))
		return
	}
	natsdtest.Main(m, 16)
}

func deliver(url, file string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	watch, err := services.Open(file, zerolog.Nop())
	if err != nil {
		panic(err)
	}
	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		panic(err)
	}
	w, err := New(Deps{NATS: nc, Services: watch, Log: zerolog.New(os.Stderr), Metrics: prometheus.NewRegistry()})
	if err != nil {
		panic(err)
	}
	_ = w.Run(ctx)
}
