// Package natsdtest gives a test a real NATS server of its own in one call.
//
// In a testing/synctest bubble: call Main or Register in TestMain, wrap the test in Bubble, and do not run
// it in parallel with others: see emptyPools.
package natsdtest

import (
	"context"
	"flag"
	"math"
	"net"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"wxtoken/internal/natsd"
)

// readyWithin bounds the start of a server. It is long, because a machine may be slow.
const readyWithin = time.Minute

// Register prepares the process for servers inside bubbles. Call it in TestMain, before any
// bubble: the server's clock goroutine, started inside one, would keep virtual time from moving.
func Register() { ats.Register() }

// Main is the TestMain of a package whose tests start servers: it calls Register, and fails if
// goroutines are left at the end. parallel is for SideBySide; 0 means go test's own number.
func Main(m *testing.M, parallel int) {
	Register()
	if parallel > 0 {
		SideBySide(parallel)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// JetStream returns JetStream on a connection, and ends the test where there is none.
func JetStream(t testing.TB, nc *nats.Conn, opts ...jetstream.JetStreamOpt) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// SideBySide has so many tests run at once, unless -parallel says how many: more than there are
// processors make sense where tests mostly wait. Where the process gets less than half of a processor
// it is fewer, down to half as many: all of them share that, and each of twenty with a server of its own
// would be left with so little that NATS doesn't answer within its deadlines. Not fewer than that, for
// the machine may be quiet a moment later. Call it in TestMain.
func SideBySide(parallel int) {
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if said {
		return
	}
	parallel = int(math.Ceil(float64(parallel) * min(1, max(0.5, 2*share()))))
	if err := flag.Set("test.parallel", strconv.Itoa(parallel)); err != nil {
		panic(err)
	}
}

// share returns which part of a processor the process gets, at most 1.
func share() float64 {
	const look = 100 * time.Millisecond
	began, before := time.Now(), Computed()
	for time.Since(began) < look {
		continue // so that it wants all of one
	}
	return min(1, (Computed()-before).Seconds()/time.Since(began).Seconds())
}

// Computed returns the processor time that the process has had.
func Computed() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// bubbleStart is when virtual time begins. It is in the future because one clock of the server
// (Register) keeps showing the real time: messages older than that by MaxAge would be removed too
// early.
var bubbleStart = time.Date(2060, 3, 1, 0, 0, 0, 0, time.UTC)

// Bubble runs f in a synctest bubble that starts in the year 2060, and then lets virtual time pass
// until the goroutines of the server and of its clients have ended.
func Bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(bubbleStart))
		t.Cleanup(func() { time.Sleep(2 * time.Minute) })
		f(t)
	})
}

// emptyPools drops the timers that nats.go keeps in a sync.Pool: a timer made in a bubble crashes
// the process when it is used outside, and one from outside follows the real time inside. A
// sync.Pool drops what was not used during two garbage collections.
func emptyPools() {
	runtime.GC()
	runtime.GC()
}

// Server is a NATS server that can be stopped and started again on the same data.
type Server struct {
	t   testing.TB
	cfg natsd.Config

	mu  sync.Mutex
	srv *natsd.Server // nil while stopped
}

// Start starts a server without a listener on a directory of its own, and stops it when the test
// ends. Each change is applied to its settings first.
func Start(t testing.TB, changes ...func(*natsd.Config)) *Server {
	t.Helper()
	s := &Server{t: t, cfg: natsd.Config{StoreDir: storeDir(t)}}
	for _, change := range changes {
		change(&s.cfg)
	}
	s.Restart()
	t.Cleanup(s.Stop)
	return s
}

// storeDir returns a directory for a server's data: in memory if there is room, which halves the
// time of tests. A benchmark gets one on the disk, to measure that too.
func storeDir(t testing.TB) string {
	if _, bench := t.(*testing.B); bench || !hasRoom(memoryDir) {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memoryDir, "wxtoken-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // after the server has stopped
	return dir
}

// InBubble is a change for Start: the server runs inside a synctest bubble.
func InBubble(cfg *natsd.Config) { cfg.Bubble = true }

// StartTCP is Start with a listener on a free port of 127.0.0.1, which stays the same after
// Restart.
func StartTCP(t testing.TB, changes ...func(*natsd.Config)) *Server {
	t.Helper()
	listen := func(cfg *natsd.Config) { cfg.Addr = FreeAddr(t) }
	return Start(t, append([]func(*natsd.Config){listen}, changes...)...)
}

// Stop stops the server. Connections to it wait for Restart if their options say so.
func (s *Server) Stop() {
	s.mu.Lock()
	srv := s.srv
	s.srv = nil
	s.mu.Unlock()
	// Without the lock: a server sleeps while it closes, and in a bubble no time passes while a
	// reconnecting client waits for a mutex.
	if srv != nil {
		srv.Close()
	}
}

// Restart stops the server, if it runs, and starts it on the same data and the same address.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	srv, err := natsd.Start(ctx, s.cfg)
	if err != nil {
		s.t.Fatalf("start a NATS server: %v", err)
	}
	if at := srv.ClientURL(); at != "" {
		u, err := url.Parse(at)
		if err != nil {
			s.t.Fatalf("address of the NATS server: %v", err)
		}
		s.cfg.Addr = u.Host
	}
	s.mu.Lock()
	s.srv = srv
	s.mu.Unlock()
}

// Connect returns an in-process connection that is closed when the test ends. It reconnects after
// Restart.
func (s *Server) Connect(opts ...nats.Option) *nats.Conn {
	s.t.Helper()
	// nats.go's timeout of 2 s is short on a busy machine.
	first := []nats.Option{
		nats.InProcessServer(s), nats.Timeout(readyWithin), nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond),
	}
	nc, err := nats.Connect("", append(first, opts...)...)
	// A server that is very busy sends its first PING before the PONG, and nats.go v1.55 takes that
	// for a fault.
	for tries := 1; err != nil && strings.Contains(err.Error(), "expected 'PONG'") && tries < 5; tries++ {
		nc, err = nats.Connect("", append(first, opts...)...)
	}
	if err != nil {
		s.t.Fatalf("connect to the NATS server of the test: %v", err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// ClientURL returns the URL of a server that StartTCP started, also while it is stopped; "" for
// others.
func (s *Server) ClientURL() string {
	if s.cfg.Addr == "" {
		return ""
	}
	return "nats://" + s.cfg.Addr
}

// StoreDir returns the directory of the server's streams.
func (s *Server) StoreDir() string { return s.cfg.StoreDir }

// InProcessConn makes a Server a nats.InProcessConnProvider that survives Restart.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	srv := s.srv
	s.mu.Unlock()
	if srv == nil {
		return nil, net.ErrClosed
	}
	return srv.InProcessConn()
}
