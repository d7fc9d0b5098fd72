// Package logger makes the logger of a process, and says how lines and errors are written: fields,
// times, and no password of a URL. It sets zerolog's global names, so mains and their near
// surroundings import it; other rooms are handed a logger.
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

// zerolog keeps the names and formats of its fields in variables of the package. They are set
// here, before any goroutine runs, and nowhere else.
func init() {
	zerolog.TimestampFieldName = "ts"
	zerolog.MessageFieldName = "msg"
	zerolog.TimeFieldFormat = tsFormat
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
	// "1.5s": a number would need its unit in the name.
	zerolog.DurationFieldFormat = zerolog.DurationFormatString
}

// New returns the logger of a process. Format json writes one JSON object a line with ts
// (RFC 3339, milliseconds, UTC), level and msg; console writes lines for a person; auto is console
// when w is a terminal. Hand the value down; each room adds its role. It returns an error for a
// level other than debug, info, warn, error and for an unknown format.
func New(w io.Writer, level, format string) (zerolog.Logger, error) {
	l, err := settings.Level(level)
	if err != nil {
		return zerolog.Nop(), err
	}
	if err := settings.CheckFormat(format); err != nil {
		return zerolog.Nop(), err
	}
	if format == settings.FormatConsole || format == settings.FormatAuto && terminal(w) {
		w = zerolog.ConsoleWriter{
			Out: w, NoColor: !terminal(w) || os.Getenv("NO_COLOR") != "",
			TimeFormat: "15:04:05.000", TimeLocation: time.UTC,
			FieldsOrder: []string{"key", "component", "generation", "attempt", "reason", "renew_at", "expires_at", "delay", "duration", "error", "role"},
			FormatPrepare: func(line map[string]any) error {
				shorten(line, time.Now().UTC())
				return nil
			},
		}
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger(), nil
}

// init has all loggers of the process write errors as Text does: the field error is written by all
// rooms.
func init() {
	zerolog.ErrorMarshalFunc = func(err error) any {
		if err == nil {
			return nil // no field
		}
		return Text(err)
	}
}

// msgColumns is the width of most messages, so that the fields behind them stand in a column.
const msgColumns = 21

// shorten makes a line quick to read for a person: of times within a day the clock alone, no more
// digits of a duration than matter, and the message in a column.
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

// terminal reports whether a person reads w.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// Std returns a logger of the standard library, for libraries that want one, whose lines
// become warnings of log.
func Std(l zerolog.Logger) *log.Logger { return log.New(lineWriter{l}, "", 0) }

type lineWriter struct{ log zerolog.Logger }

// Write logs one line.
func (w lineWriter) Write(line []byte) (int, error) {
	w.log.Warn().Str("text", strings.TrimSpace(string(line))).Msg("http server warned")
	return len(line), nil
}

// End says how a process ended, in the last line of its log.
func End(ctx context.Context, log zerolog.Logger, err error) {
	if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		log.Info().Msg("stopped")
		return
	}
	log.Error().Str("error", Text(err)).Msg("stopped by an error")
}

// Text is the text of err without the userinfo of a URL in it, and with what the client library
// means: its buffer for the time without a connection has no room, because natsconn gives it none.
func Text(err error) string {
	if err == nil {
		return "connection closed"
	}
	return strings.ReplaceAll(settings.Redact(err.Error()), nats.ErrReconnectBufExceeded.Error(), "nats: not connected")
}
