//go:build unix

package systemtest

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// watchers are services that don't use our client: each watches the bucket as its own client does, from one start to the end of the test.
type watchers struct {
	*testing.T
	mu    sync.Mutex
	heard map[string]map[wxtoken.Key]wxtoken.Token // by client
}

// watch starts them. With command, the nats command is among them.
func (s *site) watch(command bool) *watchers {
	s.t.Helper()
	w := &watchers{T: s.t, heard: map[string]map[wxtoken.Key]wxtoken.Token{}}
	old, err := s.connect("service").JetStream()
	if err != nil {
		s.t.Fatal(err)
	}
	bucket, err := old.KeyValue(events.BucketTokens)
	if err != nil {
		s.t.Fatal(err)
	}
	first, err := bucket.WatchAll()
	if err != nil {
		s.t.Fatal(err)
	}
	follow(w, "nats.go", first.Updates())

	js := natsdtest.JetStream(s.t, s.connect("service"))
	kv, err := js.KeyValue(s.t.Context(), events.BucketTokens)
	if err != nil {
		s.t.Fatal(err)
	}
	second, err := kv.WatchAll(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	follow(w, "nats.go/jetstream", second.Updates())
	if command {
		w.command(s.url("service"))
		w.node(s.url("service"))
	}
	return w
}

// follow notes what a watch of nats.go hears.
func follow[E interface{ Value() []byte }](w *watchers, client string, updates <-chan E) {
	w.see(client, nil)
	go func() {
		for e := range updates {
			if any(e) != nil {
				w.see(client, e.Value())
			}
		}
	}()
}

// command has the nats command watch.
func (w *watchers) command(url string) {
	w.lines("nats kv watch", exec.CommandContext(w.Context(), "nats", "--no-context", "--server", url, "--inbox-prefix", "_INBOX_service", "kv", "watch", events.BucketTokens))
}

// node has nats.js watch, where there are its packages: the environment variable names the folder with node_modules.
func (w *watchers) node(natsURL string) {
	const variable = "WXTOKEN_TEST_NODE"
	dir := os.Getenv(variable)
	if dir == "" {
		w.Logf("nats.js does not watch: no %s (a folder in which `npm install @nats-io/kv@3.4.0 @nats-io/transport-node@3.4.0` was run)", variable)
		return
	}
	at, err := url.Parse(natsURL)
	if err != nil {
		w.Fatal(err)
	}
	password, _ := at.User.Password()
	cmd := exec.CommandContext(w.Context(), "node", "--input-type=module", "-e", `
		import { connect } from "@nats-io/transport-node";
		import { Kvm } from "@nats-io/kv";
		const [servers, user, pass, bucket] = process.argv.slice(1);
		const nc = await connect({ servers, user, pass, inboxPrefix: "_INBOX_service", maxReconnectAttempts: -1, reconnectTimeWait: 50 });
		const kv = await new Kvm(nc).open(bucket);
		for await (const e of await kv.watch()) console.log(e.operation === "PUT" ? e.string() : "");
	`, at.Host, at.User.Username(), password, events.BucketTokens)
	cmd.Dir = dir
	w.lines("nats.js", cmd)
}

// lines notes what a command says on lines of its own.
func (w *watchers) lines(client string, cmd *exec.Cmd) {
	w.see(client, nil)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = cmd.Wait() })
	go func() {
		buf, text := make([]byte, 1<<16), []byte{}
		for {
			n, err := out.Read(buf)
			if err != nil {
				return
			}
			text = append(text, buf[:n]...)
			for {
				line, rest, whole := bytes.Cut(text, []byte("\n"))
				if !whole {
					break
				}
				if i := bytes.IndexByte(line, '{'); i >= 0 {
					w.see(client, line[i:])
				}
				text = rest
			}
		}
	}()
}

// see notes a value that a client heard.
func (w *watchers) see(client string, value []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.heard[client] == nil {
		w.heard[client] = map[wxtoken.Key]wxtoken.Token{}
	}
	var token wxtoken.Token
	if token.UnmarshalJSON(value) == nil {
		w.heard[client][token.Key] = token
	}
}

// behind names the clients that have not heard of a token of each key that was fetched after a time.
func (w *watchers) behind(keys []wxtoken.Key, after time.Time) (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for client, heard := range w.heard {
		for _, key := range keys {
			if !heard[key].ObtainedAt.After(after) {
				names = append(names, client)
				break
			}
		}
	}
	return names
}

// allHear waits until each client has heard of a token of each key that was fetched after a time.
func (w *watchers) allHear(keys []wxtoken.Key, after time.Time) {
	w.Helper()
	poll(w.T, func() error {
		if names := w.behind(keys, after); len(names) > 0 {
			return fmt.Errorf("not heard since %s: %v", after.Format(time.TimeOnly), names)
		}
		return nil
	})
}
