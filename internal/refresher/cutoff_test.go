package refresher_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"wxtoken/client"
	"wxtoken/internal/events"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/refresher"
	"wxtoken/wechatsim"
)

// behind returns a connection to the rig's server over a proxy that the test can block without either end noticing.
func (r *rig) behind() (*natsdtest.Proxy, *nats.Conn) {
	r.Helper()
	proxy := natsdtest.NewProxy(r, r.nats.InProcessConn)
	nc, err := nats.Connect(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	r.must(err)
	r.Cleanup(nc.Close)
	return proxy, nc
}

// TestNoCallWhileCutOff blocks the proxy between a refresher and NATS while work waits for its turn: nothing of it reaches WeChat
// while its answer could not be stored, whatever call it is. Once the proxy is open, everything is done, once.
func TestNoCallWhileCutOff(t *testing.T) {
	t.Parallel()
	type row struct {
		name, api string
		ask       func(r *rig, n int) // for the nth piece of work
	}
	asking := func(key func(n int) wxtoken.Key) func(r *rig, n int) {
		return func(r *rig, n int) {
			due := events.Due{Key: key(n), Generation: r.credential(key(n)).Generation, Reason: events.ReasonScheduled}
			r.must(r.store.MakeDue(r.Context(), due, ""))
		}
	}
	accounts := []string{alice, "wxb0b00000000000", "wxcar0l000000000"}
	for _, row := range []row{
		{"renewal", apiRefresh, asking(func(n int) wxtoken.Key { return wxtoken.AuthorizerKey(appid, accounts[n]) })},
		{"ticket of an account", "ticket/getticket", asking(func(n int) wxtoken.Key {
			return wxtoken.Key{Kind: wxtoken.KindJSAPITicket, Component: appid, Authorizer: accounts[n]}
		})},
		{"code of a push", apiExchange, func(r *rig, n int) {
			r.must(r.sim.Reauthorize(appid, accounts[n]))
			r.send(r.next(events.KindUpdated))
		}},
		{"code of a redirect", apiExchange, func(r *rig, n int) {
			r.must(r.sim.Reauthorize(appid, accounts[n]))
			a := r.next(events.KindUpdated)
			a.Kind, a.Authorizer = events.KindCallback, ""
			r.send(a)
		}},
		{"WeChat's list", apiList, func(r *rig, n int) {
			if n == 0 {
				n = 1 // its first call takes the turn of the renewals
				r.poke(aliceKey)
				r.until("not renewed", func() bool { return r.token(aliceKey).Generation >= 2 })
			}
			r.must(r.store.ScheduleReconcile(r.Context(), appid, 6*time.Hour, true))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, options{idle: true})
			r.cfg.Derive = []string{"jsapi"}
			setup := r.start()
			r.ticket()
			r.eventually(r.componentLives)
			for _, account := range accounts {
				r.authorize(account)
			}
			r.drained()
			setup.stop()
			r.keep()
			r.sim.ClearHistory()

			proxy, nc := r.behind()
			r.cfg.APIRate = 0.15 // a turn every seven seconds
			r.deps = func(d *refresher.Deps) { d.NATS = nc }
			r.start()
			r.until("not started", func() bool { return r.log.count("refresher started") == 2 })
			row.ask(r, 0)
			if row.api != apiList {
				r.until("nothing was asked for", func() bool { return r.calls(row.api) == 1 })
			}
			row.ask(r, 1) // waits for its turn
			time.Sleep(time.Second)
			before := r.calls(row.api)
			proxy.Close()
			time.Sleep(9 * time.Second) // the turn came, the last sign of NATS is older than five seconds
			if n := r.calls(row.api); n != before {
				t.Errorf("%d calls while NATS could store nothing", n-before)
			}
			proxy.Open()
			r.until("not done afterwards", func() bool { return r.calls(row.api) > before })
			if row.api != apiList { // reading the list twice does no harm
				r.wantCalls(row.api, before+1)
			}
		})
	}
}

// TestNoCallWhileNATSIsFull fills what the server may store: tokens come due and WeChat is asked for nothing, readiness says why,
// and all goes on by itself when there is room.
func TestNoCallWhileNATSIsFull(t *testing.T) {
	r := newRig(t, options{
		idle: true, server: func(cfg *natsd.Config) { cfg.MaxStore = 4 << 20 },
		sim: wechatsim.Config{TokenLife: 20 * time.Second}, cfg: func(c *refresher.Config) {
			c.RenewFraction, c.SweepEvery, c.ReconcileEvery = 0.3, time.Second, 2*time.Second
		},
	})
	p := r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.authorize(alice)
	fill := nats.NewMsg("wechat.message.x.y.text")
	for range 2 { // what was on its way when the server was full may have made room
		full := false
		for size := 200 << 10; size > 1; { // to the last byte
			fill.Data = make([]byte, size)
			if _, err := r.js.PublishMsg(t.Context(), fill); err == nil {
				continue
			} else if !strings.Contains(err.Error(), "10023") {
				t.Fatal(err)
			}
			size /= 2
			full = true
		}
		if !full {
			t.Fatal("the server is not full")
		}
		time.Sleep(6 * time.Second) // the last proof is too old by now
	}
	calls, token := len(r.sim.History()), r.token(aliceKey)
	r.until("taken for well", func() bool {
		err := p.work.Canary(t.Context()) // a part of readiness
		return err != nil && strings.Contains(err.Error(), "10023")
	})
	time.Sleep(time.Until(token.RenewAt.Add(5 * time.Second)))
	if r.token(aliceKey) != token {
		t.Fatal("a token was stored: the server is not full")
	}
	if n := len(r.sim.History()); n != calls {
		t.Errorf("%d calls while NATS could store nothing", n-calls)
	}
	held := func() float64 { return r.metric(p, "wxtoken_held_back", appid, wxtoken.HeldNATS) }
	r.until("no metric tells", func() bool { return held() == 1 })
	stream, err := r.js.Stream(t.Context(), events.StreamMessages)
	r.must(err)
	lists := r.calls(apiList)
	r.must(stream.Purge(t.Context()))
	r.until("the list is not read any more", func() bool { return r.calls(apiList) > lists+2 }) // one may have waited
	r.until("not renewed", func() bool {
		return r.token(aliceKey).Generation > token.Generation && r.token(componentKey).Generation > 1
	})
	r.must(r.accepted(alice))
	r.until("not ready", func() bool { return p.work.Ready(t.Context()) == nil && p.work.Canary(t.Context()) == nil })
	r.until("the metric still tells", func() bool { return held() == 0 })
}

// TestSlowNATS has everything that goes to NATS and comes back take a second each way: one call for each renewal all the same.
func TestSlowNATS(t *testing.T) {
	r := newRig(t, options{idle: true})
	setup := r.start()
	r.ticket()
	r.eventually(r.componentLives)
	r.authorize(alice)
	setup.stop()
	proxy, nc := r.behind()
	r.deps = func(d *refresher.Deps) { d.NATS = nc }
	r.start()
	r.until("not started", func() bool { return r.log.count("refresher started") == 2 })
	proxy.Delay(time.Second)
	for generation := uint64(2); generation <= 3; generation++ {
		r.poke(aliceKey)
		r.generation(aliceKey, generation)
	}
	r.drained()
	// A commit has 5 s, and needs four of them here: on a slow machine it may come to nothing.
	late := r.log.count("store batch of 3 messages: context deadline exceeded")
	if n := r.calls(apiRefresh); n < 2 || n > 2+late {
		t.Errorf("%d calls for two renewals, with %d commits that came too late", n, late)
	}
	r.must(r.accepted(alice))
}
