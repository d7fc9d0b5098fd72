// Command wechatsim is a fake WeChat Open Platform to develop and test against. NOT FOR PRODUCTION.
//
// It serves the platform's API and, on another address, the control door.
// Exit codes: 0 ended by a signal, 1 failed, 2 bad settings.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"wxtoken/wechatsim"
)

func main() {
	settings := parse(os.Args[1:])
	config := settings.config()
	platform, err := wechatsim.New(config)
	if err != nil {
		exit(2, err) // New finds fault with settings alone
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	api := serve(ctx, group, settings.Addr, platform.Handler())
	announce(config, settings.PushBase, api, serve(ctx, group, settings.ControlAddr, platform.Control()))
	group.Go(func() error { return platform.Run(ctx) })
	if err := group.Wait(); err != nil {
		exit(1, err)
	}
}

// serve listens at once, so that a taken port ends the process, and serves until ctx ends.
func serve(ctx context.Context, group *errgroup.Group, addr string, handler http.Handler) net.Addr {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		exit(1, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // no client needs the last answers of a fake
	group.Go(func() error {
		if err := server.Serve(listener); ctx.Err() == nil {
			return err
		}
		return nil
	})
	return listener.Addr()
}

func exit(code int, err error) {
	fmt.Fprintln(os.Stderr, "wechatsim:", err)
	os.Exit(code)
}
