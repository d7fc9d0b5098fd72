package serve_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wxtoken/internal/logtest"
	"wxtoken/internal/serve"
	"wxtoken/internal/settings"
)

// listen runs a server for handler until the test ends, and returns its base URL and its end.
func listen(t *testing.T, handler http.Handler, m *serve.Metrics, options ...serve.Option) (base string, log *logtest.Buffer, end func() error) {
	t.Helper()
	logger, log := logtest.New()
	s, err := serve.Listen("test", "127.0.0.1:0", handler, logger, m, options...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var result error
	done := false
	end = func() error {
		if !done {
			done = true
			cancel()
			result = <-ended
		}
		return result
	}
	t.Cleanup(func() { _ = end() })
	return "http://" + s.Addr(), log, end
}

// ask makes a request on a connection of its own.
func ask(t *testing.T, method, url string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(content)
}

func TestOpsPages(t *testing.T) {
	t.Parallel()
	var h serve.Health
	h.Check("good", func(context.Context) error { return nil })
	broken := errors.New("nats://u:SEKRET@host is away")
	var fails error
	h.Check("sometimes", func(context.Context) error { return fails })
	m := serve.NewMetrics()
	root := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("console")) })
	base, _, _ := listen(t, serve.OpsHandler(&h, m, root), m)
	expect := func(method, path string, status int, want ...string) {
		t.Helper()
		got, body := ask(t, method, base+path)
		if got != status {
			t.Errorf("%s %s: %d, want %d", method, path, got, status)
		}
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s %s: %q is missing in %q", method, path, w, body)
			}
		}
		if strings.Contains(body, "SEKRET") {
			t.Errorf("%s %s shows a secret: %s", method, path, body)
		}
	}
	expect("GET", "/healthz", 200, "ok")
	expect("HEAD", "/healthz", 200)
	expect("GET", "/readyz", 200, `{"ready":true}`)
	expect("HEAD", "/readyz", 200)
	expect("GET", "/metrics", 200, `wxtoken_build_info{commit=`, "go_goroutines", "process_start_time_seconds", `wxtoken_panics_total{where="test"} 0`)
	expect("HEAD", "/metrics", 200)
	expect("GET", "/", 200, "console")
	fails = broken
	expect("GET", "/readyz", 503, `{"ready":false,"failing":{"sometimes":"nats://[redacted]@host is away"}}`)
	fails = nil
	expect("GET", "/readyz", 200)
	h.SetDraining()
	expect("GET", "/readyz", 503, `"draining"`)
	expect("GET", "/healthz", 200)

	bare, _, _ := listen(t, serve.OpsHandler(&h, m, nil), m)
	base = bare
	expect("GET", "/", 404)
	expect("POST", "/healthz", 405)
}

func TestACheckHasASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var h serve.Health
		h.Check("hangs", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		h.Check("good", func(ctx context.Context) error { return ctx.Err() })
		began := time.Now()
		failing := h.Failing(t.Context())
		if len(failing) != 1 || failing["hangs"] == "" || time.Since(began) != time.Second {
			t.Fatalf("after %v: %v", time.Since(began), failing)
		}
	})
}

func TestDrainSaysSoBeforeItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var h serve.Health
		ctx, cancel := context.WithCancel(t.Context())
		late, stop := h.Drain(ctx, time.Second)
		defer stop()
		cancel()
		synctest.Wait()
		if h.Failing(t.Context())["draining"] == "" || late.Err() != nil {
			t.Fatalf("at the signal: %v, %v", h.Failing(t.Context()), late.Err())
		}
		began := time.Now()
		<-late.Done()
		if time.Since(began) != time.Second {
			t.Fatalf("the server went on for %v, want 1s", time.Since(began))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var h serve.Health
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		late, stop := h.Drain(ctx, time.Second)
		stop()
		if late.Err() == nil || h.Failing(t.Context())["draining"] != "" {
			t.Fatal("stop did not end it, or made the process drain")
		}
	})
}

func TestAddressTakenIsKnownAtOnce(t *testing.T) {
	t.Parallel()
	base, _, _ := listen(t, http.NotFoundHandler(), serve.NewMetrics())
	log, _ := logtest.New()
	_, err := serve.ListenOps(settings.Operations{OpsAddr: strings.TrimPrefix(base, "http://")}, &serve.Health{}, serve.NewMetrics(), nil, log)
	if err == nil || !strings.Contains(err.Error(), "listen for ops: ") {
		t.Fatalf("got %v", err)
	}
}

func TestExposedOpsAddressIsWarnedOf(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{"127.0.0.1:0": false, "[::ffff:127.0.0.1]:0": false, "localhost:0": false, "0.0.0.0:0": true, ":0": true} {
		s := settings.Operations{OpsAddr: addr, LogLevel: "info", LogFormat: "auto"}
		if refused := s.Validate() != nil; refused != want {
			t.Errorf("%s refused: %v, want %v", addr, refused, want)
		}
		s.OpsExpose = true
		if err := s.Validate(); err != nil {
			t.Errorf("%s with --ops-expose: %v", addr, err)
		}
		log, out := logtest.New()
		server, err := serve.ListenOps(s, &serve.Health{}, serve.NewMetrics(), nil, log)
		if err != nil {
			t.Fatal(err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := server.Run(ended); err != nil {
			t.Error(err)
		}
		if strings.Contains(out.String(), "operations exposed") != want {
			t.Errorf("%s: log %s", addr, out)
		}
	}
}

func TestAPanicCostsOneAnswer(t *testing.T) {
	t.Parallel()
	m := serve.NewMetrics()
	mux := http.NewServeMux()
	mux.HandleFunc("/value", func(http.ResponseWriter, *http.Request) { panic("SEKRET") })
	mux.HandleFunc("/index", func(_ http.ResponseWriter, r *http.Request) { _ = r.URL.Path[len(r.URL.Path)] })
	mux.HandleFunc("/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.Handle("/", serve.OpsHandler(&serve.Health{}, m, nil))
	base, log, _ := listen(t, mux, m)
	for _, path := range []string{"/value", "/index"} {
		if status, body := ask(t, "GET", base+path); status != 500 || body != "" {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if res, err := http.Get(base + "/abort"); err == nil {
		_ = res.Body.Close()
		t.Errorf("an aborted answer came: %d", res.StatusCode)
	}
	if _, body := ask(t, "GET", base+"/metrics"); !strings.Contains(body, `wxtoken_panics_total{where="test"} 2`) {
		t.Errorf("panics are not counted:\n%s", body)
	}
	for _, want := range []string{`"panic":"string"`, "index out of range", `"msg":"handler panicked"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is missing in the log:\n%s", want, log)
		}
	}
	if strings.Contains(log.String(), "SEKRET") {
		t.Errorf("the value of a panic is in the log:\n%s", log)
	}
}

func TestShutdownLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	base, _, end := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = w.Write([]byte("finished"))
	}), serve.NewMetrics())
	answer := make(chan string, 1)
	go func() {
		res, err := http.Get(base)
		if err != nil {
			answer <- err.Error()
			return
		}
		body, err := io.ReadAll(res.Body)
		answer <- string(body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			t.Error(err)
		}
	}()
	<-entered
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	for { // until the listener is closed: shutdown has begun
		conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			break
		}
		_ = conn.Close()
	}
	close(release)
	if body := <-answer; body != "finished" {
		t.Errorf("answer: %q", body)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestACrowdOfSilentConnections opens far more connections than the server keeps, and then asks.
func TestACrowdOfSilentConnections(t *testing.T) {
	t.Parallel()
	const crowd = 700 // the limit is 512
	base, _, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("served")) }), serve.NewMetrics())
	for range crowd {
		conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	if status, body := ask(t, "GET", base); status != 200 || body != "served" {
		t.Fatalf("%d %q", status, body)
	}
}

func TestHeadersHaveALimit(t *testing.T) {
	t.Parallel()
	base, _, _ := listen(t, http.NotFoundHandler(), serve.NewMetrics())
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 16<<10)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Fatalf("status %d, want 431", res.StatusCode)
	}
}
