package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/internal/settings"
	"wxtoken/internal/store"
	"wxtoken/internal/transfer"
)

// TransferSettings choose a job to be done in place of refreshing.
type TransferSettings struct {
	Import      string `group:"Moving" placeholder:"file" help:"Take over authorizations from a file of JSON Lines (- for standard input), and end. Only says what it would do, without --import-apply."`
	ImportApply bool   `group:"Moving" help:"Do it."`
	Export      string `group:"Moving" placeholder:"file" help:"Write all authorizations to a new file of JSON Lines, and end. It holds the refresh tokens: the keys to all accounts."`
}

// Validate returns what is wrong with the settings.
func (t TransferSettings) Validate() error {
	switch {
	case t.Import != "" && t.Export != "":
		return settings.Fault("import", "--export is set as well: do one after the other")
	case t.ImportApply && t.Import == "":
		return settings.Fault("import-apply", "nothing to apply: set --import")
	}
	return nil
}

// transferTime bounds how long NATS is waited for.
const transferTime = 10 * time.Second

// move imports or exports.
func move(ctx context.Context, cfg *config, nc *nats.Conn, log zerolog.Logger) error {
	for deadline := time.Now().Add(transferTime); !nc.IsConnected(); {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.New("NATS is not there: --nats-url says where it is looked for")
		}
		time.Sleep(50 * time.Millisecond)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, nc, js, cfg.seal, nil)
	switch {
	case errors.Is(err, store.ErrSealed):
		return err
	case err != nil:
		return fmt.Errorf("%w: a refresher makes the streams when it first starts", err)
	}
	if cfg.Export != "" {
		return export(ctx, cfg.Export, s, log)
	}
	in := io.Reader(os.Stdin)
	if cfg.Import != "-" {
		file, err := os.Open(cfg.Import)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }() // it was only read
		in = file
	}
	report, err := transfer.Import(ctx, s, time.Now, in, settings.AppIDs(cfg.components), cfg.ImportApply)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

func export(ctx context.Context, name string, s *store.Store, log zerolog.Logger) (err error) {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := transfer.Export(ctx, s, file)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	log.Info().Int("authorizations", n).Str("file", name).Msg("exported")
	return nil
}
