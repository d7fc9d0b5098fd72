package gateway_test

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/wxtokentest"
)

// TestRetryAtShutdown ends the gateway while WeChat is at a call, and has WeChat refuse the token then: the token is still replaced, the call
// made once more, and the answer reaches the caller.
func TestRetryAtShutdown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	r.k.Reject(wxtokentest.Merchant)
	var calls atomic.Int32
	arrived, let := make(chan struct{}), make(chan struct{})
	r.wechat.answer(func(_ http.ResponseWriter, req *http.Request) bool {
		if calls.Add(1) == 1 {
			_, _ = io.Copy(io.Discard, req.Body)
			close(arrived)
			<-let
		}
		return false
	})
	answered := make(chan answer, 1)
	go func() { answered <- r.call("POST", "/cgi-bin/user/info?access_token="+token, []byte(`{"x":1}`)) }()
	<-arrived
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.stop()
	}()
	r.until("the gateway listens on", func() bool { // SIGTERM has come
		conn, err := http.NewRequestWithContext(t.Context(), "GET", r.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Do(conn)
		if err == nil {
			_ = res.Body.Close()
		}
		return err != nil
	})
	close(let)
	if a := <-answered; a.get("errcode") != "0" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls, want 2", n)
	}
	<-ended
}
