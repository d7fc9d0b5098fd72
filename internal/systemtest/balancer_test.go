//go:build unix

package systemtest

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// balancer is a load balancer for TCP: each connection goes to the next of the backends that takes it.
type balancer struct {
	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	backends []string
	conns    map[net.Conn]bool
	closed   bool
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{listener: listener, conns: map[net.Conn]bool{}}
	b.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.running.Go(func() { b.serve(conn) })
		}
	})
	t.Cleanup(func() {
		b.mu.Lock()
		b.closed = true
		_ = listener.Close()
		for conn := range b.conns {
			_ = conn.Close()
		}
		b.mu.Unlock()
		b.running.Wait()
	})
	return b
}

func (b *balancer) addr() string { return b.listener.Addr().String() }

// add puts a backend behind the others. It stays until it takes no more connections.
func (b *balancer) add(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = append(b.backends, addr)
}

// next takes the next backend, which becomes the last.
func (b *balancer) next() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.backends) == 0 {
		return ""
	}
	first := b.backends[0]
	b.backends = append(b.backends[1:], first)
	return first
}

func (b *balancer) remove(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = slices.DeleteFunc(b.backends, func(a string) bool { return a == addr })
}

// keep notes a connection that is to be closed when the test ends. It is closed at once after that.
func (b *balancer) keep(conn net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns[conn] = true
	if b.closed {
		_ = conn.Close()
	}
}

func (b *balancer) drop(conn net.Conn) {
	_ = conn.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, conn)
}

// serve carries one connection.
func (b *balancer) serve(client net.Conn) {
	b.keep(client)
	defer b.drop(client)
	for backend := b.next(); backend != ""; backend = b.next() {
		server, err := net.Dial("tcp", backend)
		if err != nil {
			b.remove(backend)
			continue
		}
		b.keep(server)
		b.running.Go(func() {
			_, _ = io.Copy(server, client)
			b.drop(server)
		})
		_, _ = io.Copy(client, server)
		b.drop(server)
		return
	}
}
