package natsd

import (
	"fmt"

	"github.com/rs/zerolog"
)

// logger turns the lines of the NATS server into ours. What it notices at every start is of
// interest only to a person who looks for a fault, so notices are debug lines.
type logger struct {
	log   zerolog.Logger
	fatal chan string // the first thing that the server called fatal
}

// Warnf does not repeat the server's word on passwords: those of Config.Conf are made for one run.
func (l *logger) Warnf(format string, v ...any) {
	if format != "Plaintext passwords detected, use nkeys or bcrypt" {
		say(l.log.Warn(), format, v)
	}
}

func (l *logger) Noticef(format string, v ...any) { say(l.log.Debug(), format, v) }
func (l *logger) Errorf(format string, v ...any)  { say(l.log.Error(), format, v) }
func (l *logger) Debugf(format string, v ...any)  { say(l.log.Debug(), format, v) }
func (l *logger) Tracef(format string, v ...any)  { say(l.log.Trace(), format, v) }

// Fatalf does not end the process: Start hands the text to its caller.
func (l *logger) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
		say(l.log.Error(), format, v)
	}
}

func say(e *zerolog.Event, format string, v []any) {
	e.Str("text", fmt.Sprintf(format, v...)).Msg("nats server log")
}
