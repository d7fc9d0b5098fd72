// Package natsd runs a NATS server with JetStream inside this process: for cmd/wxtoken and for
// tests.
//
// The server keeps its streams below one directory and holds a lock on it for as long as it runs,
// because two servers on one directory start without a word and then write over each other.
package natsd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"wxtoken/client"
)

// ErrLocked is returned by Start when another server, in this or in another process, uses the
// directory.
var ErrLocked = errors.New("directory in use by another server")

// lockName is the file in StoreDir that carries the lock. It stays behind, empty and unlocked:
// removing it would let two servers lock two files of one name.
const lockName = "natsd.lock"

// readyPoll is how long one look at the server waits for it to be ready.
const readyPoll = 50 * time.Millisecond

// Config says how a Server runs. Only StoreDir must be set.
type Config struct {
	// Directory of the streams; made, readable by its owner alone, if it is not there.
	StoreDir string
	// Host:port to listen on, port 0 for any; empty: no listener, InProcessConn alone reaches the
	// server.
	Addr string
	// Bytes that the streams may fill; 0: what Conf says, else three quarters of what they hold
	// plus what the disk has free.
	MaxStore int64
	// What the files of the streams are encrypted with; empty: they are not. Files in the clear are
	// encrypted when a server with a key first finds them.
	Key wxtoken.Secret
	// Flush to the disk before each publish ack; without it a power cut takes up to 2 minutes of
	// acked messages.
	SyncAlways bool
	// Of nats-server, for accounts and users alone: what is above decides, and it opens no other
	// address.
	Conf string
	// For testing/synctest: no system account, whose timers belong to the world outside; no
	// advisories either.
	Bubble bool
	Log    zerolog.Logger // the server's own lines go here as role=nats
}

// Server is a running NATS server.
type Server struct {
	nats     *server.Server
	starting sync.WaitGroup
	lock     *os.File
	close    sync.Once
}

// Start starts a server and returns when it takes connections and its streams are loaded.
// It returns an error that wraps ErrLocked when another server uses cfg.StoreDir, and the
// server's own words when it can't start, for instance because the address is taken.
// When ctx ends before the server is ready, Start stops it and returns the reason.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	opts, err := options(cfg)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the NATS server: %w", err)
	}
	lock, err := lockDir(cfg.StoreDir)
	if err != nil {
		return nil, err
	}
	if err := dropKeyless(cfg.StoreDir); err != nil {
		return nil, errors.Join(fmt.Errorf("look through the blocks of the NATS server: %w", err), lock.Close())
	}
	lying, err := streamFiles(cfg.StoreDir, server.JetStreamMetaFile)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the NATS server in %s: %w", cfg.StoreDir, err), lock.Close())
	}
	log := &logger{log: cfg.Log.With().Str("role", "nats").Logger(), fatal: make(chan string, 1)}
	srv.SetLoggerV2(log, false, false, false) // its traces would show payloads
	s := &Server{nats: srv, lock: lock}
	s.starting.Go(srv.Start)
	for {
		select {
		case text := <-log.fatal:
			s.Close()
			return nil, fmt.Errorf("start the NATS server on %q in %s: %s", cfg.Addr, cfg.StoreDir, text)
		case <-ctx.Done():
			s.Close()
			return nil, fmt.Errorf("wait for the NATS server in %s: %w", cfg.StoreDir, context.Cause(ctx))
		default:
			if !srv.ReadyForConnections(readyPoll) {
				continue
			}
			if err := s.complete(cfg.StoreDir, lying); err != nil {
				s.Close()
				return nil, err
			}
			return s, nil
		}
	}
}

// streamFiles returns the files of all streams below dir whose path in the stream's own directory
// is like pattern.
func streamFiles(dir, pattern string) ([]string, error) {
	dir = filepath.Join(dir, server.JetStreamStoreDir)
	files, err := fs.Glob(os.DirFS(dir), "*/streams/*/"+pattern) // dir itself is no pattern
	for i, file := range files {
		files[i] = filepath.Join(dir, file)
	}
	return files, err
}

// Encrypted reports whether a server with a key has written to dir.
func Encrypted(dir string) (bool, error) {
	keys, err := streamFiles(dir, server.JetStreamMetaFileKey)
	return len(keys) > 0, err
}

// dropKeyless removes the empty blocks of encrypted streams below dir that have no key. A server
// that dies while it begins a block leaves one, since it makes the block before its key. It can't
// read such a block when it starts again (2.15.2), and removes the whole stream.
func dropKeyless(dir string) error {
	blocks, err := streamFiles(dir, "msgs/*.blk")
	if err != nil {
		return err
	}
	there := func(path string) bool { _, err := os.Stat(path); return !errors.Is(err, fs.ErrNotExist) }
	for _, block := range blocks {
		info, err := os.Stat(block)
		if err != nil {
			return err
		}
		encrypted := there(filepath.Join(filepath.Dir(block), "..", server.JetStreamMetaFileKey))
		if info.Size() > 0 || !encrypted || there(strings.TrimSuffix(block, ".blk")+".key") {
			continue
		}
		if err := os.Remove(block); err != nil {
			return err
		}
	}
	return nil
}

// ErrUnreadable is returned by Start when a stream lies in the directory that the server can't
// read: it would go on without it, and a refresher, which makes missing streams, would write over
// it.
var ErrUnreadable = errors.New("unreadable stream")

// complete returns an error that wraps ErrUnreadable unless the server has every stream whose file
// lay in dir before it started: what it can't read it may remove.
func (s *Server) complete(dir string, lying []string) error {
	if len(lying) == 0 {
		return nil
	}
	info, err := s.nats.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return fmt.Errorf("list the streams of the NATS server: %w", err)
	}
	known := map[string]bool{}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			known[filepath.Join(account.Name, "streams", stream.Name)] = true
		}
	}
	for _, file := range lying {
		stream := filepath.Dir(file)
		if name, err := filepath.Rel(filepath.Join(dir, server.JetStreamStoreDir), stream); err == nil && !known[name] {
			return fmt.Errorf("%w in %s: it is damaged, or encrypted with another key; the log has the server's words", ErrUnreadable, stream)
		}
	}
	return nil
}

// options puts cfg into the server's own words.
func options(cfg Config) (*server.Options, error) {
	if cfg.StoreDir == "" {
		return nil, errors.New("start the NATS server: no store directory")
	}
	opts := &server.Options{}
	if cfg.Conf != "" {
		if err := opts.ProcessConfigString(cfg.Conf); err != nil {
			return nil, fmt.Errorf("read the configuration of the NATS server: %w", err)
		}
		opts.HTTPHost, opts.HTTPPort = "", 0
	}
	opts.JetStream, opts.StoreDir, opts.SyncAlways = true, cfg.StoreDir, cfg.SyncAlways
	if cfg.MaxStore > 0 {
		opts.JetStreamMaxStore = cfg.MaxStore
	}
	opts.JetStreamKey, opts.JetStreamCipher = cfg.Key.Reveal(), server.ChaCha
	opts.NoSystemAccount = cfg.Bubble
	opts.NoSigs = true // signals are for main
	opts.DontListen, opts.DisableJetStreamBanner = cfg.Addr == "", true
	if opts.DontListen {
		return opts, nil
	}
	host, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen address of the NATS server %q: want host:port: %w", cfg.Addr, err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("listen address of the NATS server %q: want host:port with a port from 0 to 65535", cfg.Addr)
	}
	opts.Host, opts.Port = host, int(number)
	if number == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return opts, nil
}

// A lock outlives its owner for a moment where a process is being started at that time: the child
// has the descriptor until it runs its own program.
const (
	lockWait = 500 * time.Millisecond
	lockPoll = 20 * time.Millisecond
)

// lockDir takes the lock on dir, or returns an error that wraps ErrLocked.
func lockDir(dir string) (*os.File, error) {
	name := filepath.Join(dir, lockName)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the directory of the NATS server: %w", err)
	}
	busy, err := tryLock(f)
	for wait := lockWait; busy && wait > 0; wait -= lockPoll {
		time.Sleep(lockPoll)
		busy, err = tryLock(f)
	}
	switch {
	case busy:
		err = fmt.Errorf("%w: %s: stop that one, or choose another directory", ErrLocked, dir)
	case err != nil:
		err = fmt.Errorf("lock the directory of the NATS server: %s: %w", name, err)
	default:
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// InProcessConn makes a Server a nats.InProcessConnProvider.
func (s *Server) InProcessConn() (net.Conn, error) { return s.nats.InProcessConn() }

// ClientURL returns the URL that clients elsewhere connect to, or "" when the server does not
// listen.
func (s *Server) ClientURL() string {
	if s.nats.Addr() == nil {
		return ""
	}
	return s.nats.ClientURL()
}

// InUse reports whether a server, in this or in another process, uses dir. It makes nothing.
func InUse(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	busy, _ := tryLock(f) // an error beside that is for who starts a server
	_ = f.Close()         // and with it the lock
	return busy
}

// MaxStore returns how many bytes the streams may fill.
func (s *Server) MaxStore() int64 { return s.nats.JetStreamConfig().MaxStore }

// SyncAlways reports whether each publish ack waits for the disk.
func (s *Server) SyncAlways() bool { return s.nats.JetStreamConfig().SyncAlways }

// Close stops the server, waits until its streams are closed, and gives the directory free.
// Connections that are still open see it as a lost server. It may be called more than once.
func (s *Server) Close() {
	s.close.Do(func() {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
		s.starting.Wait()  // it may still be writing, also into the directory
		_ = s.lock.Close() // the lock goes with the descriptor, and nothing was written
	})
}
