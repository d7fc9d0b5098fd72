package natsdtest

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// Proxy is a TCP proxy to a server that can be blocked without either end noticing, and slowed
// down: as a broken network, a frozen server or a long line would do.
type Proxy struct {
	dial     func() (net.Conn, error)
	listener net.Listener
	running  sync.WaitGroup

	mu         sync.Mutex
	change     *sync.Cond
	blocked    bool                   // nothing passes
	blockedFor func(said string) bool // connections for which nothing passes, by the first data that they sent
	ended      bool                   // the test has ended
	delay      time.Duration
	ends       map[net.Conn]bool
}

// NewProxy returns an open proxy to the server to which dial connects. It ends with the test.
func NewProxy(t testing.TB, dial func() (net.Conn, error)) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for a proxy: %v", err)
	}
	w := &Proxy{dial: dial, listener: listener, ends: map[net.Conn]bool{}}
	w.change = sync.NewCond(&w.mu)
	w.running.Go(w.accept)
	t.Cleanup(w.end)
	return w
}

// URL returns the proxy's address for a NATS client.
func (w *Proxy) URL() string { return "nats://" + w.listener.Addr().String() }

// Close blocks everything. Connections stay open, and new ones are accepted; neither end notices
// anything.
func (w *Proxy) Close() { w.set(func() { w.blocked = true }) }

// Open lets everything pass again, the blocked data first.
func (w *Proxy) Open() { w.set(func() { w.blocked, w.blockedFor = false, nil }) }

// CloseFor blocks, in both directions, the connections that which chooses by the first kilobyte
// that the connecting side sent.
func (w *Proxy) CloseFor(which func(said string) bool) { w.set(func() { w.blockedFor = which }) }

// Delay delays everything from now on by d, in each direction.
func (w *Proxy) Delay(d time.Duration) { w.set(func() { w.delay = d }) }

// Cut closes all connections, as a network does that comes back.
func (w *Proxy) Cut() {
	w.set(func() {
		for end := range w.ends {
			_ = end.Close()
		}
	})
}

func (w *Proxy) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.change.Broadcast()
}

func (w *Proxy) end() {
	w.set(func() { w.ended = true })
	_ = w.listener.Close()
	w.Cut()
	w.running.Wait()
}

func (w *Proxy) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.running.Go(func() {
			defer w.forget(client)
			said := &beginning{}
			if !w.keep(client) || !w.pass(said) {
				return
			}
			server, err := w.dial()
			if err != nil {
				return
			}
			defer w.forget(server)
			if !w.keep(server) {
				return
			}
			var copying sync.WaitGroup
			copying.Go(func() { w.carry(server, client, said, true) })
			copying.Go(func() { w.carry(client, server, said, false) })
			copying.Wait()
		})
	}
}

// keep registers an end of a connection. It reports whether the test is still running.
func (w *Proxy) keep(end net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends[end] = true
	return !w.ended
}

func (w *Proxy) forget(end net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ends, end)
	_ = end.Close()
}

// beginning is the first data on a connection from the side that made it.
type beginning struct{ text string }

// beginningSize is the length of the beginning of a connection, in bytes.
const beginningSize = 1 << 10

// add adds data to a beginning, until it is complete.
func (w *Proxy) add(b *beginning, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b.text += string(data[:min(len(data), beginningSize-len(b.text))])
}

// pass waits while the connection is blocked. It reports whether the test is still running.
func (w *Proxy) pass(b *beginning) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for (w.blocked || w.blockedFor != nil && w.blockedFor(b.text)) && !w.ended {
		w.change.Wait()
	}
	return !w.ended
}

// carry copies data from from to to until one of them ends, then closes both.
func (w *Proxy) carry(to, from net.Conn, said *beginning, begins bool) {
	type parcel struct {
		at   time.Time
		data []byte
	}
	parcels := make(chan parcel, 4096)
	var writing sync.WaitGroup
	writing.Go(func() {
		var err error
		for p := range parcels {
			if err != nil {
				continue
			}
			time.Sleep(time.Until(p.at))
			if !w.pass(said) {
				err = net.ErrClosed
				continue
			}
			if _, err = to.Write(p.data); err != nil {
				_ = from.Close()
			}
		}
	})
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if begins {
				w.add(said, buffer[:n])
			}
			w.mu.Lock()
			at := time.Now().Add(w.delay)
			w.mu.Unlock()
			parcels <- parcel{at, slices.Clone(buffer[:n])}
		}
		if err != nil {
			break
		}
	}
	close(parcels)
	writing.Wait()
	_ = to.Close()
	_ = from.Close()
}

// Dial returns a function for NewProxy that connects to an address over TCP.
func Dial(addr string) func() (net.Conn, error) {
	return func() (net.Conn, error) { return net.DialTimeout("tcp", addr, time.Second) }
}
