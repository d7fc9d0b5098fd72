package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/gateway"
	"wxtoken/internal/looktest"
	"wxtoken/wxtokentest"
)

// TestRelay hands calls on as they came, with the current token.
func TestRelay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	a := r.call("POST", "/cgi-bin/message/custom/send?b=2&access_token="+token+"&a=%E4%BD%A0+x&b=1", []byte(`{"touser":"o"}`),
		"Content-Type", "application/json; charset=x", "Wechatmp-Appid", "wxa", "Wechatmp-Signature", "sig", "Authorization", "Bearer SEKRET", "Cookie", "c=SEKRET", "Accept-Encoding", "gzip", "Expect", "100-continue", "X-Forwarded-Port", "443", "X-Forwarded-Prefix", "/api")
	if a.status != 200 || a.get("for") != wxtokentest.Merchant.String() {
		t.Fatalf("%d %s", a.status, a.body)
	}
	calls := r.wechat.take()
	if len(calls) != 1 {
		t.Fatalf("%d calls", len(calls))
	}
	c, now := calls[0], r.k.Token(wxtokentest.Merchant).Value.Reveal()
	if c.method != "POST" || c.path != "/cgi-bin/message/custom/send" || c.query != "b=2&access_token="+now+"&a=%E4%BD%A0+x&b=1" || c.body != `{"touser":"o"}` {
		t.Errorf("it came as %s %s with %q", c.method, c.path, c.body)
	}
	for name, want := range map[string]string{"Content-Type": "application/json; charset=x", "Wechatmp-Appid": "wxa", "Wechatmp-Signature": "sig", "Authorization": "", "Cookie": "", "Accept-Encoding": "", "X-Forwarded-For": "", "X-Forwarded-Port": "", "X-Forwarded-Prefix": "", "Expect": ""} {
		if got := c.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	r.wechat.answer(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Disposition", `attachment; filename="a.jpg"`)
		w.Header().Set("Content-Type", "image/jpeg")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(bytes.Repeat([]byte("x"), 3<<20))
		return true
	})
	a = r.call("GET", "/cgi-bin/media/get?media_id=m&access_token="+token, nil)
	if a.status != http.StatusPartialContent || len(a.body) != 3<<20 || a.header.Get("Content-Disposition") != `attachment; filename="a.jpg"` || a.header.Get("Content-Type") != "image/jpeg" {
		t.Errorf("%d, %d bytes, %v", a.status, len(a.body), a.header)
	}
	for _, line := range []string{"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket", "HTTP/1.1 099 Odd"} { // neither is an answer of WeChat's
		r.wechat.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return true
			}
			_, _ = conn.Write([]byte(line + "\r\n\r\n"))
			return conn.Close() == nil
		})
		text := r.raw("GET /cgi-bin/x?access_token="+token+" HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n", false)
		if !strings.HasPrefix(text, "HTTP/1.1 502 ") || !strings.Contains(text, "WeChat's answer can't be read") {
			t.Errorf("%s: %s", line, text)
		}
	}
	if strings.Contains(r.log.String(), "panicked") {
		t.Error(r.log.String())
	}
}

// TestRelayRefuses makes calls that may not be made. None of them reaches WeChat.
func TestRelayRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	merchant := wxtokentest.Merchant.Authorizer
	good, all, own := r.token(merchant, shopKey), r.token(merchant, allKey), r.componentToken()
	real := r.k.Token(wxtokentest.Merchant).Value.Reveal()
	for name, row := range map[string]struct{ path, errcode string }{
		"no token":                  {"/cgi-bin/user/info", "41001"},
		"empty token":               {"/cgi-bin/user/info?access_token=", "41001"},
		"WeChat's own token":        {"/cgi-bin/user/info?access_token=" + real, "40001"},
		"forged":                    {"/cgi-bin/user/info?access_token=" + good[:len(good)-3] + "abc", "40001"},
		"cut":                       {"/cgi-bin/user/info?access_token=wxg1_", "40001"},
		"two":                       {"/cgi-bin/user/info?access_token=" + good + "&access_token=" + good, "40001"},
		"one of each":               {"/cgi-bin/user/info?access_token=" + good + "&component_access_token=" + own, "40001"},
		"spelled otherwise":         {"/cgi-bin/user/info?access%5Ftoken=" + good, "40001"},
		"a second, in other case":   {"/cgi-bin/user/info?access_token=" + good + "&Access_Token=x", "40001"},
		"a second, in an array":     {"/cgi-bin/user/info?access_token=" + good + "&access_token[]=x", "40001"},
		"a semicolon":               {"/cgi-bin/user/info?access_token=" + good + ";access_token=x", "40001"},
		"a name that can't be read": {"/cgi-bin/user/info?%zz=1&access_token=" + good, "40001"},
		"without relay":             {"/cgi-bin/user/info?access_token=" + r.token(merchant, tokenKey), "48001"},
		"another API":               {"/cgi-bin/menu/get?access_token=" + r.token(merchant, narrow), "48001"},
		"component's quota":         {"/cgi-bin/clear_quota?access_token=" + own, "48001"},
		"component's quota, slash":  {"/cgi-bin/clear_quota/?access_token=" + own, "48001"},
		"new component token":       {"/cgi-bin/component/api_component_token/?component_access_token=" + own, "48001"},
		"new token, slash":          {"/cgi-bin/token/?access_token=" + all, "48001"},
		"new token, other letters":  {"/cgi-bin/Stable_Token?access_token=" + all, "48001"},
		"component's, capitals":     {"/CGI-BIN/COMPONENT/API_COMPONENT_TOKEN?component_access_token=" + own, "48001"},
		"quota, other letters":      {"/cgi-bin/Clear_Quota?access_token=" + own, "48001"},
		"double slash":              {"//cgi-bin/user/info?access_token=" + good, "40066"},
		"dots":                      {"/cgi-bin/../user/info?access_token=" + good, "40066"},
		"dot":                       {"/cgi-bin/./user/info?access_token=" + good, "40066"},
		"escaped slash":             {"/cgi-bin/user%2finfo?access_token=" + good, "40066"},
		"escaped letter":            {"/cgi-bin/%74oken?access_token=" + good, "40066"},
		"escaped dots":              {"/cgi-bin/%2e%2e/user?access_token=" + good, "40066"},
		"backslash":                 {`/cgi-bin\user?access_token=` + good, "40066"},
		"path parameter":            {"/cgi-bin/user;x=/info?access_token=" + good, "40066"},
	} {
		t.Run(name, func(t *testing.T) {
			text := r.raw("GET "+row.path+" HTTP/1.1\r\nHost: api.weixin.qq.com\r\nConnection: close\r\n\r\n", false)
			head, body, _ := strings.Cut(text, "\r\n\r\n")
			a := answer{body: []byte(body)}
			if !strings.HasPrefix(head, "HTTP/1.1 200 ") || a.get("errcode") != row.errcode {
				t.Errorf("%s, want errcode %s", text, row.errcode)
			}
			if strings.Contains(text, real) {
				t.Error("WeChat's token comes back")
			}
		})
	}
	text := r.raw("GET http://api.weixin.qq.com/cgi-bin/user/info?access_token="+good+" HTTP/1.1\r\nHost: api.weixin.qq.com\r\nConnection: close\r\n\r\n", false)
	if !strings.Contains(text, `"errcode":40066`) {
		t.Errorf("as a proxy: %s", text)
	}
	if text := r.raw("CONNECT api.weixin.qq.com:443 HTTP/1.1\r\nHost: api.weixin.qq.com:443\r\nConnection: close\r\n\r\n", false); !strings.Contains(text, `"errcode":40066`) {
		t.Errorf("CONNECT: %s", text)
	}
	for line, errcode := range map[string]string{"TRACE /cgi-bin/user/info": "43002", "OPTIONS /cgi-bin/user/info": "43002", "get /cgi-bin/user/info": "43002", "PUT /cgi-bin/token": "43001"} {
		if text := r.raw(line+"?access_token="+good+" HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n", false); !strings.Contains(text, `"errcode":`+errcode) {
			t.Errorf("%s: %s", line, text)
		}
	}
	if calls := r.wechat.take(); len(calls) > 0 {
		t.Errorf("WeChat heard of it: %+v", calls)
	}
	// And a Host of WeChat's changes nothing.
	if text := r.raw("GET /cgi-bin/user/info?access_token="+good+" HTTP/1.1\r\nHost: api.weixin.qq.com\r\nConnection: close\r\n\r\n", false); !strings.Contains(text, `"errcode":0`) {
		t.Errorf("a good call: %s", text)
	}
}

// TestExpiredToken refuses a token of ours after its end.
func TestExpiredToken(t *testing.T) {
	t.Parallel()
	signer, err := gateway.ReadSigner(strings.NewReader(gateway.MakeTokenKey()))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	said := gateway.Claims{Service: "shop", Key: wxtokentest.Merchant, Ends: at.Add(gateway.TokenLife), Generation: 7}
	token := signer.Sign(said).Reveal()
	if got, err := signer.Open(token, at); err != nil || got != said {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := signer.Open(token, said.Ends); !errors.Is(err, gateway.ErrExpired) || got != said {
		t.Errorf("%+v, %v", got, err)
	}
	if token == signer.Sign(said).Reveal() {
		t.Error("two tokens are the same")
	}
	for i := range token {
		if forged := token[:i] + string(token[i]^1) + token[i+1:]; true {
			if _, err := signer.Open(forged, at); !errors.Is(err, gateway.ErrForged) && i < len(token)-1 {
				t.Errorf("byte %d changed: %v", i, err)
			}
		}
	}
}

// TestTokenKeys believes all keys of the file and signs with the first, and shows none in an error.
func TestTokenKeys(t *testing.T) {
	t.Parallel()
	old, now := gateway.MakeTokenKey(), gateway.MakeTokenKey()
	read := func(lines ...string) *gateway.Signer {
		t.Helper()
		s, err := gateway.ReadSigner(strings.NewReader(strings.Join(lines, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	at := time.Now()
	said := gateway.Claims{Service: "shop", Key: wxtokentest.Merchant, Ends: at.Add(time.Hour)}
	before, both, after := read(old), read("# the new one", now, "", old), read(now)
	if _, err := both.Open(before.Sign(said).Reveal(), at); err != nil {
		t.Errorf("a token of the key before: %v", err)
	}
	if _, err := after.Open(both.Sign(said).Reveal(), at); err != nil {
		t.Errorf("the first key does not sign: %v", err)
	}
	if _, err := after.Open(before.Sign(said).Reveal(), at); !errors.Is(err, gateway.ErrForged) {
		t.Errorf("a key that is gone: %v", err)
	}
	for _, text := range []string{"", "# nothing", "SEKRET", now + "SEKRET"} {
		if _, err := gateway.ReadSigner(strings.NewReader(text)); err == nil || strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestRefusedByWeChat kills the token: the call is made once more with the next one, and the caller sees nothing of it.
func TestRefusedByWeChat(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	r.k.Reject(wxtokentest.Merchant)
	body := bytes.Repeat([]byte("b"), 100<<10)
	a := r.call("POST", "/cgi-bin/media/upload?type=image&access_token="+token, body)
	if a.get("errcode") != "0" || a.get("length") != fmt.Sprint(len(body)) {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if calls := r.wechat.take(); len(calls) != 2 || calls[0].body != calls[1].body || calls[0].query == calls[1].query {
		t.Errorf("%d calls", len(calls))
	}
	if g := r.k.Token(wxtokentest.Merchant).Generation; g != 2 {
		t.Errorf("generation %d: it was renewed more than once", g)
	}
	if !strings.Contains(r.log.String(), "6347bd0e-0f2a5d7a-1a1a1a1a") && !strings.Contains(r.log.String(), "token refused by WeChat") {
		t.Errorf("the log says nothing: %s", r.log.String())
	}
}

// TestRefusedAndTooLarge kills the token under a body that is too large to be kept: the refusal is handed on, and the token replaced. A
// body without a length is kept in any case.
func TestRefusedAndTooLarge(t *testing.T) {
	t.Parallel()
	for name, unknown := range map[string]bool{"length known": false, "length unknown": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c *gateway.Config) { c.RetryBody = 10 })
			token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
			r.k.Reject(wxtokentest.Merchant)
			var body io.Reader = strings.NewReader("more than ten bytes")
			if unknown {
				body = io.MultiReader(body)
			}
			req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+"/cgi-bin/media/upload?access_token="+token, body)
			r.must(err)
			a := r.do(req)
			if unknown { // kept in a file all the same
				if calls := r.wechat.take(); a.get("errcode") != "0" || len(calls) != 2 || calls[1].body != "more than ten bytes" {
					t.Errorf("%s after %+v", a.body, calls)
				}
				return
			}
			if a.get("errcode") != "40001" {
				t.Errorf("%d %s", a.status, a.body)
			}
			if calls := r.wechat.take(); len(calls) != 1 || calls[0].body != "more than ten bytes" {
				t.Errorf("%+v", calls)
			}
			r.until("the token is not replaced", func() bool { return r.k.Token(wxtokentest.Merchant).Generation == 2 })
			r.until("the next call does not work", func() bool {
				return r.call("GET", "/cgi-bin/user/info?access_token="+token, nil).get("errcode") == "0"
			})
		})
	}
}

// TestNeverTwice has calls end in ways after which they may have worked: none of them is made again.
func TestNeverTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	abort := func() { panic(http.ErrAbortHandler) }
	for name, row := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		status int
		body   string
	}{
		"no answer": {func(http.ResponseWriter, *http.Request) { abort() }, 502, `"errcode":-1`},
		"half a head": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"errcode":40001`)
			abort()
		}, 502, `"errcode":-1`},
		"busy": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"errcode":-1,"errmsg":"system error"}`)
		}, 200, `"errcode":-1`},
		"bad gateway": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); _, _ = io.WriteString(w, "<html>") }, 502, "<html>"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/else?"+r.URL.RawQuery, http.StatusFound)
		}, 502, `"errcode":-1`},
		"plain redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/else", http.StatusFound) }, 302, ""},
		"40001 in a text": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"errcode":0,"content":"{\"errcode\":40001}"}`)
		}, 200, `40001`},
		"a long 40001": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"errcode":40001,"x":"`+strings.Repeat("x", 4<<10)+`"}`)
		}, 200, `40001`},
		"other errcode": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"errcode":45009,"errmsg":"reach max api daily quota limit rid: 1a2b3c4d-1a2b3c4d-1a2b3c4d"}`)
		}, 200, "45009"},
		"nothing":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, 204, ""},
		"not JSON at all": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `"errcode":40001`) }, 200, "40001"},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			r.wechat.answer(func(w http.ResponseWriter, req *http.Request) bool {
				calls.Add(1)
				row.answer(w, req)
				return true
			})
			a := r.call("POST", "/cgi-bin/user/info?access_token="+token, []byte(`{"x":1}`))
			if a.status != row.status || !strings.Contains(string(a.body), row.body) {
				t.Errorf("%d %s, want %d", a.status, a.body, row.status)
			}
			if n := calls.Load(); n != 1 {
				t.Errorf("%d calls", n)
			}
			if now := r.k.Token(wxtokentest.Merchant).Value.Reveal(); strings.Contains(string(a.body)+fmt.Sprint(a.header), now) {
				t.Errorf("WeChat's token leaves: %s %v", a.body, a.header)
			}
		})
	}
	if now := r.k.Token(wxtokentest.Merchant).Value.Reveal(); strings.Contains(r.log.String(), now) {
		t.Error("WeChat's token is in the log")
	}
	if g := r.k.Token(wxtokentest.Merchant).Generation; g != 1 {
		t.Errorf("generation %d: it was renewed without cause", g)
	}
}

// TestWeChatAway has WeChat give no answers: after some, calls are refused at once, until one gets through.
func TestWeChatAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	r.wechat.answer(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	r.until("calls go on", func() bool {
		a := r.call("GET", "/cgi-bin/user/info?access_token="+token, nil)
		if a.status != http.StatusBadGateway || a.get("errcode") != "-1" {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return a.header.Get("Retry-After") != ""
	})
	r.wechat.answer(nil)
	r.until("it never works again", func() bool {
		return r.call("GET", "/cgi-bin/user/info?access_token="+token, nil).get("errcode") == "0"
	})
}

// TestBodies sends bodies that stop, are too large, or never end.
func TestBodies(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gateway.Config) { c.MaxBody, c.RetryBody = 1<<20, 64<<10 })
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	path := "/cgi-bin/media/upload?access_token=" + token
	if a := r.call("POST", path, make([]byte, 2<<20)); a.status != http.StatusRequestEntityTooLarge || a.get("errcode") != "45001" {
		t.Errorf("too large: %d %s", a.status, a.body)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+path, io.MultiReader(bytes.NewReader(make([]byte, 2<<20))))
	r.must(err)
	if res, err := r.http.Do(req); err == nil { // the gateway may close before all is sent
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if a := (answer{body: text}); res.StatusCode != http.StatusRequestEntityTooLarge || a.get("errcode") != "45001" {
			t.Errorf("too large, of unknown length: %d %s", res.StatusCode, text)
		}
	}
	r.wechat.take()
	got := r.raw("POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nConnection: close\r\n\r\nhalf", true)
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, `"errcode":47001`) {
		t.Errorf("a body that stops: %q", got)
	}
	if calls := r.wechat.take(); len(calls) > 0 {
		t.Errorf("half a body reached WeChat: %d bytes of %d", len(calls[0].body), calls[0].length)
	}
	body := make([]byte, 1<<20)
	if a := r.call("POST", path, body); a.get("length") != fmt.Sprint(len(body)) {
		t.Errorf("the largest that may be: %d %s", a.status, a.body)
	}
}

// TestHangs has a body stop without an end, WeChat say nothing, stop in the middle of an answer, take nothing of a body, and break off in the
// middle of a file: each ends within its bound, with an error that names the one who was silent, and the last as a transfer that broke.
func TestHangs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.g.AnswerWithin(5 * time.Second)
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	r.wechat.answer(func(w http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, "/uploadimg") {
			<-over // its context does not end while the body is not read
			return true
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return true
		}
		if strings.HasSuffix(req.URL.Path, "/batchget") {
			_, _ = io.WriteString(w, `{"user_info_list":[`)
			_ = http.NewResponseController(w).Flush()
			<-req.Context().Done()
			return true
		}
		if strings.HasSuffix(req.URL.Path, "/get") {
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(make([]byte, 100_000))
			panic(http.ErrAbortHandler)
		}
		<-req.Context().Done()
		return true
	})
	var asked sync.WaitGroup
	defer asked.Wait()
	for name, row := range map[string]struct{ begin, status, errcode string }{
		"a body":                {"POST /cgi-bin/media/upload?access_token=" + token + " HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", "400", "47001"},
		"a body in chunks":      {"POST /cgi-bin/media/upload?access_token=" + token + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "400", "47001"},
		"WeChat, in the middle": {"GET /cgi-bin/user/info/batchget?access_token=" + token + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "504", "-1"},
		"WeChat":                {"GET /cgi-bin/user/info?access_token=" + token + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "504", "-1"},
	} {
		asked.Go(func() { // at once, and not as tests of their own: each waits, and needs no processor
			if got := r.raw(row.begin, false); !strings.HasPrefix(got, "HTTP/1.1 "+row.status+" ") || !strings.Contains(got, `"errcode":`+row.errcode) {
				t.Errorf("%s: %q, want %s and %s", name, got, row.status, row.errcode)
			}
		})
	}
	asked.Go(func() { // more than the connection's buffers hold
		if a := r.call("POST", "/cgi-bin/media/uploadimg?access_token="+token, make([]byte, 16<<20)); a.status != http.StatusGatewayTimeout || a.get("errcode") != "-1" {
			t.Errorf("a body that WeChat does not take: %d %s", a.status, a.body)
		}
	})
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.url+"/cgi-bin/media/get?access_token="+token, nil)
	r.must(err)
	res, err := r.http.Do(req)
	r.must(err)
	defer func() { _ = res.Body.Close() }()
	if got, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) || len(got) > 100_000 {
		t.Errorf("half a file came as a whole one: %d bytes, %v", len(got), err)
	}
	asked.Wait()
	if n, _ := looktest.Sum(r, r.metrics, "wxtoken_gateway_unanswered_total", "shop"); n != 3 { // what the caller left unfinished is not WeChat's
		t.Errorf("%v calls are counted as unanswered, want 3", n)
	}
}

// TestCallerGoes has a caller go away in the middle: WeChat's side is let go of, and nothing counts against WeChat.
func TestCallerGoes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token(wxtokentest.Merchant.Authorizer, shopKey)
	came, gone := make(chan struct{}), make(chan struct{}, 100)
	r.wechat.answer(func(_ http.ResponseWriter, req *http.Request) bool {
		came <- struct{}{}
		<-req.Context().Done()
		gone <- struct{}{}
		return true
	})
	for range 15 { // more than what opens the breaker
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer cancel()
			<-came
		}()
		req, err := http.NewRequestWithContext(ctx, "GET", r.url+"/cgi-bin/user/info?access_token="+token, nil)
		r.must(err)
		if res, err := r.http.Do(req); err == nil {
			_ = res.Body.Close()
			t.Error("an answer came")
		}
		select {
		case <-gone:
		case <-time.After(patience):
			t.Fatal("WeChat's side goes on")
		}
	}
	r.wechat.answer(nil)
	if a := r.call("GET", "/cgi-bin/user/info?access_token="+token, nil); a.get("errcode") != "0" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if n, _ := looktest.Sum(r, r.metrics, "wxtoken_gateway_unanswered_total", "shop"); n != 0 {
		t.Errorf("%v calls are counted as unanswered", n)
	}
}

// TestNoToken relays for accounts that have no good token.
func TestNoToken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token(wxtokentest.Merchant.Authorizer, allKey)
	r.k.Expire(wxtokentest.Merchant)
	r.until("a dead token is used", func() bool {
		a := r.call("GET", "/cgi-bin/user/info?access_token="+token, nil)
		return a.status == http.StatusServiceUnavailable && a.get("errcode") == "-1"
	})
	other := r.token(wxtokentest.OtherMerchant.Authorizer, allKey)
	r.k.Revoke(wxtokentest.OtherMerchant)
	r.until("a cancelled account is served", func() bool {
		return r.call("GET", "/cgi-bin/user/info?access_token="+other, nil).get("errcode") == "40001"
	})
	r.until("a cancelled account gets tokens", func() bool {
		return r.call("GET", "/cgi-bin/token?grant_type=client_credential&appid="+wxtokentest.OtherMerchant.Authorizer+"&secret="+allKey, nil).get("errcode") == "40013"
	})
	if calls := r.wechat.take(); len(calls) > 0 {
		t.Errorf("WeChat heard of it: %+v", calls)
	}
}

// TestNATSAway cuts the gateway off: what is in memory goes on, and the answer says so.
func TestNATSAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token(wxtokentest.Merchant.Authorizer, allKey)
	r.nc.Close()
	r.until("it is not noticed", func() bool { return r.g.Ready(t.Context()) != nil })
	a := r.call("GET", "/cgi-bin/user/info?access_token="+token, nil)
	if a.get("errcode") != "0" || a.header.Get("Wxtoken-View") == "" {
		t.Errorf("%d %s %v", a.status, a.body, a.header)
	}
	if a = r.v1(allKey, "GET", "tokens/"+wxtokentest.Merchant.String(), ""); a.status != 200 || a.header.Get("Wxtoken-View") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	unknown := wxtoken.AuthorizerKey(component, "wxnobody").String()
	if a = r.v1(allKey, "GET", "tokens/"+unknown, ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("one that is not in memory: %d %s", a.status, a.body)
	}
	if a = r.v1(allKey, "POST", "tokens/"+wxtokentest.Merchant.String()+"/refused", `{"generation":1}`); a.status != http.StatusServiceUnavailable {
		t.Errorf("a report: %d %s", a.status, a.body)
	}
	r.wechat.take()
	r.ahead.Store(int64(time.Until(r.k.Token(wxtokentest.Merchant).ExpiresAt) + time.Minute))
	if a = r.v1(allKey, "GET", "tokens/"+wxtokentest.Merchant.String(), ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("a token that ended meanwhile: %d %s", a.status, a.body)
	}
	token = r.token(wxtokentest.Merchant.Authorizer, allKey) // one of ours can be had all the same
	if a = r.call("GET", "/cgi-bin/user/info?access_token="+token, nil); a.status != http.StatusServiceUnavailable || a.get("errcode") != "-1" || len(r.wechat.take()) > 0 {
		t.Errorf("a call with a token that ended meanwhile: %d %s", a.status, a.body)
	}
}
