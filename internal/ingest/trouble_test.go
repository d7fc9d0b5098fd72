package ingest_test

import (
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client/message"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/streams/streamstest"
)

// gate is a way to NATS whose way back can be closed: what the server says then waits.
type gate struct {
	srv *natsdtest.Server

	mu     sync.Mutex
	opened chan struct{} // closed while the gate is open
}

func newGate(srv *natsdtest.Server) *gate {
	g := &gate{srv: srv, opened: make(chan struct{})}
	close(g.opened)
	return g
}

// InProcessConn makes a gate a nats.InProcessConnProvider.
func (g *gate) InProcessConn() (net.Conn, error) {
	conn, err := g.srv.InProcessConn()
	if err != nil {
		return nil, err
	}
	return &gatedConn{Conn: conn, gate: g}, nil
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.opened)
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c *gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.gate.mu.Lock()
	opened := c.gate.opened
	c.gate.mu.Unlock()
	<-opened
	return n, err
}

// TestNATSTrouble goes through everything that NATS can do to a push, in virtual time: every answer
// has to come in time, and nothing may stay behind.
func TestNATSTrouble(t *testing.T) {
	natsdtest.Bubble(t, func(t *testing.T) {
		srv := natsdtest.Start(t, natsdtest.InBubble)
		gate := newGate(srv)
		r := newRig(t, srv, nats.InProcessServer(gate))
		number := 0
		// check sends new pushes, all at once, and wants one answer for all of
		// them, in time.
		check := func(phase string, pushes int, status int, body string) {
			t.Helper()
			var all sync.WaitGroup
			for range pushes {
				number++
				c := componentPush(t, authPath, event("authorized", "<AuthorizerAppid>"+authorizer+"</AuthorizerAppid><AuthorizationCode>"+
					code+strconv.Itoa(number)+"</AuthorizationCode>"))
				all.Go(func() {
					began := time.Now()
					rec := c.serveDirectly(r)
					if rec.Code != status || rec.Body.String() != body {
						t.Errorf("%s: answer %d %q, want %d %q", phase, rec.Code, rec.Body, status, body)
					}
					if took := time.Since(began); took > 4500*time.Millisecond {
						t.Errorf("%s: answered after %s", phase, took)
					}
				})
			}
			all.Wait()
		}
		unavailable := func() float64 {
			return r.count(t, "wxtoken_push_total", "authorized", "nats_unavailable")
		}

		check("all is well", 3, http.StatusOK, "success")

		srv.Stop()
		check("NATS is away", 200, http.StatusServiceUnavailable, "retry")
		if got := unavailable(); got != 200 {
			t.Errorf("counted %v pushes without NATS, want 200", got)
		}
		if err := r.ingest.Ready(t.Context()); err == nil {
			t.Error("ready without NATS")
		}
		if n := len(r.log.lines(t)); n < 1 || n > 10 {
			t.Errorf("%d log lines about 200 pushes in one moment, want 1 to 10", n)
		}

		// It comes back while pushes are waiting for it.
		go func() {
			time.Sleep(500 * time.Millisecond)
			srv.Restart()
		}()
		check("NATS comes back", 3, http.StatusOK, "success")
		if got := len(r.messages(t, events.StreamAuth)); got != 6 {
			t.Errorf("%d events on AUTH, want 6: what was refused must not come later", got)
		}

		// NATS hears everything, and none of its acks arrives.
		gate.close()
		check("no acks", 5, http.StatusServiceUnavailable, "retry")
		gate.open()
		time.Sleep(time.Second)
		if got := len(r.messages(t, events.StreamAuth)); got != 11 {
			t.Errorf("%d events on AUTH, want 11: each of the pushes once", got)
		}

		// The ack of the first try is lost, that of the second arrives.
		gate.close()
		go func() {
			time.Sleep(2 * time.Second) // into the second try
			gate.open()
		}()
		check("first ack lost", 1, http.StatusOK, "success")
		if got := len(r.messages(t, events.StreamAuth)); got != 12 {
			t.Errorf("%d events on AUTH, want 12", got)
		}

		// AUTH stores, MESSAGES is gone: an authorization is not done before both have it.
		if err := r.js.DeleteStream(t.Context(), events.StreamMessages); err != nil {
			t.Fatal(err)
		}
		check("no MESSAGES", 1, http.StatusServiceUnavailable, "retry")

		if err := r.js.DeleteStream(t.Context(), events.StreamAuth); err != nil {
			t.Fatal(err)
		}
		if err := r.ingest.Ready(t.Context()); err == nil {
			t.Error("ready without AUTH")
		}
		check("no AUTH", 5, http.StatusServiceUnavailable, "retry")

		streamstest.Setup(t, r.js.Conn(), r.js, events.SetupConfig{MessagesMaxAge: time.Hour})
		if err := r.ingest.Ready(t.Context()); err != nil {
			t.Errorf("not ready: %v", err)
		}
		check("all is well again", 3, http.StatusOK, "success")

		// A service that listens and never answers, and one that answers at the last moment.
		var pause atomic.Int64
		pause.Store(int64(time.Hour))
		if _, err := r.js.Conn().Subscribe(message.ReplySubject(component, authorizer), func(msg *nats.Msg) {
			time.AfterFunc(time.Duration(pause.Load()), func() { _ = msg.Respond([]byte("<xml><MsgType>text</MsgType></xml>")) })
		}); err != nil {
			t.Fatal(err)
		}
		ask := func(phase string, replied bool) {
			t.Helper()
			began := time.Now()
			rec := componentPush(t, msgPath, messageOf("text", "<Content>"+phase+"</Content>")).serveDirectly(r)
			if took := time.Since(began); took > 4500*time.Millisecond || rec.Code != http.StatusOK || rec.Body.String() == "success" == replied {
				t.Errorf("%s: answer %d %q after %s", phase, rec.Code, rec.Body, took)
			}
		}
		ask("a service that never answers", false)
		pause.Store(int64(3900 * time.Millisecond))
		ask("a service that answers in time", true)
		pause.Store(int64(4100 * time.Millisecond))
		ask("a service that answers too late", false)

		// The publish took of the time that the service has.
		pause.Store(int64(2500 * time.Millisecond))
		gate.close()
		time.AfterFunc(2*time.Second, gate.open) // into the second try
		ask("a service that would be in time, had the ack been", false)
		time.Sleep(time.Hour) // the answer that never came
	})
}
