package wechat_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/internal/wechat"
)

// A redirect would hand the token in the URL to another host.
func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	t.Cleanup(other.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"?"+r.URL.RawQuery, status)
		})
		for api, err := range callAll(t.Context(), c) {
			wantError(t, api, err)
		}
	}
	if followed.Load() {
		t.Error("the client went to the other host")
	}
}

// stall answers the beginning of a document, or nothing, and then waits for the client to go away.
func stall(beginning string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client goes
		if beginning != "" {
			_, _ = io.WriteString(w, beginning)
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	for name, beginning := range map[string]string{"no answer": "", "slow drip": `{"component_access_token":"SEKRET`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(stall(beginning))
			t.Cleanup(server.Close)
			c := clientOf(t, wechat.ClientConfig{BaseURL: server.URL, Timeout: 20 * time.Millisecond})
			for api, err := range callAll(t.Context(), c) {
				e := wantError(t, api, err)
				if !errors.Is(err, context.DeadlineExceeded) || wechat.Judge(e) != wechat.Retry {
					t.Errorf("%s: %v is not about the deadline", api, err)
				}
			}
		})
	}
}

// TestAnotherProtocol: a 101, of a proxy say, ends a call. Its body is the connection, which no deadline of the call ends.
func TestAnotherProtocol(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
		<-over
	})
	ended := make(chan error, 1)
	go func() {
		_, err := c.AuthorizerToken(t.Context(), sentToken, "wx1", "wx2", sentRefresh)
		ended <- err
	}()
	select {
	case err := <-ended:
		if wantError(t, wechat.APIAuthorizerToken, err); wechat.Judge(err) != wechat.Retry {
			t.Errorf("%v is not tried again", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the call does not end")
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		stall("")(w, r)
	})
	for range 2 { // while it waits, and before it starts
		_, err := c.AuthorizerToken(ctx, sentToken, "wx1", "wx2", sentRefresh)
		if wantError(t, wechat.APIAuthorizerToken, err); !errors.Is(err, context.Canceled) || wechat.Judge(err) != wechat.Retry {
			t.Errorf("%v is not about the cancellation", err)
		}
	}
}

func TestNoConnection(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler()) // with a certificate that is not trusted
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // speaks something else
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			_, _ = conn.Read(buf)
			_, _ = io.WriteString(conn, "220 ready for "+sentToken+"\r\n\r\n")
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	for name, address := range map[string]string{
		"refused": closed.URL, "certificate": secure.URL, "no HTTP": "http://" + listener.Addr().String(), "TLS to no TLS": "https://" + listener.Addr().String(),
	} {
		t.Run(name, func(t *testing.T) {
			c := clientOf(t, wechat.ClientConfig{BaseURL: address})
			_, err := c.AuthorizerToken(t.Context(), sentToken, "wx1", "wx2", sentRefresh)
			e := wantError(t, wechat.APIAuthorizerToken, err)
			if wechat.Judge(err) != wechat.Retry || !strings.HasPrefix(e.Message, "no answer: ") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNewClient(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"", "https://api.weixin.qq.com", "http://127.0.0.1:8083/", "https://proxy.example/wechat"} {
		if _, err := wechat.NewClient(wechat.ClientConfig{BaseURL: good}); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"api.weixin.qq.com", "ftp://api.weixin.qq.com", "https://", "https://user:SEKRET@host", "https://host?a=SEKRET", "https://host#x", "https://host?", "http:host", "https://ho st", "/path",
	} {
		if _, err := wechat.NewClient(wechat.ClientConfig{BaseURL: bad}); err == nil || strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := wechat.NewClient(wechat.ClientConfig{Timeout: -1}); err == nil {
		t.Error("a negative timeout is accepted")
	}
}

func TestBaseURLWithPath(t *testing.T) {
	t.Parallel()
	var path atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path.Store(r.URL.Path)
		_, _ = io.WriteString(w, `{"errcode":0,"errmsg":"ok"}`)
	}))
	t.Cleanup(server.Close)
	c := clientOf(t, wechat.ClientConfig{BaseURL: server.URL + "/wechat/"})
	if _, err := c.StartPushTicket(t.Context(), "wx1", sentSecret); err != nil {
		t.Fatal(err)
	}
	if got := path.Load(); got != "/wechat/cgi-bin/component/api_start_push_ticket" {
		t.Errorf("got path %s", got)
	}
}
