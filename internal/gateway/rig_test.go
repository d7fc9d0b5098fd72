package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/gateway"
	"wxtoken/internal/logtest"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/serve"
	"wxtoken/internal/services"
	"wxtoken/wxtokentest"
)

// TestMain is also a process with many streams of events open, for the benchmark.
func TestMain(m *testing.M) {
	if address := os.Getenv("FOLLOW"); address != "" {
		followMany(address)
		return
	}
	natsdtest.Main(m, 8)
}

// nop is a log that nobody reads.
var nop = zerolog.Nop()

// patience bounds what a test waits for. It is long, because a machine may be slow.
const patience = time.Minute

// The keys of the services of a rig.
const (
	shopKey  = "shop-key-SEKRET"  // relays for Merchant alone
	allKey   = "all-key-SEKRET"   // everything for the whole component
	realKey  = "real-key-SEKRET"  // WeChat's own tokens
	tokenKey = "token-key-SEKRET" // tokens alone
	narrow   = "narrow-SEKRET"    // some APIs alone
)

var component = wxtokentest.Component.Component

// file is the services file of a rig.
func file() string {
	entry := func(name, key, accounts, may, more string) string {
		return fmt.Sprintf(`{"name":%q,"keys":[%q],"accounts":[%q],"may":[%s]%s}`, name, services.Digest(key), accounts, may, more)
	}
	return `{"services":[` + strings.Join([]string{
		entry("shop", shopKey, component+"/"+wxtokentest.Merchant.Authorizer, `"relay","events","accounts","links"`, ""),
		entry("all", allKey, component+"/*", `"relay","component","links","accounts","events"`, ""),
		entry("real", realKey, component+"/*", `"token","real","component"`, ""),
		entry("tokens", tokenKey, component+"/*", `"token"`, ""),
		entry("narrow", narrow, component+"/*", `"relay"`, `,"apis":["/cgi-bin/user/"]`),
	}, ",") + `]}`
}

// rig is a gateway before a wxtoken, and behind it a WeChat that the test plays.
type rig struct {
	testing.TB
	k       *wxtokentest.Keeper
	g       *gateway.Gateway
	nc      *nats.Conn
	url     string
	file    string // the services file
	log     *logtest.Buffer
	metrics *prometheus.Registry
	wechat  *wechat
	http    *http.Client
	ahead   atomic.Int64 // by how much its clock is, in nanoseconds
	stop    func()       // ends the gateway, as SIGTERM does, and fails the test where that is not in order
}

// newRig starts all. change may set up the gateway in another way.
func newRig(t testing.TB, change ...func(*gateway.Config)) *rig {
	t.Helper()
	r := &rig{TB: t, k: wxtokentest.New(t), log: &logtest.Buffer{}, metrics: prometheus.NewRegistry(), wechat: &wechat{}}
	r.nc = r.k.Connect(nats.UserInfo("gateway", "gateway"), nats.CustomInboxPrefix("_INBOX_gateway"))
	r.wechat.rig = r
	far := httptest.NewServer(r.wechat)
	t.Cleanup(far.Close)
	r.wechat.url = far.URL
	r.file = filepath.Join(t.TempDir(), "services.json")
	r.write(file())
	log := zerolog.New(r.log)
	if _, measured := t.(*testing.B); measured { // a file, as in production
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		r.must(err)
		t.Cleanup(func() { _ = null.Close() })
		log = zerolog.New(null)
	}
	watch, err := services.Open(r.file, log)
	r.must(err)
	signer, err := gateway.ReadSigner(strings.NewReader(gateway.MakeTokenKey()))
	r.must(err)
	cfg := gateway.Config{RetryBody: 1 << 20, MaxBody: 16 << 20}
	for _, f := range change {
		f(&cfg)
	}
	r.g, err = gateway.New(cfg, gateway.Deps{
		NATS: r.nc, Services: watch, Signer: signer, WeChat: far.URL, Log: log, Metrics: r.metrics, Figures: r.metrics,
		Now: func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) },
	})
	r.must(err)
	door, err := serve.Listen("gateway", "127.0.0.1:0", r.g.Handler(), log, serve.NewMetrics(), serve.MaxConns(gateway.MaxConns), serve.OnShutdown(r.g.EndStreams))
	r.must(err)
	r.url = "http://" + door.Addr()
	r.http = &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ctx, stop := context.WithCancel(context.Background())
	served, end := context.WithCancel(context.Background())
	run := func(ctx context.Context, part func(context.Context) error) {
		if err := part(ctx); err != nil {
			t.Error(err)
		}
	}
	var running sync.WaitGroup
	running.Go(func() { run(served, r.g.Run) })
	running.Go(func() { run(ctx, watch.Run) })
	running.Go(func() {
		defer end()
		run(ctx, door.Run)
	})
	r.stop = func() {
		stop()
		running.Wait()
	}
	t.Cleanup(func() {
		r.http.CloseIdleConnections()
		r.stop()
		if text := r.log.String(); strings.Contains(text, "SEKRET") {
			t.Errorf("a secret is in the log: %s", text)
		}
	})
	r.until("the gateway is not ready", func() bool { return r.g.Ready(ctx) == nil })
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) until(what string, ok func() bool) { r.Helper(); looktest.Until(r, what, ok) }

// write writes the services file, as an editor does: whole.
func (r *rig) write(text string) {
	r.Helper()
	next := r.file + ".next"
	r.must(os.WriteFile(next, []byte(text), 0o600))
	r.must(os.Rename(next, r.file))
}

// answer is what the gateway answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// get returns a field of the JSON in the body, as text.
func (a answer) get(name string) string {
	var fields map[string]any
	if json.Unmarshal(a.body, &fields) != nil || fields[name] == nil {
		return ""
	}
	if f, is := fields[name].(float64); is {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprint(fields[name])
}

// call makes a request to the gateway. path may have a query; headers come in pairs.
func (r *rig) call(method, path string, body []byte, headers ...string) answer {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), method, r.url+path, bytes.NewReader(body))
	r.must(err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return r.do(req)
}

func (r *rig) do(req *http.Request) answer {
	r.Helper()
	res, err := r.http.Do(req)
	r.must(err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	r.must(err)
	return answer{res.StatusCode, res.Header, text}
}

// v1 makes a request to /v1 as a service.
func (r *rig) v1(key, method, path, body string) answer {
	r.Helper()
	return r.call(method, "/v1/"+path, []byte(body), "Authorization", "Bearer "+key)
}

// token gets a token as an SDK does.
func (r *rig) token(appid, secret string) string {
	r.Helper()
	a := r.call("GET", "/cgi-bin/token?grant_type=client_credential&appid="+appid+"&secret="+secret, nil)
	token := a.get("access_token")
	if a.status != 200 || token == "" || a.get("expires_in") != "7200" {
		r.Fatalf("no token: %d %s", a.status, a.body)
	}
	return token
}

// componentToken gets one of the component.
func (r *rig) componentToken() string {
	r.Helper()
	a := r.call("POST", "/cgi-bin/component/api_component_token",
		fmt.Appendf(nil, `{"component_appid":%q,"component_appsecret":%q,"component_verify_ticket":"any"}`, component, allKey))
	if a.get("component_access_token") == "" {
		r.Fatalf("no component token: %s", a.body)
	}
	return a.get("component_access_token")
}

// raw sends bytes to the gateway, which are all that it ever sends if it ends with them, and returns the answer.
func (r *rig) raw(text string, ends bool) string {
	r.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	r.must(err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, text)
	r.must(err)
	if ends {
		r.must(conn.(*net.TCPConn).CloseWrite())
	}
	r.must(conn.SetReadDeadline(time.Now().Add(patience)))
	got, _ := io.ReadAll(conn)
	return string(got)
}

// seen is a call that reached WeChat.
type seen struct {
	method, path, query, body string
	header                    http.Header
	length                    int64
}

// wechat is a WeChat that is strict about tokens. A test may answer otherwise.
type wechat struct {
	rig *rig
	url string

	mu    sync.Mutex
	calls []seen
	other func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
}

// ServeHTTP answers a call.
func (f *wechat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	other := f.other
	f.mu.Unlock()
	if other != nil && other(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller has gone
	}
	f.mu.Lock()
	f.calls = append(f.calls, seen{r.Method, r.URL.Path, r.URL.RawQuery, string(body), r.Header.Clone(), r.ContentLength})
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	q := r.URL.Query()
	value := wxtoken.NewSecret(q.Get("access_token") + q.Get("component_access_token"))
	for _, key := range []wxtoken.Key{wxtokentest.Component, wxtokentest.Merchant, wxtokentest.OtherMerchant} {
		if f.rig.k.Accepts(wxtoken.Token{Key: key, Value: value}) {
			_, _ = fmt.Fprintf(w, `{"errcode":0,"errmsg":"ok","for":%q,"length":%d}`, key, len(body))
			return
		}
	}
	_, _ = io.WriteString(w, `{"errcode":40001,"errmsg":"invalid credential, access_token is invalid or not latest rid: 6347bd0e-0f2a5d7a-1a1a1a1a"}`)
}

// answer has WeChat answer in another way from now on; nil: as ever.
func (f *wechat) answer(other func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.other = other
}

// take returns the calls since it was last asked.
func (f *wechat) take() []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}
