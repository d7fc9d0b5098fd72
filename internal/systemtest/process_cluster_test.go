//go:build linux

package systemtest

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// TestCluster compares a cluster of three with one server, by turns, at so many accounts: how fast renewals are stored, what that takes
// of the processors, how long a refresher reads until it is ready, and the memory of each server. All servers are on this machine.
//
//	WXTOKEN_TEST_CLUSTER=10000 go test -run TestCluster -v ./internal/systemtest
func TestCluster(t *testing.T) {
	accounts, err := strconv.Atoi(os.Getenv("WXTOKEN_TEST_CLUSTER"))
	if err != nil {
		t.Skip("WXTOKEN_TEST_CLUSTER is not set: a number of accounts, such as 10000")
	}
	p := build(t)
	const turns, one, three = 2, 1, 3
	sums := map[int]cluster{}
	for range turns {
		for _, servers := range []int{one, three} {
			c := measureCluster(t, p, servers, accounts)
			t.Logf("%d servers: %.0f renewals stored a second, %.2f ms of processor time each, read in %.2f s (%.2f of processor time), %.0f MiB a server",
				servers, c.stored, c.storing, c.ready, c.reading, c.memory)
			sum := sums[servers]
			sums[servers] = cluster{sum.stored + c.stored, sum.storing + c.storing, sum.ready + c.ready, sum.reading + c.reading, sum.memory + c.memory}
		}
	}
	a, b := sums[three], sums[one]
	t.Logf("three servers to one: renewals stored a second %.2f, processor time of each %.2f, time until read %.2f, processor time of that %.2f, memory of a server %.2f",
		a.stored/b.stored, a.storing/b.storing, a.ready/b.ready, a.reading/b.reading, a.memory/b.memory)
}

// cluster is what was measured of one.
type cluster struct {
	stored  float64 // renewals a second
	storing float64 // processor time of each, in ms, of all servers
	ready   float64 // seconds until all was read
	reading float64 // processor time of that, in seconds, of all servers
	memory  float64 // of a server, in MiB
}

func measureCluster(t *testing.T, p programs, servers, accounts int) (c cluster) {
	t.Helper()
	all := newNATS(t, p, []string{"127.0.0.1", "127.0.0.1", "127.0.0.1"}[:servers])
	nc, err := nats.Connect(startAll(t, all)("admin"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	computed := func() (sum time.Duration) {
		for _, n := range all {
			sum += cpu(t, n.cmd.Process.Pid)
		}
		return sum
	}
	began, used := time.Now(), computed()
	st := fill(t, nc, accounts, servers, restingLives(time.Now().UTC()))
	c.stored = float64(accounts) / time.Since(began).Seconds()
	c.storing = (computed() - used).Seconds() * 1000 / float64(accounts)

	ctx, cancel := context.WithCancel(t.Context())
	began, used = time.Now(), computed()
	view, wait, err := st.Watch(ctx, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if view.Len() != accounts+1 {
		t.Fatalf("%d keys are read", view.Len())
	}
	c.ready, c.reading = time.Since(began).Seconds(), (computed() - used).Seconds()
	cancel()
	wait()
	for _, n := range all {
		c.memory += float64(rss(t, n.cmd.Process.Pid)) / (1 << 20) / float64(servers)
		n.kill()
	}
	return c
}
