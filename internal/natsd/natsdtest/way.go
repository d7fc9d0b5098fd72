package natsdtest

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// Way is a way over TCP to a server that can be closed without either end being told, and made
// slow: what a broken network, a frozen server or a long line is to a client.
type Way struct {
	dial     func() (net.Conn, error)
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	change *sync.Cond
	closed bool                   // nothing passes
	apart  func(said string) bool // of which connections nothing passes, by what they began with
	over   bool                   // the test is
	delay  time.Duration
	ends   map[net.Conn]bool
}

// NewWay returns an open way to what dial connects to. It ends with the test.
func NewWay(t testing.TB, dial func() (net.Conn, error)) *Way {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for a way: %v", err)
	}
	w := &Way{dial: dial, listener: listener, ends: map[net.Conn]bool{}}
	w.change = sync.NewCond(&w.mu)
	w.running.Go(w.accept)
	t.Cleanup(w.end)
	return w
}

// URL returns the way's address for a NATS client.
func (w *Way) URL() string { return "nats://" + w.listener.Addr().String() }

// Close lets nothing more pass. Connections stay, and new ones are taken; neither end hears
// anything.
func (w *Way) Close() { w.set(func() { w.closed = true }) }

// Open lets everything pass again; what waited comes first.
func (w *Way) Open() { w.set(func() { w.closed, w.apart = false, nil }) }

// CloseFor lets nothing more pass, in either direction, of those connections that which chooses by
// the first kilobyte that who connected said.
func (w *Way) CloseFor(which func(said string) bool) { w.set(func() { w.apart = which }) }

// Delay has everything that passes from now on take so long, in each direction.
func (w *Way) Delay(d time.Duration) { w.set(func() { w.delay = d }) }

// Cut ends all connections, as a network does that is back.
func (w *Way) Cut() {
	w.set(func() {
		for end := range w.ends {
			_ = end.Close()
		}
	})
}

func (w *Way) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.change.Broadcast()
}

func (w *Way) end() {
	w.set(func() { w.over = true })
	_ = w.listener.Close()
	w.Cut()
	w.running.Wait()
}

func (w *Way) accept() {
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

// keep notes an end of a connection; it reports whether the test goes on.
func (w *Way) keep(end net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends[end] = true
	return !w.over
}

func (w *Way) forget(end net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ends, end)
	_ = end.Close()
}

// beginning is what was said first on a connection by the side that made it.
type beginning struct{ text string }

// beginningSize is how many bytes are the beginning of a connection.
const beginningSize = 1 << 10

// add adds to the beginning, until it is whole.
func (w *Way) add(b *beginning, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b.text += string(data[:min(len(data), beginningSize-len(b.text))])
}

// pass waits while the way is closed for a connection; it reports whether the test goes on.
func (w *Way) pass(b *beginning) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for (w.closed || w.apart != nil && w.apart(b.text)) && !w.over {
		w.change.Wait()
	}
	return !w.over
}

// carry carries what from says to to, until one of them ends, and ends both.
func (w *Way) carry(to, from net.Conn, said *beginning, begins bool) {
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

// Dial returns a function for NewWay that connects to an address over TCP.
func Dial(addr string) func() (net.Conn, error) {
	return func() (net.Conn, error) { return net.DialTimeout("tcp", addr, time.Second) }
}
