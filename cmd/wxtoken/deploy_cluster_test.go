//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
)

// cluster is three NATS servers with the shipped settings, as one.
type cluster struct {
	options []*server.Options
	servers []*server.Server
}

// shippedCluster starts one with deploy/nats/nats-cluster.conf.
func shippedCluster(t *testing.T) *cluster {
	t.Helper()
	dir := filepath.Join("..", "..", "deploy", "nats")
	c := &cluster{servers: make([]*server.Server, 3)}
	var routes []*url.URL
	for i := range c.servers {
		opts, err := server.ProcessConfigFile(filepath.Join(dir, "nats-cluster.conf"))
		if err != nil {
			t.Fatal(err)
		}
		opts.ServerName = fmt.Sprintf("nats-%d", i+1)
		opts.Host, opts.Port, opts.HTTPPort, opts.StoreDir, opts.NoSigs, opts.NoLog = "127.0.0.1", natsdtest.FreePort(t), 0, t.TempDir(), true, true
		opts.Cluster.Host, opts.Cluster.Port = "127.0.0.1", natsdtest.FreePort(t)
		routes = append(routes, &url.URL{Scheme: "nats", User: url.UserPassword("cluster", opts.Cluster.Password), Host: fmt.Sprintf("127.0.0.1:%d", opts.Cluster.Port)})
		c.options = append(c.options, opts)
	}
	for i, opts := range c.options {
		opts.Routes = routes
		c.start(t, i)
	}
	return c
}

func (c *cluster) start(t *testing.T, i int) {
	t.Helper()
	srv, err := server.NewServer(c.options[i].Clone())
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	c.servers[i] = srv
	t.Cleanup(func() { c.stop(srv) })
}

func (c *cluster) stop(srv *server.Server) {
	srv.Shutdown()
	srv.WaitForShutdown()
}

// url has all servers, and a user's password.
func (c *cluster) url(user string) string {
	var all []string
	for _, opts := range c.options {
		all = append(all, fmt.Sprintf("nats://%s:secret-of-%s@127.0.0.1:%d", user, user, opts.Port))
	}
	return strings.Join(all, ",")
}

// copied returns an error unless each server has all of every mirror, made after a time, that
// keeper's streams have for it, and no more.
func (c *cluster) copied(keeper jetstream.JetStream, after time.Time) error {
	for name, seen := range map[string]string{events.StreamTokens: events.AllTokens, events.StreamStatus: ">", events.StreamMessages: ">"} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		stream, err := keeper.Stream(ctx, name)
		if err != nil {
			return err
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(seen))
		if err != nil {
			return err
		}
		var want, last uint64
		for _, n := range info.State.Subjects {
			want += n
		}
		for i, srv := range c.servers {
			state, err := mirrorOn(srv, name, after)
			if err != nil {
				return err
			}
			if state.Msgs != want || i > 0 && state.LastSeq != last {
				return fmt.Errorf("%s has %d messages of %s up to %d, wanted %d, %s has up to %d", srv.Name(), state.Msgs, name, state.LastSeq, want, c.servers[0].Name(), last)
			}
			last = state.LastSeq
		}
	}
	return nil
}

// mirrorOn tells what a server has of a mirror that was made after a time.
func mirrorOn(srv *server.Server, name string, after time.Time) (server.StreamState, error) {
	jsz, err := srv.Jsz(&server.JSzOptions{Account: "SERVICES", Streams: true})
	if err != nil {
		return server.StreamState{}, err
	}
	for _, account := range jsz.AccountDetails {
		for _, s := range account.Streams {
			if s.Name == name && s.Created.After(after) {
				return s.State, nil
			}
		}
	}
	return server.StreamState{}, fmt.Errorf("%s has no mirror of %s", srv.Name(), name)
}

// TestMirrorsOfACluster: what services read lies on each of three servers though two refreshers
// make the mirrors at once, is followed when the one that leads it is lost, and is whole everywhere
// when that one is back.
func TestMirrorsOfACluster(t *testing.T) {
	t.Parallel()
	c := shippedCluster(t)
	_, key := startSystem(t, c.servers[0], accounts, func(user string) []string {
		args := []string{"--nats-url=" + c.url(user)}
		if user == "refresher" {
			args = append(args, "--replicas=3")
		}
		return args
	})
	nc, err := nats.Connect(c.url("service"), nats.CustomInboxPrefix("_INBOX_service"), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js := natsdtest.JetStream(t, nc)
	var client *wxtoken.Client
	eventually(t, "a service to read the bucket", func() (err error) {
		client, err = wxtoken.NewClient(t.Context(), nc, wxtoken.Config{})
		return err
	})
	defer client.Close()
	renewed := func(after uint64) (generation uint64) {
		eventually(t, "a renewal", func() error {
			token, err := client.Token(key)
			if generation = token.Generation; err == nil && generation <= after {
				err = fmt.Errorf("still of generation %d", generation)
			}
			return err
		})
		return generation
	}
	generation := renewed(1)
	keeper := natsdtest.JetStream(t, as(t, c.servers[0], "refresher"))
	eventually(t, "three copies", func() error { return c.copied(keeper, time.Time{}) })

	// Made anew now, it begins behind much that it is not to have, and behind a first message that
	// is gone: it was replaced, as the reconcile schedule is whenever somebody asks for a
	// reconcile.
	everything, err := keeper.CreateConsumer(t.Context(), events.StreamTokens, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var first jetstream.Msg
	eventually(t, "the first message", func() (err error) { // a consumer that has no leader yet does not respond
		first, err = everything.Next(jetstream.FetchMaxWait(time.Second))
		return err
	})
	if _, err := keeper.PublishMsg(t.Context(), &nats.Msg{Subject: first.Subject(), Header: first.Headers(), Data: first.Data()}); err != nil {
		t.Fatal(err)
	}
	system, err := nats.Connect("nats://system:secret-of-operator@" + c.servers[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(system.Close)
	purged := time.Now()
	if m, err := system.Request("$JS.API.ACCOUNT.PURGE.SERVICES", nil, patience); err != nil || !strings.Contains(string(m.Data), `"initiated":true`) {
		t.Fatalf("purge the services' account: %v %s", err, m.Data)
	}
	const looks = 3 * time.Minute // the refresher looks each 30 s
	within(t, looks, "three copies of the mirror that was made anew", func() error { return c.copied(keeper, purged) })

	lost := -1
	eventually(t, "somebody who leads the mirror", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		stream, err := js.Stream(ctx, events.StreamTokens)
		if err != nil {
			return err
		}
		for i, srv := range c.servers {
			if info := stream.CachedInfo().Cluster; info != nil && info.Leader == srv.Name() {
				lost = i
				return nil
			}
		}
		return errors.New("nobody")
	})
	c.stop(c.servers[lost])
	generation = renewed(generation + 1)
	c.start(t, lost)
	renewed(generation)
	within(t, looks, "three copies, with the server that was away", func() error { return c.copied(keeper, purged) })
}
