// Command wxtoken runs everything in one process: a NATS server that stores its data in a directory, ingest, refresher
// and console, and a gateway if that is set. With --sim it also runs a fake WeChat platform.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"wxtoken/internal/logger"
	"wxtoken/internal/notify"
)

func main() {
	var cfg config
	p := chooseProgram(os.Args[1:])
	os.Exit(p.Main(&cfg, func(ctx context.Context) (err error) {
		if cfg.Notify.NotifyTest {
			return notify.Test(ctx, cfg.Notify, time.Now, nil, os.Stdout, cfg.Language())
		}
		if cfg.Login.MakeConsoleUser != "" {
			password, err := cfg.Login.MakeUser()
			if err == nil {
				_, err = fmt.Println(password)
			}
			return err
		}
		log, err := logger.New(os.Stdout, cfg.LogLevel, cfg.LogFormat)
		if err != nil {
			return err
		}
		if err := p.LogSettings(quietLog(log, cfg.Sim), &cfg); err != nil {
			return err
		}
		defer func() { logger.End(ctx, log, err) }()
		return run(ctx, &cfg, log, os.Stderr)
	}, func(ctx context.Context, out io.Writer) error { return check(ctx, &cfg, out) }))
}
