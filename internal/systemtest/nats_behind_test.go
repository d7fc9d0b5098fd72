//go:build unix

package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/store"
	"wxtoken/internal/streams"
)

// TestReplicaBehind moves a process to a server whose copy of the streams is behind, in a cluster that is well otherwise: the servers' own
// account has a route of its own, and the keeper's stands still. What is read anew there is older than what was known, what was stored since
// is missing, and after some seconds the server knows of no leader and answers about the stream itself. Nothing is lost.
func TestReplicaBehind(t *testing.T) {
	t.Parallel()
	all, ways := ownRoutes(t)
	to := dialTo{&atomic.Pointer[natsServer]{}} // where the process is connected
	to.Store(all[0])
	nc, js := to.connect(t)
	poll(t, func() error {
		_, err := streams.Setup(t.Context(), nc, js, events.SetupConfig{Replicas: 3, MessagesMaxAge: time.Hour})
		return err
	})
	s := openStore(t, nc, js)
	lags, stays := all[0], all[1]
	if (&site{t: t, js: js}).leader(all, events.StreamTokens) == lags {
		lags, stays = stays, lags
	}
	move := func(n *natsServer) {
		t.Helper()
		to.Store(n)
		if err := nc.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
	}
	move(stays)
	there, here := storeAt(t, lags), storeAt(t, stays)

	cred := account.Credential{Key: wxtoken.AuthorizerKey("wxc", "wxa")}
	poll(t, func() (err error) { cred, err = here.Save(t.Context(), cred); return err })
	older := cred.Revision
	ctx, cancel := context.WithCancel(t.Context())
	var views []*store.View
	for range 24 { // the cluster chooses by chance from which server each is read
		v, wait, err := s.Watch(ctx, zerolog.Nop(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer wait()
		views = append(views, v)
	}
	defer cancel()
	have := func(among []*store.View, revision uint64) (found []*store.View) {
		for _, v := range among {
			if e, _ := v.Get(cred.Key); e.Credential.Revision == revision {
				found = append(found, v)
			}
		}
		return found
	}
	poll(t, func() error {
		got, err := there.Credential(ctx, cred.Key)
		if err == nil && (got.Revision != older || len(have(views, older)) < len(views)) {
			err = errors.New("not everywhere yet")
		}
		return err
	})

	standStill(all, ways, lags)
	poll(t, func() (err error) { cred, err = here.Save(ctx, cred); return err })
	missing := account.Credential{Key: wxtoken.AuthorizerKey("wxc", "wxnew")}
	poll(t, func() (err error) { missing, err = here.Save(ctx, missing); return err })
	var knew []*store.View
	poll(t, func() error { // not those that are read from the server that is behind
		if knew = have(views, cred.Revision); len(knew) < 6 {
			return fmt.Errorf("%d views know of the newer one", len(knew))
		}
		return nil
	})
	var moved time.Time
	poll(t, func() error {
		if time.Since(moved) > 5*time.Second {
			move(lags)
			moved = time.Now()
		}
		if len(have(knew, older)) == 0 {
			return errors.New("no view was read from the server that is behind")
		}
		return nil
	})
	if err := s.CheckSame(ctx, have(knew, older)[0]); errors.Is(err, store.ErrGone) {
		t.Errorf("lost, says a reading from a server that is behind: %v", err)
	}
	poll(t, func() error {
		holds, err := s.HasCredential(ctx, missing.Key)
		if err == nil && !holds {
			t.Fatalf("%s is gone, says a server that is behind", missing.Key)
		}
		if err == nil {
			return errors.New("the server still knows of the leader")
		}
		return nil
	})
	var got account.Credential
	poll(t, func() (err error) { // where NATS has a server beyond the way answer, nobody does
		got, err = s.Credential(ctx, missing.Key)
		return err
	})
	if got.Revision != 0 {
		t.Errorf("revision %d: the server was not behind, and this showed nothing", got.Revision)
	}

	for _, way := range ways {
		way.Open()
	}
	poll(t, func() error {
		for _, v := range views {
			// The consumer of a replica that catches up may pass over what it has: one look may take
			// that for a loss, and has all read anew.
			if err := s.CheckSame(ctx, v); err != nil {
				return err
			}
		}
		if n := len(have(views, cred.Revision)); n < len(views) {
			return fmt.Errorf("%d of %d views are read to the end", n, len(views))
		}
		holds, err := s.HasCredential(ctx, missing.Key)
		if err == nil && !holds {
			t.Fatal("gone, once all is there")
		}
		return err
	})
}

// ownRoutes starts three servers with the accounts that are shipped, where the streams of KEEPER are replicated over routes of its own.
func ownRoutes(t *testing.T) (all []*natsServer, ways []*natsdtest.Proxy) {
	t.Helper()
	all = newNATS(t, build(t), []string{"127.0.0.1", "127.0.0.1", "127.0.0.1"})
	for _, n := range all {
		cluster := n.settings()
		cluster = cluster[strings.LastIndex(cluster, "\ncluster {"):]
		n.inAccounts("    jetstream: enabled\n", "    jetstream: {cluster_traffic: owner}\n")
		cluster = strings.Replace(cluster, "ping_interval: 2s", "accounts: [KEEPER], ping_interval: 5m", 1)
		if err := os.WriteFile(n.conf(), []byte(n.settings()+cluster), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ways = betweenServers(t, all)
	startAll(t, all)
	return all, ways
}

// serverName finds what a server calls itself as it connects to another.
var serverName = regexp.MustCompile(`"server_name":"([^"]+)"`)

// standStill has the routes of KEEPER stand still between one server and the others, until the ways are opened.
func standStill(all []*natsServer, ways []*natsdtest.Proxy, lags *natsServer) {
	for i, way := range ways {
		way.CloseFor(func(said string) bool { // by the side that connected; the other is where the way leads to
			name := serverName.FindStringSubmatch(said)
			return strings.Contains(said, `"route_account":"KEEPER"`) && (all[i] == lags || name != nil && name[1] == lags.name)
		})
	}
}

// dialTo connects a client to a server, whatever its URL.
type dialTo struct{ *atomic.Pointer[natsServer] }

func (d dialTo) Dial(string, string) (net.Conn, error) {
	n := d.Load()
	return net.DialTimeout("tcp", net.JoinHostPort(n.host, strconv.Itoa(n.port)), time.Second)
}

func (d dialTo) connect(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect("nats://admin:secret-of-admin@127.0.0.1", nats.SetCustomDialer(d), nats.IgnoreDiscoveredServers(),
		nats.ReconnectWait(pollEvery), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js := natsdtest.JetStream(t, nc)
	return nc, js
}

// storeAt returns the store as a process sees it that is connected to a server.
func storeAt(t *testing.T, n *natsServer) *store.Store {
	t.Helper()
	to := dialTo{&atomic.Pointer[natsServer]{}}
	to.Store(n)
	nc, js := to.connect(t)
	return openStore(t, nc, js)
}

func openStore(t *testing.T, nc *nats.Conn, js jetstream.JetStream) (s *store.Store) {
	t.Helper()
	poll(t, func() (err error) { s, err = store.Open(t.Context(), nc, js, nil, nil); return err })
	return s
}
