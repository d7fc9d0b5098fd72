package serve

import (
	"net"
	"net/http"
	"testing"
)

// conn is a connection that can only be closed.
type conn struct {
	net.Conn
	closed bool
}

func (c *conn) Close() error { c.closed = true; return nil }

func TestConnLimitClosesTheLongestWaiting(t *testing.T) {
	t.Parallel()
	l := &connLimit{max: 3}
	a, b, c, d, e, f := &conn{}, &conn{}, &conn{}, &conn{}, &conn{}, &conn{}
	expect := func(what string, closed ...*conn) {
		t.Helper()
		for i, x := range []*conn{a, b, c, d, e, f} {
			want := false
			for _, y := range closed {
				want = want || x == y
			}
			if x.closed != want {
				t.Fatalf("%s: connection %c closed: %v, want %v", what, 'a'+i, x.closed, want)
			}
		}
	}
	for _, x := range []*conn{a, b, c} {
		l.state(x, http.StateNew)
	}
	l.state(a, http.StateActive)
	l.state(a, http.StateIdle) // a waits since later than b and c
	expect("three of three")
	l.state(d, http.StateNew)
	expect("a fourth", b)
	l.state(b, http.StateClosed) // reported late
	l.state(c, http.StateActive)
	l.state(d, http.StateActive)
	l.state(e, http.StateNew)
	expect("a is the only one that waits", a, b)
	l.state(e, http.StateActive)
	l.state(f, http.StateNew)
	expect("all at work: the new one goes", a, b, f)
	for _, x := range []*conn{a, b, c, d, e, f} {
		l.state(x, http.StateClosed)
	}
	if len(l.open)+len(l.waiting) != 0 {
		t.Fatalf("%d open and %d waiting are remembered", len(l.open), len(l.waiting))
	}
}
