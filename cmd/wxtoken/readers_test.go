//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// unhurried is how long the clients of these tests wait for an answer, and done within what they
// have to be done: a request that finds no answer makes its test fail, and a slow machine does not.
const (
	unhurried = 4 * patience
	done      = 2 * patience
)

// TestReaders reads the bucket with clients of other languages, as the user service of
// nats-server.conf and told nothing else.
func TestReaders(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		command func(t *testing.T) []string // but for the URL and the key
		steps   string                      // all that it tells, in order; what is in brackets is to be refused
	}{
		{"nats.js", natsJS, "get, revision, get direct, get created, keys, keys of two, history, watch of two, [put], [delete], watch, next"},
		{"libnats", libnats, "get, revision, keys, history, [put], [delete], watch, next"},
		{"nats.py", natsPy, "get, revision, keys, history, [put], [delete], watch, next"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			command := row.command(t)
			k := newKept(t, accounts)
			ctx, cancel := context.WithTimeout(t.Context(), done)
			defer cancel()
			cmd := exec.CommandContext(ctx, command[0], append(command[1:], urlOf(k.srv, "service"), hotel.String())...)
			cmd.Stderr = t.Output()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var told []string
			for lines := bufio.NewScanner(out); lines.Scan(); {
				step, rest, _ := strings.Cut(lines.Text(), "\t")
				outcome, value, _ := strings.Cut(rest, "\t")
				want := k.token(hotel, 1)
				switch step {
				case "keys", "keys of two":
					want = hotel.String()
				case "watch":
					k.put(events.TokenSubject(hotel), k.token(hotel, 2))
				case "next":
					want = k.token(hotel, 2)
				}
				if outcome == "refused" {
					step = "[" + step + "]"
				} else if value != want {
					t.Errorf("%s: %q, want %q", step, value, want)
				}
				told = append(told, step)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v, %v", err, context.Cause(ctx))
			}
			if all := strings.Join(told, ", "); all != row.steps {
				t.Errorf("it told %s\nwant    %s", all, row.steps)
			}
		})
	}
}

// clients is where the programs lie.
const clients = "cmd/wxtoken/testdata/clients/"

func natsJS(t *testing.T) []string { return nodeProgram(t, clients+"kv.mjs") }

func natsPy(t *testing.T) []string { return pythonProgram(t, clients+"kv.py") }

func libnats(t *testing.T) []string {
	dir := copied(t, clients+"kv.c")
	build(t, "libnats", "libnats-dev", "cc", "-o", filepath.Join(dir, "kv"), filepath.Join(dir, "kv.c"), "-lnats")
	return []string{filepath.Join(dir, "kv")}
}

// TestReadersGo reads the bucket with both KV clients of nats.go and with the nats command.
func TestReadersGo(t *testing.T) {
	t.Parallel()
	k := newKept(t, accounts)
	open := func() *nats.Conn {
		nc, err := nats.Connect(urlOf(k.srv, "service"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Error(err) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	filters := func() []string { return []string{hotel.String(), "component.>"} } // new ones: nats.go writes into what it is given
	js := natsdtest.JetStream(t, open(), jetstream.WithDefaultTimeout(unhurried))
	kv, err := js.KeyValue(t.Context(), events.BucketTokens)
	if err != nil {
		t.Fatal(err)
	}
	old, err := open().JetStream(nats.MaxWait(unhurried))
	if err != nil {
		t.Fatal(err)
	}
	oldKV, err := old.KeyValue(events.BucketTokens)
	if err != nil {
		t.Fatal(err)
	}
	var revision uint64
	for _, row := range []struct {
		name string
		read func(ctx context.Context) (string, error) // the token, or the one key that is there
	}{
		{"Get", func(ctx context.Context) (string, error) { return value(kv.Get(ctx, hotel.String())) }},
		{"GetRevision", func(ctx context.Context) (string, error) {
			e, err := kv.Get(ctx, hotel.String())
			if err != nil {
				return "", err
			}
			revision = e.Revision()
			return value(kv.GetRevision(ctx, hotel.String(), revision))
		}},
		{"Keys", func(ctx context.Context) (string, error) { return joined(kv.Keys(ctx)) }},
		{"ListKeys", func(ctx context.Context) (string, error) { return listed(kv.ListKeys(ctx)) }},
		{"ListKeysFiltered", func(ctx context.Context) (string, error) { return listed(kv.ListKeysFiltered(ctx, filters()...)) }},
		{"History", func(ctx context.Context) (string, error) {
			all, err := kv.History(ctx, hotel.String())
			if err != nil || len(all) != 1 {
				return "", fmt.Errorf("%d entries, %w", len(all), err)
			}
			return string(all[0].Value()), nil
		}},
		{"Watch", func(ctx context.Context) (string, error) { return seen(kv.Watch(ctx, hotel.String())) }},
		{"WatchAll", func(ctx context.Context) (string, error) { return seen(kv.WatchAll(ctx, jetstream.IgnoreDeletes())) }},
		{"WatchFiltered", func(ctx context.Context) (string, error) { return seen(kv.WatchFiltered(ctx, filters())) }},
		{"old Get", func(context.Context) (string, error) { return value(oldKV.Get(hotel.String())) }},
		{"old GetRevision", func(context.Context) (string, error) { return value(oldKV.GetRevision(hotel.String(), revision)) }},
		{"old Keys", func(ctx context.Context) (string, error) { return joined(oldKV.Keys(nats.Context(ctx))) }},
		{"old Watch", func(ctx context.Context) (string, error) {
			w, err := oldKV.Watch(hotel.String(), nats.Context(ctx))
			if err != nil {
				return "", err
			}
			e := <-w.Updates()
			return string(e.Value()), w.Stop()
		}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), done)
		began := time.Now()
		got, err := row.read(ctx)
		if took := time.Since(began); err != nil || got != k.token(hotel, 1) && got != hotel.String() || took >= done {
			t.Errorf("%s: %q, %v, %s", row.name, got, err, took)
		}
		cancel()
	}
	for name, write := range map[string]func() error{
		"Put": func() error {
			_, err := kv.PutString(t.Context(), hotel.String(), "mine")
			return err
		},
		"Delete": func() error { return kv.Delete(t.Context(), hotel.String()) },
		"old Put": func() error {
			_, err := oldKV.PutString(hotel.String(), "mine")
			return err
		},
	} {
		if err := write(); !errors.Is(err, jetstream.ErrNoStreamResponse) && !errors.Is(err, nats.ErrNoStreamResponse) {
			t.Errorf("%s: %v, want a refusal at once", name, err)
		}
	}
	k.reads(1)
	for _, info := range consumersOf(k, "SERVICES")[events.StreamTokens] {
		t.Errorf("a consumer was left behind: %s", info)
	}

	path, err := exec.LookPath("nats")
	if err != nil {
		t.Log("no nats command here: what it reads was not looked at")
		return
	}
	for command, want := range map[string]string{
		"kv get tokens " + hotel.String() + " --raw": k.token(hotel, 1), "kv ls tokens": hotel.String(), "kv ls": events.BucketTokens,
		"kv history tokens " + hotel.String(): hotel.String(), "kv status tokens": "keeper.API", "stream info MESSAGES": "Mirror",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), done)
		cmd := exec.CommandContext(ctx, path, append([]string{"--server", urlOf(k.srv, "service"), "--timeout", unhurried.String()}, strings.Fields(command)...)...)
		cmd.Env = withoutContexts(t)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) || strings.Contains(string(out), "violation") {
			t.Errorf("nats %s: %v, %s", command, err, out)
		}
		cancel()
	}
}

// withoutContexts is this process's environment, in which the nats command does not find the contexts of whoever runs the test: the
// inbox prefix of a selected one would hold for all commands.
func withoutContexts(t *testing.T) []string {
	return append(os.Environ(), "XDG_CONFIG_HOME="+t.TempDir(), "NATS_CONTEXT=")
}

func value(e interface{ Value() []byte }, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return string(e.Value()), nil
}

func joined(keys []string, err error) (string, error) { return strings.Join(keys, " "), err }

func listed(keys jetstream.KeyLister, err error) (string, error) {
	if err != nil {
		return "", err
	}
	var all []string
	for key := range keys.Keys() {
		all = append(all, key)
	}
	return joined(all, nil)
}

// seen is the first value that a watch brings.
func seen(w jetstream.KeyWatcher, err error) (string, error) {
	if err != nil {
		return "", err
	}
	select {
	case e := <-w.Updates():
		return value(e, w.Stop())
	case <-time.After(done):
		return "", errors.New("nothing came")
	}
}

// consumersOf returns the names of all consumers in an account, by stream, as the server sees them.
func consumersOf(k *kept, account string) map[string][]string {
	k.Helper()
	info, err := k.srv.JszAccount(&server.JSzOptions{Account: account, Streams: true, Consumer: true, DirectConsumer: true})
	if err != nil {
		k.Fatal(err)
	}
	all := map[string][]string{}
	for _, s := range info.Streams {
		for _, c := range append(s.Consumer, s.DirectConsumer...) {
			all[s.Name] = append(all[s.Name], c.Name)
		}
	}
	return all
}
