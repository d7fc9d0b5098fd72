package natsd

import (
	"fmt"

	"github.com/rs/zerolog"
)

// logger turns the log lines of the NATS server into ours. The server's notices at every start are
// interesting only when looking for a fault, so they become debug lines.
type logger struct {
	log   zerolog.Logger
	fatal chan string // the server's first fatal error
}

// Warnf leaves out the server's warning about plaintext passwords: those in Config.Conf are made
// for one run.
func (l *logger) Warnf(format string, v ...any) {
	if format != "Plaintext passwords detected, use nkeys or bcrypt" {
		logLine(l.log.Warn(), format, v)
	}
}

func (l *logger) Noticef(format string, v ...any) { logLine(l.log.Debug(), format, v) }
func (l *logger) Errorf(format string, v ...any)  { logLine(l.log.Error(), format, v) }
func (l *logger) Debugf(format string, v ...any)  { logLine(l.log.Debug(), format, v) }
func (l *logger) Tracef(format string, v ...any)  { logLine(l.log.Trace(), format, v) }

// Fatalf does not end the process: Start returns the text as an error.
func (l *logger) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
		logLine(l.log.Error(), format, v)
	}
}

func logLine(e *zerolog.Event, format string, v []any) {
	e.Str("text", fmt.Sprintf(format, v...)).Msg("nats server log")
}
