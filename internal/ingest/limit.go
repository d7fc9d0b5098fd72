package ingest

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"wxtoken/internal/wechat"
)

// How many refused pushes one address may send, and how many refused visits to links make. A good
// push is never held back; whether a visit is a good one only the refresher knows, so who has spent
// his visits has to wait.
const (
	failuresPerSecond = 50
	failuresBurst     = 100
	maxRemotes        = 4096 // addresses that are remembered
)

// failures counts what was refused for each remote address.
type failures struct {
	mu      sync.Mutex
	remotes map[netip.Prefix]*rate.Limiter
}

func newFailures() *failures { return &failures{remotes: map[netip.Prefix]*rate.Limiter{}} }

// allow counts one more failure of remote, "address:port", and reports whether it is within bounds.
func (f *failures) allow(remote string) bool { return f.limiter(remote).Allow() }

// spent reports whether one more failure of remote would be out of bounds.
func (f *failures) spent(remote string) bool { return f.limiter(remote).Tokens() < 1 }

// limiter looks at the connection alone: any client can write what it likes into X-Forwarded-For.
func (f *failures) limiter(remote string) *rate.Limiter {
	var from netip.Prefix // the zero Prefix stands for all whose address can't be read
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		addr := ap.Addr().Unmap()
		bits := addr.BitLen()
		if addr.Is6() {
			bits = 64 // one host has that many addresses to send from
		}
		from, _ = addr.WithZone("").Prefix(bits) // these bits always fit
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	limiter := f.remotes[from]
	if limiter == nil {
		if len(f.remotes) == maxRemotes {
			// A client with so many addresses gets past a limit per address anyway; the bound is
			// for memory.
			clear(f.remotes)
		}
		limiter = rate.NewLimiter(failuresPerSecond, failuresBurst)
		f.remotes[from] = limiter
	}
	return limiter
}

// linesPerSecond is how many lines with the same reason are logged.
const linesPerSecond = 10

// lines logs what is wrong with pushes, and keeps a flood of them out of the log.
type lines struct {
	log        zerolog.Logger
	suppressed prometheus.Counter
	byReason   map[wechat.Reason]*line // fixed: only read
}

type line struct {
	limiter    *rate.Limiter
	suppressed atomic.Int64 // since the last line that was written
}

func newLines(log zerolog.Logger, suppressed prometheus.Counter) *lines {
	l := &lines{log: log, suppressed: suppressed, byReason: map[wechat.Reason]*line{}}
	for _, reason := range slices.Concat(reasons, replyReasons, connectReasons(), []wechat.Reason{reasonUnlisted, reasonStale, reasonSkewed, reasonNATS, reasonOdd}) {
		l.byReason[reason] = &line{limiter: rate.NewLimiter(linesPerSecond, linesPerSecond)}
	}
	return l
}

// about returns the logger for a line about a push, a silent one when there were many like it.
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
