package console_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"wxtoken/internal/console"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/services"
)

// slow is a NATS whose messages take a while on their way.
type slow struct {
	*natsdtest.Server
	delay *atomic.Int64 // ns
}

func (s slow) InProcessConn() (net.Conn, error) {
	conn, err := s.Server.InProcessConn()
	if err != nil {
		return nil, err
	}
	return &slowConn{Conn: conn, delay: s.delay, ended: make(chan struct{})}, nil
}

type slowConn struct {
	net.Conn
	delay *atomic.Int64
	once  sync.Once
	ended chan struct{}
}

func (c *slowConn) Read(into []byte) (int, error) {
	n, err := c.Conn.Read(into)
	select {
	case <-time.After(time.Duration(c.delay.Load())):
	case <-c.ended:
	}
	return n, err
}

func (c *slowConn) Close() error {
	c.once.Do(func() { close(c.ended) })
	return c.Conn.Close()
}

// slowly has the page work over a slow connection, without an index.
func (b *bench) slowly(delay time.Duration) {
	b.t.Helper()
	s := slow{b.nats, &atomic.Int64{}}
	c, err := console.New(console.Config{NATS: b.nats.Connect(nats.InProcessServer(s)), Log: zerolog.Nop(), Now: func() time.Time { return now }})
	if err != nil {
		b.t.Fatal(err)
	}
	s.delay.Store(int64(delay))
	b.page = c.Handler()
}

// TestSearchOverSlowNATS: a search that finds nothing in its time shows how far it got, though another list follows the first.
func TestSearchOverSlowNATS(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for range 1500 {
		b.put(events.MessageSubject(component, authorizer(1).Authorizer, "text", ""), "<xml><MsgType>text</MsgType><Content>hello</Content></xml>")
	}
	b.waitStored(0)
	b.slowly(3 * time.Millisecond) // 1,500 of them take longer than a search may
	b.until("a part of the list", func() error {
		status, body, _ := b.ask("/pushes?q=nothing&format=json")
		var p console.Pushes
		if err := json.Unmarshal([]byte(body), &p); err != nil || status != http.StatusOK || p.Before == 0 || len(p.Came) > 0 {
			return fmt.Errorf("%d %w %.300s", status, err, body)
		}
		return nil
	})
}

// TestNoticesOverSlowNATS: what did not come in time is not taken for nothing.
func TestNoticesOverSlowNATS(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(events.JournalSubject(events.JournalNotice, component, "QuotaGone"), "{}")
	b.waitStored(0)
	b.slowly(1300 * time.Millisecond)
	if status, body, _ := b.ask("/notices?format=json"); status != http.StatusServiceUnavailable {
		t.Errorf("%d %s", status, body)
	}
}

// TestNotKnown: what NATS does not tell is not said to be nothing.
func TestNotKnown(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putOneOfEach()
	records, err := services.Records(services.Served{Role: "gateway", Instance: "a", From: now.Add(-time.Minute), To: now}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.put("journal.count.gateway.a", string(records[0]))
	b.shows("/services", "reporting", browser...)
	for _, stream := range []string{events.StreamMessages, events.StreamDead} {
		if err := b.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
	}
	if body := b.shows("/accounts/"+authorizer(1).String(), "NATS does not tell what MESSAGES holds", browser...); strings.Contains(body, "MESSAGES holds nothing") {
		t.Error(body)
	}
	b.shows("/services", "Dead letters are not known", browser...)
}
