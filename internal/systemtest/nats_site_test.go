//go:build unix

package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/wechatsim"
)

// natsServer is a process of its own: the server that go.mod names, with a file of deploy/nats and one user more, who may do everything
// where the streams are.
type natsServer struct {
	t       *testing.T
	name    string
	host    string
	port    int // for clients
	monitor int
	binary  string
	dir     string
	in      []string // the command before it
	whole   []string // the whole command, where it runs in a machine of its own
	bare    bool     // started without deploy/nats/before-start
	env     []string // what differs from the passwords secret-of-<user>
	cmd     *exec.Cmd
	ended   chan struct{}
	out     *syncBuffer
}

// users are those of the settings.
var users = []string{"ingest", "refresher", "service", "gateway", "console", "operator", "backup"}

// The files of deploy/nats that say who may do what.
const (
	inAccounts = "nats-server.conf"
	oneAccount = "single-account.conf"
)

// newNATS returns servers with all users in one account, not started yet: one alone, or a cluster. hosts are their addresses; changes
// are made to the settings, each word and what takes its place.
func newNATS(t *testing.T, p programs, hosts []string, changes ...string) (all []*natsServer) {
	t.Helper()
	shipped := shippedConf(t, oneAccount)
	var routes, ports []string
	for i, host := range hosts {
		s := &natsServer{t: t, name: fmt.Sprintf("nats-%d", i+1), host: host, port: natsdtest.FreePort(t), monitor: natsdtest.FreePort(t),
			binary: filepath.Join(string(p), "nats-server"), dir: t.TempDir(), out: &syncBuffer{}}
		ports = append(ports, strconv.Itoa(natsdtest.FreePort(t)))
		routes = append(routes, "nats://"+net.JoinHostPort(host, ports[i]))
		all = append(all, s)
	}
	for i, s := range all {
		replacer := append([]string{
			"\n  users: [", "\n  users: [\n    {user: admin, password: secret-of-admin}",
		}, changes...)
		conf := strings.NewReplacer(replacer...).Replace(shipped)
		if len(hosts) > 1 {
			conf += fmt.Sprintf("\ncluster {name: wxtoken, listen: \"%s:%s\", routes: [%s], ping_interval: 2s, ping_max: 2}\n", s.host, ports[i], strings.Join(routes, ", "))
		}
		s.write(conf)
		t.Cleanup(func() {
			s.kill()
			if t.Failed() {
				t.Logf("%s said at last:\n%s", s.name, tail(s.out.String(), 3000))
			}
		})
	}
	return all
}

// shippedConf returns a file of deploy/nats.
func shippedConf(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/nats/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "sync_interval: always") {
		t.Fatalf("deploy/nats/%s does not flush each message", file)
	}
	return string(text)
}

// inAccounts gives the server the settings with an account for each side, and changes in them.
func (n *natsServer) inAccounts(changes ...string) {
	n.t.Helper()
	const first = "users: [\n      {\n        # Makes and updates streams"
	text := shippedConf(n.t, inAccounts)
	if !strings.Contains(text, first) {
		n.t.Fatalf("no users of KEEPER in %s", inAccounts)
	}
	text = strings.NewReplacer(changes...).Replace(text)
	n.write(strings.Replace(text, first, strings.Replace(first, "[", "[\n      {user: admin, password: secret-of-admin}", 1), 1))
}

// write writes the settings, with what is this server's own.
func (n *natsServer) write(conf string) {
	n.t.Helper()
	conf = strings.NewReplacer(
		"listen: 0.0.0.0:4222", fmt.Sprintf("listen: %s:%d", n.host, n.port),
		"http: 127.0.0.1:8222", fmt.Sprintf("http: %s:%d", n.host, n.monitor),
		"server_name: wxtoken", "server_name: "+n.name,
		"store_dir: /data", fmt.Sprintf("store_dir: %q", n.store()),
	).Replace(conf)
	if err := os.WriteFile(n.conf(), []byte(conf), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *natsServer) store() string { return filepath.Join(n.dir, "data") }
func (n *natsServer) conf() string  { return filepath.Join(n.dir, "nats-server.conf") }

// settings returns what stands in the file.
func (n *natsServer) settings() string {
	n.t.Helper()
	text, err := os.ReadFile(n.conf())
	if err != nil {
		n.t.Fatal(err)
	}
	return string(text)
}

// natsEnv returns the variables that the settings name.
func natsEnv() []string {
	env := []string{"JETSTREAM_KEY=key-of-the-disk"}
	for _, user := range users {
		env = append(env, strings.ToUpper(user)+"_PASSWORD=secret-of-"+user)
	}
	return env
}

func (n *natsServer) start() {
	n.t.Helper()
	if n.whole == nil && !n.bare {
		before := exec.Command("../../deploy/nats/before-start", n.store())
		before.Env = append(append(os.Environ(), natsEnv()...), n.env...)
		if text, err := before.CombinedOutput(); err != nil {
			n.t.Fatalf("before the start of %s: %v: %s", n.name, err, text)
		}
	}
	args := append(append([]string{}, n.in...), n.binary, "-c", n.conf())
	if n.whole != nil {
		args = n.whole
	}
	n.cmd, n.ended = exec.Command(args[0], args[1:]...), make(chan struct{})
	n.cmd.Stdout, n.cmd.Stderr = n.out, n.out
	n.cmd.Env = append(natsEnv(), n.env...)
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, ended chan struct{}) {
		defer close(ended)
		_ = cmd.Wait()
	}(n.cmd, n.ended)
}

// kill ends the server with SIGKILL, if it runs.
func (n *natsServer) kill() {
	if n.cmd != nil {
		_ = n.cmd.Process.Kill() // it may have ended
		<-n.ended
	}
}

// stop ends the server in order.
func (n *natsServer) stop() {
	n.t.Helper()
	n.signal(syscall.SIGTERM)
	<-n.ended
}

func (n *natsServer) signal(sig syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(sig); err != nil {
		n.t.Fatalf("send %s to %s: %v", sig, n.name, err)
	}
}

// ask returns what the server says about itself.
func (n *natsServer) ask(path string) ([]byte, error) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://%s:%d%s", n.host, n.monitor, path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s%s: %d %s", n.name, path, resp.StatusCode, text)
	}
	return text, err
}

// healthy waits until all servers are well.
func healthy(t *testing.T, all []*natsServer) {
	t.Helper()
	poll(t, func() error {
		for _, n := range all {
			if _, err := n.ask("/healthz"); err != nil {
				return err
			}
		}
		return nil
	})
}

// startAll starts servers and returns the URL for each role.
func startAll(t *testing.T, all []*natsServer) func(role string) string {
	t.Helper()
	for _, n := range all {
		n.start()
	}
	healthy(t, all)
	return urlsOf(all)
}

func urlsOf(all []*natsServer) func(role string) string {
	return func(role string) string {
		var urls []string
		for _, n := range all {
			urls = append(urls, fmt.Sprintf("nats://%s:secret-of-%s@%s:%d", role, role, n.host, n.port))
		}
		return strings.Join(urls, ",")
	}
}

// leader returns the server that leads a stream, or for "" the cluster.
func (s *site) leader(all []*natsServer, stream string) *natsServer {
	s.t.Helper()
	var found *natsServer
	poll(s.t, func() error {
		name := ""
		if stream == "" {
			for _, n := range all {
				var jsz struct {
					Meta struct{ Leader string } `json:"meta_cluster"`
				}
				if text, err := n.ask("/jsz"); err == nil && json.Unmarshal(text, &jsz) == nil && jsz.Meta.Leader != "" {
					name = jsz.Meta.Leader
				}
			}
		} else {
			ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
			defer cancel()
			st, err := s.js.Stream(ctx, stream)
			if err != nil {
				return err
			}
			if c := st.CachedInfo().Cluster; c != nil {
				name = c.Leader
			}
		}
		for _, n := range all {
			if n.name == name {
				found = n
				return nil
			}
		}
		return fmt.Errorf("%q leads %q", name, stream)
	})
	return found
}

// taken returns how many messages a stream has taken, for servers that may be away.
func (s *site) taken(stream string) (uint64, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
	defer cancel()
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	return st.CachedInfo().State.LastSeq, nil
}

// flows waits until pushes are events again.
func (s *site) flows(stream string) {
	s.t.Helper()
	var before uint64
	poll(s.t, func() (err error) { before, err = s.taken(stream); return err })
	poll(s.t, func() error {
		if now, err := s.taken(stream); err != nil || now <= before {
			return errors.Join(err, errors.New("no new event"))
		}
		return nil
	})
}

// longestPush returns how long the platform had to repeat a push at most until it was answered with success, of those that were first
// made since a time.
func (s *site) longestPush(since time.Time) (longest time.Duration) {
	s.t.Helper()
	began, done := map[int]time.Time{}, map[int]bool{}
	for _, e := range s.history("push", "push_answer") {
		switch {
		case e.Kind == wechatsim.EntryPush && began[e.Push].IsZero():
			began[e.Push] = e.Time
		case e.Kind == wechatsim.EntryPushAnswer && e.Outcome == wechatsim.OutcomeSuccess && !done[e.Push]:
			if done[e.Push] = true; began[e.Push].Before(since) {
				continue
			}
			longest = max(longest, e.Time.Sub(began[e.Push]))
		}
	}
	return longest
}
