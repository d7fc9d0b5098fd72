// Package doors assembles a gateway for the commands that run one: HTTP calls, webhooks, and tokens in Redis.
package doors

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"wxtoken/internal/events"
	"wxtoken/internal/gateway"
	"wxtoken/internal/redis"
	"wxtoken/internal/serve"
	"wxtoken/internal/services"
	"wxtoken/internal/webhooks"
)

// Deps is what a gateway needs.
type Deps struct {
	NATS     *nats.Conn
	Services *services.Watch
	Signer   *gateway.Signer
	WeChat   string // URL of WeChat's API
	Log      zerolog.Logger
	Health   *serve.Health
	Metrics  *serve.Metrics

	Flag    string // that sets Addr, for an error
	Addr    string // to listen on
	Options []serve.Option
}

// Open makes a gateway and listens. It returns the address, and the parts for serve.Together.
func Open(cfg gateway.Config, shared redis.Config, d Deps) (addr string, parts []func(context.Context) error, err error) {
	log, registry := d.Log.With().Str("role", events.RoleGateway).Logger(), d.Metrics.Registry
	g, err := gateway.New(cfg, gateway.Deps{
		NATS: d.NATS, Services: d.Services, Signer: d.Signer, WeChat: d.WeChat, Log: log, Metrics: registry, Figures: registry, Now: time.Now,
	})
	if err != nil {
		return "", nil, err
	}
	d.Health.Check("tokens read", g.Ready)
	hooks, err := webhooks.New(webhooks.Deps{NATS: d.NATS, Services: d.Services, Ref: g.Ref, Log: log, Metrics: registry})
	if err != nil {
		return "", nil, err
	}
	options := append([]serve.Option{serve.MaxConns(gateway.MaxConns), serve.OnShutdown(g.EndStreams)}, d.Options...)
	door, err := serve.Listen(events.RoleGateway, d.Addr, g.Handler(), d.Log, d.Metrics, options...)
	if err != nil {
		return "", nil, fmt.Errorf("%w (--%s chooses another)", err, d.Flag)
	}
	fill := func(ctx context.Context) error {
		return redis.Fill(ctx, shared, g.Client, d.Services, log, registry, time.Now)
	}
	// The view of tokens ends after the server: the last requests still need it.
	return door.Addr(), []func(context.Context) error{door.Run, hooks.Run, fill, g.RecordServed, g.Run, d.Services.Run}, nil
}
