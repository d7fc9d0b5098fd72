// Package settings reads what an operator sets: the command line and the variables, with all that is wrong with
// them, --help, --check, --healthcheck and --version, the components with their secrets, and the seal keys.
//
// A main function fills a struct of settings through a Program, whose Main calls back with a context that ends on
// SIGINT or SIGTERM:
//
//	var cfg struct {
//		settings.Operations
//		natsconn.Settings
//	}
//	program := settings.Program{Name: "ingest", Description: "Turns WeChat's pushes into events."}
//	os.Exit(program.Main(&cfg,
//		func(ctx context.Context) error { return run(ctx, &cfg) },
//		func(ctx context.Context, out io.Writer) error { return check(ctx, &cfg, out) }))
//
// Every setting is a flag and a variable: --nats-url is WXTOKEN_NATS_URL, and the flag wins. [Name], [Variable]
// and [Fault] derive one from the other, so that no other package spells a variable. Packages put kong's tags on
// their Config as plain text and never import the parser.
package settings
