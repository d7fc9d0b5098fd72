//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"wxtoken/internal/services"
	"wxtoken/wechatsim"
)

// held is a WeChat that does not come to the end of one call: it answers when it is told to.
type held struct {
	http.Handler
	begins  string // of the answer, before it is held
	came    atomic.Int32
	arrived chan struct{}
	let     chan struct{}
}

// heldPath is the path of the call.
const heldPath = "/cgi-bin/user/info"

// ServeHTTP hands other calls on.
func (h *held) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != heldPath || h.came.Add(1) > 1 {
		h.Handler.ServeHTTP(w, r)
		return
	}
	if h.begins != "" {
		_, _ = io.WriteString(w, h.begins)
		_ = http.NewResponseController(w).Flush()
	}
	close(h.arrived)
	<-h.let
}

// TestGatewayKilledInACall kills a gateway with SIGKILL while WeChat is at a call. The caller sees that the connection ends, WeChat sees the
// call once, and the next gateway takes the same token.
func TestGatewayKilledInACall(t *testing.T) {
	t.Parallel()
	srv := shipped(t, "nats-server.conf")
	sim, key := startSystem(t, srv, "nats-server.conf", func(string) []string { return nil })
	for name, begins := range map[string]string{"before an answer": "", "within the answer": `{"subscribe":1,"openid":"o`} {
		t.Run(name, func(t *testing.T) { // one after the other: they share the platform
			wechat := &held{Handler: sim.Handler(), begins: begins, arrived: make(chan struct{}), let: make(chan struct{})}
			api := httptest.NewServer(wechat)
			defer api.Close()
			defer close(wechat.let)
			file := fmt.Sprintf(`{"services":[{"name":"shop","keys":[%q],"accounts":["%s/*"],"may":["relay"]}]}`, services.Digest(sdkKey), wechatsim.DemoAppID)
			first, at := gatewayFor(t, srv, api.URL, file)
			_, next := gatewayFor(t, srv, api.URL, file)
			var token string
			eventually(t, "a token through the gateway", func() (err error) {
				token, err = field(t, at+"/cgi-bin/token?grant_type=client_credential&appid="+key.Authorizer+"&secret="+sdkKey, "access_token")
				return err
			})
			eventually(t, "a call that WeChat answers", func() error {
				_, err := field(t, at+"/cgi-bin/getcallbackip?access_token="+token, "ip_list")
				return err
			})
			call := heldPath + "?openid=oSimUser&access_token=" + token
			ended := make(chan error, 1)
			go func() {
				client := &http.Client{Timeout: patience}
				defer client.CloseIdleConnections()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at+call, http.NoBody)
				if err != nil {
					ended <- err
					return
				}
				res, err := client.Do(req)
				if err != nil {
					ended <- nil
					return
				}
				text, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err == nil {
					ended <- fmt.Errorf("the call ended well: %d %s", res.StatusCode, text)
					return
				}
				ended <- nil
			}()
			select {
			case <-wechat.arrived:
			case err := <-ended:
				t.Fatalf("the call did not reach WeChat: %v", err)
			}
			first.kill()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if n := wechat.came.Load(); n != 1 {
				t.Errorf("WeChat saw the call %d times", n)
			}
			eventually(t, "the next gateway to take the same token", func() error {
				openid, err := field(t, next+call, "openid")
				if err == nil && openid != "oSimUser" {
					err = errors.New(openid)
				}
				return err
			})
		})
	}
}
