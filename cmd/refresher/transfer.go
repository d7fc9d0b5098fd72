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

// TransferSettings choose an import or export, instead of running as a refresher.
type TransferSettings struct {
	Import      string `group:"Moving" placeholder:"file" help:"Import authorizations from a JSON Lines file (- for standard input), and exit. Without --import-apply it only reports what it would do."`
	ImportApply bool   `group:"Moving" help:"Write what --import reads."`
	Export      string `group:"Moving" placeholder:"file" help:"Export all authorizations to a new JSON Lines file, and exit. The file holds the refresh tokens: the keys to all accounts."`
}

// Validate returns what is wrong with the settings.
func (t TransferSettings) Validate() error {
	switch {
	case t.Import != "" && t.Export != "":
		return settings.Fault("import", "--export is set as well: run one after the other")
	case t.ImportApply && t.Import == "":
		return settings.Fault("import-apply", "nothing to apply: set --import")
	}
	return nil
}

// connectTimeout bounds the wait for NATS.
const connectTimeout = 10 * time.Second

// transferAuthorizations imports or exports.
func transferAuthorizations(ctx context.Context, cfg *config, nc *nats.Conn, log zerolog.Logger) error {
	for deadline := time.Now().Add(connectTimeout); !nc.IsConnected(); {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.New("no connection to NATS (--nats-url sets its address)")
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
		return fmt.Errorf("%w (a refresher makes the streams at its first start)", err)
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
	log.Info().Int("authorizations", n).Str("file", name).Msg("authorizations exported")
	return nil
}
