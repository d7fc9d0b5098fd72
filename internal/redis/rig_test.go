package redis

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/logtest"
	"wxtoken/internal/looktest"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/services"
	"wxtoken/internal/store"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 8) }

// within bounds what a test waits for. It is long, because a machine may be slow.
const within = time.Minute

const (
	component = "wx00000000000000c1"
	other     = "wx00000000000000c2"
	shopID    = "wx00000000000000a1"
	hotelID   = "wx00000000000000a2"
)

var (
	shop  = wxtoken.AuthorizerKey(component, shopID)
	hotel = wxtoken.AuthorizerKey(component, hotelID)
	own   = wxtoken.ComponentKey(component)
)

// redisServer is a Redis server of a test.
type redisServer struct {
	t    testing.TB
	port string
	conf []string // lines of its configuration
	dir  string
	cmd  *exec.Cmd
}

// startRedis starts a redis-server on a free port, or skips the test where there is none.
func startRedis(t testing.TB, conf ...string) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("no redis-server on the PATH: this test is skipped (Debian has it in the package redis-server)")
	}
	s := &redisServer{t: t, conf: conf, dir: t.TempDir()}
	t.Cleanup(s.kill)
	for range 10 { // one of a cluster wants the port that is 10,000 above, too
		if s.port = strconv.Itoa(natsdtest.FreePort(t)); s.start() {
			return s
		}
	}
	t.Fatal("redis-server does not start")
	return nil
}

// start starts the server on its port. It reports whether it answers.
func (s *redisServer) start() bool {
	s.t.Helper()
	lines := append([]string{"port " + s.port, "bind 127.0.0.1", `save ""`, "dir " + s.dir}, s.conf...)
	file := filepath.Join(s.dir, "redis.conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	args := []string{file}
	if slices.ContainsFunc(s.conf, func(line string) bool { return strings.HasPrefix(line, "sentinel ") }) {
		args = append(args, "--sentinel")
	}
	s.cmd = exec.Command("redis-server", args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func(cmd *exec.Cmd) { _ = cmd.Wait(); close(ended) }(s.cmd)
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended: // the port was taken meanwhile
			return false
		default:
		}
		_, err := s.try("PING")
		if _, answered := errors.AsType[redis.Error](err); err == nil || answered {
			return true
		}
	}
	return false
}

func (s *redisServer) address() string { return "127.0.0.1:" + s.port }
func (s *redisServer) url() string     { return "redis://" + s.address() + "/0" }

// kill ends the server as a power cut does.
func (s *redisServer) kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
	}
}

// do runs a command.
func (s *redisServer) do(name string, args ...any) any {
	s.t.Helper()
	answer, err := s.try(name, args...)
	if err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	return answer
}

func (s *redisServer) try(name string, args ...any) (any, error) {
	conn, err := redis.Dial("tcp", s.address(), redis.DialConnectTimeout(5*time.Second), redis.DialReadTimeout(5*time.Second))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return conn.Do(name, args...)
}

// get returns what lies under a key, "" for nothing.
func (s *redisServer) get(key string) string {
	text, _ := redis.String(s.try("GET", key))
	return text
}

// names returns the keys that are not marks and the like.
func (s *redisServer) names() []string {
	all, _ := redis.Strings(s.try("KEYS", "*"))
	var out []string
	for _, key := range all {
		if !strings.HasPrefix(key, markPrefix) {
			out = append(out, key)
		}
	}
	return out
}

// platform is NATS with the buckets.
type platform struct {
	t    testing.TB
	nats *natsdtest.Server
	js   jetstream.JetStream
}

func newPlatform(t testing.TB) *platform {
	t.Helper()
	p := &platform{t: t, nats: natsdtest.Start(t)}
	js := natsdtest.JetStream(t, p.nats.Connect())
	p.js = js
	for _, bucket := range []string{"tokens", "status"} {
		config := jetstream.StreamConfig{
			Name: "KV_" + bucket, Subjects: []string{"$KV." + bucket + ".>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld,
			AllowDirect: true, AllowRollup: true, DenyDelete: true,
		}
		if _, err := js.CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// value is the n-th token of a key.
func value(key wxtoken.Key, n uint64) string { return fmt.Sprintf("%d_SECRET_%s", n, key) }

// token is the n-th token of a key, obtained at a time, good for two hours.
func token(key wxtoken.Key, n uint64, at time.Time) wxtoken.Token {
	return wxtoken.Token{
		Key: key, Value: wxtoken.NewSecret(value(key, n)), Generation: n,
		ObtainedAt: at, ExpiresAt: at.Add(2 * time.Hour), RenewAt: at.Add(80 * time.Minute),
	}
}

// put stores the n-th token of each key, as if obtained now.
func (p *platform) put(n uint64, keys ...wxtoken.Key) {
	p.t.Helper()
	for _, key := range keys {
		p.store(token(key, n, time.Now()))
	}
}

func (p *platform) store(token wxtoken.Token) {
	p.t.Helper()
	record, err := store.TokenRecord(token)
	if err != nil {
		p.t.Fatal(err)
	}
	p.publish(&nats.Msg{Subject: "$KV.tokens." + token.Key.String(), Data: record})
}

// cancel removes the token of a key.
func (p *platform) cancel(key wxtoken.Key) {
	p.t.Helper()
	msg := nats.NewMsg("$KV.tokens." + key.String())
	msg.Header.Set("KV-Operation", "DEL")
	p.publish(msg)
}

// storeRef stores a status of an account with a ref.
func (p *platform) storeRef(key wxtoken.Key, ref string) {
	p.t.Helper()
	status := wxtoken.Status{Key: key, State: wxtoken.StateActive, Authorizer: &wxtoken.Authorizer{Ref: ref}}
	record, err := json.Marshal(status)
	if err != nil {
		p.t.Fatal(err)
	}
	p.publish(&nats.Msg{Subject: "$KV.status." + key.String(), Data: record})
}

func (p *platform) publish(msg *nats.Msg) {
	p.t.Helper()
	if _, err := p.js.PublishMsg(p.t.Context(), msg); err != nil {
		p.t.Fatal(err)
	}
}

// rig is a writer that runs.
type rig struct {
	*testing.T
	*platform
	redis    *redisServer
	file     string // the services file
	log      *logtest.Buffer
	registry *prometheus.Registry
	client   *wxtoken.Client
	end      func()
}

// service is a service with the right real.
func service(accounts string, rights ...string) string {
	return fmt.Sprintf(`{"name":"shop","keys":["sha256:%064d"],"accounts":[%s],"may":["token","%s"]}`, 1, accounts, strings.Join(append(rights, "real"), `","`))
}

// start runs a writer with some services. Changes come before it runs.
func start(t *testing.T, p *platform, redis *redisServer, format, services string, changes ...func(*Writer)) *rig {
	t.Helper()
	return startAt(t, p, redis, redis.url(), format, services, changes...)
}

func startAt(t *testing.T, p *platform, server *redisServer, url, format, entries string, changes ...func(*Writer)) *rig {
	t.Helper()
	r := &rig{T: t, platform: p, redis: server, file: filepath.Join(t.TempDir(), "services.json"), log: &logtest.Buffer{}, registry: prometheus.NewRegistry()}
	r.serve(entries)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, p.nats.Connect(), wxtoken.Config{Accounts: true})
	if err != nil {
		t.Fatal(err)
	}
	r.client = client
	log := zerolog.New(r.log)
	watch, err := services.Open(r.file, log)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{RedisURL: wxtoken.NewSecret(url), RedisFormat: strings.Split(format, ",")}
	w, err := New(cfg, client, watch, log, r.registry, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range changes {
		change(w)
	}
	run, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = watch.Run(run) })
	running.Go(func() {
		if err := w.Run(run); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	r.end = sync.OnceFunc(func() { stop(); running.Wait(); client.Close() })
	t.Cleanup(func() {
		r.end()
		if text := r.log.String(); strings.Contains(text, "SECRET") {
			t.Errorf("a token, or the password, stands in the log:\n%s", text)
		}
	})
	return r
}

// serve writes the services file.
func (r *rig) serve(entries string) {
	r.Helper()
	whole := r.file + ".new"
	if err := os.WriteFile(whole, []byte(`{"services":[`+entries+`]}`), 0o600); err != nil {
		r.Fatal(err)
	}
	if err := os.Rename(whole, r.file); err != nil {
		r.Fatal(err)
	}
}

// awaitKey waits until something lies under a key; "" is nothing.
func (r *rig) awaitKey(key, want string) {
	r.Helper()
	r.await(fmt.Sprintf("%q under %s", want, key), func() bool { return r.redis.get(key) == want })
}

// awaitMetric waits until a metric has a value.
func (r *rig) awaitMetric(name string, want float64) {
	r.Helper()
	r.await(fmt.Sprintf("%s %v", name, want), func() bool { return r.metric(name) == want })
}

// metric returns the value of a gauge, or of a counter by its outcome.
func (r *rig) metric(name string, outcome ...string) float64 {
	r.Helper()
	sum, series := looktest.Sum(r, r.registry, name, outcome...)
	if series == 0 {
		r.Fatalf("no metric %s %s", name, outcome)
	}
	return sum
}

func (r *rig) await(what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("not in time: %s\nkeys: %q\nlog:\n%s", what, r.redis.names(), r.log.String())
		}
	}
}

// checkOften shortens the time between checks and between passes.
func checkOften(w *Writer) { w.lookEvery, w.passEvery = 20*time.Millisecond, 50*time.Millisecond }

// wxjavaKey is the key of an authorizer in WxJava.
func wxjavaKey(key wxtoken.Key) string {
	return cmp.Or(map[wxtoken.Kind]string{
		wxtoken.KindComponent: "wechat_component_access_token:" + key.Component,
	}[key.Kind], "wechat_authorizer_access_token:"+key.Component+":"+key.Authorizer)
}
