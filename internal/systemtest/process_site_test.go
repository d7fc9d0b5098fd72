//go:build unix

package systemtest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/wechatsim"
)

const (
	// patience is how long a test waits for what is to come. It is long, because a machine may be slow.
	patience = 90 * time.Second
	// pollEvery is the time between two looks.
	pollEvery = 25 * time.Millisecond
)

// poll waits until f returns nil.
func poll(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain: %v", patience, err)
		}
		select {
		case <-time.After(pollEvery):
		case <-t.Context().Done():
			t.Fatal(err)
		}
	}
}

// programs is the folder of the programs.
type programs string

// build builds the programs as an operator does, and the NATS server that go.mod names, once for all tests.
func build(t *testing.T) programs {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return programs(dir)
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "wxtoken-programs-")
	if err != nil {
		return "", err
	}
	atEnd.add(func() { _ = os.RemoveAll(dir) })
	cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
		"wxtoken/cmd/ingest", "wxtoken/cmd/refresher", "wxtoken/cmd/wechatsim", "github.com/nats-io/nats-server/v2")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs: %w\n%s", err, text)
	}
	return dir, nil
})

// site is one deployment on real processes: a NATS server on TCP, the fake platform, a load balancer
// for its pushes, and the ingests and refreshers that the test starts.
type site struct {
	t        *testing.T
	programs programs
	settings []string                 // variables of every ingest and refresher
	nats     *natsdtest.Server        // nil where the test has another one
	url      func(role string) string // of NATS, for ingest, refresher, service and admin
	pushes   *balancer
	api      string // URL of the platform's API
	control  string // URL of the platform's control door
	js       jetstream.JetStream
	nc       *nats.Conn
	accounts int

	processes []*process
}

// newSite starts NATS, the balancer and the platform with so many accounts that authorize by
// themselves, without trouble by chance; flags say more about the platform.
func newSite(t *testing.T, p programs, accounts int, flags ...string) *site {
	t.Helper()
	server := natsdtest.StartTCP(t)
	s := newSiteOn(t, p, func(string) string { return server.ClientURL() }, accounts, flags...)
	s.nats = server
	return s
}

// newSiteOn is newSite on a NATS that runs already.
func newSiteOn(t *testing.T, p programs, natsURL func(role string) string, accounts int, flags ...string) *site {
	t.Helper()
	s := &site{t: t, programs: p, accounts: accounts, url: natsURL, pushes: newBalancer(t)}
	flags = append([]string{
		"--kind", "--addr=127.0.0.1:0", "--control-addr=127.0.0.1:0", "--push-base=http://" + s.pushes.addr(),
		fmt.Sprintf("--authorizers=%d", accounts), "--life=20s", "--ticket-every=2s", "--push-tries=300", "--push-every=100ms",
		"--log-level=debug", "--log-format=json",
	}, flags...)
	sim := s.start("wechatsim", flags)
	poll(t, func() error {
		var found bool
		lines := bufio.NewScanner(strings.NewReader(sim.stderr.String()))
		for lines.Scan() {
			if _, at, ok := strings.Cut(lines.Text(), "WXTOKEN_WECHAT_API_URL="); ok {
				s.api = at
			}
			if _, at, ok := strings.Cut(lines.Text(), "curl "); ok {
				s.control, found = at, true
			}
		}
		if !found {
			return errors.New("the platform has not said where it listens")
		}
		return nil
	})
	s.settings = []string{
		"WXTOKEN_WECHAT_API_URL=" + s.api, "WXTOKEN_API_RATE=1000", "WXTOKEN_RENEW_FRACTION=0.1",
		"WXTOKEN_HTTP_ADDR=127.0.0.1:0", "WXTOKEN_OPS_ADDR=127.0.0.1:0", "WXTOKEN_LOG_LEVEL=debug", "WXTOKEN_LOG_FORMAT=json",
		"WXTOKEN_COMPONENT_APPID=" + wechatsim.DemoAppID, "WXTOKEN_COMPONENT_APPSECRET=" + wechatsim.DemoAppSecret,
		"WXTOKEN_COMPONENT_TOKEN=" + wechatsim.DemoToken, "WXTOKEN_COMPONENT_AES_KEY=" + wechatsim.DemoEncodingAESKey,
	}
	s.nc = s.connect("admin")
	var err error
	if s.js, err = jetstream.New(s.nc); err != nil {
		t.Fatal(err)
	}
	return s
}

// connect returns a connection over TCP, as a service makes it.
func (s *site) connect(role string) *nats.Conn {
	s.t.Helper()
	nc, err := nats.Connect(s.url(role), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.CustomInboxPrefix("_INBOX_"+role), nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// process is one of our programs at work.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	stdout syncBuffer
	stderr syncBuffer
	ended  chan struct{}
}

// start starts a program with variables of its own beside the site's. Its whole output is kept, and
// looked through for secrets when the test ends.
func (s *site) start(program string, flags []string, env ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, name: fmt.Sprintf("%s-%d", program, len(s.processes)), ended: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(string(s.programs), program), flags...)
	p.cmd.Env = append(append(slices.Clone(s.settings), "WXTOKEN_NATS_URL="+s.url(program)), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // its state tells
	}()
	s.processes = append(s.processes, p)
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		said := p.stdout.String()
		if program != "wechatsim" { // its banner is there to show them
			said += p.stderr.String()
		}
		if leak := leaked(said); leak != "" {
			s.t.Errorf("%s shows a secret: %s", p.name, leak)
		}
		if !strings.Contains(said, `"debug"`) && !strings.Contains(said, `"info"`) {
			s.t.Errorf("%s logged nothing: its log was not looked through", p.name)
		}
		if s.t.Failed() {
			s.t.Logf("%s said at last:\n%s", p.name, tail(said, 6000))
		}
	})
	return p
}

// ingest starts an ingest and puts it behind the balancer.
func (s *site) ingest(env ...string) *process {
	s.t.Helper()
	p := s.start("ingest", nil, env...)
	s.pushes.add(p.addr("pushes"))
	return p
}

// refresher starts a refresher.
func (s *site) refresher(env ...string) *process {
	s.t.Helper()
	return s.start("refresher", nil, env...)
}

// addr returns where a server of the process listens.
func (p *process) addr(server string) (addr string) {
	p.t.Helper()
	poll(p.t, func() error {
		for line := range strings.Lines(p.stdout.String()) {
			var said struct{ Msg, Server, Addr string }
			if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "server listening" && said.Server == server {
				addr = said.Addr
				return nil
			}
		}
		select {
		case <-p.ended:
			p.t.Fatalf("%s ended with %v", p.name, p.cmd.ProcessState)
		default:
		}
		return fmt.Errorf("%s does not listen for %s", p.name, server)
	})
	return addr
}

// signal sends a signal.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("send %s to %s: %v", sig, p.name, err)
	}
}

// wait waits for the end of the process.
func (p *process) wait() *os.ProcessState {
	p.t.Helper()
	poll(p.t, func() error {
		select {
		case <-p.ended:
			return nil
		default:
			return fmt.Errorf("%s does not end", p.name)
		}
	})
	return p.cmd.ProcessState
}

// killed waits until the process was ended by SIGKILL.
func (p *process) killed() {
	p.t.Helper()
	if state, ok := p.wait().Sys().(syscall.WaitStatus); !ok || state.Signal() != syscall.SIGKILL {
		p.t.Fatalf("%s ended with %v, want killed", p.name, p.cmd.ProcessState)
	}
}

// kill ends the process with SIGKILL.
func (p *process) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	p.killed()
}

// terminate ends the process with SIGTERM and wants an orderly end.
func (p *process) terminate() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if state := p.wait(); state.ExitCode() != 0 {
		p.t.Errorf("%s ended with %v, want exit code 0", p.name, state)
	}
}

// renewed reports whether the refresher says that it brought a key to a generation.
func (p *process) renewed(key wxtoken.Key, generation uint64) bool {
	for line := range strings.Lines(p.stdout.String()) {
		var said struct {
			Msg, Key   string
			Generation uint64
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "token renewed" && said.Key == key.String() && said.Generation == generation {
			return true
		}
	}
	return false
}

// pause stops the process in the middle of whatever it does.
func (p *process) pause() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
}

// resume lets a paused process go on.
func (p *process) resume() {
	p.t.Helper()
	p.signal(syscall.SIGCONT)
}

// localClient is for addresses of this machine. It keeps no connection, so that none stands in the way
// of an orderly end.
var localClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}

// get returns the answer of the process's operations address.
func (p *process) get(path string) (status int, body string) {
	p.t.Helper()
	return request(p.t, http.MethodGet, "http://"+p.addr("ops")+path, "")
}

func request(t *testing.T, method, to, form string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, to, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := localClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// tell uses a verb of the platform's control door, with a form as for curl -d.
func (s *site) tell(verb, form string) {
	s.t.Helper()
	if status, body := request(s.t, http.MethodPost, s.control+verb, form); status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %s", verb, form, status, body)
	}
}

// history returns what happened at the platform, of some kinds.
func (s *site) history(kinds ...string) (all []wechatsim.Entry) {
	s.t.Helper()
	_, body := request(s.t, http.MethodGet, s.control+"/history?kind="+url.QueryEscape(strings.Join(kinds, ",")), "")
	decoder := json.NewDecoder(strings.NewReader(body))
	for decoder.More() {
		var e wechatsim.Entry
		if err := decoder.Decode(&e); err != nil {
			s.t.Fatalf("history: %v", err)
		}
		all = append(all, e)
	}
	return all
}

// tokenAPIs are the calls that bring a token.
var tokenAPIs = []string{"api_component_token", "api_query_auth", "api_authorizer_token"}

// calls returns the calls of the platform that were to bring a token, by key, oldest first.
func (s *site) calls() map[wxtoken.Key][]wechatsim.Entry {
	s.t.Helper()
	byKey := map[wxtoken.Key][]wechatsim.Entry{}
	for _, e := range s.history("call") {
		if slices.Contains(tokenAPIs, e.API) {
			key := keyOf(e)
			byKey[key] = append(byKey[key], e)
		}
	}
	return byKey
}

func keyOf(e wechatsim.Entry) wxtoken.Key {
	if e.Authorizer == "" {
		return wxtoken.ComponentKey(e.Component)
	}
	return wxtoken.AuthorizerKey(e.Component, e.Authorizer)
}

// keys returns the keys of the component and of the accounts that authorize by themselves.
func (s *site) keys() []wxtoken.Key {
	keys := []wxtoken.Key{wxtoken.ComponentKey(wechatsim.DemoAppID)}
	for i := range s.accounts {
		keys = append(keys, wxtoken.AuthorizerKey(wechatsim.DemoAppID, fmt.Sprintf("wxa%015d", i+1)))
	}
	return keys
}

// stored returns the token in the bucket.
func (s *site) stored(key wxtoken.Key) (wxtoken.Token, error) {
	m, err := s.last(events.StreamTokens, events.TokenSubject(key))
	if err != nil {
		return wxtoken.Token{}, err
	}
	return wxtoken.ParseToken(m.Data)
}

// last returns the last message on a subject.
func (s *site) last(stream, subject string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	m, err := st.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	return m, nil
}

// generations returns the generation of the token of each key, 0 for one without.
func (s *site) generations() map[wxtoken.Key]uint64 {
	out := map[wxtoken.Key]uint64{}
	for _, key := range s.keys() {
		if token, err := s.stored(key); err == nil {
			out[key] = token.Generation
		}
	}
	return out
}

// accepted returns an error unless the bucket has a token of key that the platform accepts.
func (s *site) accepted(key wxtoken.Key) (wxtoken.Token, error) {
	s.t.Helper()
	token, err := s.stored(key)
	if err != nil {
		return token, err
	}
	sum := sha256.Sum256([]byte(token.Value.Reveal()))
	_, body := request(s.t, http.MethodGet, s.control+"/truth?sha256="+hex.EncodeToString(sum[:]), "")
	var truth wechatsim.Judgement
	if err := json.Unmarshal([]byte(body), &truth); err != nil {
		s.t.Fatal(err)
	}
	if !truth.Valid {
		return token, fmt.Errorf("%s: generation %d is not accepted", key, token.Generation)
	}
	return token, nil
}

// allAccepted returns an error unless each key has a token that the platform accepts, of at least the
// given generation beyond those of before.
func (s *site) allAccepted(before map[wxtoken.Key]uint64, beyond uint64) error {
	s.t.Helper()
	for _, key := range s.keys() {
		token, err := s.accepted(key)
		if err != nil {
			return err
		}
		if token.Generation < before[key]+beyond {
			return fmt.Errorf("%s: generation %d, want %d", key, token.Generation, before[key]+beyond)
		}
	}
	return nil
}

// covered returns an error unless the next renewal of each key is bound to come: a schedule or a due
// message for the token that is stored lies in the stream.
func (s *site) covered() error {
	for _, key := range s.keys() {
		token, err := s.stored(key)
		if err != nil {
			return err
		}
		if !s.waits(events.ScheduleSubject(key), token.Generation) && !s.waits(events.DueSubject(key), token.Generation) {
			return fmt.Errorf("%s: nothing will renew generation %d", key, token.Generation)
		}
	}
	return nil
}

// waits reports whether the last message on a subject asks for the token after a generation.
func (s *site) waits(subject string, generation uint64) bool {
	m, err := s.last(events.StreamTokens, subject)
	if err != nil {
		return false
	}
	due, err := events.ParseDue(m.Data)
	return err == nil && due.Generation == generation
}

// makeDue asks for the token after a generation, as an operator may.
func (s *site) makeDue(key wxtoken.Key, generation uint64) {
	s.t.Helper()
	m, err := events.DueMsg(events.Due{Key: key, Generation: generation, Reason: events.ReasonScheduled})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if _, err := s.js.PublishMsg(ctx, m); err != nil {
		s.t.Fatal(err)
	}
}

// idle returns an error while a refresher has a message that it has not acked, or one waits.
func (s *site) idle() error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	for stream, durable := range map[string]string{events.StreamAuth: events.DurableAuth, events.StreamTokens: events.DurableDue} {
		cons, err := s.js.Consumer(ctx, stream, durable)
		if err != nil {
			return err
		}
		if info := cons.CachedInfo(); info.NumPending > 0 || info.NumAckPending > 0 {
			return fmt.Errorf("%s: %d messages wait, %d are at work", durable, info.NumPending, info.NumAckPending)
		}
	}
	return nil
}

// extra returns how many calls for a token brought none that was stored, by key. A call that is under
// way counts until its token is stored. It returns an error when a token was stored meanwhile.
func (s *site) extra() (extra map[wxtoken.Key]int, err error) {
	s.t.Helper()
	before := s.generations()
	calls := s.calls()
	after := s.generations()
	extra = map[wxtoken.Key]int{}
	for _, key := range s.keys() {
		if before[key] != after[key] {
			return nil, fmt.Errorf("%s was renewed meanwhile", key)
		}
		if n := len(calls[key]) - int(after[key]); n > 0 {
			extra[key] = n
		}
	}
	return extra, nil
}

// marks are what a secret is known by: all that the platform issues carries the first, the others
// are the component's own.
var marks = append([]string{
	"SEKRET", wechatsim.DemoAppSecret, wechatsim.DemoToken, wechatsim.DemoEncodingAESKey,
}, inBase64("SEKRET")...)

// inBase64 returns what stands in base64 wherever word stood in the clear: at three offsets.
func inBase64(word string) (all []string) {
	for offset := range 3 {
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x00", offset) + word))
		// The first and last characters depend on what stands beside the word.
		first, whole := (offset*8+5)/6, (offset+len(word))*8/6
		all = append(all, text[first:whole])
	}
	return all
}

// leaked returns the line of a text that shows a secret, or "".
func leaked(text string) string {
	for line := range strings.Lines(text) {
		if slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(line, mark) }) {
			return line
		}
	}
	return ""
}

// balancer is a load balancer for TCP: each connection goes to the next of the backends that takes it.
type balancer struct {
	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	backends []string
	conns    map[net.Conn]bool
	closed   bool
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{listener: listener, conns: map[net.Conn]bool{}}
	b.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.running.Go(func() { b.serve(conn) })
		}
	})
	t.Cleanup(func() {
		b.mu.Lock()
		b.closed = true
		_ = listener.Close()
		for conn := range b.conns {
			_ = conn.Close()
		}
		b.mu.Unlock()
		b.running.Wait()
	})
	return b
}

func (b *balancer) addr() string { return b.listener.Addr().String() }

// add puts a backend behind the others. It stays until it takes no more connections.
func (b *balancer) add(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = append(b.backends, addr)
}

// next takes the next backend, which becomes the last.
func (b *balancer) next() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.backends) == 0 {
		return ""
	}
	first := b.backends[0]
	b.backends = append(b.backends[1:], first)
	return first
}

func (b *balancer) remove(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = slices.DeleteFunc(b.backends, func(a string) bool { return a == addr })
}

// keep notes a connection that is to be closed when the test ends. It is closed at once after that.
func (b *balancer) keep(conn net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns[conn] = true
	if b.closed {
		_ = conn.Close()
	}
}

func (b *balancer) drop(conn net.Conn) {
	_ = conn.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, conn)
}

// serve carries one connection.
func (b *balancer) serve(client net.Conn) {
	b.keep(client)
	defer b.drop(client)
	for backend := b.next(); backend != ""; backend = b.next() {
		server, err := net.Dial("tcp", backend)
		if err != nil {
			b.remove(backend)
			continue
		}
		b.keep(server)
		b.running.Go(func() {
			_, _ = io.Copy(server, client)
			b.drop(server)
		})
		_, _ = io.Copy(client, server)
		b.drop(server)
		return
	}
}

// readings is what a service sees that asks its Client for every key, every 20 ms.
type readings struct {
	s      *site
	client *wxtoken.Client
	stop   func()

	mu       sync.Mutex
	late     time.Duration // how late a renewal came at most
	renewals int
	last     map[string]time.Time // when a value was last read, by the platform's fingerprint of it
	faults   []string
}

// read starts a reader once every key has a token.
func (s *site) read() *readings {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	client, err := wxtoken.NewClient(ctx, s.connect("service"), wxtoken.Config{Keys: s.keys()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(client.Close)
	r := &readings{s: s, client: client, last: map[string]time.Time{}}
	ctx, cancel = context.WithCancel(context.Background())
	var reading sync.WaitGroup
	reading.Go(func() { r.run(ctx) })
	r.stop = func() { cancel(); reading.Wait() }
	s.t.Cleanup(r.stop)
	return r
}

func (r *readings) run(ctx context.Context) {
	newest := map[wxtoken.Key]wxtoken.Token{}
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for {
		for _, key := range r.s.keys() {
			now := time.Now()
			token, err := r.client.Token(key)
			r.mu.Lock()
			switch {
			case err != nil:
				r.faults = append(r.faults, fmt.Sprintf("%s: %v", now.UTC().Format(time.TimeOnly), err))
			case token.Generation < newest[key].Generation:
				r.faults = append(r.faults, fmt.Sprintf("generation of %s went from %d to %d", key, newest[key].Generation, token.Generation))
			default:
				if old := newest[key]; old.Generation > 0 && token.Generation == old.Generation+1 {
					r.renewals++
					r.late = max(r.late, token.ObtainedAt.Sub(old.RenewAt))
				}
				newest[key] = token
				r.last[wechatsim.Fingerprint(token.Value.Reveal())] = now
			}
			r.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// saw reports whether a value was read, by the platform's fingerprint of it.
func (r *readings) saw(fingerprint string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.last[fingerprint]
	return ok
}

// check ends the reading and fails the test if one read failed, or gave a token that the platform
// no longer accepted at that moment.
func (r *readings) check() {
	r.s.t.Helper()
	r.stop()
	until := map[string]time.Time{}
	for _, e := range r.s.history("issue", "invalidate") {
		if end, known := until[e.Secret]; !known || e.ValidUntil.Before(end) {
			until[e.Secret] = e.ValidUntil
		}
	}
	for fingerprint, at := range r.last {
		if end := until[fingerprint]; !at.Before(end) {
			r.faults = append(r.faults, fmt.Sprintf("a token that was good until %s was read at %s", end.Format(time.StampMilli), at.UTC().Format(time.StampMilli)))
		}
	}
	if len(r.faults) > 0 {
		r.s.t.Errorf("%d reads of %d tokens were bad: %s", len(r.faults), len(r.last), strings.Join(r.faults[:min(len(r.faults), 10)], "; "))
	}
	if len(r.last) == 0 {
		r.s.t.Error("nothing was read")
	}
}

// eventsOf returns how often each document lies on MESSAGES, by the platform's fingerprint of it.
func (s *site) eventsOf() (count map[string]int) {
	s.t.Helper()
	poll(s.t, func() (err error) { // a server that has just come back may not be asked yet
		count, err = s.countEvents()
		return err
	})
	return count
}

func (s *site) countEvents() (map[string]int, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cons, err := s.js.CreateConsumer(ctx, events.StreamMessages, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Minute})
	if err != nil {
		return nil, err
	}
	time.Sleep(pollEvery) // until all servers know it
	messages, err := cons.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	count := map[string]int{}
	for left := cons.CachedInfo().NumPending; left > 0; {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", events.StreamMessages, err)
		}
		count[wechatsim.Fingerprint(string(m.Data()))]++
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		left = meta.NumPending
	}
	return count, nil
}

// lastSequence returns how many messages a stream has taken.
func (s *site) lastSequence(stream string) uint64 {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		s.t.Fatal(err)
	}
	return st.CachedInfo().State.LastSeq
}
