// Package natsd runs a NATS server with JetStream inside this process: for cmd/wxtoken and for
// tests.
//
// The server keeps its streams below one directory and locks it while it runs, because two servers
// on one directory would start without an error and then overwrite each other's files.
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

// lockName is the file in StoreDir that is locked. It stays there, empty and unlocked, after the
// server has ended: if it were removed, two servers could lock two files of the same name.
const lockName = "natsd.lock"

// readyPoll is how long one check waits for the server to be ready.
const readyPoll = 50 * time.Millisecond

// Config says how a Server runs. Only StoreDir must be set.
type Config struct {
	// Directory of the streams. It is created if it does not exist, readable by its owner only.
	StoreDir string
	// The host:port to listen on; port 0 means any free one. Empty means no listener: then only
	// InProcessConn reaches the server.
	Addr string
	// Bytes that the streams may fill. 0 means the limit in Conf, or else three quarters of what
	// they hold plus the free space of the disk.
	MaxStore int64
	// The key with which the files of the streams are encrypted; empty means not encrypted. A
	// server with a key encrypts files in the clear when it first finds them.
	Key wxtoken.Secret
	// Sync to the disk before each publish ack. Without it a power cut may lose acked messages of
	// up to 2 minutes.
	SyncAlways bool
	// Configuration of nats-server, for accounts and users only: the fields above take precedence,
	// and it can't open other addresses.
	Conf string
	// For testing/synctest: no system account, because its timers run outside the bubble; so no
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

// Start starts a server and returns when it accepts connections and its streams are loaded. It
// returns an error that wraps ErrLocked if another server uses cfg.StoreDir, and the server's own
// error if it can't start, for instance because the address is in use. If ctx ends before the
// server is ready, Start stops it and returns the cause.
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
		return nil, errors.Join(fmt.Errorf("check the block files of the NATS server: %w", err), lock.Close())
	}
	found, err := streamFiles(cfg.StoreDir, server.JetStreamMetaFile)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the NATS server in %s: %w", cfg.StoreDir, err), lock.Close())
	}
	log := &logger{log: cfg.Log.With().Str("role", "nats").Logger(), fatal: make(chan string, 1)}
	srv.SetLoggerV2(log, false, false, false) // without debug and trace lines: traces would show payloads
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
			if err := s.checkStreams(cfg.StoreDir, found); err != nil {
				s.Close()
				return nil, err
			}
			return s, nil
		}
	}
}

// streamFiles returns the files of all streams below dir whose paths in the stream's own directory
// match pattern.
func streamFiles(dir, pattern string) ([]string, error) {
	dir = filepath.Join(dir, server.JetStreamStoreDir)
	files, err := fs.Glob(os.DirFS(dir), "*/streams/*/"+pattern) // by os.DirFS, since dir is not a pattern
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

// dropKeyless removes empty block files without a key of encrypted streams below dir. A server that
// is killed while it starts a block may leave one, since it creates the block before its key. When
// it starts again it can't read such a block (2.15.2), and removes the whole stream.
func dropKeyless(dir string) error {
	blocks, err := streamFiles(dir, "msgs/*.blk")
	if err != nil {
		return err
	}
	exists := func(path string) bool { _, err := os.Stat(path); return !errors.Is(err, fs.ErrNotExist) }
	for _, block := range blocks {
		info, err := os.Stat(block)
		if err != nil {
			return err
		}
		encrypted := exists(filepath.Join(filepath.Dir(block), "..", server.JetStreamMetaFileKey))
		if info.Size() > 0 || !encrypted || exists(strings.TrimSuffix(block, ".blk")+".key") {
			continue
		}
		if err := os.Remove(block); err != nil {
			return err
		}
	}
	return nil
}

// ErrUnreadable is returned by Start if the directory has a stream that the server can't read: the
// server would run without it, and a refresher, which creates missing streams, would overwrite it.
var ErrUnreadable = errors.New("unreadable stream")

// checkStreams returns an error that wraps ErrUnreadable unless the server has loaded every stream
// that had a file before it started: the server may remove streams that it can't read.
func (s *Server) checkStreams(dir string, found []string) error {
	if len(found) == 0 {
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
	for _, file := range found {
		stream := filepath.Dir(file)
		if name, err := filepath.Rel(filepath.Join(dir, server.JetStreamStoreDir), stream); err == nil && !known[name] {
			return fmt.Errorf("%w in %s: it is damaged, or encrypted with another key (the log has the server's error)",
				ErrUnreadable, stream)
		}
	}
	return nil
}

// options returns cfg as the server's options.
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

// A lock may outlive its owner for a moment if a process is being started at that time: the child
// has a copy of the descriptor until exec. So a busy lock is tried again for lockWait.
const (
	lockWait = 500 * time.Millisecond
	lockPoll = 20 * time.Millisecond
)

// lockDir locks dir, or returns an error that wraps ErrLocked.
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
		err = fmt.Errorf("%w: %s (stop that one, or choose another directory)", ErrLocked, dir)
	case err != nil:
		err = fmt.Errorf("lock the directory of the NATS server: %s: %w", name, err)
	default:
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// InProcessConn makes a Server a nats.InProcessConnProvider.
func (s *Server) InProcessConn() (net.Conn, error) { return s.nats.InProcessConn() }

// ClientURL returns the URL for clients in other processes, or "" if the server does not listen.
func (s *Server) ClientURL() string {
	if s.nats.Addr() == nil {
		return ""
	}
	return s.nats.ClientURL()
}

// InUse reports whether a server, in this or in another process, uses dir. It creates no file.
func InUse(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	busy, _ := tryLock(f) // other errors are reported when a server is started
	_ = f.Close()         // releases the lock
	return busy
}

// MaxStore returns how many bytes the streams may fill.
func (s *Server) MaxStore() int64 { return s.nats.JetStreamConfig().MaxStore }

// SyncAlways reports whether each publish ack waits for the disk.
func (s *Server) SyncAlways() bool { return s.nats.JetStreamConfig().SyncAlways }

// Close stops the server, waits until its streams are closed, and unlocks the directory. Open
// connections see a lost server. It may be called more than once.
func (s *Server) Close() {
	s.close.Do(func() {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
		s.starting.Wait()  // Start may still be running and writing into the directory
		_ = s.lock.Close() // releases the lock; nothing was written to the file
	})
}
