// Package logger makes the logger of a process, and decides how lines and errors are written: names
// of fields, format of times, no passwords of URLs. It sets zerolog's global variables, so only
// main packages and those close to them import it; other packages are handed a logger.
package logger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"wxtoken/internal/settings"
)

// tsFormat is RFC 3339 with milliseconds.
const tsFormat = "2006-01-02T15:04:05.000Z07:00"

// zerolog keeps the names and formats of its fields in package variables. They are set only here,
// before any goroutine runs.
func init() {
	zerolog.TimestampFieldName = "ts"
	zerolog.MessageFieldName = "msg"
	zerolog.TimeFieldFormat = tsFormat
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
	// "1.5s": a number would need its unit in the name.
	zerolog.DurationFieldFormat = zerolog.DurationFormatString
}

// New returns the logger of a process. Format json writes one JSON object a line with ts (RFC 3339,
// milliseconds, UTC), level and msg; console writes lines for a person; auto is console when w is a
// terminal. Hand the value down; each package adds its role. It returns an error for a level other
// than debug, info, warn, error and for an unknown format.
func New(w io.Writer, level, format string) (zerolog.Logger, error) {
	l, err := settings.Level(level)
	if err != nil {
		return zerolog.Nop(), err
	}
	if err := settings.CheckFormat(format); err != nil {
		return zerolog.Nop(), err
	}
	if format == settings.FormatConsole || format == settings.FormatAuto && isTerminal(w) {
		w = zerolog.ConsoleWriter{
			Out: w, NoColor: !isTerminal(w) || os.Getenv("NO_COLOR") != "",
			TimeFormat: "15:04:05.000", TimeLocation: time.UTC,
			FieldsOrder: []string{
				"key", "component", "generation", "attempt", "reason", "renew_at", "expires_at", "delay", "duration", "error", "role",
			},
			FormatPrepare: func(line map[string]any) error {
				shorten(line, time.Now().UTC())
				return nil
			},
		}
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger(), nil
}

// init makes all loggers of the process write errors as Text does: all packages write the field
// error.
func init() {
	zerolog.ErrorMarshalFunc = func(err error) any {
		if err == nil {
			return nil // no field
		}
		return Text(err)
	}
}

// msgColumns is the width of most messages, so that the fields after them line up.
const msgColumns = 21

// shorten makes a line easy to read: times within a day without the date, durations to the
// millisecond, and messages padded to msgColumns.
func shorten(line map[string]any, now time.Time) {
	for name, value := range line {
		text, ok := value.(string)
		if !ok || text == "" || text[0] < '0' || text[0] > '9' {
			continue
		}
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil && name != zerolog.TimestampFieldName {
			if apart := at.Sub(now); apart > -24*time.Hour && apart < 24*time.Hour {
				line[name] = at.UTC().Format(time.TimeOnly)
			}
		} else if d, err := time.ParseDuration(text); err == nil {
			line[name] = d.Round(time.Millisecond).String()
		}
	}
	if msg, ok := line[zerolog.MessageFieldName].(string); ok && len(line) > 3 { // fields follow
		line[zerolog.MessageFieldName] = fmt.Sprintf("%-*s", msgColumns, msg)
	}
}

// isTerminal reports whether w is a terminal, which a person reads.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// Std returns a logger of the standard library, for libraries that want one. Its lines become
// warnings of l.
func Std(l zerolog.Logger) *log.Logger { return log.New(lineWriter{l}, "", 0) }

type lineWriter struct{ log zerolog.Logger }

// Write logs one line.
func (w lineWriter) Write(line []byte) (int, error) {
	w.log.Warn().Str("text", strings.TrimSpace(string(line))).Msg("http server warned")
	return len(line), nil
}

// End writes the last line of a process's log: how it ended.
func End(ctx context.Context, log zerolog.Logger, err error) {
	if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		log.Info().Msg("stopped")
		return
	}
	log.Error().Str("error", Text(err)).Msg("stopped by an error")
}

// Text returns the text of err, without the userinfo of URLs. It replaces one misleading text of
// nats.go: the reconnect buffer is always full, because natsconn disables it, so that error means
// "not connected".
func Text(err error) string {
	if err == nil {
		return "connection closed"
	}
	return strings.ReplaceAll(settings.Redact(err.Error()), nats.ErrReconnectBufExceeded.Error(), "nats: not connected")
}
