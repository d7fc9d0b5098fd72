package ingest

import (
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"wxtoken/internal/wechat"
)

// How many refused pushes one address may send, and how many refused visits to links it may make. A
// good push is never limited. Whether a visit is a good one only the refresher knows, so an address
// that has used up its visits must wait.
const (
	failuresPerSecond = 50
	failuresBurst     = 100
)

// linesPerSecond is how many lines with the same reason are logged.
const linesPerSecond = 10

// lines logs faults of pushes, and keeps a flood of them out of the log.
type lines struct {
	log        zerolog.Logger
	suppressed prometheus.Counter
	byReason   map[wechat.Reason]*line // never changed after newLines
}

type line struct {
	limiter    *rate.Limiter
	suppressed atomic.Int64 // lines left out since the last one that was written
}

func newLines(log zerolog.Logger, suppressed prometheus.Counter) *lines {
	l := &lines{log: log, suppressed: suppressed, byReason: map[wechat.Reason]*line{}}
	others := []wechat.Reason{reasonUnlisted, reasonStale, reasonSkewed, reasonNATS, reasonOdd}
	for _, reason := range slices.Concat(reasons, replyReasons, connectReasons(), others) {
		l.byReason[reason] = &line{limiter: rate.NewLimiter(linesPerSecond, linesPerSecond)}
	}
	return l
}

// about returns the logger for a line with a reason: a silent one if there were too many with that
// reason.
func (l *lines) about(reason wechat.Reason) zerolog.Logger {
	like, listed := l.byReason[reason]
	if !listed {
		like = l.byReason[reasonUnlisted]
	}
	if !like.limiter.Allow() {
		like.suppressed.Add(1)
		l.suppressed.Inc()
		return zerolog.Nop()
	}
	log := l.log.With().Str("reason", string(reason))
	if n := like.suppressed.Swap(0); n > 0 {
		log = log.Int64("suppressed", n)
	}
	return log.Logger()
}
