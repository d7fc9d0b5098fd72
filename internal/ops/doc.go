// Package ops is what every process of wxtoken needs around its work: settings, the logger,
// the connection to NATS, health, metrics, HTTP serving, and an orderly end.
//
// A main fills a struct of settings through a Program, whose Main calls back with a context that
// ends on SIGINT or SIGTERM:
//
//	var cfg struct {
//		ops.Settings
//		ops.NATSSettings
//	}
//	program := ops.Program{Name: "ingest", Description: "Turns WeChat's pushes into events."}
//	os.Exit(program.Main(&cfg,
//		func(ctx context.Context) error { return run(ctx, &cfg) },
//		func(ctx context.Context, out io.Writer) error { return check(ctx, &cfg, out) }))
//
// Every setting is a flag and a variable under one rule: --nats-url is WXTOKEN_NATS_URL, and the
// flag wins. Other rooms put kong's tags on their Config as plain text and never import the parser.
package ops
