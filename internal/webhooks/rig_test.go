package webhooks

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/internal/events"
	"wxtoken/internal/logtest"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/services"
	"wxtoken/internal/streams/streamstest"
)

const component = "wxc0ffee0000000001"

var secret = []byte("0123456789abcdef0123456789abcdef")

// got is what a receiver got.
type got struct {
	header http.Header
	body   string
	code   int
}

// receiver keeps what it gets, and answers what decide says.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	all    []got
	decide func(body string, header http.Header) (code int, answer string)
}

func newReceiver(t testing.TB, decide func(body string, header http.Header) (int, string)) *receiver {
	t.Helper()
	r := &receiver{decide: decide}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	code, answer := http.StatusOK, ""
	if r.decide != nil {
		code, answer = r.decide(string(body), req.Header)
	}
	if code == 0 {
		panic(http.ErrAbortHandler)
	}
	r.mu.Lock()
	r.all = append(r.all, got{header: req.Header, body: string(body), code: code})
	r.mu.Unlock()
	w.WriteHeader(code)
	_, _ = io.WriteString(w, answer)
}

// accepted returns the bodies that were answered with 2xx, each once, in the order of their first time.
func (r *receiver) accepted() (bodies []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	for _, g := range r.all {
		if g.code/100 == 2 && !seen[g.body] {
			seen[g.body] = true
			bodies = append(bodies, g.body)
		}
	}
	return bodies
}

func (r *receiver) attempts(body string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.all {
		if g.body == body {
			n++
		}
	}
	return n
}

// rig is a NATS with the streams, and a services file.
type rig struct {
	testing.TB
	srv  *natsdtest.Server
	js   jetstream.JetStream
	file string
	n    int
}

func newRig(t testing.TB, srv *natsdtest.Server) *rig {
	t.Helper()
	nc := srv.Connect()
	js := natsdtest.JetStream(t, nc)
	streamstest.Setup(t, nc, js, events.SetupConfig{Replicas: 1, MessagesMaxAge: 7 * 24 * time.Hour})
	return &rig{TB: t, srv: srv, js: js, file: filepath.Join(t.TempDir(), "services.json")}
}

// webhook is one of the services file.
type webhook struct {
	URL      string   `json:"url"`
	Messages []string `json:"messages"`
	Reply    bool     `json:"reply"`
	Secret   string   `json:"secret"`
}

// serve writes the services file: one service that has all accounts of the component, unless others are named.
func (r *rig) serve(hooks []webhook, accounts ...string) {
	r.Helper()
	if len(accounts) == 0 {
		accounts = []string{component + "/*"}
	}
	for i := range hooks {
		hooks[i].Secret = "whsec_" + base64.StdEncoding.EncodeToString(secret)
	}
	text, err := json.Marshal(map[string]any{"services": []any{map[string]any{
		"name": "shop", "keys": []string{"sha256:" + strings.Repeat("ab", 32)}, "accounts": accounts, "may": []string{"component"}, "webhooks": hooks,
	}}})
	if err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(r.file+".new", text, 0o600); err != nil {
		r.Fatal(err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		r.Fatal(err)
	}
}

// gateway is one process's webhooks.
type gateway struct {
	*Webhooks
	reg  *prometheus.Registry
	log  *logtest.Buffer
	stop func()
}

func (r *rig) gateway(changes ...func(*Webhooks)) *gateway {
	r.Helper()
	g := &gateway{reg: prometheus.NewRegistry(), log: &logtest.Buffer{}}
	log := zerolog.New(g.log)
	watch, err := services.Open(r.file, log)
	if err != nil {
		r.Fatal(err)
	}
	g.Webhooks, err = New(Deps{NATS: r.srv.Connect(), Services: watch, Log: log, Metrics: g.reg})
	if err != nil {
		r.Fatal(err)
	}
	for _, change := range changes {
		change(g.Webhooks)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = watch.Run(ctx) })
	running.Go(func() {
		if err := g.Run(ctx); err != nil {
			r.Error(err)
		}
	})
	g.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	r.Cleanup(func() {
		g.stop()
		if r.Failed() {
			r.Logf("log of a gateway:\n%s", g.log)
		}
	})
	return g
}

// ready waits for the consumer of each webhook: what is stored before is not for them.
func (r *rig) ready(n int) (names []string) {
	r.Helper()
	s, err := r.js.Stream(r.Context(), events.StreamMessages)
	if err != nil {
		r.Fatal(err)
	}
	eventually(r, "the consumers of the webhooks", func() bool {
		names = nil
		all := s.ConsumerNames(r.Context())
		for name := range all.Name() {
			names = append(names, name)
		}
		return all.Err() == nil && len(names) == n
	})
	return names
}

// message stores a text of a user.
func (r *rig) message(appid, text string) {
	r.publish(events.MessageSubject(component, appid, "text", ""), appid, text)
}

func (r *rig) publish(subject, about, text string) {
	r.Helper()
	r.n++
	kind, _ := events.ParseKind(subject)
	e := events.Event{Subject: subject, ID: fmt.Sprintf("id-%d", r.n), Source: "/wechat/x", Type: events.TypeOf(kind), About: about, Time: time.Now(), ContentType: "application/xml", Data: []byte(text)}
	if _, err := r.js.PublishMsg(r.Context(), e.Msg()); err != nil {
		r.Fatal(err)
	}
}

// value returns the sum of a metric over the series that have all of the label values.
func (g *gateway) value(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	sum, _ := looktest.Sum(t, g.reg, name, labels...)
	return sum
}

func eventually(t testing.TB, what string, ok func() bool) { t.Helper(); looktest.Until(t, what, ok) }

// ask asks for a reply as ingest does.
func (r *rig) ask(nc *nats.Conn, appid, text string) (string, error) {
	m := nats.NewMsg(events.ReplySubject(component, appid, "text", ""))
	m.Data = []byte(text)
	m.Header.Set("Content-Type", "application/xml")
	m.Header.Set("ce-id", fmt.Sprintf("id-%d", r.n))
	ctx, cancel := context.WithTimeout(r.Context(), 4*time.Second)
	defer cancel()
	answer, err := nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return "", err
	}
	return string(answer.Data), nil
}
